//! A simulation of an OpenBao: a KV engine, version 2, tokens and the AppRole method, as their documents have them. It is
//! strict: what a real one would refuse is refused, and a request that is none of the protocol fails the test.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// Where the engine is mounted.
pub const MOUNT: &str = "kv";
/// The role that may log in.
pub const ROLE_ID: &str = "freehold-role";
/// Its secret id.
pub const SECRET_ID: &str = "freehold-secret-id";
/// Versions of a secret that are kept, as is the engine's default.
const VERSIONS_MAX: usize = 10;
/// How long a client may take to say what it wants.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// A store of secrets that lives as long as a test.
pub struct OpenBao {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    scheme: &'static str,
}

#[derive(Default)]
struct State {
    /// What is kept, by path: the value of each version.
    kept: BTreeMap<String, BTreeMap<u64, Value>>,
    /// The newest version of each path.
    newest: HashMap<String, u64>,
    /// Tokens in force.
    tokens: Vec<String>,
    logins: usize,
    /// What is answered in the place of the next answers.
    faults: VecDeque<u16>,
    requests: usize,
}

struct Request {
    method: String,
    path: String,
    query: String,
    token: Option<String>,
    body: Value,
}

impl OpenBao {
    /// Over plain HTTP.
    pub fn start() -> anyhow::Result<Self> {
        Self::serve(None)
    }

    /// Over TLS, as `localhost`.
    pub fn start_tls(authority: &crate::tls::Authority) -> anyhow::Result<Self> {
        let mut config = (*authority.server(&["localhost"])?).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self::serve(Some(Arc::new(config)))
    }

    fn serve(tls: Option<Arc<rustls::ServerConfig>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                thread::spawn(move || {
                    // A client that goes away, or does not trust this server, is its own affair.
                    let _gone = stream.set_read_timeout(Some(REQUEST_TIME_MAX)).and_then(|()| match tls {
                        None => converse(stream, &state),
                        Some(config) => {
                            let session =
                                rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
                            converse(rustls::StreamOwned::new(session, stream), &state)
                        }
                    });
                });
            }
        });
        Ok(Self { address, state, scheme })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }

    /// Makes a token.
    pub fn token(&self, token: &str) {
        self.state().tokens.push(token.to_owned());
    }

    /// Takes every token away.
    pub fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }

    /// Answers the next requests with these statuses.
    pub fn fail(&self, statuses: &[u16]) {
        self.state().faults.extend(statuses);
    }

    /// How many have logged in.
    pub fn logins(&self) -> usize {
        self.state().logins
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// The paths that have something, with the versions that are there.
    pub fn paths(&self) -> Vec<(String, Vec<u64>)> {
        let state = self.state();
        state.kept.iter().map(|(path, versions)| (path.clone(), versions.keys().copied().collect())).collect()
    }

    /// Removes a path by another hand.
    pub fn remove(&self, path: &str) {
        self.state().kept.remove(path);
    }
}

fn converse(stream: impl Read + Write, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let request = read(&mut reader)?;
    let (status, body) = {
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests += 1;
        match state.faults.pop_front() {
            Some(status) => (status, json!({ "errors": ["a fault that a test asked for"] })),
            None => state.answer(&request),
        }
    };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let stream = reader.get_mut();
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        token: None,
        body: Value::Null,
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "x-vault-token" => request.token = Some(value.trim().to_owned()),
            "content-length" => length = value.trim().parse().map_err(std::io::Error::other)?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    if !body.is_empty() {
        request.body = serde_json::from_slice(&body)?;
    }
    Ok(request)
}

fn errors(status: u16, text: &str) -> (u16, Value) {
    let errors: &[&str] = if text.is_empty() { &[] } else { &[text] };
    (status, json!({ "errors": errors }))
}

fn answer(data: Value) -> (u16, Value) {
    let nothing = Value::Null;
    let envelope = json!({
        "request_id": "r", "lease_id": "", "renewable": false, "lease_duration": 0, "data": data, "wrap_info": nothing,
        "warnings": nothing, "auth": nothing,
    });
    (200, envelope)
}

fn metadata(version: u64) -> Value {
    json!({
        "created_time": "2026-01-01T00:00:00.000000000Z", "custom_metadata": null, "deletion_time": "",
        "destroyed": false, "version": version,
    })
}

impl State {
    fn answer(&mut self, request: &Request) -> (u16, Value) {
        let Some(path) = request.path.strip_prefix("/v1/") else { return errors(404, "") };
        if path == "auth/approle/login" {
            return self.log_in(request);
        }
        if !request.token.as_ref().is_some_and(|token| self.tokens.contains(token)) {
            return errors(403, "permission denied");
        }
        let Some((kind, path)) =
            path.strip_prefix(MOUNT).and_then(|path| path.strip_prefix('/')?.split_once('/'))
        else {
            return errors(404, "no handler for route");
        };
        match (request.method.as_str(), kind) {
            ("POST" | "PUT", "data") => self.write(path, &request.body),
            ("GET", "data") => self.read(path, &request.query),
            ("DELETE", "metadata") => {
                self.kept.remove(path);
                self.newest.remove(path);
                (204, Value::Null)
            }
            _ => errors(405, "unsupported operation"),
        }
    }

    fn log_in(&mut self, request: &Request) -> (u16, Value) {
        let is_known = request.body["role_id"] == ROLE_ID && request.body["secret_id"] == SECRET_ID;
        if request.method != "POST" && request.method != "PUT" || !is_known {
            return errors(400, "invalid role or secret ID");
        }
        self.logins += 1;
        let token = format!("s.login-{}", self.logins);
        self.tokens.push(token.clone());
        let (status, mut body) = answer(Value::Null);
        body["auth"] = json!({
            "client_token": token, "accessor": "a", "policies": [], "token_policies": [], "metadata": {},
            "lease_duration": 3600, "renewable": true, "entity_id": "", "token_type": "service", "orphan": true,
        });
        (status, body)
    }

    fn write(&mut self, path: &str, body: &Value) -> (u16, Value) {
        let Some(data) = body.get("data").filter(|data| data.is_object()) else {
            return errors(400, "no data provided");
        };
        let newest = self.newest.entry(path.to_owned()).or_default();
        *newest += 1;
        let versions = self.kept.entry(path.to_owned()).or_default();
        versions.insert(*newest, data.clone());
        while versions.len() > VERSIONS_MAX {
            versions.pop_first();
        }
        answer(metadata(*newest))
    }

    fn read(&self, path: &str, query: &str) -> (u16, Value) {
        let version = query.split('&').find_map(|pair| pair.strip_prefix("version=")?.parse::<u64>().ok());
        let version = version.filter(|version| *version > 0).or_else(|| self.newest.get(path).copied());
        let found = version.and_then(|version| Some((version, self.kept.get(path)?.get(&version)?)));
        match found {
            Some((version, data)) => answer(json!({ "data": data, "metadata": metadata(version) })),
            None => errors(404, ""),
        }
    }
}
