//! The API as a program of its own would call it: kept-alive HTTP/1.1 connections and a stream of events, with nothing
//! between the clock and the socket but hyper.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, sync::watch, task::JoinHandle, time::timeout};

const JSON: &str = "application/json";
/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long a change may take until the stream tells it.
const CHANGE_WITHIN: Duration = Duration::from_secs(120);
/// How often a stream that ended is opened again.
const STREAMS_MAX: u32 = 1000;
/// How much of a refusal's body is shown.
const REFUSAL_SHOWN_CHARS: usize = 400;

/// Where a server is, and with which key it is called.
#[derive(Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    authorization: HeaderValue,
}

impl Target {
    /// The server at `address`, called with `key`.
    ///
    /// # Errors
    /// When no header can hold the key.
    pub fn new(address: SocketAddr, key: &str) -> anyhow::Result<Self> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {key}"))?;
        authorization.set_sensitive(true);
        Ok(Self { address, authorization })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(Connection { target: self.clone(), sender: self.sender().await? })
    }

    async fn sender(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.context("failed to connect to the server")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// One kept-alive connection.
pub struct Connection {
    target: Target,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Sends a request and answers with the response's head, whatever its status.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> anyhow::Result<Response<Incoming>> {
        self.send_as(method, path, body.map(|body| (JSON, body))).await
    }

    /// Sends a request whose body is of some type.
    async fn send_as(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Response<Incoming>> {
        if self.sender.ready().await.is_err() {
            // The server closes connections that idle.
            self.sender = self.target.sender().await?;
        }
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "127.0.0.1")
            .header(header::AUTHORIZATION, self.target.authorization.clone());
        if let Some((content_type, _)) = body {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let body = body.map(|(_, bytes)| bytes).unwrap_or_default();
        Ok(self.sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Sends a request and reads its JSON answer; null when it is empty.
    ///
    /// # Errors
    /// When the connection breaks, or the server refuses.
    pub async fn call(&mut self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let body = body.map(|body| (JSON, Bytes::from(body.to_string())));
        self.answer(method, path, body).await
    }

    async fn answer(
        &mut self,
        method: Method,
        path: &str,
        body: Option<(&str, Bytes)>,
    ) -> anyhow::Result<Value> {
        let answered = async {
            let response = self.send_as(method.clone(), path, body).await?;
            let status = response.status();
            anyhow::Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        let answered = timeout(ANSWER_WITHIN, answered).await;
        let (status, bytes) = answered.with_context(|| format!("{method} {path} is not answered"))??;
        if !status.is_success() {
            let text: String = String::from_utf8_lossy(&bytes).chars().take(REFUSAL_SHOWN_CHARS).collect();
            bail!("{method} {path} answered {status}: {text}");
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).with_context(|| format!("{method} {path} did not answer JSON"))
    }

    /// Sends a GET and reads its JSON answer.
    ///
    /// # Errors
    /// When the connection breaks, or the server refuses.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// Sends a POST and reads its JSON answer.
    ///
    /// # Errors
    /// When the connection breaks, or the server refuses.
    pub async fn post(&mut self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Submits a task with one file and reads the JSON answer.
    ///
    /// # Errors
    /// When the connection breaks, or the server refuses.
    pub async fn upload(
        &mut self,
        path: &str,
        description: &str,
        name: &str,
        file: &[u8],
    ) -> anyhow::Result<Value> {
        const BOUNDARY: &str = "freehold-bench-0f2c7d1e";
        let part =
            |headers: &str| format!("--{BOUNDARY}\r\ncontent-disposition: form-data; {headers}\r\n\r\n");
        let mut body = part("name=\"description\"").into_bytes();
        body.extend_from_slice(description.as_bytes());
        body.extend_from_slice(b"\r\n");
        let content_type = "content-type: application/octet-stream";
        body.extend_from_slice(
            part(&format!("name=\"file\"; filename=\"{name}\"\r\n{content_type}")).as_bytes(),
        );
        body.extend_from_slice(file);
        body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
        self.answer(Method::POST, path, Some((&content_type, body.into()))).await
    }

    /// Runs a command in a workspace and answers with the moment of its first output, and all of its standard output.
    ///
    /// # Errors
    /// When the command cannot be run, writes nothing or fails.
    pub async fn exec(
        &mut self,
        workspace: &str,
        command: &[&str],
        timeout_seconds: u32,
    ) -> anyhow::Result<(Instant, Vec<u8>)> {
        let body = serde_json::json!({"command": command, "timeout_seconds": timeout_seconds});
        let path = format!("/v1/workspaces/{workspace}/exec");
        let response = self.send(Method::POST, &path, Some(body.to_string().into())).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut text = Vec::new();
        let mut first = None;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                first.get_or_insert_with(Instant::now);
                text.extend_from_slice(&data);
            }
        }
        let shown = || String::from_utf8_lossy(&text).chars().take(REFUSAL_SHOWN_CHARS).collect::<String>();
        ensure!(status.is_success(), "exec answered {status}: {}", shown());
        let output = exec_output(&text).with_context(|| format!("exec answered {}", shown()))?;
        let first = first.filter(|_| !output.is_empty()).context("the command wrote nothing")?;
        Ok((first, output))
    }
}

/// The standard output in the lines of an exec's answer, when the command ended well.
fn exec_output(text: &[u8]) -> anyhow::Result<Vec<u8>> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let mut output = Vec::new();
    let mut exit = None;
    let mut errors = Vec::new();
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line)?;
        if let Some(data) = line["data_base64"].as_str() {
            let to = if line["stream"] == "stdout" { &mut output } else { &mut errors };
            to.extend(BASE64_STANDARD.decode(data)?);
        }
        exit = line["exit_code"].as_i64().or(exit);
    }
    ensure!(exit == Some(0), "exit code {exit:?}: {}", String::from_utf8_lossy(&errors));
    Ok(output)
}

/// What a stream of activity has told of things, by their id: the last status, and when that was read.
type Seen = HashMap<String, (String, Instant)>;

/// Follows a stream of activity that is open before the things happen that are waited for.
pub struct Watcher {
    seen: watch::Receiver<Seen>,
    reader: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Watcher {
    /// Opens the stream at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(target: &Target, path: &str) -> anyhow::Result<Self> {
        let (tell, seen) = watch::channel(Seen::new());
        let mut stream = Stream::open(target, path, None).await?;
        let (target, path) = (target.clone(), path.to_owned());
        let reader = tokio::spawn(async move {
            for _ in 0..STREAMS_MAX {
                // The server ends a stream after some minutes; what was missed comes with the next one.
                while let Ok(Some(row)) = stream.next().await {
                    if let Some((id, status)) = change(&row) {
                        tell.send_modify(|seen| {
                            seen.insert(id, (status, Instant::now()));
                        });
                    }
                }
                let last = stream.last_id.take();
                let Ok(opened) = Stream::open(&target, &path, last).await else { return };
                stream = opened;
            }
        });
        Ok(Self { seen, reader })
    }

    /// Waits until a workspace or task has one of these statuses, and answers with the moment that was read.
    ///
    /// # Errors
    /// When it does not come to it in time, or fails.
    pub async fn until(&self, id: &str, wanted: &[&str]) -> anyhow::Result<Instant> {
        let mut seen = self.seen.clone();
        let of = |seen: &Seen| {
            let (status, when) = seen.get(id)?;
            let done = wanted.contains(&status.as_str());
            (done || status.ends_with("failed")).then(|| (done, status.clone(), *when))
        };
        let waited = timeout(CHANGE_WITHIN, seen.wait_for(|seen| of(seen).is_some())).await;
        let told = waited.with_context(|| format!("{id} did not become {wanted:?}"))?;
        let told = told.context("the stream of activity broke")?;
        let (done, status, when) = of(&told).context("a status that was there is gone")?;
        ensure!(done, "{id} became {status}");
        Ok(when)
    }
}

/// What a row of activity says has changed: the status of a workspace, or the end of a task.
fn change(row: &Value) -> Option<(String, String)> {
    let id = match row["event_type"].as_str()? {
        "workspace_status_changed" => &row["workspace_id"],
        "task_completed" => &row["task_id"],
        _ => return None,
    };
    Some((id.as_str()?.to_owned(), row["detail"]["status"].as_str()?.to_owned()))
}

struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
    last_id: Option<String>,
    /// Keeps the connection.
    _sender: SendRequest<Full<Bytes>>,
}

impl Stream {
    async fn open(target: &Target, path: &str, last_id: Option<String>) -> anyhow::Result<Self> {
        let mut sender = target.sender().await?;
        let mut request = Request::builder()
            .uri(path)
            .header(header::HOST, "127.0.0.1")
            .header(header::ACCEPT, "text/event-stream")
            .header(header::AUTHORIZATION, target.authorization.clone());
        if let Some(id) = &last_id {
            request = request.header("last-event-id", id);
        }
        let response = timeout(ANSWER_WITHIN, sender.send_request(request.body(Full::default())?)).await??;
        ensure!(response.status().is_success(), "GET {path} answered {}", response.status());
        Ok(Self { body: response.into_body(), buffer: Vec::new(), last_id, _sender: sender })
    }

    /// The next event's data; nothing at the end of the stream.
    async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            while let Some(event) = take_event(&mut self.buffer) {
                if let Some(id) = event.id {
                    self.last_id = Some(id);
                }
                if let Some(data) = event.data {
                    return Ok(Some(data));
                }
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            if let Ok(data) = frame?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}

struct Event {
    id: Option<String>,
    data: Option<Value>,
}

/// Takes the first whole event out of the buffer. Our server ends lines with line feeds and writes JSON in one line.
fn take_event(buffer: &mut Vec<u8>) -> Option<Event> {
    let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
    let event: Vec<u8> = buffer.drain(..end + 2).collect();
    let text = String::from_utf8_lossy(&event);
    let field = |name: &str| {
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim_start()))
    };
    Some(Event {
        id: field("id").map(str::to_owned),
        data: field("data").and_then(|data| serde_json::from_str(data).ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_of_the_buffer_whole() {
        let mut buffer = b": hi\n\nid: 7\nevent: activity\ndata: {\"a\":1}\n\nid: 8\nda".to_vec();
        assert!(take_event(&mut buffer).unwrap().data.is_none());
        let event = take_event(&mut buffer).unwrap();
        assert_eq!((event.id.as_deref(), event.data.unwrap()["a"].as_i64()), (Some("7"), Some(1)));
        assert!(take_event(&mut buffer).is_none());
        assert_eq!(buffer, b"id: 8\nda");
    }

    #[test]
    fn only_a_command_that_ended_well_has_output() {
        let good =
            b"{\"stream\":\"stdout\",\"data_base64\":\"aGk=\"}\n{\"exit_code\":0,\"timed_out\":false}\n";
        assert_eq!(exec_output(good).unwrap(), b"hi");
        assert!(exec_output(&good[..40]).is_err());
        assert!(exec_output(b"{\"exit_code\":1,\"timed_out\":false}\n").is_err());
    }
}
