//! One server for each test, and a client that holds every answer against the document.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_api::{Operation, error::ErrorCode, openapi, operations};
use freehold_app::{
    App, Ports, Settings,
    audit::Cause,
    fleet::{self, Fleet, Place},
    ports::{
        AgentError, AgentPort, AuditSigner, ExecEvent, ExecRequest, ExecStream, IssuerRefused, Issuers,
        NoWorkspaces, OutputStream, PackedSecret, Revocation, SealError, SecretFields, SecretSealer,
    },
    uploads::ObjectUploads,
};
use freehold_http::{Options, ServeError, Server};
use freehold_model::{
    OrganizationId, TaskId, WorkspaceId,
    credential::{Credential, Kind},
    issuer::Endpoint,
    member::MemberRole,
    secret::Holder,
    task,
    workspace::{self, Workspace},
};
use freehold_store::{Database, Organization, Store};
use futures::StreamExt;
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinHandle};

/// The simulated agent: it answers as told and counts.
#[derive(Default)]
pub struct SimAgent {
    pub unreachable: Mutex<bool>,
    pub panics: AtomicBool,
    pub cancels: AtomicUsize,
}

impl SimAgent {
    fn reachable(&self) -> Result<(), AgentError> {
        if *self.unreachable.lock().unwrap() { Err(AgentError::NotConnected) } else { Ok(()) }
    }
}

#[async_trait]
impl AgentPort for SimAgent {
    async fn session_view(&self, workspace: &Workspace) -> Result<Value, AgentError> {
        self.reachable()?;
        assert!(!self.panics.load(Ordering::Relaxed), "told to panic");
        Ok(json!({ "simulated": true, "session_id": workspace.session_id }))
    }

    async fn cancel(&self, _: &Workspace) -> Result<(), AgentError> {
        self.reachable()?;
        self.cancels.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn exec(&self, _: &Workspace, request: ExecRequest) -> Result<ExecStream, AgentError> {
        self.reachable()?;
        let output = ExecEvent::Output {
            stream: OutputStream::Stdout,
            data: Bytes::from(format!("simulated: {}\n", request.command.join(" "))),
        };
        let output = futures::stream::iter([Ok(output)]);
        if request.command[0] == "sleep" {
            return Ok(output.chain(futures::stream::pending()).boxed());
        }
        let ended = Ok(ExecEvent::Ended { exit_code: 3, timed_out: false });
        Ok(output.chain(futures::stream::iter([ended])).boxed())
    }
}

/// Not encryption: it keeps the secret from being found by its text, so that tests can look for leaks. It counts what it keeps
/// as a store of secrets would, and fails as told.
#[derive(Default)]
pub struct SimSealer {
    pub kept: AtomicUsize,
    pub fails: Mutex<Option<fn() -> SealError>>,
}

impl SimSealer {
    fn check(&self) -> Result<(), SealError> {
        self.fails.lock().unwrap().map_or(Ok(()), |fails| Err(fails()))
    }
}

#[async_trait]
impl SecretSealer for SimSealer {
    async fn seal(&self, _: OrganizationId, _: Holder, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        self.check()?;
        self.kept.fetch_add(1, Ordering::Relaxed);
        Ok(secret.iter().map(|byte| byte ^ 0x55).collect())
    }

    async fn discard(&self, _: OrganizationId, _: Holder, _: &[u8]) -> Result<(), SealError> {
        self.check()?;
        self.kept.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    fn reference(&self, _: &[u8]) -> Option<String> {
        None
    }
}

/// Not a signature: tests of the whole server verify real ones.
struct SimSigner;

impl AuditSigner for SimSigner {
    fn public_key(&self) -> [u8; 32] {
        [7; 32]
    }

    fn sign(&self, _: &[u8]) -> Vec<u8> {
        vec![8; 64]
    }
}

/// Issuers that give what the code says: `refused` is refused. Real ones are in the tests of the whole server.
#[derive(Default)]
pub struct SimIssuers {
    /// What was taken back.
    pub revoked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Issuers for SimIssuers {
    fn pack(&self, kind: Kind, given: SecretFields) -> Result<PackedSecret, BTreeMap<String, String>> {
        let (field, text) = match kind {
            Kind::ApiKey | Kind::QueryApiKey => ("api_key", given.api_key),
            Kind::BasicAuth => ("password", given.password),
            Kind::Oauth2AuthorizationCode => {
                ("client_secret", given.client_secret.or(Some("".to_owned().into())))
            }
            Kind::Oauth2ClientCredentials => ("client_secret", given.client_secret),
            Kind::Oauth2JwtBearer | Kind::Oauth2JwtBearerWithSubject => {
                ("service_account_json", given.service_account_json)
            }
            Kind::Oauth2ClientAssertion => ("private_key", given.private_key),
            Kind::AwsSigv4 => ("secret_access_key", given.secret_access_key),
        };
        let missing = || BTreeMap::from([(field.to_owned(), "is required for this kind".to_owned())]);
        let text = text.ok_or_else(missing)?;
        Ok(PackedSecret { secret: text.as_bytes().to_vec().into(), token_url: None })
    }

    async fn client_of(&self, _: &Credential, sealed: &[u8], _: &Credential) -> Result<Vec<u8>, SealError> {
        Ok(sealed.to_vec())
    }

    fn authorization_url(
        &self,
        of: &Credential,
        redirect: &str,
        state: &str,
        verifier: &str,
    ) -> Option<String> {
        assert_eq!(verifier.len(), 43);
        let base = of.endpoint(Endpoint::Authorization).ok()?;
        Some(format!("{base}?redirect_uri={redirect}&state={state}"))
    }

    async fn exchange(
        &self,
        _: &Credential,
        _: Vec<u8>,
        code: &str,
        _: &str,
        redirect_uri: &str,
    ) -> Result<Vec<u8>, IssuerRefused> {
        assert_eq!(redirect_uri, "http://freehold.test/oauth/callback");
        if code == "refused" { Err(IssuerRefused("invalid_grant")) } else { Ok(code.as_bytes().to_vec()) }
    }

    fn refusal(&self, error: &str) -> &'static str {
        if error == "access_denied" { "access_denied" } else { "refused" }
    }

    async fn revocation(&self, credential: &Credential, _: &[u8]) -> Option<Revocation> {
        let (revoked, name) = (Arc::clone(&self.revoked), credential.name.clone());
        Some(Box::pin(async move {
            revoked.lock().unwrap().push(name);
            Some(Ok(()))
        }))
    }
}

/// A server, its app, and callers of every kind.
pub struct Context {
    pub app: App,
    pub agent: Arc<SimAgent>,
    pub sealer: Arc<SimSealer>,
    pub issuers: Arc<SimIssuers>,
    pub organization: OrganizationId,
    pub url: String,
    pub owner: String,
    pub ann: String,
    pub bob: String,
    /// Asks the server to stop.
    pub stop: Arc<Notify>,
    /// Ends when the server has stopped.
    pub served: JoinHandle<Result<(), ServeError>>,
    /// How another server opens the same database.
    pub store_options: freehold_store::Options,
    client: Client,
    folder: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Reply {
    /// The answer's body, which must be a success.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text);
        self.json
    }

    /// Asserts the error's code.
    pub fn refused(self, code: ErrorCode) -> Value {
        assert_eq!(self.json["error"]["code"], code.as_str(), "{} {}", self.status, self.text);
        self.json["error"]["details"].clone()
    }

    /// Asserts which fields were refused.
    pub fn refused_fields(self, expected: &[&str]) {
        let details = self.refused(ErrorCode::ValidationError);
        let fields: Vec<&String> = details["fields"].as_object().unwrap().keys().collect();
        assert_eq!(fields, expected, "{details}");
    }
}

impl Context {
    pub async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub async fn with(options: Options) -> Self {
        Self::with_disk(options, None).await
    }

    /// A server whose SQLite file may take so many bytes.
    pub async fn with_disk(options: Options, sqlite_bytes_max: Option<u64>) -> Self {
        // Another test of this process may have been first.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let folder = tempfile::tempdir().unwrap();
        let database = if crate::POSTGRESQL {
            Database::Postgres { url: freehold_testkit::postgresql::Database::create().unwrap().url() }
        } else {
            Database::Sqlite { path: folder.path().join("store.db") }
        };
        let store_options =
            freehold_store::Options { sqlite_bytes_max, ..freehold_store::Options::new(database) };
        let store = Store::open(&store_options).unwrap();
        let objects = object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let agent = Arc::new(SimAgent::default());
        let sealer = Arc::<SimSealer>::default();
        let issuers = Arc::new(SimIssuers::default());
        let ports = Ports {
            agent: Arc::clone(&agent) as _,
            sealer: Arc::clone(&sealer) as _,
            issuers: Arc::clone(&issuers) as _,
            uploads: Arc::new(ObjectUploads::new(Arc::new(objects))),
            counts: Arc::new(freehold_app::ports::NoCounts),
            signer: Arc::new(SimSigner),
            policy: Arc::new(NoWorkspaces),
        };
        let settings = Settings {
            task_timeout_seconds: 3600,
            idle_timeout_seconds: 1800,
            public_url: "http://freehold.test".into(),
        };
        let app = App::new(store, ports, settings);
        let (kept, owner) = std::sync::mpsc::channel();
        let keep = move |token: &freehold_app::Secret| {
            kept.send(token.expose().to_owned()).map_err(std::io::Error::other)
        };
        assert!(app.bootstrap("owner@example.test", keep).await.unwrap());
        let owner = owner.recv().unwrap();
        let organization = app.organization_by_name("default").await.unwrap();
        let (ann, bob) = (member(&app, organization, "ann").await, member(&app, organization, "bob").await);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::new(app.clone(), options).unwrap();
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let served = tokio::spawn(server.serve(listener, async move { stopped.notified().await }));
        let client = Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        Self {
            app,
            agent,
            sealer,
            issuers,
            organization,
            url,
            owner,
            ann,
            bob,
            stop,
            served,
            store_options,
            client,
            folder,
        }
    }

    /// The owner's token of another organization.
    pub async fn foreigner(&self) -> String {
        let id = OrganizationId::from_uuid(uuid::Uuid::now_v7());
        let organization =
            Organization { id, name: "other".into(), created_at: freehold_model::Timestamp::UNIX_EPOCH };
        let made = self.app.store().system_write(move |tx| tx.organization_insert(&organization)).await;
        made.map_err(|error: freehold_store::Error| error).unwrap();
        self.app.member_add(id, "owner@other.test", MemberRole::Owner).await.unwrap();
        self.app.token_create(id, "owner@other.test", "test").await.unwrap().expose().to_owned()
    }

    /// A request that the test builds by itself.
    pub fn request(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(key)
    }

    /// A request without a credential.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = self.client.execute(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        let reply = Reply { status, headers, text, json };
        check(&method, &path, &reply);
        reply
    }

    pub async fn get(&self, path: &str, key: &str) -> Reply {
        self.send(self.request(Method::GET, path, key)).await
    }

    pub async fn post(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send(self.request(Method::POST, path, key).json(&body)).await
    }

    pub async fn patch(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send(self.request(Method::PATCH, path, key).json(&body)).await
    }

    pub async fn put(&self, path: &str, key: &str, body: Value) -> Reply {
        self.send(self.request(Method::PUT, path, key).json(&body)).await
    }

    pub async fn delete(&self, path: &str, key: &str) -> Reply {
        self.send(self.request(Method::DELETE, path, key)).await
    }

    /// An API key of this template.
    pub async fn key(&self, permission_set: &str) -> (String, String) {
        let body = json!({ "label": "test", "permission_set": permission_set });
        let made = self.post("/v1/api-keys", &self.owner, body).await.ok();
        (made["id"].as_str().unwrap().into(), made["value"].as_str().unwrap().into())
    }

    /// A provider and a role named `worker`; answers the role.
    pub async fn role(&self) -> Value {
        let provider = json!({ "name": "models", "kind": "anthropic", "domain": "models.test" });
        let provider = self.post("/v1/providers", &self.owner, provider).await.ok();
        let role = json!({ "name": "worker", "provider_id": provider["id"] });
        self.post("/v1/agent-roles", &self.owner, role).await.ok()
    }

    /// A workspace of this caller under the role `worker`; answers its id.
    pub async fn workspace(&self, key: &str) -> String {
        let made = self.post("/v1/workspaces", key, json!({ "role_name": "worker" })).await.ok();
        made["id"].as_str().unwrap().to_owned()
    }

    /// Tells the workspace what the reconciler would.
    pub async fn happen(&self, workspace: &str, event: workspace::Event) {
        let id: WorkspaceId = workspace.parse().unwrap();
        self.app
            .store()
            .write(self.organization, move |tx| {
                let mut workspace = tx.workspace_view(id)?.unwrap();
                let now = workspace.updated_at;
                freehold_app::workspace::transition(tx, &mut workspace, event, &Cause::server(), now)
            })
            .await
            .unwrap();
    }

    /// A workspace of this caller whose agent is ready.
    pub async fn ready(&self, key: &str) -> String {
        let workspace = self.workspace(key).await;
        let (organization_id, workspace_id) = (self.organization, workspace.parse().unwrap());
        let place = Place { organization_id, workspace_id };
        let fleet = Fleet::new(self.app.store().clone(), self.app.uploads(), fleet::Settings::default());
        let pod = fleet.look(workspace_id).await.unwrap().unwrap().workspace.pod_id.unwrap();
        fleet.agent_ready(place, pod).await.unwrap().expect("its pod is the one that is wanted");
        workspace
    }

    /// Tells the task what the reconciler would.
    pub async fn advance(&self, task: &str, event: task::Event) {
        let id: TaskId = task.parse().unwrap();
        self.app
            .store()
            .write(self.organization, move |tx| {
                let mut task = tx.task_view(id)?.unwrap();
                let workspace = tx.workspace_view(task.workspace_id)?.unwrap();
                let now = task.created_at;
                let cause = Cause::server();
                freehold_app::task::advance(tx, &workspace, &mut task, event, None, &cause, now)
            })
            .await
            .unwrap();
    }

    /// Submits a task; answers its id.
    pub async fn task(&self, workspace: &str, key: &str, description: &str) -> String {
        let path = format!("/v1/workspaces/{workspace}/tasks");
        let submitted = self.post(&path, key, json!({ "description": description })).await.ok();
        submitted["task_id"].as_str().unwrap().to_owned()
    }

    /// How many files uploads have left in the object store.
    pub fn uploads(&self) -> BTreeMap<String, Vec<u8>> {
        let folder = self.folder.path().join("uploads");
        let Ok(entries) = std::fs::read_dir(folder) else { return BTreeMap::new() };
        entries
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
            })
            .collect()
    }
}

async fn member(app: &App, organization: OrganizationId, name: &str) -> String {
    let email = format!("{name}@example.test");
    app.member_add(organization, &email, MemberRole::Member).await.unwrap();
    app.token_create(organization, &email, "test").await.unwrap().expose().to_owned()
}

fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(openapi)
}

/// Every answer has a request id; an error has the envelope and a code that its operation documents; a success has the
/// documented status and shape.
fn check(method: &Method, path: &str, reply: &Reply) {
    let request_id = reply.headers.get("x-request-id").expect("no x-request-id").to_str().unwrap();
    let operation = operation(method, path);
    if reply.status >= 400 {
        assert_valid("ErrorBody", &reply.json, &reply.text);
        let code = reply.json["error"]["code"].as_str().unwrap();
        let code = *ErrorCode::ALL.iter().find(|known| known.as_str() == code).unwrap();
        assert_eq!(
            (code.status(), reply.json["error"]["request_id"].as_str()),
            (reply.status, Some(request_id))
        );
        if let Some(operation) = operation {
            assert!(operation.error_codes().contains(&code), "{} does not document {code}", operation.id);
        }
        return;
    }
    let operation = operation.unwrap_or_else(|| panic!("{method} {path} is not documented"));
    let answer = &document()["paths"][operation.path][method.as_str().to_lowercase()]["responses"];
    let answer = &answer[reply.status.to_string()];
    assert!(!answer.is_null(), "{} does not document {}", operation.id, reply.status);
    let schema = &answer["content"]["application/json"]["schema"];
    if !schema.is_null() {
        let schema = json!({ "allOf": [schema], "components": document()["components"] });
        let errors: Vec<String> = jsonschema::validator_for(&schema)
            .unwrap()
            .iter_errors(&reply.json)
            .map(|e| e.to_string())
            .collect();
        assert!(errors.is_empty(), "{}: {errors:?}\n{}", operation.id, reply.text);
    }
}

fn operation(method: &Method, path: &str) -> Option<&'static Operation> {
    let path = path.strip_prefix("/api").filter(|path| path.starts_with("/v1/sessions")).unwrap_or(path);
    let fits = |pattern: &str| {
        let (mut one, mut two) = (pattern.split('/'), path.split('/'));
        loop {
            match (one.next(), two.next()) {
                (None, None) => return true,
                (Some(want), Some(have)) if want == have || (want.starts_with('{') && !have.is_empty()) => {}
                _ => return false,
            }
        }
    };
    let mut found: Vec<_> =
        operations().filter(|one| one.method.as_str() == method.as_str() && fits(one.path)).collect();
    found.sort_by_key(|one| one.path.contains('{'));
    found.first().copied()
}

fn assert_valid(name: &str, value: &Value, text: &str) {
    let schema =
        json!({ "$ref": format!("#/components/schemas/{name}"), "components": document()["components"] });
    let errors: Vec<String> =
        jsonschema::validator_for(&schema).unwrap().iter_errors(value).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}\n{text}");
}

/// The names of an object's members.
pub fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}
