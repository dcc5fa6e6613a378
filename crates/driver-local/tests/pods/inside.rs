//! What can be seen and done from inside a pod: nothing of the host.

use freehold_driver::PodDriver;

use freehold_driver_local::PodRoot;

use crate::common::{Machine, machine, machine_with};

/// The exit status in a stand-in agent's answer.
fn status(answer: &str) -> &str {
    answer.split(' ').next().unwrap()
}

/// Runs what must not work, each by itself, by exec and as the agent's tool. A program that is not there proves nothing:
/// that is said, and one at least must be there.
async fn denied(commands: &[&str]) {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    let mut tried = 0;
    for command in commands {
        let (code, out) = machine.sh(&spec, command).await;
        if code == Some(127) {
            println!("NOT TRIED, for want of the program: {command}");
            continue;
        }
        tried += 1;
        assert_ne!(code, Some(0), "{command} by exec: {out}");
        let answer = agent.ask(&format!("tool {command}"));
        assert!(!["0", "127"].contains(&status(&answer)), "{command} as a tool: {answer}");
    }
    assert_ne!(tried, 0, "nothing could be tried");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

/// Runs what must work, by exec and as the agent's tool.
async fn allowed(command: &str) {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    let (code, out) = machine.sh(&spec, command).await;
    assert_eq!(code, Some(0), "by exec: {out}");
    let answer = agent.ask(&format!("tool {command}"));
    assert_eq!(status(&answer), "0", "as a tool: {answer}");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn no_process_of_the_host_is_visible() {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    let (_, out) = machine.sh(&spec, "ps -eo args --no-headers").await;
    let strangers: Vec<&str> =
        out.lines().filter(|line| !line.starts_with("sh -c") && !line.starts_with("ps ")).collect();
    assert_eq!(strangers, Vec::<&str>::new(), "not even the agent is seen by tools");
    let answer = agent.ask("tool ps -eo args --no-headers | grep -vE '^(/bin/)?(sh -c|ps |grep )'");
    assert_eq!(answer, "1");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn what_of_proc_concerns_the_whole_machine_is_read_only_or_hidden() {
    denied(&[
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo 1 > /proc/sys/kernel/shm_rmid_forced",
        "echo other > /proc/sys/kernel/hostname",
        "echo s > /proc/sysrq-trigger",
        "head -c 1 /proc/kcore | grep -q .",
        "cat /proc/keys /proc/timer_list | grep -q .",
        "ls -A /proc/acpi /proc/scsi 2>/dev/null | grep -v : | grep -q .",
        "umount /proc/sys",
    ])
    .await;
}

#[tokio::test]
async fn proc_is_as_closed_after_the_agent_was_started_again() {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    agent.tell("exit 1");
    machine.agent(spec.pod_id).await;
    let (code, out) =
        machine.sh(&spec, "echo s > /proc/sysrq-trigger || echo 1 > /proc/sys/net/ipv4/ip_forward").await;
    assert_ne!(code, Some(0), "{out}");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn nothing_of_the_hosts_files_is_visible_but_usr() {
    let machine = machine().await;
    let secret = machine.options.state_dir.parent().unwrap().join("secret");
    std::fs::write(&secret, "hidden").unwrap();
    let (spec, _agent) = machine.pod().await;
    let (_, out) = machine.sh(&spec, &format!("cat {}", secret.display())).await;
    assert!(out.contains("No such file"), "{out}");
    let (_, out) =
        machine.sh(&spec, "find /home /root /srv /mnt /var /run /tmp -type f; ls -A /home /root").await;
    assert_eq!(out.lines().filter(|line| !line.is_empty() && !line.ends_with(':')).count(), 0, "{out}");
    let (_, out) = machine.sh(&spec, "ls /").await;
    let expected =
        "bin data dev etc home lib lib32 lib64 libx32 mnt opt proc root run sbin srv tmp usr var workspace";
    for name in out.split_whitespace() {
        assert!(expected.split(' ').any(|one| one == name), "{name} is not of a pod");
    }
    let (code, _) = machine.sh(&spec, "cat /etc/shadow").await;
    assert_ne!(code, Some(0));
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn what_is_written_in_usr_stays_in_the_pod() {
    let machine = machine().await;
    let (spec, _agent) = machine.pod().await;
    let (code, out) = machine
        .sh(
            &spec,
            "echo '#!/bin/sh\necho mine' > /usr/local/bin/mine && chmod +x /usr/local/bin/mine && mine",
        )
        .await;
    assert_eq!((code, out.as_str()), (Some(0), "mine\n"));
    assert!(!std::path::Path::new("/usr/local/bin/mine").exists());
    if rustix::process::geteuid().is_root() && machine.driver.report().sandbox.contains("wholly writable") {
        let (code, out) =
            machine.sh(&spec, "echo changed > /usr/bin/env && rm /usr/bin/awk && cat /usr/bin/env").await;
        assert_eq!((code, out.as_str()), (Some(0), "changed\n"));
        assert!(std::path::Path::new("/usr/bin/awk").exists());
    } else {
        println!("NOT POSSIBLE for this user: changing files of the host's owner in the pod's own copy");
        assert!(machine.driver.report().sandbox.contains("added to and not changed"));
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn no_secret_is_in_the_environment_and_the_agents_is_not_the_tools() {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    let of_agent = agent.ask("environment");
    assert!(
        of_agent.contains("GREETING=hello") && of_agent.contains("SSL_CERT_FILE=/etc/ssl/certs/"),
        "{of_agent}"
    );
    let (_, out) = machine.sh(&spec, "env; cat /proc/1/environ").await;
    assert!(!out.contains("GREETING") && !out.contains("FREEHOLD_"), "{out}");
    let host =
        std::env::vars_os().filter(|(name, _)| name == "CARGO" || name == "TMPDIR" || name == "CARGO_HOME");
    for (name, _) in host {
        assert!(!out.contains(&format!("\n{}=", name.display())), "{out}");
    }
    let (_, out) = machine.sh(&spec, "cat $SSL_CERT_FILE").await;
    assert_eq!(out, "-----BEGIN CERTIFICATE-----\n");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

/// A root that has little more than a shell, with what that needs.
fn small_root(dir: &std::path::Path) {
    for place in ["bin", "etc"] {
        std::fs::create_dir_all(dir.join(place)).unwrap();
    }
    std::fs::write(dir.join("etc/passwd"), "its own").unwrap();
    std::fs::copy("/bin/sh", dir.join("bin/sh")).unwrap();
    let listed = std::process::Command::new("ldd").arg("/bin/sh").output().unwrap();
    for library in
        String::from_utf8(listed.stdout).unwrap().split_whitespace().filter(|word| word.starts_with('/'))
    {
        let to = dir.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(library, to).unwrap();
    }
}

#[tokio::test]
async fn a_directory_can_be_the_root_of_pods() {
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    small_root(root.path());
    let machine = machine_with(PodRoot::detect(root.path().into())).await;
    its_root_is_its_own(&machine).await;
    assert_eq!(std::fs::read_to_string(root.path().join("etc/passwd")).unwrap(), "its own");
}

/// An image layout whose one layer is a directory's tree.
fn layout(tree: &std::path::Path, layout: &std::path::Path) {
    use sha2::{Digest, Sha256};
    let blob = |bytes: &[u8], media_type: &str| {
        let hex = hex::encode(Sha256::digest(bytes));
        std::fs::write(layout.join("blobs/sha256").join(&hex), bytes).unwrap();
        serde_json::json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    };
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let mut archive =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    archive.append_dir_all(".", tree).unwrap();
    let layer = archive.into_inner().unwrap().finish().unwrap();
    let layer = blob(&layer, "application/vnd.oci.image.layer.v1.tar+gzip");
    let manifest = serde_json::json!({"schemaVersion": 2, "layers": [layer]}).to_string();
    let manifest = blob(manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

#[tokio::test]
async fn an_image_layout_can_be_the_root_of_pods() {
    let (tree, image) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::set_permissions(tree.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    small_root(tree.path());
    layout(tree.path(), image.path());
    let machine = machine_with(PodRoot::detect(image.path().into())).await;
    assert!(machine.driver.report().sandbox.contains("the image in"), "{:?}", machine.driver.report());
    its_root_is_its_own(&machine).await;
}

async fn its_root_is_its_own(machine: &Machine) {
    let (spec, mut agent) = machine.pod().await;
    let read = "read line < /etc/passwd || echo $line; echo changed > /etc/passwd; read line < /etc/resolv.conf; echo $line";
    let (code, out) = machine.sh(&spec, read).await;
    assert_eq!((code, out.as_str()), (Some(0), "its own\nnameserver 10.88.0.1\n"));
    assert_eq!(agent.ask("tool echo x"), "0 x\\n");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn mounting_is_denied() {
    denied(&["mount -t tmpfs none /mnt"]).await;
}

#[tokio::test]
async fn unmounting_is_denied() {
    denied(&["umount -l /proc", "umount -l /opt/freehold/freehold"]).await;
}

#[tokio::test]
async fn a_new_user_namespace_is_denied() {
    denied(&["unshare -U true", "unshare -r true"]).await;
}

#[tokio::test]
async fn other_namespaces_are_denied() {
    denied(&["unshare -n true", "unshare -m true", "nsenter -t 1 -n true"]).await;
}

#[tokio::test]
async fn device_nodes_cannot_be_made() {
    denied(&["mknod /workspace/disk b 254 0", "mknod /workspace/mem c 1 1"]).await;
}

#[tokio::test]
async fn kernel_settings_cannot_be_changed() {
    denied(&[
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "hostname x",
    ])
    .await;
}

#[tokio::test]
async fn a_socket_to_the_host_by_vsock_is_denied() {
    denied(&["perl -e 'socket(my $s, 40, 1, 0) or exit 1'"]).await;
}

#[tokio::test]
async fn the_agents_memory_files_and_channel_are_closed_to_tools() {
    denied(&["cat /proc/1/mem", "cat /proc/1/maps", "ls /proc/1/fd", "cat /proc/1/environ"]).await;
}

#[tokio::test]
async fn the_agent_cannot_be_killed_by_its_tools() {
    let machine = machine().await;
    let (spec, mut agent) = machine.pod().await;
    machine.sh(&spec, "kill -9 1; kill -TERM 1; kill -STOP 1").await;
    agent.ask("tool kill -9 1; kill -STOP 1");
    assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn tools_hold_no_capability() {
    allowed("grep -q 'CapPrm:.0000000000000000' /proc/self/status && grep -q 'CapBnd:.0000000000000000' /proc/self/status && grep -q 'CapAmb:.0000000000000000' /proc/self/status && grep -q 'NoNewPrivs:.1' /proc/self/status && grep -q 'Seccomp:.2' /proc/self/status").await;
}

#[tokio::test]
async fn tools_have_no_descriptors_but_their_own() {
    allowed("ls -l /proc/self/fd > list; cat list; ! grep -qE 'socket|cgroup|/sys|tasks|sock' list && test $(wc -l < list) -le 5").await;
}

#[tokio::test]
async fn ordinary_programs_work() {
    allowed("perl -e 'print 1' && awk 'BEGIN{print 1}' && echo x | sort | head -1 && date && mktemp && touch /workspace/a /data/a /home/a /root/a /etc/a && cat /etc/hosts && getent services http").await;
}

#[tokio::test]
async fn threads_and_pipes_work() {
    allowed("perl -e 'my $pid = fork; exit 0 unless $pid; waitpid $pid, 0; exit $? >> 8' && seq 1 1000 | sort -n | tail -1 | grep -q 1000").await;
}
