//! What proves the audit log: checkpoints, keys, and the export, whose lines are written here byte for byte.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use freehold_api::{
    audit::{
        AuditExportEnd, AuditExportKey, AuditExportLine, AuditExportQuery, AuditKeyList, CheckpointListQuery,
    },
    limits::PAGE_DEFAULT,
};
use freehold_app::{
    Error, Page,
    proof::{Export, Piece},
};
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream, stream::BoxStream};
use sha2::{Digest, Sha256};

use crate::{
    call::{Call, Handler},
    cursor,
    error::Failure,
    list, wire,
};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("audit_export", |call| Box::pin(audit_export(call))),
    ("audit_checkpoint_list", |call| Box::pin(audit_checkpoint_list(call))),
    ("audit_key_list", |call| Box::pin(audit_key_list(call))),
];

/// The version of the form of an export.
const FORM: u32 = 1;

async fn audit_checkpoint_list(mut call: Call) -> Result<Response, Failure> {
    let query: CheckpointListQuery = call.query()?;
    let limit = query.limit.unwrap_or(PAGE_DEFAULT);
    let page = Page { after: cursor::id(query.cursor.as_deref())?, limit: list::probe(limit) };
    let found = call.app().audit_checkpoint_list(call.actor()?, page).await?;
    list::page(&call, Some("checkpoints"), limit, found, |one| one.number.to_string(), wire::checkpoint)
}

async fn audit_key_list(call: Call) -> Result<Response, Failure> {
    let keys = call.app().audit_key_list(call.actor()?).await?;
    call.json(&AuditKeyList { keys: keys.into_iter().map(wire::audit_key).collect() })
}

async fn audit_export(mut call: Call) -> Result<Response, Failure> {
    let query: AuditExportQuery = call.query()?;
    let export = call.app().audit_export(call.actor()?, query.after.unwrap_or(0)).await?;
    let header = header(&export);
    let state = State {
        until: export.until,
        pieces: export.pieces().boxed(),
        digest: Sha256::new(),
        revoked: call.revoked(),
        header: Some(header),
        is_done: false,
    };
    // What breaks off has no last line, which whoever reads it sees.
    let lines = stream::try_unfold(state, State::step);
    let lines = lines.map_err(|error: Error| std::io::Error::other(error.to_string()));
    Ok(call.answer("application/x-ndjson", Body::from_stream(lines)))
}

struct State {
    pieces: BoxStream<'static, Result<Vec<Piece>, Error>>,
    /// Of all that was written: the last line tells it, and the number of the last row.
    digest: Sha256,
    until: u64,
    revoked: BoxFuture<'static, ()>,
    header: Option<AuditExportLine>,
    is_done: bool,
}

impl State {
    async fn step(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        if self.is_done {
            return Ok(None);
        }
        let mut text = Vec::new();
        if let Some(header) = self.header.take() {
            text = line(&header);
            self.digest.update(&text);
            return Ok(Some((text.into(), self)));
        }
        let pieces = tokio::select! {
            biased;
            () = &mut self.revoked => return Ok(None),
            pieces = self.pieces.next() => pieces,
        };
        match pieces {
            Some(pieces) => {
                for piece in pieces? {
                    write(&mut text, piece)?;
                }
                self.digest.update(&text);
            }
            None => {
                self.is_done = true;
                let sha256 = hex::encode(std::mem::take(&mut self.digest).finalize());
                text = line(&AuditExportLine::End { end: AuditExportEnd { seq: self.until, sha256 } });
            }
        }
        Ok(Some((text.into(), self)))
    }
}

fn header(export: &Export) -> AuditExportLine {
    let key = |key: &freehold_app::proof::AuditKey| AuditExportKey {
        id: key.id.clone(),
        public_key: hex::encode(key.public_key),
    };
    AuditExportLine::Header {
        freehold_audit: FORM,
        organization: export.organization,
        after: export.after,
        previous: hex::encode(export.previous),
        keys: export.keys.iter().map(key).collect(),
    }
}

fn line(line: &AuditExportLine) -> Vec<u8> {
    let mut text = wire::bytes(line);
    text.push(b'\n');
    text
}

/// A row and a checkpoint are written as the very bytes that were hashed and signed.
fn write(text: &mut Vec<u8>, piece: Piece) -> Result<(), Error> {
    match piece {
        Piece::Row(row) => {
            text.extend_from_slice(b"{\"hash\":\"");
            text.extend_from_slice(hex::encode(row.hash).as_bytes());
            text.extend_from_slice(b"\",\"row\":");
            text.extend_from_slice(&row.canonical()?);
            text.extend_from_slice(b"}\n");
        }
        Piece::Checkpoint(signed) => {
            text.extend_from_slice(b"{\"checkpoint\":");
            text.extend_from_slice(signed.payload.as_bytes());
            text.extend_from_slice(b",\"signature\":\"");
            text.extend_from_slice(hex::encode(&signed.signature).as_bytes());
            text.extend_from_slice(b"\"}\n");
        }
    }
    Ok(())
}
