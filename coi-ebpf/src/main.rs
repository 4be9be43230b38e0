//! COI's kernel programs.
//!
//! Each looks up its task's watched ancestor cgroup ([`scope`]) first and leaves at once if there is none:
//! one or two map look-ups is what they cost everybody else. They are tracepoints and raw tracepoints, so
//! they work from Linux 5.15 on (`bpf_task_pt_regs`) without kprobes, fentry or LSM; `open` and `redirect`
//! want the arguments of their system call only when it returns, and take them from the saved registers then,
//! so that no program runs when a call begins.
//!
//! Nothing here blocks or allocates. A record that finds no room in its ring is counted ([`ring`]).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod connect;
mod exec;
mod io;
mod kernel;
mod open;
mod path;
mod process;
mod redirect;
mod ring;
mod scope;
mod stream;
mod task;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
