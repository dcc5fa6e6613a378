//! A thread's connection, opened anew when it is lost.

use crate::{
    Error, Options,
    database::{self, Purpose},
    scope::Session,
};

/// A connection that a thread keeps for one purpose.
pub(crate) struct Link {
    options: Options,
    purpose: Purpose,
    session: Option<Session>,
}

impl Link {
    pub(crate) fn open(options: &Options, purpose: Purpose) -> Result<Self, Error> {
        let session = Session::new(database::connect(options, purpose, false)?);
        Ok(Self { options: options.clone(), purpose, session: Some(session) })
    }

    /// Begins a transaction. A connection that turns out to be lost is opened anew, once.
    pub(crate) fn begin(&mut self) -> Result<&mut Session, Error> {
        let mut session = match self.session.take().filter(|session| !session.connection.is_lost()) {
            Some(mut session) => match session.connection.begin(self.purpose) {
                Ok(()) => return Ok(self.session.insert(session)),
                Err(_) if session.connection.is_lost() => self.reopen()?,
                Err(error) => {
                    self.session = Some(session);
                    return Err(error);
                }
            },
            None => self.reopen()?,
        };
        session.connection.begin(self.purpose)?;
        Ok(self.session.insert(session))
    }

    fn reopen(&self) -> Result<Session, Error> {
        let connection =
            database::connect(&self.options, self.purpose, true).map_err(Error::into_unavailable)?;
        tracing::info!(store.purpose = ?self.purpose, "connected to the database again");
        Ok(Session::new(connection))
    }

    /// Ends whatever transaction there is, taking its changes back.
    pub(crate) fn roll_back(&mut self) {
        let Some(session) = &mut self.session else { return };
        // What was sent and failed is taken back with the rest.
        drop(session.connection.settle());
        if session.connection.in_transaction()
            && let Err(error) = session.connection.execute("ROLLBACK", &[])
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "failed to roll back; connecting again");
            self.session = None;
        }
    }
}
