//! Packets of JSON on a unix socket, each with at most one descriptor.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

use nix::sys::{
    socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
        accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg, setsockopt, socket,
        sockopt::{PeerCredentials, SendTimeout},
    },
    time::{TimeVal, TimeValLike as _},
};
use serde::{Serialize, de::DeserializeOwned};

/// The longest packet: a cgroup's path has at most 4096 bytes.
const LONGEST: usize = 64 << 10;

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Packets(OwnedFd);

fn make() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Listens at this path; what is there is replaced.
pub(super) fn listening(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = make()?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(4)?)?;
    Ok(listener)
}

impl Packets {
    /// Connects to who listens at this path.
    pub(super) fn connect(path: &Path) -> io::Result<Self> {
        let socket = make()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(socket))
    }

    /// The next who has connected.
    pub(super) fn accept(listener: &OwnedFd) -> io::Result<Self> {
        let accepted = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(accepted) }))
    }

    /// Who is at the other end: its pid and uid.
    pub(super) fn peer(&self) -> io::Result<(u32, u32)> {
        let peer = getsockopt(&self.0, PeerCredentials)?;
        Ok((u32::try_from(peer.pid()).unwrap_or(0), peer.uid()))
    }

    /// Sending takes no longer than this, if the other end does not read.
    pub(super) fn send_within(&self, time: Duration) -> io::Result<()> {
        let time = TimeVal::milliseconds(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        Ok(setsockopt(&self.0, SendTimeout, &time)?)
    }

    /// Sends a packet.
    pub(super) fn send(&self, what: &impl Serialize, with: Option<RawFd>) -> io::Result<()> {
        let bytes = serde_json::to_vec(what)?;
        let descriptors: Vec<RawFd> = with.into_iter().collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights: &[_] = if descriptors.is_empty() { &[] } else { &rights };
        let sent = sendmsg::<UnixAddr>(
            self.0.as_raw_fd(),
            &[IoSlice::new(&bytes)],
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// The next packet; `None` when the other end is gone.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut bytes = vec![0; LONGEST];
        let mut room = nix::cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let got = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
        let (length, is_cut) = (got.bytes, got.flags.contains(MsgFlags::MSG_TRUNC));
        let mut with = None;
        for message in got.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = message {
                for descriptor in descriptors {
                    // SAFETY: the kernel has just put this descriptor into our table, and nobody else knows of it.
                    with = Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
                }
            }
        }
        if length == 0 {
            return Ok(None);
        }
        if is_cut {
            return Err(io::Error::other("a packet is too long"));
        }
        Ok(Some((serde_json::from_slice(&bytes[..length])?, with)))
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}
