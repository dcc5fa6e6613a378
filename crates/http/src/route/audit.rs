//! Activity and audit, as pages and as streams.

use axum::response::Response;
use freehold_api::{
    audit::{AccessReviewQuery, ActivityListQuery, AuditListQuery, Order},
    error::ErrorCode,
    limits::PAGE_DEFAULT,
};
use freehold_app::{AuditFilter, AuditPage, Page, ReviewFilter};
use freehold_model::{EventId, Timestamp, audit};

use super::workspace::id;
use crate::{
    call::{Call, Handler},
    cursor,
    error::Failure,
    list, sse, wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("workspace_activity_list", |call| Box::pin(workspace_activity_list(call))),
    ("workspace_activity_stream", |call| Box::pin(workspace_activity_stream(call))),
    ("workspace_audit_list", |call| Box::pin(workspace_audit_list(call))),
    ("audit_list", |call| Box::pin(audit_list(call))),
    ("role_access_review", |call| Box::pin(role_access_review(call))),
    ("activity_stream", |call| Box::pin(activity_stream(call))),
];

async fn workspace_activity_list(mut call: Call) -> Result<Response, Failure> {
    let query: ActivityListQuery = call.query()?;
    if query.after.is_some() && query.cursor.is_some() {
        return Err(Failure::field("after", "excludes `cursor`"));
    }
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    let filter = AuditFilter {
        task: query.task_id,
        event_types: query.event_type.into_iter().collect(),
        from: query.after.map(just_after),
        order: order(query.order.unwrap_or(Order::Asc)),
        ..AuditFilter::default()
    };
    let page = Page { after: cursor::row(query.cursor.as_deref())?, limit: list::probe(limit) };
    let rows = call.app().workspace_activity_list(call.actor()?, id(&call)?, filter, page).await?;
    respond(&call, limit, rows)
}

async fn workspace_audit_list(mut call: Call) -> Result<Response, Failure> {
    let (limit, filter, page) = asked(&mut call)?;
    let rows = call.app().workspace_audit_list(call.actor()?, id(&call)?, filter, page).await?;
    respond(&call, limit, rows)
}

async fn audit_list(mut call: Call) -> Result<Response, Failure> {
    let (limit, filter, page) = asked(&mut call)?;
    let rows = call.app().audit_list(call.actor()?, filter, page).await?;
    respond(&call, limit, rows)
}

type Asked = (u32, AuditFilter, Page<(Timestamp, EventId)>);

/// What a list of the audit log is asked for.
fn asked(call: &mut Call) -> Result<Asked, Failure> {
    let query: AuditListQuery = call.query()?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    let condition = |text: &String| {
        text.parse().map_err(|error: audit::BadCondition| Failure::field("filter[]", error.to_string()))
    };
    let filter = AuditFilter {
        conditions: query.filter.iter().map(condition).collect::<Result<_, _>>()?,
        from: query.from,
        to: query.to,
        order: order(query.order.unwrap_or(Order::Desc)),
        ..AuditFilter::default()
    };
    let page = Page { after: cursor::row(query.cursor.as_deref())?, limit: list::probe(limit) };
    Ok((limit, filter, page))
}

async fn role_access_review(mut call: Call) -> Result<Response, Failure> {
    let query: AccessReviewQuery = call.query()?;
    let id = call.id("id", ErrorCode::RoleNotFound)?;
    let filter = ReviewFilter {
        decision: query.decision,
        policy_type: query.policy_type.map(|it| it.as_str().to_owned()),
        from: query.from,
        to: query.to,
    };
    let review = call.app().role_access_review(call.actor()?, id, filter).await?;
    call.json(&wire::access_review(review))
}

async fn workspace_activity_stream(mut call: Call) -> Result<Response, Failure> {
    let after = sse::last_event_id(&call)?;
    let listener = call.app().activity_listen(call.actor()?, Some(id(&call)?), after).await?;
    Ok(sse::respond(&mut call, listener))
}

async fn activity_stream(mut call: Call) -> Result<Response, Failure> {
    let after = sse::last_event_id(&call)?;
    let listener = call.app().activity_listen(call.actor()?, None, after).await?;
    Ok(sse::respond(&mut call, listener))
}

fn respond(call: &Call, limit: u32, page: AuditPage) -> Result<Response, Failure> {
    let AuditPage { mut rows, scanned_to } = page;
    let is_full = list::cut(&mut rows, limit);
    let last = rows.last().filter(|_| is_full).map(|row| (row.event.timestamp, row.event.id));
    let cursor = last.or(scanned_to).map(|(timestamp, id)| cursor::of_row(timestamp, id));
    list::answer(call, Some("events"), rows, cursor, |row| wire::audit_event(row.event))
}

/// The first moment later than this, as precise as rows are.
fn just_after(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond().saturating_add(1)).unwrap_or(time)
}

const fn order(order: Order) -> freehold_app::Order {
    match order {
        Order::Asc => freehold_app::Order::Ascending,
        Order::Desc => freehold_app::Order::Descending,
    }
}
