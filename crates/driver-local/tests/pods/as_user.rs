//! Runs this test program again as an ordinary user, when it runs as root.

use std::os::unix::{fs::PermissionsExt, process::CommandExt};

use crate::common::stand_in;

/// An id that no account of a Debian machine has.
const USER: u32 = 48_879;

#[test]
fn all_of_this_holds_for_an_ordinary_user_too() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Copies, since the build's directory may be closed to others.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &std::path::Path, name: &str| {
        let to = dir.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let stand_in = copy(&stand_in(), "stand-in");
    let own = dir.path().join("tmp");
    std::fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(USER), Some(USER)).unwrap();
    let status = std::process::Command::new(tests)
        .uid(USER)
        .gid(USER)
        .current_dir(&own)
        .env("TMPDIR", &own)
        .env("FREEHOLD_TEST_STAND_IN", stand_in)
        .status()
        .unwrap();
    assert!(status.success(), "the tests fail as an ordinary user; see above");
}
