//! Which server a verb talks to, with which key: flags, then environment, then the credentials file.

use freehold_client::{Client, Key};

use crate::{
    credentials::{self, DEFAULT_URL},
    environment::Environment,
    failure::{Failure, exit},
    output::{Console, Format},
};

/// Said when a key is given as a flag.
pub(crate) const KEY_SEEN: &str = "warning: other users of this machine can see a key on the command line while the \
    command runs; prefer `freehold login` or FREEHOLD_API_KEY\n";

/// What every verb that calls the API takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Connection {
    /// The server's address [env: FREEHOLD_URL; else as signed in]
    #[arg(long, value_name = "URL", global = true, help_heading = "Connection")]
    url: Option<String>,
    /// The API key or personal token [env: FREEHOLD_API_KEY; else as signed in]. Other users of this machine may see it
    #[arg(long, value_name = "KEY", global = true, help_heading = "Connection")]
    key: Option<String>,
    /// The form of data on stdout: a table, or exactly the API's answer
    #[arg(long, short, value_enum, default_value_t, global = true)]
    pub output: Format,
}

impl Connection {
    /// A client of the server in force.
    pub fn client(&self, environment: &Environment, console: &mut Console) -> Result<Client, Failure> {
        if self.key.is_some() {
            console.note(KEY_SEEN);
        }
        let flag = self.key.clone().map(Key::new).or_else(|| environment.api_key.clone());
        let url = self.url.clone().or_else(|| environment.url.clone());
        let (url, key) = match flag {
            Some(key) => (url.unwrap_or_else(|| DEFAULT_URL.to_owned()), key),
            None => {
                // What is no address at all is said before whose key it is.
                if let Some(url) = &url {
                    Client::new(url, Key::new("none"))?;
                }
                let saved = credentials::load(environment)?.ok_or_else(|| {
                    Failure::new(exit::NOT_SIGNED_IN, "not signed in")
                        .hint("sign in with `freehold login`, or set FREEHOLD_API_KEY and FREEHOLD_URL")
                })?;
                // The saved key is for the saved server; it is not shown to another.
                if url
                    .as_ref()
                    .is_some_and(|url| url.trim_end_matches('/') != saved.url.trim_end_matches('/'))
                {
                    return Err(Failure::new(exit::NOT_SIGNED_IN, "the saved key belongs to another server")
                        .hint(format!("it is for {}; sign in to this one, or pass its key too", saved.url)));
                }
                (saved.url, saved.key)
            }
        };
        Ok(Client::new(&url, key)?)
    }
}
