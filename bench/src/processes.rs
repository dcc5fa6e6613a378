//! Processes as `/proc` shows them: whose child each is, what it runs, and its share of memory.
//!
//! Memory is PSS: a page that several processes share counts in parts, so that the sum over all is what they take.

use std::{collections::HashMap, fs, io, os::unix::ffi::OsStrExt, path::Path, time::Duration};

/// One process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    parent: u32,
    arguments: Vec<Vec<u8>>,
    name: String,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold anything.
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let arguments = command.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
        Some(Self { pid, parent, arguments, name: name.to_owned() })
    }

    /// What it is in a pod: the subcommand of our own program, else the program's name.
    pub fn kind(&self) -> String {
        let known = |word: &&Vec<u8>| matches!(word.as_slice(), b"holder" | b"agent" | b"tool-host");
        let subcommand = self.arguments.iter().skip(1).take_while(known).last();
        subcommand.map_or_else(|| self.name.clone(), |word| String::from_utf8_lossy(word).into_owned())
    }

    /// Whether it holds a pod that lives below `folder`.
    fn holds_below(&self, folder: &Path) -> bool {
        let folder = folder.as_os_str().as_bytes();
        self.arguments.get(1).is_some_and(|argument| argument == b"holder")
            && self.arguments.iter().any(|argument| argument.starts_with(folder))
    }
}

fn all() -> io::Result<Vec<Process>> {
    let entries = fs::read_dir("/proc")?.flatten();
    Ok(entries.filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?)).collect())
}

/// Ids of the holders of pods below `folder`.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn holders(folder: &Path) -> io::Result<Vec<u32>> {
    Ok(all()?.iter().filter(|process| process.holds_below(folder)).map(|process| process.pid).collect())
}

/// The processes of each pod below `folder`: its holder and all that come from it.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn pods(folder: &Path) -> io::Result<Vec<Vec<Process>>> {
    let all = all()?;
    let mut children: HashMap<u32, Vec<&Process>> = HashMap::new();
    for process in &all {
        children.entry(process.parent).or_default().push(process);
    }
    let holders = all.iter().filter(|process| {
        // A holder that is just making a pod has children of the same command line.
        let of_holder = all.iter().any(|other| other.pid == process.parent && other.holds_below(folder));
        process.holds_below(folder) && !of_holder
    });
    let pod = |holder: &Process| {
        let mut members = vec![holder.clone()];
        let mut next = 0;
        while let Some(process) = members.get(next).map(|process| process.pid) {
            members.extend(children.get(&process).into_iter().flatten().map(|&child| child.clone()));
            next += 1;
        }
        members
    };
    Ok(holders.map(pod).collect())
}

/// A process's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Its proportional share, in bytes.
    pub pss_bytes: u64,
    /// What nobody shares with it, in bytes.
    pub private_bytes: u64,
}

impl Memory {
    /// Reads it.
    ///
    /// # Errors
    /// When the process is gone, or the kernel does not let this user see it.
    pub fn of(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let sum = |names: &[&str]| {
            let kibibytes = text.lines().filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                let value = value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
                names.contains(&name).then_some(value)
            });
            kibibytes.sum::<u64>() * 1024
        };
        Ok(Self { pss_bytes: sum(&["Pss"]), private_bytes: sum(&["Private_Clean", "Private_Dirty"]) })
    }

    /// All that is resident of it, shared pages counted whole, in bytes; none when there is no such process.
    pub fn resident(pid: u32) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
    }
}

/// What a process has used so far, its threads included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time, to the tick of 10 ms.
    pub cpu: Duration,
    /// Pages that the kernel gave it without a disk.
    pub page_faults: u64,
}

impl Used {
    /// Reads it; none when there is no such process.
    pub fn by(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let ticks = number(11)? + number(12)?;
        let cpu = Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second().max(1));
        Some(Self { cpu, page_faults: number(7)? })
    }

    /// The sum of what these processes have used; none of those that are gone.
    pub fn by_all(pids: impl IntoIterator<Item = u32>) -> Self {
        let used = pids.into_iter().filter_map(Self::by);
        used.fold(Self::default(), |sum, used| Self {
            cpu: sum.cpu + used.cpu,
            page_faults: sum.page_faults + used.page_faults,
        })
    }

    /// What was used since then.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            page_faults: self.page_faults.saturating_sub(before.page_faults),
        }
    }
}

/// The CPU time a process has used, its threads included.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    Used::by(pid).map(|used| used.cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_its_own_memory_and_time() {
        let own = std::process::id();
        let memory = Memory::of(own).unwrap();
        assert!(memory.pss_bytes > 100_000 && memory.private_bytes <= memory.pss_bytes);
        assert!(cpu_time(own).is_some() && cpu_time(0).is_none());
        assert!(all().unwrap().iter().any(|process| process.pid == own));
    }
}
