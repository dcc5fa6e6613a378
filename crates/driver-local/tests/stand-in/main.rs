//! What the tests start in the place of `freehold`: the holder, a driver that can be killed, and an agent that does what
//! it is told over pod-api.
//!
//! It speaks lines: it says `agent <pid> <uid>` when connected, and answers each command with one line.
//! `exit CODE` ends it; `tool SHELL COMMAND` runs a command as the contract wants tools to be run and answers with its
//! exit status and its output, escaped; `environment` answers with its variables, escaped; `dial HOST:PORT` connects by TCP.

#![expect(unsafe_code, reason = "an agent prepares its tools between fork and exec")]

mod hog;

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::PathBuf,
    process::{Command, ExitCode},
};

use freehold_driver::{
    AGENT_POD_API_FD, AGENT_TOOL_RLIMITS_VARIABLE, AGENT_TOOL_UID_VARIABLE, AGENT_TOOLS_CGROUP_FDS_VARIABLE,
    PodDriver,
};
use freehold_driver_local::{LocalDriver, Options, PodRoot};
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities},
};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|name| name.to_str()) {
        Some("launcher") => freehold_driver_local::launcher::main(arguments),
        Some("agent") => agent(arguments),
        Some("driver") => driver(arguments),
        Some("hog") => hog::hog(arguments),
        _ => ExitCode::from(2),
    }
}

/// Makes the pod of a spec in a directory, says so, and stays.
fn driver(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let state_dir = PathBuf::from(arguments.next().expect("a directory"));
    let spec = arguments.next().expect("a spec").into_string().expect("text");
    let spec = serde_json::from_str(&spec).expect("a spec");
    let executable = std::env::current_exe().expect("a path");
    let options = Options { state_dir, executable, root: PodRoot::HostUsr };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let driver = LocalDriver::open(options).await.expect("a driver");
        driver.ensure(&spec).await.expect("a pod");
        writeln!(std::io::stdout(), "made").expect("a reader");
        std::future::pending().await
    })
}

fn agent(_arguments: impl Iterator<Item = OsString>) -> ExitCode {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).expect("cannot hide");
    clear_ambient_capability_set().expect("cannot clear the ambient set");
    let stream =
        UnixStream::connect(format!("/proc/self/fd/{AGENT_POD_API_FD}")).expect("cannot reach pod-api");
    let mut told = stream.try_clone().expect("cannot copy the stream");
    let mut tell = |line: String| writeln!(told, "{line}").expect("cannot answer");
    tell(format!("agent {} {}", std::process::id(), rustix::process::getuid().as_raw()));
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { break };
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("exit", code) => return ExitCode::from(code.parse().unwrap_or(1)),
            ("tool", command) => tell(tool(command)),
            ("environment", _) => {
                let variables: Vec<String> = std::env::vars_os()
                    .map(|(name, value)| format!("{}={}", name.display(), value.display()))
                    .collect();
                tell(variables.join("\n").escape_default().to_string());
            }
            ("dial", address) => tell(match std::net::TcpStream::connect(address) {
                Ok(_) => "connected".into(),
                Err(error) => error.to_string(),
            }),
            _ => tell("unknown".into()),
        }
    }
    // The server went away; a new one would be connected to, by a real agent.
    loop {
        std::thread::park();
    }
}

#[expect(clippy::disallowed_methods, reason = "an agent's entry point reads the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn tool(command: &str) -> String {
    let uid: Option<u32> = variable(AGENT_TOOL_UID_VARIABLE).and_then(|uid| uid.parse().ok());
    let groups: Vec<i32> = variable(AGENT_TOOLS_CGROUP_FDS_VARIABLE)
        .iter()
        .flat_map(|fds| fds.split(','))
        .filter_map(|fd| fd.parse().ok())
        .collect();
    let limits = variable(AGENT_TOOL_RLIMITS_VARIABLE).unwrap_or_default();
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(command);
    for name in [AGENT_TOOL_UID_VARIABLE, AGENT_TOOLS_CGROUP_FDS_VARIABLE, AGENT_TOOL_RLIMITS_VARIABLE] {
        shell.env_remove(name);
    }
    let prepare = move || {
        for group in &groups {
            // SAFETY: the holder opened these descriptors for this purpose and nothing closes them.
            let group = unsafe { std::os::fd::BorrowedFd::borrow_raw(*group) };
            rustix::io::write(group, b"0")?;
        }
        for (name, value) in limits.split(',').filter_map(|pair| pair.split_once('=')) {
            let resource = match name {
                "nproc" => Resource::Nproc,
                "data" => Resource::Data,
                "fsize" => Resource::Fsize,
                "core" => Resource::Core,
                "nofile" => Resource::Nofile,
                _ => continue,
            };
            let value = value.parse().ok();
            setrlimit(resource, Rlimit { current: value, maximum: value })?;
        }
        if let Some(uid) = uid {
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(uid));
            rustix::thread::set_thread_groups(&[])?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
        // The handle of pod-api and those of the groups are not for tools.
        rustix::io::fcntl_setfd(
            // SAFETY: the holder opened it and nothing closes it.
            unsafe { std::os::fd::BorrowedFd::borrow_raw(AGENT_POD_API_FD) },
            rustix::io::FdFlags::CLOEXEC,
        )?;
        for group in &groups {
            // SAFETY: as above.
            let group = unsafe { std::os::fd::BorrowedFd::borrow_raw(*group) };
            rustix::io::fcntl_setfd(group, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok(())
    };
    // SAFETY: the agent has one thread, so what runs between fork and exec may allocate.
    unsafe { shell.pre_exec(prepare) };
    match shell.output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            format!(
                "{} {}",
                output.status.code().unwrap_or(-1),
                String::from_utf8_lossy(&text).escape_default()
            )
        }
        Err(error) => format!("failed {error}"),
    }
}
