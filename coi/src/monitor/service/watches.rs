//! The daemon's state: what it watches, and how a watch begins, is given orders and ends.
//!
//! It promises that a watch that was answered is armed in the kernel, or says that it is not monitored.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use tokio::sync::{Notify, RwLock, mpsc, oneshot};

use super::{
    admission::{ADMIN_GROUP, Caller},
    api::{Hole, OnMonitorLoss, Subject, Watch, WatchRequest, WatchState},
    connections::Places,
    deed::Means,
    follow::follow,
    kept::Keeping,
    ledger::Ledger,
    memory::give_back,
    options::MonitorOptions,
    refusal::Refusal,
    registry::Registered,
    restore::Absence,
    subject::{Found, find_cgroup, workspace_scope},
    trees::Trees,
    watch::{Raw, Target, Watching},
};
use crate::{
    incus,
    monitor::{
        audit::{self, Logs, Record, RulesInForce},
        cgroup,
        counts::Counts,
        event::Container,
        inforce::{Base, InForce},
        pipeline::{self, Handle, Note, Order, Watched},
        private::Private,
        rules::OwnRules,
        sensor::{SensorError, census::Counted, fill::Fill},
        viewers::Viewers,
    },
};

/// How many notes may wait for a watch's task.
const NOTES: usize = 8192;
/// How long an ending daemon waits for what was decided last.
const LAST: Duration = Duration::from_secs(5);
/// How long a watch that is over is still told of.
const REMEMBERED: Duration = Duration::from_secs(600);
/// How many of them at most: what ends often is forgotten sooner.
const MOST_REMEMBERED: usize = 256;

/// The daemon's state.
pub(super) struct Service {
    /// What judges all that is monitored; none if the daemon is blind.
    pub(super) pipeline: Handle,
    /// Why nothing can be monitored.
    pub(super) blind: Option<SensorError>,
    pub(super) incus: incus::Client,
    pub(super) watches: Mutex<HashMap<String, Entry>>,
    pub(super) programs: Vec<String>,
    pub(super) holes: Vec<Hole>,
    /// How full the kernel's rings are.
    pub(super) rings: Vec<(&'static str, Fill)>,
    /// The kernel programs' maps that grow and shrink.
    pub(super) maps: Vec<Counted>,
    /// The rules of the machine. It is held for reading while a watch begins, so that none begins by rules that are
    /// just being replaced, and for writing while they are: one reload at a time.
    pub(super) base: RwLock<Base>,
    /// How many these are: who only asks does not wait.
    pub(super) rules: AtomicUsize,
    pub(super) logs: Arc<Logs>,
    /// What all watches act with.
    pub(super) means: Arc<Means>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) places: Arc<Places>,
    /// Where they come from.
    pub(super) rule_files: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
    /// Watches have come or gone.
    pub(super) changed: Notify,
    /// What outlives the daemon.
    pub(super) keeping: Keeping,
    /// The directory of its socket, and of what the guard and it say to each other.
    pub(super) runtime: Private,
    /// The mounts of what COI launches.
    pub(super) trees: Arc<Trees>,
    pub(super) monitor: MonitorOptions,
    /// Held while a watch is begun: nothing is watched twice.
    pub(super) beginning: tokio::sync::Mutex<()>,
}

pub(super) struct Entry {
    pub(super) watching: Arc<Watching>,
    /// When it was over.
    pub(super) over: Option<Instant>,
}

impl Service {
    pub(super) fn watches(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Entries are only put in and taken out whole.
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut over: Vec<Instant> = watches.values().filter_map(|entry| entry.over).collect();
        over.sort_unstable();
        let newest_forgotten = over.iter().rev().nth(MOST_REMEMBERED).copied();
        watches.retain(|_, entry| {
            let is_remembered = |over: Instant| over.elapsed() < REMEMBERED && Some(over) > newest_forgotten;
            let stays = entry.over.is_none_or(is_remembered);
            if !stays {
                self.ledger.keep(&entry.watching.watched.counts.by_kind());
            }
            stays
        });
        watches
    }

    /// A watch by name, also one that is over, if the caller may see it. Who may not learns no more than of one that is not
    /// there.
    pub(super) fn find(&self, name: &str, caller: &Caller) -> Result<Arc<Watching>, Refusal> {
        let found = self.named(name).filter(|watching| caller.may_see(watching.owner));
        found.ok_or_else(|| {
            let whose = if caller.is_admin() { "" } else { ", or not yours" };
            Refusal::not_found(format!(
                "{name} is not watched{whose}; see `coi list`, or watch it: coi monitor --attach {name}"
            ))
        })
    }

    /// A watch by name, also one that is over.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Watching>> {
        self.watches().get(name).map(|entry| Arc::clone(&entry.watching))
    }

    /// Whether anything that is watched, or was a moment ago, belongs to this user.
    pub(super) fn is_owner(&self, uid: u32) -> bool {
        self.watches().values().any(|entry| entry.watching.owner == uid)
    }

    /// The watches that are not over and that the caller may see.
    pub(super) fn seen_by(&self, caller: &Caller) -> Vec<Arc<Watching>> {
        let mut seen = self.live();
        seen.retain(|watching| caller.may_see(watching.owner));
        seen
    }

    /// The watches that there are, those that are over among them.
    pub(super) fn all(&self) -> Vec<Arc<Watching>> {
        self.watches().values().map(|entry| Arc::clone(&entry.watching)).collect()
    }

    /// How many of the machine's rules are in force.
    pub(super) fn rule_count(&self) -> usize {
        self.rules.load(Ordering::Relaxed)
    }

    /// Ends when there has been nothing to watch for so long; never without a limit.
    pub(super) async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            let busy = self.watches().values().any(|entry| entry.over.is_none());
            if busy {
                self.changed.notified().await;
            } else if tokio::time::timeout(limit, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Watches from now on, for this caller.
    pub(super) async fn watch(
        self: &Arc<Self>,
        request: WatchRequest,
        caller: &Caller,
    ) -> Result<Watch, Refusal> {
        self.check_claim(&request.subject, None, caller)?;
        let request = if request.monitored { request } else { without_monitor(request)? };
        self.watch_for(request, caller.uid, Some(caller.clone()), Some(caller)).await
    }

    /// The same for `by`. Who has named the workspace opens it; `claim` is who has to have a claim to the container.
    pub(super) async fn watch_for(
        self: &Arc<Self>,
        request: WatchRequest,
        by: u32,
        named_by: Option<Caller>,
        claim: Option<&Caller>,
    ) -> Result<Watch, Refusal> {
        let found = match &request.subject {
            Subject::Container { name, project } => {
                self.find_container(name, project.as_deref(), &request).await?
            }
            Subject::Cgroup { path } => find_cgroup(path, &request, &self.incus)?,
        };
        if let Some(caller) = claim {
            self.check_claim(&request.subject, Some(&found.id), caller)?;
        }
        let _beginning = self.beginning.lock().await;
        let running = self
            .watches()
            .get(&found.name)
            .filter(|entry| entry.over.is_none())
            .map(|entry| Arc::clone(&entry.watching));
        let on_loss = request.on_monitor_loss.unwrap_or(match request.launched {
            true => self.monitor.on_monitor_loss,
            false => OnMonitorLoss::Continue,
        });
        if let Some(running) = running {
            let is_same = running.watched.container.id == found.id;
            let is_changed = running.is_monitored() != request.monitored;
            // What is launched again is as it is launched now; who may launch nothing changes nothing.
            let may_launch = claim.is_none_or(Caller::is_admin);
            let is_anew = is_same && is_changed && request.launched && may_launch && found.existing.is_none();
            if is_same && !is_anew {
                if request.monitored && is_changed {
                    return Err(stays_unmonitored(&found.name));
                }
                if request.respond {
                    running.respond().await?;
                }
                running.tighten(request.respond, on_loss == OnMonitorLoss::Freeze).await?;
                if let (Some(life), Some(ending)) = (request.life, &running.ending) {
                    ending.change(|now| *now = life);
                    running.keep_life(ending.life()).await?;
                }
                let passed_over = passed_over(&request.rules, &running.watched.own);
                return Ok(Watch { passed_over, ..running.describe() });
            }
            if is_anew {
                self.trees.unclaim(&found.name);
            }
            // Or another container has its name now.
            self.end(&running).await?;
            if is_anew {
                // Its log says so before it goes on.
                running.watched.notes.closed().await;
            }
        }
        let mut found = found;
        let tree = match &request.tree {
            Some(id) => Some(self.trees.claim(id, &found.name, claim)?),
            None => None,
        };
        if let Some(tree) = &tree {
            found.workspace = Some(tree.lasting.request.workspace.clone());
            found.inside = Some(tree.lasting.request.inside.clone());
        }
        let named_by = named_by.filter(|_| request.workspace.is_some());
        let request = WatchRequest {
            workspace: found.workspace.clone(),
            ephemeral: found.ephemeral,
            on_monitor_loss: Some(on_loss),
            ..request
        };
        let mut registered = Registered::new(&found.name, &found.id, &found.path, request, by);
        registered.inside.clone_from(&found.inside);
        registered.closed.clone_from(&found.closed);
        registered.tree = tree.as_ref().map(|tree| tree.lasting.clone());
        registered.named_by = named_by.map(|Caller { uid, gid, groups, .. }| (uid, gid, groups));
        let name = found.name.clone();
        match self.begin(found, registered, None).await {
            Ok(watching) => Ok(watching.describe()),
            Err(refusal) => {
                self.trees.unclaim(&name);
                Err(refusal)
            }
        }
    }

    /// Begins a watch, or begins it again after an absence of the daemon.
    pub(super) async fn begin(
        self: &Arc<Self>,
        found: Found,
        mut registered: Registered,
        absence: Option<&Absence>,
    ) -> Result<Arc<Watching>, Refusal> {
        let (request, by, key) = (registered.request.clone(), registered.by, registered.key());
        let pipeline = match (&self.blind, request.monitored) {
            (Some(why), true) => return Err(blind(&found.name, why)),
            (None, true) => self.pipeline.clone(),
            (_, false) => Handle::none(),
        };
        let mut unseen = None;
        let opens = registered.caller();
        let lasting = registered.tree.clone();
        let scope = match found.workspace {
            Some(path) => workspace_scope(path, &opens).await.map(Some),
            None => Ok(None),
        };
        let workspace = match scope {
            // It is watched all the same.
            Err(refusal) if absence.is_some() => {
                unseen = Some(refusal.error.message);
                None
            }
            workspace => workspace?,
        };
        let base = self.base.read().await;
        let (own, rules) = match request.monitored {
            true => self.rules_for(&base, request.rules).await?,
            false => (Arc::default(), InForce::none()),
        };
        let (notes, inbox) = mpsc::channel(NOTES);
        let container = Arc::new(Container { name: found.name.clone(), id: found.id });
        let (logs, about) = (Arc::clone(&self.logs), Arc::clone(&container));
        let owner = request.owner.unwrap_or(by);
        let opened = tokio::task::spawn_blocking(move || logs.open(owner, about)).await;
        let log = opened.map_err(|error| Refusal::internal(error.to_string()))??;
        let owner = log.owner();
        registered.request.owner = Some(owner);
        let in_force = RulesInForce::of(&rules.set);
        let (standing, left) = self.keeping.standing(&key)?;
        let is_container = matches!(request.subject, Subject::Container { .. });
        let next = is_container.then(|| found.path.clone());
        let kept = self.keeping.keep(registered, next, absence.is_none()).await?;
        let watched = Arc::new(Watched {
            scope: coi_common::Scope { level: cgroup::level(&found.path), ..workspace.unwrap_or_default() },
            container,
            path: found.path,
            respond: request.respond.into(),
            workspace: found.inside,
            own,
            rules: rules.into(),
            viewers: Viewers::default(),
            onlookers: 0.into(),
            notes,
            unsaid: 0.into(),
            counts: Counts::default(),
            unrecorded: 0.into(),
            stands: false.into(),
            standing,
        });
        let target = Target {
            pipeline,
            subject: request.subject,
            responder: found.responder,
            ephemeral: found.ephemeral,
            ending: found.ending,
            holes: self.left_open(&found.closed),
        };
        let watching = Arc::new(Watching::new(
            Arc::clone(&watched),
            target,
            log,
            Arc::clone(&self.means),
            Arc::clone(&self.ledger),
            kept,
        ));
        if left.is_cut {
            watching.keep_cut();
        }
        if request.respond
            && let Err(error) = watching.deny(watched.rules().set.denied(), found.existing.as_ref()).await
        {
            if absence.is_none() {
                watching.forget().await;
            }
            return Err(error.into());
        }
        let why = match (request.monitored, request.respond) {
            (false, _) => "accompanied; it is not monitored",
            (true, true) => "armed; it is frozen and killed by the rules",
            (true, false) => "armed; it is only observed",
        };
        let container = &watching.watched.container;
        if request.monitored {
            watching.record(Record::attach(container, request.respond, owner, by, &in_force));
        }
        watching.record(self.coverage(&watching));
        watching.enter(WatchState::Armed, why);
        if let Some(why) = unseen {
            let words = format!("its workspace is not told from other files: {why}");
            watching.record(Record::note(container, &words));
        }
        let existing = found.existing;
        let armed = watching.pipeline.arm(Arc::clone(&watched), existing.clone()).await;
        if !matches!(armed, Ok(Ok(()))) && absence.is_none() {
            watching.forget().await;
        }
        armed??;
        watching.entrust(existing.clone()).await;
        watching.resume(left, absence, existing.as_ref()).await;
        let audit::Options { on_full_disk, events: kinds, .. } = self.logs.options().clone();
        let raw = match kinds.is_empty() {
            true => None,
            false => {
                let view = watched.viewers.join(true);
                let looks = watching.pipeline.look(Arc::clone(&watched)).await??;
                Some(Raw { view, kinds, _looks: looks })
            }
        };
        if let Some(lasting) = lasting {
            self.begin_protection(&watching, lasting, absence).await;
        }
        // Who asks from now on is told how it stands.
        if let Some(cgroup) = &existing {
            watching.comes_to(cgroup);
        }
        let entry = Entry { watching: Arc::clone(&watching), over: None };
        if let Some(before) = self.watches().insert(found.name, entry) {
            self.ledger.keep(&before.watching.watched.counts.by_kind());
        }
        drop(base);
        self.changed.notify_waiters();
        let (ended, mut over) = mpsc::channel(1);
        tokio::spawn(Arc::clone(&watching).serve(inbox, ended, on_full_disk, raw));
        if !watching.is_monitored() {
            tokio::spawn(follow(watched));
        }
        let service = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(watching) = over.recv().await
                && let Err(refusal) = service.end(&watching).await
            {
                tracing::error!(error = refusal.error.message, "a watch could not be ended");
            }
        });
        Ok(watching)
    }

    /// Who is no administrator may ask again for what is theirs, and for nothing else: nobody becomes a container's owner
    /// by asking for it. `id` is the container's, once it is known; until then nobody is asked about it.
    fn check_claim(&self, subject: &Subject, id: Option<&str>, caller: &Caller) -> Result<(), Refusal> {
        let Subject::Container { name, .. } = subject else { return Ok(()) };
        let is_theirs = |watching: &Arc<Watching>| {
            watching.owner == caller.uid && id.is_none_or(|id| watching.watched.container.id == id)
        };
        if caller.is_admin() || self.named(&subject.watch_name()).as_ref().is_some_and(is_theirs) {
            return Ok(());
        }
        Err(Refusal::denied(format!(
            "{name} is not watched, or not yours; only root and members of the group {ADMIN_GROUP} may have other \
             containers watched"
        )))
    }

    /// The rules for a watch that brings these: those of another that has brought the same, or new ones.
    pub(super) async fn rules_for(
        &self,
        base: &Base,
        own: OwnRules,
    ) -> Result<(Arc<OwnRules>, Arc<InForce>), Refusal> {
        own.check()?;
        let same = self.live().into_iter().find(|watching| *watching.watched.own == own);
        let same = same.map(|watching| (Arc::clone(&watching.watched.own), watching.watched.rules()));
        if let Some((own, rules)) = same.filter(|(_, rules)| base.is_under(rules)) {
            return Ok((own, rules));
        }
        let own = Arc::new(own);
        let (base, brought) = (base.clone(), Arc::clone(&own));
        let compiled = tokio::task::spawn_blocking(move || base.with(&brought)).await;
        let rules = compiled.map_err(|error| Refusal::internal(error.to_string()))??;
        give_back();
        Ok((own, rules))
    }

    /// The watches that are not over.
    pub(super) fn live(&self) -> Vec<Arc<Watching>> {
        let watches = self.watches();
        let live = watches.values().filter(|entry| entry.over.is_none());
        live.map(|entry| Arc::clone(&entry.watching)).collect()
    }

    /// Those of them that are monitored.
    pub(super) fn monitored(&self) -> Vec<Arc<Watching>> {
        let mut live = self.live();
        live.retain(|watching| watching.is_monitored());
        live
    }

    /// What is seen of it: told when its watch begins, and to each viewer.
    pub(super) fn coverage(&self, watching: &Watching) -> Record {
        let container = &watching.watched.container;
        match watching.is_monitored() {
            true => Record::coverage(container, &self.programs, &watching.holes),
            false => Record::unmonitored(container, watching.owner, watching.by()),
        }
    }

    /// The sensor's holes, less those that an instance's configuration closes. What it was configured to be when its
    /// watch began: who changes that and restarts it changes what is true.
    pub(super) fn left_open(&self, closed: &[String]) -> Vec<Hole> {
        self.holes.iter().filter(|hole| !closed.contains(&hole.id)).cloned().collect()
    }

    /// Has a watch's task do what a person wants: in order, so after every freeze that was decided before.
    pub(super) async fn order(&self, name: &str, order: Order, caller: &Caller) -> Result<Watch, Refusal> {
        let watching = self.find(name, caller)?;
        let (reply, done) = oneshot::channel();
        watching
            .watched
            .notes
            .send(Note::Order(order, caller.uid, reply))
            .await
            .map_err(|_| pipeline::Ended)?;
        done.await.map_err(|_| pipeline::Ended)??;
        Ok(watching.describe())
    }

    /// The pipeline has ended: what it had decided is carried out and recorded, as far as there is time.
    pub(super) async fn finish(&self) {
        let live = self.live();
        let last = live.iter().map(async |watching| {
            let (done, is_done) = oneshot::channel();
            let notes = &watching.watched.notes;
            if notes.send(Note::Last(done)).await.is_ok() {
                let _ = is_done.await;
            }
        });
        let all = futures_util::future::join_all(last);
        if tokio::time::timeout(LAST, all).await.is_err() {
            tracing::error!("what was decided last is not recorded of every watch");
        }
        for watching in live {
            let left = NOTES - watching.watched.notes.capacity();
            if left > 0 {
                watching.miss(left as u64);
            }
            watching.detach("the daemon ends");
        }
    }

    /// Watches no longer.
    pub(super) async fn end(&self, watching: &Arc<Watching>) -> Result<(), Refusal> {
        if !watching.is_over() {
            watching.enter(WatchState::Gone, "watched no longer");
        }
        watching.pipeline.disarm(Arc::clone(&watching.watched)).await??;
        watching.forget().await;
        self.trees.release(&watching.watched.container.name, &self.incus).await;
        // It has ended already if this is the second time.
        let _ = watching.watched.notes.send(Note::Over).await;
        if let Some(entry) = self.watches().get_mut(&watching.watched.container.name)
            && Arc::ptr_eq(&entry.watching, watching)
        {
            entry.over.get_or_insert_with(Instant::now);
        }
        self.changed.notify_waiters();
        Ok(())
    }
}

/// A request for what is not to be monitored: no rule judges it, and nothing holds it when there is no daemon.
fn without_monitor(request: WatchRequest) -> Result<WatchRequest, Refusal> {
    if !request.launched || !matches!(request.subject, Subject::Container { .. }) {
        let words = "only a container that COI launches can be without the monitor; leave out `monitored`";
        return Err(Refusal::bad_request(words.to_owned()));
    }
    Ok(WatchRequest {
        respond: false,
        rules: OwnRules::default(),
        on_monitor_loss: Some(OnMonitorLoss::Continue),
        ..request
    })
}

fn stays_unmonitored(name: &str) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        "bad_request",
        format!(
            "{name} was launched without the monitor, and what has happened in it nobody knows. Launch another one for what is \
             to be monitored: `coi shell`, or `coi run`; one that is kept is monitored when it is launched again: \
             `coi shutdown {name}`, then `coi shell`"
        ),
    )
}

fn blind(name: &str, why: &SensorError) -> Refusal {
    Refusal::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "monitor",
        format!(
            "{name} cannot be monitored, since the monitor does not work on this machine: {why}. Put that right and start the \
             daemon again (`coi daemon stop`); or go without: `coi run` and `coi shell` take --no-monitor, and nothing that \
             happens in the container is seen, recorded or stopped then"
        ),
    )
}

/// Those of these files that are not among the others.
fn passed_over(these: &OwnRules, others: &OwnRules) -> Vec<String> {
    let user = these.user.iter().filter(|file| !others.user.contains(file));
    let workspace = these.workspace.iter().filter(|file| !others.workspace.contains(file));
    user.chain(workspace).map(|file| file.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::rules::RuleText;

    #[test]
    fn without_the_monitor_no_rule_judges_and_nothing_holds() {
        let request = WatchRequest {
            respond: true,
            monitored: false,
            launched: true,
            rules: OwnRules {
                user: vec![RuleText { name: "a.toml".into(), text: String::new() }],
                ..OwnRules::default()
            },
            on_monitor_loss: Some(OnMonitorLoss::Freeze),
            ..WatchRequest::new(Subject::container("c"))
        };
        let accompanied = without_monitor(request.clone()).unwrap();
        assert!(!accompanied.respond && accompanied.rules.is_empty());
        assert_eq!(accompanied.on_monitor_loss, Some(OnMonitorLoss::Continue));

        let foreign = WatchRequest { launched: false, ..request.clone() };
        let cgroup = WatchRequest { subject: Subject::Cgroup { path: "/x".into() }, ..request };
        for refused in [foreign, cgroup] {
            assert_eq!(without_monitor(refused).unwrap_err().error.code, "bad_request");
        }
    }
}
