//! The closed set of reasons for what did not go out, and the answer that the client sees.

use std::fmt;

use bytes::Bytes;
use freehold_model::EventId;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

/// Why a request, connection or question was refused, or why an allowed request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The policy says so.
    Policy(freehold_policy::Reason),
    /// The workspace has no grant.
    NoGrant,
    /// The pod has no valid token.
    NoToken,
    /// The token of the connection has expired and was not renewed.
    TokenExpired,
    /// Address, SNI, `Host`, `:authority` and request line do not name the same destination.
    AuthorityMismatch,
    /// The path has no normal form.
    PathAmbiguous,
    /// The request could be read in two ways, such as a body with both lengths.
    RequestMalformed,
    /// The request has more headers than the limit, or more bytes of them.
    HeadTooLarge,
    /// A key of somebody's own for the provider's domain.
    ForeignCredential,
    /// The credential cannot be resolved.
    AuthUnavailable,
    /// A transform could not change the request.
    TransformFailed,
    /// Too many bodies of the pod are looked into at once.
    BodiesFull,
    /// The name leads to an address inside.
    AddressForbidden,
    /// The connection was to an address that no connection may have.
    DestinationForbidden,
    /// The connection was to a made-up address that was never given out.
    AddressUnknown,
    /// Neither TLS nor HTTP; or HTTP/2 without TLS.
    ProtocolUnknown,
    /// The TLS handshake was not completed.
    HandshakeFailed,
    /// The workspace has asked for too many names.
    NamesExhausted,
    /// A person was asked and denies it.
    ApprovalDenied,
    /// A person was asked and did not decide in time.
    ApprovalExpired,
    /// Nobody waits for the decision any more.
    ApprovalAbandoned,
    /// Too many requests wait for people already.
    ApprovalsFull,
    /// Nobody can be asked.
    ApprovalUnavailable,
    /// The destination is the control plane itself.
    ControlPlaneForbidden,
    /// A budget has no more room for it.
    BudgetExceeded,
    /// A budget cannot say how much it is.
    BudgetUncountable,
    /// Budgets cannot be counted now.
    BudgetUnavailable,
    /// The audit log cannot take the row.
    AuditUnavailable,
    /// The workspace has as many connections to upstreams as it may, and none became free in time.
    ConnectionsFull,
    /// The upstream's name does not resolve.
    UpstreamUnresolved,
    /// The upstream takes no connection, or not in time.
    UpstreamUnreachable,
    /// The upstream speaks no TLS, or none that is spoken here.
    UpstreamTls,
    /// Nobody who is trusted vouches for the upstream's certificate.
    UpstreamUntrusted,
    /// The upstream's certificate is for another name, or out of date.
    UpstreamCertificate,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream broke off.
    UpstreamFailed,
    /// The upstream compressed a response in which a credential would be looked for.
    UpstreamEncoded,
    /// Not a denial: the upstream repeated a credential, which was struck out of its response.
    SecretMasked,
}

impl Reason {
    /// The reason's spelling in audit rows and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Policy(reason) => reason.as_str(),
            Self::NoGrant => "no_grant",
            Self::NoToken => "no_token",
            Self::TokenExpired => "token_expired",
            Self::AuthorityMismatch => "authority_mismatch",
            Self::PathAmbiguous => "path_ambiguous",
            Self::RequestMalformed => "request_malformed",
            Self::HeadTooLarge => "head_too_large",
            Self::ForeignCredential => "foreign_credential",
            Self::AuthUnavailable => "auth_unavailable",
            Self::TransformFailed => "transform_failed",
            Self::BodiesFull => "bodies_full",
            Self::AddressForbidden => "address_forbidden",
            Self::DestinationForbidden => "destination_forbidden",
            Self::AddressUnknown => "address_unknown",
            Self::ProtocolUnknown => "protocol_unknown",
            Self::HandshakeFailed => "handshake_failed",
            Self::NamesExhausted => "names_exhausted",
            Self::ApprovalDenied => "approval_denied",
            Self::ApprovalExpired => "approval_expired",
            Self::ApprovalAbandoned => "approval_abandoned",
            Self::ApprovalsFull => "approvals_full",
            Self::ApprovalUnavailable => "approval_unavailable",
            Self::ControlPlaneForbidden => "control_plane_forbidden",
            Self::BudgetExceeded => "budget_exceeded",
            Self::BudgetUncountable => "budget_uncountable",
            Self::BudgetUnavailable => "budget_unavailable",
            Self::AuditUnavailable => "audit_unavailable",
            Self::ConnectionsFull => "connections_full",
            Self::UpstreamUnresolved => "upstream_unresolved",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamUntrusted => "upstream_untrusted",
            Self::UpstreamCertificate => "upstream_certificate",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamEncoded => "upstream_encoded",
            Self::SecretMasked => "secret_masked",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::AuthorityMismatch => StatusCode::MISDIRECTED_REQUEST,
            Self::RequestMalformed => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            // It went out; it is the answer that may not come in.
            Self::Policy(reason) if reason.is_of_response() => StatusCode::BAD_GATEWAY,
            Self::AuditUnavailable
            | Self::ApprovalUnavailable
            | Self::BodiesFull
            | Self::ConnectionsFull
            | Self::BudgetUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamUnresolved
            | Self::UpstreamUnreachable
            | Self::UpstreamTls
            | Self::UpstreamUntrusted
            | Self::UpstreamCertificate
            | Self::UpstreamFailed
            | Self::UpstreamEncoded => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::FORBIDDEN,
        }
    }

    /// Whether no connection to the upstream came about.
    pub(crate) const fn is_before_upstream(self) -> bool {
        matches!(
            self,
            Self::ConnectionsFull
                | Self::UpstreamUnresolved
                | Self::UpstreamUnreachable
                | Self::UpstreamTls
                | Self::UpstreamUntrusted
                | Self::UpstreamCertificate
                | Self::AddressForbidden
                | Self::ControlPlaneForbidden
        )
    }

    /// Whether an allowed request failed upstream: not a denial.
    pub const fn is_upstream(self) -> bool {
        matches!(
            self,
            Self::UpstreamUnresolved
                | Self::UpstreamUnreachable
                | Self::UpstreamTls
                | Self::UpstreamUntrusted
                | Self::UpstreamCertificate
                | Self::UpstreamTimeout
                | Self::UpstreamFailed
                | Self::UpstreamEncoded
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What fails for a reason says so by its chain of sources.
impl std::error::Error for Reason {}

/// The answer to a request that was not passed on. Names the destination and the reason, nothing of the policy.
pub(crate) fn response(reason: Reason, destination: &str, id: EventId) -> Response<Full<Bytes>> {
    let (code, message) = if reason.is_upstream() {
        ("egress_failed", format!("{destination} did not answer: {}", reason.as_str()))
    } else {
        ("egress_denied", format!("the request to {destination} was not allowed: {}", reason.as_str()))
    };
    let body = serde_json::json!({
        "error": {
            "code": code,
            "message": message,
            "reason": reason.as_str(),
            "destination": destination,
            "decision_id": id.to_string(),
        }
    });
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = reason.status();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use freehold_policy::Reason;

    #[test]
    fn every_reason_is_described_in_the_reference() {
        let (page, own) = (include_str!("../../../docs/caps-yaml.md"), include_str!("deny.rs"));
        // Each spelling stands in this file behind an arrow.
        let own = own.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next());
        let reasons: Vec<_> = own.chain(Reason::ALL.iter().map(|reason| reason.as_str())).collect();
        assert!(reasons.len() > 50, "{reasons:?}");
        for reason in reasons {
            assert!(page.contains(&format!("`{reason}`")), "{reason}");
        }
    }
}
