//! The audit log as egress fills it: rows a second, durable and chained, on SQLite; and what a page costs once it is long.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use freehold_app::{fleet, uploads::ObjectUploads};
use freehold_model::{
    EventId, OrganizationId, TaskId, Timestamp, WorkspaceId,
    audit::{Actor, AuditEvent, Category, Column, Condition, Decision, EventType, Test},
};
use freehold_store::{
    AuditFilter, Database, Options as StoreOptions, Organization, Page, ReviewFilter, Store,
};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use crate::{
    report::{Cell, Report, Table, say},
    stats::{Samples, Summary},
};

/// Rows that egress hands to its sink at once, when that many wait.
const BATCH_ROWS: usize = 500;
/// Times that each read is made.
const READS: usize = 100;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Rows to add
    #[arg(long, default_value_t = 1_000_000)]
    rows: usize,
    /// Rows of a line of the table
    #[arg(long, default_value_t = 200_000)]
    block: usize,
}

/// Measures.
///
/// # Errors
/// When the store fails.
pub async fn run(options: Options, parent: Option<&Path>, report: &mut Report) -> anyhow::Result<()> {
    let folder =
        tempfile::Builder::new().prefix("freehold-bench-").tempdir_in(parent.unwrap_or(Path::new(".")))?;
    let path = folder.path().join("freehold.db");
    let store = Store::open(&StoreOptions::new(Database::Sqlite { path: path.clone() }))?;
    let organization = organization(&store).await?;
    let fleet = fleet(&store, folder.path())?;
    report.note(format!(
        "The sink of the server, called as egress calls it: batches of {BATCH_ROWS} rows, one after the other, each durable (`synchronous=full`) before the next. A row is a decision about an HTTP request, with every column of one; it is hashed into the chain and entered into every index. `CPU` is that of the whole process."
    ));
    let mut table = Table::new(
        "Rows of the audit log",
        &["rows in the log", "rows/s", "CPU us/row", "batch p50 ms", "batch p99 ms"],
    );
    let mut reads = Table::of_times("Reads", "first block");
    let mut first: Option<Vec<Summary>> = None;
    let mut rows = 0;
    while rows < options.rows {
        let (begun, cpu, mut times) = (Instant::now(), cpu(), Samples::default());
        for _ in 0..options.block.div_ceil(BATCH_ROWS) {
            let batch = (rows..rows + BATCH_ROWS).map(|n| decision(organization, n)).collect();
            let start = Instant::now();
            fleet.audit(batch).await?;
            times.push(start.elapsed());
            rows += BATCH_ROWS;
        }
        let count = options.block.next_multiple_of(BATCH_ROWS) as f64;
        let (rate, cpu) =
            (count / begun.elapsed().as_secs_f64(), (self::cpu() - cpu).as_secs_f64() * 1e6 / count);
        let summary = times.summary();
        table.row(vec![
            Cell::Count(rows as u64),
            Cell::Number(rate),
            Cell::Number(cpu),
            Cell::Number(summary.p50.as_secs_f64() * 1e3),
            Cell::Number(summary.p99.as_secs_f64() * 1e3),
        ]);
        say(&format!("{rows} rows: {rate:.0}/s, {cpu:.1} us CPU a row"));
        let summaries = read(&store, organization, rows).await?;
        let compared = first.get_or_insert_with(|| summaries.iter().map(|(_, summary)| *summary).collect());
        for ((what, summary), first) in summaries.iter().zip(compared.iter()) {
            reads.times(format!("{what}, {rows} rows"), summary, Some(first));
        }
    }
    let start = Instant::now();
    let check = store.audit_verify(organization).await?;
    report.note(format!(
        "The whole chain was checked in {:.1} s: {}. The database has {} MiB.",
        start.elapsed().as_secs_f64(),
        if matches!(check, freehold_store::ChainCheck::Intact { .. }) { "intact" } else { "BROKEN" },
        std::fs::metadata(&path)?.len() >> 20
    ));
    report.tables.push(table);
    report.tables.push(reads);
    store.close().await;
    Ok(())
}

/// An organization in an empty store.
///
/// # Errors
/// When the store fails.
pub async fn organization(store: &Store) -> anyhow::Result<OrganizationId> {
    let id = OrganizationId::from_uuid(Uuid::now_v7());
    let row = Organization { id, name: "bench".to_owned(), created_at: Timestamp::now() };
    store
        .system_write(move |tx| tx.organization_insert(&row))
        .await
        .map_err(|error: freehold_store::Error| error)?;
    Ok(id)
}

/// The server's way to the store, with its files in `folder`.
///
/// # Errors
/// When there is no such folder.
pub fn fleet(store: &Store, folder: &Path) -> anyhow::Result<fleet::Fleet> {
    let uploads = object_store::local::LocalFileSystem::new_with_prefix(folder)?;
    let uploads = Arc::new(ObjectUploads::new(Arc::new(uploads)));
    Ok(fleet::Fleet::new(store.clone(), uploads, fleet::Settings::default()))
}

/// The CPU that this process has used.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.cast_unsigned(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What people ask of the log.
async fn read(
    store: &Store,
    organization: OrganizationId,
    rows: usize,
) -> anyhow::Result<Vec<(&'static str, Summary)>> {
    let workspace = workspace(rows / 2);
    let rare =
        Condition { column: Column::Destination, test: Test::In(vec!["nowhere.example.test".to_owned()]) };
    let lists = [
        ("the newest 100", AuditFilter::default()),
        (
            "the newest 100 of a workspace",
            AuditFilter { workspace: Some(workspace), ..AuditFilter::default() },
        ),
        ("a page where nothing fits", AuditFilter { conditions: vec![rare], ..AuditFilter::default() }),
    ];
    let mut summaries = Vec::new();
    for (what, filter) in lists {
        let mut times = Samples::default();
        for _ in 0..READS {
            let (start, filter) = (Instant::now(), filter.clone());
            store
                .read(organization, move |tx| tx.audit_list(&filter, &Page::first(100)))
                .await
                .map_err(|error: freehold_store::Error| error)?;
            times.push(start.elapsed());
        }
        summaries.push((what, times.summary()));
    }
    let mut times = Samples::default();
    for _ in 0..READS / 10 {
        let start = Instant::now();
        store
            .read(organization, |tx| tx.audit_review("coder", &ReviewFilter::default()))
            .await
            .map_err(|error: freehold_store::Error| error)?;
        times.push(start.elapsed());
    }
    summaries.push(("the review of a role", times.summary()));
    Ok(summaries)
}

/// Each workspace has a thousand rows.
fn workspace(row: usize) -> WorkspaceId {
    WorkspaceId::from_uuid(Uuid::from_u128(7 + row as u128 / 1000))
}

fn decision(organization: OrganizationId, n: usize) -> AuditEvent {
    let (id, now) = (EventId::from_uuid(Uuid::now_v7()), Timestamp::now());
    let (kind, user) = (EventType::PolicyDecision, "user_01933b5a000070008000000000000001".to_owned());
    let mut row = AuditEvent::new(id, organization, user, now, kind, Category::Audit, Actor::PolicyEngine);
    row.workspace_id = Some(workspace(n));
    row.task_id = Some(TaskId::from_uuid(Uuid::from_u128(7 + n as u128 / 100)));
    row.agent_role = Some("coder".to_owned());
    row.agent_provider = Some("anthropic".to_owned());
    row.destination = Some(format!("api-{}.example.test", n % 50));
    (row.method, row.path) = (Some("GET".to_owned()), Some(format!("/v1/items/{}", n % 200)));
    (row.decision, row.latency_ms) = (Some(Decision::Allow), Some(12));
    (row.transforms_applied, row.validations_applied) = (Some(1), Some(0));
    (row.capability_name, row.phase) = (Some("upstream".to_owned()), Some("request_headers".to_owned()));
    row.policy_type = Some("http".to_owned());
    row.reason = Some("rule_matched".to_owned());
    row.auth_applied = vec!["upstream-key".to_owned()];
    row.detail = Some(serde_json::json!({ "rule": "allow[0]", "status": 200 }));
    row
}
