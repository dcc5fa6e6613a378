use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    sync::Mutex,
};

use freehold_model::{CredentialId, SecretId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::form::SealingKey;

/// Rows of data keys in memory.
#[derive(Default)]
struct Memory(Mutex<HashMap<(OrganizationId, u32), Vec<u8>>>);

#[async_trait]
impl DataKeyRows for Memory {
    async fn data_key(
        &self,
        organization: OrganizationId,
        version: Option<u32>,
    ) -> Result<Option<SealedDataKey>, RowsError> {
        let rows = self.0.lock().unwrap();
        let newest = || rows.keys().filter(|(of, _)| *of == organization).map(|(_, version)| *version).max();
        let Some(version) = version.or_else(newest) else { return Ok(None) };
        let sealed = rows.get(&(organization, version)).cloned();
        Ok(sealed.map(|sealed| SealedDataKey { version, sealed }))
    }

    async fn data_key_insert(
        &self,
        organization: OrganizationId,
        key: SealedDataKey,
    ) -> Result<SealedDataKey, RowsError> {
        let mut rows = self.0.lock().unwrap();
        let sealed = rows.entry((organization, key.version)).or_insert(key.sealed).clone();
        Ok(SealedDataKey { version: key.version, sealed })
    }
}

struct Setting {
    _folder: tempfile::TempDir,
    path: PathBuf,
    rows: Arc<Memory>,
    vault: Vault,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let rows = Arc::<Memory>::default();
        let vault = Vault::open(MasterKeys::file(&path), rows.clone(), None).unwrap();
        Self { _folder: folder, path, rows, vault }
    }

    /// Another process on the same files and rows.
    fn again(&self) -> Vault {
        Vault::open(MasterKeys::file(&self.path), self.rows.clone(), None).unwrap()
    }
}

fn open_file(path: &std::path::Path) -> Result<Vault, Error> {
    Vault::open(MasterKeys::file(path), Arc::<Memory>::default(), None)
}

fn organization(n: u128) -> OrganizationId {
    OrganizationId::from_uuid(Uuid::from_u128(n))
}

fn secret_of(n: u128, id: u128) -> Place {
    Place { organization: organization(n), holder: Holder::Secret(SecretId::from_uuid(Uuid::from_u128(id))) }
}

fn credential_of(n: u128, id: u128) -> Place {
    let id = CredentialId::from_uuid(Uuid::from_u128(id));
    Place { organization: organization(n), holder: Holder::Credential(id) }
}

/// A secret as it was sealed before there were data keys.
fn sealed_before(path: &std::path::Path, place: Place, secret: &[u8]) -> Vec<u8> {
    let key: [u8; KEY_BYTES] = fs::read(path).unwrap().try_into().unwrap();
    SealingKey::master(&key).unwrap().seal(&place.former_context().unwrap(), secret).unwrap()
}

#[tokio::test]
async fn a_sealed_secret_opens_again_after_a_restart() {
    let setting = Setting::new();
    let place = credential_of(1, 2);
    let sealed = setting.vault.seal(place, b"hunter2").await.unwrap();
    assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    assert_eq!(setting.again().open_sealed(place, &sealed).await.unwrap().expose(), b"hunter2");
}

#[tokio::test]
async fn a_secret_sealed_before_there_were_data_keys_opens_and_is_resealed() {
    let setting = Setting::new();
    let place = credential_of(1, 2);
    let before = sealed_before(&setting.path, place, b"old");
    assert!(Vault::is_under_master(&before));
    assert_eq!(setting.vault.open_sealed(place, &before).await.unwrap().expose(), b"old");
    for other in [credential_of(2, 2), credential_of(1, 3), secret_of(1, 2)] {
        let refused = setting.vault.open_sealed(other, &before).await;
        assert!(matches!(refused, Err(Error::NotAuthentic)), "{refused:?}");
    }
    let after = setting.vault.reseal(place, &before).await.unwrap().unwrap();
    assert!(!Vault::is_under_master(&after));
    assert_eq!(setting.vault.open_sealed(place, &after).await.unwrap().expose(), b"old");
    assert_eq!(setting.vault.reseal(place, &after).await.unwrap(), None);
}

#[tokio::test]
async fn an_empty_secret_is_a_secret() {
    let setting = Setting::new();
    let sealed = setting.vault.seal(secret_of(1, 1), b"").await.unwrap();
    assert_eq!(setting.vault.open_sealed(secret_of(1, 1), &sealed).await.unwrap().expose(), b"");
}

#[tokio::test]
async fn the_same_secret_is_never_sealed_to_the_same_bytes() {
    let setting = Setting::new();
    let one = setting.vault.seal(secret_of(1, 1), b"secret").await.unwrap();
    assert_ne!(one, setting.vault.seal(secret_of(1, 1), b"secret").await.unwrap());
}

#[tokio::test]
async fn no_byte_of_a_sealed_secret_can_be_changed_or_taken_away() {
    let setting = Setting::new();
    let place = secret_of(1, 1);
    for sealed in [
        setting.vault.seal(place, b"secret").await.unwrap(),
        sealed_before(&setting.path, credential_of(1, 1), b"s"),
    ] {
        let place = if Vault::is_under_master(&sealed) { credential_of(1, 1) } else { place };
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(setting.vault.open_sealed(place, &changed).await.is_err(), "byte {index} changed");
            assert!(setting.vault.open_sealed(place, &sealed[..index]).await.is_err(), "cut at {index}");
        }
    }
}

#[tokio::test]
async fn a_secret_beyond_the_limit_is_refused() {
    let setting = Setting::new();
    assert!(setting.vault.seal(secret_of(1, 1), &vec![0; SECRET_BYTES_MAX]).await.is_ok());
    let refused = setting.vault.seal(secret_of(1, 1), &vec![0; SECRET_BYTES_MAX + 1]).await;
    assert!(matches!(refused, Err(Error::TooLong)));
}

#[tokio::test]
async fn processes_that_seal_an_organization_s_first_secrets_agree_on_its_data_key() {
    let setting = Setting::new();
    let others: Vec<Vault> = (0..4).map(|_| setting.again()).collect();
    let mut sealed = Vec::new();
    for vault in &others {
        sealed.push(vault.seal(secret_of(1, 1), b"secret").await.unwrap());
    }
    assert_eq!(setting.rows.0.lock().unwrap().len(), 1);
    for (vault, sealed) in others.iter().rev().zip(&sealed) {
        assert_eq!(vault.open_sealed(secret_of(1, 1), sealed).await.unwrap().expose(), b"secret");
    }
}

#[tokio::test]
async fn a_new_data_key_seals_from_then_on_and_the_one_before_still_opens() {
    let setting = Setting::new();
    let live = setting.again();
    let place = secret_of(1, 1);
    let before = live.seal(place, b"secret").await.unwrap();
    setting.vault.renew_data_key(place.organization).await.unwrap();
    let after = live.seal(place, b"secret").await.unwrap();
    assert_eq!((before[..5].to_vec(), after[..5].to_vec()), (vec![2, 0, 0, 0, 1], vec![2, 0, 0, 0, 2]));
    for sealed in [before, after] {
        assert_eq!(live.open_sealed(place, &sealed).await.unwrap().expose(), b"secret");
    }
}

#[tokio::test]
async fn a_rotation_leaves_nothing_under_the_old_master_key_and_a_live_process_opens_all_along() {
    let setting = Setting::new();
    let live = setting.again();
    let place = secret_of(1, 1);
    let sealed = live.seal(place, b"secret").await.unwrap();
    let old = fs::read(&setting.path).unwrap();

    setting.vault.begin_rotation().await.unwrap();
    // Said again, as after a crash, it goes on with the same key.
    let next = fs::read(key_file::next_of(&setting.path)).unwrap();
    setting.again().begin_rotation().await.unwrap();
    assert_eq!(fs::read(key_file::next_of(&setting.path)).unwrap(), next);
    let rows: Vec<_> = setting.rows.0.lock().unwrap().clone().into_iter().collect();
    for ((organization, version), sealed) in rows {
        let key = SealedDataKey { version, sealed };
        let resealed = setting.vault.reseal_data_key(organization, &key).await.unwrap().unwrap();
        setting.rows.0.lock().unwrap().insert((organization, version), resealed);
    }
    // One that was not told, and does not have the data key open, finds the key that it was sealed under by itself.
    let untold = setting.again();
    assert_eq!(untold.open_sealed(place, &sealed).await.unwrap().expose(), b"secret");
    setting.vault.end_rotation().await.unwrap();
    assert_eq!(fs::read(&setting.path).unwrap(), next);
    assert_ne!(old, next);
    assert_eq!(live.open_sealed(place, &sealed).await.unwrap().expose(), b"secret");
    assert_eq!(setting.again().open_sealed(place, &sealed).await.unwrap().expose(), b"secret");
}

#[tokio::test]
async fn a_process_that_was_told_seals_new_data_keys_under_the_next_master_key() {
    let setting = Setting::new();
    let live = setting.again();
    setting.vault.begin_rotation().await.unwrap();
    live.reload().await.unwrap();
    assert_eq!(live.newest_key().await, setting.vault.newest_key().await);
    let sealed = live.seal(secret_of(1, 1), b"secret").await.unwrap();
    let key = setting.rows.data_key(organization(1), None).await.unwrap().unwrap();
    assert_eq!(setting.vault.reseal_data_key(organization(1), &key).await.unwrap(), None);
    setting.vault.end_rotation().await.unwrap();
    assert_eq!(setting.again().open_sealed(secret_of(1, 1), &sealed).await.unwrap().expose(), b"secret");
}

#[tokio::test]
async fn a_key_that_is_given_seals_and_what_the_file_sealed_opens_until_it_is_resealed() {
    let setting = Setting::new();
    let place = secret_of(1, 1);
    let sealed = setting.vault.seal(place, b"secret").await.unwrap();
    let given = MasterKey::from_base64("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
    let keys = MasterKeys { given: Some(given.clone()), ..MasterKeys::file(&setting.path) };
    let vault = Vault::open(keys, setting.rows.clone(), None).unwrap();
    assert_eq!(vault.open_sealed(place, &sealed).await.unwrap().expose(), b"secret");
    let key = setting.rows.data_key(organization(1), None).await.unwrap().unwrap();
    let resealed = vault.reseal_data_key(organization(1), &key).await.unwrap().unwrap();
    setting.rows.0.lock().unwrap().insert((organization(1), 1), resealed);

    fs::remove_file(&setting.path).unwrap();
    let keys = MasterKeys { given: Some(given.clone()), ..MasterKeys::file(&setting.path) };
    let alone = Vault::open(keys, setting.rows.clone(), None).unwrap();
    assert_eq!(alone.open_sealed(place, &sealed).await.unwrap().expose(), b"secret");
    assert!(!setting.path.exists(), "no file is made beside a key that is given");
    assert_eq!(format!("{given:?}"), "MasterKey(..)");
}

#[tokio::test]
async fn a_secret_of_another_master_key_is_told_apart() {
    let (one, other) = (Setting::new(), Setting::new());
    let before = sealed_before(&one.path, credential_of(1, 1), b"secret");
    let refused = other.vault.open_sealed(credential_of(1, 1), &before).await;
    assert!(matches!(refused, Err(Error::OtherKey)));
    let sealed = one.vault.seal(secret_of(1, 1), b"secret").await.unwrap();
    assert!(matches!(other.vault.open_sealed(secret_of(1, 1), &sealed).await, Err(Error::NoDataKey)));
}

#[tokio::test]
async fn a_reference_to_a_store_of_secrets_that_is_not_configured_is_said_to_be_one() {
    let setting = Setting::new();
    let place = secret_of(1, 1);
    let kept = Reference { version: 1, path: format!("freehold/{}", place.path()) }.to_bytes();
    assert!(matches!(setting.vault.open_sealed(place, &kept).await, Err(Error::NotConfigured)));
    assert!(matches!(setting.vault.discard(place, &kept).await, Err(Error::NotConfigured)));
}

fn some_place() -> impl Strategy<Value = Place> {
    // Few of each, so that all but one thing of two is often the same.
    (0..3_u128, 0..3_u128, any::<bool>()).prop_map(|(organization, id, is_secret)| match is_secret {
        true => secret_of(organization, id),
        false => credential_of(organization, id),
    })
}

proptest! {
    #[test]
    fn what_was_sealed_for_one_holder_opens_for_it_and_for_no_other(
        place in some_place(),
        other in some_place(),
        secret in proptest::collection::vec(any::<u8>(), 0..64),
        renewed in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let setting = Setting::new();
            // The other organization has a data key of the same version.
            setting.vault.seal(other, b"other").await.unwrap();
            let sealed = setting.vault.seal(place, &secret).await.unwrap();
            if renewed {
                setting.vault.renew_data_key(place.organization).await.unwrap();
            }
            let opened = setting.vault.open_sealed(place, &sealed).await.unwrap();
            prop_assert_eq!(opened.expose(), secret.as_slice());
            let moved = setting.vault.open_sealed(other, &sealed).await;
            prop_assert_eq!(moved.is_ok(), other == place);
            Ok(())
        })?;
    }

    #[test]
    fn a_data_key_moved_to_another_organization_or_version_does_not_open(
        from in (0..3_u128, 1..3_u32),
        to in (0..3_u128, 1..3_u32),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let setting = Setting::new();
            for _ in 0..from.1 {
                setting.vault.renew_data_key(organization(from.0)).await.unwrap();
            }
            let sealed = setting.rows.0.lock().unwrap()[&(organization(from.0), from.1)].clone();
            let key = SealedDataKey { version: to.1, sealed };
            setting.vault.begin_rotation().await.unwrap();
            let moved = setting.vault.reseal_data_key(organization(to.0), &key).await;
            prop_assert_eq!(moved.is_ok(), from == to);
            Ok(())
        })?;
    }
}

#[test]
fn the_key_file_is_for_its_owner_alone_and_nothing_is_left_beside_it() {
    let setting = Setting::new();
    let found = fs::metadata(&setting.path).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(found.len(), KEY_BYTES as u64);
    assert_eq!(fs::read_dir(setting.path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let setting = Setting::new();
    fs::set_permissions(&setting.path, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = open_file(&setting.path).unwrap_err().to_string();
    assert!(refused.contains("has mode 0640 and must have 0600"), "{refused}");
}

#[test]
fn a_key_file_of_the_wrong_length_is_refused_and_kept() {
    let setting = Setting::new();
    fs::write(&setting.path, [7; 31]).unwrap();
    let refused = open_file(&setting.path).unwrap_err().to_string();
    assert!(refused.contains("has 31 bytes and must have 32"), "{refused}");
    assert_eq!(fs::read(&setting.path).unwrap(), [7; 31]);
}

#[test]
fn a_link_in_the_place_of_the_key_file_is_not_followed() {
    let setting = Setting::new();
    let link = setting.path.with_file_name("link");
    symlink(&setting.path, &link).unwrap();
    assert!(matches!(open_file(&link), Err(Error::KeyFile { .. })));
}

#[test]
fn a_text_that_is_no_key_is_refused_and_not_repeated() {
    for text in ["", "hunter2", "AAECAwQ=", &"A".repeat(64)] {
        let refused = MasterKey::from_base64(text).unwrap_err();
        assert!(matches!(refused, Error::KeyText));
        assert!(!refused.to_string().contains("hunter2"));
    }
}

#[tokio::test]
async fn starts_at_the_same_time_agree_on_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    let vaults: Vec<Vault> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| open_file(&path))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    let first = vaults[0].newest_key().await;
    for vault in &vaults {
        assert_eq!(vault.newest_key().await, first);
    }
}

#[test]
fn debug_shows_no_secret() {
    let setting = Setting::new();
    assert_eq!(format!("{:?} {:?}", Secret::new(b"hunter2".to_vec()), setting.vault), "Secret(..) Vault(..)");
}
