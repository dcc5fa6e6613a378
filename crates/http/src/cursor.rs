//! Cursors: opaque to clients, the place of the last entry of a page to us.

use std::str::FromStr;

use freehold_api::error::ErrorCode;
use freehold_model::{EventId, Timestamp};

use crate::error::Failure;

/// Reads a cursor that is an id.
pub(crate) fn id<T: FromStr>(cursor: Option<&str>) -> Result<Option<T>, Failure> {
    cursor.map(str::parse).transpose().map_err(|_| Failure::of(ErrorCode::InvalidCursor))
}

/// The cursor of a row of the audit log.
pub(crate) fn of_row(timestamp: Timestamp, id: EventId) -> String {
    format!("{}.{id}", timestamp.as_microsecond())
}

/// Reads the cursor of a row of the audit log.
pub(crate) fn row(cursor: Option<&str>) -> Result<Option<(Timestamp, EventId)>, Failure> {
    let read = |cursor: &str| {
        let (time, id) = cursor.split_once('.')?;
        Some((Timestamp::from_microsecond(time.parse().ok()?).ok()?, id.parse().ok()?))
    };
    cursor.map(|cursor| read(cursor).ok_or_else(|| Failure::of(ErrorCode::InvalidCursor))).transpose()
}
