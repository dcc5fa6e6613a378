//! Credentials: what egress injects, and the only function that changes their status.

use std::collections::BTreeMap;

use crate::{CredentialId, MemberId, Next, OrganizationId, Timestamp, slugs};

slugs! {
    /// How the credential is obtained and presented.
    Kind {
        /// A person's consent: a refresh token, exchanged for access tokens.
        Oauth2AuthorizationCode => "oauth2_authorization_code",
        /// A client's own id and secret, exchanged for access tokens.
        Oauth2ClientCredentials => "oauth2_client_credentials",
        /// An assertion signed with a service account's key, exchanged for access tokens.
        Oauth2JwtBearer => "oauth2_jwt_bearer",
        /// The same, on behalf of the person that the assertion names.
        Oauth2JwtBearerWithSubject => "oauth2_jwt_bearer_with_subject",
        /// A client that proves itself by an assertion signed with its own key.
        Oauth2ClientAssertion => "oauth2_client_assertion",
        /// A key in a header, in the form of its provider.
        ApiKey => "api_key",
        /// HTTP Basic.
        BasicAuth => "basic_auth",
        /// A key in the query string.
        QueryApiKey => "query_api_key",
        /// A key that signs each request by AWS Signature Version 4.
        AwsSigv4 => "aws_sigv4",
    }
}

impl Kind {
    /// Whether an issuer is asked for access tokens.
    pub const fn is_minted(self) -> bool {
        match self {
            Self::Oauth2AuthorizationCode
            | Self::Oauth2ClientCredentials
            | Self::Oauth2JwtBearer
            | Self::Oauth2JwtBearerWithSubject
            | Self::Oauth2ClientAssertion => true,
            Self::ApiKey | Self::BasicAuth | Self::QueryApiKey | Self::AwsSigv4 => false,
        }
    }

    /// The status of a new credential: one that a person must consent to cannot be used before.
    pub const fn first_status(self) -> Status {
        match self {
            Self::Oauth2AuthorizationCode => Status::NeedsReauth,
            Self::Oauth2ClientCredentials
            | Self::Oauth2JwtBearer
            | Self::Oauth2JwtBearerWithSubject
            | Self::Oauth2ClientAssertion
            | Self::ApiKey
            | Self::BasicAuth
            | Self::QueryApiKey
            | Self::AwsSigv4 => Status::Active,
        }
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

/// The name under which a policy has one credential alone, whatever gets its name later: `main@cred_…`; none at all where it
/// is not known which. No credential's own name has an `@`.
pub fn bound(name: &str, id: Option<CredentialId>) -> String {
    match id {
        Some(id) => format!("{name}@{id}"),
        None => format!("{name}@unknown"),
    }
}

/// Which credentials a policy's name stands for: those of this name or, where it is [`bound`], the one of them with this
/// id. `None` when it is bound to none.
pub fn unbound(text: &str) -> Option<(&str, Option<CredentialId>)> {
    match text.split_once('@') {
        Some((name, id)) => Some((name, Some(id.parse().ok()?))),
        None => Some((text, None)),
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
    /// Whether members may have one of their own in its stead.
    pub allow_user_override: bool,
    /// When it was last obtained with success.
    pub last_minted_at: Option<Timestamp>,
    /// The code of the latest attempt.
    pub last_minted_status: Option<String>,
    /// Whether egress can use it.
    pub status: Status,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it, its secret or its status last changed; what is noted of each attempt to obtain it does not count.
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn a_bound_name_stands_for_one_credential_or_for_none() {
        let id = CredentialId::from_uuid(uuid::Uuid::from_u128(7));
        assert_eq!(unbound("main"), Some(("main", None)));
        assert_eq!(unbound(&bound("main", Some(id))), Some(("main", Some(id))));
        assert_eq!(unbound(&bound("main", None)), None);
    }

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
