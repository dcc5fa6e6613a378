//! What the API bears: reads and durable writes a second with many connections, beside a server that only answers.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use freehold_testkit::postgresql::Database;
use http::Method;
use serde_json::{Value, json};

use crate::{
    floor::{self, ConstantServer},
    load::{Load, Requests, Shape, load},
    machine::file_system,
    report::{Cell, Report, Table, say},
    stage::{Setting, Stage, create_workspace, id, stop_all},
    wire::{Connection, Target},
};

/// Workspaces in the list that is read.
const LISTED: usize = 50;
/// How long they may take to stop: they are listed, not used.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// How long the floor of durable writes is measured.
const FLOOR_FOR: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    shape: Shape,
    /// Leave PostgreSQL out
    #[arg(long)]
    skip_postgresql: bool,
    /// Only requests whose name holds this, for a profiler
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// Measures.
///
/// # Errors
/// When a server does not start or a request is refused.
pub async fn run(options: Options, setting: Setting, report: &mut Report) -> anyhow::Result<()> {
    let shape = options.shape;
    report.note(format!(
        "Closed loop: {} kept-alive HTTP/1.1 connections, one request under way on each, on {} thread(s) of the client, which share the cores with the server; {} s of each kind after {} s of warm-up. Times are from sending to the whole answer. Every request is authenticated; a refusal would end the run.",
        shape.connections, shape.client_threads, shape.seconds, shape.warm_up
    ));
    report.note("`server CPU` is what the server's process used per request, its background work included. The floor is axum answering one workspace's JSON as a constant, in the client's process, whose CPU is not told apart.");
    let databases = databases(&options, report);
    for (name, database) in databases {
        say(&format!("API on {name}"));
        let database_url = database.as_ref().map(Database::url);
        let stage = Stage::set(&Setting { database_url, ..setting.clone() }).await?;
        let measured = measure(&stage, name, &options, report).await;
        measured.map_err(|error| error.context(stage.log_end()))?;
        stage.strike().await?;
    }
    Ok(())
}

/// SQLite, and PostgreSQL where it is installed and wanted.
fn databases(options: &Options, report: &mut Report) -> Vec<(&'static str, Option<Database>)> {
    let mut databases = vec![("SQLite", None)];
    if options.skip_postgresql {
        return databases;
    }
    match Database::create_durable() {
        Ok(database) => databases.push(("PostgreSQL", Some(database))),
        Err(error) => report.note(format!("PostgreSQL is left out: {error:#}")),
    }
    databases
}

async fn measure(stage: &Stage, name: &str, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let shape = options.shape;
    let mut connection = stage.connect().await?;
    let (workspace, one) = list_of_workspaces(&mut connection).await?;
    let floor = ConstantServer::start(one.to_string())?;
    let roles = roles(&mut connection, &stage.role_id, shape.connections).await?;
    drop(connection);
    let mut table = Table::new(
        format!("API on {name}"),
        &["request", "n", "per s", "p50 ms", "p90 ms", "p99 ms", "max ms", "server CPU µs", "per s / floor"],
    );
    let floor_target = Target::new(floor.address, "floor")?;
    let get = |path: String| -> Requests { Arc::new(move |_, _| (Method::GET, path.clone(), None)) };
    let floor_load =
        on_thread(shape, &floor_target, std::process::id(), &get("/v1/workspaces/x".into())).await?;
    let floor_per_second = floor_load.per_second();
    row(&mut table, "floor: axum, constant JSON", &floor_load, None, None);
    let target = stage.target();
    let provider = provider_of(stage).await?;
    let kinds: Vec<(&str, Requests)> = vec![
        ("GET /v1/workspaces/{id}", get(format!("/v1/workspaces/{workspace}"))),
        ("GET /v1/workspaces?limit=50", get(format!("/v1/workspaces?limit={LISTED}"))),
        ("GET /v1/me/session", get("/v1/me/session".into())),
        ("POST /v1/agent-roles", creations(provider)),
        ("PATCH /v1/agent-roles/{id}", changes(roles)),
    ];
    for (request, requests) in kinds.into_iter().filter(|(request, _)| request.contains(&options.only)) {
        say(request);
        let load = on_thread(shape, target, stage.server_pid(), &requests).await?;
        row(&mut table, request, &load, Some(stage.server_pid()), Some(floor_per_second));
    }
    report.tables.push(table);
    if name == "SQLite" {
        disk(stage, report)?;
    }
    Ok(())
}

/// The floor of durable writes: what the disk does alone.
fn disk(stage: &Stage, report: &mut Report) -> anyhow::Result<()> {
    let (times, elapsed) = floor::durable_writes(stage.folder(), FLOOR_FOR)?;
    let summary = times.summary();
    let mut table = Table::of_times("The disk alone: write 4 KiB, fdatasync, one after the other", "none");
    let per_second = summary.n as f64 / elapsed.as_secs_f64();
    table.times(format!("{per_second:.0} a second"), &summary, None);
    report.tables.push(table);
    report.note(format!("The data directory is on {}.", file_system(stage.folder())));
    Ok(())
}

fn row(table: &mut Table, request: &str, load: &Load, server: Option<u32>, floor: Option<f64>) {
    let summary = load.times.summary();
    let cpu = load.server_cpu.filter(|_| server.is_some() && summary.n > 0);
    table.row(vec![
        Cell::text(request),
        Cell::count(summary.n),
        Cell::Number(load.per_second().round()),
        Cell::millis(summary.p50),
        Cell::millis(summary.p90),
        Cell::millis(summary.p99),
        Cell::millis(summary.max),
        cpu.map_or(Cell::Empty, |cpu| Cell::Number(cpu.as_secs_f64() * 1e6 / summary.n as f64)),
        floor.map_or(Cell::Empty, |floor| Cell::Number(load.per_second() / floor)),
    ]);
}

/// The load blocks its thread; the runtime has others.
async fn on_thread(shape: Shape, target: &Target, server: u32, requests: &Requests) -> anyhow::Result<Load> {
    let (target, requests) = (target.clone(), Arc::clone(requests));
    tokio::task::spawn_blocking(move || load(shape, &target, server, &requests)).await?
}

/// Makes the workspaces of the list, stopped so that only the API works; answers with one's id and JSON.
async fn list_of_workspaces(connection: &mut Connection) -> anyhow::Result<(String, Value)> {
    let mut last = String::new();
    for _ in 0..LISTED {
        last = create_workspace(connection).await?;
    }
    stop_all(connection, STOPPED_WITHIN).await?;
    let one = connection.get(&format!("/v1/workspaces/{last}")).await?;
    Ok((last, one))
}

async fn provider_of(stage: &Stage) -> anyhow::Result<String> {
    let role = stage.connect().await?.get(&format!("/v1/agent-roles/{}", stage.role_id)).await?;
    Ok(role["provider_id"].as_str().context("a role without a provider")?.to_owned())
}

/// A role for each connection to change.
async fn roles(connection: &mut Connection, like: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let role = connection.get(&format!("/v1/agent-roles/{like}")).await?;
    let mut ids = Vec::new();
    for number in 0..count {
        let body = json!({"name": format!("changed-{number}"), "provider_id": role["provider_id"]});
        ids.push(id(&connection.post("/v1/agent-roles", &body).await?)?);
    }
    Ok(ids)
}

fn creations(provider: String) -> Requests {
    Arc::new(move |connection, n| {
        let body = json!({"name": format!("made-{connection}-{n}"), "provider_id": provider});
        (Method::POST, "/v1/agent-roles".to_owned(), Some(Bytes::from(body.to_string())))
    })
}

fn changes(roles: Vec<String>) -> Requests {
    Arc::new(move |connection, n| {
        let body = json!({"description": format!("change {n}")});
        let path = format!("/v1/agent-roles/{}", roles[connection % roles.len()]);
        (Method::PATCH, path, Some(Bytes::from(body.to_string())))
    })
}
