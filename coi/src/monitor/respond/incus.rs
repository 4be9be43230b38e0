//! Acting on an Incus container: its cgroup first, then Incus's own state in line with it.
//!
//! A container whose cgroup is frozen and that Incus thinks is running makes `incus exec` hang, so Incus is told
//! even though nothing runs any more.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{
    Action, Cgroup, Copying, Original, Owner, RespondError, Responder, copies, freeze_cgroup, kill_cgroup,
    thaw_cgroup,
};
use crate::{
    incus::{Client, Error, Status},
    monitor::cgroup::PAYLOAD,
};

/// How long Incus may take to clean up after a killed container; it takes about a second.
const GONE_DEADLINE: Duration = Duration::from_secs(15);
/// How often it is asked meanwhile. Its lifecycle events are no sign: for most of a second after its processes were killed
/// Incus takes a container for stopped, running and stopped again by turns, and while it is at work on one it refuses, or
/// forgets, what it is told. So the answer is asked for until it stays, within [`GONE_DEADLINE`] or [`ANNOUNCED`].
const GONE_INTERVAL: Duration = Duration::from_millis(50);

/// How long it may take to tell Incus of a freeze: the record of it waits so long.
const ANNOUNCED: Duration = Duration::from_secs(5);
/// How often Incus is told again of a freeze that it has not taken in.
const ANNOUNCEMENTS: u32 = 10;

/// Acts on one container.
pub struct IncusResponder {
    client: Client,
    project: Option<String>,
    name: String,
    uuid: String,
}

impl IncusResponder {
    /// The container of this name in this project, as long as it has this volatile.uuid.
    pub fn new(
        client: Client,
        project: Option<&str>,
        name: impl Into<String>,
        uuid: impl Into<String>,
    ) -> Self {
        let project = project.map(str::to_owned);
        Self { client, project, name: name.into(), uuid: uuid.into() }
    }

    /// Whose name is in a cgroup's, as Incus calls containers of this project.
    fn named<'a>(&self, cgroup: &'a Cgroup) -> Option<&'a str> {
        let full = cgroup.path().strip_prefix('/')?.strip_prefix(PAYLOAD)?;
        match &self.project {
            Some(project) => full.strip_prefix(project)?.strip_prefix('_'),
            None => Some(full),
        }
    }

    /// Its status; `None` once it is gone, or another one has its name.
    async fn status(&self) -> Result<Option<(Status, bool)>, Error> {
        match self.client.instance(&self.name).await {
            Ok(instance) if instance.uuid() == Some(&self.uuid) => {
                Ok(Some((instance.status, instance.ephemeral)))
            }
            Ok(_) => Ok(None),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends when Incus knows that it is frozen.
    async fn tell_frozen(&self) -> Result<(), RespondError> {
        let mut told = self.client.freeze(&self.name, Some(&self.uuid)).await;
        // It may be at work on the container just then, and refuse or forget it.
        for _ in 0..ANNOUNCEMENTS {
            match self.status().await? {
                Some((Status::Frozen, _)) | None => return Ok(()),
                Some(_) => tokio::time::sleep(GONE_INTERVAL).await,
            }
            told = self.client.freeze(&self.name, Some(&self.uuid)).await;
        }
        Ok(told?)
    }

    /// Waits until it is gone, or stopped if it is to be kept.
    async fn wait_gone(&self) -> Result<(), RespondError> {
        let deadline = tokio::time::Instant::now() + GONE_DEADLINE;
        loop {
            match self.status().await? {
                None | Some((Status::Stopped, false)) => return Ok(()),
                Some(_) if tokio::time::Instant::now() > deadline => {
                    return Err(RespondError::StillThere { name: self.name.clone(), within: GONE_DEADLINE });
                }
                Some((Status::Stopped, true)) => {
                    // Incus deletes it by itself unless it was restarted in between.
                    match self.client.delete(&self.name, Some(&self.uuid)).await {
                        Err(error) if !matches!(error, Error::NotFound { .. }) => {
                            tracing::debug!(%error, name = self.name, "Incus is still busy with it");
                        }
                        _ => {}
                    }
                }
                Some(_) => {}
            }
            tokio::time::sleep(GONE_INTERVAL).await;
        }
    }
}

impl Responder for IncusResponder {
    fn owner<'a>(&'a self, cgroup: &'a Cgroup) -> Pin<Box<dyn Future<Output = Owner> + Send + 'a>> {
        Box::pin(async move {
            let named = self.named(cgroup).unwrap_or(&self.name);
            if named != self.name && self.client.instance(named).await.is_ok() {
                return Owner::Another;
            }
            match self.client.instance(&self.name).await {
                Ok(instance) if instance.uuid() != Some(&self.uuid) => Owner::Successor,
                _ => Owner::Same,
            }
        })
    }

    fn freeze(&self, cgroup: Arc<Cgroup>) -> Action<'_> {
        Box::pin(freeze_cgroup(cgroup))
    }

    fn announce(&self) -> Action<'_> {
        Box::pin(async move {
            match tokio::time::timeout(ANNOUNCED, self.tell_frozen()).await {
                Ok(told) => told,
                Err(_) => Err(RespondError::Untold { name: self.name.clone(), within: ANNOUNCED }),
            }
        })
    }

    fn thaw(&self, cgroup: Arc<Cgroup>) -> Action<'_> {
        Box::pin(async move {
            if let Ok(Some((Status::Frozen, _))) = self.status().await
                && let Err(error) = self.client.unfreeze(&self.name, Some(&self.uuid)).await
            {
                tracing::warn!(%error, name = self.name, "Incus could not thaw it; its cgroup will be");
            }
            thaw_cgroup(cgroup).await
        })
    }

    fn kill(&self, cgroup: Arc<Cgroup>) -> Action<'_> {
        Box::pin(kill_cgroup(cgroup))
    }

    fn bury(&self) -> Action<'_> {
        Box::pin(async move {
            // Incus notices by itself that the container has ended; asking makes sure, also where the kernel
            // refused. "Not running" and "not found" are what is wanted.
            if let Err(error) = self.client.stop_force(&self.name, Some(&self.uuid)).await {
                tracing::debug!(%error, name = self.name, "stopping it after its cgroup was killed");
            }
            self.wait_gone().await
        })
    }

    fn copy<'a>(&'a self, original: Original<'a>, within: Duration) -> Copying<'a, String> {
        Box::pin(copies::make(&self.client, &self.name, &self.uuid, original, within))
    }

    fn forget_copies<'a>(&'a self, original: Original<'a>, most: usize) -> Copying<'a, ()> {
        Box::pin(copies::forget(&self.client, &self.name, original, most))
    }
}
