//! Which cores a thread may use.

use std::fs;

use anyhow::ensure;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// The cores this thread may use.
///
/// # Errors
/// When the kernel does not say.
pub fn allowed() -> anyhow::Result<Vec<usize>> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Pins this thread, and those that it starts from now on.
///
/// # Errors
/// When it may not use those cores.
pub fn pin_thread(cores: &[usize]) -> anyhow::Result<()> {
    Ok(sched_setaffinity(None, &set(cores)?)?)
}

/// What keeps the only thread of a runtime from sleeping while it waits for bytes.
pub async fn stay_awake() {
    loop {
        tokio::task::yield_now().await;
    }
}

/// Pins all threads of this process, and those that they start from now on.
///
/// # Errors
/// When it may not use those cores.
pub fn pin_process(cores: &[usize]) -> anyhow::Result<()> {
    let set = set(cores)?;
    for thread in fs::read_dir("/proc/self/task")?.flatten() {
        let id = thread.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        // One that has just ended needs no core.
        let _gone = id.map(|id| sched_setaffinity(Some(id), &set));
    }
    Ok(())
}

fn set(cores: &[usize]) -> anyhow::Result<CpuSet> {
    ensure!(!cores.is_empty(), "no core is left");
    let mut set = CpuSet::new();
    cores.iter().for_each(|&core| set.set(core));
    Ok(set)
}
