//! Capability tokens: signed, short-lived statements of whose traffic a pod's traffic is.
//!
//! Invariant: a token never enters the pod; the agent can neither read nor forge one.

use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use freehold_model::{OrganizationId, SessionId, TaskId, Timestamp, WorkspaceId};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// The `aud` of every token.
const AUDIENCE: &str = "freehold-egress";

/// Why a token cannot be made or is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key cannot be generated.
    #[error("failed to generate a signing key")]
    Key,
    /// The token cannot be signed, or its signature, form or age is wrong.
    #[error("the token is malformed, expired or not signed by this control plane")]
    Jwt(#[from] jsonwebtoken::errors::Error),
    /// It is another organization's or workspace's.
    #[error("the token is another workspace's")]
    Subject,
}

/// Whose traffic it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The organization.
    pub organization_id: OrganizationId,
    /// The workspace.
    pub workspace_id: WorkspaceId,
    /// The workspace's session.
    pub session_id: SessionId,
    /// The running task; `None` for traffic outside tasks.
    pub task_id: Option<TaskId>,
    /// The name of the role.
    pub role: String,
    /// The digest of the policy in force when it was made. Evidence, not a pin.
    pub policy_digest: String,
    /// The member to name in audit rows: the workspace's creator.
    pub user_id: String,
}

impl Subject {
    /// The session and the task that traffic is attributed to.
    pub(crate) const fn whose(&self) -> (SessionId, Option<TaskId>) {
        (self.session_id, self.task_id)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    aud: String,
    org: OrganizationId,
    workspace: WorkspaceId,
    session: SessionId,
    /// Empty without a task.
    task: String,
    role: String,
    policy: String,
    user_id: String,
    exp: i64,
    jti: String,
}

/// A verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whose traffic it is.
    pub subject: Subject,
    /// When it stops to count.
    pub expires_at: Timestamp,
}

/// Makes tokens. Only the control plane holds one.
pub struct Minter {
    key: EncodingKey,
    public: Vec<u8>,
}

impl Minter {
    /// A minter with a fresh key. Tokens are short-lived, so that the key need not outlive the process.
    pub fn generate() -> Result<Self, Error> {
        let pair = Ed25519KeyPair::generate().map_err(|_| Error::Key)?;
        let document = pair.to_pkcs8v1().map_err(|_| Error::Key)?;
        let public = pair.public_key().as_ref().to_vec();
        Ok(Self { key: EncodingKey::from_ed_der(document.as_ref()), public })
    }

    /// What checks this minter's tokens.
    pub fn verifier(&self) -> Verifier {
        Verifier { key: DecodingKey::from_ed_der(&self.public) }
    }

    /// A token for `subject` that counts for `lifetime` from now.
    pub fn mint(&self, subject: &Subject, lifetime: Duration) -> Result<String, Error> {
        let seconds = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        let claims = Claims {
            aud: AUDIENCE.to_owned(),
            org: subject.organization_id,
            workspace: subject.workspace_id,
            session: subject.session_id,
            task: subject.task_id.map(|id| id.to_string()).unwrap_or_default(),
            role: subject.role.clone(),
            policy: subject.policy_digest.clone(),
            user_id: subject.user_id.clone(),
            exp: Timestamp::now().as_second().saturating_add(seconds),
            jti: uuid::Uuid::now_v7().simple().to_string(),
        };
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.key)?)
    }
}

/// Checks tokens of one [`Minter`].
#[derive(Clone)]
pub struct Verifier {
    key: DecodingKey,
}

impl Verifier {
    /// Checks signature, audience, form and age.
    pub fn verify(&self, token: &str) -> Result<Verified, Error> {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = 0;
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "aud"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &self.key, &validation)?.claims;
        let task_id = match claims.task.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Error::Subject)?),
        };
        let expires_at = Timestamp::from_second(claims.exp).map_err(|_| Error::Subject)?;
        if expires_at <= Timestamp::now() {
            // The library still takes a token in the second it expires.
            return Err(Error::Jwt(jsonwebtoken::errors::ErrorKind::ExpiredSignature.into()));
        }
        Ok(Verified {
            subject: Subject {
                organization_id: claims.org,
                workspace_id: claims.workspace,
                session_id: claims.session,
                task_id,
                role: claims.role,
                policy_digest: claims.policy,
                user_id: claims.user_id,
            },
            expires_at,
        })
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn subject(task: Option<u128>) -> Subject {
        Subject {
            organization_id: OrganizationId::from_uuid(Uuid::from_u128(1)),
            workspace_id: WorkspaceId::from_uuid(Uuid::from_u128(2)),
            session_id: SessionId::from_uuid(Uuid::from_u128(4)),
            task_id: task.map(|n| TaskId::from_uuid(Uuid::from_u128(n))),
            role: "reviewer".to_owned(),
            policy_digest: "abc".to_owned(),
            user_id: "user_1".to_owned(),
        }
    }

    #[test]
    fn a_token_says_what_was_put_in() {
        let minter = Minter::generate().unwrap();
        for task in [None, Some(3)] {
            let token = minter.mint(&subject(task), Duration::from_secs(60)).unwrap();
            let verified = minter.verifier().verify(&token).unwrap();
            assert_eq!(verified.subject, subject(task));
            assert!(verified.expires_at > Timestamp::now());
        }
    }

    #[test]
    fn an_expired_changed_or_foreign_token_is_refused() {
        let minter = Minter::generate().unwrap();
        let expired = minter.mint(&subject(None), Duration::ZERO).unwrap();
        assert!(minter.verifier().verify(&expired).is_err());
        let token = minter.mint(&subject(None), Duration::from_secs(60)).unwrap();
        assert!(Minter::generate().unwrap().verifier().verify(&token).is_err());
        let mut parts: Vec<&str> = token.split('.').collect();
        // {"alg":"none"}
        parts[0] = "eyJhbGciOiJub25lIn0";
        for forged in
            [parts.join("."), format!("{}.{}.", parts[0], parts[1]), String::new(), "a.b.c".to_owned()]
        {
            assert!(minter.verifier().verify(&forged).is_err(), "{forged}");
        }
    }
}
