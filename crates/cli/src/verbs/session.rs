//! Sessions.

use freehold_client::{
    Client,
    api::session::{Session as Row, SessionListQuery},
};
use freehold_model::{SessionId, WorkspaceId};

use super::Outcome;
use crate::{
    answer,
    failure::exit,
    output::{Console, Format, or_dash, table, time},
    resolve::{self, Names},
};

/// Verbs on sessions.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Session {
    /// List sessions, newest first
    #[command(after_help = "Examples:\n  freehold session list --role coder --limit 50")]
    List {
        /// Only those under this role, by name or id
        #[arg(long, value_name = "NAME")]
        role: Option<String>,
        /// Only those of this workspace
        #[arg(long, value_name = "ID")]
        workspace: Option<WorkspaceId>,
        /// How many to pass over
        #[arg(long, value_name = "N")]
        offset: Option<u32>,
        /// How many to show
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show one session, with the agent's last answer as a whole
    #[command(after_help = "Examples:\n  freehold session get session_0199...")]
    Get {
        /// The session
        id: SessionId,
    },
}

pub(crate) async fn run(client: &Client, verb: Session, console: &mut Console) -> Outcome {
    match verb {
        Session::List { role, workspace, offset, limit } => {
            let agent_id = match role {
                Some(role) => Some(resolve::role(client, &role).await?),
                None => None,
            };
            let query = SessionListQuery { agent_id, workspace_id: workspace, offset, limit };
            let list = client.session_list(&query).await?;
            console.answer(&list, |list| rows(&list.data))?;
        }
        Session::Get { id } => {
            let session = client.session_view(id).await?;
            let names = Names::of_role(client, console.format, session.agent_id).await;
            console.named_fields(&session, &names)?;
            if console.format == Format::Table
                && let Some(answer) = answer::of_session(client, &session).await
            {
                console.data(&answer::block(&answer))?;
            }
        }
    }
    Ok(exit::OK)
}

/// The rows of a list of sessions.
pub(crate) fn rows(sessions: &[Row]) -> String {
    let row = |session: &Row| {
        vec![
            session.id.to_string(),
            session.status.to_string(),
            or_dash(session.usage.as_ref().map(|usage| usage.input_tokens + usage.output_tokens)),
            time(session.created_at),
            or_dash(session.title.as_ref().or(session.preview.as_ref())),
        ]
    };
    table(&["id", "status", "tokens", "created", "what"], sessions.iter().map(row))
}
