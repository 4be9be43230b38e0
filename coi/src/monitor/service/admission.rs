//! Who may talk to the daemon.
//!
//! It promises that a caller is who the kernel says, and that only root and the group incus-admin are answered at all.

use axum::{
    extract::{ConnectInfo, Request, connect_info::Connected},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
    serve::IncomingStream,
};
use nix::unistd::{Gid, Group, Uid, User};
use tokio::net::{UnixListener, unix::UCred};

use super::refusal::Refusal;

/// Incus's own group; who is in it can become root on the machine, and Incus says so.
const ADMIN_GROUP: &str = "incus-admin";

/// Incus's group, if this machine has it.
pub fn admin_group() -> Option<Gid> {
    Group::from_name(ADMIN_GROUP).ok().flatten().map(|group| group.gid)
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(Option<UCred>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok())
    }
}

impl Peer {
    pub(super) fn is_root(self) -> bool {
        self.0.is_some_and(|cred| cred.uid() == 0)
    }

    /// Whose calls are answered has one.
    pub(super) fn uid(self) -> u32 {
        self.0.map_or(u32::MAX, |cred| cred.uid())
    }

    /// Root, or a member of Incus's group.
    pub(super) fn is_admin(self) -> bool {
        let Some(cred) = self.0 else { return false };
        let Some(group) = admin_group() else { return self.is_root() };
        let member = || {
            let user = User::from_uid(Uid::from_raw(cred.uid())).ok().flatten()?;
            let name = std::ffi::CString::new(user.name).ok()?;
            Some(nix::unistd::getgrouplist(&name, user.gid).ok()?.contains(&group))
        };
        self.is_root() || cred.gid() == group.as_raw() || member().unwrap_or(false)
    }
}

pub(super) async fn admit(
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    if !peer.is_admin() {
        let words = format!("only root and the group {ADMIN_GROUP} may talk to COI's daemon");
        return Refusal::new(StatusCode::FORBIDDEN, "denied", words).into_response();
    }
    request.extensions_mut().insert(peer);
    next.run(request).await
}
