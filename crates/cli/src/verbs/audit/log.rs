//! The audit log: lists, the review of access, the export that anybody can verify, and the verification.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use freehold_client::{
    Client, Error,
    api::audit::{
        AccessReviewEntry, AccessReviewQuery, AuditCheckpoint, AuditExportLine, AuditExportQuery, AuditKey,
        AuditListQuery, CheckpointListQuery, Order,
    },
};
use freehold_model::{
    Timestamp, WorkspaceId,
    audit::{Condition, Decision, PolicyType},
};
use futures::{StreamExt, stream::BoxStream};
use sha2::{Digest, Sha256};

use super::super::{Calling, Nothing, Outcome, slug};
use crate::{
    environment::Environment,
    failure::{Failure, exit},
    input,
    output::{Console, Format, or_dash, table, time},
    proof::{self, Bad, Pins, Report, Verifier},
    resolve, terminal,
};

/// Connections in a row that bring no row, before an export gives up.
const FAILURES_MAX: u32 = 5;
/// The pause before the next one; doubled for each one after.
const PAUSE: Duration = Duration::from_millis(200);
/// Progress is told each time so many rows more are done.
const PROGRESS_ROWS: u64 = 100_000;
/// The most bytes of a line of a file.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

const EXPORT_HELP: &str = "Examples:
  freehold audit export --to audit.jsonl
  freehold audit export --after 120000 --to audit-2.jsonl
  freehold audit export | gzip > audit.jsonl.gz

The rows come in the order of the hash chain, with their signed checkpoints. A connection that breaks is made again; the \
file appears once it is whole. Needs `audit:read`.";

const VERIFY_HELP: &str = "Examples:
  freehold audit verify audit.jsonl
  freehold audit verify audit-1.jsonl audit-2.jsonl
  freehold audit verify audit.jsonl --checkpoint 17:4e1f6f0c1d3b5a79c8e2b4d6f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b
  freehold audit verify

Files are checked without a server; without a file, the server's log is read and checked as it comes. Who could write the \
whole log anew, and sign it with another key, or cut its end off, is found by what you know from before: keep the key's id \
and the last checkpoint that this prints somewhere else, and name them next time.";

/// Verbs on the audit log.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Audit {
    /// List rows of the organization, newest first
    #[command(
        after_help = "Examples:\n  freehold audit list --filter decision=deny --limit 20\n  freehold audit list --filter event_type=role_created,role_updated --filter user_id!=\n  freehold audit list --filter decision=deny --output json | jq '.events[]'"
    )]
    List(Calling<List>),
    /// What the agents of a role have asked for, and what was decided
    #[command(
        after_help = "Examples:\n  freehold audit review coder\n  freehold audit review coder --decision deny"
    )]
    Review(Calling<Review>),
    /// Write the whole log as lines of JSON that can be verified anywhere
    #[command(after_help = EXPORT_HELP)]
    Export(Calling<Export>),
    /// Check that no row was changed, taken out, put in or moved
    #[command(after_help = VERIFY_HELP)]
    Verify(Calling<Verify>),
    /// The public keys that sign the log
    #[command(after_help = "Examples:\n  freehold audit keys")]
    Keys(Calling<Nothing>),
    /// The signed checkpoints of the log, oldest first
    #[command(after_help = "Examples:\n  freehold audit checkpoints --limit 10")]
    Checkpoints(Calling<Checkpoints>),
}

/// Which rows.
#[derive(Debug, Clone, clap::Args)]
pub struct List {
    /// `column=value[,value]`, `column!=value[,value]` or `column!=`; may be repeated, and all hold
    #[arg(long, value_name = "CONDITION")]
    filter: Vec<Condition>,
    /// Only rows at or after this time, or since so long as `2h`
    #[arg(long, value_name = "TIME", value_parser = input::since)]
    from: Option<Timestamp>,
    /// Only rows before this time, or up to so long ago as `2h`
    #[arg(long, value_name = "TIME", value_parser = input::since)]
    to: Option<Timestamp>,
    /// Oldest first
    #[arg(long)]
    oldest_first: bool,
    /// Rows of a page
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Where the page begins, as the page before said
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// Which decisions.
#[derive(Debug, Clone, clap::Args)]
pub struct Review {
    /// The role, by name or id
    role: String,
    /// Only what was decided so
    #[arg(long, value_parser = slug!(Decision))]
    decision: Option<Decision>,
    /// Only names that were asked for
    #[arg(long, conflicts_with = "http")]
    dns: bool,
    /// Only requests
    #[arg(long)]
    http: bool,
    /// Only decisions at or after this time, or since so long as `2h`
    #[arg(long, value_name = "TIME", value_parser = input::since)]
    from: Option<Timestamp>,
    /// Only decisions before this time, or up to so long ago as `2h`
    #[arg(long, value_name = "TIME", value_parser = input::since)]
    to: Option<Timestamp>,
}

/// What to export.
#[derive(Debug, Clone, clap::Args)]
pub struct Export {
    /// Begin after the row at this position
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// The file to write, which must not exist; stdout when absent
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// What to verify.
#[derive(Debug, Clone, clap::Args)]
pub struct Verify {
    /// Exported files, in order; the server's log when there is none
    files: Vec<PathBuf>,
    /// The id of a key that may sign; may be repeated
    #[arg(long, value_name = "KEY_ID", value_parser = key_id)]
    signed_by: Vec<String>,
    /// A checkpoint that must be there, as an earlier verification printed it; may be repeated
    #[arg(long, value_name = "NUMBER:HASH", value_parser = checkpoint)]
    checkpoint: Vec<(u64, String)>,
}

/// Which checkpoints.
#[derive(Debug, Clone, clap::Args)]
pub struct Checkpoints {
    /// How many
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Where the page begins, as the page before said
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

fn key_id(text: &str) -> Result<String, String> {
    proof::hash_of(text)
        .map(|_| text.to_owned())
        .ok_or_else(|| "a key's id is 64 hexadecimal digits, as `freehold audit keys` shows it".to_owned())
}

fn checkpoint(text: &str) -> Result<(u64, String), String> {
    let read = || {
        let (number, hash) = text.split_once(':')?;
        proof::hash_of(hash)?;
        Some((number.parse().ok()?, hash.to_owned()))
    };
    read().ok_or_else(|| {
        "a checkpoint is its number, a colon, and its hash of 64 hexadecimal digits".to_owned()
    })
}

pub(crate) async fn run(verb: Audit, environment: &Environment, console: &mut Console) -> Outcome {
    macro_rules! client {
        ($calling:ident) => {{
            console.format = $calling.connection.output;
            $calling.connection.client(environment, console)?
        }};
    }
    match verb {
        Audit::List(it) => list(&client!(it), None, it.args, console).await,
        Audit::Review(it) => review(&client!(it), it.args, console).await,
        Audit::Export(it) => export(&client!(it), it.args, console).await,
        Audit::Verify(it) => {
            let Verify { files, signed_by, checkpoint } = it.args;
            let pins = Pins { keys: signed_by, checkpoints: checkpoint };
            let report = match files.is_empty() {
                true => verify_server(&client!(it), pins, console).await?,
                false => verify_files(&files, pins, console)?,
            };
            console.data(&told(&report))?;
            Ok(exit::OK)
        }
        Audit::Keys(it) => {
            let keys = client!(it).audit_key_list().await?;
            let row = |key: &AuditKey| {
                let use_ = if key.current { "signs now" } else { "signed before" };
                vec![
                    key.id.clone(),
                    use_.to_owned(),
                    or_dash(key.first_used_at.map(time)),
                    key.public_key.clone(),
                ]
            };
            console.answer(&keys, |list| {
                whole_table(&["id", "use", "first used", "public key"], list.keys.iter().map(row))
            })?;
            Ok(exit::OK)
        }
        Audit::Checkpoints(it) => {
            let query = CheckpointListQuery { cursor: it.args.cursor.clone(), limit: it.args.limit };
            let list = client!(it).audit_checkpoint_list(&query).await?;
            let row = |signed: &AuditCheckpoint| {
                vec![format!("{}:{}", signed.number, signed.hash), signed.seq.to_string()]
            };
            console.answer(&list, |list| {
                whole_table(&["checkpoint", "rows"], list.checkpoints.iter().map(row))
            })?;
            more(console, list.cursor.as_deref(), "");
            Ok(exit::OK)
        }
    }
}

/// Ids and hashes are there to be copied: nothing of them is cut.
fn whole_table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    crate::output::table_of(headings, rows, super::WHOLE_CHARS_MAX)
}

fn more(console: &mut Console, cursor: Option<&str>, times: &str) {
    if let Some(cursor) = cursor {
        let cursor = crate::text::harmless(cursor);
        console.note(&format!("there is more: go on with{times} --cursor {cursor}\n"));
    }
}

impl List {
    /// The same, to the API.
    fn query(&self) -> AuditListQuery {
        AuditListQuery {
            filter: self.filter.iter().map(ToString::to_string).collect(),
            from: self.from,
            to: self.to,
            cursor: self.cursor.clone(),
            order: self.oldest_first.then_some(Order::Asc),
            limit: self.limit,
        }
    }
}

/// Rows of the organization, or of one workspace.
pub(crate) async fn list(
    client: &Client,
    workspace: Option<WorkspaceId>,
    args: List,
    console: &mut Console,
) -> Outcome {
    let query = args.query();
    let list = match workspace {
        Some(id) => client.workspace_audit_list(id, &query).await?,
        None => client.audit_list(&query).await?,
    };
    let is_whole = !console.stdout_is_terminal;
    console.answer(&list, |list| super::table(&list.events, is_whole))?;
    if workspace.is_some() && console.format == Format::Table {
        console.note(&super::hint(&list.events));
    }
    // What was said as an age is another time when the next page is asked for.
    let times = [("from", args.from), ("to", args.to)];
    let times = times.iter().filter_map(|(flag, time)| time.map(|time| format!(" --{flag} {time}")));
    more(console, list.cursor.as_deref(), &times.collect::<String>());
    Ok(exit::OK)
}

async fn review(client: &Client, args: Review, console: &mut Console) -> Outcome {
    let role = resolve::role(client, &args.role).await?;
    let policy_type = match (args.dns, args.http) {
        (true, _) => Some(PolicyType::Dns),
        (_, true) => Some(PolicyType::Http),
        (false, false) => None,
    };
    let query = AccessReviewQuery { decision: args.decision, policy_type, from: args.from, to: args.to };
    let review = client.role_access_review(role, &query).await?;
    let row = |entry: &AccessReviewEntry| {
        vec![
            entry.destination.clone(),
            entry.method.clone(),
            entry.path.clone(),
            entry.decision.to_string(),
            or_dash(entry.reason.as_ref()),
            or_dash(entry.capability_name.as_ref()),
            entry.count.to_string(),
            time(entry.last_seen),
        ]
    };
    let headings =
        ["destination", "method", "path", "decision", "last reason", "capability", "count", "last seen"];
    console.answer(&review, |review| table(&headings, review.entries.iter().map(row)))?;
    if let Some(from) = review.complete_from {
        console.note(&format!("only the newest decisions were counted: those since {from}\n"));
    }
    Ok(exit::OK)
}

async fn export(client: &Client, args: Export, console: &mut Console) -> Outcome {
    let mut lines = Lines::new(client, args.after);
    let Some(path) = &args.to else {
        return written(&mut lines, None, console).await.map(|_| exit::OK);
    };
    if path.exists() {
        return Err(Failure::usage(format!("{} is there already, and was left as it is", path.display()))
            .hint("name another file; `--after SEQ` begins there where an earlier export ends"));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: &io::Error| Failure::io(format!("cannot write {}", path.display()), error);
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
    let rows = written(&mut lines, Some((&mut file, path)), console).await?;
    file.as_file().sync_all().map_err(|error| failed(&error))?;
    file.persist_noclobber(path).map_err(|error| failed(&error.error))?;
    console.note(&format!("{rows} rows in {}\n", path.display()));
    Ok(exit::OK)
}

/// Writes the lines to a file, or else to stdout; answers how many rows there were.
async fn written(
    lines: &mut Lines,
    mut file: Option<(&mut tempfile::NamedTempFile, &Path)>,
    console: &mut Console,
) -> Result<u64, Failure> {
    let mut interrupted = std::pin::pin!(terminal::interrupted());
    let mut digest = Sha256::new();
    loop {
        let line = tokio::select! {
            line = lines.next(console) => line?,
            () = &mut interrupted => return Err(terminal::interruption()),
        };
        let is_end = line.is_none();
        let mut text =
            line.unwrap_or_else(|| proof::end_line(lines.seq, &hex::encode(digest.clone().finalize())));
        text.push('\n');
        digest.update(&text);
        match &mut file {
            Some((file, path)) => file
                .write_all(text.as_bytes())
                .map_err(|error| Failure::io(format!("cannot write {}", path.display()), &error))?,
            None => console.out.write_all(text.as_bytes()).map_err(|error| Failure::stdout(&error))?,
        }
        if is_end {
            break;
        }
    }
    console.out.flush().map_err(|error| Failure::stdout(&error))?;
    Ok(lines.seq.saturating_sub(lines.first))
}

/// The lines of an export over as many connections as it takes, without the last one.
struct Lines {
    client: Client,
    first: u64,
    /// The last row that came.
    seq: u64,
    /// The last checkpoint that came.
    checkpoint: u64,
    has_header: bool,
    open: Option<BoxStream<'static, Result<String, Error>>>,
    failures: u32,
}

impl Lines {
    fn new(client: &Client, after: u64) -> Self {
        let client = client.clone();
        Self { client, first: after, seq: after, checkpoint: 0, has_header: false, open: None, failures: 0 }
    }

    /// The next line; none at the end.
    async fn next(&mut self, console: &mut Console) -> Result<Option<String>, Failure> {
        loop {
            let Some(open) = &mut self.open else {
                let query = AuditExportQuery { after: Some(self.seq) };
                self.open = Some(self.client.audit_export(&query).await?);
                continue;
            };
            match open.next().await {
                Some(Ok(line)) => match self.take(&line, console)? {
                    Taken::Line => return Ok(Some(line)),
                    Taken::Known => {}
                    Taken::End => return Ok(None),
                },
                broken => {
                    self.open = None;
                    self.failures += 1;
                    if self.failures > FAILURES_MAX {
                        let error = broken.and_then(Result::err).map_or(Error::Cut, |error| error);
                        return Err(Failure::from(error).hint(format!(
                            "rows up to {} came; `--after {}` goes on there, in another file",
                            self.seq, self.seq
                        )));
                    }
                    tokio::time::sleep(PAUSE * 2_u32.pow(self.failures - 1)).await;
                }
            }
        }
    }

    fn take(&mut self, line: &str, console: &mut Console) -> Result<Taken, Failure> {
        let strange = || Failure::other("the server sent a line that is no part of an export");
        Ok(match serde_json::from_str(line).map_err(|_| strange())? {
            AuditExportLine::Header { .. } if self.has_header => Taken::Known,
            AuditExportLine::Header { .. } => {
                self.has_header = true;
                Taken::Line
            }
            AuditExportLine::Row { row, .. } => {
                self.seq = row["seq"].as_u64().ok_or_else(strange)?;
                self.failures = 0;
                if self.seq.is_multiple_of(PROGRESS_ROWS) {
                    console.note(&format!("{} rows\n", self.seq));
                }
                Taken::Line
            }
            AuditExportLine::Checkpoint { checkpoint, .. } => {
                let number = checkpoint["number"].as_u64().ok_or_else(strange)?;
                let is_known = number <= self.checkpoint;
                self.checkpoint = self.checkpoint.max(number);
                if is_known { Taken::Known } else { Taken::Line }
            }
            AuditExportLine::End { .. } => Taken::End,
        })
    }
}

/// What a line is.
enum Taken {
    Line,
    /// It came before, by an earlier connection.
    Known,
    End,
}

async fn verify_server(client: &Client, pins: Pins, console: &mut Console) -> Result<Report, Failure> {
    let mut lines = Lines::new(client, 0);
    let mut verifier = Verifier::new(pins);
    let mut digest = Sha256::new();
    while let Some(line) = lines.next(console).await? {
        verifier.line(&line).map_err(|bad| found(None, &bad))?;
        digest.update(&line);
        digest.update(b"\n");
    }
    let end = proof::end_line(verifier.seq(), &hex::encode(digest.finalize()));
    verifier.line(&end).and_then(|()| verifier.finish()).map_err(|bad| found(None, &bad))
}

fn verify_files(files: &[PathBuf], pins: Pins, console: &mut Console) -> Result<Report, Failure> {
    let mut verifier = Verifier::new(pins);
    for (n, path) in files.iter().enumerate() {
        let found = |bad: Bad| found(Some(path), &bad);
        if n > 0 {
            verifier.next_file().map_err(|bad| self::found(files.get(n - 1).map(PathBuf::as_path), &bad))?;
        }
        let failed = |error: &io::Error| Failure::io(format!("cannot read {}", path.display()), error);
        let mut file = BufReader::new(File::open(path).map_err(|error| failed(&error))?);
        for number in 1.. {
            let mut line = Vec::new();
            file.by_ref()
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut line)
                .map_err(|error| failed(&error))?;
            let bad = |why: &str| found(Bad { line: number, why: why.to_owned() });
            match line.pop() {
                None => break,
                Some(b'\n') => {}
                Some(_) => return Err(bad("has no end: the file was cut off, or changed")),
            }
            let line = String::from_utf8(line).map_err(|_| bad("is not UTF-8"))?;
            verifier.line(&line).map_err(found)?;
            if number % PROGRESS_ROWS == 0 {
                console.note(&format!("{number} lines\n"));
            }
        }
    }
    let last = files.last().map(PathBuf::as_path);
    verifier.finish().map_err(|bad| found(last, &bad))
}

fn found(path: Option<&Path>, bad: &Bad) -> Failure {
    let place = path.map_or_else(|| "the server's audit log".to_owned(), |path| path.display().to_string());
    Failure::other(format!("{place} does not verify: {bad}"))
}

fn told(report: &Report) -> String {
    let Report { organization, after, seq, checkpoint, keys } = report;
    let mut text = match seq - after {
        0 => format!("no rows of {organization} after row {after}\n"),
        _ => format!("rows {} to {seq} of {organization} are as they were written\n", after + 1),
    };
    if *after > 0 {
        text.push_str(&format!("rows up to {after} were not looked at\n"));
    }
    if let Some((number, hash)) = checkpoint {
        text.push_str(&format!("last checkpoint: {number}:{hash}\n"));
    }
    for key in keys {
        text.push_str(&format!("signed by: {key}\n"));
    }
    text
}
