//! Capabilities on this machine: what a document allows, and why, before a server has it.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use freehold_model::provider::Kind;
use freehold_policy::{
    Approval, Decision, Document, Match, Permit, Policy, Problem, ProviderGrant, Reason, Verdict, compile,
    language_schema, parse,
};

use self::{
    cases::{Case, Subject},
    request::{Known, Message, Request, Response},
};
use super::Outcome;
use crate::{
    failure::{Failure, exit},
    input,
    output::{BAD, BOLD, Console, DIM, GOOD, NOTE},
    text::{counted, harmless},
};

mod cases;
mod effects;
mod request;

const CHECK: &str =
    "Examples:\n  freehold caps check caps.yaml\n  freehold caps check provider.yaml coder.yaml";
const TEST: &str = "Examples:\n  freehold caps test caps.yaml --cases cases.yaml\n  \
    freehold caps test caps.yaml --base provider.yaml --cases cases.yaml\n\n\
    The cases are a list in YAML:\n\n  \
    - request: GET https://pypi.org/simple/?page=1\n    \
      headers: {accept: text/html}\n    \
      expect: allow package-index/allow[0]\n  \
    - request: POST https://pypi.org/legacy/\n    \
      expect: deny method_not_allowed\n  \
    - request: POST https://api.example.com/orders\n    \
      body: {quantity: 3}\n    \
      response: {status: 201, content_type: application/json, body: {id: 1}}\n    \
      expect: allow orders/create\n\n\
    A `body` that is a text is sent as it is, with its `content_type`; any other is JSON.\n\
    `expect` is `allow` or `deny`, and may go on with the rule (and `after approval`), or the reason.";
const SCHEMA: &str = "Examples:\n  freehold caps schema > caps.schema.json";
const EXPLAIN: &str = "Examples:\n  freehold caps explain caps.yaml GET https://pypi.org/simple/\n  \
    freehold caps explain caps.yaml POST 'https://api.example.com/v1/items?dry=1' --header 'x-team: a'\n  \
    freehold caps explain caps.yaml POST https://api.example.com/v1/items \\\n    \
    --content-type application/json --data '{\"name\": \"a\"}'";

/// Verbs of capabilities.
#[derive(Debug, Clone, Subcommand)]
pub enum Caps {
    /// Find every problem of documents, each with its place
    #[command(after_help = CHECK)]
    Check {
        /// The documents; `-` is stdin
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Try requests on a document and compare the decisions with those expected
    #[command(after_help = TEST)]
    Test {
        #[command(flatten)]
        documents: Documents,
        /// The requests and the decisions expected
        #[arg(long, value_name = "FILE")]
        cases: PathBuf,
    },
    /// Say which rule decides a request, and what of every other rule does not match
    #[command(after_help = EXPLAIN)]
    Explain(Box<Explain>),
    /// Print the JSON Schema of the language, for editors
    #[command(after_help = SCHEMA)]
    Schema,
}

/// A request that is explained.
#[derive(Debug, Clone, clap::Args)]
pub struct Explain {
    #[command(flatten)]
    documents: Documents,
    /// The method, such as GET
    method: String,
    /// Where it goes
    url: String,
    /// A header of the request; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The type of its body
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Its body; `@FILE` reads it from there, `@-` from stdin
    #[arg(long, short = 'd', value_name = "TEXT")]
    data: Option<String>,
    #[command(flatten)]
    subject: Subject,
}

/// The documents that make a policy.
#[derive(Debug, Clone, clap::Args)]
pub struct Documents {
    /// The role's document; `-` is stdin
    file: PathBuf,
    /// The provider's document, which the role's is merged with
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// The provider, whose own domain is allowed for calls of the model
    #[arg(long, value_name = "KIND:DOMAIN", value_parser = provider, default_value = "anthropic:provider.invalid")]
    provider: (Kind, String),
}

fn provider(text: &str) -> Result<(Kind, String), String> {
    let (kind, domain) =
        text.split_once(':').ok_or("expected a kind and a domain, as `anthropic:api.anthropic.com`")?;
    Ok((kind.parse().map_err(|_| format!("there is no kind of provider `{kind}`"))?, domain.to_owned()))
}

/// Runs one.
pub(crate) fn run(verb: Caps, console: &mut Console) -> Outcome {
    match verb {
        Caps::Check { files } => check(&files, console),
        Caps::Test { documents, cases } => test(&documents, &cases, console),
        Caps::Explain(what) => explain(*what, console),
        Caps::Schema => {
            console.data(&format!("{:#}\n", language_schema()))?;
            Ok(exit::OK)
        }
    }
}

fn check(files: &[PathBuf], console: &mut Console) -> Outcome {
    let mut outcome = exit::OK;
    for file in files {
        match document(file, console)? {
            Ok(document) => {
                let rules =
                    document.capabilities.iter().map(|one| one.allow.len() + one.deny.len()).sum::<usize>();
                let rules = counted(rules, "rule");
                let capabilities = counted(document.capabilities.len(), "capability");
                console.note(&format!("{}: no problem in {rules} of {capabilities}\n", file.display()));
                if document.capabilities.iter().all(|one| one.allow.is_empty()) {
                    console.note("  it has no allow rule: it allows nothing beside the calls of the model\n");
                }
            }
            Err(problems) => {
                console.note(&format!("{problems}\n\n"));
                outcome = exit::OTHER;
            }
        }
    }
    Ok(outcome)
}

/// A document, or its problems as text. Warnings are told at once.
fn document(file: &Path, console: &mut Console) -> Result<Result<Document, String>, Failure> {
    let text = input::text(console, file)?;
    let parsed = parse(&text);
    if let Ok(document) = &parsed
        && !document.warnings.is_empty()
    {
        let warnings = shown(&format!("{NOTE}warning{NOTE:#}"), file, &text, &document.warnings);
        console.note(&format!("{warnings}\n\n"));
    }
    Ok(parsed.map_err(|problems| errors(file, &text, &problems)))
}

fn errors(file: &Path, text: &str, problems: &[Problem]) -> String {
    shown(&format!("{BAD}error{BAD:#}"), file, text, problems)
}

fn shown(kind: &str, file: &Path, text: &str, problems: &[Problem]) -> String {
    let mut shown = String::new();
    for problem in problems {
        show_problem(&mut shown, kind, &file.display().to_string(), text, problem);
    }
    shown.trim_end().to_owned()
}

/// As a compiler shows it: the place, the line, and a mark under what is meant.
fn show_problem(shown: &mut String, kind: &str, file: &str, text: &str, problem: &Problem) {
    let Problem { line, column, path, message } = problem;
    let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let what = harmless(&format!("{place}{message}"));
    let _written = writeln!(shown, "{kind}: {BOLD}{what}{BOLD:#}");
    let at = if *line == 0 { String::new() } else { format!(":{line}:{column}") };
    let _written = writeln!(shown, "  {NOTE}-->{NOTE:#} {file}{at}");
    let row = usize::try_from(*line).unwrap_or(0).checked_sub(1);
    let Some(source) = row.and_then(|row| text.lines().nth(row)) else { return };
    let before: String =
        source.chars().take(usize::try_from(column.saturating_sub(1)).unwrap_or(0)).collect();
    let (source, indent) = (harmless(source), " ".repeat(harmless(&before).chars().count()));
    let _written =
        writeln!(shown, "{DIM}{line:>5} |{DIM:#} {source}\n{DIM}      |{DIM:#} {indent}{BAD}^{BAD:#}\n");
}

fn policy(documents: &Documents, console: &mut Console) -> Result<Policy, Failure> {
    let mut read = |file: Option<&PathBuf>| match file {
        None => Ok(Document::default()),
        Some(file) => document(file, console)?.map_err(|problems| {
            console.note(&format!("{problems}\n\n"));
            Failure::other("the document has problems")
        }),
    };
    let base = read(documents.base.as_ref())?;
    let own = read(Some(&documents.file))?;
    let (kind, domain) = documents.provider.clone();
    compile(&ProviderGrant { kind, domain, credential: None }, &base, &own).map_err(Failure::usage)
}

fn test(documents: &Documents, cases: &Path, console: &mut Console) -> Outcome {
    let policy = policy(documents, console)?;
    let text = input::text(console, cases)?;
    let cases = cases::read(&text, &policy).map_err(|problems| {
        console.note(&format!("{}\n\n", errors(cases, &text, &problems)));
        Failure::usage("the cases have problems")
    })?;
    let (mut wrong, count) = (0, cases.len());
    for case in cases {
        let Case { name, request, response, subject, expect } = case;
        let (said, verdicts) = match request {
            Ok(request) => decided(&policy, request, response, &subject),
            Err(refusal) => (refusal, Vec::new()),
        };
        if said == expect || said.strip_prefix(&expect).is_some_and(|rest| rest.starts_with(' ')) {
            continue;
        }
        wrong += 1;
        console.data(&format!(
            "{BAD}wrong{BAD:#} {BOLD}{}{BOLD:#}\n  expected {expect}\n  decided  {said}\n{}",
            harmless(&name),
            rows(&verdicts)
        ))?;
    }
    console.note(&format!("{}, {wrong} wrong\n", counted(count, "case")));
    Ok(if wrong == 0 { exit::OK } else { exit::OTHER })
}

/// What is decided of a case, and what every rule says.
fn decided(
    policy: &Policy,
    mut request: Request,
    response: Option<Response>,
    subject: &Subject,
) -> (String, Vec<Verdict>) {
    request.read_for(policy, subject);
    let known = Known::new(&request, None, subject);
    let (decision, verdicts) = (policy.decide(&request.head(&known)), policy.explain(&request.head(&known)));
    let refused = match &decision {
        Decision::Allow(permit) => response.and_then(|response| refused(permit, &request, response, subject)),
        Decision::Deny(_) => None,
    };
    (refused.unwrap_or_else(|| self::decision(&decision)), verdicts)
}

/// Why the response to an allowed request is not passed on, if it is not.
fn refused(permit: &Permit, request: &Request, mut response: Response, subject: &Subject) -> Option<String> {
    let rule = permit.response()?;
    response.read_for(rule);
    let known = Known::new(request, Some(&response), subject);
    let reason = rule.check(&response.reply(), &known).err()?;
    let by = permit.rule();
    Some(format!("deny {} by {}/{}", reason.as_str(), by.capability, by.rule))
}

fn explain(what: Explain, console: &mut Console) -> Outcome {
    let Explain { documents, method, url, headers, content_type, data, subject } = what;
    let body = match data {
        None => String::new(),
        Some(data) => match data.strip_prefix('@') {
            Some(file) => input::text(console, Path::new(file))?,
            None => data,
        },
    };
    let message = Message::new(&headers, content_type.as_deref(), body.into_bytes());
    let request = message.and_then(|message| Request::parse(&method, &url, message));
    let mut request = request.map_err(Failure::usage)?;
    if let Some(doubt) = request.doubt() {
        console.note(&format!("{NOTE}note:{NOTE:#} {doubt}\n"));
    }
    let policy = policy(&documents, console)?;
    request.read_for(&policy, &subject);
    let known = Known::new(&request, None, &subject);
    let decision = policy.decide(&request.head(&known));
    let colour = if matches!(decision, Decision::Allow(_)) { GOOD } else { BAD };
    let effects = match &decision {
        Decision::Allow(permit) => effects::shown(permit, &known),
        Decision::Deny(denial) => {
            let detail = denial.detail.as_deref().map(harmless);
            detail.map(|detail| format!("  {BOLD}{detail}{BOLD:#}\n")).unwrap_or_default()
        }
    };
    let text = self::decision(&decision);
    let rules = rows(&policy.explain(&request.head(&known)));
    console.data(&format!("{colour}{text}{colour:#}\n{effects}{rules}"))?;
    Ok(exit::OK)
}

/// A decision as cases say it.
fn decision(decision: &Decision) -> String {
    match decision {
        Decision::Allow(permit) => {
            let approval = if permit.approval() == Approval::Required { " after approval" } else { "" };
            format!("allow {}/{}{approval}", permit.rule().capability, permit.rule().rule)
        }
        Decision::Deny(denial) => {
            let by = denial.rule.as_ref().map(|rule| format!(" by {}/{}", rule.capability, rule.rule));
            format!("deny {}{}", denial.reason.as_str(), by.unwrap_or_default())
        }
    }
}

/// What each rule says, a line each. Rules of other hosts are counted.
fn rows(verdicts: &[Verdict]) -> String {
    let (elsewhere, near): (Vec<_>, Vec<_>) =
        verdicts.iter().partition(|one| one.outcome == Match::Misses(Reason::DomainNotAllowed));
    let mut shown = String::new();
    for Verdict { rule, denies, outcome } in near {
        let effect = if *denies { "deny " } else { "allow" };
        let says = match outcome {
            Match::Whole => format!("{BOLD}matches{BOLD:#}"),
            Match::Condition { at, fault } => {
                let why = fault.map(|fault| format!(": {fault}")).unwrap_or_default();
                format!("when[{at}] does not hold{why}")
            }
            Match::Misses(reason) => miss(*reason).to_owned(),
        };
        let _written = writeln!(shown, "  {effect} {}/{}  {DIM}{says}{DIM:#}", rule.capability, rule.rule);
    }
    if !elsewhere.is_empty() {
        let _written = writeln!(shown, "  {DIM}rules of other hosts or ports: {}{DIM:#}", elsewhere.len());
    }
    shown
}

const fn miss(reason: Reason) -> &'static str {
    match reason {
        Reason::MethodNotAllowed => "another method",
        Reason::PathNotAllowed => "another path",
        Reason::InsecureNotAllowed => "HTTPS only",
        Reason::ContentTypeNotAllowed => "another content type",
        Reason::BodyTooLarge => "a shorter body",
        Reason::BodyUnreadable => "a body that can be read",
        Reason::BodyInvalid => "another body",
        _ => "another host or port",
    }
}
