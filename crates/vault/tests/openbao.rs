//! Secrets in a store of secrets. The store is a simulation (`freehold_testkit::openbao`), strict about the protocol.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use freehold_model::{OrganizationId, SecretId, secret::Holder};
use freehold_testkit::{
    openbao::{self, MOUNT, ROLE_ID, SECRET_ID},
    tls::Authority,
};
use freehold_vault::{
    DataKeyRows, Error, Login, MasterKeys, OpenBao, OpenBaoOptions, Place, RowsError, SealedDataKey, Vault,
};
use uuid::Uuid;

/// Nothing is sealed here in these tests.
struct NoRows;

#[async_trait]
impl DataKeyRows for NoRows {
    async fn data_key(&self, _: OrganizationId, _: Option<u32>) -> Result<Option<SealedDataKey>, RowsError> {
        Ok(None)
    }

    async fn data_key_insert(
        &self,
        _: OrganizationId,
        key: SealedDataKey,
    ) -> Result<SealedDataKey, RowsError> {
        Ok(key)
    }
}

struct Setting {
    folder: tempfile::TempDir,
    server: openbao::OpenBao,
}

impl Setting {
    fn new() -> Self {
        Self::with(openbao::OpenBao::start().unwrap())
    }

    fn with(server: openbao::OpenBao) -> Self {
        let setting = Self { folder: tempfile::tempdir().unwrap(), server };
        setting.server.token("s.first");
        fs::write(setting.file(), "s.first\n").unwrap();
        setting
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    fn options(&self) -> OpenBaoOptions {
        OpenBaoOptions {
            address: self.server.address(),
            mount: MOUNT.to_owned(),
            prefix: "freehold/test".to_owned(),
            namespace: None,
            login: Login::TokenFile(self.file()),
            ca_pem: None,
        }
    }

    fn vault(&self, options: OpenBaoOptions) -> Vault {
        let keys = MasterKeys::file(&self.folder.path().join("master.key"));
        Vault::open(keys, Arc::new(NoRows), Some(OpenBao::new(options).unwrap())).unwrap()
    }
}

fn place(n: u128) -> Place {
    let id = Uuid::from_u128(n);
    Place { organization: OrganizationId::from_uuid(id), holder: Holder::Secret(SecretId::from_uuid(id)) }
}

#[tokio::test]
async fn a_secret_is_kept_there_and_only_a_reference_here() {
    let setting = Setting::new();
    let vault = setting.vault(setting.options());
    let kept = vault.seal(place(1), b"hunter2").await.unwrap();
    let path = format!("freehold/test/{}/secret/{}", place(1).organization, place(1).holder);
    assert_eq!(vault.reference(&kept), Some(format!("{MOUNT}/{path}")));
    assert!(!kept.windows(7).any(|window| window == b"hunter2"));
    assert_eq!(setting.server.paths(), [(path, vec![1])]);
    assert_eq!(vault.open_sealed(place(1), &kept).await.unwrap().expose(), b"hunter2");
    assert_eq!(vault.reseal(place(1), &kept).await.unwrap(), None);
}

#[tokio::test]
async fn each_row_has_the_version_that_was_written_for_it() {
    let setting = Setting::new();
    let vault = setting.vault(setting.options());
    let first = vault.seal(place(1), b"one").await.unwrap();
    let second = vault.seal(place(1), b"two").await.unwrap();
    assert_eq!(vault.open_sealed(place(1), &first).await.unwrap().expose(), b"one");
    assert_eq!(vault.open_sealed(place(1), &second).await.unwrap().expose(), b"two");
}

#[tokio::test]
async fn deletion_removes_all_versions_and_can_be_repeated() {
    let setting = Setting::new();
    let vault = setting.vault(setting.options());
    let first = vault.seal(place(1), b"one").await.unwrap();
    let second = vault.seal(place(1), b"two").await.unwrap();
    vault.discard(place(1), &second).await.unwrap();
    assert_eq!(setting.server.paths(), []);
    vault.discard(place(1), &second).await.unwrap();
    for kept in [first, second] {
        assert!(matches!(vault.open_sealed(place(1), &kept).await, Err(Error::Gone)));
    }
}

#[tokio::test]
async fn a_reference_moved_to_another_row_does_not_open_and_deletes_nothing() {
    let setting = Setting::new();
    let vault = setting.vault(setting.options());
    let kept = vault.seal(place(1), b"one").await.unwrap();
    assert!(matches!(vault.open_sealed(place(2), &kept).await, Err(Error::NotAuthentic)));
    assert!(matches!(vault.discard(place(2), &kept).await, Err(Error::NotAuthentic)));
    assert_eq!(setting.server.paths().len(), 1);
}

#[tokio::test]
async fn faults_that_pass_are_borne_and_others_told() {
    let setting = Setting::new();
    let vault = setting.vault(setting.options());
    setting.server.fail(&[503, 429]);
    let kept = vault.seal(place(1), b"one").await.unwrap();
    setting.server.fail(&[500, 502, 412]);
    let refused = vault.open_sealed(place(1), &kept).await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    let before = setting.server.requests();
    setting.server.fail(&[400, 400]);
    let refused = vault.open_sealed(place(1), &kept).await.unwrap_err().to_string();
    assert!(refused.contains("it answered 400: a fault that a test asked for"), "{refused}");
    // With the token it had, and once with one read anew.
    assert_eq!(setting.server.requests() - before, 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let setting = Setting::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = OpenBaoOptions { address: format!("http://{nobody}"), ..setting.options() };
    let refused = setting.vault(options).seal(place(1), b"hunter2").await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    assert!(!format!("{refused} {refused:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_again_when_the_old_one_is_refused() {
    let setting = Setting::new();
    let vault = setting.vault(setting.options());
    let kept = vault.seal(place(1), b"one").await.unwrap();
    setting.server.revoke_tokens();
    let refused = vault.open_sealed(place(1), &kept).await.unwrap_err().to_string();
    assert!(refused.contains("it answered 403: permission denied"), "{refused}");
    setting.server.token("s.second");
    fs::write(setting.file(), "s.second").unwrap();
    assert_eq!(vault.open_sealed(place(1), &kept).await.unwrap().expose(), b"one");
}

#[tokio::test]
async fn an_approle_logs_in_once_and_again_when_its_token_is_gone() {
    let setting = Setting::new();
    fs::write(setting.file(), SECRET_ID).unwrap();
    let login = Login::AppRole {
        mount: "approle".to_owned(),
        role_id: ROLE_ID.to_owned(),
        secret_id_file: setting.file(),
    };
    let vault = setting.vault(OpenBaoOptions { login, ..setting.options() });
    let (one, two) = tokio::join!(vault.seal(place(1), b"one"), vault.seal(place(2), b"two"));
    assert_eq!(setting.server.logins(), 1);
    setting.server.revoke_tokens();
    assert_eq!(vault.open_sealed(place(1), &one.unwrap()).await.unwrap().expose(), b"one");
    assert_eq!(vault.open_sealed(place(2), &two.unwrap()).await.unwrap().expose(), b"two");
    assert_eq!(setting.server.logins(), 2);
}

#[tokio::test]
async fn a_mount_that_is_not_there_is_named() {
    let setting = Setting::new();
    let options = OpenBaoOptions { mount: "elsewhere".to_owned(), ..setting.options() };
    let refused = setting.vault(options).seal(place(1), b"one").await.unwrap_err().to_string();
    assert!(refused.contains("no KV engine (version 2) mounted at `elsewhere`"), "{refused}");
}

#[tokio::test]
async fn the_server_is_trusted_by_its_authority_alone() {
    let authority = Authority::new().unwrap();
    let setting = Setting::with(openbao::OpenBao::start_tls(&authority).unwrap());
    let trusting = OpenBaoOptions { ca_pem: Some(authority.pem().to_owned()), ..setting.options() };
    let kept = setting.vault(trusting).seal(place(1), b"one").await.unwrap();
    let other = Authority::new().unwrap();
    for ca_pem in [None, Some(other.pem().to_owned())] {
        let vault = setting.vault(OpenBaoOptions { ca_pem, ..setting.options() });
        let refused = vault.open_sealed(place(1), &kept).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    }
    assert_eq!(setting.server.requests(), 1);
}

#[tokio::test]
async fn what_cannot_be_right_is_refused_at_once() {
    let setting = Setting::new();
    for options in [
        OpenBaoOptions { address: "http://bao.example.com".to_owned(), ..setting.options() },
        OpenBaoOptions { mount: "a/../b".to_owned(), ..setting.options() },
        OpenBaoOptions { prefix: String::new(), ..setting.options() },
        OpenBaoOptions { ca_pem: Some("none".to_owned()), ..setting.options() },
    ] {
        assert!(matches!(OpenBao::new(options), Err(Error::Misconfigured { .. })));
    }
    fs::remove_file(setting.file()).unwrap();
    let refused = setting.vault(setting.options()).seal(place(1), b"one").await.unwrap_err();
    assert!(matches!(refused, Error::Misconfigured { .. }), "{refused:?}");
}
