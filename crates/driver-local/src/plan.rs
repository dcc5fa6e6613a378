//! What the driver tells a holder: the plan in the pod's directory, and the messages on its socket.
//!
//! The driver decides and writes the plan; the holder does what it says. Both are the same program, perhaps of
//! different versions (a pod outlives an upgrade), so messages only ever grow.

use std::path::PathBuf;

use freehold_driver::Limits;
use freehold_model::{PodId, WorkspaceId};
use serde::{Deserialize, Serialize};

/// Bytes of one message, at most. A longer command line than this cannot be run.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// Names in a pod's directory.
pub mod file {
    /// The plan; locked by the holder for as long as it lives.
    pub const PLAN: &str = "plan.json";
    /// The holder's socket.
    pub const HOLDER: &str = "holder.sock";
    /// The agent's way to the control plane.
    pub const POD_API: &str = "api.sock";
    /// In a workspace's directory: the newest generation that was seen.
    pub const GENERATION: &str = "generation";
    /// What the agent writes to its standard output and error.
    pub const LOG: &str = "agent.log";
}

/// Names in the driver's directory.
pub mod dir {
    /// A directory per pod.
    pub const PODS: &str = "pods";
    /// A directory per workspace.
    pub const WORKSPACES: &str = "workspaces";
    /// What waits to be removed.
    pub const TRASH: &str = "trash";
    /// Where each pod, in its own mount namespace, puts its root together.
    pub const STAGE: &str = "stage";
    /// Lower layers made here.
    pub const LAYERS: &str = "layers";
    /// Roots unpacked from images, by digest.
    pub const ROOTS: &str = "roots";
    /// Below a workspace: the writable layers, owned by the pod's root.
    pub const FILES: &str = "files";
}

/// All that a holder needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The pod.
    pub pod_id: PodId,
    /// Whose files it works on.
    pub workspace_id: WorkspaceId,
    /// The generation it is made for.
    pub generation: u64,
    /// End after the sandbox was made, without an agent: a trial of what this machine allows.
    pub trial: bool,
    /// What the pod's machinery is made of.
    pub make: Make,
    /// Layers of the pod's root, the topmost first.
    pub root_layers: Vec<PathBuf>,
    /// Layers of `/usr`, the topmost first; none when the root has a `/usr` of its own.
    pub usr_layers: Vec<PathBuf>,
    /// This program.
    pub executable: PathBuf,
    /// Variables for the agent, complete.
    pub environment: Vec<(String, String)>,
    /// Variables for every other program.
    pub tool_environment: Vec<(String, String)>,
    /// The pod's control groups, one for each hierarchy.
    pub groups: Vec<Group>,
    /// Limits that tools get as process limits, for want of control groups: name as in
    /// [`freehold_driver::AGENT_TOOL_RLIMITS_VARIABLE`], and value.
    pub tool_rlimits: Vec<(String, u64)>,
    /// What the pod may use.
    pub limits: Limits,
    /// Whether the holder sums up memory, because the kernel does not.
    pub watch_memory: bool,
    /// Whether the holder sums up disk use, because the kernel does not.
    pub watch_disk: bool,
}

/// How pods are made on this machine; found out by trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Make {
    /// Which users a pod has.
    pub users: Users,
    /// How connections are intercepted.
    pub interception: Interception,
    /// What the pod's `eth0` is.
    #[serde(default)]
    pub link: Link,
}

/// A pod's `eth0`, which is there to be seen: no packet goes by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// A device that drops everything.
    Dummy,
    /// A device for the shaping of traffic, which drops what was not sent to it by a rule; there are none.
    Ifb,
    /// A cable, both ends of which are in the pod. Every kernel that has containers has it; it takes the longest to make.
    #[default]
    Veth,
}

/// Which users a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Users {
    /// 65,536 of them, the host's from `base` on. Lower layers are mapped likewise by the mount.
    Mapped {
        /// The host's uid and gid of the pod's root.
        base: u32,
    },
    /// The same, on a file system that cannot map owners: foreign files belong to nobody.
    Shifted {
        /// The host's uid and gid of the pod's root.
        base: u32,
    },
    /// One: the pod's root is the user who runs the driver.
    Single,
}

impl Users {
    /// How many ids a pod with its own users has.
    pub const COUNT: u32 = 65_536;
    /// The agent's uid and gid, where it has its own.
    pub const AGENT: u32 = 900;

    /// The host's id of the pod's root, where that is not the caller.
    pub fn base(self) -> Option<u32> {
        match self {
            Self::Mapped { base } | Self::Shifted { base } => Some(base),
            Self::Single => None,
        }
    }
}

/// How a pod's connections reach the listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interception {
    /// Every address is local, and nftables hands every TCP connection to one listener.
    Tproxy,
    /// The same, but by rewriting the destination.
    Redirect,
    /// Every address is local, and common ports have a listener; others are refused.
    Ports,
}

/// A pod's groups in one hierarchy: files that a process writes `0` to in order to join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The pod's own directory, parent of the others.
    pub dir: PathBuf,
    /// The agent's file.
    pub agent: PathBuf,
    /// The tools' file.
    pub tools: PathBuf,
}

/// What a holder is told first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Birth {
    /// The pod's directory, which may not be there yet.
    pub pod_dir: PathBuf,
    /// What to make.
    pub plan: Plan,
}

/// What a holder that is making a pod and the driver that prepares it tell each other; all other messages are JSON.
pub mod word {
    /// The holder: here I am. Its pidfd comes along.
    pub const BORN: &[u8] = b"born";
    /// The driver: the pod's directory with the plan, and the workspace's files are there.
    pub const FILES: &[u8] = b"files";
    /// The driver: the pod's control groups are there.
    pub const GROUPS: &[u8] = b"groups";
}

/// What a holder is asked, one message each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Send an [`Event`] now and at every change, until the connection ends.
    Watch,
    /// Send [`Links`] with their descriptors.
    Links,
    /// Run a command. Three descriptors come along: standard output, standard error, and a socket on which the
    /// command's supervisor sends an [`ExecEvent`] twice; closing its other end ends the command.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// Where.
        cwd: String,
        /// Variables beside those of the plan.
        environment: Vec<(String, String)>,
    },
}

/// What a holder says about its pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The agent was started, for the `starts`-th time. A pidfd of the pod's first process comes along.
    Running {
        /// How often.
        starts: u32,
    },
    /// The agent cannot be kept running.
    Ended {
        /// Why, for people.
        reason: String,
    },
    /// The pod could not be made.
    Failed(Failure),
}

/// Which step failed, and the system's error number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was tried.
    pub step: String,
    /// `errno`.
    pub errno: i32,
}

impl Failure {
    /// Names the step of a failed call.
    pub fn at(step: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let step = step.into();
        move |error| Self { step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// How many descriptors of each kind follow, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// Listeners for TCP.
    pub tcp: usize,
    /// Sockets for DNS.
    pub dns: usize,
    /// The listener of pod-api.
    pub pod_api: usize,
}

/// What becomes of a command: five bytes, a kind and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecEvent {
    /// It runs.
    Started,
    /// The program, its arguments or its directory cannot be used: `errno`.
    Failed(i32),
    /// The pod could not run any command: `errno`.
    Broken(i32),
    /// It ended: status as of wait(2).
    Exited(i32),
}

impl ExecEvent {
    /// Its bytes.
    pub fn encode(self) -> [u8; 5] {
        let (kind, number) = match self {
            Self::Started => (b'S', 0),
            Self::Failed(errno) => (b'F', errno),
            Self::Broken(errno) => (b'B', errno),
            Self::Exited(status) => (b'E', status),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [kind, a, b, c, d]
    }

    /// Reads them back.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [kind, a, b, c, d] = *bytes else { return None };
        let number = i32::from_le_bytes([a, b, c, d]);
        match kind {
            b'S' => Some(Self::Started),
            b'F' => Some(Self::Failed(number)),
            b'B' => Some(Self::Broken(number)),
            b'E' => Some(Self::Exited(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_event_reads_back_as_it_was_written() {
        for event in [ExecEvent::Started, ExecEvent::Failed(2), ExecEvent::Broken(11), ExecEvent::Exited(-7)]
        {
            assert_eq!(ExecEvent::decode(&event.encode()), Some(event));
        }
        assert_eq!(ExecEvent::decode(b"X\0\0\0\0"), None);
        assert_eq!(ExecEvent::decode(b"S"), None);
    }
}
