//! Signing in, and what a credential may do.

use freehold_client::{Client, Key};

use super::{Nothing, Outcome};
use crate::{
    context::{FromVariables, KEY_SEEN},
    credentials::{self, DEFAULT_URL},
    environment::Environment,
    failure::{Failure, exit},
    input,
    output::{Console, table},
    text,
};

/// The most characters shown of who signed in.
const WHO_CHARS_MAX: usize = 100;

pub(crate) const EXAMPLES: &str = "Examples:
  freehold login < data/owner.key
  freehold login --url https://freehold.example.com --key-stdin < key.txt

The key is kept in ~/.config/freehold/credentials (XDG_CONFIG_HOME is respected), readable by you alone.";

/// Check a key and keep it.
#[derive(Debug, Clone, clap::Args)]
pub struct Login {
    /// The server's address [env: FREEHOLD_URL; default: http://127.0.0.1:7070]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Read the key from stdin (the default without --key)
    #[arg(long, conflicts_with = "key")]
    key_stdin: bool,
    /// The key. Other users of this machine may see it: prefer stdin
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

pub(crate) async fn run(login: Login, environment: &Environment, console: &mut Console) -> Outcome {
    let from = FromVariables { url: login.url.is_none() && environment.url.is_some(), key: false };
    console.from_variables = from;
    let url = login.url.or_else(|| environment.url.clone()).unwrap_or_else(|| DEFAULT_URL.to_owned());
    let key = match login.key {
        Some(key) => {
            console.note(KEY_SEEN);
            Key::new(key.trim())
        }
        None => Key::new(input::secret(console, None, "key").await?.expose().trim()),
    };
    let lines = key.expose().lines().count();
    if lines > 1 {
        return Err(Failure::usage(format!("a key is a single line, and this has {lines}")));
    }
    let client = from.client(&url, key.clone())?;
    let me = client.me_session_view().await.map_err(|error| match error.api() {
        Some(api) if api.status == 401 => Failure::from(error)
            .hint("the server does not know this key, or it was revoked; is it whole, and of this server?"),
        _ => Failure::from(error),
    })?;
    let path = credentials::save(environment, client.address(), &key)?;
    let who =
        if me.email.is_empty() { me.api_key_label.as_deref().unwrap_or("an API key") } else { &me.email };
    let who = text::line(who, WHO_CHARS_MAX);
    console.note(&format!("Signed in to {} as {who}; the key is in {}\n", client.address(), path.display()));
    if environment.api_key.as_ref().is_some_and(|other| other.expose() != key.expose()) {
        console.note("FREEHOLD_API_KEY is set to another key, which goes before this one: unset it\n");
    }
    Ok(exit::OK)
}

pub(crate) async fn whoami(client: &Client, _: Nothing, console: &mut Console) -> Outcome {
    let me = client.me_session_view().await?;
    console.fields(&me)?;
    Ok(exit::OK)
}

pub(crate) async fn config_defaults(client: &Client, _: Nothing, console: &mut Console) -> Outcome {
    let config = client.config_view().await?;
    console.answer(&config, |config| {
        let defaults = &config.defaults;
        let rows = [
            ("task_timeout_seconds", defaults.task_timeout_seconds.to_string()),
            ("idle_timeout_seconds", defaults.idle_timeout_seconds.to_string()),
            ("oauth_redirect_uri", defaults.oauth_redirect_uri.clone()),
        ];
        table(&["default", "value"], rows.map(|(name, value)| vec![name.to_owned(), value]))
    })?;
    Ok(exit::OK)
}
