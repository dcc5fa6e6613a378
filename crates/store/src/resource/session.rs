//! Sessions and their events.
//!
//! Invariant: the sequences of a session's events are dense from 1, and an event that is committed never changes. An
//! event that comes again, known by its id, is answered with the sequence it has.

use freehold_model::{
    EventId, MemberId, RoleId, SessionId, Timestamp, WorkspaceId, event::SessionEvent, session::Session,
};

use crate::{
    Error, OrgRead, OrgTx, Page,
    page::Conditions,
    record::record,
    signal::Topic,
    sql::{Column, Row, Value},
};

record!(Session in "sessions" of organization_id; id, workspace_id, role_id, created_by, title, tags, summary,
    created_at, updated_at, finished_at);

const EVENTS: &str = "session_events";

/// Which sessions a list shows.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// Only those of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// Only those with this role.
    pub role: Option<RoleId>,
    /// Only those of this creator.
    pub created_by: Option<MemberId>,
}

impl SessionFilter {
    fn conditions(&self) -> Conditions<'_> {
        let mut conditions = Conditions::scoped();
        conditions.maybe("workspace_id = ", self.workspace.as_ref());
        conditions.maybe("role_id = ", self.role.as_ref());
        conditions.maybe("created_by = ", self.created_by.as_ref());
        conditions
    }
}

/// What became of an event that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedEvent {
    /// The event.
    pub id: EventId,
    /// Its position in the session, from 1.
    pub sequence: u64,
    /// Whether it was committed just now, and not already before.
    pub is_new: bool,
    /// The bytes of its payload as they were written just now; 0 for one that was committed before.
    pub bytes: u64,
}

impl OrgRead<'_> {
    /// The session with this id.
    pub fn session_view(&mut self, id: SessionId) -> Result<Option<Session>, Error> {
        self.find(" AND id = ?2", &[id.write()])
    }

    /// Sessions, newest first.
    pub fn session_list(
        &mut self,
        filter: &SessionFilter,
        page: &Page<SessionId>,
    ) -> Result<Vec<Session>, Error> {
        let mut conditions = filter.conditions();
        conditions.maybe("id < ", page.after.as_ref()).page("id DESC", page);
        self.select(&conditions.sql, &conditions.values)
    }

    /// Sessions, newest first, passing over the first `offset`: for lists that count pages. Costs as much as it passes
    /// over.
    pub fn session_page(
        &mut self,
        filter: &SessionFilter,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<Session>, Error> {
        let mut conditions = filter.conditions();
        conditions.page("id DESC", &Page::<u64>::first(limit)).offset(offset);
        self.select(&conditions.sql, &conditions.values)
    }

    /// How many sessions there are.
    pub fn session_count(&mut self, filter: &SessionFilter) -> Result<u64, Error> {
        let conditions = filter.conditions();
        let sql = format!("SELECT count(*) FROM sessions WHERE organization_id = ?1{}", conditions.sql);
        Ok(self.query(&sql, &conditions.values, |row| row.get("sessions"))?.pop().unwrap_or(0))
    }

    /// Events of a session with a sequence greater than `after_sequence` (0: from the beginning), in order.
    pub fn session_events_after(
        &mut self,
        session: SessionId,
        after_sequence: u64,
        limit: u32,
    ) -> Result<Vec<SessionEvent>, Error> {
        let mut conditions = Conditions::scoped();
        conditions.with("session_id = ", session.write()).with("sequence > ", after_sequence.write());
        conditions.page("sequence", &Page::<u64>::first(limit));
        let sql = format!(
            "SELECT id, sequence, ts, context, payload FROM session_events WHERE organization_id = ?1{}",
            conditions.sql
        );
        self.query(&sql, &conditions.values, |row| read_event(session, row))
    }

    /// The sequence of the last event of a session; 0 when it has none.
    pub fn session_last_sequence(&mut self, session: SessionId) -> Result<u64, Error> {
        let sql = "SELECT sequence FROM session_events WHERE organization_id = ?1 AND session_id = ?2
            ORDER BY sequence DESC LIMIT 1";
        Ok(self.query(sql, &[session.write()], |row| row.get(EVENTS))?.pop().unwrap_or(0))
    }
}

impl OrgTx<'_> {
    /// Inserts a session.
    pub fn session_insert(&mut self, session: &Session) -> Result<(), Error> {
        self.touch(Topic::Sessions);
        self.insert(session)
    }

    /// Writes the session's row, its summary included.
    pub fn session_update(&mut self, session: &Session) -> Result<(), Error> {
        self.touch(Topic::Sessions);
        self.update(session)
    }

    /// Appends events to a session and takes each new one into account in the session's summary. The answer has one
    /// entry for each event, in the same order. `Missing` when there is no such session.
    pub fn session_events_append(
        &mut self,
        id: SessionId,
        events: &[SessionEvent],
    ) -> Result<Vec<CommittedEvent>, Error> {
        let mut session = self.session_view(id)?.ok_or(Error::Missing { table: "sessions" })?;
        let mut last = self.session_last_sequence(id)?;
        let before = last;
        let mut committed = Vec::with_capacity(events.len());
        for event in events {
            let known = "SELECT sequence FROM session_events
                WHERE organization_id = ?1 AND session_id = ?2 AND id = ?3";
            let known = self.query(known, &[id.write(), event.id.write()], |row| row.get(EVENTS))?.pop();
            if let Some(sequence) = known {
                committed.push(CommittedEvent { id: event.id, sequence, is_new: false, bytes: 0 });
                continue;
            }
            last += 1;
            let bytes = self.session_event_insert(id, last, event)?;
            session.summary.apply(event);
            session.summary.journal.add(bytes);
            committed.push(CommittedEvent { id: event.id, sequence: last, is_new: true, bytes });
        }
        if last > before {
            session.updated_at = Timestamp::now();
            self.session_update(&session)?;
        }
        Ok(committed)
    }

    /// Answers how many bytes its payload has.
    fn session_event_insert(
        &mut self,
        session: SessionId,
        sequence: u64,
        event: &SessionEvent,
    ) -> Result<u64, Error> {
        let sql = "INSERT INTO session_events
            (organization_id, session_id, sequence, id, ts, turn_id, context, payload)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let payload = event.payload.write();
        let bytes = if let Value::Text(text) = &payload { text.len() as u64 } else { 0 };
        let values = [
            session.write(),
            sequence.write(),
            event.id.write(),
            event.ts.write(),
            event.context.turn_id.write(),
            event.context.write(),
            payload,
        ];
        self.send(sql, &values, EVENTS)?;
        Ok(bytes)
    }
}

fn read_event(session_id: SessionId, row: &mut Row<'_>) -> Result<SessionEvent, Error> {
    Ok(SessionEvent {
        session_id,
        id: row.get(EVENTS)?,
        sequence: Some(row.get(EVENTS)?),
        ts: row.get(EVENTS)?,
        context: row.get(EVENTS)?,
        payload: row.get(EVENTS)?,
    })
}
