//! Measures the store: durable writes from 64 writers at once, point reads, and rows of the proxy by batches.
//!
//! `cargo run --release -p freehold-store --example load [-- POSTGRES_URL]`; without an address, SQLite in a folder
//! under the present one, so that it is on a real disk.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use freehold_model::{
    EventId, OrganizationId, ProviderId, TaskId, Timestamp, WorkspaceId,
    audit::{Actor, AuditEvent, Category, Decision, EventType},
    provider::{Kind, Provider},
};
use freehold_store::{Database, Error, Options, Organization, Store};
use uuid::Uuid;

/// Callers at once.
const CALLERS: usize = 64;

/// Rows that the proxy brings at once.
const BATCH: usize = 256;

/// How long each measurement takes.
const DURATION: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir_in(".")?;
    let database = match std::env::args().nth(1) {
        Some(url) => Database::Postgres { url },
        None => Database::Sqlite { path: folder.path().join("load.db") },
    };
    let store = Store::open(&Options::new(database))?;
    tokio::runtime::Runtime::new()?.block_on(measure(&store))?;
    Ok(())
}

async fn measure(store: &Store) -> Result<(), Error> {
    let organization = OrganizationId::from_uuid(Uuid::now_v7());
    let name = organization.to_string();
    let row = Organization { id: organization, name, created_at: Timestamp::now() };
    store.system_write(move |tx| tx.organization_insert(&row)).await?;
    let provider = provider(organization);
    let id = provider.id;
    store.write(organization, move |tx| tx.provider_insert(&provider)).await?;

    let append =
        |_| async move { store.write(organization, move |tx| tx.audit_append(&audit(organization))).await };
    let view = |_| async move { store.read(organization, move |tx| tx.provider_view(id)).await };
    report("durable audit appends", CALLERS, append).await?;
    report("durable audit appends", 1, append).await?;
    let batch = |_| async move {
        let rows: Vec<_> = (0..BATCH).map(|_| decision(organization)).collect();
        store.write(organization, move |tx| tx.audit_add_all(&rows)).await
    };
    report("batches of 256 rows of the proxy", 2, batch).await?;
    report("point reads", CALLERS, view).await?;
    report("point reads", 1, view).await?;
    let start = Instant::now();
    let check = store.audit_verify(organization).await?;
    print(&format!("verified {check:?} in {:?}", start.elapsed()));
    Ok(())
}

/// Calls from `callers` tasks at once for a while and prints the rate and the latencies.
async fn report<T, F, Fut>(what: &str, callers: usize, call: F) -> Result<(), Error>
where
    F: Fn(usize) -> Fut + Copy,
    Fut: Future<Output = Result<T, Error>>,
{
    let start = Instant::now();
    let caller = |number| async move {
        let mut latencies = Vec::new();
        while start.elapsed() < DURATION {
            let begun = Instant::now();
            call(number).await?;
            latencies.push(begun.elapsed());
        }
        Ok::<_, Error>(latencies)
    };
    let mut latencies = futures::future::try_join_all((0..callers).map(caller)).await?.concat();
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / start.elapsed().as_secs_f64();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    print(&format!("{what}, {callers} at once: {rate:.0}/s, p50 {:?}, p99 {:?}", at(50), at(99)));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "an example's output is what it is for")]
fn print(line: &str) {
    println!("{line}");
}

fn audit(organization: OrganizationId) -> AuditEvent {
    AuditEvent::new(
        EventId::from_uuid(Uuid::now_v7()),
        organization,
        "system".to_owned(),
        Timestamp::now(),
        EventType::TaskSubmitted,
        Category::Activity,
        Actor::ControlPlane,
    )
}

/// A row as the proxy writes it.
fn decision(organization: OrganizationId) -> AuditEvent {
    let (id, now) = (EventId::from_uuid(Uuid::now_v7()), Timestamp::now());
    let (kind, user) = (EventType::PolicyDecision, "user_01933b5a000070008000000000000001".to_owned());
    let mut row = AuditEvent::new(id, organization, user, now, kind, Category::Audit, Actor::PolicyEngine);
    row.workspace_id = Some(WorkspaceId::from_uuid(Uuid::from_u128(7)));
    row.task_id = Some(TaskId::from_uuid(Uuid::from_u128(7)));
    row.agent_role = Some("coder".to_owned());
    row.agent_provider = Some("anthropic".to_owned());
    row.destination = Some("upstream.example.test".to_owned());
    (row.method, row.path) = (Some("GET".to_owned()), Some("/v1/some/path".to_owned()));
    (row.decision, row.latency_ms) = (Some(Decision::Allow), Some(12));
    (row.transforms_applied, row.validations_applied) = (Some(0), Some(0));
    (row.capability_name, row.phase) = (Some("upstream".to_owned()), Some("request_headers".to_owned()));
    row.policy_type = Some("http".to_owned());
    row.detail = Some(serde_json::json!({ "rule": "allow[0]", "status": 200 }));
    row
}

fn provider(organization_id: OrganizationId) -> Provider {
    Provider {
        id: ProviderId::from_uuid(Uuid::now_v7()),
        organization_id,
        name: "load".to_owned(),
        kind: Kind::Anthropic,
        display_name: None,
        domain: "api.example.test".to_owned(),
        credential_name: None,
        default_model: None,
        capabilities: None,
        config: std::collections::BTreeMap::new(),
        created_at: Timestamp::now(),
        updated_at: Timestamp::now(),
        archived_at: None,
    }
}
