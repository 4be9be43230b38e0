//! One deed: what is done about one alert, action by action.
//!
//! It promises that each action is done where the alert was, and that what stands still because of another alert, or of a
//! person, is not let go by this one.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};

use super::api::ActionName;
use crate::monitor::{
    audit::{
        self,
        evidence::{self as kept, Kept},
        files::{Place, state_directory},
        visible,
    },
    cgroup::{Cgroup, CgroupError},
    event::Event,
    notify::Notifier,
    pipeline::{Handle, Watched, was_refused},
    respond::{
        self, Action, Acts, Network, ProcessError, RespondError, Responder, blocking,
        evidence::{self, Found},
        process,
    },
    rules::Alert,
};

/// How long the processes of a tree may take to end; they stand still.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// How long a container may take to stand still before its processes are looked for, or it is copied.
pub(super) const STILL_WITHIN: Duration = Duration::from_secs(2);

/// How long a file of evidence may take to be written.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// What all watches act with.
pub(super) struct Means {
    pub(super) respond: respond::Options,
    pub(super) notifier: Notifier,
}

impl Means {
    /// Writes evidence down beside the log.
    pub(super) async fn keep(
        &self,
        log: &Path,
        event: &Event,
        alert: &Alert,
        found: Found,
        recent: &[Event],
    ) -> Result<Kept, String> {
        let place = Place::of_file(log, &state_directory()).ok_or("it is not known where the log is")?;
        let evidence = Evidence {
            timestamp: audit::timestamp(event.time),
            container: json!({ "name": event.container.name, "id": event.container.id }),
            rule: json!({ "id": alert.rule.id, "name": alert.rule.title }),
            coi: json!({ "clock": event.time, "message": audit::redact::text(&alert.message) }),
            found,
            events: audit::Told(recent),
        };
        let failed = |error: io::Error| format!("the evidence cannot be written: {error}");
        let text = visible(serde_json::to_string(&evidence).map_err(|error| failed(error.into()))?) + "\n";
        let (clock, most) = (event.time, self.respond.keep_evidence);
        let writing = tokio::task::spawn_blocking(move || kept::keep(&place, clock, &text, most));
        match tokio::time::timeout(WRITTEN_WITHIN, writing).await {
            Ok(Ok(kept)) => kept.map_err(failed),
            Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => Err(format!("the disk did not take the evidence within {WRITTEN_WITHIN:?}")),
        }
    }
}

/// What is written down.
#[derive(Serialize)]
struct Evidence<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    container: Value,
    rule: Value,
    coi: Value,
    found: Found,
    events: audit::Told<'a, Event>,
}

/// What was found before a kill: looked for once, if at all.
pub(super) struct Proof {
    is_wanted: bool,
    found: Mutex<Option<Found>>,
}

impl Proof {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self { is_wanted, found: Mutex::default() }
    }

    async fn look(&self, cgroup: &Arc<Cgroup>) {
        let is_there = self.found.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if self.is_wanted && !is_there {
            let found = evidence::look(Arc::clone(cgroup)).await;
            *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        }
    }

    /// What was found, if it was looked for.
    pub(super) fn found(&self) -> Option<Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What is to be done, to whom, and with what.
pub(super) struct Deed<'a> {
    pub(super) event: &'a Event,
    /// `None` if it was gone before it could be opened, and with it what ran there.
    pub(super) cgroup: Option<Arc<Cgroup>>,
    pub(super) watched: &'a Arc<Watched>,
    pub(super) responder: &'a dyn Responder,
    pub(super) network: &'a Arc<Network>,
    pub(super) pipeline: &'a Handle,
    /// It stood still before the alert.
    pub(super) stood: bool,
    pub(super) proof: Proof,
}

impl Acts for Deed<'_> {
    fn act(&self, action: ActionName) -> Action<'_> {
        let Some(cgroup) = self.cgroup.clone() else { return Box::pin(async { Ok(()) }) };
        match action {
            ActionName::Log | ActionName::Thaw | ActionName::RestoreNetwork => Box::pin(async { Ok(()) }),
            ActionName::Deny => Box::pin(async move { self.was_denied(&cgroup) }),
            ActionName::KillProcess => Box::pin(self.kill_process(cgroup)),
            ActionName::CutNetwork => {
                let (network, watched) = (Arc::clone(self.network), Arc::clone(self.watched));
                Box::pin(blocking(cgroup, move |cgroup| {
                    if let Err(error) = watched.standing.sever(true) {
                        tracing::warn!(%error, "the next daemon may not know of a network that is cut");
                    }
                    network.cut(cgroup)
                }))
            }
            ActionName::Freeze => {
                self.watched.stands.store(true, Ordering::Release);
                self.responder.freeze(cgroup)
            }
            ActionName::Kill => {
                self.watched.stands.store(true, Ordering::Release);
                Box::pin(async move {
                    self.proof.look(&cgroup).await;
                    self.responder.kill(cgroup).await
                })
            }
        }
    }
}

impl Deed<'_> {
    /// The kernel has done it, or it is too late.
    fn was_denied(&self, cgroup: &Cgroup) -> Result<(), RespondError> {
        let is_internet = self.event.remote().is_some();
        if !is_internet || was_refused(self.event) && self.network.guards(cgroup) {
            Ok(())
        } else {
            Err(RespondError::LetThrough)
        }
    }

    /// While all stand still, nobody can start another one.
    async fn kill_process(&self, cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
        let key = self.event.process.as_ref().ok_or(RespondError::NoProcess)?.key;
        blocking(Arc::clone(&cgroup), |cgroup| {
            cgroup.freeze()?;
            cgroup.wait_frozen(STILL_WITHIN)
        })
        .await?;
        // What has been started up to now is known after that.
        let family = self.pipeline.family(Arc::clone(self.watched), key).await?;
        let killed = blocking(Arc::clone(&cgroup), move |cgroup| -> Result<(), ProcessError> {
            process::kill(cgroup, &family, ENDED_WITHIN).map(drop)
        })
        .await;
        if killed.is_ok() && !self.stood {
            let_go(self.watched, cgroup).await?;
        }
        killed
    }
}

/// Lets what was stopped for a moment go on, unless it is to stand still for another reason meanwhile.
pub(super) async fn let_go(watched: &Arc<Watched>, cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
    let watched = Arc::clone(watched);
    blocking(cgroup, move |cgroup| -> Result<(), CgroupError> {
        let stands = || watched.stands.load(Ordering::Acquire);
        if stands() {
            return Ok(());
        }
        cgroup.thaw()?;
        // The pipeline does not wait for this: it may have written its freeze in between.
        if stands() { cgroup.freeze() } else { Ok(()) }
    })
    .await
}
