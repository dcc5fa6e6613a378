//! A person at a command line, and a small real server that behaves as scripted.

use std::{
    ffi::OsString,
    io::Write,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use clap::{CommandFactory, Parser};
use freehold_cli::{Environment, Scene, Verb, run, verb_first};
use freehold_client::Key;
use serde_json::{Value, json};

pub const ID: &str = "01933b5a000070008000000000000001";

#[derive(Debug, Parser)]
#[command(name = "freehold")]
pub struct Freehold {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a verb did.
pub struct Ran {
    pub code: u8,
    pub out: String,
    pub err: String,
}

pub struct Person {
    pub url: Option<String>,
    pub key: Option<&'static str>,
    pub home: tempfile::TempDir,
    pub stdin: Vec<u8>,
    pub at_terminal: bool,
    pub colour: bool,
}

impl Person {
    pub fn new(url: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        Self {
            url: Some(url.to_owned()),
            key: Some("sk_test"),
            home,
            stdin: Vec::new(),
            at_terminal: false,
            colour: false,
        }
    }

    pub async fn runs(&self, arguments: &[&str]) -> Ran {
        let words =
            verb_first(&Freehold::command(), ["freehold"].iter().chain(arguments).map(OsString::from));
        let parsed = Freehold::try_parse_from(words).unwrap();
        let (out, err) = (Captured::default(), Captured::default());
        let environment = Environment {
            command: Freehold::command(),
            scene: Scene { task: String::new(), egress: Default::default() },
            api_key: self.key.map(Key::new),
            url: self.url.clone(),
            anthropic_api_key: None,
            openai_api_key: None,
            config_dir: Some(self.home.path().to_owned()),
            stdin_is_terminal: self.at_terminal,
            stdout_is_terminal: self.at_terminal,
            stdout_colour: self.colour,
            stderr_colour: self.colour,
            streams: Mutex::new(Some(freehold_cli::Streams {
                stdin: Box::new(std::io::Cursor::new(self.stdin.clone())),
                stdout: Box::new(out.clone()),
                stderr: Box::new(err.clone()),
            })),
        };
        let code = run(parsed.verb, environment).await;
        let code = (0..=u8::MAX).find(|number| ExitCode::from(*number) == code).unwrap();
        Ran { code, out: out.text(), err: err.text() }
    }
}

pub async fn serve(router: Router) -> Person {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Person::new(&url)
}

pub fn error(status: u16, code: &str) -> Response {
    let body = json!({"error": {"code": code, "message": "as scripted", "request_id": "7f"}});
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

pub fn role() -> Value {
    json!({
        "id": format!("agent_{ID}"), "org_id": format!("org_{ID}"), "name": "coder", "provider_id": format!("provider_{ID}"),
        "environment": "development", "pool_policy": "", "pack_ids": [], "created_at": "2026-01-01T00:00:00Z",
        "updated_at": "2026-01-01T00:00:00Z", "capabilities": "- name: a\n  type: http\n",
    })
}

pub fn me() -> Value {
    json!({"user_id": format!("user_{ID}"), "org_id": format!("org_{ID}"), "email": "owner@example.com", "role": "owner",
           "permissions": ["caps:write"], "memberships": []})
}
