//! Containers: making, watching, starting and finding them. How they end is in [`super::end`].

use std::collections::BTreeMap;

use super::inside::Inside;
use std::path::Path;

use super::monitored::{Life, Monitored, launched};
use super::slot::{self, SLOTS};
use super::spec::{
    IMAGE_KEY, LAUNCHER_KEY, PERSISTENT_KEY, PROFILE, SESSION_KEY, TOOL_KEY, WORKSPACE_DEVICE, WORKSPACE_KEY,
    Wanted, is_launching, spec,
};
use super::tool::Tool;
use super::{
    Error, GUEST_WORKSPACE, Guest, Mounts, Result, Signals, State, Workspace, end, limits, own_rules, refuse,
};
use crate::config::{Config, Limits, Loaded, Time};
use crate::incus::{self, Instance, NewInstance, Status};
use crate::monitor::rules::OwnRules;
use crate::monitor::seccomp::Entry;
use crate::monitor::service::api::{self, Subject, Tree, WatchRequest};
use crate::monitor::service::client;

/// What is to be launched.
#[derive(Debug)]
pub struct Launch {
    /// What it works on.
    pub workspace: Workspace,
    /// The settings.
    pub settings: Loaded,
    /// Its slot; the first that is free if none is named.
    pub slot: Option<u8>,
    /// The entries into the kernel that stay open.
    pub open: Vec<Entry>,
    /// The rules that the user and the workspace bring; `None` if it is to run without the monitor.
    pub rules: Option<OwnRules>,
    /// The tool and the name of its session, if it has one.
    pub session: Option<(&'static dyn Tool, String)>,
    /// The session was saved before, and is to go on.
    pub resumes: bool,
}

/// A container that runs and is watched.
#[derive(Debug)]
pub struct Container {
    pub(super) incus: incus::Client,
    /// Its name.
    pub name: String,
    pub(super) uuid: Option<String>,
    pub(super) guest: Guest,
    pub(super) monitored: Monitored,
    /// It stays when it stops.
    pub persistent: bool,
    /// It was there already, stopped, and was started again.
    pub is_again: bool,
    /// The name of its session, if it has one.
    pub session: Option<String>,
    /// The alias of its image.
    pub image: String,
    remarks: Vec<String>,
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
    /// Where it sees the directory.
    pub inside: String,
    /// The tool of its session, if it has one.
    pub tool: Option<String>,
    /// The name of its session.
    pub session: Option<String>,
    /// It stays when it stops.
    pub persistent: bool,
    /// Whoever launched it is there still, as far as is known.
    pub is_launching: bool,
}

impl Launch {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            workspace: &self.workspace,
            settings: &self.settings.config,
            open: &self.open,
            persistent: self.settings.config.container.persistent,
            session: self.session.as_ref().map(|(tool, id)| (tool.facts().name, id.as_str())),
        }
    }

    /// What the daemon sees to when it stops.
    fn life(&self, persistent: bool) -> api::Life {
        let config = &self.settings.config;
        api::Life {
            delete: !persistent,
            max_seconds: config.limits.max_duration.as_ref().map(Time::seconds),
            grace_seconds: config.container.shutdown_timeout.0.unsigned_abs(),
            has_session: false,
            session: None,
        }
    }

    /// Whether this container, which does not run, is the one to be started again.
    fn fits(&self, owned: &Owned) -> bool {
        let is_asked = match &self.session {
            // It goes on where it was, or in a new container.
            Some((_, id)) if self.resumes => owned.session.as_ref() == Some(id),
            Some(_) => true,
            None => self.settings.config.container.persistent || self.slot.is_some(),
        };
        is_asked
            && owned.persistent
            && owned.workspace == self.workspace.text()
            && owned.instance.status == Status::Stopped
    }
}

impl Container {
    /// Makes a container in the first free slot, has it watched, starts it, and waits until it can be used. If any of
    /// this fails, or a signal comes, nothing of it stays. One that was kept is started again instead, watched before
    /// it starts; if that fails it is stopped again.
    pub async fn launch(
        incus: incus::Client,
        daemon: client::Client,
        launch: &Launch,
        signals: &mut Signals,
    ) -> Result<Self> {
        let inside = Inside::of(&launch.settings.config)?;
        refuse::machine(&incus).await?;
        let all = mine(&incus).await?;
        let slots = launch.slot.map_or_else(|| (1..=SLOTS).collect(), |slot| vec![slot]);
        let names: Vec<_> = slots.into_iter().map(|slot| slot::name(&launch.workspace.path, slot)).collect();
        for kept in all.iter().filter(|owned| names.contains(&owned.instance.name) && launch.fits(owned)) {
            match Self::start_again(&incus, daemon.clone(), launch, &inside, kept, signals).await {
                // Somebody else was faster: it is theirs.
                Err(Error::Incus(incus::Error::Refused { why, .. })) if why.contains(RUNS_ALREADY) => {}
                other => return other,
            }
        }
        let image = &launch.settings.config.container.image;
        if !incus.has_image(image).await? {
            return Err(Error::NoImage { alias: image.clone(), have: incus.image_aliases().await? });
        }
        let daemon = daemon.ensure().await?;
        let mounts = Mounts::of(&launch.settings.config)?;
        let tree = daemon.make_tree(&mounts.request(&launch.workspace)).await?;
        let name = match create(&incus, launch, &tree, &mounts, &names, signals).await {
            Ok(name) => name,
            Err(error) => {
                discard(&daemon, &tree).await;
                return Err(error);
            }
        };
        // From here on there is something to be removed, whatever happens.
        let instance = incus.instance(&name).await.ok();
        let uuid = instance.as_ref().and_then(|i| i.uuid().map(str::to_owned));
        let persistent = launch.settings.config.container.persistent;
        let begun = async {
            instance.as_ref().map_or(Ok(()), refuse::instance)?;
            let watches = daemon.clone();
            let monitored =
                watched(&incus, watches, &name, uuid.clone(), &tree, launch, persistent, signals).await?;
            Self::begin(&incus, &name, monitored, launch, &inside, persistent, signals).await
        };
        match begun.await {
            Ok(mut container) => {
                container.remarks.extend(tree.notes);
                Ok(container)
            }
            Err(error) => {
                // The first error is the one to show; the second only if it leaves something behind.
                let removed = end::remove(&incus, &name, uuid.as_deref()).await;
                discard(&daemon, &tree).await;
                removed?;
                // Who has interrupted it is told so, whatever else has failed meanwhile.
                signals.check()?;
                Err(error)
            }
        }
    }

    async fn start_again(
        incus: &incus::Client,
        daemon: client::Client,
        launch: &Launch,
        inside: &Inside,
        kept: &Owned,
        signals: &mut Signals,
    ) -> Result<Self> {
        let name = &kept.instance.name;
        let daemon = daemon.ensure().await?;
        let mut wanted = Wanted { persistent: true, ..launch.wanted() };
        // Its conversations are in it: they are one session, however often it is started.
        if let (Some((tool, _)), Some(id)) = (wanted.session, &kept.session) {
            wanted.session = Some((tool, id));
        }
        let session = wanted.session.map(|(_, id)| id.to_owned());
        refuse::instance(&kept.instance)?;
        incus.keep(name, &wanted.keys()).await?;
        let uuid = kept.instance.uuid().map(str::to_owned);
        // It gets its mounts from where it had them.
        let request = Mounts::of(&launch.settings.config)?.request(&launch.workspace);
        let tree = daemon.make_tree(&api::TreeRequest { id: kept.tree(), ..request }).await?;
        let begun = async {
            let watches = daemon.clone();
            let monitored = watched(incus, watches, name, uuid.clone(), &tree, launch, true, signals).await?;
            Self::begin(incus, name, monitored, launch, inside, true, signals).await
        };
        let mut begun = begun.await;
        if begun.is_err() {
            discard(&daemon, &tree).await;
        }
        match &mut begun {
            Ok(container) => {
                container.remarks.extend(tree.notes);
                container.is_again = true;
                container.session = session;
                container.image.clone_from(&kept.image);
            }
            Err(Error::Incus(incus::Error::Refused { why, .. })) if why.contains(RUNS_ALREADY) => {}
            Err(_) => {
                end::stop(incus, name, uuid.as_deref()).await?;
                signals.check()?;
            }
        }
        begun
    }

    async fn begin(
        incus: &incus::Client,
        name: &str,
        (monitored, uuid): (Monitored, Option<String>),
        launch: &Launch,
        inside: &Inside,
        persistent: bool,
        signals: &mut Signals,
    ) -> Result<Self> {
        signals.check()?;
        incus.start(name).await?;
        let program = launch.session.as_ref().map_or("", |(tool, _)| tool.facts().program);
        let guest = tokio::select! {
            guest = Guest::probe(incus, name, &launch.workspace, program, inside) => guest?,
            signal = signals.next() => return Err(Error::Interrupted { signal }),
        };
        Ok(Self {
            incus: incus.clone(),
            name: name.to_owned(),
            uuid,
            remarks: inside.remarks(&guest),
            guest,
            monitored,
            persistent,
            is_again: false,
            session: launch.session.as_ref().map(|(_, id)| id.clone()),
            image: launch.settings.config.container.image.clone(),
        })
    }

    /// A container of COI's that already runs, watched from now on if it was not.
    pub async fn join(
        incus: incus::Client,
        daemon: client::Client,
        owned: &Owned,
        program: &str,
        settings: &Config,
    ) -> Result<Self> {
        let name = owned.instance.name.clone();
        match owned.instance.status {
            Status::Stopped => return Err(Error::NotRunning { name, state: State::Stopped }),
            Status::Frozen => return Err(Error::NotRunning { name, state: State::Frozen }),
            _ => {}
        }
        refuse::instance(&owned.instance)?;
        let workspace =
            Workspace { inside: owned.inside.clone(), ..Workspace::open(owned.workspace.as_ref())? };
        let inside = Inside::of(settings)?;
        let uuid = owned.instance.uuid().map(str::to_owned);
        let daemon = daemon.ensure().await?;
        // It goes on as it was launched.
        let is_monitored = match daemon.get(&name).await {
            Ok(watch) => watch.monitored,
            Err(_) => settings.monitoring.enabled,
        };
        let rules = is_monitored.then(|| own_rules(Some(&workspace.path))).transpose()?;
        let ends = owned.instance.ephemeral;
        let request = WatchRequest {
            workspace: Some(workspace.path.clone()),
            ephemeral: ends,
            ..launched(Subject::container(&name), rules)
        };
        let monitored = arm(&incus, daemon, &name, uuid.clone(), request).await?;
        let guest = Guest::probe(&incus, &name, &workspace, program, &inside).await?;
        Ok(Self {
            incus,
            name,
            uuid,
            remarks: inside.remarks(&guest),
            guest,
            monitored,
            persistent: owned.persistent,
            is_again: true,
            session: owned.session.clone(),
            image: owned.image.clone(),
        })
    }

    /// The rule files that were read and are not in force, since it was watched before.
    pub fn passed_over(&self) -> &[String] {
        &self.monitored.watch.passed_over
    }

    /// Whether what happens in it is seen.
    pub const fn is_monitored(&self) -> bool {
        self.monitored.watch.monitored
    }

    /// What of the settings could not be had, for people.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }
}

/// What is left of it the daemon takes away by itself, later.
async fn discard(daemon: &client::Client, tree: &Tree) {
    let _ = daemon.discard_tree(&tree.id).await;
}

/// How Incus says that it need not start what runs.
const RUNS_ALREADY: &str = "already running";

/// Has what is to be launched watched, before it starts.
#[expect(clippy::too_many_arguments, reason = "each is another thing")]
async fn watched(
    incus: &incus::Client,
    daemon: client::Client,
    name: &str,
    uuid: Option<String>,
    tree: &Tree,
    launch: &Launch,
    persistent: bool,
    signals: &mut Signals,
) -> Result<(Monitored, Option<String>)> {
    signals.check()?;
    let request = WatchRequest {
        workspace: Some(launch.workspace.path.clone()),
        tree: Some(tree.id.clone()),
        // What Incus deletes ends with its cgroup; the rest is over when it is deleted.
        ephemeral: launch.session.is_none() && !persistent,
        life: Some(launch.life(persistent)),
        ..launched(Subject::container(name), launch.rules.clone())
    };
    let monitored = arm(incus, daemon, name, uuid.clone(), request).await?;
    Ok((monitored, uuid))
}

/// Has the container of this name watched, as long as it has this volatile.uuid.
pub(super) async fn arm(
    incus: &incus::Client,
    daemon: client::Client,
    name: &str,
    uuid: Option<String>,
    request: WatchRequest,
) -> Result<Monitored> {
    let life = Life::Instance { incus: incus.clone(), name: name.to_owned(), uuid };
    Ok(Monitored::arm(daemon, request, life).await?)
}

/// The profile of Incus's that COI's containers have.
pub(crate) async fn profile_for(incus: &incus::Client) -> Result<&'static str> {
    let profile = if incus.has_profile(PROFILE).await? { PROFILE } else { "default" };
    refuse::profile(incus, profile).await?;
    Ok(profile)
}

/// Takes the first of these names that is free. Making the container is what takes it; looking first only saves
/// attempts.
async fn create(
    incus: &incus::Client,
    launch: &Launch,
    tree: &Tree,
    mounts: &Mounts,
    names: &[String],
    signals: &mut Signals,
) -> Result<String> {
    let profile = profile_for(incus).await?;
    let mut new = spec(&launch.wanted(), String::new(), profile, tree, &mounts.extra)?;
    limit_disk(incus, &mut new, &launch.settings.config.limits).await?;
    let taken = incus.instances().await?;
    for name in names {
        if taken.iter().any(|i| i.name == *name) {
            continue;
        }
        signals.check()?;
        new.name.clone_from(name);
        match incus.create(&new).await {
            Ok(()) => return Ok(name.clone()),
            Err(incus::Error::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(match (launch.slot, names) {
        (Some(slot), [name]) => Error::SlotTaken { slot, name: name.clone() },
        _ => Error::NoSlot { path: launch.workspace.path.clone() },
    })
}

/// Gives the container's disk its limits: the profile's disk with more keys, since one device replaces another of its name
/// as a whole.
async fn limit_disk(incus: &incus::Client, new: &mut NewInstance, limits: &Limits) -> Result<()> {
    let keys = limits::disk(limits);
    if keys.is_empty() {
        return Ok(());
    }
    for profile in &new.profiles {
        let devices = incus.profile_devices(profile).await?;
        let is_root = |device: &BTreeMap<String, String>| {
            let is = |key: &str, value: &str| device.get(key).is_some_and(|is| is == value);
            is("type", "disk") && is("path", "/")
        };
        if let Some((name, mut device)) = devices.into_iter().find(|(_, device)| is_root(device)) {
            device.extend(keys);
            new.devices.insert(name, device);
            return Ok(());
        }
    }
    Err(Error::NoDisk { profile: new.profiles.join(", ") })
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

/// The sole container of this workspace that is there to attach to, or the one in this slot.
pub async fn of_workspace(incus: &incus::Client, workspace: &Workspace, slot: Option<u8>) -> Result<Owned> {
    if let Some(slot) = slot {
        return find(incus, &slot::name(&workspace.path, slot)).await;
    }
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
    /// The id of the tree that its workspace comes from.
    fn tree(&self) -> Option<String> {
        let source = self.instance.expanded_devices.get(WORKSPACE_DEVICE)?.get("source")?;
        Path::new(source).parent()?.file_name()?.to_str().map(str::to_owned)
    }

    fn from_instance(instance: Instance) -> Option<Self> {
        let key = |key: &str| instance.config.get(key).cloned();
        let device = instance.expanded_devices.get(WORKSPACE_DEVICE).and_then(|device| device.get("path"));
        Some(Self {
            inside: device.map_or(GUEST_WORKSPACE, String::as_str).to_owned(),
            workspace: key(WORKSPACE_KEY)?,
            image: key(IMAGE_KEY).unwrap_or_default(),
            tool: key(TOOL_KEY),
            session: key(SESSION_KEY),
            persistent: key(PERSISTENT_KEY).is_some_and(|value| value == "true"),
            // Of one that does not say so nobody knows.
            is_launching: key(LAUNCHER_KEY).is_none_or(|launcher| is_launching(&launcher)),
            instance,
        })
    }
}
