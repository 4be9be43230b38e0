//! What an open file is: enough of it to follow a standard stream to a socket.

use coi_common::{Address, Stream, StreamKind};

use crate::kernel::{Structure, current, offset, pointer, read};

const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
const S_IFREG: u16 = 0o100_000;
const S_IFDIR: u16 = 0o040_000;
const S_IFCHR: u16 = 0o020_000;
const S_IFIFO: u16 = 0o010_000;
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

/// Is it a regular file?
#[inline(always)]
pub fn is_regular(inode: u64) -> bool {
    read::<u16>(inode + offset!(inode_mode)).unwrap_or(0) & S_IFMT == S_IFREG
}

/// Is it a named pipe?
#[inline(always)]
pub fn is_fifo(inode: u64) -> bool {
    read::<u16>(inode + offset!(inode_mode)).unwrap_or(0) & S_IFMT == S_IFIFO
}

/// Is it a directory?
#[inline(always)]
pub fn is_directory(inode: u64) -> bool {
    read::<u16>(inode + offset!(inode_mode)).unwrap_or(0) & S_IFMT == S_IFDIR
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
pub fn inode_of_sock(sk: u64) -> u64 {
    pointer(sk + offset!(sk_socket))
        .and_then(|socket| read(socket + offset!(socket_alloc_inode) + offset!(inode_ino)))
        .unwrap_or(0)
}

/// The peer of an internet socket.
#[inline(always)]
pub fn peer(sk: u64) -> Address {
    let family: u16 = read(sk + offset!(sk_family)).unwrap_or(0);
    let mut ip = [0; 16];
    if family == AF_INET {
        let v4: [u8; 4] = read(sk + offset!(sk_daddr)).unwrap_or([0; 4]);
        ip[..4].copy_from_slice(&v4);
    } else if family == AF_INET6 {
        ip = read(sk + offset!(sk_v6_daddr)).unwrap_or(ip);
    }
    let port = u16::from_be(read(sk + offset!(sk_dport)).unwrap_or(0));
    Address { ip, family, port }
}

/// A socket's own address.
#[inline(always)]
pub fn own(sk: u64) -> Address {
    let family: u16 = read(sk + offset!(sk_family)).unwrap_or(0);
    let mut ip = [0; 16];
    if family == AF_INET {
        let v4: [u8; 4] = read(sk + offset!(sk_rcv_saddr)).unwrap_or([0; 4]);
        ip[..4].copy_from_slice(&v4);
    } else if family == AF_INET6 {
        ip = read(sk + offset!(sk_v6_rcv_saddr)).unwrap_or(ip);
    }
    Address { ip, family, port: read(sk + offset!(sk_num)).unwrap_or(0) }
}

/// Writes what standard input, output and error of the acting task are. In place: a program's stack has 512 bytes.
///
/// # Safety
/// `place` may be written to.
#[inline(always)]
pub unsafe fn stdio(place: *mut [Stream; 3]) {
    for fd in 0..3 {
        // SAFETY: the caller's promise.
        unsafe { inspect(&raw mut (*place)[fd], fd as u64) };
    }
}

/// # Safety
/// `to` may be written to.
#[inline(always)]
unsafe fn inspect(to: *mut Stream, fd: u64) {
    // SAFETY: the caller's promise; plain numbers, for which zero is valid.
    unsafe { core::ptr::write_bytes(to, 0, 1) };
    let Some(file) = file(fd) else { return };
    let Some(inode) = pointer(file + offset!(file_inode)) else { return };
    // SAFETY: as above.
    unsafe {
        // FMODE_READ and FMODE_WRITE are the lowest two bits.
        (*to).access = (read::<u32>(file + offset!(file_mode)).unwrap_or(0) & 3) as u8;
        (*to).inode = read(inode + offset!(inode_ino)).unwrap_or(0);
    }
    let kind = match read::<u16>(inode + offset!(inode_mode)).unwrap_or(0) & S_IFMT {
        S_IFREG | S_IFDIR => StreamKind::File,
        S_IFIFO => {
            let magic: u64 =
                pointer(inode + offset!(inode_sb)).and_then(|sb| read(sb + offset!(sb_magic))).unwrap_or(0);
            if magic == PIPEFS_MAGIC { StreamKind::Pipe } else { StreamKind::Fifo }
        }
        S_IFCHR => {
            let device: u32 = read(inode + offset!(inode_rdev)).unwrap_or(0);
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
}
