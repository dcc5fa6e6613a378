//! The platform's certificate authority: made once, kept in the state directory, trusted inside every pod.
//!
//! Leaves are P-256, share one key, are made once per name and kept in a least-recently-used cache, so that a flood of
//! names costs the cache and not every handshake.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::IpAddr,
    num::NonZeroUsize,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, Mutex},
};

use freehold_model::Timestamp;
use lru::LruCache;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::{Error, state::lock};

/// Days the authority is valid.
const AUTHORITY_DAYS: i64 = 3_650;
/// Days a leaf is valid, and after how many it is made anew.
const LEAF_DAYS: i64 = 60;
const LEAF_RENEW_SECONDS: i64 = 30 * DAY_SECONDS;
const DAY_SECONDS: i64 = 86_400;

/// Makes and keeps server configurations for names.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    chain_end: CertificateDer<'static>,
    leaf_key: KeyPair,
    provider: Arc<CryptoProvider>,
    leaves: Mutex<LruCache<String, Arc<Leaf>>>,
}

/// A name's configuration, made by the first who asks; whoever asks meanwhile waits for that one.
#[derive(Default)]
struct Leaf(Mutex<Option<(Timestamp, Arc<ServerConfig>)>>);

impl Authority {
    /// Reads the authority from `dir`, or makes it. The key's file has mode 0600.
    pub(crate) fn open(dir: &Path, leaves_max: usize, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let (key_path, certificate_path) = (dir.join("ca.key.pem"), dir.join("ca.pem"));
        let state = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::State { path, source }
        };
        let (key, pem) = if certificate_path.exists() {
            let key = fs::read_to_string(&key_path).map_err(state(&key_path))?;
            let pem = fs::read_to_string(&certificate_path).map_err(state(&certificate_path))?;
            (KeyPair::from_pem(&key).map_err(Error::Authority)?, pem)
        } else {
            let (key, pem) = Self::make()?;
            // The certificate comes last: while it is absent, a half-made authority is made again.
            write_new(&key_path, key.serialize_pem().as_bytes(), 0o600).map_err(state(&key_path))?;
            write_new(&certificate_path, pem.as_bytes(), 0o644).map_err(state(&certificate_path))?;
            (key, pem)
        };
        Self::of(key, pem, leaves_max, provider)
    }

    /// A new key and its certificate.
    pub(crate) fn make() -> Result<(KeyPair, String), Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Authority)?;
        let pem = authority_params().self_signed(&key).map_err(Error::Authority)?.pem();
        Ok((key, pem))
    }

    pub(crate) fn of(
        key: KeyPair,
        pem: String,
        leaves_max: usize,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let chain_end = certificate(&pem).ok_or(Error::Roots)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(Error::Authority)?;
        Ok(Self {
            pem,
            issuer,
            chain_end,
            leaf_key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(Error::Authority)?,
            provider,
            leaves: Mutex::new(LruCache::new(NonZeroUsize::new(leaves_max).unwrap_or(NonZeroUsize::MIN))),
        })
    }

    /// The authority's certificate.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The configuration that answers for `host` (a host in normal form).
    pub(crate) fn server_config(&self, host: &str) -> Result<Arc<ServerConfig>, Error> {
        let now = Timestamp::now();
        let leaf = Arc::clone(lock(&self.leaves).get_or_insert(host.to_owned(), Arc::default));
        let mut made = lock(&leaf.0);
        if let Some((made, config)) = made.as_ref()
            && now.as_second() - made.as_second() < LEAF_RENEW_SECONDS
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.mint(host)?);
        *made = Some((now, Arc::clone(&config)));
        Ok(config)
    }

    fn mint(&self, host: &str) -> Result<ServerConfig, Error> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(Error::Authority)?),
        }];
        params.distinguished_name = DistinguishedName::new();
        // By default it would be made from the key, which all leaves share: some clients refuse a number that they have seen.
        params.serial_number = Some(uuid::Uuid::now_v7().into_bytes().to_vec().into());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, LEAF_DAYS);
        let leaf = params.signed_by(&self.leaf_key, &self.issuer).map_err(Error::Authority)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.leaf_key.serialize_der()));
        let key = self.provider.key_provider.load_private_key(key).map_err(Error::Tls)?;
        let certified = CertifiedKey::new(vec![leaf.der().clone(), self.chain_end.clone()], key);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Freehold");
    params.distinguished_name.push(DnType::CommonName, "Freehold platform CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, AUTHORITY_DAYS);
    params
}

/// From yesterday, for clocks that are late, for `days`.
fn set_validity(params: &mut CertificateParams, days: i64) {
    let from = std::time::UNIX_EPOCH
        + std::time::Duration::from_secs(
            u64::try_from(Timestamp::now().as_second() - DAY_SECONDS).unwrap_or_default(),
        );
    params.not_before = from.into();
    params.not_after =
        (from + std::time::Duration::from_secs(u64::try_from(days * DAY_SECONDS).unwrap_or_default())).into();
}

fn certificate(pem: &str) -> Option<CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(dir: &Path) -> Authority {
        Authority::open(dir, 2, Arc::new(rustls::crypto::aws_lc_rs::default_provider())).unwrap()
    }

    #[test]
    fn the_authority_is_made_once_and_its_key_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).pem().to_owned();
        assert_eq!(open(dir.path()).pem(), first);
        let mode = fs::metadata(dir.path().join("ca.key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_leaf_is_made_once_however_many_ask_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let made = std::thread::scope(|scope| {
            let ask = || authority.server_config("a.test").unwrap();
            let asking: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|asking| asking.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(made.iter().all(|config| Arc::ptr_eq(config, &made[0])));
    }

    /// Has a client that trusts the authority alone connect to what answers for `host`, and says how its certificate reads.
    fn shown(authority: &Authority, host: &str, asked: &str) -> Result<Vec<u8>, rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate(authority.pem()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let asked = rustls::pki_types::ServerName::try_from(asked.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), asked).unwrap();
        let mut server = rustls::ServerConnection::new(authority.server_config(host).unwrap()).unwrap();
        while client.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets()?;
        }
        Ok(client.peer_certificates().unwrap()[0].to_vec())
    }

    #[test]
    fn a_leaf_is_of_p256_and_for_exactly_the_name_or_address_that_is_asked_for() {
        /// The object identifier of P-256.
        const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
        for (host, others) in [
            ("api.wild.test", ["wild.test", "b.wild.test", "x.api.wild.test"]),
            ("wild.test", ["api.wild.test", "test.wild", "192.0.2.1"]),
            ("snake_case.test", ["snakecase.test", "case.test", "test"]),
            (long.as_str(), ["a.test", "d.test", "2001:db8::1"]),
            ("xn--bcher-kva.test", ["bcher.test", "api.xn--bcher-kva.test", "a.test"]),
            ("192.0.2.1", ["192.0.2.2", "::ffff:192.0.2.1", "wild.test"]),
            ("2001:db8::1", ["2001:db8::2", "192.0.2.1", "wild.test"]),
        ] {
            let leaf = shown(&authority, host, host).unwrap();
            assert!(leaf.windows(P256.len()).any(|bytes| bytes == P256), "{host}");
            assert!(!leaf.windows(2).any(|bytes| bytes == b"*."), "{host}: a wildcard");
            for other in others {
                let refused = shown(&authority, host, other);
                assert!(matches!(refused, Err(rustls::Error::InvalidCertificate(_))), "{host} for {other}");
            }
        }
    }

    #[test]
    fn a_leaf_is_made_once_per_name_and_the_one_that_was_used_longest_ago_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        let authority = open(dir.path());
        let first = authority.server_config("a.test").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.server_config("a.test").unwrap()));
        let second = authority.server_config("192.0.2.1").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.server_config("a.test").unwrap()));
        authority.server_config("2001:db8::1").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.server_config("a.test").unwrap()));
        assert!(!Arc::ptr_eq(&second, &authority.server_config("192.0.2.1").unwrap()));
    }
}
