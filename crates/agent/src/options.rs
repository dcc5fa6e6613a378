//! What the agent is told by its command line and its environment, read in one place.

use std::{
    ffi::OsString,
    os::fd::RawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use freehold_driver::{
    AGENT_POD_API_FD, AGENT_TOOL_RLIMITS_VARIABLE, AGENT_TOOL_UID_VARIABLE, AGENT_TOOLS_CGROUP_FDS_VARIABLE,
    TRUST_ENVIRONMENT,
};
use freehold_model::PodId;
use rustix::process::Resource;
use url::Url;

/// The variable that names the pod.
pub const POD_ID_VARIABLE: &str = "FREEHOLD_POD_ID";

/// How long the present step may go on after a cancellation, or the wrapping up after the task's time is over.
const CANCEL_GRACE_DEFAULT: Duration = Duration::from_secs(30);

/// The argument that makes this program the tool host.
pub(crate) const TOOL_HOST: &str = "tool-host";

/// What tools get of the agent's environment, beside what leads to the trusted certificates.
const TOOL_ENVIRONMENT: [&str; 9] =
    ["PATH", "HOME", "USER", "SHELL", "LANG", "LC_ALL", "TERM", "TZ", "TMPDIR"];

/// What tools get where the agent's environment says nothing.
const TOOL_ENVIRONMENT_DEFAULTS: [(&str, &str); 3] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
];

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument is not known.
    #[error("unknown argument `{0}`")]
    Argument(String),
    /// An argument has no value, or a bad one.
    #[error("`{0}` needs a valid value")]
    Value(&'static str),
    /// A variable is absent or has a bad value.
    #[error("the variable {0} is absent or malformed")]
    Variable(&'static str),
}

/// How this process runs.
#[derive(Debug)]
pub(crate) enum Mode {
    /// As the agent.
    Agent(Box<Options>),
    /// As the tool host.
    ToolHost,
}

/// What the agent is told.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) pod_id: PodId,
    pub(crate) pod_api: PathBuf,
    /// Instead of `https://` and the provider's domain: for tests and trials without egress.
    pub(crate) model_url: Option<Url>,
    /// Where files that come with tasks are put, under `uploads/`.
    pub(crate) data: PathBuf,
    pub(crate) trust_file: Option<PathBuf>,
    /// How long the present step may go on after a cancellation.
    pub(crate) cancel_grace: Duration,
    pub(crate) tool_uid: Option<u32>,
    pub(crate) tool_cgroups: Vec<RawFd>,
    pub(crate) tool_rlimits: Vec<(Resource, u64)>,
    pub(crate) tool_environment: Vec<(String, String)>,
}

/// Reads the command line after `freehold agent`.
pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Mode, Error> {
    let mut arguments = arguments.into_iter();
    let mut pod_api = Path::new("/proc/self/fd").join(AGENT_POD_API_FD.to_string());
    let mut model_url = None;
    let mut data = PathBuf::from("/data");
    let mut cancel_grace = CANCEL_GRACE_DEFAULT;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some(TOOL_HOST) => return Ok(Mode::ToolHost),
            Some("--pod-api") => pod_api = arguments.next().ok_or(Error::Value("--pod-api"))?.into(),
            Some("--data") => data = arguments.next().ok_or(Error::Value("--data"))?.into(),
            Some("--model-url") => {
                let url = arguments.next().and_then(|url| url.to_str()?.parse().ok());
                model_url = Some(url.ok_or(Error::Value("--model-url"))?);
            }
            Some("--cancel-grace-ms") => {
                let grace = arguments.next().and_then(|grace| grace.to_str()?.parse().ok());
                cancel_grace = Duration::from_millis(grace.ok_or(Error::Value("--cancel-grace-ms"))?);
            }
            _ => return Err(Error::Argument(argument.to_string_lossy().into_owned())),
        }
    }
    let pod_id = variable(POD_ID_VARIABLE).and_then(|id| id.parse().ok());
    let tool_uid = variable(AGENT_TOOL_UID_VARIABLE).map(|uid| uid.parse());
    let cgroups = variable(AGENT_TOOLS_CGROUP_FDS_VARIABLE).unwrap_or_default();
    let cgroups =
        cgroups.split(',').filter(|number| !number.is_empty()).map(str::parse).collect::<Result<_, _>>();
    let rlimits = variable(AGENT_TOOL_RLIMITS_VARIABLE).unwrap_or_default();
    Ok(Mode::Agent(Box::new(Options {
        pod_id: pod_id.ok_or(Error::Variable(POD_ID_VARIABLE))?,
        pod_api,
        model_url,
        data,
        trust_file: trust_file(),
        cancel_grace,
        tool_uid: tool_uid.transpose().map_err(|_| Error::Variable(AGENT_TOOL_UID_VARIABLE))?,
        tool_cgroups: cgroups.map_err(|_| Error::Variable(AGENT_TOOLS_CGROUP_FDS_VARIABLE))?,
        tool_rlimits: parse_rlimits(&rlimits).ok_or(Error::Variable(AGENT_TOOL_RLIMITS_VARIABLE))?,
        tool_environment: tool_environment(),
    })))
}

/// The file of trusted certificates, as `OpenSSL` programs find it.
pub(crate) fn trust_file() -> Option<PathBuf> {
    variable("SSL_CERT_FILE").map(PathBuf::from)
}

fn tool_environment() -> Vec<(String, String)> {
    let names = TOOL_ENVIRONMENT.iter().chain(TRUST_ENVIRONMENT);
    let value = |name: &str| {
        let default = || TOOL_ENVIRONMENT_DEFAULTS.iter().find(|(known, _)| *known == name);
        variable(name).or_else(|| default().map(|(_, value)| (*value).to_owned()))
    };
    names.filter_map(|name| Some(((*name).to_owned(), value(name)?))).collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the agent's entry point reads its environment here and nowhere else"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn parse_rlimits(text: &str) -> Option<Vec<(Resource, u64)>> {
    let parse = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let resource = match name {
            "nproc" => Resource::Nproc,
            "as" => Resource::As,
            "data" => Resource::Data,
            "fsize" => Resource::Fsize,
            "nofile" => Resource::Nofile,
            "core" => Resource::Core,
            _ => return None,
        };
        Some((resource, value.parse().ok()?))
    };
    text.split(',').filter(|pair| !pair.is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_tools_are_read_strictly() {
        assert_eq!(
            parse_rlimits("nproc=480,as=2147483648"),
            Some(vec![(Resource::Nproc, 480), (Resource::As, 2_147_483_648)])
        );
        assert_eq!(parse_rlimits(""), Some(Vec::new()));
        for bad in ["nproc", "nproc=", "nproc=x", "cpu=1", "nproc=1;as=2", "nproc=-1"] {
            assert_eq!(parse_rlimits(bad), None, "{bad}");
        }
    }
}
