//! The system calls by which something is done that COI watches, native and 32-bit (int 0x80 from any program, and the
//! calls of 32-bit programs): which kernel program sees each.

use coi_common::{Entry, Form, I386_SOCKETCALL, NO_TEXT, READ, SEND};
use nix::libc;

/// A call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) name: &'static str,
    /// Its number on x86-64.
    number: i64,
    program: Program,
    /// Which of its arguments is a text that is told.
    text: Option<u8>,
    /// What it is called as by 32-bit programs.
    i386: &'static [I386],
}

/// A call by the 32-bit entry.
#[derive(Clone, Copy, Debug)]
struct I386 {
    /// `arch/x86/entry/syscalls/syscall_32.tbl`; behind [`I386_SOCKETCALL`], which of socketcall(2)'s it is.
    number: u32,
    form: Form,
}

/// The kernel programs that see calls, in `coi-ebpf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Program {
    Accept,
    Change,
    Connect,
    Dup,
    Exec,
    Listen,
    Map,
    Open,
    Rare,
    /// Part of the one at the end of every call.
    Read,
    Send,
    SendMany,
}

impl Program {
    /// Its name in the object, unless it is no program of its own.
    pub(super) const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Accept => "exit_accept",
            Self::Change => "exit_change",
            Self::Connect => "exit_connect",
            Self::Dup => "exit_dup",
            Self::Exec => "exit_exec",
            Self::Listen => "exit_listen",
            Self::Map => "exit_mmap",
            Self::Open => "exit_open",
            Self::Rare => "exit_rare",
            Self::Read => return None,
            Self::Send => "exit_send",
            Self::SendMany => "exit_sendmmsg",
        })
    }

    /// Its place in the kernel's table of them.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Read => READ,
            Self::Send => SEND,
            other => other as u32 + SEND + 1,
        }
    }
}

impl Call {
    /// Its program, unless it is part of the one at the end of every call.
    pub(super) fn program(&self) -> Option<(&'static str, u32)> {
        Some((self.program.name()?, self.program.number()))
    }

    /// What the kernel's table has of it: by its number natively, and by its numbers at the 32-bit entry.
    pub(super) fn entries(&self) -> (Entry, impl Iterator<Item = (u32, Entry)>) {
        let native = Entry {
            // All of them are below 544.
            number: self.number as u16,
            program: self.program.number() as u8,
            text: self.text.unwrap_or(NO_TEXT),
            ..Entry::default()
        };
        let i386 = self.i386.iter().map(move |i386| (i386.number, Entry { form: i386.form as u8, ..native }));
        (native, i386)
    }
}

const fn call(name: &'static str, number: i64, program: Program, i386: &'static [I386]) -> Call {
    Call { name, number, program, text: None, i386 }
}

const fn with_text(text: u8, call: Call) -> Call {
    Call { text: Some(text), ..call }
}

const fn at(number: u32) -> I386 {
    I386 { number, form: Form::Registers }
}

const fn block(number: u32) -> I386 {
    I386 { number, form: Form::Block }
}

const fn socketcall(number: u32) -> I386 {
    I386 { number: I386_SOCKETCALL + number, form: Form::Socketcall }
}

/// socketcall(2) itself, by the 32-bit entry.
const SOCKETCALL: usize = 102;

/// All of them.
pub(super) const CALLS: &[Call] = &[
    call("execve", libc::SYS_execve, Program::Exec, &[at(11)]),
    call("execveat", libc::SYS_execveat, Program::Exec, &[at(358)]),
    call("connect", libc::SYS_connect, Program::Connect, &[at(362), socketcall(3)]),
    call("listen", libc::SYS_listen, Program::Listen, &[at(363), socketcall(4)]),
    call("accept", libc::SYS_accept, Program::Accept, &[socketcall(5)]),
    call("accept4", libc::SYS_accept4, Program::Accept, &[at(364), socketcall(18)]),
    call("sendto", libc::SYS_sendto, Program::Send, &[at(369), socketcall(11)]),
    call("sendmsg", libc::SYS_sendmsg, Program::Send, &[at(370), socketcall(16)]),
    call("sendmmsg", libc::SYS_sendmmsg, Program::SendMany, &[at(345), socketcall(20)]),
    call("open", libc::SYS_open, Program::Open, &[at(5)]),
    call("creat", libc::SYS_creat, Program::Open, &[at(8)]),
    call("openat", libc::SYS_openat, Program::Open, &[at(295)]),
    call("openat2", libc::SYS_openat2, Program::Open, &[at(437)]),
    call("open_by_handle_at", libc::SYS_open_by_handle_at, Program::Open, &[at(342)]),
    call("mmap", libc::SYS_mmap, Program::Map, &[block(90), at(192)]),
    call("read", libc::SYS_read, Program::Read, &[at(3)]),
    call("pread64", libc::SYS_pread64, Program::Read, &[at(180)]),
    call("readv", libc::SYS_readv, Program::Read, &[at(145)]),
    call("preadv", libc::SYS_preadv, Program::Read, &[at(333)]),
    call("preadv2", libc::SYS_preadv2, Program::Read, &[at(378)]),
    call("splice", libc::SYS_splice, Program::Read, &[at(313)]),
    call("copy_file_range", libc::SYS_copy_file_range, Program::Read, &[at(377)]),
    call("sendfile", libc::SYS_sendfile, Program::Read, &[at(187), at(239)]),
    call("dup", libc::SYS_dup, Program::Dup, &[at(41)]),
    call("dup2", libc::SYS_dup2, Program::Dup, &[at(63)]),
    call("dup3", libc::SYS_dup3, Program::Dup, &[at(330)]),
    call("fcntl", libc::SYS_fcntl, Program::Dup, &[at(55), at(221)]),
    call("rename", libc::SYS_rename, Program::Change, &[at(38)]),
    call("renameat", libc::SYS_renameat, Program::Change, &[at(302)]),
    call("renameat2", libc::SYS_renameat2, Program::Change, &[at(353)]),
    call("link", libc::SYS_link, Program::Change, &[at(9)]),
    call("linkat", libc::SYS_linkat, Program::Change, &[at(303)]),
    call("symlink", libc::SYS_symlink, Program::Change, &[at(83)]),
    call("symlinkat", libc::SYS_symlinkat, Program::Change, &[at(304)]),
    call("unlink", libc::SYS_unlink, Program::Change, &[at(10)]),
    call("unlinkat", libc::SYS_unlinkat, Program::Change, &[at(301)]),
    call("rmdir", libc::SYS_rmdir, Program::Change, &[at(40)]),
    call("mkdir", libc::SYS_mkdir, Program::Change, &[at(39)]),
    call("mkdirat", libc::SYS_mkdirat, Program::Change, &[at(296)]),
    call("chmod", libc::SYS_chmod, Program::Change, &[at(15)]),
    call("fchmod", libc::SYS_fchmod, Program::Change, &[at(94)]),
    call("fchmodat", libc::SYS_fchmodat, Program::Change, &[at(306)]),
    call("fchmodat2", libc::SYS_fchmodat2, Program::Change, &[at(452)]),
    call("chown", libc::SYS_chown, Program::Change, &[at(182), at(212)]),
    call("lchown", libc::SYS_lchown, Program::Change, &[at(16), at(198)]),
    call("fchown", libc::SYS_fchown, Program::Change, &[at(95), at(207)]),
    call("fchownat", libc::SYS_fchownat, Program::Change, &[at(298)]),
    call("truncate", libc::SYS_truncate, Program::Change, &[at(92), at(193)]),
    call("ftruncate", libc::SYS_ftruncate, Program::Change, &[at(93), at(194)]),
    call("clone", libc::SYS_clone, Program::Rare, &[at(120)]),
    call("clone3", libc::SYS_clone3, Program::Rare, &[at(435)]),
    call("ptrace", libc::SYS_ptrace, Program::Rare, &[at(26)]),
    call("unshare", libc::SYS_unshare, Program::Rare, &[at(310)]),
    call("setns", libc::SYS_setns, Program::Rare, &[at(346)]),
    call("process_vm_readv", libc::SYS_process_vm_readv, Program::Rare, &[at(347)]),
    call("process_vm_writev", libc::SYS_process_vm_writev, Program::Rare, &[at(348)]),
    call("pidfd_getfd", libc::SYS_pidfd_getfd, Program::Rare, &[at(438)]),
    call("bpf", libc::SYS_bpf, Program::Rare, &[at(357)]),
    call("userfaultfd", libc::SYS_userfaultfd, Program::Rare, &[at(374)]),
    call("perf_event_open", libc::SYS_perf_event_open, Program::Rare, &[at(336)]),
    call("io_uring_setup", libc::SYS_io_uring_setup, Program::Rare, &[at(425)]),
    call("keyctl", libc::SYS_keyctl, Program::Rare, &[at(288)]),
    call("init_module", libc::SYS_init_module, Program::Rare, &[at(128)]),
    call("finit_module", libc::SYS_finit_module, Program::Rare, &[at(350)]),
    call("kexec_load", libc::SYS_kexec_load, Program::Rare, &[at(283)]),
    call("kexec_file_load", libc::SYS_kexec_file_load, Program::Rare, &[]),
    call("fsmount", libc::SYS_fsmount, Program::Rare, &[at(432)]),
    with_text(0, call("delete_module", libc::SYS_delete_module, Program::Rare, &[at(129)])),
    with_text(0, call("add_key", libc::SYS_add_key, Program::Rare, &[at(286)])),
    with_text(0, call("request_key", libc::SYS_request_key, Program::Rare, &[at(287)])),
    with_text(0, call("memfd_create", libc::SYS_memfd_create, Program::Rare, &[at(356)])),
    with_text(0, call("fsopen", libc::SYS_fsopen, Program::Rare, &[at(430)])),
    with_text(0, call("umount2", libc::SYS_umount2, Program::Rare, &[at(52), at(22)])),
    with_text(0, call("chroot", libc::SYS_chroot, Program::Rare, &[at(61)])),
    with_text(0, call("pivot_root", libc::SYS_pivot_root, Program::Rare, &[at(217)])),
    with_text(1, call("mount", libc::SYS_mount, Program::Rare, &[at(21)])),
    with_text(1, call("open_tree", libc::SYS_open_tree, Program::Rare, &[at(428)])),
    with_text(1, call("mount_setattr", libc::SYS_mount_setattr, Program::Rare, &[at(442)])),
    with_text(3, call("move_mount", libc::SYS_move_mount, Program::Rare, &[at(429)])),
];

/// The kernel's table of these calls: by their numbers, what is done with each natively and at the 32-bit entry.
pub(super) fn table(calls: &[&Call]) -> Vec<[Entry; 2]> {
    let mut table = vec![[Entry::default(); 2]; coi_common::CALLS as usize];
    for call in calls {
        let (native, i386) = call.entries();
        table[usize::from(native.number)][0] = native;
        for (number, entry) in i386 {
            table[number as usize][1] = entry;
            if entry.form == Form::Socketcall as u8 {
                // Any program: what it is for is behind it.
                table[SOCKETCALL][1] = entry;
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_its_own_place_in_the_table() {
        let all: Vec<_> = CALLS.iter().collect();
        let table = table(&all);
        for call in CALLS {
            let (native, i386) = call.entries();
            assert_eq!(i64::from(native.number), call.number, "{}", call.name);
            let places = i386.map(|(number, _)| table[number as usize][1]);
            let wrong: Vec<_> = [table[native.number as usize][0]].into_iter().chain(places).collect();
            assert!(wrong.iter().all(|entry| entry.number == native.number), "{}: {wrong:?}", call.name);
        }
        let numbers: std::collections::BTreeSet<_> = CALLS.iter().map(|call| call.number).collect();
        assert_eq!(numbers.len(), CALLS.len());
    }

    #[test]
    fn every_program_has_its_own_number() {
        let programs: std::collections::HashMap<_, _> =
            CALLS.iter().map(|call| (call.program.number(), call.program)).collect();
        assert!(CALLS.iter().all(|call| programs[&call.program.number()] == call.program));
        assert!(programs.keys().all(|number| (READ..coi_common::PROGRAMS).contains(number)));
    }

    #[test]
    fn only_what_32_bit_programs_have_no_call_for_is_native_only() {
        let native: Vec<_> = CALLS.iter().filter(|call| call.i386.is_empty()).map(|call| call.name).collect();
        assert_eq!(native, ["kexec_file_load"]);
    }
}
