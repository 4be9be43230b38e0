//! COI's kernel programs.
//!
//! Each looks up its task's watched ancestor cgroup ([`scope`]) first and leaves at once if there is none:
//! one or two map look-ups is what they cost everybody else. They are raw tracepoints and
//! cgroup hooks, so they work from Linux 5.15 on (`bpf_get_current_task_btf`) without kprobes, fentry or LSM; where a
//! kernel takes programs at its functions, those of [`chokepoint`] stand in for some of them. What is asked
//! of a system call's arguments is asked when it returns ([`entry`]), from the saved registers, so that no program runs
//! when a call begins. What nobody wants ([`wanted`]) is not sent.
//!
//! The verifier follows each way through a program on its own, with all that is in line there. A function that is exported by
//! its name it checks once in each program, whatever leads to it; what many programs do at length is such a function. Of
//! what it is given the verifier knows numbers, and memory of a type's size that may be null, and it gives a number.
//!
//! Nothing here blocks or allocates. A record that finds no room in its ring is counted ([`ring`]).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, stmt_expr_attributes)]

mod call;
mod change;
mod chokepoint;
mod connect;
mod copied;
mod dentry;
mod entry;
mod exec;
mod file;
mod inode;
mod io;
mod kernel;
mod listen;
mod memory;
mod name;
mod object;
mod open;
mod path;
mod process;
mod redirect;
mod ring;
mod scope;
mod sendto;
mod stream;
mod syscall;
mod task;
mod uring;
mod wanted;
