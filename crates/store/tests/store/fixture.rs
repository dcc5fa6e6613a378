//! A store with one organization, and things to put into it.

use std::collections::BTreeMap;

use freehold_model::*;
use freehold_model::{
    approval::{Approval, Origin, Question, Reason, RuleRef, Shown},
    audit::{Actor, AuditEvent, Category, EventType},
    event::{ContentPart, Context, Message, MessageRole, Payload, SessionEvent},
    member::{Member, MemberRole},
    provider::Provider,
    role::{Environment, PoolPolicy, Role},
    session::{Session, Summary},
    task::{Overrides, Task},
    workspace::{Backend, Phase, Workspace},
};
use freehold_store::{Database, Error, Options, Organization, Store};
use freehold_testkit::postgresql;
use uuid::Uuid;

pub struct Fixture {
    pub store: Store,
    pub organization: OrganizationId,
    pub options: Options,
    pub postgresql: Option<postgresql::Database>,
    _folder: Option<tempfile::TempDir>,
}

impl Fixture {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::new(Database::Sqlite { path: folder.path().join("freehold.db") });
        Self { _folder: Some(folder), ..Self::with(options, None).await }
    }

    pub async fn postgresql() -> Self {
        let database = tokio::task::spawn_blocking(postgresql::Database::create).await.unwrap().unwrap();
        let options = Options::new(Database::Postgres { url: database.url() });
        Self::with(options, Some(database)).await
    }

    async fn with(options: Options, postgresql: Option<postgresql::Database>) -> Self {
        let store = Store::open(&options).unwrap();
        let organization = organization_insert(&store, "default").await;
        Self { store, organization, options, postgresql, _folder: None }
    }

    /// Another handle on the same database, as another server process has.
    pub fn open_again(&self) -> Store {
        Store::open(&self.options).unwrap()
    }

    /// Runs SQL behind the store's back.
    pub fn tamper(&self, sql: &str) {
        match &self.options.database {
            Database::Sqlite { path } => {
                rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
            }
            Database::Postgres { .. } => {
                self.postgresql.as_ref().unwrap().psql(sql).unwrap();
            }
        }
    }

    /// Runs a job that writes and must succeed.
    pub async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut freehold_store::OrgTx<'_>) -> Result<T, Error> + Send + 'static,
    ) -> T {
        self.store.write(self.organization, job).await.unwrap()
    }

    /// Runs a job that reads and must succeed.
    pub async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut freehold_store::OrgRead<'_>) -> Result<T, Error> + Send + 'static,
    ) -> T {
        self.store.read(self.organization, job).await.unwrap()
    }

    /// A provider, a role, a workspace and its session, all in the database.
    pub async fn workspace(&self) -> (Workspace, Session) {
        let world = World::new(self.organization);
        self.write(move |tx| world.insert(tx)).await
    }
}

/// A pending approval for a request of this workspace.
pub fn approval(workspace: &Workspace) -> Approval {
    let rule = RuleRef { origin: Origin::Role, capability: "api".to_owned(), rule: "write".to_owned() };
    let shown = Shown {
        method: "POST".to_owned(),
        destination: "api.test".to_owned(),
        path: "/".to_owned(),
        query: Vec::new(),
        headers: Vec::new(),
        body: None,
        trailers: Vec::new(),
        is_cut: false,
    };
    let question = Question {
        id: ApprovalId::from_uuid(uuid()),
        organization_id: workspace.organization_id,
        workspace_id: workspace.id,
        task_id: None,
        reason: Reason::ApprovalRequired,
        rule,
        policy_digest: "digest".to_owned(),
        shown,
        created_at: now(),
        expires_at: now(),
    };
    Approval::pending(question, workspace.created_by)
}

pub async fn organization_insert(store: &Store, name: &str) -> OrganizationId {
    let id = OrganizationId::from_uuid(Uuid::now_v7());
    let organization = Organization { id, name: name.to_owned(), created_at: now() };
    store.system_write(move |tx| tx.organization_insert(&organization)).await.unwrap();
    id
}

/// The present, as exactly as the store keeps it.
pub fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap()
}

pub fn uuid() -> Uuid {
    Uuid::now_v7()
}

/// What a workspace needs.
pub struct World {
    pub provider: Provider,
    pub role: Role,
    pub workspace: Workspace,
    pub session: Session,
}

impl World {
    pub fn new(organization: OrganizationId) -> Self {
        let provider = provider(organization);
        let role = role(organization, provider.id);
        let mut workspace = workspace(organization, role.id);
        workspace.backend = Some(Backend::of(&role, &provider, Some(CredentialId::from_uuid(uuid()))));
        let session = session(&workspace);
        Self { provider, role, workspace, session }
    }

    pub fn insert(self, tx: &mut freehold_store::OrgTx<'_>) -> Result<(Workspace, Session), Error> {
        tx.provider_insert(&self.provider)?;
        tx.role_insert(&self.role)?;
        tx.workspace_insert(&self.workspace)?;
        tx.session_insert(&self.session)?;
        Ok((self.workspace, self.session))
    }
}

fn name(prefix: &str) -> String {
    format!("{prefix}-{}", uuid().simple())
}

pub fn member(organization_id: OrganizationId) -> Member {
    let id = MemberId::from_uuid(uuid());
    Member {
        id,
        organization_id,
        email: format!("{id}@example.test"),
        role: MemberRole::Owner,
        created_at: now(),
    }
}

pub fn provider(organization_id: OrganizationId) -> Provider {
    Provider {
        id: ProviderId::from_uuid(uuid()),
        organization_id,
        name: name("provider"),
        kind: provider::Kind::AzureOpenAi,
        display_name: Some("Ein Anbieter – с именем".to_owned()),
        domain: "api.example.test".to_owned(),
        credential_name: Some("key".to_owned()),
        default_model: None,
        capabilities: Some("- name: x\n".to_owned()),
        config: BTreeMap::from([("api_version".to_owned(), "v1".to_owned())]),
        created_at: now(),
        updated_at: now(),
        archived_at: None,
    }
}

pub fn role(organization_id: OrganizationId, provider_id: ProviderId) -> Role {
    Role {
        id: RoleId::from_uuid(uuid()),
        organization_id,
        name: name("role"),
        display_name: None,
        description: Some("reviews code".to_owned()),
        provider_id,
        model: Some("model-1".to_owned()),
        capabilities: None,
        environment: Environment::Staging,
        environment_description: None,
        task_timeout_seconds: Some(u32::MAX),
        idle_timeout_seconds: None,
        thinking_effort: Some(role::ThinkingEffort::Low),
        max_continuations: Some(1),
        max_context_tokens: Some(1 << 40),
        pool_policy: PoolPolicy::None,
        pool_size: None,
        pool_max_size: Some(3),
        pack_ids: vec![PackId::from_uuid(uuid())],
        created_at: now(),
        updated_at: now(),
        archived_at: None,
    }
}

pub fn workspace(organization_id: OrganizationId, role_id: RoleId) -> Workspace {
    Workspace {
        id: WorkspaceId::from_uuid(uuid()),
        organization_id,
        role_id,
        environment: Some("staging".to_owned()),
        phase: Phase::Provisioning,
        created_by: None,
        session_id: SessionId::from_uuid(uuid()),
        pod_id: Some(PodId::from_uuid(uuid())),
        generation: 1,
        failed_starts: 0,
        backend: None,
        snapshot_ref: None,
        last_snapshot_error: None,
        parent_id: None,
        fork_source_snapshot_ref: None,
        fork_point_task_count: None,
        created_at: now(),
        updated_at: now(),
        archived_at: None,
    }
}

pub fn session(workspace: &Workspace) -> Session {
    Session {
        id: workspace.session_id,
        organization_id: workspace.organization_id,
        workspace_id: workspace.id,
        role_id: workspace.role_id,
        created_by: workspace.created_by,
        title: Some("A title".to_owned()),
        tags: vec!["a".to_owned(), "b".to_owned()],
        summary: Summary::default(),
        created_at: now(),
        updated_at: now(),
        finished_at: None,
    }
}

pub fn task(workspace: &Workspace, description: &str) -> Task {
    Task {
        id: TaskId::from_uuid(uuid()),
        organization_id: workspace.organization_id,
        workspace_id: workspace.id,
        session_id: workspace.session_id,
        description: description.to_owned(),
        phase: task::Phase::Submitted,
        overrides: Overrides {
            thinking_effort: Some(role::ThinkingEffort::Off),
            max_continuations: None,
            max_context_tokens: Some(5),
        },
        metadata: Some(serde_json::json!({"ticket": 7})),
        created_by: None,
        cancel_requested: false,
        reason: None,
        created_at: now(),
        started_at: None,
        completed_at: None,
    }
}

pub fn event(session_id: SessionId, text: &str) -> SessionEvent {
    let message = Message {
        id: MessageId::from_uuid(uuid()),
        role: MessageRole::User,
        content: vec![ContentPart::Text { text: text.to_owned() }],
    };
    SessionEvent {
        id: EventId::from_uuid(uuid()),
        session_id,
        sequence: None,
        ts: now(),
        context: Context { turn_id: Some(TurnId::from_uuid(uuid())), input_message_id: Some(message.id) },
        payload: Payload::InputMessage { message },
    }
}

pub fn audit_event(organization: OrganizationId, event_type: EventType, category: Category) -> AuditEvent {
    let id = EventId::from_uuid(uuid());
    AuditEvent::new(id, organization, "system".to_owned(), now(), event_type, category, Actor::ControlPlane)
}
