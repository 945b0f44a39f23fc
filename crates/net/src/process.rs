//! Limits and identity of the process.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Pid, Uid, User, initgroups, setgid, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities};

/// Raises the soft limit of open files to the hard one; gives the limit now in force.
///
/// # Errors
/// If the limit cannot be read. One that cannot be raised stays as it is.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return Ok(hard);
    }
    Ok(soft)
}

/// The most open files that the process could have: the hard limit.
///
/// # Errors
/// If it cannot be read.
pub fn open_files_limit() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.1)
}

/// Files that are open now.
///
/// # Errors
/// If `/proc` is not mounted.
pub fn open_files_now() -> io::Result<u64> {
    // The folder itself is open while it is read.
    Ok((std::fs::read_dir("/proc/self/fd")?.count() as u64).saturating_sub(1))
}

/// The cores that this thread may run on, by number.
///
/// # Errors
/// If the kernel does not say.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false)).collect())
}

/// Keeps this thread on `core` (sched_setaffinity(2)).
///
/// # Errors
/// If the process may not use that core.
pub fn stay_on_core(core: usize) -> io::Result<()> {
    let mut only = CpuSet::new();
    only.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &only)?)
}

/// Keeps the kernel from backing memory with huge pages from now on (PR_SET_THP_DISABLE): a process of many small objects
/// would hold megabytes that it does not use. Where the kernel does not know the request, nothing changes.
pub fn without_huge_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Whether the process acts as root.
#[must_use]
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Becomes `name`, with its groups, for ever; of what root may do nothing is left, but for CAP_NET_ADMIN (capabilities(7)) where
/// `keeps_net_admin`. Must be called before any other thread starts.
///
/// # Errors
/// If there is no such user, or the process may not.
pub fn become_user(name: &str, keeps_net_admin: bool) -> io::Result<()> {
    let found = User::from_name(name)?;
    let Some(user) = found else { return Err(io::Error::other(format!("there is no user `{name}`"))) };
    if Uid::effective() == user.uid {
        return Ok(());
    }
    let c_name = std::ffi::CString::new(name).map_err(io::Error::other)?;
    initgroups(&c_name, user.gid)?;
    setgid(user.gid)?;
    set_keep_capabilities(keeps_net_admin)?;
    setuid(user.uid)?;
    debug_assert!(Gid::effective() == user.gid && Uid::current() == user.uid);
    if keeps_net_admin {
        let only = CapabilitySet::NET_ADMIN;
        set_capabilities(
            None,
            CapabilitySets { effective: only, permitted: only, inheritable: CapabilitySet::empty() },
        )?;
        set_keep_capabilities(false)?;
    }
    Ok(())
}
