//! The agent's one loop: what the control plane says, what the running step comes to, and time.
//!
//! At most one thing of a turn is under way: a model call, a tool or a delay. It is a future that the loop polls beside
//! everything else, so that a cancellation or a lost connection is noticed at once.

mod preparing;
mod work;

use std::{future::Future, io, pin::Pin, sync::Arc, time::Duration};

use freehold_model::{TaskId, Timestamp};
use freehold_pod_api::{
    AgentConfig, AgentInfo, FromAgent, PROTOCOL, RejectReason, SessionPosition, TaskOrder, ToAgent,
};
use freehold_turn::Input;
use rustix::process::{WaitOptions, wait};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Mutex,
    time::{Instant, sleep_until},
};

use crate::{
    journal::Journal,
    link::{Link, LinkEvent},
    model::Model,
    options::Options,
    session::Session,
    tools::ToolHost,
    view::view,
};
use preparing::Preparing;

/// What the built-in agent calls itself.
pub(crate) const NAME: &str = "freehold";

/// How long the control plane may take to answer `Hello`.
const WELCOME_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long the HTTP client is kept after a task.
const CLIENT_IDLE_MAX: Duration = Duration::from_secs(60);
/// The most session views that wait for the conversation to be read; further ones get what is known.
const VIEWS_WAITING_MAX: usize = 64;

/// The one thing of a turn that is under way.
type Activity = Pin<Box<dyn Future<Output = Input>>>;

/// A turn that is under way.
#[derive(Debug)]
struct Work {
    order: TaskOrder,
    deadline: Instant,
    /// When the present step is stopped, after a cancellation.
    grace: Option<Instant>,
}

/// The agent.
pub(crate) struct Agent {
    options: Options,
    link: Link,
    /// Until when the control plane may answer `Hello`.
    welcome_by: Option<Instant>,
    is_welcome: bool,
    last_request: u64,
    config: Option<AgentConfig>,
    /// The current conversation, as the control plane says.
    position: Option<SessionPosition>,
    session: Option<Session>,
    journal: Journal,
    preparing: Preparing,
    views: Vec<u64>,
    work: Option<Work>,
    activity: Option<Activity>,
    tools: Arc<Mutex<ToolHost>>,
    model: Option<Model>,
    release_at: Option<Instant>,
    children: Option<Signal>,
}

enum Event {
    Link(LinkEvent),
    Input(Input),
    NoWelcome,
    Release,
    ChildEnded,
}

impl Agent {
    pub(crate) fn new(options: Options, tools: ToolHost) -> Self {
        Self {
            link: Link::new(options.pod_api.clone()),
            options,
            welcome_by: None,
            is_welcome: false,
            last_request: 0,
            config: None,
            position: None,
            session: None,
            journal: Journal::default(),
            preparing: Preparing::default(),
            views: Vec::new(),
            work: None,
            activity: None,
            tools: Arc::new(Mutex::new(tools)),
            model: None,
            release_at: None,
            children: None,
        }
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) -> io::Result<()> {
        // Only pid 1 inherits orphans; elsewhere every child is waited for where it was started.
        if std::process::id() == 1 {
            self.children = Some(signal(SignalKind::child())?);
        }
        loop {
            match self.next().await {
                Event::Link(LinkEvent::Connected) => self.hello().await,
                Event::Link(LinkEvent::Lost) => {
                    self.is_welcome = false;
                    self.welcome_by = None;
                }
                Event::Link(LinkEvent::Message(message)) => self.told(*message).await,
                Event::Input(input) => {
                    self.activity = None;
                    self.step(input).await;
                }
                Event::NoWelcome => {
                    tracing::warn!("pod-api: the control plane did not answer");
                    self.drop_link();
                }
                Event::Release => {
                    self.release_at = None;
                    self.model = None;
                }
                Event::ChildEnded => while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {},
            }
        }
    }

    async fn next(&mut self) -> Event {
        let (deadline, grace) = match &self.work {
            Some(work) => (Some(work.deadline), work.grace),
            None => (None, None),
        };
        tokio::select! {
            event = self.link.next() => Event::Link(event),
            input = finished(&mut self.activity) => Event::Input(input),
            () = at(deadline) => {
                if let Some(work) = &mut self.work {
                    work.deadline = Instant::now() + self.options.cancel_grace;
                }
                Event::Input(Input::TimeUp)
            }
            () = at(grace) => {
                if let Some(work) = &mut self.work {
                    work.grace = None;
                }
                Event::Input(Input::GraceOver)
            }
            () = at(self.welcome_by) => Event::NoWelcome,
            () = at(self.release_at) => Event::Release,
            Some(()) = child_ended(&mut self.children) => Event::ChildEnded,
        }
    }

    fn drop_link(&mut self) {
        self.link.close();
        self.is_welcome = false;
        self.welcome_by = None;
    }

    /// A number of ours for a request.
    fn request(&mut self) -> u64 {
        self.last_request += 1;
        self.last_request
    }

    async fn hello(&mut self) {
        self.welcome_by = Some(Instant::now() + WELCOME_WAIT_MAX);
        let hello = FromAgent::Hello {
            protocols: vec![PROTOCOL],
            agent: AgentInfo { name: NAME.into(), version: env!("CARGO_PKG_VERSION").into() },
            pod_id: self.options.pod_id,
        };
        self.link.send(hello);
    }

    async fn told(&mut self, message: ToAgent) {
        if !self.is_welcome && !matches!(message, ToAgent::Welcome { .. } | ToAgent::Refused { .. }) {
            tracing::warn!("pod-api: a message came before the welcome");
            return self.drop_link();
        }
        match message {
            ToAgent::Welcome { protocol, workspace_id, config, session, task } => {
                if protocol != PROTOCOL {
                    tracing::error!(protocol, "pod-api: the control plane chose a version we do not speak");
                    return self.drop_link();
                }
                tracing::info!(workspace.id = %workspace_id, "welcomed by the control plane");
                self.config.get_or_insert(*config);
                self.welcomed(session, task).await;
            }
            ToAgent::Refused { reason } => {
                tracing::error!(%reason, "pod-api: refused by the control plane");
                self.drop_link();
            }
            ToAgent::Deliver { task } => self.delivered(*task).await,
            ToAgent::Cancel { task_id } => self.cancel(task_id).await,
            ToAgent::Appended { request, sequences } => {
                if let Some(durable) = self.journal.acknowledge(request, &sequences) {
                    if let Some(session) = &mut self.session {
                        session.wrote(&durable);
                    }
                    self.step(Input::Acknowledged { batch: durable.batch }).await;
                }
            }
            ToAgent::AppendRefused { request, reason, detail } => {
                if self.journal.has(request) {
                    tracing::warn!(?reason, detail, "the control plane ended the turn");
                    self.give_up().await;
                    self.prepare().await;
                }
            }
            ToAgent::HistoryPage { request, events, more } => self.history(request, &events, more).await,
            ToAgent::Chunk { request, base64, end } => self.chunk(request, base64, end).await,
            ToAgent::SessionView { request } => {
                if self.views.len() < VIEWS_WAITING_MAX {
                    self.views.push(request);
                    self.prepare().await;
                } else {
                    self.show(request).await;
                }
            }
        }
    }

    async fn welcomed(&mut self, position: SessionPosition, task: Option<Box<TaskOrder>>) {
        self.welcome_by = None;
        self.is_welcome = true;
        self.link.settled();
        self.position = Some(position);
        // Views that were asked for on the old connection are nobody's.
        self.views.clear();
        let wanted = task.as_ref().map(|order| order.task_id);
        let present = self.work.as_ref().map(|work| work.order.task_id);
        if present.is_some() && present != wanted && (wanted.is_some() || self.journal.is_settled()) {
            tracing::warn!("the control plane has given up the running task");
            self.give_up().await;
        }
        for message in self.journal.repeat() {
            self.link.send(message.clone());
        }
        self.preparing.restart();
        match task {
            Some(order) if present == wanted => {
                if order.cancel_requested {
                    self.cancel(order.task_id).await;
                }
            }
            Some(order) => self.take(*order),
            // What was on its way in is no longer wanted, or will be delivered again.
            None => self.preparing.drop_order(),
        }
        self.prepare().await;
    }

    async fn delivered(&mut self, order: TaskOrder) {
        let task_id = order.task_id;
        match &self.work {
            Some(work) if work.order.task_id == task_id => {}
            Some(_) => {
                let reason = RejectReason::Busy;
                self.link.send(FromAgent::Reject { task_id, reason });
            }
            None => {
                self.take(order);
                self.prepare().await;
            }
        }
    }

    fn take(&mut self, order: TaskOrder) {
        self.position = Some(order.session);
        self.preparing.take(order, Instant::now());
    }

    async fn cancel(&mut self, task_id: TaskId) {
        self.preparing.cancel(task_id);
        if let Some(work) = self.work.as_mut().filter(|work| work.order.task_id == task_id)
            && !work.order.cancel_requested
        {
            work.order.cancel_requested = true;
            work.grace = Some(Instant::now() + self.options.cancel_grace);
            self.step(Input::CancelAsked).await;
        }
    }

    async fn show(&mut self, request: u64) {
        let view = view(self.config.as_ref(), self.session.as_ref(), self.preparing.task_id());
        self.link.send(FromAgent::View { request, view });
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn finished(activity: &mut Option<Activity>) -> Input {
    match activity {
        Some(activity) => activity.await,
        None => std::future::pending().await,
    }
}

async fn child_ended(children: &mut Option<Signal>) -> Option<()> {
    match children {
        Some(children) => children.recv().await,
        None => std::future::pending().await,
    }
}

fn now() -> Timestamp {
    Timestamp::now()
}
