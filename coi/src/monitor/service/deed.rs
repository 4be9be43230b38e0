//! One deed: what is done about one alert, action by action.
//!
//! It promises that each action is done where the alert was, and that what stands still because of another alert, or of a
//! person, is not let go by this one.

use std::sync::{Arc, atomic::Ordering};

use super::api::ActionName;
use crate::monitor::{
    cgroup::{Cgroup, CgroupError},
    event::Event,
    pipeline::{Handle, Watched, was_refused},
    respond::{Action, Acts, Network, ProcessError, RespondError, Responder, blocking, process},
};

use std::time::Duration;

/// How long the processes of a tree may take to end; they stand still.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// How long a container may take to stand still before its processes are looked for.
const STILL_WITHIN: Duration = Duration::from_secs(2);

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
}

impl Acts for Deed<'_> {
    fn act(&self, action: ActionName) -> Action<'_> {
        let Some(cgroup) = self.cgroup.clone() else { return Box::pin(async { Ok(()) }) };
        match action {
            ActionName::Log | ActionName::Thaw | ActionName::RestoreNetwork => Box::pin(async { Ok(()) }),
            ActionName::Deny => Box::pin(async move { self.was_denied(&cgroup) }),
            ActionName::KillProcess => Box::pin(self.kill_process(cgroup)),
            ActionName::CutNetwork => {
                let network = Arc::clone(self.network);
                Box::pin(blocking(cgroup, move |cgroup| network.cut(cgroup)))
            }
            ActionName::Freeze => {
                self.watched.stands.store(true, Ordering::Release);
                self.responder.freeze(cgroup)
            }
            ActionName::Kill => {
                self.watched.stands.store(true, Ordering::Release);
                self.responder.kill(cgroup)
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
            self.let_go(cgroup).await?;
        }
        killed
    }

    /// Lets the others go on, unless they are to stand still for another reason meanwhile.
    async fn let_go(&self, cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
        let watched = Arc::clone(self.watched);
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
}
