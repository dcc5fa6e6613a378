//! Sessions: the durable record of conversations.

use freehold_access::{Actor, Denied, Right};
use freehold_model::{RoleId, SessionId, WorkspaceId, session::Session};
use freehold_store::SessionFilter;

use crate::{App, Error, Thing};

/// Which sessions a list shows.
#[derive(Debug, Clone, Default)]
pub struct SessionSelection {
    /// Only those of this role.
    pub role: Option<RoleId>,
    /// Only those of this workspace.
    pub workspace: Option<WorkspaceId>,
    /// How many to pass over.
    pub offset: u32,
    /// How many to answer.
    pub limit: u32,
}

impl App {
    /// Sessions that the caller may see, newest first, and how many there are in all.
    ///
    /// # Errors
    /// When the caller may not.
    pub async fn session_list(
        &self,
        actor: &Actor,
        selection: SessionSelection,
    ) -> Result<(Vec<Session>, u64), Error> {
        let reach = actor.reach(Right::WorkspaceRead)?;
        let SessionSelection { role, workspace, offset, limit } = selection;
        let filter = SessionFilter { workspace, role, created_by: reach.owner() };
        self.store()
            .read(reach.organization(), move |tx| {
                Ok((tx.session_page(&filter, offset, limit)?, tx.session_count(&filter)?))
            })
            .await
    }

    /// One session.
    ///
    /// # Errors
    /// When there is none that the caller may see: one that somebody else made is not told from one that is not there.
    pub async fn session_view(&self, actor: &Actor, id: SessionId) -> Result<Session, Error> {
        let session = self
            .store()
            .read(actor.organization(), move |tx| tx.session_view(id)?.ok_or(Error::NotFound(Thing::Session)))
            .await?;
        match actor.authorize(&[Right::WorkspaceRead], session) {
            Ok(session) => Ok(session.into_inner()),
            Err(Denied::NotOwner | Denied::OtherOrganization) => Err(Error::NotFound(Thing::Session)),
            Err(denied @ Denied::MissingScope { .. }) => Err(denied.into()),
        }
    }
}
