//! What systemd hands to the daemon, and hears from it: the socket, that it is ready, that it is alive, that it ends.
//!
//! It promises that a sign of life has gone through the monitor's own thread: a daemon that only looks alive gives none,
//! and systemd starts another. Where nobody listens for all that, nothing is done.

use std::{
    io,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
};

use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use sd_notify::NotifyState;
use tokio::task::JoinHandle;

use crate::monitor::pipeline;

/// How many signs of life there are in the time in which there must be one.
const SIGNS: u32 = 3;

/// The socket that it listens on for the daemon, if it does.
pub(super) fn socket() -> io::Result<Option<UnixListener>> {
    let wrong = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    // Its variables stay as they are: they name this process, and mean nothing to its children.
    let mut descriptors = sd_notify::listen_fds()?;
    let Some(descriptor) = descriptors.next() else { return Ok(None) };
    if descriptors.len() > 0 {
        return Err(wrong("systemd hands over more than one socket; coi.socket may have one ListenStream="));
    }
    // SAFETY: by the protocol of LISTEN_FDS the descriptor is open and nobody's but this process's, as LISTEN_PID says;
    // this is the one place that takes it, and the daemon starts once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    if getsockopt(&descriptor, AcceptConn) != Ok(true) {
        return Err(wrong("what systemd hands over is not a socket that listens"));
    }
    let listener = UnixListener::from(descriptor);
    if listener.local_addr()?.as_pathname().is_none() {
        return Err(wrong("the socket that systemd hands over has no path"));
    }
    Ok(Some(listener))
}

/// Says how the daemon is. Who listens may be slow to: only who awaits the answer waits for that.
pub(super) fn say(state: NotifyState<'static>) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(%error, "systemd cannot be told how the daemon is");
        }
    })
}

/// Gives signs of life as long as the monitor's thread answers.
pub(super) async fn show_life(pipeline: pipeline::Handle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut turn = tokio::time::interval(limit / SIGNS);
    loop {
        turn.tick().await;
        if pipeline.catch_up().await.is_err() {
            tracing::error!("nothing is monitored; systemd is left to start another daemon");
            return;
        }
        if let Err(error) = say(NotifyState::Watchdog).await {
            tracing::warn!(%error, "systemd cannot be told that the daemon lives");
        }
    }
}
