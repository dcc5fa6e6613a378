//! Wires egress to people: held requests are rows of the store, where they are shown and decided.

use async_trait::async_trait;
use freehold_app::{
    Error,
    fleet::{Asked, End, Fleet},
};
use freehold_egress::{Answer, Approvals, Ended};
use freehold_model::{
    ApprovalId, OrganizationId,
    approval::{Approval, Question, Status},
};

/// Asks people through the store.
pub struct StoreApprovals(pub Fleet);

#[async_trait]
impl Approvals for StoreApprovals {
    async fn ask(&self, question: Question) -> Answer {
        let (organization, id) = (question.organization_id, question.id);
        match self.0.approval_ask(question).await {
            Ok(Asked::Stands(by)) => Answer::Approved(by),
            Ok(Asked::Waits) => match self.0.approval_decided(organization, id).await {
                Ok(approval) => answer(&approval),
                Err(error) => unavailable(id, &error),
            },
            Err(error) => unavailable(id, &error),
        }
    }

    async fn end(&self, organization: OrganizationId, id: ApprovalId, how: Ended) -> Answer {
        let end = match how {
            Ended::Expired => End::Expired,
            Ended::Abandoned(why) => End::Abandoned(why),
        };
        match self.0.approval_end(organization, id, end).await {
            Ok(Some(approval)) => answer(&approval),
            // It was never asked.
            Ok(None) => Answer::Unavailable,
            // The next start ends it.
            Err(error) => unavailable(id, &error),
        }
    }
}

fn answer(approval: &Approval) -> Answer {
    match approval.status {
        Status::Approved => Answer::Approved(approval.id),
        Status::Denied => Answer::Denied,
        Status::Expired => Answer::Expired,
        Status::Abandoned | Status::Revoked => Answer::Abandoned,
        Status::Pending => Answer::Unavailable,
    }
}

fn unavailable(id: ApprovalId, error: &Error) -> Answer {
    tracing::warn!(approval.id = %id, error = error as &dyn std::error::Error, "nobody can be asked about a request");
    Answer::Unavailable
}
