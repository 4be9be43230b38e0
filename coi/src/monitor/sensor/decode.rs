//! From a ring's bytes to a typed event.
//!
//! It promises never to panic, whatever the bytes, and to keep every mark the kernel side set (truncated,
//! unreadable, as passed). It knows no process and no container, only what one record says.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use coi_common::{self as wire, Header, Kind, Record};

/// One record, decoded.
#[derive(Clone, Debug)]
pub struct RawEvent {
    /// Who, when, and in which watched cgroup.
    pub header: Header,
    /// What.
    pub body: Body,
}

/// What a record says.
#[derive(Clone, Debug)]
pub enum Body {
    /// A process runs another program.
    Exec {
        /// The program's file.
        path: Path,
        /// The arguments as far as they were kept.
        args: Arc<[Arc<str>]>,
        /// Standard input, output and error.
        stdio: [wire::Stream; 3],
    },
    /// An execve(2) was refused.
    ExecFailed {
        /// What the caller passed.
        path: Path,
        /// The error number, positive.
        errno: Option<i32>,
    },
    /// The header's process was made.
    Fork,
    /// The header's process ended.
    Exit {
        /// As wait(2) gives it.
        status: u32,
    },
    /// A connection was begun.
    Connect(Connection),
    /// A connection was accepted.
    Accept(Connection),
    /// A standard stream was put onto a socket.
    Redirect {
        /// Standard input, output and error, after it.
        stdio: [wire::Stream; 3],
    },
    /// A file was opened, or the attempt refused.
    Open(Open),
    /// What was read from the workspace since the thread's last such event.
    Read(wire::Sum),
    /// What was sent to other addresses than loopback since the thread's last such event.
    Send(wire::Sum),
    /// A socket was bound to an address.
    Bind(Peer),
    /// A socket listens at an address.
    Listen(Peer),
    /// Names, modes or owners changed.
    Change(Change),
    /// A file of the workspace was mapped.
    Map(Open),
    /// A rare system call.
    Syscall(Syscall),
    /// A request was submitted to io_uring.
    IoUring {
        /// An `IORING_OP_*`.
        opcode: u32,
    },
    /// An expected cgroup was made.
    CgroupMade(Cgroup),
    /// A watched cgroup was removed.
    CgroupGone(Cgroup),
    /// Records were lost. Made by user space out of the kernel's counters.
    Loss {
        /// What was lost.
        kind: Kind,
        /// How many.
        count: u64,
        /// The container had more on the way than one may have; else the ring was full.
        throttled: bool,
    },
}

/// A path, and how far it can be trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The path; relative only with `as_passed` or `truncated`.
    pub text: String,
    /// Its beginning is missing.
    pub truncated: bool,
    /// It could not be read; the text may be empty or incomplete.
    pub unreadable: bool,
    /// It is what the caller passed, joined to the directory it is relative to, not what the kernel resolved.
    pub as_passed: bool,
    /// The file is in no directory, as a memfd is.
    pub nowhere: bool,
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Standard input, output and error of the process.
    pub stdio: [wire::Stream; 3],
    /// The socket's inode number.
    pub inode: u64,
    /// The peer.
    pub peer: Peer,
    /// 0, an error number (positive), or `None` where the call had not returned.
    pub result: Option<i32>,
    /// The address is what the caller passed, not the socket's.
    pub as_passed: bool,
    /// What the caller's memory said meanwhile, where it was asked.
    pub passed: Option<(IpAddr, u16)>,
}

/// The other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// TCP.
    Tcp(IpAddr, u16),
    /// UDP, or another protocol with ports.
    Udp(IpAddr, u16),
    /// AF_UNIX; an abstract address begins with `@`.
    Unix(String),
    /// Packets of the process's own making; without an address if they are frames, or if it is not known.
    Raw(Option<IpAddr>),
}

/// An opened file.
#[derive(Clone, Debug)]
pub struct Open {
    /// Its path.
    pub path: Path,
    /// Its inode number.
    pub inode: u64,
    /// Its file system, as the kernel numbers devices.
    pub device: u32,
    /// O_WRONLY or O_RDWR.
    pub write: bool,
    /// This call made it.
    pub created: bool,
    /// It is a named pipe.
    pub fifo: bool,
    /// 0, an error number (positive), or `None` where the call had not returned.
    pub errno: Option<i32>,
    /// What the caller's memory said when the call returned, where it was asked.
    pub passed: Option<String>,
}

/// A change of names, modes or owners.
#[derive(Clone, Debug)]
pub struct Change {
    /// The system call's number on x86-64.
    pub syscall: u32,
    /// The affected name; the new one where there are two.
    pub path: Path,
    /// The old name; or a symbolic link's text.
    pub other: Option<String>,
    /// The third argument.
    pub argument2: u64,
    /// As in [`Open`].
    pub errno: Option<i32>,
}

/// A rare system call.
#[derive(Clone, Debug)]
pub struct Syscall {
    /// Its number on x86-64.
    pub number: u32,
    /// The text that one of its arguments is.
    pub text: Option<String>,
    /// What it gave back.
    pub result: i64,
    /// Its first four arguments.
    pub arguments: [u64; 4],
}

/// A cgroup that came or went.
#[derive(Clone, Debug)]
pub struct Cgroup {
    /// Its id.
    pub id: u64,
    /// Its depth below the hierarchy's root.
    pub level: u32,
    /// Its path from the hierarchy's root.
    pub path: String,
}

/// A record that is not what the kernel side sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends before its header or body does.
    #[error("a record of {len} bytes is too short for what it says it is")]
    Short {
        /// How long it is.
        len: usize,
    },
    /// It says it is of a kind that does not exist.
    #[error("a record is of unknown kind {kind}")]
    UnknownKind {
        /// The kind's number.
        kind: u32,
    },
}

/// Decodes one record.
pub fn decode(bytes: &[u8]) -> Result<RawEvent, DecodeError> {
    let short = DecodeError::Short { len: bytes.len() };
    let (header, rest): (Header, _) = take(bytes).ok_or(short)?;
    let kind = Kind::from_u32(header.kind).ok_or(DecodeError::UnknownKind { kind: header.kind })?;
    let body = body(kind, &header, rest).ok_or(DecodeError::Short { len: bytes.len() })?;
    Ok(RawEvent { header, body })
}

fn body(kind: Kind, header: &Header, rest: &[u8]) -> Option<Body> {
    Some(match kind {
        Kind::Exec => {
            let (exec, tail): (wire::Exec, _) = take(rest)?;
            let (path, tail) = split(tail, exec.path_len)?;
            let (args, _) = split(tail, exec.args_len)?;
            let unreadable = header.flags & wire::FLAG_ARGS_UNREADABLE != 0;
            let args = if unreadable { Arc::from([]) } else { texts(args) };
            Body::Exec { path: self::path(header, path), args, stdio: exec.stdio }
        }
        Kind::ExecFailed => {
            let Open { path, errno, .. } = opened(header, rest)?;
            Body::ExecFailed { path, errno }
        }
        Kind::Fork => Body::Fork,
        Kind::Exit => Body::Exit { status: take::<wire::Exit>(rest)?.0.status },
        Kind::Connect => Body::Connect(connection(header, rest)?),
        Kind::Accept => Body::Accept(connection(header, rest)?),
        Kind::Redirect => Body::Redirect { stdio: take::<wire::Redirect>(rest)?.0.stdio },
        Kind::Open => Body::Open(opened(header, rest)?),
        Kind::Map => Body::Map(opened(header, rest)?),
        Kind::Read => Body::Read(take::<wire::Sum>(rest)?.0),
        Kind::Send => Body::Send(take::<wire::Sum>(rest)?.0),
        Kind::Bind => Body::Bind(local(rest)?),
        Kind::Listen => Body::Listen(local(rest)?),
        Kind::Change => Body::Change(change(header, rest)?),
        Kind::Syscall => {
            let (call, tail): (wire::Syscall, _) = take(rest)?;
            let (text, _) = split(tail, call.text_len)?;
            Body::Syscall(Syscall {
                number: call.number,
                text: (!text.is_empty()).then(|| self::text(text)),
                result: call.result,
                arguments: call.arguments,
            })
        }
        Kind::IoUring => Body::IoUring { opcode: take::<wire::Submission>(rest)?.0.opcode },
        Kind::CgroupMade => Body::CgroupMade(cgroup(rest)?),
        Kind::CgroupGone => Body::CgroupGone(cgroup(rest)?),
    })
}

/// Takes a record off the front.
fn take<T: Record>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (front, rest) = bytes.split_at_checked(size_of::<T>())?;
    // SAFETY: `front` has the type's size, the read needs no alignment, and a Record is valid for any bits.
    Some((unsafe { front.as_ptr().cast::<T>().read_unaligned() }, rest))
}

fn split(bytes: &[u8], len: u32) -> Option<(&[u8], &[u8])> {
    bytes.split_at_checked(len as usize)
}

/// Texts that are each ended by a NUL; the last one may have been cut.
fn texts(bytes: &[u8]) -> Arc<[Arc<str>]> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Arc::from([]);
    }
    bytes.split(|byte| *byte == 0).map(|text| Arc::from(String::from_utf8_lossy(text))).collect()
}

/// A text, up to its NUL.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or(bytes)).into_owned()
}

/// The parts of a path, last first, each ended by a NUL.
fn path(header: &Header, bytes: &[u8]) -> Path {
    let flag = |flag| header.flags & flag != 0;
    let truncated = flag(wire::FLAG_PATH_TRUNCATED);
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    let text = if bytes.is_empty() {
        "/".to_owned()
    } else {
        let mut text = String::with_capacity(bytes.len() + 1);
        for part in bytes.rsplit(|byte| *byte == 0) {
            if !(truncated && text.is_empty()) {
                text.push('/');
            }
            text.push_str(&String::from_utf8_lossy(part));
        }
        text
    };
    Path {
        text,
        truncated,
        unreadable: flag(wire::FLAG_PATH_UNREADABLE),
        as_passed: flag(wire::FLAG_PATH_AS_PASSED),
        nowhere: flag(wire::FLAG_PATH_NOWHERE),
    }
}

/// What a caller calls a file: its text, from the place that it is relative to.
fn named(header: &Header, place: &[u8], passed: &[u8]) -> Path {
    let place = path(header, place);
    let passed = text(passed);
    let text = if passed.starts_with('/') { passed } else { format!("{}/{passed}", place.text) };
    Path { text: tidy(&text), ..place }
}

/// A path without `.`, `..` and empty parts, as far as that can be told without looking at any file: a symbolic link
/// before a `..` leads elsewhere.
pub fn tidy(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn opened(header: &Header, rest: &[u8]) -> Option<Open> {
    let (open, tail): (wire::Open, _) = take(rest)?;
    let (place, tail) = split(tail, open.path_len)?;
    let (passed, _) = split(tail, open.passed_len)?;
    let refused = header.flags & wire::FLAG_PATH_AS_PASSED != 0;
    Some(Open {
        path: if refused { named(header, place, passed) } else { path(header, place) },
        inode: open.inode,
        device: open.device,
        write: open.flags & (nix::libc::O_WRONLY | nix::libc::O_RDWR) as u32 != 0,
        created: open.created != 0,
        fifo: open.mode & nix::libc::S_IFMT == nix::libc::S_IFIFO,
        errno: errno(open.result),
        passed: (!refused && !passed.is_empty()).then(|| text(passed)),
    })
}

fn change(header: &Header, rest: &[u8]) -> Option<Change> {
    let (change, tail): (wire::Change, _) = take(rest)?;
    let (place, tail) = split(tail, change.place_len)?;
    let (passed, tail) = split(tail, change.text_len)?;
    let (other_place, tail) = split(tail, change.other_place_len)?;
    let (other, _) = split(tail, change.other_text_len)?;
    let path = if passed.is_empty() { path(header, place) } else { named(header, place, passed) };
    // What a symbolic link says is relative to nothing yet.
    let other = match other {
        [] => None,
        other if other_place.is_empty() => Some(text(other)),
        other => Some(named(header, other_place, other).text),
    };
    Some(Change {
        syscall: change.syscall,
        path,
        other,
        argument2: change.argument2,
        errno: errno(change.result),
    })
}

/// What a result says: 0 or an error number, or that there is none yet.
fn errno(result: i32) -> Option<i32> {
    (result <= 0).then(|| result.saturating_neg())
}

fn local(rest: &[u8]) -> Option<Peer> {
    let (local, _): (wire::Local, _) = take(rest)?;
    Some(peer(&local.address, local.protocol))
}

fn peer(address: &wire::Address, protocol: u32) -> Peer {
    let ip = self::address(address);
    if protocol == nix::libc::IPPROTO_TCP as u32 || protocol == nix::libc::IPPROTO_MPTCP as u32 {
        Peer::Tcp(ip, address.port)
    } else {
        Peer::Udp(ip, address.port)
    }
}

fn connection(header: &Header, rest: &[u8]) -> Option<Connection> {
    let (connect, tail): (wire::Connect, _) = take(rest)?;
    let as_passed = header.flags & wire::FLAG_ADDRESS_AS_PASSED != 0;
    let passed = sockaddr(&connect.passed);
    let peer = if connect.peer.family == nix::libc::AF_UNIX as u16 {
        let (path, _) = split(tail, connect.path_len)?;
        Peer::Unix(match path {
            [] => String::new(),
            [0, name @ ..] if as_passed || connect.is_abstract != 0 => {
                format!("@{}", String::from_utf8_lossy(name).trim_end_matches('\0'))
            }
            path if as_passed => text(path),
            path => self::path(header, path).text,
        })
    } else if connect.protocol == wire::PROTOCOL_RAW {
        Peer::Raw(if as_passed { passed.map(|(ip, _)| ip) } else { Some(address(&connect.peer)) })
    } else if let (true, Some((ip, port))) = (as_passed, passed) {
        Peer::Tcp(ip, port)
    } else {
        peer(&connect.peer, connect.protocol)
    };
    Some(Connection {
        stdio: connect.stdio,
        inode: connect.inode,
        peer,
        result: errno(connect.result),
        as_passed,
        passed,
    })
}

/// The address in a `struct sockaddr_in` or `sockaddr_in6`.
fn sockaddr(bytes: &[u8; wire::SOCKADDR]) -> Option<(IpAddr, u16)> {
    let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let mut ip = [0; 16];
    if family == nix::libc::AF_INET as u16 {
        ip[..4].copy_from_slice(&bytes[4..8]);
    } else if family == nix::libc::AF_INET6 as u16 {
        ip.copy_from_slice(&bytes[8..24]);
    } else {
        return None;
    }
    Some((address(&wire::Address { ip, family, port }), port))
}

/// The address in a record; an IPv4 address in IPv6's clothes is given as IPv4.
pub fn address(address: &wire::Address) -> IpAddr {
    let ip = address.ip;
    if address.family == nix::libc::AF_INET as u16 {
        Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]).into()
    } else {
        Ipv6Addr::from(ip).to_canonical()
    }
}

fn cgroup(rest: &[u8]) -> Option<Cgroup> {
    let (cgroup, tail): (wire::Cgroup, _) = take(rest)?;
    let (path, _) = split(tail, cgroup.path_len)?;
    let path = path.strip_suffix(&[0]).unwrap_or(path);
    Some(Cgroup { id: cgroup.id, level: cgroup.level, path: String::from_utf8_lossy(path).into_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(flags: u32) -> Header {
        Header { flags, ..Header::default() }
    }

    #[test]
    fn a_path_is_turned_around() {
        let whole = path(&header(0), b"passwd\0etc\0");
        assert_eq!(whole.text, "/etc/passwd");
        assert_eq!(path(&header(0), b"").text, "/");
        let cut = path(&header(wire::FLAG_PATH_TRUNCATED), b"c\0b\0");
        assert_eq!((cut.text.as_str(), cut.truncated), ("b/c", true));
        let passed = |place, text| named(&header(wire::FLAG_PATH_AS_PASSED), place, text).text;
        assert_eq!(passed(b"b\0a\0", b".//../x\0"), "/a/x");
        assert_eq!(passed(b"b\0a\0", b"/x/./y\0"), "/x/y");
    }

    #[test]
    fn empty_arguments_are_kept() {
        let args = texts(b"sh\0-c\0\0x\0");
        assert_eq!(args.iter().map(|arg| &**arg).collect::<Vec<_>>(), ["sh", "-c", "", "x"]);
        assert!(texts(b"").is_empty());
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let mut ip = [0; 16];
        ip[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
        let ip = address(&wire::Address { ip, family: nix::libc::AF_INET6 as u16, port: 0 });
        assert_eq!(ip, IpAddr::from([192, 0, 2, 1]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(mut bytes: Vec<u8>, kind in 0u32..Kind::COUNT + 3) {
            let at = std::mem::offset_of!(Header, kind);
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&kind.to_ne_bytes());
            }
            let _ = decode(&bytes);
        }

        #[test]
        fn long_bytes_too(tail in proptest::collection::vec(any::<u8>(), 0..2048), kind in 1u32..Kind::COUNT, len in 0u32..2048) {
            let mut bytes = vec![0; size_of::<Header>()];
            let at = std::mem::offset_of!(Header, kind);
            bytes[at..at + 4].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend(&tail);
            if let Some(place) = bytes.get_mut(size_of::<Header>() + 144..size_of::<Header>() + 148) {
                place.copy_from_slice(&len.to_ne_bytes());
            }
            let _ = decode(&bytes);
        }
    }
}
