//! The real program at a shell: its environment, its streams, its terminal. No server runs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on shows why and ends")]

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{ffi::OsStringExt, process::ExitStatusExt},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A command with a home of its own and nothing of this environment's settings.
fn freehold(home: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.env("HOME", home.path()).env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME");
    command.env_remove("FREEHOLD_URL").env_remove("FREEHOLD_API_KEY").stdin(Stdio::null());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An HTTP server that answers every request with this, and hands the first head it got to the test.
fn answers(body: &'static str) -> (String, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (heads, heard) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = head(&stream);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _gone = stream.write_all(answer.as_bytes());
            let _nobody = heads.send(head);
        }
    });
    (url, heard)
}

/// The head of one request.
fn head(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).map(|line| line + "\n").collect()
}

const ME: &str = r#"{"user_id": "system", "org_id": "org_01933b5a000070008000000000000001", "email": "", "role": "",
    "permissions": [], "memberships": []}"#;

#[test]
fn a_variable_that_nothing_reads_is_refused_with_the_one_that_was_meant() {
    let home = tempfile::tempdir().unwrap();
    for verb in [&["config", "show"][..], &["whoami"]] {
        let refused = freehold(&home).args(verb).env("FREEHOLD_LISTEN", "127.0.0.1:1").output().unwrap();
        assert!(!refused.status.success());
        let said = said(&refused);
        assert!(
            said.contains("FREEHOLD_LISTEN") && said.contains("did you mean FREEHOLD_SERVER__LISTEN?"),
            "{said}"
        );
    }
    let shown =
        freehold(&home).args(["config", "show"]).env("FREEHOLD_LOG__FILTER", "warn").output().unwrap();
    assert!(shown.status.success(), "{}", said(&shown));
}

#[test]
fn a_password_on_the_command_line_is_warned_of_and_not_repeated() {
    let home = tempfile::tempdir().unwrap();
    for (url, warned) in [("postgres://u:hunter2@db.test/x", true), ("postgres://u@db.test/x", false)] {
        let shown = freehold(&home).args(["config", "show", "--database-url", url]).output().unwrap();
        assert!(shown.status.success());
        assert_eq!(said(&shown).contains("warning: other users"), warned, "{}", said(&shown));
        assert!(
            !said(&shown).contains("hunter2") && !String::from_utf8_lossy(&shown.stdout).contains("hunter2")
        );
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let home = tempfile::tempdir().unwrap();
    let (url, _) = answers(r#"{"agent_roles": []}"#);
    for verb in [
        &["config", "show"][..],
        &["completions", "bash"],
        &["role", "list", "--key", "sk_x", "--output", "json"],
        &["--help"],
    ] {
        let mut child = freehold(&home)
            .args(verb)
            .env("FREEHOLD_URL", &url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Closed before anything can be written.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = said(&output);
        assert!(!said.contains("panicked") && !said.contains("error"), "{verb:?}: {said}");
        assert!(output.status.success(), "{verb:?}: {}", output.status);
    }
}

#[test]
fn words_that_are_no_utf8_are_refused_or_taken_as_names_of_files() {
    let home = tempfile::tempdir().unwrap();
    let odd = || OsString::from_vec(vec![b'a', 0xff, b'b']);
    for arguments in [
        vec![odd()],
        vec!["role".into(), "get".into(), odd()],
        vec!["--output".into(), odd(), "role".into(), "list".into()],
        vec![odd(), "role".into()],
    ] {
        let refused = freehold(&home).args(&arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?} {}", said(&refused));
    }
    let missing = freehold(&home).args(["config", "show", "--config"]).arg(odd()).output().unwrap();
    assert!(said(&missing).contains("there is no configuration file"), "{}", said(&missing));
}

#[test]
fn what_is_typed_at_a_terminal_is_not_shown_and_ctrl_c_leaves_the_terminal_as_it_was() {
    let home = tempfile::tempdir().unwrap();
    let (url, heard) = answers(ME);
    // `script` gives the program a terminal; what that shows comes out of its own standard output. Not every shell outlives
    // a Ctrl-C that ended its command.
    let start = || {
        let line = format!(
            "trap : INT; {} login --url {url}; echo code=$?; stty -a | grep -o -- '-\\?\\becho\\b'",
            env!("CARGO_BIN_EXE_freehold")
        );
        Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .env("HOME", home.path())
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for (typed, code) in [("pt_typed-by-hand\n", "code=0"), ("pt_typed\u{3}", "code=130")] {
        let mut child = start();
        let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut shown = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&shown).contains("not shown while you type") {
            assert_eq!(screen.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        keyboard.write_all(typed.as_bytes()).unwrap();
        screen.read_to_end(&mut shown).unwrap();
        child.wait().unwrap();
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(!shown.contains("pt_typed"), "{shown}");
        assert!(shown.contains(code), "{shown}");
        let last = shown.lines().rev().find(|line| line.contains("echo")).map(str::trim);
        assert_eq!(last, Some("echo"), "{shown}");
    }
    assert!(heard.recv().unwrap().to_ascii_lowercase().contains("authorization: bearer pt_typed-by-hand"));
}

#[test]
fn a_completion_script_is_one_that_its_shell_reads() {
    let home = tempfile::tempdir().unwrap();
    let script = freehold(&home).args(["completions", "bash"]).output().unwrap().stdout;
    let file = home.path().join("freehold.bash");
    std::fs::write(&file, script).unwrap();
    let read = Command::new("bash").arg("-n").arg(&file).output().unwrap();
    assert!(read.status.success(), "{}", said(&read));
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let made = freehold(&home).args(["completions", shell]).output().unwrap();
        assert!(made.status.success(), "{}", said(&made));
        assert!(String::from_utf8_lossy(&made.stdout).contains("stop-workspaces"), "{shell}");
    }
}

#[test]
fn words_too_many_are_refused_with_a_hint_at_quotes() {
    let home = tempfile::tempdir().unwrap();
    for words in [
        &["task", "submit", "--role", "coder", "fix", "the", "tests"][..],
        &["role", "create", "coder", "--provider", "p", "--capabilities", "a.yaml", "b.yaml"],
    ] {
        let refused = freehold(&home).args(words).output().unwrap();
        assert_eq!(refused.status.code(), Some(2));
        assert!(said(&refused).contains("stand in quotes"), "{}", said(&refused));
    }
    let refused = freehold(&home).args(["role", "list", "--unknown"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(!said(&refused).contains("quotes"), "{}", said(&refused));
    assert!(freehold(&home).args(["role", "--help"]).output().unwrap().status.success());
}

#[test]
fn a_machine_without_user_namespaces_is_told_so_at_once_and_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let line = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let mut unshare = Command::new("unshare");
    let unshare = unshare.args(["--user", "--map-current-user", "--keep-caps", "sh", "-c", line]);
    let data = home.path().join("data");
    for verb in [
        &["demo", "--exit"][..],
        &["server", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()],
    ] {
        let began = Instant::now();
        let mut command = Command::new(unshare.get_program());
        command.args(unshare.get_args()).arg(env!("CARGO_BIN_EXE_freehold")).args(verb);
        let refused = command
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = said(&refused);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("this machine cannot run pods"), "{verb:?}: {said}");
        assert!(
            said.contains("hint: the kernel gives out no user namespaces: `sudo sysctl -w user.max_user"),
            "{said}"
        );
        // The demo waits half a minute for a server that says nothing; one that has failed is seen before.
        assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    }
}

#[test]
fn following_that_is_interrupted_exits_with_130() {
    let home = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut child = freehold(&home)
        .args(["activity", "--output", "json"])
        .env("FREEHOLD_URL", &url)
        .env("FREEHOLD_API_KEY", "sk_x")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    head(&stream);
    let event = r#"{"event_type": "of a later version"}"#;
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
    stream
        .write_all(format!("{answer}id: 1\n\nid: 2\nevent: activity\ndata: {event}\n\n").as_bytes())
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), event);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(130), None));
}
