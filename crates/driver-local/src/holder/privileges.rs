//! What a pod's processes may ask of the kernel: no capabilities (the agent: three), no new privileges, and a filter of
//! system calls.

use std::{collections::BTreeMap, io};

use rustix::{
    process::{Gid, Resource, Rlimit, Uid, setrlimit},
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
        set_capabilities_secure_bits, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter, sock_filter,
};

use crate::plan::{Failure, Users};

/// What the agent keeps: it starts tools as another user, and ends them.
const AGENT_CAPABILITIES: [CapabilitySet; 3] =
    [CapabilitySet::SETUID, CapabilitySet::SETGID, CapabilitySet::KILL];

/// Makes the caller the agent's user with the agent's privileges.
pub fn become_agent(users: Users) -> Result<(), Failure> {
    let own_user = users.base().is_some();
    let become_agent = || -> Result<(), Failure> {
        if !own_user {
            return drop_all();
        }
        let kept = AGENT_CAPABILITIES.into_iter().fold(CapabilitySet::empty(), CapabilitySet::union);
        // What is not in the bounding set cannot become inheritable, which ambient capabilities must be.
        let all = step(capabilities(None))?;
        step(set_capabilities(None, CapabilitySets { inheritable: kept, ..all }))?;
        forget_bounding_set();
        let bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
        step(set_capabilities_secure_bits(bits | CapabilitiesSecureBits::KEEP_CAPS))?;
        step(set_thread_groups(&[]))?;
        let (uid, gid) = (Uid::from_raw(Users::AGENT), Gid::from_raw(Users::AGENT));
        step(set_thread_res_gid(gid, gid, gid))?;
        step(set_thread_res_uid(uid, uid, uid))?;
        step(set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept }))?;
        AGENT_CAPABILITIES
            .into_iter()
            .try_for_each(|one| step(configure_capability_in_ambient_set(one, true)))
    };
    become_agent()?;
    restrict_calls()
}

/// Makes the caller, root in the pod, a tool: no capability, and no way to one.
pub fn become_tool(users: Users) -> Result<(), Failure> {
    if users.base().is_some() {
        step(set_thread_groups(&[]))?;
    }
    step(set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))?;
    step(set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))?;
    drop_all()?;
    restrict_calls()
}

fn drop_all() -> Result<(), Failure> {
    forget_bounding_set();
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    step(set_capabilities_secure_bits(bits))?;
    step(clear_ambient_capability_set())?;
    let none = CapabilitySet::empty();
    step(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }))
}

fn forget_bounding_set() {
    // The kernel knows the capabilities up to some number, and refuses the others.
    for bit in 0..u64::BITS {
        if remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << bit)).is_err() {
            break;
        }
    }
}

fn restrict_calls() -> Result<(), Failure> {
    step(set_no_new_privs(true))?;
    let program = filter()
        .map_err(|_| Failure { step: "compile the system call filter".into(), errno: libc::EINVAL })?;
    apply_filter(&program)
        .map_err(|_| Failure::at("apply the system call filter")(io::Error::last_os_error()))
}

/// Sets process limits, soft and hard, by the names of [`freehold_driver::AGENT_TOOL_RLIMITS_VARIABLE`]. A limit that
/// is lower already stays.
pub fn limit(limits: &[(String, u64)]) {
    for (name, value) in limits {
        let resource = match name.as_str() {
            "nproc" => Resource::Nproc,
            "as" => Resource::As,
            "data" => Resource::Data,
            "fsize" => Resource::Fsize,
            "nofile" => Resource::Nofile,
            "core" => Resource::Core,
            _ => continue,
        };
        let _lower_already = setrlimit(resource, Rlimit { current: Some(*value), maximum: Some(*value) });
    }
}

fn step<T>(result: rustix::io::Result<T>) -> Result<T, Failure> {
    result.map_err(|errno| Failure { step: "drop privileges".into(), errno: errno.raw_os_error() })
}

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
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_set_mempolicy,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Socket families that stay.
const FAMILIES: &[i32] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let dword =
        |index, operator, value| SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
    #[cfg(target_arch = "x86_64")]
    rules.extend(
        [libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib]
            .map(|call| (call, Vec::new())),
    );
    // No new namespace of any kind: the flags are the first argument on all architectures we build for.
    let namespaces = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWCGROUP,
    ];
    let new_namespace = namespaces
        .into_iter()
        .map(|flag| {
            let flag = u64::from(flag.cast_unsigned());
            SeccompRule::new(vec![dword(0, SeccompCmpOp::MaskedEq(flag), flag)?])
        })
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_clone, new_namespace.clone());
    rules.insert(libc::SYS_unshare, new_namespace);
    let other_family = FAMILIES
        .iter()
        .map(|family| dword(0, SeccompCmpOp::Ne, u64::from(family.cast_unsigned())))
        .collect::<Result<Vec<_>, _>>()?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(other_family.clone())?]);
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(other_family)?]);
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let program: BpfProgram =
        SeccompFilter::new(rules, SeccompAction::Allow, denied, std::env::consts::ARCH.try_into()?)?
            .try_into()?;
    Ok(prologue().into_iter().chain(program).collect())
}

/// Answers "no such call" to `clone3`, whose flags no filter can read and which libraries do without, and to the numbers of
/// x86's third ABI, which would pass by the list above.
fn prologue() -> Vec<sock_filter> {
    const LOAD_CALL: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER_EQUAL: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const X32_BIT: u32 = 0x4000_0000;
    const RETURN_ERROR: u32 = 0x0005_0000;
    let clone3 = u32::try_from(libc::SYS_clone3).unwrap_or(u32::MAX);
    vec![
        sock_filter { code: LOAD_CALL, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_EQUAL, jt: 1, jf: 0, k: clone3 },
        sock_filter { code: JUMP_GREATER_EQUAL, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: RETURN_ERROR | libc::ENOSYS.cast_unsigned() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_call_filter_compiles_to_less_than_the_kernel_takes() {
        let program = filter().unwrap();
        assert!(program.len() < 4096, "{} instructions", program.len());
    }
}
