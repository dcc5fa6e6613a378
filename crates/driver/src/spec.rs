//! What a pod shall be, and what was seen of it.

use freehold_model::{PodId, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};

/// Where the platform's trust anchors lie in a pod.
pub const TRUST_ANCHORS_PATH: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Variables that lead common programs to [`TRUST_ANCHORS_PATH`]; set for the agent and its tools.
pub const TRUST_ENVIRONMENT: &[&str] = &[
    "SSL_CERT_FILE",       // OpenSSL, python, ruby, perl, go
    "CURL_CA_BUNDLE",      // curl
    "GIT_SSL_CAINFO",      // git
    "NODE_EXTRA_CA_CERTS", // node
    "REQUESTS_CA_BUNDLE",  // python requests
    "PIP_CERT",            // pip
    "AWS_CA_BUNDLE",       // AWS tools
    "CARGO_HTTP_CAINFO",   // cargo
    "DENO_CERT",           // deno
    // gRPC's own library and what is built on it; it has roots of its own otherwise.
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// The file descriptor on which the agent finds its way to the control plane: an `O_PATH` handle of a unix socket, to
/// be connected to through `/proc/self/fd`. No path in the pod leads there.
pub const AGENT_POD_API_FD: i32 = 3;

/// The agent's variable naming the uid, which is also the gid, that its tools run as. The agent then holds
/// `CAP_SETUID`, `CAP_SETGID` and `CAP_KILL`, as ambient capabilities too: it clears the ambient set before it starts
/// anything, so that a tool keeps none of them. Absent: tools run as the agent's own user, and the agent makes itself
/// non-dumpable; it does that in either case.
pub const AGENT_TOOL_UID_VARIABLE: &str = "FREEHOLD_TOOL_UID";

/// The agent's variable naming open file descriptors, separated by commas: the tools' control groups. A tool's process
/// writes `0` to each before it changes its user. Absent: the kernel enforces no group limit here.
pub const AGENT_TOOLS_CGROUP_FDS_VARIABLE: &str = "FREEHOLD_TOOLS_CGROUP_FDS";

/// The agent's variable with limits that a tool's process sets for itself, soft and hard, before it executes: pairs like
/// `nproc=480,data=2147483648`, with the names `nproc`, `as`, `data`, `fsize`, `nofile` and `core`. Absent: none.
pub const AGENT_TOOL_RLIMITS_VARIABLE: &str = "FREEHOLD_TOOL_RLIMITS";

/// Where an agent finds its own program in a pod, whatever the pod's root is.
pub const AGENT_PROGRAM_PATH: &str = "/opt/freehold/freehold";

/// What a pod shall be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// The pod.
    pub pod_id: PodId,
    /// Whose files it works on.
    pub workspace_id: WorkspaceId,
    /// The desired state this spec comes from.
    pub generation: u64,
    /// What it may use.
    pub limits: Limits,
    /// Certificates (PEM) that programs in the pod trust: the platform CA.
    pub trust_anchors_pem: String,
    /// Environment of the agent, beside what the driver sets.
    pub environment: Vec<(String, String)>,
}

/// What a pod may use. The tools together get a little less of memory and processes, so that they cannot starve the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory, swap included.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub processes: u32,
    /// Thousandths of a CPU.
    pub cpu_millis: u32,
    /// Bytes the workspace may write.
    pub disk_bytes: u64,
    /// Bytes of `/tmp`, which counts as memory.
    pub tmp_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        const GIB: u64 = 1 << 30;
        Self {
            memory_bytes: 2 * GIB,
            processes: 512,
            cpu_millis: 2000,
            disk_bytes: 10 * GIB,
            tmp_bytes: GIB / 2,
        }
    }
}

/// A command to run in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments; the program is looked up in the pod's `PATH`.
    pub argv: Vec<String>,
    /// Where to run it; `/workspace` when absent.
    pub cwd: Option<String>,
    /// Variables beside what the driver sets.
    pub environment: Vec<(String, String)>,
}

/// What a driver saw of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodObservation {
    /// The pod.
    pub pod_id: PodId,
    /// Whose files it works on.
    pub workspace_id: WorkspaceId,
    /// The generation it was made for.
    pub generation: u64,
    /// Whether it runs.
    pub state: PodState,
    /// When this was seen.
    pub seen_at: Timestamp,
}

/// Whether a pod runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// Its sandbox stands and its agent was started.
    Running,
    /// It was there and does not answer yet, so that it cannot be told whether it runs. It is looked at, within a limit of
    /// the driver's, and then is one of the others or gone. Until then nothing else touches its workspace's files.
    Silent,
    /// It ended by itself and cannot serve any more; it wants deleting.
    Ended {
        /// Why, for people.
        reason: String,
    },
}

/// What a machine lets a driver do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The driver.
    pub driver: &'static str,
    /// What pods are made of here, in a line for people.
    pub sandbox: String,
    /// How connections are intercepted here, in a line for people.
    pub interception: String,
    /// Each limit and how far it holds.
    pub limits: Vec<LimitReport>,
}

/// How far a limit holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitReport {
    /// The limit: `memory`, `processes`, `cpu`, `disk`, `tmp`, `files`.
    pub limit: &'static str,
    /// How far.
    pub enforcement: Enforcement,
    /// By what, or why not.
    pub why: String,
}

/// How far a limit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforcement {
    /// The kernel enforces it.
    Enforced,
    /// Something weaker stands in its place.
    BestEffort,
    /// Nothing holds it.
    Missing,
}
