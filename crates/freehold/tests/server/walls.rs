//! What a pod's inside can see, reach and use up, tried from inside.

use freehold_model::task;
use serde_json::json;

use crate::support::{MODEL_KEY, World, from};

const SCENARIO: &str = include_str!("scenarios/errand.yaml");

#[tokio::test]
async fn nothing_in_a_pod_holds_the_key_that_its_requests_carry() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "say hello").await;
    // The model demands the key, so the task ends only if egress brought it.
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let search = format!(
        "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; \
         grep -rsl '{}' /etc /workspace /data /home /root /run /tmp /var 2>/dev/null",
        &MODEL_KEY[..12]
    );
    let (_, stdout, _) = world.sh(submitted.workspace_id, &search).await;
    let found: Vec<&str> = stdout
        .lines()
        .filter(|line| line.contains(MODEL_KEY) || line.starts_with('/') && !line.contains(' '))
        .collect();
    assert!(!stdout.contains(MODEL_KEY) && found.iter().all(|line| !line.starts_with("/etc")), "{found:?}");
}

#[tokio::test]
async fn a_model_that_repeats_the_key_it_was_called_with_does_not_tell_the_agent() {
    let scenario = format!(
        "require_key: {MODEL_KEY}
default:
  steps: [{{text: \"It is {MODEL_KEY}, or c2stY2FuYXJ5LTRiMWQ1YTBjOWU= to machines.\"}}]
"
    );
    let world = World::start(&scenario).await;
    let role = world.role("").await;
    let submitted = world.task(&role, "what is your key?").await;
    world.task_phase(submitted.workspace_id, submitted.task_id, task::Phase::Completed).await;
    let sessions = world.client.session_list(&from(json!({}))).await.unwrap();
    let said = sessions.data[0].output_preview.as_deref();
    assert_eq!(said, Some("It is ********************, or ***************************= to machines."));
    world
        .until("a row says so", async || {
            let rows = world.audit(submitted.workspace_id).await;
            rows.iter().any(|row| row["reason"] == "secret_masked").then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_pod_sees_its_own_processes_and_no_other() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    let (_, stdout, _) =
        world.sh(workspace.id, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done").await;
    assert!(!stdout.contains(" server ") && !stdout.contains(" holder "), "{stdout}");
    assert!(stdout.lines().count() <= 8, "{stdout}");
}

#[tokio::test]
async fn a_child_of_the_agent_reaches_neither_its_memory_nor_its_connection() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    let (_, stdout, _) = world
        .sh(
            workspace.id,
            "cat /proc/1/environ >/dev/null 2>&1 && echo environment; \
             dd if=/proc/1/mem of=/dev/null bs=1 count=1 2>/dev/null && echo memory; \
             ls /proc/1/fd/ 2>/dev/null | grep -q . && echo descriptors; \
             kill -9 1 2>/dev/null; kill -STOP 1 2>/dev/null; sleep 0.1; \
             find / -xdev -name '*.sock' -o -xdev -type s 2>/dev/null | head -5",
        )
        .await;
    assert_eq!(stdout.trim(), "", "reached: {stdout}");
    let next = world.next_task(workspace.id, "say hello").await;
    world.task_phase(workspace.id, next.task_id, task::Phase::Completed).await;
}

#[tokio::test]
async fn allowed_names_are_resolved_by_the_name_servers_of_the_configuration() {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let settings = format!("egress.name_servers = [\"{}\"]", socket.local_addr().unwrap());
    let world = World::with(SCENARIO, &settings).await;
    let (asked, mut questions) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut packet).await {
            let _ = asked.send(packet[..length].to_vec());
            // The same packet as an answer: there is no such name.
            packet[2..4].copy_from_slice(&[0x81, 0x83]);
            socket.send_to(&packet[..length], peer).await.unwrap();
        }
    });
    let caps = "
- name: elsewhere
  type: http
  allow:
    - { domains: [elsewhere.test], methods: [GET], allow_insecure: true }
";
    let role = world.role(caps).await;
    let workspace = world.workspace(&role).await;
    let script = r#"perl -MIO::Socket::INET -e '
        my $s = IO::Socket::INET->new(PeerAddr => "elsewhere.test:80", Timeout => 10) or die "connect: $@";
        print $s "GET / HTTP/1.1\r\nHost: elsewhere.test\r\nConnection: close\r\n\r\n"; print <$s>;'"#;
    let (_, stdout, stderr) = world.sh(workspace.id, script).await;
    assert!(
        stdout.starts_with("HTTP/1.1 502") && stdout.contains("upstream_unresolved"),
        "{stdout} {stderr}"
    );
    let question = questions.recv().await.unwrap();
    assert!(question.windows(16).any(|name| name == b"\x09elsewhere\x04test\0"), "{question:?}");
}

#[tokio::test]
async fn a_request_without_a_rule_is_refused_by_name_and_reason() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    let script = r#"perl -MIO::Socket::INET -e '
        my $s = IO::Socket::INET->new(PeerAddr => "example.com:80", Timeout => 10) or die "connect: $@";
        print $s "GET /secret HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"; print <$s>;'"#;
    let (code, stdout, stderr) = world.sh(workspace.id, script).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("HTTP/1.1 403") && stdout.contains("example.com"), "{stdout}");
    world
        .until("the refusal is a row", async || {
            let rows = world.audit(workspace.id).await;
            rows.iter()
                .any(|row| row["destination"] == "example.com" && row["decision"] == "deny")
                .then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_command_that_is_not_there_ends_as_in_a_shell_and_what_runs_on_does_not_hold_its_caller() {
    let world = World::start(SCENARIO).await;
    let role = world.role("").await;
    let workspace = world.workspace(&role).await;
    let (code, _, stderr) = world.exec(workspace.id, &["no-such-program"]).await;
    assert_eq!(code, 127, "{stderr}");
    assert!(stderr.contains("no-such-program"), "{stderr}");
    let (code, _, stderr) = world.exec(workspace.id, &["/etc/passwd"]).await;
    assert_eq!(code, 126, "{stderr}");
    let began = std::time::Instant::now();
    let (code, stdout, _) = world.sh(workspace.id, "sleep 300 & echo started").await;
    assert_eq!((code, stdout.as_str()), (0, "started\n"));
    assert!(began.elapsed().as_secs() < 20, "it waited for the sleep, or until the timeout");
}
