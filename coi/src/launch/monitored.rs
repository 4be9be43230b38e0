//! Something that runs with the daemon's eye on it, and what to do when the eye closes.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;

use super::{MonitorLost, Notices, Result};
use crate::incus::{self, Status};
use crate::monitor::rules::{Action, OwnRules};
use crate::monitor::service::api::{
    ActionName, ActionTaken, OnMonitorLoss, Subject, Watch, WatchRequest, WatchState,
};
use crate::monitor::service::client::{self, Client, Events};
use crate::monitor::service::stream::Line;

/// How long after something's end its last output, or the daemon's word on it, may take.
pub(super) const AFTERMATH: Duration = Duration::from_secs(3);

/// How often it is looked whether there is a daemon again. Nothing would tell: systemd's socket is there all the time, a
/// daemon's own is made before it answers, in a directory that may go and come. It is tried until somebody ends it: what
/// runs is frozen meanwhile, or goes on, and neither waits for this.
const AGAIN: Duration = Duration::from_millis(250);

/// How long after its processes were killed something may still look alive: Incus takes up to a second to
/// notice that somebody else ended an instance.
const NOTICE: Duration = Duration::from_secs(1);

/// A watch that answers by the rules, followed while something runs in it.
#[derive(Debug)]
pub(super) struct Monitored {
    daemon: Client,
    request: WatchRequest,
    pub(super) watch: Watch,
    events: Events,
    life: Life,
}

/// How to tell, without the daemon, whether it still runs.
#[derive(Debug)]
pub(super) enum Life {
    /// An instance, and the uuid that tells it from a later one of its name.
    Instance { incus: incus::Client, name: String, uuid: Option<String> },
    /// A cgroup's directory.
    Cgroup(PathBuf),
}

impl Life {
    /// Whether nothing runs in it any more.
    async fn is_empty(&self) -> bool {
        match self {
            Self::Instance { incus, name, uuid } => match incus.instance(name).await {
                Ok(instance) => {
                    instance.uuid() != uuid.as_deref()
                        || !matches!(instance.status, Status::Running | Status::Frozen)
                }
                Err(error) => matches!(error, incus::Error::NotFound { .. }),
            },
            Self::Cgroup(dir) => match fs::read_to_string(dir.join("cgroup.events")) {
                Ok(events) => events.lines().any(|line| line == "populated 0"),
                Err(_) => true,
            },
        }
    }
}

/// What is asked of the daemon for what COI launches: it is watched, and answered by the rules. Without rules it is not
/// monitored, but accompanied.
pub(super) fn launched(subject: Subject, rules: Option<OwnRules>) -> WatchRequest {
    WatchRequest {
        respond: true,
        monitored: rules.is_some(),
        rules: rules.unwrap_or_default(),
        launched: true,
        ..WatchRequest::new(subject)
    }
}

impl Monitored {
    /// Has it watched. A container's watch ends with the container: asking for its end by name would be wrong, for by then
    /// the name may be another container's.
    pub(super) async fn arm(
        daemon: Client,
        mut request: WatchRequest,
        life: Life,
    ) -> Result<Self, client::Error> {
        let (watch, events) = arm(&daemon, &request).await?;
        // Armed again after an absence of the daemon, it lives as it was told to meanwhile.
        request.life = None;
        Ok(Self { daemon, request, watch, events, life })
    }

    /// Tells what happens until the watch's state changes; answers the new one. When the daemon has gone, this waits
    /// until it is watched again.
    ///
    /// Dropping the future loses no line.
    pub(super) async fn follow(&mut self, notices: &mut impl Notices) -> WatchState {
        loop {
            let Some((_, value)) = self.events.next().await else {
                match self.daemon.get(&self.watch.name).await {
                    Ok(watch) if is_over(watch.state) => {
                        self.watch.state = watch.state;
                        return watch.state;
                    }
                    _ => {
                        if !self.restore(notices).await {
                            self.watch.state = WatchState::Gone;
                            return WatchState::Gone;
                        }
                    }
                }
                continue;
            };
            let line = Line::read(&value);
            if line.is_alert() {
                self.tell(&line, notices);
            } else if line.coi.record == "action" && line.done() == Some(ActionName::Freeze) {
                notices.held(&self.watch, &line.coi.message);
            }
            if let Some(state) = line.coi.state.filter(|_| line.coi.record == "state") {
                let before = std::mem::replace(&mut self.watch.state, state);
                if (before, state) == (WatchState::Frozen, WatchState::Running) {
                    notices.unfrozen(&self.watch);
                }
                return state;
            }
        }
    }

    fn tell(&self, line: &Line, notices: &mut impl Notices) {
        match line.done() {
            // The kill is told once the daemon has confirmed it.
            Some(ActionName::Kill) => {}
            Some(ActionName::Freeze) => notices.frozen(&self.watch, line),
            _ if line.failed().is_some() || line.coi.response >= Some(Action::Notify) => {
                notices.alert(line);
            }
            _ => {}
        }
    }

    /// Waits until a daemon watches it again. Meanwhile it is the guard's: the daemon told it what is to be done, and it
    /// needs nobody's terminal for that. Is it still there?
    async fn restore(&mut self, notices: &mut impl Notices) -> bool {
        let mut told = false;
        loop {
            match arm(&self.daemon, &self.request).await {
                Ok((watch, events)) => {
                    (self.watch, self.events) = (watch, events);
                    self.tell_loss(MonitorLost::Rearmed, notices);
                    return true;
                }
                Err(lost) if lost.is_not_found() => return false,
                Err(lost) if !told => {
                    let then = match self.watch.on_monitor_loss {
                        OnMonitorLoss::Freeze => MonitorLost::Freezes(lost),
                        OnMonitorLoss::Continue => MonitorLost::Continues(lost),
                    };
                    self.tell_loss(then, notices);
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// What has no monitor cannot lose it.
    fn tell_loss(&self, then: MonitorLost, notices: &mut impl Notices) {
        if self.watch.monitored {
            notices.monitor_lost(&self.watch.name, then);
        }
    }

    /// What a rule did to end it, if a rule did. With `suspicious`, an end that a kill would explain, this
    /// waits for the daemon's word: an end can be seen before it is recorded.
    pub(super) async fn killed(
        &mut self,
        suspicious: bool,
        notices: &mut impl Notices,
    ) -> Result<Option<ActionTaken>> {
        if suspicious && !self.ends_within(NOTICE, notices).await && self.is_empty().await {
            self.ends_within(AFTERMATH, notices).await;
        }
        let watch = match self.daemon.get(&self.watch.name).await {
            Ok(watch) => watch,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        self.watch.state = watch.state;
        let kill = watch.last_action.clone().filter(|a| a.action == ActionName::Kill && a.error.is_none());
        if let Some(action) = &kill {
            notices.killed(&watch, action);
        }
        Ok(kill)
    }

    /// Tells what was still on its way when it ended: events may wait some milliseconds to be judged. What is kept is
    /// armed again when it has stopped.
    pub(super) async fn last_words(
        &mut self,
        is_kept: bool,
        notices: &mut impl Notices,
    ) -> Result<Option<ActionTaken>> {
        if is_over(self.watch.state) {
            return Ok(None);
        }
        let rests = |state| is_over(state) || is_kept && state == WatchState::Armed;
        // It may have been seen to rest already; or the word of its beginning is still on its way, too.
        let within = if rests(self.watch.state) { NOTICE } else { AFTERMATH };
        let words = async { while !rests(self.follow(notices).await) {} };
        let _ = timeout(within, words).await;
        self.killed(false, notices).await
    }

    /// The daemon that watches it.
    pub(super) const fn daemon(&self) -> &Client {
        &self.daemon
    }

    /// Whether the daemon says within this time that it is over.
    async fn ends_within(&mut self, time: Duration, notices: &mut impl Notices) -> bool {
        let over = async { while !is_over(self.watch.state) && !is_over(self.follow(notices).await) {} };
        timeout(time, over).await.is_ok()
    }

    /// Whether what runs in it is stopped, as far as has been seen.
    pub(super) fn is_frozen(&self) -> bool {
        self.watch.state == WatchState::Frozen
    }

    /// Whether nothing runs in it any more. The daemon knows before Incus does.
    pub(super) async fn is_empty(&self) -> bool {
        is_over(self.watch.state) || self.life.is_empty().await
    }
}

/// Whether nothing more will come of it.
pub(super) fn is_over(state: WatchState) -> bool {
    matches!(state, WatchState::Killed | WatchState::Gone)
}

async fn arm(daemon: &Client, request: &WatchRequest) -> Result<(Watch, Events), client::Error> {
    // A daemon that has nothing to watch ends; the making of a container gives it time to.
    let daemon = daemon.clone().ensure().await?;
    let watch = daemon.watch(request).await?;
    let events = daemon.alerts(&watch.name).await?;
    Ok((watch, events))
}
