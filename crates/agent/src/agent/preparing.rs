//! What comes before a turn: reading the journal as far as it is not known, and putting the task's files in place.

use std::time::Duration;

use freehold_model::{TaskId, event::SessionEvent, upload::is_safe_name};
use freehold_pod_api::{FromAgent, RejectReason, SessionPosition, TaskOrder};
use tokio::time::Instant;

use super::Agent;
use crate::{prompt::uploads_folder, session::Session};

/// How long putting one piece of a file may take.
const PUT_WAIT_MAX: Duration = Duration::from_secs(30);

/// A task that has not begun, and what is asked of the control plane for it.
#[derive(Debug, Default)]
pub(super) struct Preparing {
    order: Option<Order>,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Order {
    order: TaskOrder,
    received_at: Instant,
    /// The file that comes next, and how much of it is in place.
    file: usize,
    offset: u64,
}

/// The request that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    History { request: u64, until: u64 },
    Chunk { request: u64 },
}

impl Preparing {
    /// Asks again for what was open: the connection is a new one.
    pub(super) const fn restart(&mut self) {
        self.asked = None;
    }

    pub(super) fn drop_order(&mut self) {
        self.order = None;
    }

    pub(super) fn take(&mut self, order: TaskOrder, received_at: Instant) {
        if self.task_id() == Some(order.task_id) {
            return;
        }
        self.asked = None;
        self.order = Some(Order { order, received_at, file: 0, offset: 0 });
    }

    pub(super) fn cancel(&mut self, task_id: TaskId) {
        if let Some(order) = self.order.as_mut().filter(|order| order.order.task_id == task_id) {
            order.order.cancel_requested = true;
        }
    }

    pub(super) fn task_id(&self) -> Option<TaskId> {
        self.order.as_ref().map(|order| order.order.task_id)
    }

    fn position(&self) -> Option<SessionPosition> {
        self.order.as_ref().map(|order| order.order.session)
    }
}

impl Agent {
    /// Goes on with whatever waits: the next request, the views, the turn.
    pub(super) async fn prepare(&mut self) {
        if self.work.is_none() {
            if self.preparing.asked.is_some() || !self.is_welcome {
                return;
            }
            let wanted = self.preparing.position().or(self.position.filter(|_| !self.views.is_empty()));
            let Some(wanted) = wanted else { return };
            if self.session.as_ref().is_none_or(|session| session.id != wanted.session_id) {
                self.session = Some(Session::new(wanted.session_id, wanted.journal_after));
            }
            let read_to = self.session.as_ref().map_or(0, Session::read_to);
            if read_to < wanted.last_sequence {
                return self.ask_history(wanted, read_to).await;
            }
        }
        for request in std::mem::take(&mut self.views) {
            self.show(request).await;
        }
        if self.work.is_some() || self.ask_file().await {
            return;
        }
        if let Some(Order { order, received_at, .. }) = self.preparing.order.take() {
            self.start(order, received_at).await;
        }
    }

    async fn ask_history(&mut self, position: SessionPosition, after_sequence: u64) {
        let (request, session_id) = (self.request(), position.session_id);
        self.preparing.asked = Some(Asked::History { request, until: position.last_sequence });
        self.link.send(FromAgent::History { request, session_id, after_sequence });
    }

    /// A page of the journal came.
    pub(super) async fn history(&mut self, answered: u64, events: &[SessionEvent], more: bool) {
        let Some(Asked::History { request, until }) = self.preparing.asked else { return };
        if request != answered {
            return;
        }
        self.preparing.asked = None;
        if let Some(session) = &mut self.session {
            session.read(events);
            if !more || events.is_empty() {
                session.complete(until);
            }
        }
        self.prepare().await;
    }

    /// Asks for the next piece of the task's files; false when there is none.
    async fn ask_file(&mut self) -> bool {
        let request = self.request();
        let Some(order) = &mut self.preparing.order else { return false };
        let task_id = order.order.task_id;
        // A turn that began has its files already.
        if self.session.as_ref().is_some_and(|session| session.state.open_task() == Some(task_id)) {
            return false;
        }
        let Some(file) = order.order.files.get(order.file) else { return false };
        let (upload_id, offset) = (file.upload_id, order.offset);
        self.preparing.asked = Some(Asked::Chunk { request });
        self.link.send(FromAgent::Fetch { request, upload_id, offset });
        true
    }

    /// A piece of a file came.
    pub(super) async fn chunk(&mut self, answered: u64, base64: String, end: bool) {
        if self.preparing.asked != Some(Asked::Chunk { request: answered }) {
            return;
        }
        self.preparing.asked = None;
        if let Err(why) = self.put(base64, end).await {
            if let Some(order) = self.preparing.order.take() {
                let task_id = order.order.task_id;
                tracing::error!(task.id = %task_id, %why, "the files of a task could not be put in place");
                let reason = RejectReason::FilesUnavailable;
                self.link.send(FromAgent::Reject { task_id, reason });
            }
            return;
        }
        self.prepare().await;
    }

    async fn put(&mut self, base64: String, end: bool) -> Result<(), String> {
        let Some(order) = &mut self.preparing.order else { return Ok(()) };
        let Some(file) = order.order.files.get(order.file) else { return Ok(()) };
        if !is_safe_name(&file.name) {
            return Err(format!("`{}` is not a file name", file.name.escape_default()));
        }
        let padding = base64.bytes().rev().take_while(|byte| *byte == b'=').count();
        let length = (base64.len() / 4 * 3).saturating_sub(padding) as u64;
        let after = order.offset + length;
        if after > file.size || (end && after != file.size) || (length == 0 && !end) {
            return Err(format!("`{}` has {} bytes, but {after} came", file.name, file.size));
        }
        let path = uploads_folder(&self.options.data, &order.order).join(&file.name);
        let offset = order.offset;
        if end {
            order.file += 1;
            order.offset = 0;
        } else {
            order.offset = after;
        }
        let tools = self.tools.clone();
        let put = async move { tools.lock().await.put(path, offset, base64).await };
        tokio::time::timeout(PUT_WAIT_MAX, put).await.unwrap_or_else(|_| Err("it took too long".into()))
    }
}
