//! A container's cgroup that is still there when nothing runs in it any more.
//!
//! Whoever stops a container has LXC freeze what is in it, kill it, and thaw it, and LXC waits each time, without an end,
//! for the kernel to tell of that. A freeze or thaw by somebody else in between takes the telling away: the kernel tells
//! of changes only, and LXC, and Incus with it, wait for ever (seen with LXC 5.0.2).
//!
//! It promises that both are told again, by turns, until the cgroup has gone, and that LXC has [`GRACE`] before that for
//! its own. A cgroup in which nothing has run yet is left alone: it may have been frozen before its init came.
//! It does not know whether something had run in one that was empty when it was looked at first.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::Interest;

use super::cgroup::{Cgroup, CgroupError};

/// How long LXC has to take notice of what it has done itself, and then of each change that is made for it.
pub const GRACE: Duration = Duration::from_secs(1);

/// What is known of a cgroup.
#[derive(Debug)]
pub struct Vacated {
    cgroup: Arc<Cgroup>,
    has_run: bool,
    /// Since when it has been empty and as it is.
    since: Option<Instant>,
}

impl Vacated {
    /// None for a cgroup that is not all of a container: somebody may come into it again.
    pub fn of(cgroup: &Arc<Cgroup>) -> Option<Self> {
        cgroup.is_payload().then(|| Self { cgroup: Arc::clone(cgroup), has_run: false, since: None })
    }

    /// Looks at it, and changes what is due. To be asked whenever something changes, and every [`GRACE`] once it is empty.
    pub fn look(&mut self) -> Result<(), CgroupError> {
        let runs = self.cgroup.is_populated();
        self.has_run |= runs;
        if runs || !self.has_run {
            self.since = None;
            return Ok(());
        }
        if self.since.get_or_insert_with(Instant::now).elapsed() < GRACE {
            return Ok(());
        }
        self.since = Some(Instant::now());
        let changed = if self.cgroup.is_held() { self.cgroup.thaw() } else { self.cgroup.freeze() };
        changed.or_else(|error| if self.cgroup.exists() { Err(error) } else { Ok(()) })
    }

    /// Has everything in it ended?
    pub fn is_empty(&self) -> bool {
        self.since.is_some()
    }

    /// Looks at it until it has gone, or this is dropped.
    pub async fn follow(mut self) {
        while self.cgroup.exists() {
            // Before it is looked at: what changes after that is told.
            let notices = self.cgroup.notices();
            if let Err(error) = self.look() {
                tracing::warn!(%error, "whoever stops it may wait for ever");
            }
            let is_empty = self.is_empty();
            let told = async {
                match &notices {
                    Ok(notices) if !is_empty => drop(notices.ready(Interest::PRIORITY).await),
                    _ => tokio::time::sleep(GRACE).await,
                }
            };
            told.await;
        }
    }
}
