use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;

fn vault() -> (tempfile::TempDir, PathBuf, Vault) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    let vault = Vault::open(&path).unwrap();
    (folder, path, vault)
}

#[test]
fn a_sealed_secret_opens_again_after_a_restart() {
    let (_folder, path, vault) = vault();
    let sealed = vault.seal("org_1/cred_1", b"hunter2").unwrap();
    assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
    let again = Vault::open(&path).unwrap();
    assert_eq!(again.open_sealed("org_1/cred_1", &sealed).unwrap().expose(), b"hunter2");
}

#[test]
fn an_empty_secret_is_a_secret() {
    let (_folder, _, vault) = vault();
    let sealed = vault.seal("context", b"").unwrap();
    assert_eq!(vault.open_sealed("context", &sealed).unwrap().expose(), b"");
}

#[test]
fn the_same_secret_is_never_sealed_to_the_same_bytes() {
    let (_folder, _, vault) = vault();
    assert_ne!(vault.seal("context", b"secret").unwrap(), vault.seal("context", b"secret").unwrap());
}

#[test]
fn a_sealed_secret_opens_in_its_own_context_only() {
    let (_folder, _, vault) = vault();
    let sealed = vault.seal("org_1/cred_1", b"secret").unwrap();
    assert!(matches!(vault.open_sealed("org_2/cred_1", &sealed), Err(Error::NotAuthentic)));
}

#[test]
fn no_byte_of_a_sealed_secret_can_be_changed_or_taken_away() {
    let (_folder, _, vault) = vault();
    let sealed = vault.seal("context", b"secret").unwrap();
    for index in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[index] ^= 1;
        assert!(vault.open_sealed("context", &changed).is_err(), "byte {index} changed");
        assert!(vault.open_sealed("context", &sealed[..index]).is_err(), "cut at {index}");
    }
}

#[test]
fn a_secret_of_another_key_is_told_apart() {
    let ((_a, _, one), (_b, _, other)) = (vault(), vault());
    let sealed = one.seal("context", b"secret").unwrap();
    assert!(matches!(other.open_sealed("context", &sealed), Err(Error::OtherKey)));
}

#[test]
fn a_secret_beyond_the_limit_is_refused() {
    let (_folder, _, vault) = vault();
    assert!(vault.seal("context", &vec![0; SECRET_BYTES_MAX]).is_ok());
    assert!(matches!(vault.seal("context", &vec![0; SECRET_BYTES_MAX + 1]), Err(Error::TooLong)));
}

#[test]
fn the_key_file_is_for_its_owner_alone_and_nothing_is_left_beside_it() {
    let (folder, path, _) = vault();
    let found = fs::metadata(&path).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(found.len(), KEY_BYTES as u64);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_key_file_that_others_may_read_is_refused() {
    let (_folder, path, _) = vault();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = Vault::open(&path).unwrap_err().to_string();
    assert!(refused.contains("has mode 0640 and must have 0600"), "{refused}");
}

#[test]
fn a_key_file_of_the_wrong_length_is_refused_and_kept() {
    let (_folder, path, _) = vault();
    fs::write(&path, [7; 31]).unwrap();
    let refused = Vault::open(&path).unwrap_err().to_string();
    assert!(refused.contains("has 31 bytes and must have 32"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), [7; 31]);
}

#[test]
fn a_link_in_the_place_of_the_key_file_is_not_followed() {
    let (folder, path, _) = vault();
    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(Vault::open(&link), Err(Error::KeyFile { .. })));
}

#[test]
fn starts_at_the_same_time_agree_on_one_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("master.key");
    let vaults: Vec<Vault> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Vault::open(&path))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    let sealed = vaults[0].seal("context", b"secret").unwrap();
    for vault in &vaults {
        assert_eq!(vault.open_sealed("context", &sealed).unwrap().expose(), b"secret");
    }
}

#[test]
fn debug_shows_no_secret() {
    let (_folder, _, vault) = vault();
    assert_eq!(format!("{:?} {:?}", Secret::new(b"hunter2".to_vec()), vault), "Secret(..) Vault(..)");
}
