//! Approvals: a person decides about one held request, and the only function that changes an approval's status.
//!
//! Invariant: an approval is decided once. What was decided stays, except that a standing approval can be revoked.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ApprovalId, MemberId, Next, OrganizationId, TaskId, Timestamp, WorkspaceId, slugs};

slugs! {
    /// Where an approval stands.
    Status {
        /// The request is held, and nobody has decided.
        Pending => "pending",
        /// A person let it go on.
        Approved => "approved",
        /// A person refused it.
        Denied => "denied",
        /// Nobody decided in time: the request was denied.
        Expired => "expired",
        /// The hold ended without a decision: the request went nowhere.
        Abandoned => "abandoned",
        /// It was approved for its rule until a time, and that was taken back.
        Revoked => "revoked",
    }
}

slugs! {
    /// What can happen to an approval.
    Event {
        /// A person approves.
        Approve => "approve",
        /// A person denies.
        Deny => "deny",
        /// The time to decide is over.
        Expire => "expire",
        /// Whoever waited is gone.
        Abandon => "abandon",
        /// A person takes a standing approval back.
        Revoke => "revoke",
    }
}

slugs! {
    /// Why a request waits for a person.
    Reason {
        /// The rule that allows it says `approval: required`.
        ApprovalRequired => "approval_required",
        /// A budget that says `on_limit: ask` has no room for it.
        BudgetExceeded => "budget_exceeded",
    }
}

slugs! {
    /// What a person approves.
    Scope {
        /// This request.
        Once => "once",
        /// Every request of the workspace that this rule allows, until a time.
        Rule => "rule",
    }
}

slugs! {
    /// The document that a rule stands in.
    Origin {
        /// None: it is the platform's own.
        BuiltIn => "built_in",
        /// The provider's.
        Provider => "provider",
        /// The role's.
        Role => "role",
    }
}

slugs! {
    /// Why a hold ended without a decision.
    Abandonment {
        /// The client closed its connection, or its pod went away.
        ClientGone => "client_gone",
        /// The server was told to stop.
        ServerStopped => "server_stopped",
        /// The server ended at once, and said so at its next start.
        ServerRestarted => "server_restarted",
    }
}

/// Why an approval refuses what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It was decided, or is over.
    #[error("the approval is no longer pending")]
    AlreadyDecided,
    /// Nothing stands that could be revoked.
    #[error("the approval does not stand")]
    NotStanding,
}

/// The only place where an approval's status changes.
///
/// # Errors
/// [`Denied`], when a person asks for what is too late.
pub const fn next(status: Status, event: Event) -> Result<Next<Status>, Denied> {
    use Event as E;
    use Status as S;
    match (status, event) {
        (S::Pending, E::Approve) => Ok(Next::Go(S::Approved)),
        (S::Pending, E::Deny) => Ok(Next::Go(S::Denied)),
        (S::Pending, E::Expire) => Ok(Next::Go(S::Expired)),
        (S::Pending, E::Abandon) => Ok(Next::Go(S::Abandoned)),
        (S::Approved, E::Revoke) => Ok(Next::Go(S::Revoked)),
        // Whoever waited learns that it was decided meanwhile.
        (S::Approved | S::Denied | S::Expired | S::Abandoned | S::Revoked, E::Expire | E::Abandon)
        | (S::Revoked, E::Revoke) => Ok(Next::Ignore),
        (S::Approved | S::Denied | S::Expired | S::Abandoned | S::Revoked, E::Approve | E::Deny) => {
            Err(Denied::AlreadyDecided)
        }
        (S::Pending | S::Denied | S::Expired | S::Abandoned, E::Revoke) => Err(Denied::NotStanding),
    }
}

/// A rule, as approvals name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// The document it stands in.
    pub origin: Origin,
    /// Its capability.
    pub capability: String,
    /// Its name, or its place in the capability, such as `allow[2]`.
    pub rule: String,
}

/// A named value. What may be a secret is named and not shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The name.
    pub name: String,
    /// The value; absent where it is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The characters of a value that is not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_chars: Option<u64>,
}

/// A request's body, as far as it was read before asking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Body {
    /// Bytes that were read.
    pub bytes: u64,
    /// Whether that is all of it.
    pub is_whole: bool,
    /// The body, where it is JSON or a form and was read whole; values that may be secrets are not shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<Value>,
    /// The beginning of the body, where it is other text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What people are shown of a held request: decoded, bounded, without what may be a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The method.
    pub method: String,
    /// Host, with a port where it is not the scheme's.
    pub destination: String,
    /// The path, in the normal form that is matched and sent.
    pub path: String,
    /// Query parameters, decoded, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<Field>,
    /// Headers, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Field>,
    /// The body, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
    /// Trailers, what follows the body, where it was read whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trailers: Vec<Field>,
    /// Whether something was too long and is cut or left out.
    #[serde(default)]
    pub is_cut: bool,
}

/// A request that asks for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The approval's id, made by whoever asks.
    pub id: ApprovalId,
    /// The organization.
    pub organization_id: OrganizationId,
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The task, if any.
    pub task_id: Option<TaskId>,
    /// Why it asks.
    pub reason: Reason,
    /// The rule that allows it.
    pub rule: RuleRef,
    /// The digest of the policy that this rule is of.
    pub policy_digest: String,
    /// The request.
    pub shown: Shown,
    /// Since when it waits.
    pub created_at: Timestamp,
    /// When it is denied without a decision.
    pub expires_at: Timestamp,
}

/// An approval.
#[derive(Debug, Clone, PartialEq)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// The organization it belongs to.
    pub organization_id: OrganizationId,
    /// The workspace whose request it is about.
    pub workspace_id: WorkspaceId,
    /// The task, if any.
    pub task_id: Option<TaskId>,
    /// The member who created the workspace; none when an API key did.
    pub created_by: Option<MemberId>,
    /// Why it was asked.
    pub reason: Reason,
    /// The document that the rule stands in.
    pub origin: Origin,
    /// The rule's capability.
    pub capability: String,
    /// The rule.
    pub rule: String,
    /// The digest of the policy that the rule is of: a standing approval ends with it.
    pub policy_digest: String,
    /// The request.
    pub shown: Shown,
    /// Where it stands.
    pub status: Status,
    /// Why it was abandoned.
    pub abandonment: Option<Abandonment>,
    /// What was approved.
    pub scope: Option<Scope>,
    /// How long an approval for the rule stands.
    pub until: Option<Timestamp>,
    /// Who decided last.
    pub decided_by: Option<MemberId>,
    /// When it was decided, or ended otherwise.
    pub decided_at: Option<Timestamp>,
    /// What whoever decided had to say.
    pub comment: Option<String>,
    /// Since when the request waits.
    pub created_at: Timestamp,
    /// When it is denied without a decision.
    pub expires_at: Timestamp,
}

impl Approval {
    /// The row of a question about a workspace that this member created.
    pub fn pending(question: Question, created_by: Option<MemberId>) -> Self {
        let RuleRef { origin, capability, rule } = question.rule;
        Self {
            id: question.id,
            organization_id: question.organization_id,
            workspace_id: question.workspace_id,
            task_id: question.task_id,
            created_by,
            reason: question.reason,
            origin,
            capability,
            rule,
            policy_digest: question.policy_digest,
            shown: question.shown,
            status: Status::Pending,
            abandonment: None,
            scope: None,
            until: None,
            decided_by: None,
            decided_at: None,
            comment: None,
            created_at: question.created_at,
            expires_at: question.expires_at,
        }
    }

    /// The rule, as it is named.
    pub fn rule_ref(&self) -> RuleRef {
        RuleRef { origin: self.origin, capability: self.capability.clone(), rule: self.rule.clone() }
    }
}

/// What a person approved for a rule until a time. It ends with its time, with its policy, or when it is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The approval.
    pub id: ApprovalId,
    /// What is not asked any more.
    pub reason: Reason,
    /// The rule.
    pub rule: RuleRef,
    /// The digest of the policy that the rule is of. Another policy may mean something else by the same name.
    pub policy_digest: String,
    /// How long it stands.
    pub until: Timestamp,
}

impl Standing {
    /// Whether it answers such a question now.
    pub fn answers(&self, reason: Reason, rule: &RuleRef, policy_digest: &str, now: Timestamp) -> bool {
        now < self.until && self.reason == reason && self.rule == *rule && self.policy_digest == policy_digest
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn the_table_of_statuses_and_events_is_the_golden_one() {
        let mut table = String::new();
        for &status in Status::ALL {
            for &event in Event::ALL {
                writeln!(table, "{status:10} {event:8} {:?}", next(status, event)).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn only_who_waits_can_be_approved() {
        for &status in Status::ALL {
            let approved = next(status, Event::Approve) == Ok(Next::Go(Status::Approved));
            assert_eq!(approved, status == Status::Pending);
        }
    }
}
