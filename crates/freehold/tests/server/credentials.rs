//! Credentials from an issuer to the request of a pod.

use std::process::Stdio;

use freehold_client::api::{
    credential::Credential,
    provider::ProviderCreate,
    role::{Role, RoleCreate},
    workspace::Workspace,
};
use freehold_model::{WorkspaceId, credential::Status, workspace::Phase};
use freehold_testkit::issuer::{CLIENT_SECRET, ISSUER_HOST};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::support::{ECHO_DOMAIN, World, from};

/// The model is never asked.
const SCENARIO: &str = include_str!("scenarios/errand.yaml");

/// A role whose model's service wants the credential `main`, and a workspace under it.
async fn workspace(world: &World) -> Workspace {
    world.workspace(&role(world, json!(null)).await).await
}

/// The role, with these capabilities.
async fn role(world: &World, capabilities: Value) -> Role {
    let provider: ProviderCreate = from(json!({
        "name": "echo", "kind": "openai", "domain": ECHO_DOMAIN, "credential_name": "main", "default_model": "any",
    }));
    let provider = world.client.provider_create(&provider).await.unwrap();
    let role = json!({"name": "tester", "provider_id": provider.id, "capabilities": capabilities});
    let role: RoleCreate = from(role);
    world.client.role_create(&role).await.unwrap().into_value()
}

/// Moves the role's provider to another host.
async fn move_to(world: &World, role: &Role, domain: &str) {
    world.client.provider_update(role.provider_id, &from(json!({ "domain": domain }))).await.unwrap();
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

/// Creates the credential `main`.
async fn create(world: &World, mut more: Value) -> Credential {
    let url = |path: &str| format!("https://{ISSUER_HOST}{path}");
    more["name"] = json!("main");
    more["provider"] = json!("openai");
    if more["kind"] != "api_key" {
        more["provider_config"]["token_url"] = json!(url("/token"));
    }
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

/// Eight of the nine kinds, one after the other under one name; a person's consent has tests of its own.
#[tokio::test]
async fn every_kind_of_credential_is_put_on_in_its_own_form() {
    let world = World::with_issuer(SCENARIO, 3600).await;
    let mut before = create(&world, machine()).await;
    let workspace = workspace(&world).await.id;
    let (id, key) = world.issuer().keys().next().unwrap();
    let account = world.issuer().service_account_json();
    let audience = format!("https://{ISSUER_HOST}");
    let service = format!("https://{ISSUER_HOST}/service/token");
    for (given, expected) in [
        (json!({ "kind": "api_key", "api_key": "key-1" }), "authorization: Bearer key-1"),
        (
            json!({ "kind": "api_key", "api_key": "key-2", "provider_config": { "header": "x-key", "scheme": "Token" } }),
            "x-key: Token key-2",
        ),
        (
            json!({ "kind": "basic_auth", "password": "word", "provider_config": { "username": "ann" } }),
            "authorization: Basic YW5uOndvcmQ=",
        ),
        (
            json!({ "kind": "query_api_key", "api_key": "key-3", "provider_config": { "parameter": "k" } }),
            "POST /v1/chat/completions?k=key-3 HTTP/1.1",
        ),
        (
            json!({ "kind": "aws_sigv4", "secret_access_key": "very-secret",
                "provider_config": { "access_key_id": "AKID", "region": "eu-1", "service": "execute-api" } }),
            "authorization: AWS4-HMAC-SHA256 Credential=AKID/",
        ),
        (machine(), "authorization: Bearer "),
        (
            json!({ "kind": "oauth2_client_assertion", "private_key": key,
                "provider_config": { "client_id": id, "audience": audience, "key_id": format!("key-{id}") } }),
            "authorization: Bearer ",
        ),
        (
            json!({ "kind": "oauth2_jwt_bearer", "service_account_json": account, "provider_config": { "token_url": service } }),
            "authorization: Bearer ",
        ),
        (
            json!({ "kind": "oauth2_jwt_bearer_with_subject", "service_account_json": account,
                "provider_config": { "token_url": service, "subject": "ann@example.test" } }),
            "authorization: Bearer ",
        ),
    ] {
        let kind = given["kind"].clone();
        let mut given = given;
        given["name"] = json!("main");
        given["provider"] = json!("openai");
        let is_oauth = kind.as_str().unwrap().starts_with("oauth2");
        if is_oauth && given["provider_config"]["token_url"].is_null() {
            given["provider_config"]["token_url"] = json!(format!("https://{ISSUER_HOST}/token"));
        }
        world.client.credential_delete(before.id).await.unwrap();
        before = world.client.credential_create(&from(given)).await.unwrap().into_value();
        assert_eq!((ask(&world, workspace).await, before.status), (200, Status::Active), "{kind}");
        let head = world.last_head();
        assert!(head.contains(expected), "{kind}: {head}");
        if is_oauth {
            assert!(world.issuer().is_active(&world.last_bearer()).unwrap(), "{kind}");
        }
    }
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

/// Where its provider moves to.
const ELSEWHERE: &str = "elsewhere.freehold.test";

/// A credential that a transform names goes where the rule says, whatever became of the provider.
const BY_A_TRANSFORM: &str = "
- name: facts
  type: http
  allow:
    - domains: [facts.freehold.test]
      methods: [GET]
  transforms:
    - name: login
      auth: { credential: main }
";

fn key(key: &str) -> Value {
    json!({ "kind": "api_key", "api_key": key })
}

#[tokio::test]
async fn a_credential_made_anew_under_its_name_does_not_go_to_where_its_provider_was_before() {
    let world = World::start(SCENARIO).await;
    let first = create(&world, key("key-1")).await;
    let role = role(&world, json!(BY_A_TRANSFORM)).await;
    let running = world.workspace(&role).await.id;
    move_to(&world, &role, ELSEWHERE).await;
    assert_eq!((ask(&world, running).await, world.last_bearer()), (200, "key-1".into()));

    world.client.credential_delete(first.id).await.unwrap();
    let second = create(&world, key("key-2")).await;
    assert_eq!((ask(&world, running).await, world.last_bearer()), (403, "key-1".into()));
    let named = format!("main@{}", first.id);
    world
        .until("the row of the denial", async || {
            let rows = world.audit(running).await;
            rows.iter().any(|row| row["auth_failures"][&named] == "auth_unavailable").then_some(())
        })
        .await;
    let facts = "curl -sS -o /dev/null -w '%{http_code}' https://facts.freehold.test/";
    assert_eq!((world.sh(running, facts).await.1, world.last_bearer()), ("200".into(), "key-2".into()));

    move_to(&world, &role, ECHO_DOMAIN).await;
    assert_eq!((ask(&world, running).await, world.last_bearer()), (200, "key-2".into()));
    let started = world.workspace(&role).await.id;
    move_to(&world, &role, ELSEWHERE).await;
    assert_eq!((ask(&world, started).await, ask(&world, running).await), (200, 403));
    let applied = json!([format!("main@{}", second.id)]);
    world
        .until("the row of the request with the second key", async || {
            let rows = world.audit(started).await;
            rows.iter().any(|row| row["auth_applied"] == applied).then_some(())
        })
        .await;
}

/// What the command line says beside its data.
fn said(world: &World, arguments: &[&str]) -> String {
    let key = std::fs::read_to_string(world.data().join("owner.key")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.args(arguments).env("FREEHOLD_URL", &world.url).env("FREEHOLD_API_KEY", key.trim());
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_moves_a_provider_or_deletes_its_credential_is_told_which_workspaces_stay_behind_with_it() {
    let world = World::start(SCENARIO).await;
    let first = create(&world, key("key-1")).await;
    let role = role(&world, json!(null)).await;
    let running = world.workspace(&role).await;
    let with = running.started_with.unwrap();
    assert_eq!((with.provider_id, &*with.domain), (role.provider_id, ECHO_DOMAIN));
    assert_eq!((with.credential_name.as_deref(), with.credential_id), (Some("main"), Some(first.id)));
    assert_eq!(with.model.as_deref(), Some("any"));

    let behind = format!("{} (echo at {ECHO_DOMAIN} with main)", running.id);
    let moved = said(&world, &["provider", "update", "echo", "--domain", ELSEWHERE]);
    assert!(moved.contains("until they are stopped") && moved.contains(&behind), "{moved}");
    let started = world.workspace(&role).await;
    let delete = ["credential", "delete", "main", "--yes"];
    let deleted = said(&world, &delete);
    assert!(deleted.contains(&behind) && !deleted.contains(&started.id.to_string()), "{deleted}");
    create(&world, key("key-2")).await;
    let deleted = said(&world, &delete);
    assert!(!deleted.contains(&running.id.to_string()), "{deleted}");

    create(&world, key("key-3")).await;
    world.client.workspace_stop(running.id).await.unwrap();
    assert_eq!(world.phase(running.id, Phase::Stopped).await.started_with, None);
    let moved = said(&world, &["provider", "update", "echo", "--domain", ECHO_DOMAIN]);
    assert!(!moved.contains(&running.id.to_string()) && moved.contains(&started.id.to_string()), "{moved}");
}

#[tokio::test]
async fn a_workspace_of_which_it_is_not_known_what_it_was_started_with_is_denied_once_its_provider_moves() {
    let mut world = World::start(SCENARIO).await;
    create(&world, key("key-1")).await;
    let role = role(&world, json!(null)).await;
    let running = world.workspace(&role).await.id;
    // As an earlier version left it.
    world.change_rows("UPDATE workspaces SET backend = json_remove(backend, '$.credential_id')").await;
    assert_eq!(ask(&world, running).await, 200);
    move_to(&world, &role, ELSEWHERE).await;
    assert_eq!(ask(&world, running).await, 403);
    move_to(&world, &role, ECHO_DOMAIN).await;
    assert_eq!(ask(&world, running).await, 200);
}

#[tokio::test]
async fn where_its_provider_was_before_a_workspace_has_the_credential_it_was_started_with_whoever_s_that_is()
{
    let world = World::with_issuer(SCENARIO, 3600).await;
    let shared = json!({ "kind": "oauth2_authorization_code", "client_secret": CLIENT_SECRET,
        "provider_config": { "client_id": "web" }, "allow_user_override": true });
    let shared = create(&world, shared).await;
    connect(&world, &shared).await;
    let role = role(&world, json!(null)).await;
    let with_shared = world.workspace(&role).await.id;
    assert_eq!(ask(&world, with_shared).await, 200);
    let organizations = world.last_bearer();
    move_to(&world, &role, ELSEWHERE).await;
    let own = json!({ "kind": "oauth2_authorization_code", "provider_config": { "client_id": "public" },
        "personal": true });
    let own = create(&world, own).await;
    connect(&world, &own).await;
    assert_eq!((ask(&world, with_shared).await, world.last_bearer()), (200, organizations.clone()));

    move_to(&world, &role, ECHO_DOMAIN).await;
    let with_own = world.workspace(&role).await.id;
    assert_eq!(ask(&world, with_own).await, 200);
    let mine = world.last_bearer();
    assert_ne!(mine, organizations);
    move_to(&world, &role, ELSEWHERE).await;
    assert_eq!((ask(&world, with_own).await, world.last_bearer()), (200, mine.clone()));
    world.client.credential_delete(own.id).await.unwrap();
    assert_eq!((ask(&world, with_own).await, world.last_bearer()), (403, mine));
    assert_eq!((ask(&world, with_shared).await, world.last_bearer()), (200, organizations));
    // Without the organization's, nobody's own stands for it.
    world.client.credential_delete(shared.id).await.unwrap();
    assert_eq!(ask(&world, with_shared).await, 403);
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
        world.phase(workspace, Phase::Idle).await;
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
