//! The store's tests, all of them on SQLite and on a private PostgreSQL server.

#[cfg(test)]
mod audit;
#[cfg(test)]
mod budgets;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod opening;
#[cfg(test)]
mod organizations;
#[cfg(test)]
mod resources;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod signals;
#[cfg(test)]
mod tasks;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod transactions;

/// Runs each test on both databases. The tests get a [`fixture::Fixture`] with one organization.
macro_rules! on_both_databases {
    ($(async fn $name:ident($fixture:ident) $body:block)+) => {$(
        async fn $name($fixture: crate::fixture::Fixture) $body

        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name(crate::fixture::Fixture::sqlite().await).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgresql() {
                super::$name(crate::fixture::Fixture::postgresql().await).await;
            }
        }
    )+};
}
pub(crate) use on_both_databases;
