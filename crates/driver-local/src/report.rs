//! Says in words what this machine lets the driver do.

use freehold_driver::{Enforcement, LimitReport, OriginalDestination, Report};

use crate::{
    driver::PodRoot,
    groups::Groups,
    launch,
    plan::{Interception, Make, Users},
};

/// With fewer files for a tool there are few for everybody.
const FILES_ENOUGH: u64 = launch::OPEN_FILES_MAX / 2;

/// How a pod's connections tell where they wanted to go.
pub fn original_destination(interception: Interception) -> OriginalDestination {
    match interception {
        Interception::Tproxy | Interception::Ports => OriginalDestination::LocalAddress,
        Interception::Redirect => OriginalDestination::Netfilter,
    }
}

/// The report for the log at start.
pub fn report(root: &PodRoot, groups: &Groups, make: Make) -> Report {
    let root = match root {
        PodRoot::HostUsr => "this machine's /usr".to_owned(),
        PodRoot::Directory(path) => path.display().to_string(),
        PodRoot::OciLayout(path) => format!("the image in {}", path.display()),
    };
    let users = match make.users {
        Users::Mapped { base } => {
            format!("65536 users of its own from uid {base} on, root file system mapped and wholly writable")
        }
        Users::Shifted { base } => format!(
            "65536 users of its own from uid {base} on; this file system cannot map owners: files of the root can be \
             added to and not changed"
        ),
        Users::Single => {
            "one user, who is yours outside; files of the root that belong to others can be added to and not changed, \
             and agent and tools differ only by what the kernel lets them see"
                .to_owned()
        }
    };
    let interception = match make.interception {
        Interception::Tproxy => "nftables tproxy: every TCP port; other traffic is refused in the pod",
        Interception::Redirect => "nftables redirect, since tproxy is not available: every TCP port",
        Interception::Ports => {
            "listeners on common ports, since nftables is not available to this user: other ports are refused"
        }
    };
    Report {
        driver: "local",
        sandbox: format!("namespaces, overlay over {root}, seccomp; {users}"),
        interception: interception.to_owned(),
        limits: limits(groups),
    }
}

fn limits(groups: &Groups) -> Vec<LimitReport> {
    let by_group =
        |limit, controller: &str, else_by: Enforcement, else_what: &str| match groups.enforces(controller) {
            Ok(by) => LimitReport { limit, enforcement: Enforcement::Enforced, why: by },
            Err(why) => LimitReport { limit, enforcement: else_by, why: format!("{else_what} ({why})") },
        };
    vec![
        by_group(
            "memory",
            "memory",
            Enforcement::BestEffort,
            "a limit for each process, and the holder sums up and kills the largest",
        ),
        by_group("processes", "pids", Enforcement::Enforced, "RLIMIT_NPROC, counted in the pod's user namespace"),
        by_group("cpu", "cpu", Enforcement::Missing, "nothing holds it"),
        LimitReport {
            limit: "disk",
            enforcement: Enforcement::BestEffort,
            why: "the holder sums up the workspace's files and kills tools that go on writing; no project quota is used".into(),
        },
        LimitReport { limit: "tmp", enforcement: Enforcement::Enforced, why: "size of the tmpfs".into() },
        files(launch::open_files()),
    ]
}

/// A tool's descriptors on their way count for its user, whom the server may share with it, and all pods with each other.
fn files(most: u64) -> LimitReport {
    if most < FILES_ENOUGH {
        let why = format!(
            "a tool may open {most} files, half of what this server may; many in use may keep other workspaces waiting: \
             raise the hard limit of open files (LimitNOFILE, ulimit -Hn) to {}",
            launch::OPEN_FILES_MAX * launch::OPEN_FILES_PART
        );
        return LimitReport { limit: "files", enforcement: Enforcement::BestEffort, why };
    }
    let why = format!("RLIMIT_NOFILE of {most} for each tool");
    LimitReport { limit: "files", enforcement: Enforcement::Enforced, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_number_of_open_files_is_told() {
        assert_eq!(files(FILES_ENOUGH - 1).enforcement, Enforcement::BestEffort);
        assert_eq!(files(FILES_ENOUGH).enforcement, Enforcement::Enforced);
    }
}
