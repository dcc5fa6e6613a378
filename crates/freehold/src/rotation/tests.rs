//! A rotation that ends anywhere leaves everything as openable as it was, on both databases.

use std::{path::PathBuf, sync::Arc};

use freehold_model::{
    Timestamp,
    credential::{Credential, Kind},
};
use freehold_store::{AuditFilter, Database, Options, Organization, Page};
use freehold_testkit::{model, postgresql};
use uuid::Uuid;

use super::*;
use crate::config::Config;

/// Secrets of each organization: more than one batch of them all.
const SECRETS: usize = 40;

struct Setting {
    dir: tempfile::TempDir,
    store: Store,
    places: Vec<Place>,
    _database: Option<postgresql::Database>,
}

impl Setting {
    async fn new(database: Option<postgresql::Database>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options::new(match &database {
            Some(database) => Database::Postgres { url: database.url() },
            None => Database::Sqlite { path: dir.path().join("freehold.db") },
        });
        let store = Store::open(&options).unwrap();
        let mut setting = Self { dir, store, places: Vec::new(), _database: database };
        let vault = setting.vault();
        for name in ["one", "two"] {
            setting.fill(&vault, name).await;
        }
        setting
    }

    /// A process of its own on this data directory.
    fn vault(&self) -> Vault {
        secrets::open(&Config::default(), self.dir.path(), &self.store).unwrap()
    }

    fn key(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn fill(&mut self, vault: &Vault, name: &str) {
        let id = OrganizationId::from_uuid(Uuid::now_v7());
        let organization = Organization { id, name: name.to_owned(), created_at: Timestamp::UNIX_EPOCH };
        self.store.system_write(move |tx| tx.organization_insert(&organization)).await.unwrap();
        for n in 0..SECRETS {
            let secret = model::secret(id, &format!("s{n}"));
            let place = Place { organization: id, holder: Holder::Secret(secret.id) };
            let sealed = vault.seal(place, value(place).as_bytes()).await.unwrap();
            self.store.write(id, move |tx| tx.secret_insert(&secret, &sealed)).await.unwrap();
            self.places.push(place);
        }
        let credential = Credential { organization_id: id, ..model::credential(Kind::ApiKey, "x", &[]) };
        let place = Place { organization: id, holder: Holder::Credential(credential.id) };
        let sealed = vault.seal(place, value(place).as_bytes()).await.unwrap();
        self.store.write(id, move |tx| tx.credential_insert(&credential, &sealed)).await.unwrap();
        self.places.push(place);
    }

    /// Opens everything, with keys read anew.
    async fn check(&self) {
        let vault = self.vault();
        let (credentials, secrets) = self
            .store
            .system_read(|tx| {
                Ok::<_, freehold_store::Error>((
                    tx.sealed_credentials(None, 1_000)?,
                    tx.sealed_secrets(None, 1_000)?,
                ))
            })
            .await
            .unwrap();
        let rows = [credentials, secrets].concat();
        assert_eq!(rows.len(), self.places.len());
        for row in rows {
            let place = Place { organization: row.organization_id, holder: row.holder };
            let opened = vault.open_sealed(place, &row.sealed).await.unwrap();
            assert_eq!(opened.expose_text(), Some(value(place).as_str()));
        }
    }
}

fn value(place: Place) -> String {
    format!("value of {}", place.holder)
}

/// Ends a rotation after each of its steps, as a crash would, and lets the next one go on.
async fn cut_everywhere(setting: Setting, data_keys: bool) {
    setting.check().await;
    let first = std::fs::read(setting.key("master.key")).unwrap();
    // A live process that is not told of anything.
    let live = setting.vault();
    let mut steps_before_the_end = 0;
    for cut in 0.. {
        let mut left = cut;
        let mut progress = |_: Step| {
            anyhow::ensure!(left > 0, "cut");
            left -= 1;
            Ok(())
        };
        let vault = setting.vault();
        let ended = rotate(&setting.store, &vault, setting.dir.path(), data_keys, &mut progress).await;
        setting.check().await;
        if ended.is_ok() {
            steps_before_the_end = cut;
            break;
        }
        assert!(cut < 1_000, "a rotation has an end");
    }
    assert!(steps_before_the_end >= 2);
    assert_ne!(std::fs::read(setting.key("master.key")).unwrap(), first);
    assert!(!setting.key("master.key.next").exists());
    for place in [&setting.places[0], setting.places.last().unwrap()] {
        let rows = setting.store.read(place.organization, |tx| {
            tx.audit_list(&AuditFilter::default(), &Page { after: None, limit: 100 })
        });
        let rows = rows.await.unwrap().rows;
        let events: Vec<_> = rows.iter().map(|row| &row.event).collect();
        assert!(!events.is_empty() && events.iter().all(|event| event.event_type == EventType::VaultRotated));
        assert_eq!(events[0].detail.as_ref().unwrap()["data_keys"], data_keys);
    }
    // Nothing is left under the first key: what was made under it opens without it, and the live process finds the new one.
    let place = setting.places[0];
    let row = setting.store.system_read(|tx| tx.sealed_secrets(None, 1)).await.unwrap().remove(0);
    assert_eq!(
        live.open_sealed(place, &row.sealed).await.unwrap().expose_text(),
        Some(value(place).as_str())
    );
}

#[tokio::test]
async fn a_rotation_that_is_cut_anywhere_is_finished_by_the_next_on_sqlite() {
    cut_everywhere(Setting::new(None).await, false).await;
    cut_everywhere(Setting::new(None).await, true).await;
}

#[tokio::test]
async fn a_rotation_that_is_cut_anywhere_is_finished_by_the_next_on_postgresql() {
    let create = || tokio::task::spawn_blocking(|| postgresql::Database::create().unwrap());
    cut_everywhere(Setting::new(Some(create().await.unwrap())).await, true).await;
}

#[tokio::test]
async fn a_value_that_is_replaced_while_it_is_resealed_stays_replaced() {
    let setting = Setting::new(None).await;
    let (live, place) = (Arc::new(setting.vault()), setting.places[0]);
    let newer = live.seal(place, b"newer").await.unwrap();
    let vault = setting.vault();
    vault.renew_data_key(place.organization).await.unwrap();
    let row = setting.store.system_read(|tx| tx.sealed_secrets(None, 1)).await.unwrap().remove(0);
    let to = vault.reseal(place, &row.sealed).await.unwrap().unwrap();
    let holder = place.holder;
    let exchanged = setting.store.write(place.organization, move |tx| {
        assert!(tx.sealed_exchange(holder, &row.sealed, &newer)?);
        tx.sealed_exchange(holder, &row.sealed, &to)
    });
    assert!(!exchanged.await.unwrap());
}
