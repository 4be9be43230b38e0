//! Who may talk to the daemon, and about what.
//!
//! It promises that a caller is who the kernel said at the moment of the connection. Root and the members of the group
//! incus-admin, who can become root by way of Incus, see and act on everything that is watched; another user on what the
//! daemon's own state says is theirs, and nobody else on anything. Which call takes what is in [`super::calls`].

use std::{io, mem::size_of, os::fd::AsRawFd as _};

use nix::{
    libc,
    unistd::{Gid, Group},
};
use tokio::net::UnixStream;

use super::refusal::Refusal;
use crate::monitor::lineage;

/// Incus's own group; who is in it can become root on the machine, and Incus says so.
pub(super) const ADMIN_GROUP: &str = "incus-admin";

/// Incus's group, if this machine has it.
pub fn admin_group() -> Option<Gid> {
    Group::from_name(ADMIN_GROUP).ok().flatten().map(|group| group.gid)
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Its other groups.
    pub(super) groups: Vec<u32>,
    is_admin: bool,
    /// The process that has connected, and when it began: numbers are given again.
    process: Option<(u32, u64)>,
}

/// What a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Root, administrators, and who owns something that is watched; each is shown what it may see.
    Owner,
    /// Root and administrators.
    Admin,
    /// Root.
    Root,
}

impl Who {
    /// As the documentation says it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner, incus-admin, root",
            Self::Admin => "incus-admin, root",
            Self::Root => "root",
        }
    }
}

impl Caller {
    pub(super) fn new(uid: u32, gid: u32, groups: Vec<u32>, admins: Option<Gid>) -> Self {
        let is_admin =
            uid == 0 || admins.is_some_and(|group| gid == group.as_raw() || groups.contains(&group.as_raw()));
        Self { uid, gid, groups, is_admin, process: None }
    }

    /// The daemon itself.
    pub(super) const fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new(), is_admin: true, process: None }
    }

    /// Who is at the other end.
    pub(super) async fn of(stream: &UnixStream) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        let process = peer.pid().and_then(|pid| u32::try_from(pid).ok());
        let process = process.and_then(|pid| Some((pid, lineage::place(pid)?.start_ticks)));
        if peer.uid() == 0 {
            return Ok(Self { process, ..Self::new(0, peer.gid(), Vec::new(), None) });
        }
        let groups = groups(stream)?;
        // The machine's directory of groups may be slow to answer.
        let admins = tokio::task::spawn_blocking(admin_group).await.map_err(io::Error::other)?;
        Ok(Self { process, ..Self::new(peer.uid(), peer.gid(), groups, admins) })
    }

    /// Does the process that has connected run still, as far as is known?
    pub(super) fn is_there(&self) -> bool {
        self.process
            .is_some_and(|(pid, since)| lineage::place(pid).is_some_and(|place| place.start_ticks == since))
    }

    pub(super) const fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Root, or a member of Incus's group.
    pub(super) const fn is_admin(&self) -> bool {
        self.is_admin
    }

    /// May it see, and act on, what belongs to this user?
    pub(super) const fn may_see(&self, owner: u32) -> bool {
        self.is_admin || self.uid == owner
    }

    /// Whether it may make a call that takes this; `owns` is whether anything that is watched is its own.
    pub(super) fn check(&self, who: Who, owns: impl FnOnce() -> bool) -> Result<(), Refusal> {
        match who {
            Who::Root if !self.is_root() => {
                Err(Refusal::denied("only root may do this; run the command with sudo".to_owned()))
            }
            Who::Admin if !self.is_admin => {
                Err(Refusal::denied(format!("only root and members of the group {ADMIN_GROUP} may see this")))
            }
            Who::Owner if !self.is_admin && !owns() => Err(Refusal::denied(format!(
                "nothing that COI watches belongs to you (uid {}); only root and members of the group {ADMIN_GROUP} see and \
                 act on what belongs to others",
                self.uid
            ))),
            _ => Ok(()),
        }
    }
}

/// The groups that the other end had, beside its first, when it connected.
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    // As many as most processes have; the kernel says if there are more.
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length =
            libc::socklen_t::try_from(groups.len() * size_of::<libc::gid_t>()).map_err(io::Error::other)?;
        // SAFETY: the socket is open for as long as `stream` is borrowed; the kernel writes at most `length` bytes, which
        // is what `groups` has room for, and any bytes are group ids.
        let done = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        if done == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMINS: Option<Gid> = Some(Gid::from_raw(994));

    #[test]
    fn who_may_what() {
        let root = Caller::new(0, 0, vec![], ADMINS);
        let by_first_group = Caller::new(1000, 994, vec![], ADMINS);
        let by_other_group = Caller::new(1000, 1000, vec![27, 994], ADMINS);
        let user = Caller::new(1000, 1000, vec![27], ADMINS);
        let without_incus = Caller::new(1000, 994, vec![994], None);
        let all = [&root, &by_first_group, &by_other_group, &user, &without_incus];
        let may = |who, owns| all.map(|caller| caller.check(who, || owns).is_ok());
        assert_eq!(may(Who::Root, true), [true, false, false, false, false]);
        assert_eq!(may(Who::Admin, true), [true, true, true, false, false]);
        assert_eq!(may(Who::Owner, true), [true; 5]);
        assert_eq!(may(Who::Owner, false), [true, true, true, false, false]);
        assert_eq!(all.map(|caller| caller.may_see(1000)), [true; 5]);
        assert_eq!(all.map(|caller| caller.may_see(1001)), [true, true, true, false, false]);
    }

    #[tokio::test]
    async fn the_kernel_says_who_calls() {
        let (one, _other) = UnixStream::pair().unwrap();
        let caller = Caller::of(&one).await.unwrap();
        assert_eq!(
            (caller.uid, caller.gid),
            (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw())
        );
        let mut mine: Vec<_> = nix::unistd::getgroups().unwrap().into_iter().map(Gid::as_raw).collect();
        let mut told = groups(&one).unwrap();
        mine.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, mine);
    }
}
