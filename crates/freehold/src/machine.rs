//! What a machine that cannot run pods lacks, and what to do about it. It reads what the kernel says and changes nothing.

use std::{fs, path::Path};

/// How anybody sees whether the kernel gives them the namespaces that pods are made of.
const CHECK: &str = "`unshare --user --net --map-root-user true` must succeed";

/// What to do when no pod can be made; `sys` is `/proc/sys`.
pub fn hint(sys: &Path, is_root: bool) -> String {
    let value = |name: &str| fs::read_to_string(sys.join(name)).ok()?.trim().parse::<u64>().ok();
    if value("user/max_user_namespaces") == Some(0) {
        return format!(
            "the kernel gives out no user namespaces: `sudo sysctl -w user.max_user_namespaces=15000` lets it; {CHECK}"
        );
    }
    if !is_root && value("kernel/unprivileged_userns_clone") == Some(0) {
        return format!(
            "this kernel keeps user namespaces to root: `sudo sysctl -w kernel.unprivileged_userns_clone=1` opens them, \
             or run as root; {CHECK}"
        );
    }
    if !is_root && value("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return format!(
            "AppArmor keeps the rights in user namespaces from programs without a profile (Ubuntu 23.10 and later): \
             `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` lifts that, docs/operations.md has a profile \
             for this program alone, or run as root; {CHECK}"
        );
    }
    format!(
        "pods need user, mount and network namespaces: {CHECK}. A container keeps them from what runs in it unless it was \
         started with rights to make them (docker: --privileged)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &[(&str, &str)], is_root: bool) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in settings {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        hint(dir.path(), is_root)
    }

    #[test]
    fn a_machine_that_keeps_user_namespaces_back_is_told_which_switch_it_is() {
        for (name, value, for_root) in [
            ("user/max_user_namespaces", "0", true),
            ("kernel/unprivileged_userns_clone", "0", false),
            ("kernel/apparmor_restrict_unprivileged_userns", "1", false),
        ] {
            let switch = name.replace('/', ".");
            assert!(of(&[(name, value)], false).contains(&format!("sysctl -w {switch}=")), "{name}");
            assert_eq!(of(&[(name, value)], true).contains(&switch), for_root, "{name}");
        }
        let open = [("user/max_user_namespaces", "96364"), ("kernel/unprivileged_userns_clone", "1")];
        assert!(of(&open, false).starts_with("pods need user, mount and network namespaces"));
        assert!(of(&[], true).contains("container"));
    }
}
