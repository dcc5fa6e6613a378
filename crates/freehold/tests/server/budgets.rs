//! Budgets of a running server: seen over the API, and kept over `kill -9`.

use freehold_client::api::budget::Budget;
use freehold_model::{WorkspaceId, workspace::Phase};
use serde_json::Number;

use crate::support::{MODEL_DOMAIN, World};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");

const CAPS: &str = "
- name: facts
  type: http
  allow:
    - name: read
      domains: [facts.freehold.test]
      methods: [GET]
    - name: write
      domains: [facts.freehold.test]
      methods: [POST]
  budgets:
    calls: {unit: requests, per: organization, limit: 40, warn_at: 10, applies_to: [read]}
    bytes: {unit: response_bytes, per: workspace, window: 366d, limit: 1000000, applies_to: [read]}
    spend: {unit: usd, per: role, limit: 25.50, on_limit: ask, applies_to: [write]}
";

const LIMIT: usize = 40;

/// Asks so often from the pod, one after the other, and leaves the status of each in a file.
fn asking(count: usize) -> String {
    format!(
        "n=0; while [ $n -lt {count} ]; do n=$((n+1)); curl -s -m 30 -o /dev/null -w '%{{http_code}}\\n' \
         https://facts.freehold.test/v1/fact >> /workspace/codes; done"
    )
}

async fn codes(world: &World, workspace: WorkspaceId) -> Vec<String> {
    let (_, codes, _) = world.sh(workspace, "cat /workspace/codes").await;
    codes.lines().map(str::to_owned).collect()
}

async fn budget(world: &World, workspace: WorkspaceId, name: &str) -> Budget {
    let list = world.client.workspace_budget_list(workspace).await.unwrap().into_value();
    list.budgets.into_iter().find(|budget| budget.name == name).unwrap()
}

#[tokio::test]
async fn what_models_cost_is_in_the_configuration_and_a_model_without_a_price_is_not_asked() {
    // Built in is no price of the scripted model.
    let caps =
        "- name: _provider\n  type: http\n  budgets: {spend: {unit: usd, per: organization, limit: 25}}\n";
    let ask = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' -m 30 -H 'x-api-key: freehold-placeholder' -H 'anthropic-version: 2023-06-01' \
         -H 'content-type: application/json' https://{MODEL_DOMAIN}/v1/messages -d '{{\"model\": \"scripted-1\", \"max_tokens\": 9, \
         \"messages\": [{{\"role\": \"user\", \"content\": \"hello\"}}]}}'"
    );
    for (settings, status) in [("", "403"), ("[prices.\"scripted-*\"]\ninput = 1000\noutput = 1000\n", "200")]
    {
        let world =
            World::with("rules: [{when: {user: hello}, answers: [{steps: [{text: Hello.}]}]}]", settings)
                .await;
        let role = world.role(caps).await;
        let workspace = world.workspace(&role).await.id;
        let (_, said, _) = world.sh(workspace, &ask).await;
        assert_eq!(said, status, "{settings}");
        let used = async || {
            let used = budget(&world, workspace, "spend").await.used.as_f64().unwrap();
            (used > 0.0).then_some(used)
        };
        if status == "200" {
            // A thousandth of a dollar a token: what was reserved is more.
            let used = world.until("it is counted", used).await;
            assert!(used < 25.0, "{used}");
        } else {
            assert_eq!(used().await, None);
            let row = world.until("the denial has its row", async || {
                world.audit(workspace).await.into_iter().find(|row| row["reason"] == "budget_uncountable")
            });
            assert_eq!(row.await["budget_ceilings"]["role/spend"], "price_unknown");
        }
    }
}

#[tokio::test]
async fn a_limit_holds_over_a_kill_in_the_middle_of_requests_and_its_use_is_shown() {
    let mut world = World::start(SCENARIO).await;
    let role = world.role(CAPS).await;
    let workspace = world.workspace(&role).await.id;
    let spend = budget(&world, workspace, "spend").await;
    assert_eq!(
        (spend.limit, spend.used, &*spend.on_limit),
        (Number::from_f64(25.5).unwrap(), 0.into(), "ask")
    );

    let (code, _, _) = world.sh(workspace, &format!("({}) > /dev/null 2>&1 &", asking(30))).await;
    assert_eq!(code, 0);
    world
        .until("some requests passed", async || (codes(&world, workspace).await.len() >= 5).then_some(()))
        .await;
    world.kill_server();
    world.start_server().await;
    world.phase(workspace, Phase::Idle).await;
    world.until("all have asked", async || (codes(&world, workspace).await.len() >= 30).then_some(())).await;
    let denied = async || {
        world.sh(workspace, &asking(1)).await;
        codes(&world, workspace).await.last().is_some_and(|code| code == "403").then_some(())
    };
    world.until("the limit is reached", denied).await;

    let passed = codes(&world, workspace).await.iter().filter(|code| *code == "200").count();
    assert!(passed > 5 && passed <= LIMIT, "{passed}");
    let calls = budget(&world, workspace, "calls").await;
    // What the killed server had leased counts as used.
    assert_eq!((calls.used, calls.remaining, calls.limit), (40.into(), 0.into(), 40.into()));
    assert_eq!((&*calls.per, &*calls.origin, calls.window), ("organization", "role", None));
    let bytes = budget(&world, workspace, "bytes").await;
    assert!(bytes.used.as_u64().unwrap() >= 16 * passed as u64, "{bytes:?}");
    assert_eq!(bytes.window.as_deref(), Some("366d"));
    world
        .until("the rows are there", async || {
            let rows = world.audit(workspace).await;
            let of = |field: &str, value: &str| rows.iter().filter(|row| row[field] == value).count();
            assert!(of("event_type", "budget_warned") <= 1, "said twice");
            let stopped = rows.iter().any(|row| row["budget_ceilings"]["role/calls"] == "budget_exceeded");
            let counted = rows.iter().any(|row| row["budget_snapshot"]["role/calls"]["limit"] == 40);
            (of("event_type", "budget_warned") == 1 && stopped && counted).then_some(())
        })
        .await;

    let mut shown = tokio::process::Command::new(env!("CARGO_BIN_EXE_freehold"));
    let key = std::fs::read_to_string(world.data().join("owner.key")).unwrap();
    shown.args(["workspace", "budgets", &workspace.to_string()]);
    shown.env("FREEHOLD_URL", &world.url).env("FREEHOLD_API_KEY", key.trim());
    let shown = String::from_utf8(shown.output().await.unwrap().stdout).unwrap();
    assert!(shown.contains("role/facts/calls") && shown.contains("25.5"), "{shown}");
}
