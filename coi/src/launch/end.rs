//! The ends of containers: shut down, killed, kept, and what nobody has ended.
//!
//! A container that has a session is stopped here, and brought to its end by the daemon, which saves the session first
//! and does so, too, if this process is gone by then.

use std::time::Duration;

use super::container::{Container, Owned, arm};
use super::guest::home_of;
use super::monitored::launched;
use super::spec::PERSISTENT_KEY;
use super::tool;
use super::{Caller, Error, Notices, Result, Workspace, own_rules};
use crate::incus::{self, Patience, Status};
use crate::monitor::service::api::{ActionTaken, Ended, Life, Subject, WatchRequest, WatchState, Wish};
use crate::monitor::service::client;
use crate::session::{self, Metadata, Plan};

/// How the daemon refuses what may be so in a moment: Incus is at work on the container, or it runs.
const NOT_YET: [&str; 2] = ["incus", "busy"];

/// How a container is ended.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// Its init is asked to end; what has not ended after this time is killed.
    ShutDown {
        /// How long it has.
        within: Duration,
    },
    /// All its processes are killed.
    Kill,
}

/// What became of a session's container when its user left.
#[derive(Debug)]
pub struct Left {
    /// What was saved, and whether it is gone.
    pub ended: Ended,
    /// The rules' kill, if they came to that only at its end.
    pub killed: Option<ActionTaken>,
}

impl Container {
    /// Ends the container. What the rules have to say of its last moments is told.
    pub async fn end(mut self, notices: &mut impl Notices) -> Result<Left> {
        let is_kept = self.persistent;
        let daemon = self.monitored.daemon().clone();
        let (incus, name, uuid) = (&self.incus, self.name.as_str(), self.uuid.as_deref());
        let ended = match stop_and_finish(incus, &daemon, name, uuid, Wish::AsPlanned).await? {
            Ok(ended) => ended,
            // What has nothing to save Incus has deleted itself, whatever has become of the daemon.
            Err(error) if self.is_gone().await => {
                tracing::debug!(%error, name = self.name, "it has come to its end without the daemon");
                Ended { deleted: true, ..Ended::default() }
            }
            Err(error) => return Err(error.into()),
        };
        let killed = self.monitored.last_words(is_kept, notices).await?;
        Ok(Left { ended, killed })
    }

    async fn is_gone(&self) -> bool {
        matches!(self.incus.instance(&self.name).await, Err(incus::Error::NotFound { .. }))
    }
}

/// Ends a container, and brings it to its end as is wished.
pub async fn end(
    incus: &incus::Client,
    daemon: &client::Client,
    owned: &Owned,
    how: How,
    wish: Wish,
) -> Result<Ended> {
    let (name, uuid) = (owned.instance.name.as_str(), owned.instance.uuid());
    if let (How::ShutDown { within }, Status::Running) = (how, owned.instance.status)
        && let Err(error) = incus.shut_down(name, within).await
    {
        // It may have ended all the same; what has not is killed.
        tracing::debug!(%error, name, "it does not shut down by itself");
    }
    match stop_and_finish(incus, daemon, name, uuid, wish).await? {
        Ok(ended) => Ok(ended),
        Err(error) if owned.session.is_none() || wish == Wish::GiveUp => {
            tracing::debug!(%error, name, "the daemon does not end it");
            if owned.persistent && wish == Wish::AsPlanned {
                return Ok(Ended::default());
            }
            remove(incus, name, uuid).await?;
            Ok(Ended { deleted: true, ..Ended::default() })
        }
        // It is not watched any more, or by somebody who knew nothing of this: what it has to save is said again.
        Err(error)
            if error.is_not_found()
                || matches!(&error, client::Error::Refused(r) if r.code == "bad_request") =>
        {
            if incus.instance(name).await.is_err_and(|e| matches!(e, incus::Error::NotFound { .. })) {
                return Ok(Ended { deleted: true, ..Ended::default() });
            }
            let daemon = daemon.clone().ensure().await?;
            if !error.is_not_found() {
                daemon.forget(name).await?;
            }
            let plan = plan_of(incus, owned).await?;
            let life = Life { delete: !owned.persistent, session: plan, ..Life::default() };
            // It has stopped: it comes to its end, whether or not there is a monitor.
            let is_monitored = daemon.status().await?.monitor.is_none();
            let rules = is_monitored.then(|| own_rules(None)).transpose()?;
            let request = WatchRequest { life: Some(life), ..launched(Subject::container(name), rules) };
            arm(incus, daemon.clone(), name, uuid.map(str::to_owned), request).await?;
            Ok(daemon.finish(name, wish).await?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Stops a container and has the daemon bring it to its end. One that somebody has just begun to start stands still for a
/// moment, and then runs.
async fn stop_and_finish(
    incus: &incus::Client,
    daemon: &client::Client,
    name: &str,
    uuid: Option<&str>,
    wish: Wish,
) -> Result<client::Result<Ended>> {
    let mut patience = Patience::new();
    loop {
        stop(incus, name, uuid).await?;
        let finished = daemon.finish(name, wish).await;
        let not_yet = matches!(&finished, Err(client::Error::Refused(refusal)) if NOT_YET.contains(&refusal.code.as_str()));
        if !(not_yet && patience.lasts().await) {
            return Ok(finished);
        }
    }
}

/// What of a stopped container is to be saved, as it was told when its session began.
async fn plan_of(incus: &incus::Client, owned: &Owned) -> Result<Option<Plan>> {
    let (Some(tool), Some(id)) = (&owned.tool, &owned.session) else { return Ok(None) };
    let Some(tool) = tool::named(tool) else { return Ok(None) };
    let caller = Caller::find()?;
    let Some(home) = caller.home() else { return Ok(None) };
    let workspace = Workspace::open(owned.workspace.as_ref())?;
    let inside = home_of(&mut incus.files(&owned.instance.name).await?, workspace.uid).await?;
    Ok(plan(tool, home, inside, metadata(owned, id)))
}

/// What of a container is saved for this tool; nothing if it has no conversation to go on with.
pub(super) fn plan(
    tool: &dyn tool::Tool,
    home: &std::path::Path,
    inside: String,
    metadata: Metadata,
) -> Option<Plan> {
    let facts = tool.facts();
    (!facts.resume.is_empty()).then(|| Plan {
        directory: session::directory(home, facts.name),
        home: inside,
        paths: facts.conversations.iter().map(|&path| path.to_owned()).collect(),
        metadata,
    })
}

fn metadata(owned: &Owned, id: &str) -> Metadata {
    Metadata {
        session_id: id.to_owned(),
        container: owned.instance.name.clone(),
        workspace: owned.workspace.clone(),
        tool: owned.tool.clone().unwrap_or_default(),
        profile: None,
        image: owned.image.clone(),
        persistent: owned.persistent,
        saved_at: String::new(),
    }
}

/// Has a container stay when it stops, from now on.
pub async fn persist(incus: &incus::Client, daemon: &client::Client, owned: &Owned) -> Result<()> {
    let name = &owned.instance.name;
    // The daemon first: if it does not hear of it, nothing has changed.
    match daemon.keep(name).await {
        Ok(_) => {}
        // It deletes nothing that it was not told to.
        Err(client::Error::Refused(_)) if owned.instance.ephemeral => {}
        Err(error) => return Err(error.into()),
    }
    incus.keep(name, &[(PERSISTENT_KEY.to_owned(), "true".to_owned())].into()).await?;
    Ok(())
}

/// Kills all that runs in a container, if it still is the one with this uuid; that it is gone is fine.
pub(super) async fn stop(incus: &incus::Client, name: &str, uuid: Option<&str>) -> Result<()> {
    // Incus thaws what it stops, and a frozen attack would run on for a moment: the daemon ends it as it stands.
    let daemon = client::Client::from_env();
    if daemon.get(name).await.is_ok_and(|watch| watch.state == WatchState::Frozen) {
        // Where it cannot, Incus is still asked below.
        let _ = daemon.kill(name).await;
    }
    let left = |error: incus::Error| Error::Left { name: name.to_owned(), why: error.to_string() };
    // Incus may be at work on it, because it was killed or because it stopped by itself: then an attempt fails, and has
    // waited for that work.
    let mut patience = Patience::new();
    loop {
        match incus.instance(name).await {
            Ok(instance) if uuid.is_some() && instance.uuid() != uuid => return Ok(()),
            Ok(instance) if instance.status == Status::Stopped => return Ok(()),
            Ok(_) => {}
            Err(incus::Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(left(error)),
        }
        match incus.stop_force(name, uuid).await {
            Ok(()) | Err(incus::Error::NotFound { .. }) => {}
            Err(error) if !patience.lasts().await => return Err(left(error)),
            Err(_) => {}
        }
    }
}

/// Stops and deletes a container if it still is the one with this uuid; that it is gone already is fine. Nothing of it
/// is saved.
pub(crate) async fn remove(incus: &incus::Client, name: &str, uuid: Option<&str>) -> Result<()> {
    let left = |why: String| Error::Left { name: name.to_owned(), why };
    let mut patience = Patience::new();
    loop {
        stop(incus, name, uuid).await?;
        match incus.instance(name).await {
            Ok(instance) if uuid.is_some() && instance.uuid() != uuid => return Ok(()),
            Err(incus::Error::NotFound { .. }) => return Ok(()),
            _ => {}
        }
        match incus.delete(name, uuid).await {
            Ok(()) | Err(incus::Error::NotFound { .. }) => return Ok(()),
            // It runs again for a moment, or somebody else deletes it.
            Err(error) if !patience.lasts().await => return Err(left(error.to_string())),
            Err(_) => {}
        }
    }
}
