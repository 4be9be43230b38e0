//! Containers: making, watching, starting, finding and removing them.

use super::monitored::{Life, Monitored};
use super::slot::{self, SLOTS};
use super::spec::{IMAGE_KEY, PROFILE, WORKSPACE_KEY, spec};
use super::{Error, Guest, Notices, Result, Signals, State, Workspace, own_rules};
use crate::incus::{self, Instance, Status};
use crate::monitor::rules::OwnRules;
use crate::monitor::seccomp::Entry;
use crate::monitor::service::api::{ActionTaken, Subject, WatchState};
use crate::monitor::service::client;

/// A container that runs and is watched.
#[derive(Debug)]
pub struct Container {
    pub(super) incus: incus::Client,
    /// Its name.
    pub name: String,
    uuid: Option<String>,
    pub(super) guest: Guest,
    pub(super) monitored: Monitored,
}

/// A container that exists, as COI's own.
#[derive(Clone, Debug)]
pub struct Owned {
    /// What Incus knows.
    pub instance: Instance,
    /// The directory on the host that it works on.
    pub workspace: String,
    /// The alias of its image.
    pub image: String,
}

impl Container {
    /// Makes a container of this workspace in the first free slot, has it watched, starts it, and waits
    /// until it can be used. If any of this fails, or a signal comes, nothing of it stays.
    pub async fn launch(
        incus: incus::Client,
        daemon: client::Client,
        workspace: &Workspace,
        image: &str,
        open: &[Entry],
        rules: OwnRules,
        signals: &mut Signals,
    ) -> Result<Self> {
        incus.server().await?;
        if !incus.has_image(image).await? {
            return Err(Error::NoImage { alias: image.to_owned(), have: incus.image_aliases().await? });
        }
        let daemon = daemon.ensure().await?;
        let name = create(&incus, workspace, image, open, signals).await?;
        // From here on there is something to be removed, whatever happens.
        let uuid = incus.instance(&name).await.ok().and_then(|i| i.uuid().map(str::to_owned));
        match Self::begin(&incus, daemon, &name, uuid.clone(), workspace, rules, signals).await {
            Ok(container) => Ok(container),
            Err(error) => {
                // The first error is the one to show; the second only if it leaves something behind.
                remove(&incus, &name, uuid.as_deref()).await?;
                Err(error)
            }
        }
    }

    async fn begin(
        incus: &incus::Client,
        daemon: client::Client,
        name: &str,
        uuid: Option<String>,
        workspace: &Workspace,
        rules: OwnRules,
        signals: &mut Signals,
    ) -> Result<Self> {
        signals.check()?;
        let monitored = arm(incus, daemon, name, uuid.clone(), true, rules).await?;
        signals.check()?;
        incus.start(name).await?;
        let guest = tokio::select! {
            guest = Guest::probe(incus, name, workspace) => guest?,
            signal = signals.next() => return Err(Error::Interrupted { signal }),
        };
        Ok(Self { incus: incus.clone(), name: name.to_owned(), uuid, guest, monitored })
    }

    /// A container of COI's that already runs, watched from now on if it was not.
    pub async fn join(incus: incus::Client, daemon: client::Client, owned: &Owned) -> Result<Self> {
        let name = owned.instance.name.clone();
        match owned.instance.status {
            Status::Stopped => return Err(Error::NotRunning { name, state: State::Stopped }),
            Status::Frozen => return Err(Error::NotRunning { name, state: State::Frozen }),
            _ => {}
        }
        let workspace = Workspace::open(owned.workspace.as_ref())?;
        let rules = own_rules(Some(&workspace.path))?;
        let uuid = owned.instance.uuid().map(str::to_owned);
        let daemon = daemon.ensure().await?;
        let monitored = arm(&incus, daemon, &name, uuid.clone(), owned.instance.ephemeral, rules).await?;
        let guest = Guest::probe(&incus, &name, &workspace).await?;
        Ok(Self { incus, name, uuid, guest, monitored })
    }

    /// The rule files that were read and are not in force, since it was watched before.
    pub fn passed_over(&self) -> &[String] {
        &self.monitored.watch.passed_over
    }

    /// Ends the container, and with it its watch. What the rules have to say of its last moments is told;
    /// answers their kill, if they came to that only then.
    pub async fn remove(mut self, notices: &mut impl Notices) -> Result<Option<ActionTaken>> {
        remove(&self.incus, &self.name, self.uuid.as_deref()).await?;
        self.monitored.last_words(notices).await
    }
}

async fn arm(
    incus: &incus::Client,
    daemon: client::Client,
    name: &str,
    uuid: Option<String>,
    ephemeral: bool,
    rules: OwnRules,
) -> Result<Monitored> {
    let subject = Subject::container(name);
    let life = Life::Instance { incus: incus.clone(), name: name.to_owned(), uuid };
    Ok(Monitored::arm(daemon, subject, None, ephemeral, rules, life).await?)
}

/// Takes the first free slot. Making the container is what takes it; looking first only saves attempts.
async fn create(
    incus: &incus::Client,
    workspace: &Workspace,
    image: &str,
    open: &[Entry],
    signals: &mut Signals,
) -> Result<String> {
    let profile = if incus.has_profile(PROFILE).await? { PROFILE } else { "default" };
    let taken = incus.instances().await?;
    for slot in 1..=SLOTS {
        let name = slot::name(&workspace.path, slot);
        if taken.iter().any(|i| i.name == name) {
            continue;
        }
        signals.check()?;
        match incus.create(&spec(workspace, name.clone(), image, profile, open)).await {
            Ok(()) => return Ok(name),
            Err(incus::Error::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::NoSlot { path: workspace.path.clone() })
}

/// Stops and deletes a container if it still is the one with this uuid; that it is gone already is fine.
pub async fn remove(incus: &incus::Client, name: &str, uuid: Option<&str>) -> Result<()> {
    // Incus thaws what it stops, and a frozen attack would run on for a moment: the daemon ends it as it stands.
    let daemon = client::Client::from_env();
    if daemon.get(name).await.is_ok_and(|watch| watch.state == WatchState::Frozen) {
        // Where it cannot, Incus is still asked below.
        let _ = daemon.kill(name).await;
    }
    let left = |error: incus::Error| Error::Left { name: name.to_owned(), why: error.to_string() };
    // Incus may be at work on it, because it was killed or because it stopped by itself: then the first
    // attempt fails, and has waited for that work.
    let mut last = None;
    for _ in 0..3 {
        let instance = match incus.instance(name).await {
            Ok(instance) => instance,
            Err(incus::Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(left(error)),
        };
        if uuid.is_some() && instance.uuid() != uuid {
            return Ok(());
        }
        let ended = match instance.status {
            Status::Stopped => incus.delete(name).await,
            _ => incus.stop_force(name).await,
        };
        match ended {
            Err(incus::Error::NotFound { .. }) => return Ok(()),
            Err(error) => last = Some(error),
            Ok(()) => last = None,
        }
    }
    match (incus.instance(name).await, last) {
        (Err(incus::Error::NotFound { .. }), _) => Ok(()),
        (Err(error), _) | (Ok(_), Some(error)) => Err(left(error)),
        (Ok(_), None) => Err(Error::Left { name: name.to_owned(), why: "it is still there".to_owned() }),
    }
}

/// All containers of COI's.
pub async fn mine(incus: &incus::Client) -> Result<Vec<Owned>> {
    let all = incus.instances().await?;
    Ok(all.into_iter().filter_map(Owned::from_instance).collect())
}

/// COI's container of this name.
pub async fn find(incus: &incus::Client, name: &str) -> Result<Owned> {
    match incus.instance(name).await {
        Ok(instance) => Owned::from_instance(instance).ok_or(Error::NotOurs { name: name.to_owned() }),
        Err(incus::Error::NotFound { .. }) => Err(Error::NoContainer { name: name.to_owned() }),
        Err(error) => Err(error.into()),
    }
}

/// The sole container of this workspace that is there to attach to.
pub async fn of_workspace(incus: &incus::Client, workspace: &Workspace) -> Result<Owned> {
    let mut all = mine(incus).await?;
    all.retain(|c| c.workspace == workspace.text() && c.instance.status != Status::Stopped);
    match all.len() {
        0 => Err(Error::NothingToAttach { path: workspace.path.clone() }),
        1 => Ok(all.remove(0)),
        _ => Err(Error::WhichOne {
            path: workspace.path.clone(),
            names: all.into_iter().map(|c| c.instance.name).collect(),
        }),
    }
}

impl Owned {
    fn from_instance(instance: Instance) -> Option<Self> {
        let workspace = instance.config.get(WORKSPACE_KEY)?.clone();
        let image = instance.config.get(IMAGE_KEY).cloned().unwrap_or_default();
        Some(Self { instance, workspace, image })
    }
}
