//! Activity and audit, as pages and as streams.

use axum::response::Response;
use freehold_api::{
    audit::{ActivityListQuery, AuditListQuery, Order},
    limits::PAGE_DEFAULT,
};
use freehold_app::{AuditFilter, AuditRow, Page};
use freehold_model::Timestamp;

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
    let query: AuditListQuery = call.query()?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    let filter = AuditFilter {
        from: query.from,
        to: query.to,
        order: order(query.order.unwrap_or(Order::Desc)),
        ..AuditFilter::default()
    };
    let page = Page { after: cursor::row(query.cursor.as_deref())?, limit: list::probe(limit) };
    let rows = call.app().workspace_audit_list(call.actor()?, id(&call)?, filter, page).await?;
    respond(&call, limit, rows)
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

fn respond(call: &Call, limit: u32, rows: Vec<AuditRow>) -> Result<Response, Failure> {
    let place = |row: &AuditRow| cursor::of_row(row.event.timestamp, row.event.id);
    list::page(call, Some("events"), limit, rows, place, |row| wire::audit_event(row.event))
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
