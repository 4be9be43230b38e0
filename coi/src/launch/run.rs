//! One command in a container, with its monitor at its side.

use nix::libc::{SIGKILL, SIGTERM};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::monitored::{AFTERMATH, is_over};
use super::{Container, Error, Notices, Result, Signals};
use crate::monitor::service::api::ActionTaken;

/// How a command ended.
#[derive(Debug)]
pub enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// A rule killed it.
    Killed(ActionTaken),
    /// It was asked twice to stop, the last time with this signal, and was still there.
    GivenUp(i32),
}

/// Whether an exit code is that of a process that somebody else may have ended.
pub(super) fn is_suspicious(code: i32) -> bool {
    code == 128 + SIGKILL || code == 128 + SIGTERM
}

/// Runs a command as the workspace's owner. The first signal goes to the command, the second ends it: the
/// caller then removes the container, and with it all that is in it.
pub async fn run(
    container: &mut Container,
    words: Vec<String>,
    streams: (impl AsyncRead + Unpin, impl AsyncWrite + Unpin, impl AsyncWrite + Unpin),
    signals: &mut Signals,
    notices: &mut impl Notices,
) -> Result<Outcome> {
    let exec = container.guest.exec(container.guest.command(words), "dumb");
    let process = container.incus.exec(&container.name, &exec).await?;
    let (to_command, for_command) = mpsc::channel(4);
    let (stdin, stdout, stderr) = streams;
    let mut process = Box::pin(process.run(stdin, stdout, stderr, for_command));
    let mut asked = false;
    let ended = loop {
        tokio::select! {
            ended = &mut process => break Some(ended),
            state = container.monitored.follow(notices) => {
                if is_over(state) {
                    // What it said before its end is still on its way.
                    break timeout(AFTERMATH, &mut process).await.ok();
                }
            }
            signal = signals.next() => {
                // What is frozen cannot hear it.
                if asked || container.monitored.is_frozen() {
                    return Ok(Outcome::GivenUp(signal));
                }
                asked = true;
                let _ = to_command.try_send(signal);
            }
        }
    };
    let suspicious = !matches!(ended, Some(Ok(code)) if !is_suspicious(code));
    if let Some(action) = container.monitored.killed(suspicious, notices).await? {
        return Ok(Outcome::Killed(action));
    }
    match ended {
        Some(Ok(code)) if !suspicious || !container.monitored.is_empty().await => Ok(Outcome::Exited(code)),
        Some(Err(error)) if !container.monitored.is_empty().await => Err(error.into()),
        _ => Err(Error::Vanished { name: container.name.clone() }),
    }
}
