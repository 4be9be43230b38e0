//! One command in a container, with its monitor at its side.

use std::time::Duration;

use nix::libc::{SIGKILL, SIGTERM};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::container::arm;
use super::{Container, Error, MonitorLost, Notices, Result, Signals};
use crate::incus::{self, Status};
use crate::monitor::rules::Severity;
use crate::monitor::service::api::{ActionName, ActionTaken, Watch, WatchState};
use crate::monitor::service::stream::Line;

/// How long after a container's end its last output, or the daemon's word on it, may take.
const AFTERMATH: Duration = Duration::from_secs(5);

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

/// Runs a command as the workspace's owner. The first signal goes to the command, the second ends it: the
/// caller then removes the container, and what is in it.
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
            state = container.follow(notices) => {
                // What it said before its end is still on its way.
                if matches!(state, WatchState::Killed | WatchState::Gone) {
                    break timeout(AFTERMATH, &mut process).await.ok();
                }
            }
            signal = signals.next() => {
                if asked {
                    return Ok(Outcome::GivenUp(signal));
                }
                asked = true;
                let _ = to_command.try_send(signal);
            }
        }
    };
    if let Some(action) = container.killed(&ended, notices).await? {
        return Ok(Outcome::Killed(action));
    }
    match ended {
        Some(Ok(code)) => Ok(Outcome::Exited(code)),
        Some(Err(_)) | None if container.vanished().await => {
            Err(Error::Vanished { name: container.name.clone() })
        }
        Some(Err(error)) => Err(error.into()),
        None => Err(Error::Vanished { name: container.name.clone() }),
    }
}

impl Container {
    /// Tells what happens until the watch's state changes; answers the new one. Without a monitor the
    /// container does not go on: it is watched again, or frozen.
    ///
    /// Dropping the future loses no line.
    pub(super) async fn follow(&mut self, notices: &mut impl Notices) -> WatchState {
        loop {
            let Some((_, value)) = self.events.next().await else {
                match self.daemon.get(&self.name).await {
                    Ok(watch) if matches!(watch.state, WatchState::Killed | WatchState::Gone) => {
                        return watch.state;
                    }
                    _ => self.restore_monitor(notices).await,
                }
                continue;
            };
            let line = Line::read(&value);
            if line.is_alert() {
                self.tell(&line, notices);
            }
            match line.coi.state.filter(|_| line.event.kind == "state") {
                Some(WatchState::Running) if self.watch.state == WatchState::Frozen => {
                    self.watch.state = WatchState::Running;
                    notices.unfrozen(&self.watch);
                    return WatchState::Running;
                }
                Some(state) => {
                    self.watch.state = state;
                    return state;
                }
                None => {}
            }
        }
    }

    fn tell(&mut self, line: &Line, notices: &mut impl Notices) {
        match line.done() {
            // The kill is told once the daemon has confirmed it.
            Some(ActionName::Kill) => {}
            Some(ActionName::Freeze) => notices.frozen(&self.watch, line),
            _ if line.failed().is_some() || line.coi.severity >= Some(Severity::Warning) => {
                notices.alert(line);
            }
            _ => {}
        }
    }

    async fn restore_monitor(&mut self, notices: &mut impl Notices) {
        let armed = match self.daemon.clone().ensure().await {
            Ok(daemon) => arm(&daemon, &self.name, true).await,
            Err(error) => Err(error),
        };
        let then = match armed {
            Ok((watch, events)) => {
                (self.watch, self.events) = (watch, events);
                MonitorLost::Rearmed
            }
            Err(lost) => match self.incus.freeze(&self.name).await {
                Ok(()) => MonitorLost::Frozen(lost),
                Err(error) => MonitorLost::Helpless(lost, error),
            },
        };
        let rearmed = matches!(then, MonitorLost::Rearmed);
        notices.monitor_lost(&self.name, then);
        if !rearmed {
            // Nobody is there who could have more to say.
            std::future::pending::<()>().await;
        }
    }

    /// What a rule did to end the container, if it did. A command that ended in a way that a kill explains
    /// makes this wait for the daemon's word, for the end can be seen before it is recorded.
    pub(super) async fn killed(
        &mut self,
        ended: &Option<incus::Result<i32>>,
        notices: &mut impl Notices,
    ) -> Result<Option<ActionTaken>> {
        let suspicious = !matches!(ended, Some(Ok(code)) if *code != 128 + SIGKILL && *code != 128 + SIGTERM);
        if suspicious && self.vanished().await {
            let _ = timeout(AFTERMATH, async {
                while !matches!(self.follow(notices).await, WatchState::Killed | WatchState::Gone) {}
            })
            .await;
        }
        let watch = match self.daemon.get(&self.name).await {
            Ok(watch) => watch,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(kill_of(watch).map(|(watch, action)| {
            notices.killed(&watch, &action);
            action
        }))
    }

    /// Whether the container no longer runs.
    pub(super) async fn vanished(&self) -> bool {
        match self.incus.instance(&self.name).await {
            Ok(instance) => {
                instance.uuid() != self.uuid.as_deref()
                    || !matches!(instance.status, Status::Running | Status::Frozen)
            }
            Err(error) => matches!(error, incus::Error::NotFound { .. }),
        }
    }
}

/// The kill that a watch reports.
fn kill_of(mut watch: Watch) -> Option<(Watch, ActionTaken)> {
    let action = watch.last_action.take()?;
    (action.action == ActionName::Kill && action.error.is_none()).then_some((watch, action))
}
