//! A broker over rows in memory, which asks a real issuer.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_broker::{
    Broker, Given, Http, HttpError, Injection, Keeper, Note, OpenError, Options, Unavailable, pack,
};
use freehold_model::{
    Next,
    credential::{self, Credential, Kind},
};
use freehold_testkit::{
    issuer::{CLIENT_SECRET, ISSUER_HOST, Issuer},
    tls::Authority,
};
use zeroize::Zeroizing;

pub const REDIRECT: &str = "https://freehold.freehold.test/oauth/callback";

/// The row, and what was written to it, in order.
pub struct Row {
    pub credential: Credential,
    pub secret: Vec<u8>,
    pub log: Vec<String>,
    /// Whether writing a replaced secret fails.
    pub is_full: bool,
}

#[derive(Clone)]
pub struct Memory(pub Arc<Mutex<Row>>);

#[async_trait]
impl Keeper for Memory {
    async fn open(&self, _: &Credential) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        Ok(self.0.lock().unwrap().secret.clone().into())
    }

    async fn keep(&self, of: &Credential, secret: Zeroizing<Vec<u8>>) -> Result<bool, Unavailable> {
        let mut row = self.0.lock().unwrap();
        if row.is_full {
            return Err(Unavailable("store_unavailable"));
        }
        if row.credential.updated_at != of.updated_at {
            return Ok(false);
        }
        row.secret = secret.to_vec();
        row.log.push("kept".to_owned());
        Ok(true)
    }

    async fn note(&self, _: &Credential, note: Note) -> Result<(), Unavailable> {
        let mut row = self.0.lock().unwrap();
        row.log.push(note.code.to_owned());
        if let Some(Next::Go(status)) = note.event.map(|event| credential::next(row.credential.status, event))
        {
            row.credential.status = status;
        }
        Ok(())
    }
}

/// The way to the issuer.
struct Direct(reqwest::Client);

#[async_trait]
impl Http for Direct {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request.map(reqwest::Body::from)).unwrap();
        let response = self.0.execute(request).await.map_err(|_| HttpError("upstream_failed"))?;
        let mut made = http::Response::builder().status(response.status());
        *made.headers_mut().unwrap() = response.headers().clone();
        Ok(made.body(response.bytes().await.map_err(|_| HttpError("upstream_failed"))?).unwrap())
    }
}

pub struct World {
    pub issuer: Issuer,
    authority: Authority,
}

impl World {
    /// An issuer whose access tokens live so many seconds.
    pub fn new(lifetime: u32) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let authority = Authority::new().unwrap();
        let issuer =
            Issuer::start(&authority, REDIRECT, lifetime).unwrap_or_else(|error| panic!("{error:#}"));
        Self { issuer, authority }
    }

    /// A broker, as a server has it after its start.
    pub fn broker(&self, memory: &Memory) -> Broker<String> {
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(self.authority.pem().as_bytes()).unwrap()])
            .resolve(ISSUER_HOST, self.issuer.address())
            .build()
            .unwrap();
        let options = Options { backoff: std::time::Duration::from_millis(10), ..Options::default() };
        Broker::new(
            Arc::new(Direct(client)),
            Arc::new(memory.clone()),
            options,
            |injection| match injection {
                Injection::Header { name, value } => Ok(format!("{name}: {}", value.as_str())),
                Injection::Query { .. } | Injection::Signature(_) => Err(Unavailable("not a header")),
            },
        )
    }

    /// A credential of this issuer.
    pub fn credential(&self, kind: Kind, config: &[(&str, &str)], given: Given) -> Memory {
        let url = |path: &str| format!("https://{ISSUER_HOST}{path}");
        let urls = [
            ("authorization_url", &*url("/auth")),
            ("token_url", &url("/token")),
            ("revocation_url", &url("/token/revocation")),
        ];
        let credential = Credential {
            scopes: vec!["read".to_owned()],
            status: kind.first_status(),
            ..freehold_testkit::model::credential(kind, "acme", &[&urls, config].concat())
        };
        let packed = pack(kind, given).unwrap_or_else(|fields| panic!("{fields:?}"));
        let row = Row { credential, secret: packed.secret.to_vec(), log: Vec::new(), is_full: false };
        Memory(Arc::new(Mutex::new(row)))
    }

    /// A credential of a client with an id and a secret.
    pub fn client(&self, config: &[(&str, &str)]) -> Memory {
        let given = Given { client_secret: Some(CLIENT_SECRET.to_owned().into()), ..Given::default() };
        self.credential(Kind::Oauth2ClientCredentials, config, given)
    }

    /// Whether the issuer says that what is injected holds a good token.
    pub fn is_good(&self, injected: &str) -> bool {
        let token = injected.strip_prefix("authorization: Bearer ").unwrap();
        self.issuer.is_active(token).unwrap()
    }
}

impl Memory {
    pub fn credential(&self) -> Credential {
        self.0.lock().unwrap().credential.clone()
    }

    pub fn log(&self) -> Vec<String> {
        self.0.lock().unwrap().log.clone()
    }
}

/// What is injected for the credential as it is now.
pub async fn injected(broker: &Broker<String>, memory: &Memory) -> Result<Arc<String>, &'static str> {
    broker.injection(&broker.slot(&memory.credential())).await.map_err(|unavailable| unavailable.0)
}
