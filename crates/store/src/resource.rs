//! One file for each resource: the methods of [`OrgRead`](crate::OrgRead) and [`OrgTx`](crate::OrgTx) on it, and of
//! their siblings that cross organizations.

pub(crate) mod api_key;
pub(crate) mod approval;
pub(crate) mod audit;
pub(crate) mod budget;
pub(crate) mod credential;
pub(crate) mod idempotency;
pub(crate) mod member;
pub(crate) mod organization;
pub(crate) mod provider;
pub(crate) mod role;
pub(crate) mod secret;
pub(crate) mod session;
pub(crate) mod task;
pub(crate) mod upload;
pub(crate) mod workspace;
