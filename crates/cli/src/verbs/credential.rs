//! Credentials. The secret comes from stdin or a file, never from the command line.

use std::{collections::BTreeMap, path::PathBuf};

use freehold_client::{
    Client,
    api::{
        credential::{Credential as Row, CredentialCreate, Kind},
        service::ListQuery,
    },
};
use freehold_model::{CredentialId, issuer::Issuer};
use freehold_policy::Transform;
use url::form_urlencoded;

use super::{Outcome, behind, provider::pair, taken, used};
use crate::{
    failure::{Failure, exit},
    input::{self, Confirm},
    output::{Console, NOTE, or_dash, table, time},
    resolve, text,
};

/// Verbs on credentials.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Credential {
    /// List credentials, without their secrets
    #[command(after_help = "Examples:\n  freehold credential list")]
    List {
        /// Only so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show one credential, without its secret
    #[command(after_help = "Examples:\n  freehold credential get anthropic-key")]
    Get {
        /// The credential, by name or id
        credential: String,
    },
    /// Create a credential; its secret comes from stdin or a file
    #[command(after_help = "Examples:
  freehold credential create anthropic-key --provider anthropic --secret-file key.txt
  printenv OPENAI_API_KEY | freehold credential create openai-key --provider openai
  freehold credential create gmail --provider google --kind oauth2_authorization_code --config client_id=ID \
--scope https://www.googleapis.com/auth/gmail.readonly --secret-file client-secret.txt --allow-user-override
  freehold credential create gmail --provider google --kind oauth2_authorization_code --personal
  freehold credential create s3 --provider aws --kind aws_sigv4 --config access_key_id=AKIA0000 --secret-file key.txt

A model provider's credential is an api_key whose --provider is that provider's kind. Settings of each kind: \
docs/credentials.md.")]
    Create(Create),
    /// Have a person consent to a credential: prints where to, and takes what they come back with
    #[command(after_help = "Examples:
  freehold credential connect gmail

Open the address in a browser and consent. The last page shows a line: paste it here.")]
    Connect {
        /// The credential, by name or id
        credential: String,
    },
    /// Delete a credential and its secret; says which providers and roles use it
    #[command(
        after_help = "Examples:\n  freehold credential delete anthropic-key\n  freehold credential delete anthropic-key --yes"
    )]
    Delete {
        /// The credential, by name or id
        credential: String,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// What a new credential is.
#[derive(Debug, Clone, clap::Args)]
pub struct Create {
    /// Its name, which providers and policies refer to
    name: String,
    /// Whose service it is for; for a model provider's credential the provider's kind
    #[arg(long, value_name = "SLUG")]
    provider: String,
    /// How it is obtained and presented
    #[arg(long, value_parser = kind, default_value = "api_key", value_name = "KIND")]
    kind: Kind,
    /// The file that holds the secret (key, password, client's secret, private key, service account); stdin when absent or `-`
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// There is no secret: the OAuth client is public
    #[arg(long, conflicts_with = "secret_file")]
    no_secret: bool,
    /// The file that holds the session token of temporary AWS keys
    #[arg(long, value_name = "FILE")]
    session_token_file: Option<PathBuf>,
    /// A setting that is not secret; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    config: Vec<(String, String)>,
    /// A scope to ask for; repeatable
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Your own, in the place of the organization's of this name; under its OAuth client unless settings say another
    #[arg(long)]
    personal: bool,
    /// Members may have one of their own in its place
    #[arg(long)]
    allow_user_override: bool,
}

/// The kind of this slug; dashes do as well.
fn kind(text: &str) -> Result<Kind, String> {
    text.replace('-', "_").parse().map_err(|_| {
        let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("must be one of {}", kinds.join(", "))
    })
}

pub(crate) async fn run(client: &Client, verb: Credential, console: &mut Console) -> Outcome {
    match verb {
        Credential::List { limit } => {
            let list = client.credential_list(&ListQuery { limit, cursor: None }).await?;
            console.answer(&list, |list| {
                let row = |credential: &Row| {
                    vec![
                        credential.name.clone(),
                        credential.id.to_string(),
                        credential.provider.clone(),
                        credential.kind.to_string(),
                        credential.status.to_string(),
                        or_dash(credential.last_minted_at.map(time)),
                    ]
                };
                table(
                    &["name", "id", "provider", "kind", "status", "last used"],
                    list.credentials.iter().map(row),
                )
            })?;
        }
        Credential::Get { credential } => {
            let id = resolve::credential(client, &credential).await?;
            console.fields(&client.credential_view(id).await?)?;
        }
        Credential::Create(new) => create(client, new, console).await?,
        Credential::Connect { credential } => {
            let id = resolve::credential(client, &credential).await?;
            connect(client, id, console).await?;
        }
        Credential::Delete { credential, confirm } => {
            let id = resolve::credential(client, &credential).await?;
            let name = client.credential_view(id).await?.into_value().name;
            let used = used_by(client, &name).await;
            let means = used.map(|by| {
                format!("It is used by {by}: their requests to models are denied until they have another.")
            });
            let puts_on = |transform: &Transform| transform.credential.as_deref() == Some(name.as_str());
            let by_transforms = used::by_transforms(client, puts_on).await;
            let kept = kept(client, id).await;
            let means = [means.unwrap_or_default(), by_transforms, kept];
            let means = means
                .iter()
                .filter(|text| !text.is_empty())
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" ");
            confirm.ask_telling(console, &format!("delete the credential {name} and its secret"), &means)?;
            if confirm.is_given() && !means.is_empty() {
                console.note(&format!("warning: {}\n", text::harmless(&means)));
            }
            console.fields(&client.credential_delete(id).await?)?;
        }
    }
    Ok(exit::OK)
}

/// The providers that name the credential and the roles that use these, archived ones apart.
/// None too where the caller may not see them.
async fn used_by(client: &Client, name: &str) -> Option<String> {
    let providers = client.provider_list(&Default::default()).await.ok()?.into_value().providers;
    let users: Vec<_> =
        providers.iter().filter(|provider| provider.credential_name.as_deref() == Some(name)).collect();
    if users.is_empty() {
        return None;
    }
    let roles = client.role_list(&Default::default()).await.ok()?.into_value().agent_roles;
    let roles = roles.iter().filter(|role| users.iter().any(|provider| provider.id == role.provider_id));
    let names = |what: &str, names: Vec<&str>| match names.as_slice() {
        [] => format!("no {what}"),
        [one] => format!("the {what} {one}"),
        more => format!("the {what}s {}", more.join(", ")),
    };
    let providers = names("provider", users.iter().map(|provider| provider.name.as_str()).collect());
    let roles = names("role", roles.map(|role| role.name.as_str()).collect());
    Some(format!("{providers} and {roles}"))
}

/// Which running workspaces have this very credential where their provider was before, as a sentence; empty where there are none.
async fn kept(client: &Client, id: CredentialId) -> String {
    match behind::named(client, |with| with.credential_id == Some(id)).await {
        Err(_) => {
            "Which running workspaces keep it where their provider was before could not be listed.".to_owned()
        }
        Ok(named) if named.is_empty() => String::new(),
        Ok(named) => format!(
            "Running workspaces keep it where their provider was when they were started, and take no other there: {named}. \
             Their requests to models are denied: stop them and create others."
        ),
    }
}

async fn create(client: &Client, new: Create, console: &mut Console) -> Result<(), Failure> {
    let under_organizations = new.personal && new.config.is_empty() && new.secret_file.is_none();
    let secret = if new.no_secret || under_organizations {
        None
    } else {
        Some(input::secret(console, new.secret_file.as_deref(), "secret").await?.expose().to_owned())
    };
    let session_token = match &new.session_token_file {
        Some(file) => Some(input::secret(console, Some(file), "session token").await?.expose().to_owned()),
        None => None,
    };
    let mut body = CredentialCreate {
        name: new.name,
        provider: new.provider,
        scopes: new.scopes,
        provider_config: new.config.into_iter().collect(),
        session_token,
        personal: Some(true).filter(|_| new.personal),
        allow_user_override: Some(true).filter(|_| new.allow_user_override),
        ..CredentialCreate::of(new.kind)
    };
    let field = match new.kind {
        Kind::ApiKey | Kind::QueryApiKey => &mut body.api_key,
        Kind::BasicAuth => &mut body.password,
        Kind::Oauth2AuthorizationCode | Kind::Oauth2ClientCredentials => &mut body.client_secret,
        Kind::Oauth2JwtBearer | Kind::Oauth2JwtBearerWithSubject => &mut body.service_account_json,
        Kind::Oauth2ClientAssertion => &mut body.private_key,
        Kind::AwsSigv4 => &mut body.secret_access_key,
    };
    *field = secret;
    let made = client.credential_create(&body).await.map_err(|error| {
        let name = &body.name;
        taken(
            error,
            format!("a credential is not changed: `freehold credential delete {name}`, then create it anew"),
        )
    })?;
    console.fields(&made)?;
    if let Some(name) = meant(&body.provider) {
        let given = text::harmless(&body.provider);
        console.note(&format!(
            "{NOTE}warning:{NOTE:#} no provider is known by the name `{given}`, so nothing is known of how it wants its \
             credentials; did you mean `{name}`?\n"
        ));
    }
    if made.next.is_some() {
        console
            .note(&format!("Next: freehold credential connect {}\n", text::harmless(&made.id.to_string())));
    }
    Ok(())
}

/// The provider that may have been meant by a name that is near, and not its own.
fn meant(provider: &str) -> Option<&'static str> {
    let names = || Issuer::all().iter().map(|issuer| issuer.name.as_str());
    freehold_policy::nearest(provider, names()).filter(|_| names().all(|name| name != provider))
}

/// Sends a person to consent and waits for what they come back with. Their browser did not begin, so its last page shows
/// what this program has to send, with the cookie that it alone has.
async fn connect(client: &Client, id: CredentialId, console: &mut Console) -> Result<(), Failure> {
    let (started, cookie) = client.credential_oauth_start(id).await?;
    console.data(&format!("{}\n", text::harmless(&started.auth_url)))?;
    console.note(
        "Open this address in a browser and consent. Then paste here the line that the last page shows:\n",
    );
    let line = input::line(console)?;
    let query = line.trim().rsplit('?').next().unwrap_or_default();
    let back: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    if !back.contains_key("state") {
        return Err(
            Failure::usage("this is not the line that the page shows").hint("it begins with `state=`")
        );
    }
    let ended = client.oauth_callback(&back, &cookie).await;
    let credential = client.credential_view(id).await?;
    if let Err(error) = ended {
        let why = credential.last_minted_status.as_deref().unwrap_or("unknown");
        return Err(match error.api() {
            Some(api) if api.status == 400 => {
                Failure::other(format!("the consent came to nothing: {}", text::harmless(why)))
            }
            _ => error.into(),
        });
    }
    console.fields(&credential)?;
    Ok(())
}
