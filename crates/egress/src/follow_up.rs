//! A second row about a request whose first one is written: what was found when it was under way.

use std::{collections::BTreeMap, sync::Arc};

use freehold_model::{
    EventId, Timestamp,
    audit::{AuditEvent, Decision},
};
use serde_json::json;

use crate::{deny::Reason, pod::Pod};

/// Where in an exchange something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    RequestBody,
    ResponseHeaders,
    ResponseBody,
}

impl Phase {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::RequestBody => "request_body",
            Self::ResponseHeaders => "response_headers",
            Self::ResponseBody => "response_body",
        }
    }
}

/// A row that may still be written about a request.
#[derive(Clone)]
pub(crate) struct FollowUp {
    pod: Arc<Pod>,
    row: Arc<AuditEvent>,
}

impl FollowUp {
    /// `row` is the request's own, complete.
    pub(crate) const fn new(pod: Arc<Pod>, row: Arc<AuditEvent>) -> Self {
        Self { pod, row }
    }

    pub(crate) const fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    pub(crate) fn row(&self) -> &AuditEvent {
        &self.row
    }

    /// Names the counters that stopped it.
    pub(crate) fn with_ceilings(mut self, ceilings: BTreeMap<String, String>) -> Self {
        Arc::make_mut(&mut self.row).budget_ceilings = ceilings;
        self
    }

    /// Writes a row that says what was found. It comes after the fact, and nothing waits for it.
    pub(crate) fn found(self, phase: Phase, reason: Reason) {
        let (pod, row) = self.made(phase, reason);
        tokio::spawn(async move { pod.record(&row).await });
    }

    /// Writes a row that says that something was cut off or not passed on. False: it is not written.
    pub(crate) async fn denied(self, phase: Phase, reason: Reason) -> bool {
        let (pod, mut row) = self.made(phase, reason);
        row.decision = Some(Decision::Deny);
        pod.record(&row).await
    }

    /// The same where nothing can wait for it.
    pub(crate) fn cut(self, phase: Phase, reason: Reason) {
        tokio::spawn(self.denied(phase, reason));
    }

    fn made(self, phase: Phase, reason: Reason) -> (Arc<Pod>, AuditEvent) {
        let Self { pod, row } = self;
        let mut row = Arc::unwrap_or_clone(row);
        let decision = std::mem::replace(&mut row.id, EventId::from_uuid(uuid::Uuid::now_v7()));
        row.timestamp = Timestamp::now();
        row.phase = Some(phase.as_str().to_owned());
        row.reason = Some(reason.as_str().to_owned());
        row.detail = Some(json!({ "decision_id": decision.to_string() }));
        (pod, row)
    }
}
