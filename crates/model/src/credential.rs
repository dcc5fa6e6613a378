//! Credentials: what egress injects, and the only function that changes their status.

use std::collections::BTreeMap;

use crate::{CredentialId, MemberId, Next, OrganizationId, Timestamp, slugs};

slugs! {
    /// How the credential is presented upstream.
    Kind {
        /// A key in a header, in the form of its provider.
        ApiKey => "api_key",
        /// HTTP Basic.
        BasicAuth => "basic_auth",
        /// A key in the query string.
        QueryApiKey => "query_api_key",
    }
}

slugs! {
    /// Whether egress can use it.
    Status {
        /// Usable.
        Active => "active",
        /// The owner must consent or enter it again.
        NeedsReauth => "needs_reauth",
        /// It cannot be used; see `last_minted_status`.
        Failed => "failed",
        /// Deleted or withdrawn.
        Revoked => "revoked",
    }
}

slugs! {
    /// What can happen to a credential.
    Event {
        /// Egress used or minted it.
        Minted => "minted",
        /// A terminal refusal by its issuer.
        Refused => "refused",
        /// Its stored secret cannot be read.
        Unreadable => "unreadable",
        /// Somebody deleted it.
        Revoked => "revoked",
    }
}

/// The only place where a credential's status changes.
pub fn next(status: Status, event: Event) -> Next<Status> {
    match (status, event) {
        (Status::Revoked, _) => Next::Ignore,
        (_, Event::Revoked) => Next::Go(Status::Revoked),
        (Status::NeedsReauth | Status::Failed, Event::Minted) => Next::Go(Status::Active),
        (Status::Active | Status::Failed, Event::Refused) => Next::Go(Status::NeedsReauth),
        (Status::Active | Status::NeedsReauth, Event::Unreadable) => Next::Go(Status::Failed),
        (Status::Active, Event::Minted)
        | (Status::NeedsReauth, Event::Refused)
        | (Status::Failed, Event::Unreadable) => Next::Ignore,
    }
}

/// A credential without its secret, which only the vault holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its id.
    pub id: CredentialId,
    /// The organization it belongs to.
    pub organization_id: OrganizationId,
    /// Its owner, for personal ones.
    pub member_id: Option<MemberId>,
    /// Its name, which providers and transforms refer to.
    pub name: String,
    /// Whose service it is for; decides the form of injection.
    pub provider: String,
    /// How it is presented.
    pub kind: Kind,
    /// Scopes asked for, where the kind has them.
    pub scopes: Vec<String>,
    /// Settings that are not secret.
    pub provider_config: BTreeMap<String, String>,
    /// When it was last used with success.
    pub last_minted_at: Option<Timestamp>,
    /// The code of the latest attempt.
    pub last_minted_status: Option<String>,
    /// Whether egress can use it.
    pub status: Status,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub updated_at: Timestamp,
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
                writeln!(table, "{status:13} {event:11} {:?}", next(status, event)).unwrap();
            }
        }
        insta::assert_snapshot!(table);
    }
}
