//! How the databases find the rows of a page: by an index in the list's order, never by the whole log or a sort.

use freehold_model::{OrganizationId, TaskId, audit::Column as C};
use freehold_testkit::postgresql;
use uuid::Uuid;

use super::*;
use crate::{Database, Options, Organization, Store};

/// Rows of the log: enough that a database that can choose chooses as it would for many.
const ROWS: u32 = 80_000;

fn one(column: C, value: &str) -> Condition {
    Condition { column, test: Test::In(vec![value.to_owned()]) }
}

/// Filters, and the index that answers each.
fn cases() -> Vec<(AuditFilter, &'static str)> {
    let all = AuditFilter::default;
    let id = WorkspaceId::from_uuid(Uuid::from_u128(7));
    let workspace = Some(id);
    let task = TaskId::from_uuid(Uuid::from_u128(7));
    let activity = Some(Category::Activity);
    vec![
        (all(), "audit_events_by_time"),
        (AuditFilter { from: Some(Timestamp::UNIX_EPOCH), ..all() }, "audit_events_by_time"),
        (AuditFilter { conditions: vec![one(C::Destination, "x")], ..all() }, "audit_events_by_time"),
        (
            AuditFilter { conditions: vec![one(C::Decision, "deny"), one(C::AgentRole, "x")], ..all() },
            "audit_events_by_time",
        ),
        (AuditFilter { event_types: vec![EventType::RoleCreated], ..all() }, "audit_events_by_time"),
        (AuditFilter { user_id: Some("user_1".to_owned()), ..all() }, "audit_events_by_user"),
        (AuditFilter { workspace, ..all() }, "audit_events_by_workspace"),
        (
            AuditFilter { conditions: vec![one(C::WorkspaceId, &id.to_string())], ..all() },
            "audit_events_by_workspace",
        ),
        (AuditFilter { workspace, user_id: Some("user_1".to_owned()), ..all() }, "audit_events_by_workspace"),
        (AuditFilter { workspace, category: activity, ..all() }, "audit_events_activity_by_workspace"),
        (AuditFilter { workspace, task: Some(task), category: activity, ..all() }, "audit_events_by_task"),
        (
            AuditFilter { conditions: vec![one(C::TaskId, &task.to_string())], ..all() },
            "audit_events_by_task",
        ),
    ]
}

/// The plan of each query of a page, and whether the query has a bound at both ends.
async fn plans(
    store: &Store,
    organization: OrganizationId,
    filter: &AuditFilter,
    order: Order,
) -> Vec<(String, bool)> {
    let filter = AuditFilter { order, ..filter.clone() };
    let place = (Timestamp::from_second(40_000).unwrap(), EventId::from_uuid(Uuid::from_u128(5)));
    let plans = store.read(organization, move |tx| {
        let (page, indexed) = (Page { after: Some(place), limit: 101 }, Indexed::of(&filter));
        let asked = match indexed.is_all {
            true => vec![(columns(), indexed.page(&filter, &page, None), false)],
            // Without an edge there are no more than so many rows to look at, however it is done.
            false => vec![
                ("timestamp, id".to_owned(), indexed.edge(&filter, &page), false),
                (columns(), indexed.page(&filter, &page, Some(&place)), true),
            ],
        };
        let mut plans = Vec::new();
        for (columns, conditions, is_bounded) in asked {
            let sql = select(&columns, &conditions);
            plans.push((tx.explain(&sql, &conditions.values)?, is_bounded));
        }
        Ok::<_, Error>(plans)
    });
    plans.await.unwrap()
}

async fn filled(database: Database, run: impl FnOnce(&str)) -> (Store, OrganizationId) {
    let store = Store::open(&Options::new(database)).unwrap();
    let organization = OrganizationId::from_uuid(Uuid::from_u128(1));
    let row = Organization { id: organization, name: "plans".to_owned(), created_at: Timestamp::UNIX_EPOCH };
    store.system_write(move |tx| tx.organization_insert(&row)).await.map_err(|error: Error| error).unwrap();
    run(&format!(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {ROWS})
         INSERT INTO audit_events (organization_id, seq, hash, id, user_id, timestamp, event_type, category, actor,
            workspace_id, task_id, agent_role, decision, auth_applied, auth_failures)
         SELECT '{organization}', n, HASH, 'event_' || n, 'user_' || n % 9, n * CAST(1000000 AS BIGINT),
            'policy_decision', CASE WHEN n % 3 = 0 THEN 'activity' ELSE 'audit' END, 'policy-engine',
            'ws_' || n % 50, 'task_' || n % 500, 'role_' || n % 5, 'allow', '[]', '{{}}' FROM n; ANALYZE"
    ));
    (store, organization)
}

/// Between two places of the index, the few rows that fit may be sorted.
fn wrong(plan: &str, index: &str, is_bounded: bool) -> bool {
    // `SCAN` and `TEMP B-TREE` are SQLite's words, `Seq Scan` and `Sort` PostgreSQL's.
    let sorts = ["TEMP B-TREE", "Sort"].iter().any(|word| plan.contains(word)) && !is_bounded;
    !plan.contains(&format!("{index} ")) || sorts || plan.contains("SCAN audit") || plan.contains("Seq Scan")
}

async fn check(store: &Store, organization: OrganizationId) {
    for (filter, index) in cases() {
        for order in [Order::Ascending, Order::Descending] {
            for (plan, is_bounded) in plans(store, organization, &filter, order).await {
                assert!(!wrong(&plan, index, is_bounded), "{filter:?} {order:?} wants {index}:\n{plan}");
            }
        }
    }
}

#[tokio::test]
async fn sqlite_finds_every_page_by_an_index_in_its_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plans.db");
    let (store, organization) = filled(Database::Sqlite { path: path.clone() }, |sql| {
        let sql = sql.replace("HASH", "zeroblob(32)");
        rusqlite::Connection::open(&path).unwrap().execute_batch(&sql).unwrap();
    })
    .await;
    check(&store, organization).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_finds_every_page_by_an_index_in_its_order() {
    let database = tokio::task::spawn_blocking(postgresql::Database::create).await.unwrap().unwrap();
    let url = database.url();
    let (store, organization) = filled(Database::Postgres { url }, |sql| {
        let sql = sql.replace("HASH", "decode(repeat('00', 32), 'hex')");
        database.psql(&sql).unwrap();
    })
    .await;
    check(&store, organization).await;
}
