//! `filtered CALLS PROGRAM ARGUMENT...`: a program under a filter of system calls, as systemd's `SystemCallFilter` with
//! `SystemCallErrorNumber=EPERM` makes one. CALLS are the numbers of those that are let through, separated by commas.
//!
//! It promises that every other call of this machine's own architecture ends with EPERM, and one of another architecture
//! with the program.

use std::error::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc::{
    self, BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    SECCOMP_RET_KILL_PROCESS, sock_filter, sock_fprog,
};

/// Where `seccomp_data` has them.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// `AUDIT_ARCH_*` of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const NATIVE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xC000_00B7;

/// The filter that lets these through.
fn filter(calls: &[u32]) -> Vec<sock_filter> {
    // Codes of classic BPF have 16 bits.
    let step = |code: u32, k, jt, jf| sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| step(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0);
    let end = |with| step(BPF_RET | BPF_K, with, 0, 0);
    // Which steps are passed over where it is so, and where it is not.
    let is = |what, jt, jf| step(BPF_JMP | BPF_JEQ | BPF_K, what, jt, jf);
    let mut steps = vec![load(ARCHITECTURE), is(NATIVE, 1, 0), end(SECCOMP_RET_KILL_PROCESS), load(NUMBER)];
    for call in calls {
        steps.extend([is(*call, 0, 1), end(SECCOMP_RET_ALLOW)]);
    }
    steps.push(end(SECCOMP_RET_ERRNO | libc::EPERM as u32));
    steps
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let (Some(calls), Some(program)) = (words.next(), words.next()) else {
        return Err("usage: filtered CALLS PROGRAM ARGUMENT...".into());
    };
    let calls: Vec<u32> = calls.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let mut steps = filter(&calls);
    let program_of_kernel = sock_fprog { len: steps.len().try_into()?, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the steps, which are there until it has.
    let set = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, std::ptr::from_ref(&program_of_kernel))
    };
    if set != 0 {
        return Err(format!("the filter is refused: {}", std::io::Error::last_os_error()).into());
    }
    Err(Command::new(program).args(words).exec().into())
}
