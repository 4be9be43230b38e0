//! One watch: the task that carries out what the pipeline decided, in order, and writes it down.
//!
//! It promises that a record follows its action and that nothing of one container waits for another.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::api::{ActionName, ActionTaken, Hole, Subject, Watch, WatchState};
use crate::monitor::{
    audit::{self, Log},
    cgroup::Cgroup,
    event::{Field, Record as _, Value as FieldValue},
    pipeline::{Decision, Handle, Note, Order, OrderError, Watched},
    respond::{Owner, RespondError, Responder},
    rules::Counters,
    sensor::boottime,
    viewers::Shown,
};

/// A watch, as the service and its task share it.
pub(super) struct Watching {
    /// What the pipeline knows of it.
    pub(super) watched: Arc<Watched>,
    pub(super) subject: Subject,
    pub(super) responder: Box<dyn Responder>,
    /// It ends with its container.
    pub(super) ephemeral: bool,
    /// What cannot be seen of it.
    pub(super) holes: Vec<Hole>,
    audit: PathBuf,
    log: Mutex<Log>,
    now: Mutex<Now>,
    /// Held while an action is under way.
    acting: tokio::sync::Mutex<()>,
    alerts: AtomicU64,
}

/// What changes.
struct Now {
    state: WatchState,
    last_action: Option<ActionTaken>,
    cgroup: Option<Arc<Cgroup>>,
}

impl Watching {
    pub(super) fn new(
        watched: Arc<Watched>,
        subject: Subject,
        responder: Box<dyn Responder>,
        ephemeral: bool,
        log: Log,
        holes: Vec<Hole>,
    ) -> Self {
        Self {
            watched,
            subject,
            responder,
            ephemeral,
            holes,
            audit: log.path().to_owned(),
            log: Mutex::new(log),
            now: Mutex::new(Now { state: WatchState::Armed, last_action: None, cgroup: None }),
            acting: tokio::sync::Mutex::default(),
            alerts: AtomicU64::new(0),
        }
    }

    /// What clients are told.
    pub(super) fn describe(&self) -> Watch {
        let now = self.now();
        let events = self.watched.counts.by_kind();
        Watch {
            name: self.watched.container.name.clone(),
            subject: self.subject.clone(),
            respond: self.watched.respond.load(Ordering::Relaxed),
            state: now.state,
            audit: self.audit.clone(),
            last_action: now.last_action.clone(),
            alerts: self.alerts.load(Ordering::Relaxed),
            lost: events.values().map(|tally| tally.lost + tally.throttled).sum(),
            events,
            passed_over: Vec::new(),
        }
    }

    /// Ends when no action is under way.
    pub(super) async fn settled(&self) {
        drop(self.acting.lock().await);
    }

    /// Has it ended for good?
    pub(super) fn is_over(&self) -> bool {
        matches!(self.now().state, WatchState::Gone | WatchState::Killed)
    }

    pub(super) fn state(&self) -> WatchState {
        self.now().state
    }

    /// The cgroup that runs now.
    fn cgroup(&self) -> Option<Arc<Cgroup>> {
        self.now().cgroup.clone()
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        // A panic elsewhere leaves a state that is still one of the states.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes to a state and says so, in the log and to whoever looks on.
    pub(super) async fn enter(self: &Arc<Self>, state: WatchState, why: &str) {
        {
            let mut now = self.now();
            now.state = state;
            if state == WatchState::Running {
                now.last_action = None;
            }
        }
        self.record(audit::state(&self.watched.container, state, why), true).await;
    }

    /// Writes a record and shows it. The disk is waited for on a thread of its own.
    pub(super) async fn record(self: &Arc<Self>, record: Map<String, Value>, sync: bool) {
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || {
            let mut log = this.log.lock().unwrap_or_else(PoisonError::into_inner);
            let shown = Value::Object(record.clone());
            (log.append(record, sync), shown)
        })
        .await;
        let Ok((written, shown)) = written else { return };
        let line = match written {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, container = self.watched.container.name, "a record could not be written");
                format!("{shown}\n")
            }
        };
        self.watched.viewers.show(&Shown::Line(line.into()));
    }

    /// Writes down what became of the events so far.
    async fn sum_up(self: &Arc<Self>) {
        let counts = self.watched.counts.by_kind();
        self.record(audit::counts(&self.watched.container, &counts), true).await;
    }

    /// Carries out what the pipeline decided, until it is over.
    pub(super) async fn serve(
        self: Arc<Self>,
        pipeline: Handle,
        mut notes: mpsc::Receiver<Note>,
        ended: mpsc::Sender<Arc<Self>>,
    ) {
        while let Some(note) = notes.recv().await {
            match note {
                Note::Alert(decision) => self.act(*decision).await,
                Note::Made(cgroup) => {
                    self.now().cgroup = Some(Arc::clone(&cgroup));
                    // Incus may take its time; what the watch decides does not wait for it.
                    tokio::spawn(Arc::clone(&self).verify(pipeline.clone(), cgroup, ended.clone()));
                    self.enter(WatchState::Running, "its cgroup was made").await;
                }
                Note::Gone => {
                    self.now().cgroup = None;
                    if !self.is_over() {
                        let state = if self.ephemeral { WatchState::Gone } else { WatchState::Armed };
                        self.enter(state, "its cgroup was removed").await;
                    }
                    if !self.ephemeral {
                        self.sum_up().await;
                    } else {
                        // The service has it disarmed; nobody there means the daemon is ending.
                        let _ = ended.send(Arc::clone(&self)).await;
                    }
                }
                Note::Over => return self.sum_up().await,
                Note::Order(order, reply) => {
                    // Who asked may have gone away; it is done all the same.
                    let _ = reply.send(self.obey(order, &pipeline).await);
                }
                Note::Unsaid(unsaid) => {
                    for (rule, Counters { suppressed, evicted }) in unsaid {
                        let why = format!(
                            "rule {}: {suppressed} more alerts were not repeated, {evicted} subjects were forgotten for want of room",
                            rule.id
                        );
                        self.record(audit::note(&self.watched.container, &why), false).await;
                    }
                }
                Note::Lost(event) => {
                    self.record(audit::event(&*event), false).await;
                }
            }
            let unsaid = self.watched.unsaid.swap(0, Ordering::Relaxed);
            if unsaid > 0 {
                let why =
                    format!("{unsaid} alerts came faster than they could be written and are not in this log");
                self.enter(self.state(), &why).await;
            }
        }
    }

    /// Makes sure that a cgroup is the watched container's own.
    async fn verify(self: Arc<Self>, pipeline: Handle, cgroup: Arc<Cgroup>, ended: mpsc::Sender<Arc<Self>>) {
        let name = &self.watched.container.name;
        match self.responder.owner(&cgroup).await {
            Owner::Same => {}
            Owner::Another => {
                if let Err(error) = pipeline.drop_cgroup(cgroup.id()) {
                    tracing::error!(%error, name, "another container's cgroup may still be watched");
                }
                let mine = {
                    let mut now = self.now();
                    now.cgroup.take_if(|now| now.id() == cgroup.id()).is_some()
                };
                if mine {
                    let why = format!("{} is another container's", cgroup.path());
                    self.enter(WatchState::Armed, &why).await;
                }
            }
            Owner::Successor => {
                self.enter(WatchState::Gone, "another container has its name now").await;
                // Nobody there means the daemon is ending.
                let _ = ended.send(Arc::clone(&self)).await;
            }
        }
    }

    async fn obey(self: &Arc<Self>, order: Order, pipeline: &Handle) -> Result<(), OrderError> {
        let _acting = self.acting.lock().await;
        let Some(cgroup) = self.cgroup() else {
            return Err(OrderError::NothingRuns(self.watched.container.name.clone()));
        };
        match order {
            Order::Thaw => {
                // What happened so far is over before it goes on.
                pipeline.rearm(Arc::clone(&self.watched)).await?;
                self.responder.thaw(cgroup).await?;
                self.enter(WatchState::Running, "thawed by a person; armed again").await;
            }
            Order::Kill => {
                let killed = self.responder.kill(cgroup).await;
                if killed.is_ok() {
                    // Who follows it need not wait until Incus has cleaned up.
                    self.enter(WatchState::Gone, "killed by a person").await;
                }
                self.responder.bury().await.or(killed)?;
            }
        }
        Ok(())
    }

    async fn act(self: &Arc<Self>, decision: Decision) {
        let Decision { event, alert, action, cgroup, decided } = decision;
        self.alerts.fetch_add(1, Ordering::Relaxed);
        // Who asks for the watch meanwhile is answered when the action is over.
        let _acting = self.acting.lock().await;
        let since = || Duration::from_nanos(boottime().saturating_sub(event.time));
        let mut done = match (action, cgroup) {
            (ActionName::Log, _) => Ok(()),
            (ActionName::Freeze, Some(cgroup)) => self.responder.freeze(cgroup).await,
            (ActionName::Kill, Some(cgroup)) => self.responder.kill(cgroup).await,
            // The cgroup was gone before it could be opened, and with it what ran there.
            (_, None) => Ok(()),
        };
        let latency = since();
        let mut settled = None;
        match action {
            ActionName::Log => {}
            ActionName::Freeze => match self.responder.announce().await {
                Ok(()) => settled = Some(since()),
                // It stands still; what Incus makes of it is second.
                Err(error) => {
                    tracing::warn!(%error, name = self.watched.container.name, "frozen, but Incus could not be told");
                }
            },
            ActionName::Kill => {
                // Incus's kill ends what the kernel's could not.
                done = self.responder.bury().await.or(done);
                settled = Some(since());
            }
        }
        let error = done.err().map(|error: RespondError| error.to_string());
        if action != ActionName::Log {
            let text = |field| match event.get(field) {
                Some(FieldValue::Keyword(text)) => text.to_owned(),
                _ => String::new(),
            };
            let taken = ActionTaken {
                action,
                error: error.clone(),
                latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
                rule_id: alert.rule.id.clone(),
                severity: alert.rule.severity,
                message: alert.message.clone(),
                process_executable: text(Field::ProcessExecutable),
                process_pid: event.actor.pid,
                timestamp: audit::timestamp(event.time),
            };
            let mut now = self.now();
            now.last_action = Some(taken);
            if error.is_none() {
                now.state = if action == ActionName::Kill { WatchState::Killed } else { WatchState::Frozen };
            }
        }
        self.record(
            audit::alert(
                &event,
                &alert,
                &audit::Outcome { action, decided, latency, settled, error: error.as_deref() },
            ),
            true,
        )
        .await;
        if action != ActionName::Log && error.is_none() {
            let state = self.state();
            self.record(audit::state(&self.watched.container, state, &alert.message), true).await;
        }
    }
}
