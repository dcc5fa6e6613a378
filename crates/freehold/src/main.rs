//! The binary: configuration, wiring, signals.
//!
//! Two of its subcommands run before anything else of it: the launcher, from which pods' small parents are forked, and the
//! agent, a pod's first process. Both must stay small, so neither the command line's parser nor a runtime is built for them.

mod approvals;
mod config;
mod control;
mod credentials;
mod environment;
mod gate;
mod machine;
mod member;
mod ports;
mod rotation;
mod secrets;
mod server;

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};

/// An open control plane and runtime for AI agents.
#[derive(Debug, Parser)]
#[command(name = "freehold", version, about, long_about = None, max_term_width = 100, after_help = "\
Examples:
  freehold demo                              watch an agent work in a sandbox; needs nothing
  freehold server                            start the control plane on this machine
  freehold login --key-stdin < owner.key     sign in
  freehold task submit --role coder --follow \"fix the tests\"")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const SERVER_HELP: &str = "\
Examples:
  freehold server
  freehold server --data-dir ./data --listen 127.0.0.1:8080
  FREEHOLD_POD__MEMORY_BYTES=1073741824 freehold server

The first start makes the organization and its owner, and writes the owner's key to owner.key in the data directory:
  freehold login --key-stdin < ./data/owner.key

Settings come from defaults, then /etc/freehold/server.toml (for others than root also \
~/.config/freehold/server.toml) or the file named by --config, then variables such as FREEHOLD_SERVER__LISTEN, then flags. \
`freehold config show` lists them all. Ctrl-C stops the server; pods go on, and the next start finds them.";

const SIM_MODEL_HELP: &str = "\
Examples:
  freehold sim-model --scenario scenario.yaml
  freehold sim-model --listen 127.0.0.1:8787 --demo --self-signed model.test --ca-out ca.pem

docs/sim-model.md tells the format of scenarios. The address is on stdout, for programs that let it choose a port.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the control plane and, with it, pods on this machine
    #[command(after_help = SERVER_HELP)]
    Server {
        #[command(flatten)]
        flags: config::Flags,
        /// Stop when standard input ends, and take the pods away: for programs that start a server for a while
        #[arg(long, hide = true)]
        stop_with_stdin: bool,
        /// Remove this directory too when standard input ends; the data directory must lie in it
        #[arg(long, hide = true, requires = "stop_with_stdin")]
        throw_away: Option<PathBuf>,
    },
    /// What the server is configured to do
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Members of the organization, on the server's machine
    Member(member::Args),
    /// The keys of secrets, on the server's machine
    Vault(rotation::Args),
    /// A scripted model server that speaks the real wires, for tests
    #[command(after_help = SIM_MODEL_HELP)]
    SimModel {
        #[command(flatten)]
        arguments: freehold_sim_model::Args,
        /// Stop when standard input ends
        #[arg(long, hide = true)]
        stop_with_stdin: bool,
    },
    #[command(flatten)]
    Client(freehold_cli::Verb),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting in force and where it came from
    #[command(after_help = "Examples:\n  freehold config show\n  freehold config show --config server.toml")]
    Show(config::Flags),
}

#[cfg(test)]
mod tests;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_deref().and_then(std::ffi::OsStr::to_str) {
        Some("launcher") => return freehold_driver_local::launcher::main(arguments),
        Some("agent") => return freehold_agent::main(arguments),
        _ => {}
    }
    let cli = match Cli::try_parse_from(freehold_cli::verb_first(&Cli::command(), std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    match environment::check(std::env::vars_os()).and_then(|()| run(cli.command)) {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Shows what the command line's parser has to say: help, or what is wrong.
#[expect(clippy::print_stderr, reason = "a command's error goes to standard error")]
fn refused(error: &clap::Error) -> ExitCode {
    // That nobody reads it changes nothing.
    let _unread = error.print();
    let surplus = match error.get(clap::error::ContextKind::InvalidArg) {
        Some(clap::error::ContextValue::String(word)) if !word.starts_with('-') => Some(word),
        _ => None,
    };
    if error.kind() == clap::error::ErrorKind::UnknownArgument && surplus.is_some() {
        eprintln!(
            "\nhint: a text of several words, and a pattern such as *.yaml that the shell shall leave alone, stand in quotes"
        );
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    if let Command::Server { flags, .. } | Command::Config { command: ConfigCommand::Show(flags) } = &command
    {
        warn_of_password(flags);
    }
    match command {
        Command::Server { flags, stop_with_stdin, throw_away } => {
            let loaded = config::load(&flags, &config::Home::from_environment())?;
            let data_dir = loaded.config.server.data_dir.clone();
            let runtime = runtime()?;
            let ended = runtime.block_on(server::run(loaded.config, stop_with_stdin));
            // The thread that waits for the end of standard input must not keep a server that failed.
            runtime.shutdown_background();
            let ended = ended?;
            if let Some(dir) =
                throw_away.filter(|dir| ended == server::Ended::Abandoned && data_dir.starts_with(dir))
            {
                freehold_cli::remove_dir(&dir)?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Config { command: ConfigCommand::Show(flags) } => {
            let loaded = config::load(&flags, &config::Home::from_environment())?;
            print(&loaded.show()?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Member(arguments) => {
            warn_of_password(&arguments.flags);
            let output = runtime()?.block_on(member::run(arguments))?;
            print(&output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Vault(arguments) => {
            warn_of_password(&arguments.flags);
            let output = runtime()?.block_on(rotation::run(arguments))?;
            print(&output)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::SimModel { arguments, stop_with_stdin } => {
            runtime()?.block_on(sim_model(&arguments, stop_with_stdin))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Client(verb) => {
            let scene = freehold_cli::Scene {
                task: freehold_sim_model::DEMO_TASK.to_owned(),
                egress: verb.live_config().map_or_else(|| Ok(Default::default()), live_egress)?,
            };
            let environment = freehold_cli::Environment::of_process(Cli::command(), scene);
            let runtime = runtime()?;
            let code = runtime.block_on(freehold_cli::run(verb, environment));
            // Whatever still waits for a line that nobody will type is left to the end of the process.
            runtime.shutdown_background();
            Ok(code)
        }
    }
}

/// How the server of a live demo finds the model: as `freehold server` here would, by `[egress]` of its configuration.
fn live_egress(file: Option<&std::path::Path>) -> anyhow::Result<freehold_cli::Egress> {
    let flags = config::Flags { config: file.map(Into::into), ..config::Flags::default() };
    let egress = config::load(&flags, &config::Home::from_environment())?.config.egress;
    let absolute = |path: &PathBuf| std::path::absolute(path);
    Ok(freehold_cli::Egress {
        hosts: egress.hosts,
        extra_roots: egress.extra_roots.iter().map(absolute).collect::<Result<_, _>>()?,
        name_servers: egress.name_servers,
    })
}

/// Serves until the process is ended; the address goes to standard output, for programs that let it choose a port.
async fn sim_model(arguments: &freehold_sim_model::Args, stop_with_stdin: bool) -> anyhow::Result<()> {
    let model = freehold_sim_model::run(arguments).await?;
    print(&format!("{}\n", model.address()))?;
    tokio::select! {
        () = model.wait() => {}
        () = freehold_cli::stdin_closed(), if stop_with_stdin => {}
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Writes a command's data to standard output. That its reader went away, as `head` does, is no failure.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[expect(clippy::print_stderr, reason = "what is said beside a command's data goes to standard error")]
fn warn_of_password(flags: &config::Flags) {
    let user = flags.database_url.as_deref().and_then(|url| url.split_once("://")?.1.split_once('@'));
    if user.is_some_and(|(user, _)| user.contains(':')) {
        eprintln!(
            "warning: other users of this machine can see the password in --database-url while the command runs; \
             prefer a configuration file or FREEHOLD_SERVER__DATABASE_URL"
        );
    }
}

#[expect(clippy::print_stderr, reason = "a command's error goes to standard error")]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
