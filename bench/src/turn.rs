//! How long a turn of the agent takes when the model takes no time: submit -> terminal status read from an open stream.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Context;
use freehold_model::Timestamp;
use serde_json::{Value, json};

use crate::{
    legs,
    processes::{self, Used},
    report::{Cell, Report, Table, say},
    stage::{Setting, Stage, create_workspace, task_id},
    stats::{Samples, Summary},
    wire::{Connection, Watcher},
};

/// Tasks whose figures stand together, to show whether history costs.
const BLOCK: usize = 50;
/// Bytes that the scripted model counts as one token.
const BYTES_PER_TOKEN: usize = 4;
/// About the bytes of a first request, without the tools' descriptions.
const LEAST_BYTES: usize = 1024;
/// The prompt of a task that ends with the model's first answer.
const TEXT: &str = "say ok";
/// The prompt of a task with one tool call.
const TOOL: &str = "use a tool";
/// The tool call: the shell of the workspace, which lives as long as the pod.
const SCENARIO: &str = r#"
rules:
  - when: {user: "use a tool"}
    answers:
      - steps:
          - tool: {name: bash, arguments: {command: "echo"}}
      - steps:
          - text: "done"
default:
  steps:
    - text: "ok"
"#;

/// What to measure.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Options {
    /// Tasks of each kind, all in one workspace
    #[arg(long, default_value_t = 300)]
    pub tasks: usize,
}

/// Measures.
///
/// # Errors
/// When a task does not complete.
pub async fn run(options: Options, setting: Setting, report: &mut Report) -> anyhow::Result<()> {
    let stage = Stage::set(&Setting { scenario: Some(SCENARIO), ..setting }).await?;
    report.note("Submit -> terminal status read from an event stream that was open before; one workspace and one conversation for all tasks of a kind; tasks one after the other.");
    report.note("Included: HTTP, the durable submission, delivery to the pod, the agent, one model call per step through redirect, TLS on both legs, policy, credential injection and audit, every journal entry durable before it takes effect, and the event back. The model is `freehold sim-model`, which answers at once, in its own process.");
    let mut blocks = Table::of_times(format!("Turns by blocks of {BLOCK} tasks"), "first block");
    let mut all = Table::of_times("All turns, and the time until the submission was answered", "text turn");
    let mut used = Table::new(
        "CPU time and page faults a turn, by process",
        &["what", "server ms", "agent ms", "model ms", "server faults", "agent faults", "model faults"],
    );
    let mut sizes = vec![LEAST_BYTES];
    let mut peer = None;
    let mut steps = Vec::new();
    for (name, prompt) in [("text", TEXT), ("one tool call", TOOL)] {
        say(&format!("{} turns: {name}", options.tasks));
        let measured = measure(&stage, prompt, options.tasks).await;
        let Measured { workspace, turns, answered, marks, bytes } =
            measured.map_err(|error| error.context(stage.log_end()))?;
        sizes.push(bytes);
        steps.push(where_it_goes(&stage, name, &workspace).await?);
        let summaries = turns.blocks(BLOCK);
        for (index, (summary, marks)) in summaries.iter().zip(marks.windows(2)).enumerate() {
            let from = index * BLOCK + 1;
            let row = format!("{name}, tasks {from} to {}", from + summary.n - 1);
            blocks.times(row.clone(), summary, summaries.first());
            used.row(used_row(row, summary.n, marks));
        }
        let summary: Summary = turns.summary();
        let first: &Summary = peer.get_or_insert(summary);
        all.times(format!("{name}, turn"), &summary, Some(first));
        all.times(format!("{name}, submission answered"), &answered.summary(), Some(first));
    }
    report.tables.extend([blocks, used, all, legs_table(&sizes).await?]);
    report.tables.extend(steps);
    let mut target = Table::new("Target", &["figure", "target", "measured"]);
    target.row(vec![
        Cell::text("text turn, p50 ms"),
        Cell::text("under 15"),
        peer.map_or(Cell::Empty, |summary| Cell::millis(summary.p50)),
    ]);
    report.tables.push(target);
    stage.strike().await
}

/// The times between one row of activity and the next, by the rows' types.
async fn where_it_goes(stage: &Stage, name: &str, workspace: &str) -> anyhow::Result<Table> {
    let path = format!("/v1/workspaces/{workspace}/activity?limit=10000");
    let list = stage.connect().await?.get(&path).await?;
    let rows = list["events"].as_array().context("activity without rows")?;
    let mut last: HashMap<&str, (&str, Timestamp)> = HashMap::new();
    let mut steps: Vec<(String, Samples, Duration)> = Vec::new();
    for row in rows {
        let field = |name: &str| row[name].as_str();
        let (Some(task), Some(kind)) = (field("task_id"), field("event_type")) else { continue };
        let time: Timestamp = field("timestamp").context("a row without a time")?.parse()?;
        if let Some((before, began)) = last.insert(task, (kind, time)) {
            let step = format!("{before} -> {kind}");
            let length = Duration::try_from(time.duration_since(began)).unwrap_or_default();
            match steps.iter_mut().find(|(known, ..)| *known == step) {
                Some((_, times, _)) => times.push(length),
                None => steps.push((step, Samples::from_iter([length]), length)),
            }
        }
    }
    let title = format!("Where a turn's time goes, by its rows of activity: {name}");
    let mut table = Table::new(title, &["step", "n", "first ms", "p50 ms", "p99 ms"]);
    for (step, times, first) in steps {
        let summary = times.summary();
        let times = [first, summary.p50, summary.p99].map(Cell::millis);
        table.row([Cell::text(step), Cell::count(summary.n)].into_iter().chain(times).collect());
    }
    Ok(table)
}

/// The floor of what the last request costs more than the first: its bytes alone, through as many TLS legs.
async fn legs_table(sizes: &[usize]) -> anyhow::Result<Table> {
    say("the floor: two TLS legs");
    let summaries = legs::two_legs(sizes).await?;
    let mut table = Table::of_times("The bytes of a request alone, through two TLS legs", "the fewest bytes");
    for (bytes, summary) in sizes.iter().zip(&summaries) {
        table.times(format!("{bytes} bytes"), summary, summaries.first());
    }
    Ok(table)
}

/// What tasks in one workspace came to.
struct Measured {
    workspace: String,
    /// Whole turns.
    turns: Samples,
    /// Until the submissions were answered.
    answered: Samples,
    /// What server, agents and model had used before the first block and after each.
    marks: Vec<[Used; 3]>,
    /// About as many bytes had the last request: the scripted model counts a token for four.
    bytes: usize,
}

/// Runs tasks one after the other in a workspace.
async fn measure(stage: &Stage, prompt: &str, tasks: usize) -> anyhow::Result<Measured> {
    let mut connection: Connection = stage.connect().await?;
    let watcher = Watcher::open(stage.target(), "/v1/activity/stream").await?;
    let workspace = create_workspace(&mut connection).await?;
    watcher.until(&workspace, &["idle"]).await?;
    let path = format!("/v1/workspaces/{workspace}/tasks");
    let body = json!({"description": prompt});
    let agents: Vec<u32> = processes::pods(stage.folder())?
        .iter()
        .flatten()
        .filter(|process| process.kind() == "agent")
        .map(|process| process.pid)
        .collect();
    let mark = || {
        let (server, model) = ([stage.server_pid()], [stage.model_pid()]);
        [Used::by_all(server), Used::by_all(agents.iter().copied()), Used::by_all(model)]
    };
    let (mut turns, mut answered, mut marks) = (Samples::default(), Samples::default(), vec![mark()]);
    for number in 1..=tasks {
        let start = Instant::now();
        let task = task_id(&connection.post(&path, &body).await?)?;
        answered.push(start.elapsed());
        let end = watcher.until(&task, &["completed"]).await?;
        turns.push(end - start);
        // The next task begins when the workspace is at rest, so that turns do not overlap.
        watcher.until(&workspace, &["idle"]).await?;
        if number.is_multiple_of(BLOCK) || number == tasks {
            marks.push(mark());
        }
    }
    let view = connection.get(&format!("/v1/workspaces/{workspace}/session")).await?;
    let tokens =
        context_tokens(&view).with_context(|| format!("a session view without its tokens: {view}"))?;
    Ok(Measured { workspace, turns, answered, marks, bytes: usize::try_from(tokens)? * BYTES_PER_TOKEN })
}

/// The tokens of the conversation, in the agent's part of a session view.
fn context_tokens(view: &Value) -> Option<u64> {
    let agents = view.as_object()?.values().chain([view]);
    agents.filter_map(|value| value["context_window"]["tokens"].as_u64()).next()
}

/// What each process used between two marks, for each of `turns`.
fn used_row(name: String, turns: usize, marks: &[[Used; 3]]) -> Vec<Cell> {
    let mut row = vec![Cell::text(name)];
    if let [before, after] = marks {
        let used: Vec<Used> = before.iter().zip(after).map(|(before, after)| after.since(*before)).collect();
        let turns = turns.max(1) as f64;
        row.extend(used.iter().map(|used| Cell::Number(used.cpu.as_secs_f64() * 1e3 / turns)));
        row.extend(used.iter().map(|used| Cell::Number(used.page_faults as f64 / turns)));
    }
    row
}
