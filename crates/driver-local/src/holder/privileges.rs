//! What a pod's processes may ask of the kernel: no capabilities (the agent: three), no new privileges, and a filter of
//! system calls.

use rustix::{
    process::{Gid, Resource, Rlimit, Uid, setrlimit},
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
        set_capabilities_secure_bits, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};

use super::filter;
use crate::{
    plan::{Failure, Users},
    sys,
};

/// What the agent keeps: it starts tools as another user, and ends them.
const AGENT_CAPABILITIES: [CapabilitySet; 3] =
    [CapabilitySet::SETUID, CapabilitySet::SETGID, CapabilitySet::KILL];

/// Lets go of what the agent will not be able to get. The caller keeps what it has for now.
pub fn prepare_agent(users: Users) -> Result<(), Failure> {
    if users.base().is_some() {
        // What is not in the bounding set cannot become inheritable, which ambient capabilities must be.
        let all = step(capabilities(None))?;
        step(set_capabilities(None, CapabilitySets { inheritable: kept(), ..all }))?;
        let bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
        step(set_capabilities_secure_bits(bits | CapabilitiesSecureBits::KEEP_CAPS))?;
    }
    forget_bounding_set();
    Ok(())
}

/// Makes the caller, prepared for it, the agent's user with the agent's capabilities and no way to others.
pub fn become_agent(users: Users) -> Result<(), Failure> {
    if users.base().is_none() {
        drop_all()?;
    } else {
        step(set_thread_groups(&[]))?;
        let (uid, gid) = (Uid::from_raw(Users::AGENT), Gid::from_raw(Users::AGENT));
        step(set_thread_res_gid(gid, gid, gid))?;
        step(set_thread_res_uid(uid, uid, uid))?;
        let sets = CapabilitySets { effective: kept(), permitted: kept(), inheritable: kept() };
        step(set_capabilities(None, sets))?;
        for one in AGENT_CAPABILITIES {
            step(configure_capability_in_ambient_set(one, true))?;
        }
    }
    step(set_no_new_privs(true))
}

fn kept() -> CapabilitySet {
    AGENT_CAPABILITIES.into_iter().fold(CapabilitySet::empty(), CapabilitySet::union)
}

/// Makes the caller, root in the pod, a tool: no capability, and no way to one.
pub fn become_tool(users: Users) -> Result<(), Failure> {
    if users.base().is_some() {
        step(set_thread_groups(&[]))?;
    }
    step(set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))?;
    step(set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))?;
    drop_all()?;
    step(set_no_new_privs(true))?;
    restrict_calls(users)
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

/// Filters the system calls of the caller, who must not be able to gain privileges any more.
pub fn restrict_calls(users: Users) -> Result<(), Failure> {
    let program = filter::program(users.base().is_none())
        .map_err(|_| Failure { step: "compile the system call filter".into(), errno: libc::EINVAL })?;
    sys::filter_calls(&program).map_err(Failure::at("apply the system call filter"))
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
