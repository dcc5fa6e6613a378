//! Credentials from an issuer to the request of a pod.

use std::process::Stdio;

use freehold_client::api::{
    credential::Credential,
    provider::ProviderCreate,
    role::{Role, RoleCreate},
    workspace::Workspace,
};
use freehold_model::{WorkspaceId, credential::Status};
use freehold_testkit::issuer::{CLIENT_SECRET, ISSUER_HOST};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::support::{ECHO_DOMAIN, World, from};

/// The model is never asked.
const SCENARIO: &str = include_str!("scenarios/errand.yaml");

/// A role whose model's service wants the credential `main`, and a workspace under it.
async fn workspace(world: &World) -> Workspace {
    let provider: ProviderCreate = from(json!({
        "name": "echo", "kind": "openai", "domain": ECHO_DOMAIN, "credential_name": "main", "default_model": "any",
    }));
    let provider = world.client.provider_create(&provider).await.unwrap();
    let role: RoleCreate = from(json!({"name": "tester", "provider_id": provider.id}));
    let role: Role = world.client.role_create(&role).await.unwrap().into_value();
    world.workspace(&role).await
}

/// A request from inside the pod; answers its status.
async fn ask(world: &World, workspace: WorkspaceId) -> u16 {
    ask_with(world, workspace, "x-other: 1").await
}

/// The same with a header.
async fn ask_with(world: &World, workspace: WorkspaceId, header: &str) -> u16 {
    let script = format!(
        "curl -sS -o /dev/null -w '%{{http_code}}' -H '{header}' -X POST https://{ECHO_DOMAIN}/v1/chat/completions"
    );
    let (code, out, err) = world.sh(workspace, &script).await;
    assert_eq!(code, 0, "{err}");
    out.parse().unwrap()
}

/// Creates a credential of the issuer.
async fn create(world: &World, mut more: Value) -> Credential {
    let url = |path: &str| format!("https://{ISSUER_HOST}{path}");
    more["name"] = json!("main");
    more["provider"] = json!("openai");
    more["provider_config"]["token_url"] = json!(url("/token"));
    if more["kind"] == "oauth2_authorization_code" {
        more["provider_config"]["authorization_url"] = json!(url("/auth"));
        more["provider_config"]["revocation_url"] = json!(url("/token/revocation"));
        more["scopes"] = json!(["openid", "offline_access"]);
    }
    world.client.credential_create(&from(more)).await.unwrap().into_value()
}

fn machine() -> Value {
    json!({ "kind": "oauth2_client_credentials", "client_secret": CLIENT_SECRET, "provider_config": { "client_id": "post" } })
}

/// Consents with the command line, as a person with a terminal and a browser.
async fn connect(world: &World, credential: &Credential) {
    let key = std::fs::read_to_string(world.data().join("owner.key")).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.args(["credential", "connect", &credential.id.to_string()]);
    command.env("FREEHOLD_URL", &world.url).env("FREEHOLD_API_KEY", key.trim());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut url = String::new();
    said.read_line(&mut url).await.unwrap();
    let back = world.issuer().consent(url.trim()).unwrap();
    let mut paste = child.stdin.take().unwrap();
    paste.write_all(format!("{back}\n").as_bytes()).await.unwrap();
    drop((paste, said));
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = world.client.credential_view(credential.id).await.unwrap();
    assert_eq!(found.status, Status::Active);
}

#[tokio::test]
async fn what_is_minted_is_put_on_and_what_is_deleted_or_made_holds_for_the_next_request() {
    let world = World::with_issuer(SCENARIO, 3600).await;
    let credential = create(&world, machine()).await;
    let workspace = workspace(&world).await.id;
    assert_eq!(ask(&world, workspace).await, 200);
    let token = world.last_bearer();
    assert!(world.issuer().is_active(&token).unwrap());
    assert_eq!(ask(&world, workspace).await, 200);
    assert_eq!((world.last_bearer(), world.issuer().count("/token").unwrap()), (token, 1));
    let noted = world.client.credential_view(credential.id).await.unwrap();
    assert_eq!(noted.last_minted_status.as_deref(), Some("ok"));
    world.client.credential_delete(credential.id).await.unwrap();
    assert_eq!(ask(&world, workspace).await, 403);
    let denied = world
        .until("the row of the denial", async || {
            let rows = world.audit(workspace).await;
            rows.into_iter().rev().find(|row| row["reason"] == "auth_unavailable")
        })
        .await;
    assert_eq!(denied["auth_failures"]["main"], "auth_unavailable");
    create(&world, machine()).await;
    assert_eq!(ask(&world, workspace).await, 200);
}

#[tokio::test]
async fn a_token_that_the_service_refuses_is_another_one_for_the_next_request_once() {
    let world = World::with_issuer(SCENARIO, 3600).await;
    create(&world, machine()).await;
    let workspace = workspace(&world).await.id;
    assert_eq!(ask(&world, workspace).await, 200);
    let first = world.last_bearer();
    assert_eq!(ask_with(&world, workspace, "x-refuse: 1").await, 401);
    assert_eq!((world.last_bearer(), ask(&world, workspace).await), (first.clone(), 200));
    let second = world.last_bearer();
    assert_ne!(second, first);
    for _ in 0..3 {
        assert_eq!(ask_with(&world, workspace, "x-refuse: 1").await, 401);
    }
    assert_eq!(ask(&world, workspace).await, 200);
    assert_eq!((world.last_bearer(), world.issuer().count("/token").unwrap()), (second, 2));
}

#[tokio::test]
async fn a_members_own_credential_takes_the_place_of_the_organizations_while_it_is_there() {
    let world = World::with_issuer(SCENARIO, 3600).await;
    let shared = json!({ "kind": "oauth2_authorization_code", "client_secret": CLIENT_SECRET,
        "provider_config": { "client_id": "web" }, "allow_user_override": true });
    let shared = create(&world, shared).await;
    let workspace = workspace(&world).await.id;
    assert_eq!((shared.status, ask(&world, workspace).await), (Status::NeedsReauth, 403));
    connect(&world, &shared).await;
    assert_eq!(ask(&world, workspace).await, 200);
    let organizations = world.last_bearer();
    let own = json!({ "kind": "oauth2_authorization_code", "provider_config": { "client_id": "public" },
        "personal": true });
    let own = create(&world, own).await;
    // As long as nobody has consented to it, the organization's counts.
    assert_eq!((ask(&world, workspace).await, world.last_bearer()), (200, organizations.clone()));
    connect(&world, &own).await;
    assert_eq!(ask(&world, workspace).await, 200);
    let mine = world.last_bearer();
    assert_ne!(mine, organizations);
    world.client.credential_delete(own.id).await.unwrap();
    assert_eq!((ask(&world, workspace).await, world.last_bearer()), (200, organizations));
    // Its issuer was asked to take it back.
    world
        .until("the token is taken back", async || (!world.issuer().is_active(&mine).unwrap()).then_some(()))
        .await;
}

#[tokio::test]
async fn a_refresh_token_that_was_replaced_outlives_a_server_that_is_killed() {
    // So short that every start refreshes, which replaces the refresh token.
    let mut world = World::with_issuer(SCENARIO, 60).await;
    let given = json!({ "kind": "oauth2_authorization_code", "client_secret": CLIENT_SECRET,
        "provider_config": { "client_id": "web" } });
    let credential = create(&world, given).await;
    let workspace = workspace(&world).await.id;
    connect(&world, &credential).await;
    for _ in 0..2 {
        assert_eq!(ask(&world, workspace).await, 200);
        world.kill_server();
        world.start_server().await;
        world.phase(workspace, freehold_model::workspace::Phase::Idle).await;
    }
    assert_eq!(ask(&world, workspace).await, 200);
    assert!(world.issuer().is_active(&world.last_bearer()).unwrap());
}

#[tokio::test]
async fn an_issuer_inside_is_not_asked_unless_the_operator_names_it() {
    let world = World::start(SCENARIO).await;
    let given = json!({ "name": "main", "provider": "openai", "kind": "oauth2_client_credentials", "client_secret": "s",
        "provider_config": { "client_id": "c", "token_url": "https://169.254.169.254/token" } });
    let credential = world.client.credential_create(&from(given)).await.unwrap();
    let workspace = workspace(&world).await.id;
    assert_eq!(ask(&world, workspace).await, 403);
    let noted = world.client.credential_view(credential.id).await.unwrap();
    let noted = (noted.status, noted.last_minted_status.as_deref());
    assert_eq!(noted, (Status::Active, Some("address_forbidden")));
}
