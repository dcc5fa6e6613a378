//! What the binary puts between egress and the store, and the bench as well: audit rows, and counts that all servers share.

use async_trait::async_trait;
use freehold_app::fleet::Fleet;
use freehold_egress::{
    AuditSink, SinkError,
    budget::{Ledger, LedgerError},
};
use freehold_model::{
    audit::AuditEvent,
    budget::{Ask, CounterKey, Leased},
};

/// Keeps egress's audit rows and its counts of budgets in the store.
pub struct EgressStore(pub Fleet);

#[async_trait]
impl AuditSink for EgressStore {
    async fn append(&self, rows: Vec<AuditEvent>) -> Result<(), SinkError> {
        self.0.audit(rows).await.map_err(Into::into)
    }
}

#[async_trait]
impl Ledger for EgressStore {
    async fn lease(&self, key: &CounterKey, ask: Ask) -> Result<Leased, LedgerError> {
        self.0.budget_lease(key.clone(), ask).await.map_err(Into::into)
    }

    async fn give_back(&self, parts: Vec<(CounterKey, u64)>) -> Result<(), LedgerError> {
        self.0.budget_give_back(parts).await.map_err(Into::into)
    }

    async fn overdraw(&self, key: &CounterKey, amount: u64) -> Result<u64, LedgerError> {
        self.0.budget_overdraw(key.clone(), amount).await.map_err(Into::into)
    }

    async fn warned(&self, key: &CounterKey) -> Result<(), LedgerError> {
        self.0.budget_warned(key.clone()).await.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use freehold_app::{fleet, uploads::ObjectUploads};
    use freehold_egress::budget::{Budgets, Charges, Options, Warning, WarningSink, Weight};
    use freehold_model::{OrganizationId, RoleId, SessionId, Timestamp, WorkspaceId, budget::Whose};
    use freehold_store::{Database, Organization, Store};
    use freehold_testkit::{
        model::{Nothing, permit},
        postgresql,
    };
    use object_store::memory::InMemory;
    use tokio_util::sync::CancellationToken;
    use uuid::Uuid;

    use super::*;

    /// Requests that pass, of all servers together.
    const LIMIT: u64 = 150;

    struct Unheard;

    #[async_trait]
    impl WarningSink for Unheard {
        async fn warned(&self, _: &Warning) -> bool {
            true
        }
    }

    fn charges(organization: OrganizationId, options: &Options) -> Charges {
        let whose = Whose {
            organization_id: organization,
            workspace_id: WorkspaceId::from_uuid(Uuid::now_v7()),
            role_id: RoleId::from_uuid(Uuid::now_v7()),
            session_id: SessionId::from_uuid(Uuid::now_v7()),
            task_id: None,
        };
        let budgets =
            format!("{{calls: {{unit: requests, per: organization, window: 366d, limit: {LIMIT}}}}}");
        Charges::new(
            permit(&budgets).counters(),
            &Weight::default(),
            &whose,
            options,
            &Nothing,
            Timestamp::now(),
        )
        .unwrap()
    }

    /// As a server has them, over this store.
    fn server(store: &Store) -> Budgets {
        let uploads = Arc::new(ObjectUploads::new(Arc::new(InMemory::new())));
        let fleet = Fleet::new(store.clone(), uploads, fleet::Settings::default());
        Budgets::new(Options::default(), Arc::new(EgressStore(fleet)))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn servers_on_one_database_share_a_limit_and_one_that_dies_takes_its_block_along() {
        let database = tokio::task::spawn_blocking(postgresql::Database::create).await.unwrap().unwrap();
        let options = freehold_store::Options::new(Database::Postgres { url: database.url() });
        let stores = [Store::open(&options).unwrap(), Store::open(&options).unwrap()];
        let organization = OrganizationId::from_uuid(Uuid::now_v7());
        let row =
            Organization { id: organization, name: "default".to_owned(), created_at: Timestamp::UNIX_EPOCH };
        stores[0].system_write(move |tx| tx.organization_insert(&row)).await.unwrap();

        let charges = charges(organization, &Options::default());
        let ask = async |budgets: &Budgets| match budgets.reserve(&charges).await {
            Ok(reservation) => {
                reservation.reached();
                true
            }
            Err(_) => false,
        };
        // One uses a part of what it leased, and dies.
        let dead = server(&stores[0]);
        let mut passed = 0;
        for _ in 0..7 {
            passed += u64::from(ask(&dead).await);
        }
        assert_eq!(passed, 7);
        drop(dead);
        let alive = [server(&stores[0]), server(&stores[1])];
        let many = async |budgets: &Budgets| {
            let asked = (0..LIMIT).map(|_| ask(budgets));
            futures::future::join_all(asked).await.into_iter().filter(|passed| *passed).count() as u64
        };
        let (one, other) = tokio::join!(many(&alive[0]), many(&alive[1]));
        passed += one + other;
        assert!(passed > LIMIT / 2 && passed <= LIMIT, "{passed}");
        let stop = CancellationToken::new();
        stop.cancel();
        for budgets in &alive {
            budgets.run(&Unheard, &stop).await;
        }
        // What was given back is there for whoever asks; what died with the first is not.
        while ask(&alive[1]).await {
            passed += 1;
        }
        assert!(passed <= LIMIT, "{passed}");
        assert!(!ask(&alive[0]).await);
    }
}
