//! Values by name, and when one that is held in memory does not count any more.

use freehold_model::{Timestamp, secret};
use freehold_store::{Database, Options, Organization};
use freehold_testkit::model::secret as row;
use uuid::Uuid;

use super::*;
use crate::{config::Config, secrets::open};

struct Setting {
    _dir: tempfile::TempDir,
    store: Store,
    vault: Arc<Vault>,
    organization: OrganizationId,
}

impl Setting {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store =
            Store::open(&Options::new(Database::Sqlite { path: dir.path().join("freehold.db") })).unwrap();
        let vault = Arc::new(open(&Config::default(), dir.path(), &store).unwrap());
        let organization = organization(&store, "one").await;
        Self { _dir: dir, store, vault, organization }
    }

    async fn put(&self, row: &secret::Secret, value: &str, is_new: bool) {
        let place = Place { organization: row.organization_id, holder: Holder::Secret(row.id) };
        let sealed = self.vault.seal(place, value.as_bytes()).await.unwrap();
        let row = row.clone();
        let write = self.store.write(row.organization_id, move |tx| match is_new {
            true => tx.secret_insert(&row, &sealed),
            false => tx.secret_update(&row, &sealed),
        });
        write.await.unwrap();
    }
}

async fn organization(store: &Store, name: &str) -> OrganizationId {
    let id = OrganizationId::from_uuid(Uuid::now_v7());
    let organization = Organization { id, name: name.to_owned(), created_at: Timestamp::UNIX_EPOCH };
    store.system_write(move |tx| tx.organization_insert(&organization)).await.unwrap();
    id
}

#[tokio::test]
async fn a_value_is_the_one_of_the_last_answered_change_each_time() {
    let setting = Setting::new().await;
    let secrets = Secrets::new(setting.store.clone(), setting.vault.clone());
    let organization = setting.organization;
    assert!(matches!(secrets.open(organization, "key").await, Err(Unopened::NotFound)));
    let row = row(organization, "key");
    setting.put(&row, "0", true).await;
    for n in 1..50 {
        let before = secrets.open(organization, "key").await.unwrap();
        assert_eq!(before.expose_text(), Some((n - 1).to_string().as_str()));
        // Asked again, it is the one in memory.
        assert!(Arc::ptr_eq(&before, &secrets.open(organization, "key").await.unwrap()));
        setting.put(&row, &n.to_string(), false).await;
    }
    setting.store.write(organization, move |tx| tx.secret_delete(row.id)).await.unwrap();
    assert!(matches!(secrets.open(organization, "key").await, Err(Unopened::NotFound)));
}

#[tokio::test]
async fn a_name_is_looked_up_in_its_own_organization_only() {
    let setting = Setting::new().await;
    let secrets = Secrets::new(setting.store.clone(), setting.vault.clone());
    let other = organization(&setting.store, "two").await;
    setting.put(&row(setting.organization, "key"), "mine", true).await;
    assert_eq!(secrets.open(setting.organization, "key").await.unwrap().expose_text(), Some("mine"));
    assert!(matches!(secrets.open(other, "key").await, Err(Unopened::NotFound)));
    setting.put(&row(other, "key"), "theirs", true).await;
    assert_eq!(secrets.open(other, "key").await.unwrap().expose_text(), Some("theirs"));
    assert_eq!(secrets.open(setting.organization, "key").await.unwrap().expose_text(), Some("mine"));
}

#[tokio::test]
async fn a_value_whose_row_was_tampered_with_is_not_given() {
    let setting = Setting::new().await;
    let secrets = Secrets::new(setting.store.clone(), setting.vault.clone());
    let (one, two) = (row(setting.organization, "one"), row(setting.organization, "two"));
    setting.put(&one, "1", true).await;
    setting.put(&two, "2", true).await;
    let moved = setting.store.write(setting.organization, move |tx| {
        let sealed = tx.secret_by_name("one")?.map(|(_, sealed)| sealed).unwrap();
        tx.secret_update(&two, &sealed)
    });
    moved.await.unwrap();
    let refused = secrets.open(setting.organization, "two").await;
    assert!(matches!(refused, Err(Unopened::Vault(Error::NotAuthentic))), "{refused:?}");
}
