//! One watch: the task that carries out what the pipeline decided, in order, and writes it down.
//!
//! It promises that a record follows its action and that nothing of one container waits for another.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};

use super::{
    admission::Caller,
    api::{ActionName, ActionTaken, Hole, Life, Subject, Watch, WatchRequest, WatchState},
    deed::{Deed, Means, Proof, STILL_WITHIN},
    ending::Ending,
    kept::Kept,
    ledger::Ledger,
    memory::give_back,
};
use crate::monitor::{
    audit::{self, Done, Gap, Log, OnFullDisk, Outcome, Record},
    cgroup::Cgroup,
    event::{EventKind, Field, Record as _},
    notify::Notice,
    pipeline::{Decision, Handle, Note, Onlooker, Order, OrderError, Watched},
    private::PrivateError,
    respond::{
        CopyError, Limits, Network, NetworkError, Options, Original, Owner, RespondError, Responder,
        blocking, climb,
    },
    rules::{self, Alert, Counters, Denied},
    sensor::boottime,
    standing::{Held, HeldFor},
    vacated::Vacated,
    viewers::{Shown, View},
};

/// How long Incus may take to clean up after a kill until that is recorded without it.
const BURIED: Duration = Duration::from_secs(5);

/// A watch, as the service and its task share it.
pub(super) struct Watching {
    /// What the pipeline knows of it.
    pub(super) watched: Arc<Watched>,
    /// What judges it; none where it runs without the monitor.
    pub(super) pipeline: Handle,
    pub(super) subject: Subject,
    pub(super) responder: Box<dyn Responder>,
    network: Arc<Network>,
    means: Arc<Means>,
    /// Whose container it is.
    pub(super) owner: u32,
    /// It ends with its container.
    pub(super) ephemeral: bool,
    /// What becomes of it when it has stopped, if COI has launched it.
    pub(super) ending: Option<Arc<Ending>>,
    /// What cannot be seen of it.
    pub(super) holes: Vec<Hole>,
    ledger: Arc<Ledger>,
    audit: PathBuf,
    /// What of it outlives this daemon.
    kept: Kept,
    /// `None` when it is over.
    log: Mutex<Option<Log>>,
    now: Mutex<Now>,
    /// Held while an action is under way.
    acting: tokio::sync::Mutex<()>,
    alerts: AtomicU64,
    /// Its cgroup has been made.
    began: Notify,
}

/// What changes.
struct Now {
    state: WatchState,
    last_action: Option<ActionTaken>,
    cgroup: Option<Arc<Cgroup>>,
    /// For what it stands still, by this daemon's doing or the last one's.
    held: Option<Held>,
}

/// What is watched, as it is when its watch begins.
pub(super) struct Target {
    pub(super) pipeline: Handle,
    pub(super) subject: Subject,
    pub(super) responder: Box<dyn Responder>,
    pub(super) ephemeral: bool,
    pub(super) ending: Option<Arc<Ending>>,
    pub(super) holes: Vec<Hole>,
}

impl Watching {
    pub(super) fn new(
        watched: Arc<Watched>,
        Target { pipeline, subject, responder, ephemeral, ending, holes }: Target,
        log: Log,
        means: Arc<Means>,
        ledger: Arc<Ledger>,
        kept: Kept,
    ) -> Self {
        if let Some(ending) = &ending {
            ending.belongs_to(log.owner());
        }
        Self {
            watched,
            pipeline,
            subject,
            responder,
            network: Arc::default(),
            ephemeral,
            ending,
            holes,
            owner: log.owner(),
            means,
            ledger,
            audit: log.path().to_owned(),
            kept,
            log: Mutex::new(Some(log)),
            now: Mutex::new(Now { state: WatchState::Armed, last_action: None, cgroup: None, held: None }),
            acting: tokio::sync::Mutex::default(),
            alerts: AtomicU64::new(0),
            began: Notify::new(),
        }
    }

    /// Ends when something has begun to run in it, since this was asked last.
    pub(super) async fn began(&self) {
        self.began.notified().await;
    }

    /// What clients are told.
    pub(super) fn describe(&self) -> Watch {
        let now = self.now();
        let events = self.watched.counts.by_kind();
        Watch {
            name: self.watched.container.name.clone(),
            subject: self.subject.clone(),
            respond: self.watched.respond.load(Ordering::Relaxed),
            monitored: self.is_monitored(),
            state: now.state,
            owner: self.owner,
            on_monitor_loss: self.kept.on_monitor_loss(),
            audit: self.audit.clone(),
            last_action: now.last_action.clone(),
            network_cut: self.network.is_cut(),
            alerts: self.alerts.load(Ordering::Relaxed),
            lost: events.values().map(|tally| tally.lost + tally.throttled).sum(),
            events,
            passed_over: Vec::new(),
        }
    }

    /// The daemon before had cut its network.
    pub(super) fn keep_cut(&self) {
        self.network.keep_cut();
    }

    /// Has the kernel refuse this from now on, in `cgroup` if it is there already.
    pub(super) async fn deny(
        &self,
        denied: &Arc<Denied>,
        cgroup: Option<&Arc<Cgroup>>,
    ) -> Result<(), NetworkError> {
        let (network, denied, cgroup) = (Arc::clone(&self.network), Arc::clone(denied), cgroup.cloned());
        let told = tokio::task::spawn_blocking(move || {
            network.deny(&denied)?;
            cgroup.map_or(Ok(()), |cgroup| network.enter(&cgroup))
        });
        match told.await {
            Ok(told) => told,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Whether what happens in it is seen.
    pub(super) const fn is_monitored(&self) -> bool {
        self.pipeline.is_some()
    }

    /// Whether its rules may act.
    fn responds(&self) -> bool {
        self.watched.respond.load(Ordering::Relaxed)
    }

    /// Its rules may act from now on.
    pub(super) async fn respond(&self) -> Result<(), NetworkError> {
        if !self.responds() {
            self.deny(self.watched.rules().set.denied(), self.cgroup().as_ref()).await?;
            self.watched.respond.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Has the kernel refuse what rules that are not yet in force deny.
    pub(super) async fn deny_by(&self, denied: &Arc<Denied>) -> Result<(), NetworkError> {
        if self.responds() { self.deny(denied, self.cgroup().as_ref()).await } else { Ok(()) }
    }

    /// Its audit log.
    pub(super) fn audit(&self) -> &Path {
        &self.audit
    }

    /// More is wanted of it than before.
    pub(super) async fn tighten(&self, respond: bool, freeze: bool) -> Result<(), PrivateError> {
        self.kept.tighten(respond, freeze, self.cgroup()).await
    }

    /// What becomes of it when it has stopped is found by the next daemon, too.
    pub(super) async fn keep_life(&self, life: Life) -> Result<(), PrivateError> {
        self.kept.live(life).await
    }

    /// Has it guarded; ends when the guard knows.
    pub(super) async fn entrust(&self, cgroup: Option<Arc<Cgroup>>) {
        self.kept.guard(cgroup).await;
    }

    /// What was asked for.
    pub(super) fn request(&self) -> WatchRequest {
        self.kept.registered().request
    }

    /// Who opens its workspace.
    pub(super) fn opener(&self) -> Caller {
        self.kept.registered().caller()
    }

    /// Who asked.
    pub(super) fn by(&self) -> u32 {
        self.kept.registered().by
    }

    /// Nothing of it is kept for the next daemon.
    pub(super) async fn forget(&self) {
        self.kept.forget().await;
    }

    /// It stands still now, in the cgroup of this id, or does not any more.
    pub(super) fn hold(&self, held: Option<(u64, Held)>) {
        {
            let mut now = self.now();
            now.held = held.as_ref().map(|(_, held)| held.clone());
            if let Some((_, held)) = &held {
                if held.action.is_some() {
                    now.last_action.clone_from(&held.action);
                }
                self.watched.stands.store(true, Ordering::Release);
            }
        }
        if let Err(error) = self.watched.standing.hold(held) {
            tracing::warn!(%error, name = self.watched.container.name, "the next daemon may not know for what it stands still");
        }
    }

    /// Notes, once all records so far are on the disk, that this intent is among them.
    pub(super) fn settle(&self, intent: Option<u64>) {
        let (Some(intent), Some(flushed)) = (intent, self.log().as_ref().map(Log::flushed)) else { return };
        let watched = Arc::clone(&self.watched);
        tokio::spawn(async move {
            if flushed.await
                && let Err(error) = watched.standing.settle(intent)
            {
                tracing::warn!(%error, name = watched.container.name, "an action may be told twice");
            }
        });
    }

    /// Ends when no action is under way and all that was recorded is on the disk, if the disk takes it.
    pub(super) async fn settled(&self) {
        drop(self.acting.lock().await);
        self.flush().await;
    }

    async fn flush(&self) {
        let flushed = self.log().as_ref().map(Log::flushed);
        if let Some(flushed) = flushed {
            flushed.await;
        }
    }

    /// Has it ended for good?
    pub(super) fn is_over(&self) -> bool {
        matches!(self.now().state, WatchState::Gone | WatchState::Killed)
    }

    pub(super) fn state(&self) -> WatchState {
        self.now().state
    }

    /// The cgroup that runs now.
    pub(super) fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.now().cgroup.clone()
    }

    fn log(&self) -> MutexGuard<'_, Option<Log>> {
        // It is only taken out whole.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // A panic elsewhere leaves a state that is still one of the states.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes to a state and says so, in the log and to whoever looks on.
    pub(super) fn enter(&self, state: WatchState, why: &str) {
        {
            let mut now = self.now();
            now.state = state;
            if state == WatchState::Running {
                now.last_action = None;
            }
        }
        self.record(Record::state(&self.watched.container, state, why));
    }

    /// Has an alert told to whoever the configuration says.
    fn notify(self: &Arc<Self>, alert: &Alert, record: &Record) {
        let rule = &alert.rule;
        if rule.action() < rules::Action::Notify || !self.means.notifier.wants(rule.severity) {
            return;
        }
        let watching = Arc::downgrade(self);
        let complain = move |words: &str| {
            if let Some(watching) = watching.upgrade() {
                watching.record(Record::note(&watching.watched.container, words));
            }
        };
        let name = &self.watched.container.name;
        self.means.notifier.tell(&Notice {
            severity: rule.severity,
            title: format!("{name}: {}: {}", rule.severity, alert.message),
            line: record.line(),
            owner: self.owner,
            complain: Arc::new(complain),
        });
    }

    /// Shows a record, and has it written.
    pub(super) fn record(&self, record: Record) {
        self.watched.viewers.show(&Shown::Line(record.line()));
        self.write(record);
    }

    /// Has a record written that says nothing to who looks on.
    fn write(&self, record: Record) {
        self.ledger.enter(self.owner, &self.watched.container.name, &record);
        if let Some(log) = &*self.log() {
            log.append(record);
        }
    }

    /// The monitor has shown that it is at work.
    pub(super) fn beat(&self) {
        if !self.is_monitored() {
            return;
        }
        let alerts = self.alerts.load(Ordering::Relaxed);
        let counts = self.watched.counts.by_kind();
        self.write(Record::heartbeat(&self.watched.container, self.state(), alerts, &counts));
    }

    /// Writes down what became of the events so far.
    fn sum_up(&self) {
        if !self.is_monitored() {
            return;
        }
        let counts = self.watched.counts.by_kind();
        self.record(Record::counts(&self.watched.container, &counts));
    }

    /// Carries out what the pipeline decided, until it is over.
    pub(super) async fn serve(
        self: Arc<Self>,
        mut notes: mpsc::Receiver<Note>,
        ended: mpsc::Sender<Arc<Self>>,
        on_full_disk: OnFullDisk,
        mut raw: Option<Raw>,
    ) {
        let Some(mut progress) = self.log().as_ref().map(Log::progress) else { return };
        // Of the cgroup that there is; it ends with the watch.
        let mut looks = JoinSet::new();
        loop {
            let note = tokio::select! {
                biased;
                note = notes.recv() => note,
                Ok(()) = progress.changed() => {
                    let trouble = progress.borrow_and_update().trouble.clone();
                    self.heed(trouble, on_full_disk).await;
                    continue;
                }
                shown = next(&mut raw) => {
                    self.write_raw(shown, raw.as_ref());
                    continue;
                }
            };
            let Some(note) = note else { return };
            match note {
                Note::Alert(decision) => self.act(*decision).await,
                Note::Made(cgroup) => {
                    self.comes_to(&cgroup);
                    self.began.notify_one();
                    self.kept.moved(Some(Arc::clone(&cgroup)));
                    looks.abort_all();
                    if let Some(vacated) = Vacated::of(&cgroup) {
                        looks.spawn(vacated.follow());
                    }
                    self.guard(&cgroup).await;
                    if let Some(ending) = &self.ending {
                        ending.begins();
                        self.start_clock(&cgroup);
                        self.attend(&cgroup);
                    }
                    // Incus may take its time; what the watch decides does not wait for it.
                    tokio::spawn(Arc::clone(&self).verify(cgroup, ended.clone()));
                    let trouble = progress.borrow().trouble.clone();
                    self.heed(trouble, on_full_disk).await;
                }
                Note::Gone => {
                    self.now().cgroup = None;
                    looks.abort_all();
                    self.hold(None);
                    self.kept.moved(None);
                    if !self.is_over() {
                        let state = if self.ephemeral { WatchState::Gone } else { WatchState::Armed };
                        self.enter(state, "its cgroup was removed");
                    }
                    let is_deleted = self.ending.as_ref().is_some_and(|ending| ending.life().delete);
                    if !(self.ephemeral || is_deleted && self.is_over()) {
                        self.sum_up();
                    } else {
                        // The service has it disarmed; nobody there means the daemon is ending.
                        let _ = ended.send(Arc::clone(&self)).await;
                    }
                }
                Note::Doubted(loss, done) => {
                    self.doubted(&loss).await;
                    let _ = done.send(());
                }
                Note::Last(done) => {
                    // Who asked may have lost patience.
                    let _ = done.send(());
                }
                Note::Over => {
                    self.sum_up();
                    self.network.leave();
                    self.detach("watched no longer");
                    self.flush().await;
                    drop(self.log().take());
                    self.watched.release();
                    tokio::task::spawn_blocking(give_back);
                    return;
                }
                Note::Order(order, by, reply) => {
                    // Who asked may have gone away; it is done all the same.
                    let _ = reply.send(self.obey(order, by).await);
                }
                Note::Unsaid(unsaid) => {
                    for (rule, counters) in unsaid {
                        self.ledger.unsaid(counters);
                        let Counters { suppressed, evicted } = counters;
                        let why = format!(
                            "rule {}: {suppressed} more alerts were not repeated, {evicted} subjects were forgotten for want of room",
                            rule.id
                        );
                        self.record(Record::note(&self.watched.container, &why));
                    }
                }
                Note::Lost(event) => self.record(Record::loss(&*event)),
            }
            let unsaid = self.watched.unsaid.swap(0, Ordering::Relaxed);
            if unsaid > 0 {
                self.miss(unsaid);
                let why =
                    format!("{unsaid} alerts came faster than they could be written and are not in this log");
                self.enter(self.state(), &why);
            }
        }
    }

    /// What runs of it is in this cgroup from now on, and goes on or stands still.
    pub(super) fn comes_to(&self, cgroup: &Arc<Cgroup>) {
        let before = self.now().cgroup.replace(Arc::clone(cgroup));
        if before.is_some_and(|before| before.id() == cgroup.id()) {
            return;
        }
        match (cgroup.is_held(), self.why_held()) {
            (true, Some(why)) => self.enter(WatchState::Frozen, &why),
            (true, None) => {
                self.enter(WatchState::Frozen, "somebody else has frozen it: incus resume lets it go on");
            }
            (false, _) => {
                self.hold(None);
                self.enter(WatchState::Running, "it runs");
            }
        }
    }

    /// Has the kernel refuse what is denied in a cgroup that has just been made, or stops it: what is denied is not to
    /// happen there.
    async fn guard(&self, cgroup: &Arc<Cgroup>) {
        if !self.responds() || self.network.guards(cgroup) {
            return;
        }
        let network = Arc::clone(&self.network);
        let entered = blocking(Arc::clone(cgroup), move |cgroup| network.enter(cgroup)).await;
        let Err(error) = entered else { return };
        let _acting = self.acting.lock().await;
        let action = if self.network.is_cut() { ActionName::CutNetwork } else { ActionName::Deny };
        let (error, why) = (error.to_string(), "what rules deny cannot be refused here");
        let done = Done { action, error: Some(&error), by: None, why };
        self.record(Record::action(&self.watched.container, &done));
        self.watched.stands.store(true, Ordering::Release);
        let frozen = self.responder.freeze(Arc::clone(cgroup)).await;
        let error = frozen.as_ref().err().map(ToString::to_string);
        let done = Done { action: ActionName::Freeze, error: error.as_deref(), by: None, why };
        self.record(Record::action(&self.watched.container, &done));
        if frozen.is_ok() {
            self.enter(WatchState::Frozen, why);
        }
    }

    /// The watch is over, or its daemon.
    pub(super) fn detach(&self, why: &str) {
        self.write(Record::detach(&self.watched.container, why));
    }

    /// So much is not in the log.
    pub(super) fn miss(&self, records: u64) {
        let gap = Gap { reason: "queue", records: Some(records), ..Gap::default() };
        self.write(Record::gap(&self.watched.container, &gap));
    }

    /// Writes down what was seen of the kinds that the configuration asks for.
    fn write_raw(&self, shown: Option<Shown>, raw: Option<&Raw>) {
        match (shown, raw) {
            (Some(Shown::Event(_, event)), Some(raw)) if raw.kinds.contains(&event.kind) => {
                self.write(Record::event(&*event));
            }
            (Some(Shown::Missed(missed)), _) => self.miss(missed),
            _ => {}
        }
    }

    /// The disk takes no more records, or takes them again.
    async fn heed(&self, trouble: Option<String>, on_full_disk: OnFullDisk) {
        if on_full_disk == OnFullDisk::Continue || !self.watched.respond.load(Ordering::Relaxed) {
            return;
        }
        let _acting = self.acting.lock().await;
        let (state, held_for) = {
            let now = self.now();
            (now.state, now.held.as_ref().map(|held| held.held_for))
        };
        let Some(cgroup) = self.cgroup() else { return };
        let id = cgroup.id();
        let (action, done, why, then) = match trouble {
            Some(error) if state == WatchState::Running => {
                let why = format!("frozen until the audit log can be written: {error}");
                self.watched.stands.store(true, Ordering::Release);
                let mut done = self.responder.freeze(cgroup).await;
                if done.is_ok() {
                    done = self.responder.announce().await;
                }
                (ActionName::Freeze, done, why, WatchState::Frozen)
            }
            None if held_for == Some(HeldFor::FullDisk) => {
                let why = "the audit log can be written again".to_owned();
                self.watched.stands.store(false, Ordering::Release);
                (ActionName::Thaw, self.responder.thaw(cgroup).await, why, WatchState::Running)
            }
            _ => return,
        };
        let error = done.err().map(|error| error.to_string());
        let done = Done { action, error: error.as_deref(), by: None, why: &why };
        self.record(Record::action(&self.watched.container, &done));
        if error.is_none() {
            let held = Held { held_for: HeldFor::FullDisk, why: why.clone(), action: None };
            self.hold((action == ActionName::Freeze).then_some((id, held)));
            self.enter(then, &why);
        }
    }

    /// Has it stand still while `act` is at work. It goes on afterwards unless it stood still before, or `act` says why it
    /// should not.
    pub(super) async fn still(&self, act: impl AsyncFnOnce(&Arc<Cgroup>) -> Result<(), String>) {
        // At once: an action that is under way may take a while.
        let begun = self.cgroup().map(|cgroup| (cgroup.is_held(), cgroup.freeze()));
        let _acting = self.acting.lock().await;
        let (Some(cgroup), Some((stood, _))) = (self.cgroup(), begun) else { return };
        let frozen = self.responder.freeze(Arc::clone(&cgroup)).await;
        let done = act(&cgroup).await;
        let stands = || stood || self.watched.stands.load(Ordering::Acquire);
        let why = match (done, frozen) {
            (Ok(()), _) if stands() => return,
            (Ok(()), Ok(())) => {
                let let_go = blocking(Arc::clone(&cgroup), |cgroup| cgroup.thaw()).await;
                if let Err(error) = let_go {
                    tracing::error!(%error, name = self.watched.container.name, "it stood still for a moment, and still does");
                } else if self.watched.stands.load(Ordering::Acquire) {
                    // The pipeline has written its freeze in between.
                    let _ = cgroup.freeze();
                }
                return;
            }
            (Ok(()), Err(error)) => format!("what is protected was put right while it ran: {error}"),
            (Err(why), _) => why,
        };
        self.watched.stands.store(true, Ordering::Release);
        let frozen = self.responder.freeze(Arc::clone(&cgroup)).await;
        let done = match frozen {
            Ok(()) => {
                let held = Held { held_for: HeldFor::Protection, why: why.clone(), action: None };
                self.hold(Some((cgroup.id(), held)));
                self.responder.announce().await
            }
            failed => failed,
        };
        let error = done.err().map(|error| error.to_string());
        let done = Done { action: ActionName::Freeze, error: error.as_deref(), by: None, why: &why };
        self.record(Record::action(&self.watched.container, &done));
        self.enter(WatchState::Frozen, &why);
    }

    /// For what it stands still.
    fn why_held(&self) -> Option<String> {
        self.now().held.as_ref().map(|held| held.why.clone())
    }

    /// Makes sure that a cgroup is the watched container's own.
    async fn verify(self: Arc<Self>, cgroup: Arc<Cgroup>, ended: mpsc::Sender<Arc<Self>>) {
        let name = &self.watched.container.name;
        match self.responder.owner(&cgroup).await {
            Owner::Same => {}
            Owner::Another => {
                if let Err(error) = self.pipeline.drop_cgroup(cgroup.id()) {
                    tracing::error!(%error, name, "another container's cgroup may still be watched");
                }
                let mine = {
                    let mut now = self.now();
                    now.cgroup.take_if(|now| now.id() == cgroup.id()).is_some()
                };
                if mine {
                    let why = format!("{} is another container's", cgroup.path());
                    self.enter(WatchState::Armed, &why);
                }
            }
            Owner::Successor => {
                self.enter(WatchState::Gone, "another container has its name now");
                // Nobody there means the daemon is ending.
                let _ = ended.send(Arc::clone(&self)).await;
            }
        }
    }

    async fn obey(self: &Arc<Self>, order: Order, by: u32) -> Result<(), OrderError> {
        let _acting = self.acting.lock().await;
        let Some(cgroup) = self.cgroup() else {
            return Err(OrderError::NothingRuns(self.watched.container.name.clone()));
        };
        let tell = |action, why: &str, done: &Result<(), RespondError>| {
            let error = done.as_ref().err().map(ToString::to_string);
            let done = Done { action, error: error.as_deref(), by: Some(by), why };
            self.record(Record::action(&self.watched.container, &done));
        };
        match order {
            Order::Thaw => {
                // What happened so far is over before it goes on.
                self.pipeline.rearm(Arc::clone(&self.watched)).await?;
                if self.network.is_cut() {
                    let network = Arc::clone(&self.network);
                    let restored = blocking(Arc::clone(&cgroup), move |_| network.restore().map(drop)).await;
                    tell(ActionName::RestoreNetwork, "given back its network by a person", &restored);
                    restored?;
                    if let Err(error) = self.watched.standing.sever(false) {
                        tracing::warn!(%error, "the next daemon may cut a network again");
                    }
                }
                let why = "thawed by a person; armed again";
                let thawed = self.responder.thaw(cgroup).await;
                tell(ActionName::Thaw, why, &thawed);
                thawed?;
                self.hold(None);
                self.enter(WatchState::Running, why);
            }
            Order::Freeze => {
                let why = "frozen by a person";
                self.watched.stands.store(true, Ordering::Release);
                let id = cgroup.id();
                let frozen = self.responder.freeze(cgroup).await;
                if frozen.is_ok() {
                    let held = Held { held_for: HeldFor::Person, why: why.to_owned(), action: None };
                    self.hold(Some((id, held)));
                }
                let done = match frozen {
                    Ok(()) => self.responder.announce().await,
                    failed => failed,
                };
                tell(ActionName::Freeze, why, &done);
                done?;
                self.enter(WatchState::Frozen, why);
            }
            Order::Kill => {
                let why = "killed by a person";
                let killed = self.responder.kill(cgroup).await;
                if killed.is_ok() {
                    // Who follows it need not wait until Incus has cleaned up.
                    self.enter(WatchState::Gone, why);
                }
                let done = self.bury(killed.is_ok()).await.or(killed);
                tell(ActionName::Kill, why, &done);
                self.lay_to_rest().await;
                done?;
            }
        }
        Ok(())
    }

    /// After a kill: has Incus clean up, and ends when it has. Where nothing runs any more, Incus is waited for no longer
    /// than [`BURIED`]: it is done, and to be recorded, whether or not Incus answers.
    async fn bury(self: &Arc<Self>, is_ended: bool) -> Result<(), RespondError> {
        if !is_ended {
            return self.responder.bury().await;
        }
        let watching = Arc::clone(self);
        let mut burying = tokio::spawn(async move { watching.responder.bury().await });
        match tokio::time::timeout(BURIED, &mut burying).await {
            Ok(Ok(buried)) => buried,
            Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => {
                let watching = Arc::clone(self);
                tokio::spawn(async move {
                    if let Ok(Err(error)) = burying.await {
                        let words = format!("killed, and Incus has not cleaned up after it: {error}");
                        watching.record(Record::note(&watching.watched.container, &words));
                    }
                });
                Err(RespondError::Unburied { within: BURIED })
            }
        }
    }

    /// Before a kill: makes a copy of what stands still, where the configuration asks for it.
    async fn keep_copy(
        &self,
        cgroup: &Arc<Cgroup>,
        original: Original<'_>,
    ) -> Option<Result<String, String>> {
        let Options { keep_copies, copy_within, .. } = self.means.respond;
        if keep_copies == 0 || !matches!(self.subject, Subject::Container { .. }) {
            return None;
        }
        let still = blocking(Arc::clone(cgroup), |cgroup| cgroup.wait_frozen(STILL_WITHIN)).await;
        if let Err(error) = still {
            return Some(Err(CopyError::Runs(error.to_string()).to_string()));
        }
        if self.state() != WatchState::Frozen {
            self.enter(WatchState::Frozen, "it stands still while a copy of it is made, and is killed then");
        }
        let copy = self.responder.copy(original, copy_within).await;
        Some(copy.map_err(|error| error.to_string()))
    }

    /// After a kill: removes the oldest copies that are too many.
    async fn forget_copies(self: Arc<Self>, clock: u64) {
        let workspace = self.workspace();
        let original = Original { owner: self.owner, workspace: workspace.as_deref(), clock };
        if let Err(error) = self.responder.forget_copies(original, self.means.respond.keep_copies).await {
            let words = format!("an old copy cannot be removed: {error}");
            self.record(Record::note(&self.watched.container, &words));
        }
    }

    /// Its workspace's path on the host.
    fn workspace(&self) -> Option<String> {
        Some(self.request().workspace?.to_string_lossy().into_owned())
    }

    async fn act(self: &Arc<Self>, decision: Decision) {
        let Decision { event, alert, action, cgroup, decided, recent, intent } = decision;
        let id = cgroup.as_ref().map(|cgroup| cgroup.id());
        self.alerts.fetch_add(1, Ordering::Relaxed);
        // Who asks for the watch meanwhile is answered when the action is over.
        let _acting = self.acting.lock().await;
        let since = || Duration::from_nanos(boottime().saturating_sub(event.time));
        let deed = Deed {
            event: &event,
            cgroup,
            watched: &self.watched,
            responder: &*self.responder,
            network: &self.network,
            pipeline: &self.pipeline,
            stood: self.state() == WatchState::Frozen,
            proof: Proof::new(self.means.respond.keep_evidence > 0),
        };
        let copy = match &deed.cgroup {
            Some(cgroup) if action == ActionName::Kill => {
                let workspace = self.workspace();
                let (owner, clock) = (self.owner, event.time);
                self.keep_copy(cgroup, Original { owner, workspace: workspace.as_deref(), clock }).await
            }
            _ => None,
        };
        let mut attempts = climb(&deed, action, Limits::of, since).await;
        let mut settled = None;
        // There is at least one.
        let Some(last) = attempts.last_mut() else { return };
        match last.action {
            ActionName::Freeze if last.error.is_none() => match self.responder.announce().await {
                Ok(()) => settled = Some(since()),
                // It stands still; what Incus makes of it is second.
                Err(error) => {
                    tracing::warn!(%error, name = self.watched.container.name, "frozen, but Incus could not be told");
                }
            },
            ActionName::Kill => {
                // Incus's kill ends what the kernel's could not.
                let buried = self.bury(last.error.is_none()).await;
                if buried.is_ok() {
                    last.error = None;
                    settled = Some(since());
                }
            }
            _ => {}
        }
        let (action, error, latency) = (last.action, last.error.clone(), last.latency);
        if !matches!(action, ActionName::Log | ActionName::Deny) {
            let taken = ActionTaken {
                action,
                error: error.clone(),
                latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
                rule_id: alert.rule.id.clone(),
                severity: alert.rule.severity,
                message: alert.message.clone(),
                process_executable: event.keyword(Field::ProcessExecutable).to_owned(),
                process_pid: event.actor.pid,
                timestamp: audit::timestamp(event.time),
            };
            if let (ActionName::Freeze, None, Some(id)) = (action, &error, id) {
                let why = format!("rule {}: {}", alert.rule.id, alert.message);
                self.hold(Some((id, Held { held_for: HeldFor::Rule, why, action: Some(taken.clone()) })));
            }
            let mut now = self.now();
            let is_over = matches!(now.state, WatchState::Frozen | WatchState::Killed);
            match action {
                ActionName::Freeze | ActionName::Kill => {
                    now.last_action = Some(taken);
                    if error.is_none() {
                        now.state =
                            if action == ActionName::Kill { WatchState::Killed } else { WatchState::Frozen };
                    }
                }
                // What it is frozen for is graver.
                _ if is_over => {}
                _ => now.last_action = Some(taken),
            }
        }
        // After the kill, which does not wait for the disk.
        let evidence = match deed.proof.found() {
            Some(found) => Some(self.means.keep(&self.audit, &event, &alert, found, &recent).await),
            None => None,
        };
        let (evidence, copy) = (evidence.as_ref(), copy.as_ref());
        let outcome = Outcome { attempts: &attempts, decided, settled, evidence, copy };
        let record = Record::alert(&event, &alert, &outcome);
        self.notify(&alert, &record);
        self.record(record);
        self.settle(intent);
        if let Some(Ok(_)) = copy {
            tokio::spawn(Arc::clone(self).forget_copies(event.time));
        }
        if action == ActionName::Kill {
            self.lay_to_rest().await;
        }
        if matches!(action, ActionName::Freeze | ActionName::Kill) && error.is_none() {
            let state = self.state();
            self.record(Record::state(&self.watched.container, state, &alert.message));
        }
    }
}

/// Who looks on for the log's sake.
pub(super) struct Raw {
    pub(super) view: View,
    /// The kinds that are written down.
    pub(super) kinds: Vec<EventKind>,
    /// As long as it is there, the kernel side sends every event.
    pub(super) _looks: Onlooker,
}

/// The next that is shown; never, if nobody looks.
async fn next(raw: &mut Option<Raw>) -> Option<Shown> {
    let shown = match raw {
        Some(raw) => raw.view.next().await,
        None => std::future::pending().await,
    };
    if shown.is_none() {
        *raw = None;
    }
    shown
}
