//! How long a changed policy takes until it is in force: PATCHes of a role with running workspaces, which are answered when
//! it is.

use std::time::Instant;

use http::Method;
use serde_json::json;

use crate::{
    report::{Report, Table, say},
    stage::{Setting, Stage, create_workspace},
    stats::Samples,
    wire::{Connection, Watcher},
};

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// PATCHes, one after the other
    #[arg(long, default_value_t = 1000)]
    changes: usize,
    /// Rules of each document
    #[arg(long, default_value_t = 20)]
    rules: usize,
    /// Running workspaces under the role
    #[arg(long, value_delimiter = ',', default_values_t = [0, 1, 20])]
    workspaces: Vec<usize>,
}

/// Measures.
///
/// # Errors
/// When a workspace does not come up or a change is refused.
pub async fn run(options: Options, setting: Setting, report: &mut Report) -> anyhow::Result<()> {
    report.note(format!(
        "PATCH of a role with a new document of {} rules, on one kept-alive connection to the API: validation, a durable write with its audit row, and the new policy compiled and in force for every running workspace, before the answer. Without workspaces it is the write alone.",
        options.rules
    ));
    let stage = Stage::set(&setting).await?;
    let measured = measure(&stage, options, report).await;
    measured.map_err(|error| error.context(stage.log_end()))?;
    stage.strike().await
}

async fn measure(stage: &Stage, mut options: Options, report: &mut Report) -> anyhow::Result<()> {
    let mut connection = stage.connect().await?;
    let watcher = Watcher::open(stage.target(), "/v1/activity/stream").await?;
    let mut table = Table::of_times("A changed policy is in force", "the write alone");
    options.workspaces.sort_unstable();
    let (mut running, mut alone) = (0, None);
    for &count in &options.workspaces {
        say(&format!("{count} workspaces"));
        while running < count {
            let workspace = create_workspace(&mut connection).await?;
            watcher.until(&workspace, &["idle"]).await?;
            running += 1;
        }
        let times = changes(stage, &mut connection, &options).await?.summary();
        let alone = alone.get_or_insert(times);
        table.times(format!("{count} running workspaces"), &times, Some(alone));
    }
    report.tables.push(table);
    Ok(())
}

async fn changes(stage: &Stage, connection: &mut Connection, options: &Options) -> anyhow::Result<Samples> {
    let path = format!("/v1/agent-roles/{}", stage.role_id);
    let mut times = Samples::default();
    for number in 0..options.changes {
        // Each document is new, so that it is compiled.
        let rules: String = (0..options.rules)
            .map(|rule| {
                format!(
                    "    - domains: [host-{rule}.{number}.bench.test]\n      methods: [GET]\n      paths: [/a/**]\n"
                )
            })
            .collect();
        let body = json!({"capabilities": format!("- name: bench\n  type: http\n  allow:\n{rules}")});
        let began = Instant::now();
        connection.call(Method::PATCH, &path, Some(&body)).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}
