//! Which server a verb talks to, with which key: flags, then environment, then the credentials file.

use freehold_client::{Client, Error, Key};

use crate::{
    credentials::{self, DEFAULT_URL},
    environment::Environment,
    failure::{Failure, exit},
    output::{Console, Format},
};

/// Said when a key is given as a flag.
pub(crate) const KEY_SEEN: &str = "warning: other users of this machine can see a key on the command line while the \
    command runs; prefer `freehold login` or FREEHOLD_API_KEY\n";

/// What of a connection comes from variables: a person may have set them long ago, and they go before what was saved.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FromVariables {
    pub url: bool,
    pub key: bool,
}

const URL_IS_A_VARIABLES: &str =
    "the address comes from the variable FREEHOLD_URL: set another, unset it, or pass --url";
const KEY_IS_A_VARIABLES: &str = "the key comes from the variable FREEHOLD_API_KEY, which goes before the one that \
    `freehold login` saved: set another, or unset it";

impl FromVariables {
    /// What to say of a failure that a variable may have caused.
    pub const fn told(self, code: u8) -> Option<&'static str> {
        match code {
            exit::NOT_SIGNED_IN if self.key => Some(KEY_IS_A_VARIABLES),
            exit::UNREACHABLE | exit::NOT_SIGNED_IN if self.url => Some(URL_IS_A_VARIABLES),
            _ => None,
        }
    }

    /// A client of this server.
    pub fn client(self, url: &str, key: Key) -> Result<Client, Failure> {
        Client::new(url, key).map_err(|error| {
            let is_told = self.url && matches!(error, Error::Address { .. });
            let mut failure = Failure::from(error);
            failure.details.extend(is_told.then(|| URL_IS_A_VARIABLES.to_owned()));
            failure
        })
    }
}

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
        let from = FromVariables {
            url: self.url.is_none() && environment.url.is_some(),
            key: self.key.is_none() && environment.api_key.is_some(),
        };
        console.from_variables = from;
        let flag = self.key.clone().map(Key::new).or_else(|| environment.api_key.clone());
        let url = self.url.clone().or_else(|| environment.url.clone());
        let (url, key) = match flag {
            Some(key) => (url.unwrap_or_else(|| DEFAULT_URL.to_owned()), key),
            None => {
                // What is no address at all is said before whose key it is.
                if let Some(url) = &url {
                    from.client(url, Key::new("none"))?;
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
        from.client(&url, key)
    }
}
