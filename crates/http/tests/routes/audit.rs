//! The audit log: filters, pages, whose rows; the review of access; checkpoints, keys and exports; what every change leaves.

use std::collections::{BTreeMap, BTreeSet};

use freehold_api::{Method, error::ErrorCode, operations};
use freehold_model::{
    EventId, MemberId, TaskId, Timestamp, WorkspaceId,
    audit::{Actor, AuditEvent, Category, Column, Decision, EventType},
    workspace,
};
use serde_json::{Value, json};

use crate::context::Context;

/// A decision as the proxy makes it.
fn decision(context: &Context, n: u32, decision: Decision) -> AuditEvent {
    let mut row = AuditEvent::new(
        EventId::from_uuid(uuid::Uuid::now_v7()),
        context.organization,
        "system".to_owned(),
        Timestamp::from_second(1_700_000_000 + i64::from(n)).unwrap(),
        EventType::PolicyDecision,
        Category::Audit,
        Actor::PolicyEngine,
    );
    row.agent_role = Some("worker".to_owned());
    row.destination = Some(format!("host-{}.test", n % 3));
    (row.method, row.path) = (Some("GET".to_owned()), Some(format!("/p{}", n % 2)));
    row.decision = Some(decision);
    row.policy_type = Some("http".to_owned());
    row
}

async fn add(context: &Context, rows: Vec<AuditEvent>) {
    let add = context
        .app
        .store()
        .write(context.organization, move |tx| rows.iter().try_for_each(|row| tx.audit_add(row).map(drop)));
    add.await.map_err(|error: freehold_store::Error| error).unwrap();
}

async fn ids(context: &Context, path: &str) -> Vec<String> {
    let answer = context.get(path, &context.owner).await.ok();
    let id = |row: &Value| row["id"].as_str().unwrap().to_owned();
    answer["events"].as_array().unwrap().iter().map(id).collect()
}

fn encoded(conditions: &[&str]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    conditions.iter().for_each(|condition| _ = query.append_pair("filter[]", condition));
    query.finish()
}

#[tokio::test]
async fn conditions_are_and_of_in_not_in_and_present() {
    let context = Context::new().await;
    let mut rows: Vec<_> = (0..12)
        .map(|n| decision(&context, n, if n < 6 { Decision::Allow } else { Decision::Deny }))
        .collect();
    rows[11].workspace_id = Some(WorkspaceId::from_uuid(uuid::Uuid::now_v7()));
    rows[10].path = None;
    let workspace = rows[11].workspace_id.unwrap().to_string();
    add(&context, rows.clone()).await;
    let of_workspace = format!("workspace_id={workspace}");
    let cases: &[(&[&str], Vec<usize>)] = &[
        (&["agent_role=worker"], (0..12).collect()),
        (&["decision=deny"], (6..12).collect()),
        (&["agent_role!=", "decision!=deny"], (0..6).collect()),
        (&["destination=host-0.test,host-1.test", "decision=allow"], vec![0, 1, 3, 4]),
        (&["agent_role=worker", "destination!=host-0.test,host-1.test"], vec![2, 5, 8, 11]),
        (&["agent_role=worker", "path!=/p0"], vec![1, 3, 5, 7, 9, 10, 11]),
        (&["agent_role=worker", "workspace_id!="], vec![11]),
        (&[&of_workspace], vec![11]),
        (&[&of_workspace, "decision=allow"], vec![]),
        (
            &["event_type=policy_decision", "user_id=system", "method=GET", "path=/p1"],
            vec![1, 3, 5, 7, 9, 11],
        ),
    ];
    for (conditions, expected) in cases {
        let expected: Vec<String> = expected.iter().map(|n| rows[*n].id.to_string()).collect();
        let found = ids(&context, &format!("/v1/audit?order=asc&{}", encoded(conditions))).await;
        assert_eq!(found, expected, "{conditions:?}");
    }
    let time = |n: usize| rows[n].timestamp;
    let found =
        ids(&context, &format!("/v1/audit?from={}&to={}&{}", time(3), time(5), encoded(&["agent_role!="])))
            .await;
    assert_eq!(found, [rows[4].id.to_string(), rows[3].id.to_string()]);
}

/// The condition on a column at `/audit` and at a workspace's rows: of it, none of it, and any.
#[tokio::test]
async fn every_column_is_asked_for_alike_in_the_log_and_in_that_of_a_workspace() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.workspace(&context.ann).await;
    let mut row = decision(&context, 1, Decision::Deny);
    row.workspace_id = Some(workspace.parse().unwrap());
    row.task_id = Some(TaskId::from_uuid(uuid::Uuid::now_v7()));
    row.user_id = MemberId::from_uuid(uuid::Uuid::now_v7()).to_string();
    row.agent_provider = Some("claude".to_owned());
    row.reason = Some("domain_not_allowed".to_owned());
    row.capability_name = Some("github".to_owned());
    row.phase = Some("request_headers".to_owned());
    let id = row.id.to_string();
    let fields = serde_json::to_value(&row).unwrap();
    add(&context, vec![row]).await;
    let logs = ["/v1/audit".to_owned(), format!("/v1/workspaces/{workspace}/audit")];
    for column in Column::ALL {
        let column = column.as_str();
        let value = fields[column].as_str().unwrap_or_else(|| panic!("the row has no {column}"));
        for log in &logs {
            let found = async |condition: String, other: &str| {
                let query = format!("{log}?{}", encoded(&[&condition, other]));
                ids(&context, &query).await.contains(&id)
            };
            for (condition, expected) in [
                (format!("{column}={value}"), true),
                (format!("{column}!={value}"), false),
                (format!("{column}!="), true),
            ] {
                assert_eq!(found(condition.clone(), "path=/p1").await, expected, "{log} {condition}");
            }
        }
    }
    // Pages of a workspace's rows, in both orders.
    for order in ["asc", "desc"] {
        let all = ids(&context, &format!("{}?order={order}", logs[1])).await;
        assert!(all.len() >= 2, "{all:?}");
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = format!("{}?order={order}&limit=1{cursor}", logs[1]);
            let page = context.get(&page, &context.owner).await.ok();
            found.extend(page["events"][0]["id"].as_str().map(str::to_owned));
            let Some(next) = page["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
            assert!(found.len() <= all.len(), "{order}");
        }
        assert_eq!(found, all);
    }
    context.get(&format!("{}?cursor=x", logs[1]), &context.owner).await.refused(ErrorCode::InvalidCursor);
}

#[tokio::test]
async fn a_condition_that_is_none_is_refused_with_the_columns() {
    let context = Context::new().await;
    for condition in [
        "",
        "decision",
        "=deny",
        "colour=red",
        "decision=",
        "decision=maybe",
        "decision=allow,",
        "seq=1",
        "detail!=",
        "event_type=role_crated",
        "workspace_id=ws_1",
        "org_id=x",
    ] {
        let reply = context.get(&format!("/v1/audit?{}", encoded(&[condition])), &context.owner).await;
        let details = reply.refused(ErrorCode::ValidationError);
        assert!(details["fields"]["filter[]"].is_string(), "{condition}: {details}");
    }
    let reply = context.get("/v1/audit?filter%5B%5D=colour%3Dred", &context.owner).await;
    let details = reply.refused(ErrorCode::ValidationError);
    let told = details["fields"]["filter[]"].as_str().unwrap();
    assert!(Column::ALL.iter().all(|column| told.contains(column.as_str())), "{told}");
    for (query, field, says) in [
        ("filter%5B%5D=decision%3Dmaybe", "filter[]", "that is one of allow, deny"),
        ("filter%5B%5D=policy_type%3Dudp", "filter[]", "that is one of http, dns"),
        ("from=yesterday", "from", "must be a time, e.g. `2026-01-31T12:00:00Z`"),
        ("order=up", "order", "\"asc\" or \"desc\""),
    ] {
        let reply = context.get(&format!("/v1/audit?{query}"), &context.owner).await;
        let details = reply.refused(ErrorCode::ValidationError);
        let told = details["fields"][field].as_str().unwrap();
        assert!(told.contains(says), "{told}");
    }
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("order=up", "order"),
        ("from=now", "from"),
        ("filter=decision%3Ddeny", "filter"),
        ("from=2026-01-01T00:00:00Z&from=2026-01-01T00:00:00Z", "from"),
    ] {
        context.get(&format!("/v1/audit?{query}"), &context.owner).await.refused_fields(&[field]);
    }
    let many: Vec<&str> = vec!["decision=deny"; 17];
    context.get(&format!("/v1/audit?{}", encoded(&many)), &context.owner).await.refused_fields(&["filter[]"]);
    context.get("/v1/audit?cursor=x", &context.owner).await.refused(ErrorCode::InvalidCursor);
}

#[tokio::test]
async fn pages_show_every_row_once_also_where_few_rows_fit_a_long_log() {
    let context = Context::new().await;
    let scan = freehold_store::SCAN_ROWS_MAX;
    let rows: Vec<_> = (0..2 * scan + 10)
        .map(|n| decision(&context, n, if n % 9000 == 3 { Decision::Deny } else { Decision::Allow }))
        .collect();
    let rare: BTreeSet<String> = rows
        .iter()
        .filter(|row| row.decision == Some(Decision::Deny))
        .map(|row| row.id.to_string())
        .collect();
    for rows in rows.chunks(2000) {
        add(&context, rows.to_vec()).await;
    }
    for order in ["asc", "desc"] {
        let (mut found, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let path = format!("/v1/audit?order={order}&limit=2&{}{cursor}", encoded(&["decision=deny"]));
            let page = context.get(&path, &context.owner).await.ok();
            found.extend(
                page["events"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()),
            );
            pages += 1;
            let Some(next) = page["cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
            assert!(pages < 10, "{order}");
        }
        assert_eq!(found.len(), rare.len(), "{order}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), rare);
        assert!(pages > 2, "a page looked at more rows than it may");
    }
}

#[tokio::test]
async fn whoever_reads_its_own_rows_sees_no_others_and_not_the_chain() {
    let context = Context::new().await;
    context.role().await;
    context.workspace(&context.ann).await;
    context.workspace(&context.bob).await;
    let all = context.get("/v1/audit", &context.owner).await.ok();
    let mine = context.get("/v1/audit", &context.ann).await.ok();
    let users = |list: &Value| -> BTreeSet<String> {
        list["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["user_id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(users(&mine).len(), 1);
    assert!(users(&all).is_superset(&users(&mine)) && users(&all).len() >= 3);
    let other =
        users(&all).into_iter().find(|user| !users(&mine).contains(user) && user != "system").unwrap();
    assert!(other.parse::<MemberId>().is_ok());
    let path = format!("/v1/audit?{}", encoded(&[&format!("user_id={other}")]));
    assert_eq!(context.get(&path, &context.ann).await.ok()["events"], json!([]));
    for path in ["/v1/audit/export", "/v1/audit/checkpoints"] {
        context.get(path, &context.ann).await.refused(ErrorCode::PermissionDenied);
    }
    assert_eq!(context.get("/v1/audit/keys", &context.ann).await.ok()["keys"][0]["current"], true);
    let foreigner = context.foreigner().await;
    let theirs = context.get("/v1/audit", &foreigner).await.ok();
    assert!(users(&theirs).is_disjoint(&users(&mine)));
}

#[tokio::test]
async fn the_review_counts_like_decisions_together() {
    let context = Context::new().await;
    let role = context.role().await;
    let mut rows: Vec<_> = (0..12)
        .map(|n| decision(&context, n, if n < 10 { Decision::Allow } else { Decision::Deny }))
        .collect();
    rows[6].capability_name = Some("github".to_owned());
    let mut name = decision(&context, 20, Decision::Allow);
    (name.policy_type, name.path, name.method) = (Some("dns".to_owned()), None, Some("A".to_owned()));
    let mut other = decision(&context, 30, Decision::Allow);
    other.agent_role = Some("other".to_owned());
    let (n6, n0) = (rows[6].timestamp, rows[0].timestamp);
    let mut masked = decision(&context, 31, Decision::Allow);
    masked.reason = Some("secret_masked".to_owned());
    rows.extend([name, other, masked]);
    add(&context, rows).await;
    let path = format!("/v1/agent-roles/{}/access-review", role["id"].as_str().unwrap());
    let all = context.get(&path, &context.ann).await.ok();
    let entries = all["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 9, "{all}");
    let total: u64 = entries.iter().map(|entry| entry["count"].as_u64().unwrap()).sum();
    assert_eq!((total, &entries[0]["method"], &entries[0]["path"]), (13, &json!("A"), &json!("")));
    let entry =
        entries.iter().find(|entry| entry["destination"] == "host-0.test" && entry["path"] == "/p0").unwrap();
    assert_eq!((&entry["count"], &entry["last_seen"]), (&json!(2), &json!(n6)));
    assert_eq!(entry["capability_name"], "github");
    for (query, count) in [
        ("decision=deny", 2),
        ("policy_type=dns", 1),
        ("policy_type=http", 8),
        (&*format!("from={n0}&to={n6}"), 6),
    ] {
        let some = context.get(&format!("{path}?{query}"), &context.ann).await.ok();
        assert_eq!(some["entries"].as_array().unwrap().len(), count, "{query}: {some}");
    }
    context.get(&format!("{path}?policy_type=udp"), &context.ann).await.refused_fields(&["policy_type"]);
    context
        .get("/v1/agent-roles/agent_01933b5a000070008000000000000001/access-review", &context.ann)
        .await
        .refused(ErrorCode::RoleNotFound);
    let foreigner = context.foreigner().await;
    context.get(&path, &foreigner).await.refused(ErrorCode::RoleNotFound);
}

#[tokio::test]
async fn an_export_ends_with_a_checkpoint_over_its_last_row_and_can_begin_anywhere() {
    let context = Context::new().await;
    context.role().await;
    let lines =
        |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    let whole = lines(&context.get("/v1/audit/export", &context.owner).await.text);
    let rows: Vec<u64> = whole.iter().filter_map(|line| line["row"]["seq"].as_u64()).collect();
    let last = *rows.last().unwrap();
    assert_eq!(rows, (1..=last).collect::<Vec<_>>());
    let [.., checkpoint, end] = &whole[..] else { panic!("{whole:?}") };
    assert_eq!((&checkpoint["checkpoint"]["seq"], &end["end"]["seq"]), (&json!(last), &json!(last)));
    let listed = context.get("/v1/audit/checkpoints", &context.owner).await.ok();
    assert_eq!(listed["checkpoints"][0]["seq"], last);
    context.workspace(&context.ann).await;
    let more = lines(&context.get(&format!("/v1/audit/export?after={last}"), &context.owner).await.text);
    let before = whole.iter().rev().find(|line| line["row"].is_object()).unwrap();
    assert_eq!((&more[0]["after"], &more[0]["previous"]), (&json!(last), &before["hash"]));
    assert_eq!((&more[1], &more[2]["row"]["seq"]), (checkpoint, &json!(last + 1)));
    let nothing = context.get("/v1/audit/export?after=99999", &context.owner).await;
    nothing.refused_fields(&["after"]);
    let page = context.get("/v1/audit/checkpoints?limit=1", &context.owner).await.ok();
    let cursor = page["cursor"].as_str().unwrap();
    let page =
        context.get(&format!("/v1/audit/checkpoints?limit=1&cursor={cursor}"), &context.owner).await.ok();
    assert_eq!((&page["checkpoints"][0]["number"], &page["cursor"]), (&json!(2), &Value::Null));
}

/// A section of the page of event types: the category and the fields of `detail`.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let page = include_str!("../../../../docs/audit-events.md");
    let words =
        |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let section = |section: &str| {
        let (slug, rest) = section.split_once("`\n\n").unwrap();
        let line = rest.lines().next().unwrap();
        let (head, detail) = line.split_once("Detail: ").unwrap();
        (slug.to_owned(), (words(head)[0].clone(), words(detail).into_iter().collect()))
    };
    page.split("\n## `").skip(1).map(section).collect()
}

#[test]
fn every_event_type_has_one_section_with_its_category_and_fields() {
    let documented = documented();
    let known: BTreeSet<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(documented.keys().map(String::as_str).collect::<BTreeSet<_>>(), known);
    for kind in EventType::ALL {
        let category = freehold_app::audit::category(*kind);
        assert_eq!(documented[kind.as_str()].0, category.as_str(), "{kind}");
    }
}

/// A change, what must have been before, and the type of the row that it leaves.
struct Change {
    operation: &'static str,
    path: String,
    body: Value,
    leaves: &'static [&'static str],
}

fn change(
    operation: &'static str,
    path: impl Into<String>,
    body: Value,
    leaves: &'static [&'static str],
) -> Change {
    Change { operation, path: path.into(), body, leaves }
}

/// Makes the change and answers with what it was answered; the rows that it left must be those expected, caused by the owner,
/// with nothing undocumented in them.
async fn made(context: &Context, change: Change, tested: &mut BTreeSet<&'static str>) -> Value {
    let operation = operations().find(|operation| operation.id == change.operation).unwrap();
    let last = |list: &Value| {
        list["events"].as_array().unwrap().iter().map(|row| row["id"].clone()).collect::<Vec<_>>()
    };
    let before = last(&context.get("/v1/audit?limit=10000", &context.owner).await.ok());
    let method = operation.method.as_str().parse().unwrap();
    let answer = context.send(context.request(method, &change.path, &context.owner).json(&change.body)).await;
    assert!(answer.status < 300, "{}: {} {}", change.operation, answer.status, answer.text);
    let after = context.get("/v1/audit?limit=10000", &context.owner).await.ok();
    let new: Vec<&Value> =
        after["events"].as_array().unwrap().iter().filter(|row| !before.contains(&row["id"])).collect();
    let types: BTreeSet<&str> = new.iter().map(|row| row["event_type"].as_str().unwrap()).collect();
    assert_eq!(types, change.leaves.iter().copied().collect(), "{}", change.operation);
    let documented = documented();
    for row in new {
        assert_ne!(row["user_id"], "system", "{}: {row}", change.operation);
        let (_, fields) = &documented[row["event_type"].as_str().unwrap()];
        for field in row["detail"].as_object().into_iter().flatten().map(|(field, _)| field) {
            assert!(
                fields.contains(field),
                "{}: `{field}` is not in docs/audit-events.md",
                row["event_type"]
            );
        }
    }
    tested.insert(change.operation);
    answer.json
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn every_operation_that_changes_something_leaves_its_row() {
    let context = Context::new().await;
    let mut tested = BTreeSet::new();
    configuration(&context, &mut tested).await;
    work(&context, &mut tested).await;
    let all: BTreeSet<&str> = operations()
        .filter(|operation| operation.method != Method::Get)
        .map(|operation| operation.id)
        .collect();
    assert_eq!(tested, all, "an operation that changes something is not tested here");
}

async fn configuration(context: &Context, tested: &mut BTreeSet<&'static str>) {
    let new = json!({ "name": "models", "kind": "anthropic", "domain": "models.test" });
    let provider =
        made(context, change("provider_create", "/v1/providers", new, &["provider_created"]), tested).await;
    let provider = text(&provider["id"]);
    let path = format!("/v1/providers/{provider}");
    let body = json!({ "display_name": "Models" });
    made(context, change("provider_update", &path, body, &["provider_updated"]), tested).await;
    let new = json!({ "name": "worker", "provider_id": provider });
    let role = made(context, change("role_create", "/v1/agent-roles", new, &["role_created"]), tested).await;
    let role = format!("/v1/agent-roles/{}", text(&role["id"]));
    made(context, change("role_update", &role, json!({ "description": "x" }), &["role_updated"]), tested)
        .await;
    made(context, change("role_archive", format!("{role}/archive"), json!({}), &["role_archived"]), tested)
        .await;
    made(
        context,
        change("role_unarchive", format!("{role}/unarchive"), json!({}), &["role_unarchived"]),
        tested,
    )
    .await;
    let archived = &["provider_archived", "role_archived"];
    made(context, change("provider_archive", format!("{path}/archive"), json!({}), archived), tested).await;
    let unarchived = &["provider_unarchived"];
    made(context, change("provider_unarchive", format!("{path}/unarchive"), json!({}), unarchived), tested)
        .await;
    made(
        context,
        change("role_unarchive", format!("{role}/unarchive"), json!({}), &["role_unarchived"]),
        tested,
    )
    .await;
    let new = json!({ "name": "key", "provider": "models", "kind": "api_key", "api_key": "sk-secret" });
    let made_ =
        made(context, change("credential_create", "/v1/credentials", new, &["credential_created"]), tested)
            .await;
    let path = format!("/v1/credentials/{}", text(&made_["id"]));
    made(context, change("credential_delete", path, json!({}), &["credential_deleted"]), tested).await;
    let new = json!({ "name": "mail", "provider": "google", "kind": "oauth2_authorization_code", "client_secret": "s",
        "scopes": ["mail"], "provider_config": { "client_id": "c" } });
    let consent =
        made(context, change("credential_create", "/v1/credentials", new, &["credential_created"]), tested)
            .await;
    // Nothing has changed before somebody consents.
    let path = format!("/v1/credentials/{}/oauth/start", text(&consent["id"]));
    made(context, change("credential_oauth_start", path, json!({}), &[]), tested).await;
    let new = json!({ "name": "token", "value": "s3cret" });
    made(context, change("secret_create", "/v1/secrets", new, &["secret_created"]), tested).await;
    let (path, body) = ("/v1/secrets/token", json!({ "value": "other" }));
    made(context, change("secret_update", path, body, &["secret_updated"]), tested).await;
    made(context, change("secret_delete", path, json!({}), &["secret_deleted"]), tested).await;
    let new = json!({ "label": "ci", "permission_set": "read_only" });
    let key =
        made(context, change("api_key_create", "/v1/api-keys", new, &["api_key_created"]), tested).await;
    let path = format!("/v1/api-keys/{}", text(&key["id"]));
    made(context, change("api_key_revoke", path, json!({}), &["api_key_revoked"]), tested).await;
}

async fn work(context: &Context, tested: &mut BTreeSet<&'static str>) {
    let new = json!({ "role_name": "worker" });
    let created = &["workspace_created"];
    let workspace = made(context, change("workspace_create", "/v1/workspaces", new, created), tested).await;
    let workspace = text(&workspace["id"]);
    let path = format!("/v1/workspaces/{workspace}");
    context.happen(&workspace, workspace::Event::AgentReady).await;
    let body = json!({ "command": ["true"] });
    made(context, change("workspace_exec", format!("{path}/exec"), body, &["workspace_exec"]), tested).await;
    let body = json!({ "description": "work" });
    let submit = change("task_submit", format!("{path}/tasks"), body, &["task_submitted"]);
    let task = text(&made(context, submit, tested).await["task_id"]);
    context.advance(&task, freehold_model::task::Event::HandedOver).await;
    context.advance(&task, freehold_model::task::Event::Started).await;
    let cancel = change("task_cancel", format!("{path}/task/cancel"), json!({}), &["task_cancel_requested"]);
    made(context, cancel, tested).await;
    let held = crate::approvals::held(context, &workspace).await.1;
    let body = json!({ "decision": "approve", "scope": "rule", "until": crate::approvals::soon() });
    let approval = format!("/v1/approvals/{held}");
    made(context, change("approval_decide", &approval, body, &["approval_decided"]), tested).await;
    made(context, change("approval_revoke", &approval, json!({}), &["approval_revoked"]), tested).await;
    let ended = &["workspace_status_changed", "task_completed"];
    made(context, change("workspace_stop", format!("{path}/stop"), json!({}), ended), tested).await;
    context.happen(&workspace, workspace::Event::PodGone).await;
    made(
        context,
        change("workspace_archive", format!("{path}/archive"), json!({}), &["workspace_archived"]),
        tested,
    )
    .await;
    let unarchived = &["workspace_unarchived"];
    made(context, change("workspace_unarchive", format!("{path}/unarchive"), json!({}), unarchived), tested)
        .await;
    context.post(&format!("{path}/archive"), &context.owner, json!({})).await.ok();
    made(context, change("workspace_delete", &path, json!({}), &["workspace_deleted"]), tested).await;
    let body = json!({ "role_name": "worker", "description": "work" });
    let created = &["workspace_created", "task_submitted"];
    made(context, change("task_create", "/v1/tasks", body, created), tested).await;
    let roles = context.get("/v1/agent-roles", &context.owner).await.ok();
    let role = text(&roles["agent_roles"][0]["id"]);
    let stop = format!("/v1/agent-roles/{role}/stop-workspaces");
    made(context, change("role_stop_workspaces", stop, json!({}), ended), tested).await;
    context.ready(&context.owner).await;
    let changed = &["workspace_status_changed"];
    made(context, change("workspace_stop_all", "/v1/workspaces/stop-all", json!({}), changed), tested).await;
}
