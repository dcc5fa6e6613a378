//! The filter of system calls for everything that runs in a pod.
//!
//! The kernel runs a new filter once for each of its 460 calls, to remember which are always allowed, and translates it to
//! machine code; every program in a pod waits for that before it starts. So calls are looked up by halving (8 steps) and
//! not along a list (60): 0.1 ms instead of 0.3.

use std::{collections::BTreeMap, num::TryFromIntError};

use libc::sock_filter;

/// Calls that no program in a pod needs, and that reach into the kernel's depths.
const DENIED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_name_to_handle_at,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    SET_MEMPOLICY_HOME_NODE,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    // Pages that nobody maps and that lie in a pipe are seen by nobody who sums up memory; splice and write do as well.
    libc::SYS_vmsplice,
];

/// Calls that libraries do without, and that older kernels do not have.
const ABSENT: &[libc::c_long] = &[
    // Its flags lie in memory, where no filter can read them.
    libc::SYS_clone3,
    // Memory that no one can see who sums it up.
    MEMFD_SECRET,
    STATMOUNT,
    LISTMOUNT,
    // The machine has a number of events of this kind, for all users together.
    libc::SYS_io_setup,
];
const QUOTACTL_FD: libc::c_long = 443;
const MEMFD_SECRET: libc::c_long = 447;
const SET_MEMPOLICY_HOME_NODE: libc::c_long = 450;
const STATMOUNT: libc::c_long = 457;
const LISTMOUNT: libc::c_long = 458;
/// Calls from here on (Linux 6.13) are not known here, on any architecture, and absent until they are.
const UNKNOWN_CALLS: u32 = 463;

/// Calls of x86 alone.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[libc::c_long] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[libc::c_long] = &[];

/// Socket families that stay.
const FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
/// Protocols of those families that programs do without, with buffers that are not counted: of several paths, of streams
/// in one (SCTP), of datagrams with a part unchecked and with congestion control.
const UNCOUNTED_PROTOCOLS: &[i32] =
    &[libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP, libc::IPPROTO_UDPLITE, libc::IPPROTO_DCCP];
/// No new namespace of any kind.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWCGROUP;
/// What a process may not do apart from others: a thread with files of its own would hide them from who looks at the
/// process's. In the flags of a new process, `CLONE_NEWTIME` is no flag.
const APART: i32 = NAMESPACES | libc::CLONE_NEWTIME | libc::CLONE_FILES;

/// The kernel's name for the way in which this architecture's calls are numbered.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xC000_00B7;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: u32 = 0xC000_00F3;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Allow,
    /// Not permitted.
    Refuse,
    /// No such call: libraries then do without.
    Absent,
    /// Allowed unless the first argument, on all architectures we build for, has one of [`NAMESPACES`], or is for a thread
    /// with files of its own.
    IfClone,
    /// Allowed unless the first argument has one of [`APART`].
    IfTogether,
    /// Allowed unless the third argument asks for files of the thread's own.
    IfFilesStay,
    /// Allowed when the first argument is one of [`FAMILIES`] and the third none of [`UNCOUNTED_PROTOCOLS`].
    IfFamily,
    /// Allowed unless the second argument is to give a pipe another size.
    IfPipesStay,
    /// Allowed when the first argument is 0, the caller: an agent of the same user has limits too.
    IfOwn,
    /// Allowed when the first argument is this, a process, and the second 0, the caller.
    IfOwnProcess(u32),
    /// Allowed when the second argument is to free a part of a file. Space can be given faster than anybody sums it up;
    /// libraries then write, and are seen.
    IfFrees,
}

/// Calls whose arguments decide.
const CONDITIONAL: &[(libc::c_long, Answer)] = &[
    (libc::SYS_clone, Answer::IfClone),
    (libc::SYS_unshare, Answer::IfTogether),
    (libc::SYS_close_range, Answer::IfFilesStay),
    (libc::SYS_socket, Answer::IfFamily),
    (libc::SYS_socketpair, Answer::IfFamily),
    (libc::SYS_prlimit64, Answer::IfOwn),
    (libc::SYS_fcntl, Answer::IfPipesStay),
    (libc::SYS_fallocate, Answer::IfFrees),
];
/// Calls by which a tool could slow an agent of the same user down, but for itself.
const SCHEDULING: &[(libc::c_long, Answer)] = &[
    (libc::SYS_sched_setaffinity, Answer::IfOwn),
    (libc::SYS_sched_setattr, Answer::IfOwn),
    (libc::SYS_sched_setparam, Answer::IfOwn),
    (libc::SYS_sched_setscheduler, Answer::IfOwn),
    (libc::SYS_setpriority, Answer::IfOwnProcess(PRIO_PROCESS)),
    (libc::SYS_ioprio_set, Answer::IfOwnProcess(IOPRIO_WHO_PROCESS)),
];
const PRIO_PROCESS: u32 = 0;
const IOPRIO_WHO_PROCESS: u32 = 1;
/// Of the modes of `fallocate`, the one that frees; the kernel lets nobody ask for space with it.
const PUNCH_HOLE: u32 = libc::FALLOC_FL_PUNCH_HOLE.cast_unsigned();

/// The program, for a little-endian machine. With `one_user`, agent and tools are the same.
pub fn program(one_user: bool) -> Result<Vec<sock_filter>, TryFromIntError> {
    const NUMBER: u32 = 0;
    const ARCHITECTURE_AT: u32 = 4;
    let mut program = vec![
        load(ARCHITECTURE_AT),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    program.extend(halve(&pieces(one_user)?)?);
    Ok(program)
}

/// Answers by the number of the call: each holds from its number up to the next one's.
fn pieces(one_user: bool) -> Result<Vec<(u32, Answer)>, TryFromIntError> {
    let mut answers = BTreeMap::new();
    for call in DENIED.iter().chain(DENIED_HERE) {
        answers.insert(u32::try_from(*call)?, Answer::Refuse);
    }
    for call in ABSENT {
        answers.insert(u32::try_from(*call)?, Answer::Absent);
    }
    let scheduling = if one_user { SCHEDULING } else { &[] };
    for (call, answer) in CONDITIONAL.iter().chain(scheduling) {
        answers.insert(u32::try_from(*call)?, *answer);
    }
    let mut pieces = vec![(0, Answer::Allow)];
    for (call, answer) in answers {
        // What came before may end where this begins.
        pieces.pop_if(|(from, _)| *from == call);
        pieces.extend([(call, answer), (call + 1, Answer::Allow)]);
    }
    // Those of x86's third ABI, from 0x4000_0000 on, would pass by the lists above.
    pieces.push((UNKNOWN_CALLS, Answer::Absent));
    pieces.dedup_by_key(|(_, answer)| *answer);
    Ok(pieces)
}

/// Instructions that find the piece of a number and answer.
fn halve(pieces: &[(u32, Answer)]) -> Result<Vec<sock_filter>, TryFromIntError> {
    let (lower, upper) = pieces.split_at(pieces.len() / 2);
    match (lower, upper) {
        ([], [(_, one), ..]) => Ok(leaf(*one)),
        (_, [(from, _), ..]) => {
            let (lower, upper) = (halve(lower)?, halve(upper)?);
            let mut all = vec![jump(libc::BPF_JGE, *from, u8::try_from(lower.len())?, 0)];
            all.extend(lower);
            all.extend(upper);
            Ok(all)
        }
        (_, []) => Ok(leaf(Answer::Refuse)),
    }
}

fn leaf(what: Answer) -> Vec<sock_filter> {
    /// The lower halves of the first three arguments.
    const FIRST: u32 = 16;
    const SECOND: u32 = 24;
    const THIRD: u32 = 32;
    let refuse = answer(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned());
    let allow = answer(libc::SECCOMP_RET_ALLOW);
    let unless =
        |argument, flags: u32| vec![load(argument), jump(libc::BPF_JSET, flags, 1, 0), allow, refuse];
    match what {
        Answer::Allow => vec![allow],
        Answer::Refuse => vec![refuse],
        Answer::Absent => vec![answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned())],
        Answer::IfClone => vec![
            load(FIRST),
            jump(libc::BPF_JSET, NAMESPACES.cast_unsigned(), 3, 0),
            jump(libc::BPF_JSET, libc::CLONE_THREAD.cast_unsigned(), 0, 1),
            jump(libc::BPF_JSET, libc::CLONE_FILES.cast_unsigned(), 0, 1),
            allow,
            refuse,
        ],
        Answer::IfTogether => unless(FIRST, APART.cast_unsigned()),
        Answer::IfFilesStay => unless(THIRD, libc::CLOSE_RANGE_UNSHARE),
        Answer::IfOwn => vec![load(FIRST), jump(libc::BPF_JEQ, 0, 0, 1), allow, refuse],
        Answer::IfPipesStay => {
            let resize = libc::F_SETPIPE_SZ.cast_unsigned();
            vec![load(SECOND), jump(libc::BPF_JEQ, resize, 1, 0), allow, refuse]
        }
        Answer::IfOwnProcess(process) => vec![
            load(FIRST),
            jump(libc::BPF_JEQ, process, 0, 3),
            load(SECOND),
            jump(libc::BPF_JEQ, 0, 0, 1),
            allow,
            refuse,
        ],
        Answer::IfFrees => {
            let unsupported = answer(libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP.cast_unsigned());
            vec![load(SECOND), jump(libc::BPF_JSET, PUNCH_HOLE, 0, 1), allow, unsupported]
        }
        Answer::IfFamily => {
            let absent = answer(libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT.cast_unsigned());
            let mut all = vec![load(THIRD)];
            for protocol in UNCOUNTED_PROTOCOLS {
                all.extend([jump(libc::BPF_JEQ, protocol.cast_unsigned(), 0, 1), absent]);
            }
            all.push(load(FIRST));
            for family in FAMILIES {
                all.extend([jump(libc::BPF_JEQ, family.cast_unsigned(), 0, 1), allow]);
            }
            all.push(refuse);
            all
        }
    }
}

/// Loads a word of what the kernel tells of the call.
fn load(at: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at, 0, 0)
}

/// Skips `yes` instructions when the loaded word compares to `with`, else `no`.
fn jump(comparison: u32, with: u32, yes: u8, no: u8) -> sock_filter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, with, yes, no)
}

fn answer(value: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, value, 0, 0)
}

#[expect(clippy::cast_possible_truncation, reason = "the kernel's codes have eight bits")]
fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
    const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

    /// Runs the program as the kernel would, with the first three arguments.
    fn run(program: &[sock_filter], architecture: u32, call: u32, arguments: [u32; 3]) -> u32 {
        let (mut at, mut word) = (0, 0);
        let [first, second, third] = arguments;
        let words = [call, architecture, 0, 0, first, 0, second, 0, third];
        // Jumps go forward only.
        for _ in 0..program.len() {
            let sock_filter { code, jt, jf, k } = program[at];
            let skip = |holds: bool| usize::from(if holds { jt } else { jf });
            at += 1;
            match code {
                0x20 => word = words[usize::try_from(k).unwrap() / 4],
                0x15 => at += skip(word == k),
                0x35 => at += skip(word >= k),
                0x45 => at += skip(word & k != 0),
                0x06 => return k,
                _ => panic!("{code:#x}"),
            }
        }
        panic!("no answer");
    }

    /// What becomes of a call of this architecture.
    fn answered(call: libc::c_long, arguments: [u32; 3]) -> u32 {
        run(&program(true).unwrap(), ARCHITECTURE, number(call), arguments)
    }

    fn number(call: libc::c_long) -> u32 {
        u32::try_from(call).unwrap()
    }

    #[test]
    fn every_call_is_answered_as_the_lists_say() {
        let program = program(true).unwrap();
        assert!(program.len() < 256, "{} instructions", program.len());
        let unknown = i64::from(UNKNOWN_CALLS);
        let is_conditional =
            |call: &libc::c_long| CONDITIONAL.iter().chain(SCHEDULING).any(|(other, _)| other == call);
        for call in (0..1024).filter(|call| !is_conditional(call)) {
            let expected = if DENIED.contains(&call) || DENIED_HERE.contains(&call) {
                REFUSED
            } else if ABSENT.contains(&call) || call >= unknown {
                MISSING
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            assert_eq!(run(&program, ARCHITECTURE, number(call), [0; 3]), expected, "call {call}");
        }
        const X32_CALLS: u32 = 0x4000_0000;
        for call in [X32_CALLS, X32_CALLS + number(libc::SYS_mount), u32::MAX] {
            assert_eq!(run(&program, ARCHITECTURE, call, [0; 3]), MISSING, "call {call:#x}");
        }
        let other = ARCHITECTURE ^ 0x8000_0000;
        assert_eq!(run(&program, other, 0, [0; 3]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn no_flag_of_a_namespace_and_no_other_family_passes() {
        for (call, flags) in [(libc::SYS_clone, NAMESPACES), (libc::SYS_unshare, APART)] {
            for bit in (0..32).map(|bit| 1 << bit) {
                let is_thread = call == libc::SYS_clone && bit == libc::CLONE_THREAD.cast_unsigned();
                let passes = flags.cast_unsigned() & bit == 0 && !is_thread;
                let expected = if passes { libc::SECCOMP_RET_ALLOW } else { REFUSED };
                assert_eq!(answered(call, [bit, 0, 0]), expected, "flag {bit:#x}");
                assert_eq!(answered(call, [u32::MAX ^ bit, 0, 0]), REFUSED);
            }
        }
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            for family in 0..64 {
                let expected = if FAMILIES.contains(&family) { libc::SECCOMP_RET_ALLOW } else { REFUSED };
                assert_eq!(answered(call, [family.cast_unsigned(), 0, 0]), expected);
            }
            for protocol in 0..512_i32 {
                let answer = answered(call, [libc::AF_INET.cast_unsigned(), 0, protocol.cast_unsigned()]);
                assert_eq!(answer == libc::SECCOMP_RET_ALLOW, !UNCOUNTED_PROTOCOLS.contains(&protocol));
            }
        }
    }

    #[test]
    fn threads_have_the_files_of_their_process_and_limits_are_set_for_the_caller_alone() {
        let thread = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD).cast_unsigned();
        assert_eq!(answered(libc::SYS_clone, [thread, 0, 0]), REFUSED);
        let with_files = thread | libc::CLONE_FILES.cast_unsigned();
        assert_eq!(answered(libc::SYS_clone, [with_files, 0, 0]), libc::SECCOMP_RET_ALLOW);
        let cloexec = libc::CLOSE_RANGE_CLOEXEC;
        assert_eq!(answered(libc::SYS_close_range, [3, u32::MAX, cloexec]), libc::SECCOMP_RET_ALLOW);
        let unshare = cloexec | libc::CLOSE_RANGE_UNSHARE;
        assert_eq!(answered(libc::SYS_close_range, [3, u32::MAX, unshare]), REFUSED);
        assert_eq!(answered(libc::SYS_prlimit64, [0, 7, 0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(answered(libc::SYS_prlimit64, [1, 7, 0]), REFUSED);
    }

    #[test]
    fn a_tool_of_the_agents_user_is_scheduled_apart_from_it() {
        let one_user = program(true).unwrap();
        let two_users = program(false).unwrap();
        let passes = |program: &[sock_filter], call, arguments| {
            run(program, ARCHITECTURE, number(call), arguments) == libc::SECCOMP_RET_ALLOW
        };
        for (call, kind) in SCHEDULING {
            for first in 0..4 {
                for second in 0..3 {
                    let arguments = [first, second, 0];
                    let own = match kind {
                        Answer::IfOwnProcess(process) => first == *process && second == 0,
                        _ => first == 0,
                    };
                    assert_eq!(passes(&one_user, *call, arguments), own, "call {call} of {arguments:?}");
                    assert!(passes(&two_users, *call, arguments), "call {call}");
                }
            }
        }
    }

    #[test]
    fn space_is_freed_and_not_reserved() {
        for mode in 0..256_u32 {
            let frees = mode & PUNCH_HOLE != 0;
            let answer = answered(libc::SYS_fallocate, [3, mode, 0]);
            let unsupported = libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP.cast_unsigned();
            let expected = if frees { libc::SECCOMP_RET_ALLOW } else { unsupported };
            assert_eq!(answer, expected, "mode {mode:#x}");
        }
    }

    #[test]
    fn pipes_keep_their_size() {
        for command in 0..2048_i32 {
            let answer = answered(libc::SYS_fcntl, [1, command.cast_unsigned(), 1 << 20]);
            assert_eq!(answer == REFUSED, command == libc::F_SETPIPE_SZ, "{command}");
        }
    }
}
