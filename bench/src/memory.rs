//! What an idle workspace weighs: the memory of all processes of its pod, and its part of the server.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;

use crate::{
    processes::{self, Memory},
    report::{Cell, Report, Table, say},
    stage::{Setting, Stage, create_workspace, task_id},
    wire::Watcher,
};

/// Workspaces that are created, or tasks that run, at the same time.
const AT_ONCE: usize = 8;
/// How long pods are left alone before they are looked at.
const SETTLE: Duration = Duration::from_secs(2);
const MIB: f64 = 1024.0 * 1024.0;

/// One shell command in each workspace, so that tool host and shell are there.
const SCENARIO: &str = r#"
rules:
  - when: {}
    answers:
      - steps:
          - tool: {name: bash, arguments: {command: "echo"}}
      - steps:
          - text: "done"
"#;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How many workspaces, one number after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 50, 200])]
    pub workspaces: Vec<usize>,
}

/// Memory of processes of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    processes: usize,
    memory: Memory,
}

/// What all pods weigh.
#[derive(Debug, Default)]
struct Pods {
    pods: usize,
    kinds: BTreeMap<String, Weight>,
    largest_bytes: u64,
    unreadable: usize,
}

/// Measures.
///
/// # Errors
/// When a workspace does not come up or a task does not complete.
pub async fn run(options: Options, setting: Setting, report: &mut Report) -> anyhow::Result<()> {
    report.note("PSS (`smaps_rollup`: shared pages in equal parts) of every process of every pod; a workspace's figure is the sum over its processes, averaged over workspaces. Not included: the kernel's own memory (namespaces, sockets, page tables), files in the page cache that nobody maps.");
    report.note("`idle` is a workspace that has run nothing yet; `after a task` is idle again after one task with one shell command: tool host and shell stay.");
    let stage = Stage::set(&Setting { scenario: Some(SCENARIO), ..setting }).await?;
    let weighed = weigh_all(&stage, options.workspaces, report).await;
    weighed.map_err(|error| error.context(stage.log_end()))?;
    stage.strike().await
}

async fn weigh_all(stage: &Stage, mut counts: Vec<usize>, report: &mut Report) -> anyhow::Result<()> {
    let mut per_workspace = Table::new(
        "Per workspace",
        &[
            "workspaces",
            "state",
            "processes",
            "PSS mean MiB",
            "PSS largest MiB",
            "private mean MiB",
            "server PSS MiB",
            "server, part per workspace MiB",
        ],
    );
    let mut by_kind = Table::new(
        "By process",
        &["workspaces", "state", "process", "per workspace", "PSS mean MiB", "private mean MiB"],
    );
    counts.sort_unstable();
    let watcher = Watcher::open(stage.target(), "/v1/activity/stream").await?;
    let server_alone = Memory::of(stage.server_pid())?;
    let mut idle: Vec<String> = Vec::new();
    for count in counts {
        say(&format!("{count} workspaces"));
        idle.extend(create(stage, &watcher, count - idle.len()).await?);
        let mut weigh = |state: &str| -> anyhow::Result<()> {
            let pods = look(stage, count)?;
            let server = Memory::of(stage.server_pid())?;
            per_workspace.row(pods.row(state, server, server_alone));
            pods.rows_by_kind(state, &mut by_kind);
            if pods.unreadable > 0 {
                report.note(format!("{} processes hide their memory from this user and are missing: run as root for the whole.", pods.unreadable));
            }
            Ok(())
        };
        tokio::time::sleep(SETTLE).await;
        weigh("idle")?;
        run_tasks(stage, &watcher, &idle).await?;
        tokio::time::sleep(SETTLE).await;
        weigh("after a task")?;
        // The next count begins with workspaces that have run nothing.
        crate::stage::stop_all(&mut stage.connect().await?, Duration::from_secs(120)).await?;
        idle.clear();
    }
    report.tables.extend([per_workspace, by_kind]);
    Ok(())
}

async fn create(stage: &Stage, watcher: &Watcher, count: usize) -> anyhow::Result<Vec<String>> {
    futures::stream::iter(0..count)
        .map(|_| async {
            let workspace = create_workspace(&mut stage.connect().await?).await?;
            watcher.until(&workspace, &["idle"]).await?;
            anyhow::Ok(workspace)
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn run_tasks(stage: &Stage, watcher: &Watcher, workspaces: &[String]) -> anyhow::Result<()> {
    futures::stream::iter(workspaces)
        .map(|workspace| async move {
            let path = format!("/v1/workspaces/{workspace}/tasks");
            let task = stage.connect().await?.post(&path, &json!({"description": "work"})).await?;
            watcher.until(&task_id(&task)?, &["completed"]).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Weighs every pod of the server.
fn look(stage: &Stage, expected: usize) -> anyhow::Result<Pods> {
    let mut sum = Pods::default();
    for pod in processes::pods(stage.folder()).context("failed to look at processes")? {
        let mut pod_bytes = 0;
        for process in pod {
            let weight = sum.kinds.entry(process.kind()).or_default();
            weight.processes += 1;
            match Memory::of(process.pid) {
                Ok(memory) => {
                    pod_bytes += memory.pss_bytes;
                    weight.memory.pss_bytes += memory.pss_bytes;
                    weight.memory.private_bytes += memory.private_bytes;
                }
                Err(_) => sum.unreadable += 1,
            }
        }
        sum.pods += 1;
        sum.largest_bytes = sum.largest_bytes.max(pod_bytes);
    }
    ensure!(sum.pods == expected, "{} pods are there, not {expected}", sum.pods);
    Ok(sum)
}

impl Pods {
    fn mean(&self, bytes: u64) -> Cell {
        Cell::Number(mebibytes(bytes) / self.pods as f64)
    }

    fn row(&self, state: &str, server: Memory, server_alone: Memory) -> Vec<Cell> {
        let sum = |of: fn(&Weight) -> u64| self.kinds.values().map(of).sum::<u64>();
        let processes: usize = self.kinds.values().map(|weight| weight.processes).sum();
        vec![
            Cell::count(self.pods),
            Cell::text(state),
            Cell::Number(processes as f64 / self.pods as f64),
            self.mean(sum(|weight| weight.memory.pss_bytes)),
            Cell::Number(mebibytes(self.largest_bytes)),
            self.mean(sum(|weight| weight.memory.private_bytes)),
            Cell::Number(mebibytes(server.pss_bytes)),
            self.mean(server.private_bytes.saturating_sub(server_alone.private_bytes)),
        ]
    }

    fn rows_by_kind(&self, state: &str, table: &mut Table) {
        for (kind, weight) in &self.kinds {
            table.row(vec![
                Cell::count(self.pods),
                Cell::text(state),
                Cell::text(kind),
                Cell::Number(weight.processes as f64 / self.pods as f64),
                self.mean(weight.memory.pss_bytes),
                self.mean(weight.memory.private_bytes),
            ]);
        }
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
