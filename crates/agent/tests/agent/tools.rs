//! The tools, as the model meets them.

use std::path::{Path, PathBuf};

use crate::support::{Pod, bash, one_answer, results_of, tool, until_gone};
use freehold_model::event::ToolStatus::{Error, Success, Timeout};
use freehold_sim_model::Scenario;
use serde_json::json;

#[tokio::test]
async fn a_shell_keeps_its_state_and_tells_how_commands_end() {
    let results = results_of(&[
        bash("export A=1; b=2; mkdir -p d; cd d; f() { echo \"f $1\"; }"),
        bash("basename $PWD; echo $A $b; f x"),
        bash("echo out; echo err >&2; echo out2; false"),
        bash("if then"),
        bash("echo 'it'\"'\"'s'; cat; read x; echo \"[$x]\""),
        bash("printf 'a\\377b'"),
        bash("sleep 0.3 && echo late & echo early"),
        bash("wait; echo waited"),
    ])
    .await;
    assert_eq!(results[0], (Success, "[no output; exit code 0]".into()));
    assert_eq!(results[1], (Success, "d\n1 2\nf x".into()));
    assert_eq!(results[2], (Error, "out\nerr\nout2\n[exit code 1]".into()));
    assert_eq!(results[3].0, Error);
    assert!(results[3].1.contains("syntax error"), "{}", results[3].1);
    assert_eq!(results[4], (Success, "it's\n[]".into()));
    assert_eq!(results[5], (Success, "a\u{fffd}b".into()));
    assert_eq!(results[6], (Success, "early".into()));
    assert_eq!(results[7], (Success, "late\nwaited".into()));
}

#[tokio::test]
async fn a_command_cannot_forge_its_end() {
    let results = results_of(&[
        bash("for n in 0 1 2 3 4 5 6 7 8 9; do printf '\\nx 0\\n' >&$n; done 2>/dev/null; sleep 0.1; echo real; (exit 4)"),
        bash("echo next"),
    ])
    .await;
    assert!(results[0].1.ends_with("real\n[exit code 4]"), "{}", results[0].1);
    assert_eq!(results[1], (Success, "next".into()));
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_and_the_shell_is_new() {
    let results = results_of(&[
        bash("x=1"),
        tool("bash", json!({"command": "echo begun; sleep 300", "timeout_seconds": 1})),
        bash("echo \"[$x]\""),
        bash("exit 3"),
        bash("echo alive"),
    ])
    .await;
    assert_eq!(results[1].0, Timeout);
    assert!(
        results[1].1.starts_with("begun\n") && results[1].1.contains("timed out after 1 s"),
        "{}",
        results[1].1
    );
    assert_eq!(results[2], (Success, "[]".into()));
    assert!(results[3].0 == Error && results[3].1.contains("exit status: 3"), "{}", results[3].1);
    assert_eq!(results[4], (Success, "alive".into()));
}

#[tokio::test]
async fn long_output_loses_its_middle() {
    let results = results_of(&[bash("head -c 3000000 /dev/zero | tr '\\0' x; echo END")]).await;
    let text = &results[0].1;
    assert!(text.len() < 40_000 && text.starts_with("xxx") && text.ends_with("xxxEND"));
    assert!(text.contains("[... 2967236 bytes of output cut ...]"), "{}", &text[16_000..17_000]);
}

#[tokio::test]
async fn files_are_read_written_and_edited() {
    let results = results_of(&[
        tool("write_file", json!({"path": "new/deep/a.txt", "content": "one\ntwo\nthree\n"})),
        tool("read_file", json!({"path": "new/deep/a.txt", "first_line": 2, "line_count": 1})),
        tool("edit_file", json!({"path": "new/deep/a.txt", "old": "two", "new": "2"})),
        tool("edit_file", json!({"path": "new/deep/a.txt", "old": "e", "new": "E"})),
        tool("edit_file", json!({"path": "new/deep/a.txt", "old": "absent", "new": "E"})),
        tool("edit_file", json!({"path": "new/deep/a.txt", "old": "e", "new": "E", "replace_all": true})),
        tool("read_file", json!({"path": "new/deep/a.txt"})),
        tool("read_file", json!({"path": "nothing"})),
        tool("read_file", json!({"path": "new"})),
        bash("printf 'a\\0b' > binary; mkfifo pipe; chmod 750 new/deep/a.txt; ln -s deep/a.txt new/link"),
        tool("read_file", json!({"path": "binary"})),
        tool("read_file", json!({"path": "pipe"})),
        tool("write_file", json!({"path": "new/link", "content": "through"})),
        bash("stat -c %a new/deep/a.txt; cat new/deep/a.txt; test -L new/link && echo; ls -A new/deep"),
    ])
    .await;
    assert_eq!(results[0].0, Success);
    assert_eq!(results[1].0, Success);
    assert!(results[1].1.starts_with("two\n[more lines follow"), "{}", results[1].1);
    assert_eq!(results[2].0, Success);
    assert!(results[3].0 == Error && results[3].1.contains("occurs 3 times"), "{}", results[3].1);
    assert!(results[4].0 == Error && results[4].1.contains("does not occur"), "{}", results[4].1);
    assert!(results[5].0 == Success && results[5].1.contains("3 places"), "{}", results[5].1);
    assert_eq!(results[6], (Success, "onE\n2\nthrEE\n".into()));
    assert!(results[7].0 == Error && results[7].1.contains("No such file"), "{}", results[7].1);
    assert!(results[8].0 == Error && results[8].1.contains("directory"), "{}", results[8].1);
    assert!(results[10].1.contains("binary file of 3 bytes"), "{}", results[10].1);
    assert!(results[11].1.contains("not a regular file"), "{}", results[11].1);
    assert_eq!(results[12].0, Success);
    assert_eq!(results[13], (Success, "750\nthrough\na.txt".into()));
}

#[tokio::test]
async fn web_fetch_tells_status_headers_and_text() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 8192];
            let length = stream.read(&mut buffer).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let (status, body) = match request.split(' ').nth(1) {
                Some("/denied") => (
                    "403 Forbidden",
                    json!({"error": {"code": "egress_denied", "message": "m", "reason": "no_rule"}})
                        .to_string(),
                ),
                Some("/long") => ("200 OK", "y".repeat(100_000)),
                _ => ("200 OK", request.replace('\r', "")),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nx-from: test\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(body.as_bytes()).await;
        }
    });
    let url = |path: &str| format!("http://{address}{path}");
    let results = results_of(&[
        tool(
            "web_fetch",
            json!({"url": url("/a"), "method": "post", "headers": {"x-mine": "1"}, "body": "hi"}),
        ),
        tool("web_fetch", json!({"url": url("/denied")})),
        tool("web_fetch", json!({"url": url("/long")})),
        tool("web_fetch", json!({"url": "file:///etc/passwd"})),
        tool("web_fetch", json!({"url": url("/"), "method": "CONNECT"})),
        tool("web_fetch", json!({"url": "http://127.0.0.1:1/"})),
    ])
    .await;
    let text = &results[0].1;
    assert!(
        results[0].0 == Success && text.contains("HTTP 200 OK") && text.contains("x-from: test"),
        "{text}"
    );
    assert!(text.contains("POST /a") && text.contains("x-mine: 1") && text.ends_with("hi"), "{text}");
    assert!(
        results[1].0 == Error && results[1].1.contains("does not allow this request (no_rule)"),
        "{}",
        results[1].1
    );
    assert!(
        results[2].0 == Success && results[2].1.len() < 60_000 && results[2].1.contains("only its first")
    );
    assert_eq!((results[3].0, results[4].0, results[5].0), (Error, Error, Error));
    assert!(results[5].1.contains("refused"), "{}", results[5].1);
}

/// A server and the roots its certificate hangs from, made for tests of the model's client.
fn tls_fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../llm/fixtures/tls").join(name)
}

#[tokio::test]
async fn web_fetch_trusts_what_the_pod_trusts_and_nothing_else() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = freehold_sim_model::tls(&tls_fixture("server.pem"), &tls_fixture("server.key")).unwrap();
    let upstream = freehold_sim_model::serve(listener, Scenario::default(), Some(tls)).unwrap();
    let fetch = tool("web_fetch", json!({"url": format!("https://{}/nothing", upstream.address())}));
    for (roots, expected) in [
        (Some("root.pem"), "HTTP 404"),
        (Some("other.pem"), "invalid peer certificate"),
        (None, "invalid peer certificate"),
    ] {
        let mut pod = Pod::prepare(&one_answer(std::slice::from_ref(&fetch))).await;
        let variable = roots.map(|name| ("SSL_CERT_FILE".into(), tls_fixture(name).display().to_string()));
        pod.environment.extend(variable);
        pod.start_server();
        pod.start_agent();
        pod.until_welcome(1).await;
        pod.deliver(|_| {});
        pod.until_idle(1).await;
        assert!(pod.results()[0].1.contains(expected), "{roots:?}: {:?}", pod.results());
    }
}

#[tokio::test]
async fn a_tool_host_that_dies_is_started_anew_and_the_model_is_told() {
    let results = results_of(&[bash("x=1"), bash("kill -9 $PPID; sleep 5"), bash("echo \"[$x]\"")]).await;
    assert!(results[1].0 == Error && results[1].1.contains("was lost"), "{}", results[1].1);
    assert!(results[2].0 == Success && results[2].1.contains("the shell is new"), "{}", results[2].1);
    assert!(results[2].1.ends_with("[]"), "{}", results[2].1);
}

#[tokio::test]
async fn tools_inherit_nothing_of_the_agent_and_cannot_read_it() {
    let results = results_of(&[
        bash("env | grep -c -e SECRET -e FREEHOLD"),
        bash("ls /proc/self/fd | tr '\\n' ' '"),
        bash("grep -e CapEff -e CapPrm -e CapAmb -e NoNewPrivs /proc/self/status | tr -d '\\n\\t'"),
        bash("agent=$(sed 's/.*) . \\([0-9]*\\) .*/\\1/' /proc/$PPID/stat); for p in $PPID $agent; do for f in mem environ fd/0 maps; do head -c1 /proc/$p/$f >/dev/null 2>&1 && echo \"read $p $f\"; done; done; true"),
    ])
    .await;
    assert_eq!(results[0].1, "0\n[exit code 1]");
    // The last is the folder that `ls` reads.
    assert_eq!(results[1].1.trim(), "0 1 2 3");
    let none = "0000000000000000";
    assert_eq!(results[2].1, format!("CapPrm:{none}CapEff:{none}CapAmb:{none}NoNewPrivs:1"));
    assert_eq!(results[3].1, "[no output; exit code 0]");
}

#[tokio::test]
async fn tools_have_their_own_limits() {
    let mut pod = Pod::prepare(&one_answer(&[bash("ulimit -n; ulimit -Hn; ulimit -c")])).await;
    pod.environment.push(("FREEHOLD_TOOL_RLIMITS".into(), "nofile=100,core=0".into()));
    pod.start_server();
    pod.start_agent();
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    assert_eq!(pod.results(), [(Success, "100\n100\n0".to_owned())]);
}

/// A control group for a test, if this machine lets this user make one.
struct Group(PathBuf);

impl Group {
    fn make() -> Option<Self> {
        let name = format!("freehold-test-{}", std::process::id());
        ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].iter().map(|root| Path::new(root).join(&name)).find_map(
            |path| {
                std::fs::create_dir(&path).ok()?;
                let group = Self(path);
                group.procs().exists().then_some(group)
            },
        )
    }

    fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Hands descriptor 7, open for writing on `$TOOLS_GROUP`, to the agent.
const WITH_DESCRIPTOR: [&str; 3] = ["sh", "-c", "exec \"$0\" \"$@\" 7>>\"$TOOLS_GROUP\""];

async fn with_tools_group(path: &Path, command: &str) -> Pod {
    let mut pod = Pod::prepare(&one_answer(&[bash(command)])).await;
    pod.wrapper = WITH_DESCRIPTOR.into();
    pod.environment.push(("TOOLS_GROUP".into(), path.display().to_string()));
    pod.environment.push(("FREEHOLD_TOOLS_CGROUP_FDS".into(), "7".into()));
    pod.start_server();
    pod.start_agent();
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    pod
}

#[tokio::test]
async fn tools_are_in_their_control_group_and_the_agent_is_not() {
    let Some(group) = Group::make() else { return eprintln!("skipped: this user makes no control groups") };
    let mut pod = with_tools_group(&group.procs(), "echo $$ > pid; ls /proc/self/fd | tr '\\n' ' '").await;
    let shell = std::fs::read_to_string(pod.path("pid")).unwrap();
    let agent = pod.agent.as_ref().unwrap().id().to_string();
    let members = std::fs::read_to_string(group.procs()).unwrap();
    assert!(members.lines().any(|pid| pid == shell.trim()), "{shell} is not in {members}");
    assert!(members.lines().all(|pid| pid != agent), "{agent} is in {members}");
    assert_eq!(pod.results()[0].1.trim(), "0 1 2 3");
    pod.kill_agent();
    for pid in members.lines() {
        until_gone(pid).await;
    }
}

#[tokio::test]
async fn tools_that_cannot_join_their_control_group_do_not_run() {
    let pod = with_tools_group(Path::new("/dev/full"), "echo ran").await;
    let (status, text) = &pod.results()[0];
    assert!(*status == Error && !text.contains("ran\n"), "{text}");
}

#[tokio::test]
async fn tools_run_as_their_own_user_or_not_at_all() {
    let mut pod = Pod::prepare(&one_answer(&[bash("id -u; id -g; id -G")])).await;
    pod.environment.push(("FREEHOLD_TOOL_UID".into(), "65534".into()));
    pod.start_server();
    pod.start_agent();
    pod.until_welcome(1).await;
    pod.deliver(|_| {});
    pod.until_idle(1).await;
    let results = pod.results();
    if rustix::process::geteuid().is_root() {
        assert_eq!(results, [(Success, "65534\n65534\n65534".to_owned())]);
    } else {
        assert!(results[0].0 == Error && results[0].1.contains("not permitted"), "{results:?}");
    }
}
