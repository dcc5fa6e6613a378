//! The store's tests, all of them on SQLite and on a private PostgreSQL server.

mod audit;
mod faults;
mod fixture;
mod opening;
mod organizations;
mod resources;
mod sessions;
mod signals;
mod tasks;
mod transactions;

/// Runs each test on both databases. The tests get a [`fixture::Fixture`] with one organization.
macro_rules! on_both_databases {
    ($(async fn $name:ident($fixture:ident) $body:block)+) => {$(
        mod $name {
            use super::*;

            async fn check($fixture: crate::fixture::Fixture) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                check(crate::fixture::Fixture::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgresql() {
                check(crate::fixture::Fixture::postgresql().await).await;
            }
        }
    )+};
}
pub(crate) use on_both_databases;
