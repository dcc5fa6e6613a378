//! Bombs and hogs stay within their pod.

use freehold_driver::{Enforcement, Limits, PodDriver, PodSpec};

use crate::common::{Agent, Machine, machine, spec};

async fn limited(limits: Limits) -> (Machine, PodSpec, Agent) {
    let machine = machine().await;
    let spec = PodSpec { limits, ..spec() };
    machine.driver.ensure(&spec).await.unwrap();
    let agent = machine.agent(spec.pod_id).await;
    (machine, spec, agent)
}

#[tokio::test]
async fn a_fork_bomb_is_contained_and_the_agent_still_starts_tools() {
    let (machine, spec, mut agent) = limited(Limits { processes: 60, ..spec().limits }).await;
    assert_eq!(machine.enforcement("processes"), Enforcement::Enforced);
    let bomb = "perl -e 'my $n = 0; while (1) { my $pid = fork; last unless defined $pid; if (!$pid) { close STDOUT; close STDERR; sleep 1000; exit } $n++ } print $n'";
    let (code, out) = machine.sh(&spec, bomb).await;
    let forks: u32 = out.parse().unwrap_or_else(|_| panic!("{code:?} {out}"));
    assert!((5..60).contains(&forks), "{forks} processes");
    // What the bomb made still sleeps.
    assert_eq!(agent.ask("tool echo still"), "0 still\\n", "the agent starts a tool");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_memory_hog_is_killed_and_the_agent_is_not() {
    let (machine, spec, mut agent) = limited(Limits { memory_bytes: 96 << 20, ..spec().limits }).await;
    machine.enforcement("memory");
    let (code, _) = machine.sh(&spec, "perl -e 'my $x = q(x) x (300 << 20); print length $x'").await;
    assert_ne!(code, Some(0));
    assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn many_small_hogs_are_killed_too() {
    let (machine, spec, mut agent) = limited(Limits { memory_bytes: 128 << 20, ..spec().limits }).await;
    machine.enforcement("memory");
    let hogs = "perl -e 'for (1..8) { next if fork; close STDOUT; close STDERR; my $x = q(x) x (40 << 20); sleep 1000 } my $killed = 0; $killed++ if wait > 0 && $? & 127; print $killed'; pkill perl";
    let (_, out) = machine.sh(&spec, hogs).await;
    assert!(out.starts_with('1'), "{out}");
    assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

/// Runs a hog of 400 MiB in a pod that may have 96.
async fn is_contained(hog: &str) {
    let limits = Limits { memory_bytes: 96 << 20, tmp_bytes: 1 << 30, ..spec().limits };
    let (machine, spec, mut agent) = limited(limits).await;
    machine.enforcement("memory");
    let (code, out) = machine.sh(&spec, hog).await;
    assert_ne!(code, Some(0), "{out}");
    assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_hog_of_files_in_memory_is_contained() {
    is_contained("/opt/freehold/freehold hog memfd 400").await;
}

#[tokio::test]
async fn a_hog_of_shared_mappings_is_contained() {
    is_contained("/opt/freehold/freehold hog shared 400").await;
}

#[tokio::test]
async fn a_hog_of_system_v_segments_is_contained() {
    is_contained("/opt/freehold/freehold hog sysv 400").await;
}

#[tokio::test]
async fn hogs_without_a_first_thread_are_contained() {
    is_contained("/opt/freehold/freehold hog leaderless 400").await;
    is_contained("/opt/freehold/freehold hog leaderless-private 400").await;
}

#[tokio::test]
async fn a_hog_of_files_in_memory_that_are_mapped_and_not_open_is_contained() {
    is_contained("/opt/freehold/freehold hog mapped 400").await;
}

#[tokio::test]
async fn a_hog_of_page_tables_is_contained() {
    is_contained("exec /opt/freehold/freehold hog page-tables 400").await;
}

#[tokio::test]
async fn hogs_of_the_buffers_of_sockets_are_contained() {
    for hog in ["sockets", "left-in-sockets", "left-datagrams"] {
        is_contained(&format!("/opt/freehold/freehold hog {hog} 400")).await;
    }
}

#[tokio::test]
async fn a_hog_of_connections_that_nobody_accepts_is_contained() {
    is_contained("/opt/freehold/freehold hog connections 400").await;
}

#[tokio::test]
async fn a_hog_of_pipes_is_contained() {
    is_contained("/opt/freehold/freehold hog pipes 400").await;
}

#[tokio::test]
async fn pipes_and_sockets_in_use_cost_nobody_a_process() {
    let limits = Limits { memory_bytes: 128 << 20, ..spec().limits };
    let (machine, spec, _agent) = limited(limits).await;
    // Some hundred of each, and as much as fits through them.
    let script = r#"
        use Socket; my @open;
        for (1 .. 200) { pipe my $r, my $w or die; socketpair my $a, my $b, AF_UNIX, SOCK_STREAM, 0 or die;
            syswrite $w, "x" x 4096; syswrite $a, "x" x 4096; push @open, $r, $w, $a, $b }
        select undef, undef, undef, 1.5; print scalar @open"#;
    let (code, out) = machine.sh(&spec, &format!("perl -e '{}'", script.replace('\'', "\""))).await;
    assert_eq!((code, out.as_str()), (Some(0), "800"));
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn tools_have_a_limit_of_open_files() {
    let (machine, spec, mut agent) = limited(spec().limits).await;
    let most = |text: &str| text.trim().parse::<u64>().unwrap_or_else(|_| panic!("{text}"));
    let (_, out) = machine.sh(&spec, "ulimit -Hn").await;
    // The rest is for the server and holders, whose user it may be.
    let half =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.map_or(u64::MAX, |all| all / 2);
    assert!(most(&out) <= half.min(16_384), "{out}");
    let of_agents_tool = agent.ask("tool ulimit -Hn");
    assert!(most(of_agents_tool.trim_start_matches("0 ").trim_end_matches("\\n")) <= 16_384);
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn what_the_machine_has_a_number_of_a_pod_has_a_smaller_number_of() {
    let (machine, spec, _agent) = limited(spec().limits).await;
    let (_, out) = machine.sh(&spec, "/opt/freehold/freehold hog numbers").await;
    assert_eq!(out, "64 32 16\n");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_hog_of_events_to_wait_for_is_contained() {
    let (machine, spec, mut agent) = limited(spec().limits).await;
    // Elsewhere the kernel counts their memory as the pod's, and has a number of them for all pods.
    if machine.enforcement("memory") == Enforcement::BestEffort {
        let (code, out) = machine.sh(&spec, "exec /opt/freehold/freehold hog epolls").await;
        assert_eq!(code, None, "it was killed: {out}");
        assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_hog_behind_many_descriptors_is_contained() {
    is_contained("ulimit -n 5000 && exec /opt/freehold/freehold hog descriptors 400").await;
}

#[tokio::test]
async fn a_hog_of_files_on_file_systems_in_memory_is_contained() {
    // It pauses, so that a watch that looks now and then sees it.
    is_contained("i=0; while [ $i -lt 100 ]; do head -c 4194304 /dev/zero > /dev/shm/$i || exit 1; i=$((i+1)); sleep 0.05; done").await;
}

/// Makes files of no length in a directory until it fails, and then says how many there are.
fn empty_files(directory: &str, most: u32) -> String {
    let name = "n".repeat(200);
    format!(
        r#"perl -e 'my $n = 0; for (1 .. {most}) {{ open my $f, ">", "{directory}/{name}$_" or last; $n++ }} print $n'"#
    )
}

#[tokio::test]
async fn file_systems_in_memory_have_a_number_of_files() {
    let (machine, spec, _agent) = limited(Limits { tmp_bytes: 4 << 20, ..spec().limits }).await;
    for directory in ["/tmp", "/dev/shm"] {
        let (_, made) = machine.sh(&spec, &empty_files(directory, 20_000)).await;
        assert!((16_000..=16_384).contains(&made.parse().unwrap_or(0)), "{directory}: {made}");
    }
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_hog_of_empty_files_is_contained() {
    let [tmp, shm] = ["/tmp", "/dev/shm"].map(|directory| empty_files(directory, 65_000));
    is_contained(&format!("{tmp} && {shm} && sleep 30")).await;
}

#[tokio::test]
async fn memory_that_processes_share_counts_once() {
    let limits = Limits { memory_bytes: 256 << 20, ..spec().limits };
    let (machine, spec, _agent) = limited(limits).await;
    machine.enforcement("memory");
    // Twelve that map the same 40 MiB: it is read by all, and none is killed.
    let script = r#"
        open my $file, "+>", "/dev/shm/common" or die; syswrite $file, "x" x (40 << 20);
        for (1 .. 12) { next if fork; sleep 2; exit }
        my $bad = 0; while (wait > 0) { $bad++ if $? } exit $bad"#;
    let (code, out) = machine.sh(&spec, &format!("perl -e '{}'", script.replace('\'', "\""))).await;
    assert_eq!(code, Some(0), "{out}");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_maker_of_very_many_files_is_stopped() {
    let (machine, spec, mut agent) = limited(Limits { disk_bytes: 16 << 20, ..spec().limits }).await;
    let make = r#"for my $i (0 .. 400_000) { open my $f, ">", "f$i" or die; select undef, undef, undef, 0.05 unless $i % 1000 }"#;
    let (code, out) = machine.sh(&spec, &format!("perl -e '{make}'")).await;
    assert_eq!(code, None, "it was killed: {out}");
    assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn tmp_has_a_size() {
    let (machine, spec, _agent) = limited(Limits { tmp_bytes: 4 << 20, ..spec().limits }).await;
    let (code, out) = machine.sh(&spec, "head -c 8000000 /dev/zero > /tmp/file").await;
    assert_ne!(code, Some(0));
    assert!(out.contains("No space left"), "{out}");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn space_on_disk_is_written_and_not_reserved() {
    let (machine, spec, _agent) = limited(spec().limits).await;
    let (_, out) = machine
        .sh(&spec, "fallocate -l 1M given 2>&1; fallocate -x -l 1M written && stat -c %b written")
        .await;
    assert!(out.contains("not supported"), "{out}");
    assert!(out.ends_with("2048\n"), "{out}");
    let (code, out) = machine.sh(&spec, "fallocate -p -o 0 -l 512K written && stat -c %b written").await;
    assert_eq!((code, out.as_str()), (Some(0), "1024\n"));
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_hides_its_files_is_stopped_too() {
    let (machine, spec, mut agent) = limited(Limits { disk_bytes: 16 << 20, ..spec().limits }).await;
    let hide = r#"my @open; for my $i (0 .. 399) {
        open my $file, '>', "hidden$i" or die; unlink "hidden$i";
        syswrite $file, "x" x 4_000_000; push @open, $file; select undef, undef, undef, 0.05 }"#;
    let (code, out) = machine.sh(&spec, &format!("perl -e '{}'", hide.replace('\'', "\""))).await;
    assert_eq!(code, None, "it was killed: {out}");
    assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_fills_the_disk_is_stopped() {
    let (machine, spec, mut agent) = limited(Limits { disk_bytes: 16 << 20, ..spec().limits }).await;
    assert_eq!(machine.enforcement("disk"), Enforcement::BestEffort);
    let (code, out) = machine
        .sh(
            &spec,
            "i=0; while [ $i -lt 400 ]; do head -c 4000000 /dev/zero > file$i; i=$((i+1)); sleep 0.05; done",
        )
        .await;
    assert_ne!(code, Some(0), "{out}");
    let (code, out) = machine.sh(&spec, "rm file*").await;
    assert_eq!(code, Some(0), "one may still remove files: {out}");
    assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    machine.driver.delete(spec.pod_id).await.unwrap();
}

#[tokio::test]
async fn hidden_files_of_a_process_without_a_first_thread_and_mapped_ones_count() {
    for hog in ["mapped-on-disk", "leaderless-on-disk"] {
        let (machine, spec, mut agent) = limited(Limits { disk_bytes: 16 << 20, ..spec().limits }).await;
        let (code, out) = machine.sh(&spec, &format!("exec /opt/freehold/freehold hog {hog} 100")).await;
        assert_eq!(code, None, "it was killed: {hog} {out}");
        assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
        machine.driver.delete(spec.pod_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_in_a_directory_that_it_closed_is_stopped() {
    let (machine, spec, mut agent) = limited(Limits { disk_bytes: 16 << 20, ..spec().limits }).await;
    // No file alone is above the limit of one file's size, and it goes on writing when the watch has seen enough.
    let write = r#"mkdir h; exec 3>h/3 4>h/4 5>h/5 6>h/6 7>h/7 8>h/8 9>h/9; chmod 0 h; i=0
        while [ $i -lt 600 ]; do for to in 3 4 5 6 7 8 9; do head -c 20000 /dev/zero >&$to || exit 1; done; i=$((i+1)); sleep 0.05; done"#;
    let (code, out) = machine.sh(&spec, write).await;
    assert_ne!(code, Some(0), "{out}");
    assert!(agent.ask("environment").contains("GREETING"), "the agent still answers");
    machine.driver.delete(spec.pod_id).await.unwrap();
}
