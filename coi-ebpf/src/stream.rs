//! What an open file is: enough of it to follow a standard stream to a socket.

use coi_common::{Address, Stream, StreamKind};

use crate::{
    inode::{Inode, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK},
    kernel::{Structure, current, offset, pointer, read},
    memory,
};

/// `include/uapi/linux/magic.h`.
const PIPEFS_MAGIC: u64 = 0x5049_5045;
/// `Documentation/admin-guide/devices.txt`: the terminals' sides of Unix98 pseudo-terminals.
const PTY_MAJORS: core::ops::RangeInclusive<u32> = 136..=143;
/// The same: terminals, and the "current terminal".
const TTY_MAJORS: core::ops::RangeInclusive<u32> = 4..=5;
/// `include/linux/kdev_t.h`: the kernel's own device numbers have 20 bits of minor.
const MINOR_BITS: u32 = 20;
pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const AF_PACKET: u16 = 17;
pub const SOCK_STREAM: u16 = 1;
pub const SOCK_RAW: u16 = 3;

/// The acting task's open file with this descriptor.
#[inline(always)]
pub fn file(fd: u64) -> Option<u64> {
    let table = current().follow(offset!(task_files))?.follow(offset!(files_fdt))?;
    if fd >= u64::from(table.number::<u32>(offset!(fdt_max_fds))) {
        return None;
    }
    // An array of pointers, of which the verifier knows no type.
    pointer(table.number::<u64>(offset!(fdt_fd)) + 8 * fd)
}

/// The socket behind an open file: its `struct socket` and its `struct sock`.
#[inline(always)]
pub fn socket(file: u64) -> Option<(u64, u64)> {
    let inode = pointer(file + offset!(file_inode))?;
    if read::<u16>(inode + offset!(inode_mode))? & S_IFMT != S_IFSOCK {
        return None;
    }
    let socket = pointer(file + offset!(file_private_data))?;
    Some((socket, pointer(socket + offset!(socket_sk))?))
}

/// The inode number of a `struct sock`'s file.
#[inline(always)]
pub fn inode_of_sock(sk: impl Structure) -> u64 {
    // The inode lies in the structure around this one.
    sk.follow(offset!(sk_socket))
        .and_then(|socket| read(socket.address() + offset!(socket_alloc_inode) + offset!(inode_ino)))
        .unwrap_or(0)
}

/// The peer of an internet socket.
#[inline(always)]
pub fn peer(sk: impl Structure) -> Address {
    let family = sk.number(offset!(sk_family));
    let port = u16::from_be(sk.number(offset!(sk_dport)));
    Address { ip: ip(sk, family, offset!(sk_daddr), offset!(sk_v6_daddr)), family, port }
}

/// A socket's own address.
#[inline(always)]
pub fn own(sk: impl Structure) -> Address {
    let family = sk.number(offset!(sk_family));
    let port = sk.number(offset!(sk_num));
    Address { ip: ip(sk, family, offset!(sk_rcv_saddr), offset!(sk_v6_rcv_saddr)), family, port }
}

/// The address of this family, from one of these places; zeros for other families.
#[inline(always)]
fn ip(sk: impl Structure, family: u16, v4: u64, v6: u64) -> [u8; 16] {
    let ip = if family == AF_INET {
        [sk.number(v4), 0, 0, 0]
    } else if family == AF_INET6 {
        let [high, low] = [sk.number::<u64>(v6), sk.number::<u64>(v6 + 8)];
        [high as u32, (high >> 32) as u32, low as u32, (low >> 32) as u32]
    } else {
        [0; 4]
    };
    memory::octets(ip)
}

/// Writes what standard input, output and error of the acting task are. In place: a program's stack has 512 bytes.
/// Where two of them are the same open file, as on a terminal, it is looked at once.
///
/// # Safety
/// `place` may be written to.
#[inline(always)]
pub unsafe fn stdio(place: *mut [Stream; 3]) {
    // SAFETY: the caller's promise.
    unsafe { stdio_with(place, 0) };
}

/// The same, where an open file is about to get a descriptor: one of these that is taken and leads nowhere yet is its.
/// Of several threads that open something at once, with none of the three open before, it may be another's.
///
/// # Safety
/// As [`stdio`].
#[inline(always)]
pub unsafe fn stdio_with(place: *mut [Stream; 3], arriving: u64) {
    let mut files = standard_files();
    if arriving != 0 {
        let taken = taken();
        for (fd, file) in files.iter_mut().enumerate() {
            if *file == 0 && taken >> fd & 1 != 0 {
                *file = arriving;
            }
        }
    }
    for fd in 0..3 {
        // SAFETY: the caller's promise.
        unsafe {
            if fd > 0 && files[fd] == files[fd - 1] {
                memory::copy(&raw const (*place)[fd - 1], &raw mut (*place)[fd]);
            } else {
                inspect(&raw mut (*place)[fd], files[fd]);
            }
        }
    }
}

/// The acting task's open files 0, 1 and 2, zero where there is none.
#[inline(always)]
fn standard_files() -> [u64; 3] {
    // A table has room for 64 at least; a task that ends has none.
    current()
        .follow(offset!(task_files))
        .and_then(|files| files.follow(offset!(files_fdt)))
        .and_then(|table| read(table.number::<u64>(offset!(fdt_fd))))
        .unwrap_or_default()
}

/// Which of the acting task's lowest descriptors are taken, as bits.
#[inline(always)]
fn taken() -> u64 {
    current()
        .follow(offset!(task_files))
        .and_then(|files| files.follow(offset!(files_fdt)))
        .and_then(|table| read(table.number::<u64>(offset!(fdt_open_fds))))
        .unwrap_or(0)
}

/// Says what an open file is; nothing, where `file` is 0. Checked once (see [`crate`]). Not inlined for another reason, too:
/// of three copies the compiler would make one with pointers that it chooses between, which the verifier does not follow.
///
/// # Safety
/// `to` may be written to.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn inspect(to: *mut Stream, file: u64) -> u32 {
    if to.is_null() {
        return 1;
    }
    // SAFETY: the caller's promise; plain numbers, for which zero is valid.
    unsafe { memory::zero(to) };
    if file == 0 {
        return 0;
    }
    let Some(file_inode) = read(file + offset!(file_inode)) else { return 0 };
    let Some(inode) = Inode::at(file_inode) else { return 0 };
    // SAFETY: as above.
    unsafe {
        // FMODE_READ and FMODE_WRITE are the lowest two bits.
        (*to).access = (read::<u32>(file + offset!(file_mode)).unwrap_or(0) & 3) as u8;
        (*to).inode = inode.number();
    }
    let kind = match inode.kind() {
        S_IFREG | S_IFDIR => StreamKind::File,
        S_IFIFO => {
            let magic = read(inode.file_system() + offset!(sb_magic));
            if magic == Some(PIPEFS_MAGIC) { StreamKind::Pipe } else { StreamKind::Fifo }
        }
        S_IFCHR => {
            let device = inode.represents();
            // SAFETY: as above.
            unsafe { (*to).device = device };
            let major = device >> MINOR_BITS;
            if PTY_MAJORS.contains(&major) {
                StreamKind::Pty
            } else if TTY_MAJORS.contains(&major) {
                StreamKind::Tty
            } else {
                StreamKind::Device
            }
        }
        S_IFSOCK => match socket(file) {
            Some((_, sk)) => {
                let family: u16 = read(sk + offset!(sk_family)).unwrap_or(0);
                if family == AF_INET || family == AF_INET6 {
                    // SAFETY: as above.
                    unsafe { (*to).peer = peer(sk) };
                    StreamKind::Inet
                } else if family == AF_UNIX {
                    // SAFETY: as above.
                    unsafe { (*to).peer_inode = pointer(sk + offset!(unix_peer)).map_or(0, inode_of_sock) };
                    StreamKind::Unix
                } else {
                    StreamKind::Other
                }
            }
            None => StreamKind::Other,
        },
        _ => StreamKind::Other,
    };
    // SAFETY: as above.
    unsafe { (*to).kind = kind as u8 };
    0
}
