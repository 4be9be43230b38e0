//! The one thread through which every event goes: sensor, lineage, rules, and the first move of the answer.
//!
//! It promises that a freeze is written to the cgroup before anything else is done about an alert, and that
//! it never waits for Incus, for the disk or for a viewer. What takes longer goes to the watch's own task as a
//! [`Note`]; a note that finds no room there is counted in [`Watched::unsaid`].

use std::{
    collections::HashMap,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc as std_mpsc,
    },
    time::{Duration, Instant},
};

use coi_common::Flow;
use foldhash::fast::RandomState;
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    cgroup::{Cgroup, level},
    counts::Counts,
    event::{Container, Detail, Event, EventKind, Field, ProcessKey, Record as _},
    filter::filter,
    guard::Loss,
    inforce::{self, InForce},
    lineage::{Context, Lineage, uid_map, uid_map_of_cgroup},
    priority::Precedence,
    recent::Recent,
    recorder::Recorder,
    respond::{RespondError, action_for},
    rules::{Alert, Engine, OwnRules, Unsaid, Wanted, recording::Mark},
    sensor::{
        Arrived, BULK_INTERVAL, Sensor, SensorError, boottime,
        decode::{Body, RawEvent},
    },
    service::api::ActionName,
    standing::{Intent, Standing},
    turns::Turns,
    viewers::{Shown, Viewers},
};

/// How often the loss counters are looked at.
const LOSS_INTERVAL: Duration = Duration::from_millis(500);
/// How long the rings are looked at by the clock after something has come; until then nobody need wake the reader, which
/// would cost the watched process microseconds each time.
const BUSY: Duration = Duration::from_millis(3);
/// How often they are looked at meanwhile.
const LOOK: Duration = Duration::from_micros(150);
/// So long the thread is at work at most before it rests, and for which part of that it rests at least: whatever its
/// priority, a processor is left to others for a fifth of the time.
const WORK: Duration = Duration::from_millis(4);
const REST: u32 = 4;
/// How long the thread rests when it has frozen something: each process that is to stand still needs a processor for it,
/// perhaps this one, and what the watch's task does with the note that follows would take another one. It waits for nothing:
/// whether all stand still is for that task to see, and the kernel's word of it can be 10 ms late.
const STANDSTILL: Duration = Duration::from_micros(100);
/// How many events of a container are judged before another's.
const TURN: usize = 128;
/// How long it may take at that, but for the event that is just being judged: rules may be slow that others have
/// written.
const SLICE: Duration = Duration::from_millis(1);
/// The first sleep after that; see [`Sensor::sleeps`].
const NAP: Duration = Duration::from_millis(1);
/// How many places for notes are kept for what is more than an alert without an action.
const RESERVED: usize = 1024;
/// After an unclean end LXC appends -1, -2 and so on to a container's cgroup; so many are expected.
const SUFFIXES: u32 = 9;

/// A container or cgroup that is watched, as the pipeline and its watch's task share it.
pub struct Watched {
    /// Its name and identity.
    pub container: Arc<Container>,
    /// The cgroup's path from the hierarchy's root.
    pub path: String,
    /// Freeze and kill by the rules.
    pub respond: AtomicBool,
    /// The workspace's path as seen inside.
    pub workspace: Option<String>,
    /// The rules that its user and its workspace have brought.
    pub own: Arc<OwnRules>,
    /// What it is judged by: those, and the machine's.
    pub rules: Mutex<Arc<InForce>>,
    /// What the kernel side knows of it.
    pub scope: coi_common::Scope,
    /// Who looks on.
    pub viewers: Viewers,
    /// How many of them want to see every event, not only alerts.
    pub onlookers: AtomicUsize,
    /// Its task.
    pub notes: mpsc::Sender<Note>,
    /// Notes that found no room.
    pub unsaid: AtomicU64,
    /// What became of its events.
    pub counts: Counts,
    /// It is to stand still until a person says otherwise: who stops it for a moment does not let it go on.
    pub stands: AtomicBool,
    /// What found no room on its way to the recording.
    pub unrecorded: AtomicU64,
    /// What is decided, in case that this daemon is killed.
    pub standing: Standing,
}

/// What a watch's task is told.
pub enum Note {
    /// A rule fired.
    Alert(Box<Decision>),
    /// Its cgroup has been made.
    Made(Arc<Cgroup>),
    /// Its cgroup has been removed.
    Gone,
    /// The guard had taken this daemon for dead, and is answered when that is dealt with.
    Doubted(Arc<Loss>, oneshot::Sender<()>),
    /// Events were lost.
    Lost(Box<Event>),
    /// Alerts that were not repeated, and state that had to go.
    Unsaid(Unsaid),
    /// The pipeline has ended; told when all that was noted before is carried out.
    Last(oneshot::Sender<()>),
    /// It is watched no longer; there will be nothing more.
    Over,
    /// A person, whose uid this is, wants something done, after all that was noted before.
    Order(Order, u32, oneshot::Sender<Result<(), OrderError>>),
}

/// What a person can want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Let it go on, armed again.
    Thaw,
    /// End it as it stands: a frozen container must not run on for a moment first.
    Kill,
    /// Stop it.
    Freeze,
}

/// Why an order is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Nothing runs in it.
    #[error("nothing runs in {0}; there is nothing to freeze, thaw or kill")]
    NothingRuns(String),
    /// It was tried and failed.
    #[error(transparent)]
    Respond(#[from] RespondError),
    /// There is no monitor any more.
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// An alert, and what is to be done about it.
pub struct Decision {
    /// The event that made the rule fire.
    pub event: Event,
    /// The alert.
    pub alert: Alert,
    /// What to do.
    pub action: ActionName,
    /// Where.
    pub cgroup: Option<Arc<Cgroup>>,
    /// From the event to the decision, or to when the freeze that follows from it was written.
    pub decided: Duration,
    /// What came before, where it is to stand still.
    pub recent: Vec<Event>,
    /// Under which number it is noted in [`Watched::standing`].
    pub intent: Option<u64>,
}

/// A watch, and what it is to be judged by from now on.
pub type NewRules = (Arc<Watched>, Arc<InForce>);

/// What the pipeline is asked to do.
enum Command {
    Arm(Arc<Watched>, Option<Arc<Cgroup>>, oneshot::Sender<Result<(), SensorError>>),
    Disarm(Arc<Watched>, oneshot::Sender<Result<(), SensorError>>),
    Rearm(Arc<Watched>, oneshot::Sender<()>),
    Family(Arc<Watched>, ProcessKey, oneshot::Sender<Vec<ProcessKey>>),
    Knows(Arc<Watched>, u32, oneshot::Sender<Option<bool>>),
    Look(Arc<Watched>, Option<oneshot::Sender<Result<(), SensorError>>>),
    Drop(u64),
    CatchUp(oneshot::Sender<()>),
    Rules(Vec<NewRules>, oneshot::Sender<Result<(), SensorError>>),
    Stop,
}

/// The way to a running pipeline, which stops when the last one is gone; or to none, which has nothing to do.
#[derive(Clone)]
pub struct Handle(Option<Way>);

#[derive(Clone)]
struct Way {
    commands: std_mpsc::Sender<Command>,
    wake: Arc<EventFd>,
}

/// What the pipeline's thread, and nobody else, makes greater as long as it gets on: several times a second.
pub type Pulse = Arc<AtomicU64>;

/// There is no thread or descriptor to be had.
#[derive(Debug, thiserror::Error)]
#[error("the monitor's thread could not be started: {0}")]
pub struct StartError(#[from] std::io::Error);

/// The pipeline's thread has ended; it does so only by a panic.
#[derive(Debug, thiserror::Error)]
#[error("the monitor's thread has ended; see the daemon's log and start it again: coi daemon")]
pub struct Ended;

impl Handle {
    /// To no pipeline: nothing is seen or judged, and all that is asked for is done.
    pub const fn none() -> Self {
        Self(None)
    }

    /// To a pipeline that has ended.
    #[cfg(any(test, fuzzing))]
    pub fn ended() -> Self {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap_or_else(|error| panic!("{error}"));
        Self(Some(Way { commands: std_mpsc::channel().0, wake: Arc::new(wake) }))
    }

    /// Whether there is a pipeline.
    pub const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    fn send(&self, command: Command) -> Result<(), Ended> {
        let Some(Way { commands, wake }) = &self.0 else { return Ok(()) };
        commands.send(command).map_err(|_| Ended)?;
        wake.write(1).map(drop).map_err(|_| Ended)
    }

    /// Asks the pipeline; where there is none, the answer is `unasked`.
    async fn ask<T>(
        &self,
        unasked: T,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Ended> {
        if !self.is_some() {
            return Ok(unasked);
        }
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))?;
        answer.await.map_err(|_| Ended)
    }

    /// Watches from now on, and whenever its cgroup is made again. `existing` is its cgroup if it is there.
    pub async fn arm(
        &self,
        watched: Arc<Watched>,
        existing: Option<Arc<Cgroup>>,
    ) -> Result<Result<(), SensorError>, Ended> {
        self.ask(Ok(()), |reply| Command::Arm(watched, existing, reply)).await
    }

    /// Watches no longer.
    pub async fn disarm(&self, watched: Arc<Watched>) -> Result<Result<(), SensorError>, Ended> {
        self.ask(Ok(()), |reply| Command::Disarm(watched, reply)).await
    }

    /// Before a thaw: what happened so far is over, the next alert acts again.
    pub async fn rearm(&self, watched: Arc<Watched>) -> Result<(), Ended> {
        if !self.is_some() {
            watched.stands.store(false, Ordering::Release);
        }
        self.ask((), |reply| Command::Rearm(watched, reply)).await
    }

    /// A process and all that it and its descendants have started up to now.
    pub async fn family(&self, watched: Arc<Watched>, of: ProcessKey) -> Result<Vec<ProcessKey>, Ended> {
        self.ask(Vec::new(), |reply| Command::Family(watched, of, reply)).await
    }

    /// Is this the number of a process of the watch's, alive or ended not long ago? `None` where nobody has looked.
    pub async fn knows(&self, watched: Arc<Watched>, pid: u32) -> Result<Option<bool>, Ended> {
        self.ask(None, |reply| Command::Knows(watched, pid, reply)).await
    }

    /// Somebody wants to see every event from now on.
    pub async fn look(&self, watched: Arc<Watched>) -> Result<Result<Onlooker, SensorError>, Ended> {
        watched.onlookers.fetch_add(1, Ordering::Relaxed);
        let onlooker = Onlooker { watched: Arc::clone(&watched), pipeline: self.clone() };
        let looked = self.ask(Ok(()), |reply| Command::Look(watched, Some(reply))).await?;
        Ok(looked.map(|()| onlooker))
    }

    /// Watches one cgroup no longer: it has turned out to be somebody else's.
    pub fn drop_cgroup(&self, id: u64) -> Result<(), Ended> {
        self.send(Command::Drop(id))
    }

    /// Ends when all that has happened so far is judged and counted.
    pub async fn catch_up(&self) -> Result<(), Ended> {
        self.ask((), Command::CatchUp).await
    }

    /// Judges by other rules from now on, all of these watches at once. What happened so far is judged by the old ones.
    pub async fn use_rules(&self, rules: Vec<NewRules>) -> Result<Result<(), SensorError>, Ended> {
        self.ask(Ok(()), |reply| Command::Rules(rules, reply)).await
    }

    /// Ends the pipeline, and with it every kernel program.
    pub fn stop(&self) {
        // One that has ended needs no stopping.
        let _ = self.send(Command::Stop);
    }
}

/// Somebody who wants to see every event, until this is dropped.
pub struct Onlooker {
    watched: Arc<Watched>,
    pipeline: Handle,
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        self.watched.onlookers.fetch_sub(1, Ordering::Relaxed);
        // A pipeline that has ended shows nothing anyway.
        let _ = self.pipeline.send(Command::Look(Arc::clone(&self.watched), None));
    }
}

/// Starts the pipeline. What it gives beside the way to it is its sign of life, and its thread.
pub fn start(
    sensor: Sensor,
    recorder: Option<Recorder>,
) -> Result<(Handle, Pulse, std::thread::JoinHandle<()>), StartError> {
    let (commands, inbox) = std_mpsc::channel();
    let wake = Arc::new(
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(std::io::Error::from)?,
    );
    let pulse = Pulse::default();
    let handle = Handle(Some(Way { commands, wake: Arc::clone(&wake) }));
    let pipeline = Pipeline {
        sensor,
        lineage: Lineage::default(),
        wanted: Wanted::nothing(),
        recorder,
        scopes: HashMap::default(),
        expected: HashMap::new(),
        inbox,
        wake,
        pulse: Arc::clone(&pulse),
        arrived: Vec::new(),
        turns: Turns::default(),
        last: Instant::now(),
        events: Vec::new(),
        alerts: Vec::new(),
    };
    let thread = std::thread::Builder::new().name("coi-monitor".into()).spawn(move || pipeline.run())?;
    Ok((handle, pulse, thread))
}

struct Pipeline {
    sensor: Sensor,
    lineage: Lineage,
    /// What the rules of all watches want, as the kernel side was told.
    wanted: Wanted,
    /// Who writes down what the engine is told.
    recorder: Option<Recorder>,
    /// What runs now, by the cgroup's id.
    scopes: HashMap<u64, Scoped, RandomState>,
    /// What is watched whenever it is made, by the cgroup's path.
    expected: HashMap<String, Arc<Watched>>,
    inbox: std_mpsc::Receiver<Command>,
    wake: Arc<EventFd>,
    pulse: Pulse,
    /// What has arrived and is not judged yet.
    turns: Turns<Arrived>,
    /// When anything arrived last.
    last: Instant,
    /// Kept for their room.
    arrived: Vec<Arrived>,
    events: Vec<Event>,
    alerts: Vec<Alert>,
}

/// How long nothing has come.
struct Quiet {
    since: Instant,
    /// The reader has slept for a moment since.
    napped: bool,
}

impl Quiet {
    fn since(since: Instant) -> Self {
        Self { since, napped: false }
    }
}

/// A watched cgroup that exists.
struct Scoped {
    watched: Arc<Watched>,
    engine: Engine,
    cgroup: Option<Arc<Cgroup>>,
    /// The user namespace of its init.
    uid_map: Vec<[u32; 3]>,
    done: Done,
    recent: Recent,
}

/// What has been done about it since it was armed; a second freeze of what is frozen would only be noise.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    freeze: bool,
    kill: bool,
    cut: bool,
}

impl Done {
    /// What is left to do of what is asked for.
    fn left(self, asked: ActionName) -> ActionName {
        let is_done = match asked {
            ActionName::Freeze => self.freeze || self.kill,
            ActionName::CutNetwork => self.cut || self.freeze || self.kill,
            // Frozen, it is still there, and goes on when the others do.
            ActionName::KillProcess | ActionName::Kill => self.kill,
            _ => false,
        };
        if is_done { ActionName::Log } else { asked }
    }

    fn note(&mut self, action: ActionName) {
        match action {
            ActionName::Freeze => self.freeze = true,
            ActionName::Kill => self.kill = true,
            ActionName::CutNetwork => self.cut = true,
            _ => {}
        }
    }
}

impl Pipeline {
    fn run(mut self) {
        let mut precedence = Precedence::of_this_thread();
        let mut losses_due = Instant::now();
        let mut quiet = Quiet::since(Instant::now());
        let mut rested = Instant::now();
        loop {
            self.pulse.fetch_add(1, Ordering::Relaxed);
            let worked = rested.elapsed();
            let mut slept = false;
            if self.turns.len() == 0 || worked >= WORK {
                slept = self.wait(&mut quiet, LOOK.max(worked / REST), &mut precedence);
                rested = Instant::now();
            }
            // Commands are taken first and carried out last: what happened before somebody asked is judged
            // before the answer.
            let commands: Vec<_> = self.inbox.try_iter().collect();
            let due = Instant::now() >= losses_due;
            if due {
                let told = self.sensor.tick();
                self.complain(told, "files that are read again may not count");
                losses_due = Instant::now() + LOSS_INTERVAL;
            }
            if self.fetch(due) {
                quiet = Quiet::since(Instant::now());
            }
            if commands.is_empty() {
                self.judge_turns();
            } else {
                self.catch_up();
            }
            if slept {
                // Not before: what has woken it may be an attack.
                let asleep = self.sensor.is_awake();
                self.complain(asleep, "watched processes wake the monitor more often than they need");
            }
            for command in commands {
                match command {
                    Command::Arm(watched, existing, reply) => {
                        let _ = reply.send(self.arm(&watched, existing));
                    }
                    Command::Disarm(watched, reply) => {
                        let _ = reply.send(self.disarm(&watched));
                    }
                    Command::Rearm(watched, reply) => {
                        self.rearm(&watched);
                        let _ = reply.send(());
                    }
                    Command::Family(watched, of, reply) => {
                        let ids = self.ids(&watched).into_iter();
                        let _ = reply.send(ids.flat_map(|id| self.lineage.family(id, of)).collect());
                    }
                    Command::Knows(watched, pid, reply) => {
                        let ids = self.ids(&watched);
                        let _ = reply.send(Some(ids.into_iter().any(|id| self.lineage.knows(id, pid))));
                    }
                    Command::Look(watched, reply) => {
                        let looked = self.look(&watched);
                        match reply {
                            Some(reply) => {
                                let _ = reply.send(looked);
                            }
                            None => self.complain(looked, "more events are sent than anybody wants"),
                        }
                    }
                    Command::Drop(id) => {
                        if let Err(error) = self.sensor.unwatch(id) {
                            tracing::error!(%error, id, "a cgroup that is not to be watched still is");
                        }
                        self.ended(id);
                    }
                    Command::CatchUp(reply) => {
                        let _ = reply.send(());
                    }
                    Command::Rules(rules, reply) => {
                        let _ = reply.send(self.use_rules(rules));
                    }
                    Command::Stop => return,
                }
            }
        }
    }

    /// Takes what has arrived to where it waits for its turn; says whether any of it is more than comes in storms.
    fn fetch(&mut self, losses: bool) -> bool {
        self.sensor.drain(&mut self.arrived);
        if losses {
            self.sensor.losses(&mut self.arrived);
        }
        let mut rare = false;
        if !self.arrived.is_empty() {
            self.last = Instant::now();
        }
        for arrived in self.arrived.drain(..) {
            rare |= arrived.flow.priority > 0;
            self.turns.push(arrived.event.header.scope, arrived);
        }
        rare
    }

    /// Judges some of what waits, of each container a little, those first that have least: nobody's attack waits until
    /// another's flood is judged.
    fn judge_turns(&mut self) {
        for scope in self.turns.order() {
            self.pulse.fetch_add(1, Ordering::Relaxed);
            let mut flow = Flow::default();
            let began = Instant::now();
            for _ in 0..TURN {
                let Some(arrived) = self.turns.pop(scope) else { break };
                flow.priority += arrived.flow.priority;
                flow.bulk += arrived.flow.bulk;
                self.take(arrived.event);
                if began.elapsed() > SLICE {
                    break;
                }
            }
            self.sensor.settle(scope, flow);
        }
    }

    /// Judges and counts all that has happened so far.
    fn catch_up(&mut self) {
        self.fetch(true);
        while self.turns.len() > 0 {
            self.judge_turns();
        }
    }

    /// Waits until there may be something to do; while something comes, for `rest`. Did it sleep until the kernel side woke
    /// it? That still thinks so.
    fn wait(&mut self, quiet: &mut Quiet, rest: Duration, precedence: &mut Precedence) -> bool {
        let commands = PollFd::new(self.wake.as_fd(), PollFlags::POLLIN);
        let began = Instant::now();
        let silence = began.duration_since(quiet.since);
        let sleeps = self.turns.len() == 0 && (self.scopes.is_empty() || silence >= BUSY);
        let (woken, asked) = if sleeps {
            precedence.was_idle(began.duration_since(self.last));
            let awake = self.sensor.sleeps();
            self.complain(awake, "the monitor may notice things late");
            let sleep = match (quiet.napped, self.scopes.is_empty()) {
                (false, _) => NAP,
                (true, true) => LOSS_INTERVAL,
                (true, false) => BULK_INTERVAL,
            };
            quiet.napped = true;
            let rings = PollFd::new(self.sensor.wakes(), PollFlags::POLLIN);
            (ppoll(&mut [rings, commands], Some(TimeSpec::from_duration(sleep)), None), sleep)
        } else {
            (ppoll(&mut [commands], Some(TimeSpec::from_duration(rest)), None), rest)
        };
        if woken == Ok(0) {
            precedence.slept(asked, began);
        } else {
            // Empty if nobody called, as when the wait was interrupted.
            let _ = self.wake.read();
        }
        sleeps
    }

    fn complain(&self, result: Result<(), SensorError>, what: &str) {
        if let Err(error) = result {
            tracing::error!(%error, "{what}");
        }
    }

    /// Tells the kernel side whether every event of a container is wanted.
    fn look(&mut self, watched: &Arc<Watched>) -> Result<(), SensorError> {
        let expected = self.expected.iter().filter(|(_, other)| Arc::ptr_eq(other, watched));
        let paths: Vec<_> = expected.map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.sensor.expect(&path, watched.scope())?;
        }
        for id in self.ids(watched) {
            self.sensor.want_everything(id, watched.wants_everything())?;
        }
        Ok(())
    }

    /// What the rules of all watches want, and those of one more.
    fn wanted_by_all(&self, more: Option<&Arc<Watched>>) -> Wanted {
        let watched = self.expected.values().chain(self.scopes.values().map(|scoped| &scoped.watched));
        let rules: Vec<_> = watched.chain(more).map(|watched| watched.rules()).collect();
        inforce::wanted(rules.iter())
    }

    /// Tells the kernel side what is wanted, if that is news.
    fn want(&mut self, wanted: Wanted) -> Result<(), SensorError> {
        if wanted != self.wanted {
            self.sensor.want(&filter(&wanted))?;
            self.wanted = wanted;
        }
        Ok(())
    }

    fn arm(&mut self, watched: &Arc<Watched>, existing: Option<Arc<Cgroup>>) -> Result<(), SensorError> {
        if let Some(recorder) = &self.recorder {
            recorder.begin(watched);
        }
        self.want(self.wanted_by_all(Some(watched)))?;
        for path in paths(&watched.path) {
            // Another container may really have the name that this one's cgroup would get after an unclean end.
            let taken = self.expected.get(&path).is_some_and(|other| other.path == path);
            if path == watched.path || !taken {
                self.sensor.expect(&path, watched.scope())?;
                self.expected.insert(path, Arc::clone(watched));
            }
        }
        if let Some(cgroup) = existing {
            let scope = coi_common::Scope { started: 1, level: level(cgroup.path()), ..watched.scope() };
            let id = cgroup.id();
            let directory = cgroup.directory();
            self.sensor.watch(id, scope)?;
            self.began(id, Arc::clone(watched), Some(cgroup));
            self.lineage.snapshot(id, &directory);
        }
        Ok(())
    }

    fn disarm(&mut self, watched: &Arc<Watched>) -> Result<(), SensorError> {
        let mut result = Ok(());
        for path in paths(&watched.path) {
            // Another watch may have taken the path over.
            if self.expected.get(&path).is_some_and(|other| Arc::ptr_eq(other, watched)) {
                self.expected.remove(&path);
                result = result.and(self.sensor.unexpect(&path));
            }
        }
        let ids = self.ids(watched);
        for id in &ids {
            result = result.and(self.sensor.unwatch(*id));
        }
        // What was on its way counts.
        self.catch_up();
        for id in ids {
            self.ended(id);
        }
        result.and(self.want(self.wanted_by_all(None)))
    }

    fn rearm(&mut self, watched: &Arc<Watched>) {
        for id in self.ids(watched) {
            if let Some(scoped) = self.scopes.get_mut(&id) {
                scoped.watched.report(scoped.engine.reset(id));
                scoped.watched.mark(id, Mark::Thawed, self.recorder.as_ref());
                scoped.done = Done::default();
            }
        }
        watched.stands.store(false, Ordering::Release);
    }

    fn use_rules(&mut self, mut rules: Vec<NewRules>) -> Result<(), SensorError> {
        // What has ended since they were read has let go of its rules, and would keep these as long as it is remembered.
        rules.retain(|(watched, _)| self.is_armed(watched));
        let old: Vec<NewRules> = rules
            .into_iter()
            .map(|(watched, rules)| (Arc::clone(&watched), watched.replace(rules)))
            .collect();
        if let Err(error) = self.tell_wants(&old) {
            // The old rules stay, and what they want was wanted before.
            let back: Vec<NewRules> = old
                .into_iter()
                .map(|(watched, rules)| (Arc::clone(&watched), watched.replace(rules)))
                .collect();
            let back = self.tell_wants(&back);
            self.complain(back, "some events may be missing");
            return Err(error);
        }
        for (id, scoped) in &mut self.scopes {
            if old.iter().any(|(watched, _)| Arc::ptr_eq(watched, &scoped.watched)) {
                scoped.watched.report(scoped.engine.forget(*id));
                scoped.watched.mark(*id, Mark::Gone, self.recorder.as_ref());
                scoped.engine = Engine::new(Arc::clone(&scoped.watched.rules().set));
            }
        }
        Ok(())
    }

    /// Tells the kernel side what is wanted now that these watches have other rules. What was wanted and still is goes
    /// on being sent.
    fn tell_wants(&mut self, changed: &[NewRules]) -> Result<(), SensorError> {
        self.want(self.wanted_by_all(None).union(&self.wanted))?;
        changed.iter().try_for_each(|(watched, _)| self.look(watched))?;
        self.want(self.wanted_by_all(None))
    }

    fn is_armed(&self, watched: &Arc<Watched>) -> bool {
        let mut expected = self.expected.values();
        expected.any(|other| Arc::ptr_eq(other, watched)) || !self.ids(watched).is_empty()
    }

    fn ids(&self, watched: &Arc<Watched>) -> Vec<u64> {
        let of_it = self.scopes.iter().filter(|(_, scoped)| Arc::ptr_eq(&scoped.watched, watched));
        of_it.map(|(id, _)| *id).collect()
    }

    fn began(&mut self, id: u64, watched: Arc<Watched>, cgroup: Option<Arc<Cgroup>>) {
        if let Some(cgroup) = &cgroup {
            watched.tell(Note::Made(Arc::clone(cgroup)));
        }
        let wanted = self.sensor.want_everything(id, watched.wants_everything());
        self.complain(wanted, "some events may be missing");
        let engine = Engine::new(Arc::clone(&watched.rules().set));
        self.scopes.insert(
            id,
            Scoped {
                watched,
                engine,
                cgroup,
                uid_map: Vec::new(),
                done: Done::default(),
                recent: Recent::default(),
            },
        );
    }

    fn ended(&mut self, id: u64) {
        self.sensor.forget(id);
        self.lineage.forget(id);
        if let Some(mut scoped) = self.scopes.remove(&id) {
            scoped.watched.report(scoped.engine.forget(id));
            scoped.watched.mark(id, Mark::Gone, self.recorder.as_ref());
        }
    }

    fn take(&mut self, raw: RawEvent) {
        match &raw.body {
            Body::CgroupMade(made) => {
                if let Some(watched) = self.expected.get(&made.path) {
                    let watched = Arc::clone(watched);
                    // It may be gone again; there is nothing to act on then.
                    let cgroup = Cgroup::open(&made.path).ok().filter(|cgroup| cgroup.id() == made.id);
                    self.began(made.id, watched, cgroup.map(Arc::new));
                }
                return;
            }
            Body::CgroupGone(gone) => {
                // What was lost of it can be told only now.
                let mut losses = Vec::new();
                self.sensor.losses(&mut losses);
                for loss in losses {
                    self.take(loss.event);
                }
                if let Some(scoped) = self.scopes.get(&gone.id) {
                    scoped.watched.tell(Note::Gone);
                }
                self.ended(gone.id);
                return;
            }
            _ => {}
        }
        let scope = raw.header.scope;
        let Some(scoped) = self.scopes.get_mut(&scope) else { return };
        scoped.watched.counts.add(&raw);
        if scoped.uid_map.is_empty()
            && matches!(raw.body, Body::Exec { .. })
            && raw.header.flags & coi_common::FLAG_SETUP == 0
        {
            // Whoever runs first in a container that is older than its watch may be gone again.
            let of_init = || uid_map_of_cgroup(&scoped.cgroup.as_ref()?.directory());
            scoped.uid_map = of_init().or_else(|| uid_map(raw.header.tgid)).unwrap_or_default();
        }
        let context = Context {
            container: &scoped.watched.container,
            workspace: scoped.watched.workspace.as_deref(),
            uid_map: &scoped.uid_map,
        };
        self.lineage.apply(raw, &context, &mut self.events);
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            self.judge(scope, event);
        }
        self.events = events;
    }

    fn judge(&mut self, scope: u64, event: Event) {
        let Some(scoped) = self.scopes.get_mut(&scope) else { return };
        scoped.engine.evaluate(&event, scope, &mut self.alerts);
        for alert in self.alerts.drain(..) {
            scoped.answer(&event, alert);
        }
        if event.kind == EventKind::Loss {
            scoped.watched.tell(Note::Lost(Box::new(event.clone())));
        }
        scoped.watched.show(scope, &event, self.recorder.as_ref());
        scoped.recent.push(event);
    }
}

impl Scoped {
    fn answer(&mut self, event: &Event, alert: Alert) {
        let respond = self.watched.respond.load(Ordering::Relaxed);
        let asked = if respond { action_for(alert.rule.action()) } else { ActionName::Log };
        let mut action = self.done.left(asked);
        let is_short = self.watched.notes.capacity() < RESERVED;
        if action == ActionName::KillProcess && is_short {
            // More than can be ended one by one.
            action = self.done.left(ActionName::Freeze);
        }
        let was_refused = action == ActionName::Deny && was_refused(event);
        let stands = match action {
            ActionName::Freeze | ActionName::Kill => true,
            // What should have been refused and was not is as grave.
            ActionName::Deny => !was_refused && event.remote().is_some(),
            _ => false,
        };
        if stands {
            self.watched.stands.store(true, Ordering::Release);
        }
        let intent = match action {
            ActionName::Log => None,
            ActionName::Deny if !stands => None,
            ActionName::Deny => self.watched.intend(event, &alert, ActionName::Freeze),
            action => self.watched.intend(event, &alert, action),
        };
        let mut frozen = false;
        if (stands || action == ActionName::KillProcess)
            && !(self.done.freeze || self.done.kill)
            && let Some(cgroup) = &self.cgroup
        {
            match cgroup.freeze() {
                Ok(()) => frozen = stands,
                // The watch's task tries again, and says so.
                Err(error) => tracing::warn!(%error, "a freeze is tried again"),
            }
        }
        self.done.note(if stands && action == ActionName::Deny { ActionName::Freeze } else { action });
        let decided = Duration::from_nanos(boottime().saturating_sub(event.time));
        if frozen {
            // Once for each freeze, of which there is no second before somebody thaws it: others' events can wait.
            std::thread::sleep(STANDSTILL);
        }
        // A rule that fires all the time must not take the room of the one that acts.
        if (action == ActionName::Log || action == ActionName::Deny && !stands) && is_short {
            self.watched.unsaid.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.watched.tell(Note::Alert(Box::new(Decision {
            event: event.clone(),
            alert,
            action,
            cgroup: self.cgroup.clone(),
            decided,
            recent: if stands { self.recent.all() } else { Vec::new() },
            intent,
        })));
    }
}

/// Whether the kernel has refused this connection, as far as the event can say. Of a datagram nothing is said: it is
/// told before the kernel has decided, by programs that then refuse it.
pub fn was_refused(event: &Event) -> bool {
    match event.detail {
        Detail::Connection { result, transport: "tcp", .. } => result == Some(nix::libc::EPERM),
        Detail::Connection { transport: "udp", .. } => true,
        _ => false,
    }
}

impl Watched {
    /// What it is judged by.
    pub fn rules(&self) -> Arc<InForce> {
        // It is only ever replaced whole.
        Arc::clone(&self.rules.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has it judged by others; gives what it was judged by.
    fn replace(&self, rules: Arc<InForce>) -> Arc<InForce> {
        std::mem::replace(&mut *self.rules.lock().unwrap_or_else(PoisonError::into_inner), rules)
    }

    /// It is over, and may be remembered for a while: what it need not hold for that it lets go.
    pub fn release(&self) {
        self.replace(InForce::none());
        self.standing.close();
    }

    /// Whether every event of it is wanted.
    fn wants_everything(&self) -> bool {
        self.onlookers.load(Ordering::Relaxed) > 0 || self.rules().everything
    }

    /// What the kernel side is told of it.
    fn scope(&self) -> coi_common::Scope {
        coi_common::Scope { everything: self.wants_everything().into(), ..self.scope }
    }

    /// Notes what is going to be done. It is done all the same if that fails.
    fn intend(&self, event: &Event, alert: &Alert, action: ActionName) -> Option<u64> {
        let intent = Intent {
            id: 0,
            action,
            rule_id: alert.rule.id.clone(),
            severity: alert.rule.severity,
            message: alert.message.clone(),
            process_executable: event.keyword(Field::ProcessExecutable).to_owned(),
            process_pid: event.actor.pid,
            clock: alert.time,
        };
        let noted = self.standing.intend(intent);
        noted.inspect_err(|error| tracing::warn!(%error, "a decision is not noted")).ok()
    }

    fn tell(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn report(&self, unsaid: Unsaid) {
        if !unsaid.is_empty() {
            self.tell(Note::Unsaid(unsaid));
        }
    }

    fn mark(self: &Arc<Self>, cgroup: u64, mark: Mark, recorder: Option<&Recorder>) {
        let shown = Shown::Mark(cgroup, mark, boottime());
        if let Some(recorder) = recorder {
            recorder.record(self, shown.clone());
        }
        self.viewers.show(&shown);
    }

    fn show(self: &Arc<Self>, cgroup: u64, event: &Event, recorder: Option<&Recorder>) {
        let looked_at = self.onlookers.load(Ordering::Relaxed) > 0;
        if !looked_at && recorder.is_none() {
            return;
        }
        let shown = Shown::Event(cgroup, Arc::new(event.clone()));
        if let Some(recorder) = recorder {
            recorder.record(self, shown.clone());
        }
        if looked_at {
            self.viewers.show(&shown);
        }
    }
}

/// The paths under which a container's cgroup can be made.
pub(super) fn paths(path: &str) -> impl Iterator<Item = String> {
    let path = path.to_owned();
    std::iter::once(path.clone()).chain((1..=SUFFIXES).map(move |n| format!("{path}-{n}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_there_is_none_all_is_done_and_one_that_has_ended_says_so() {
        assert!(Handle::none().catch_up().await.is_ok() && Handle::none().drop_cgroup(1).is_ok());
        assert!(matches!(Handle::none().use_rules(Vec::new()).await, Ok(Ok(()))));
        assert!(Handle::ended().catch_up().await.is_err() && Handle::ended().drop_cgroup(1).is_err());
    }

    #[test]
    fn what_is_done_is_not_done_again() {
        use ActionName::{CutNetwork, Deny, Freeze, Kill, KillProcess, Log};
        let after = |done: &[ActionName], asked: ActionName| {
            let mut all = Done::default();
            done.iter().for_each(|action| all.note(*action));
            all.left(asked)
        };
        for action in [Log, Deny, KillProcess, CutNetwork, Freeze, Kill] {
            assert_eq!(after(&[], action), action);
            assert_eq!(after(&[Deny, KillProcess], action), action);
        }
        assert_eq!(
            [Freeze, CutNetwork, KillProcess, Kill].map(|asked| after(&[Freeze], asked)),
            [Log, Log, KillProcess, Kill]
        );
        assert_eq!(
            [Freeze, CutNetwork, KillProcess, Kill].map(|asked| after(&[CutNetwork], asked)),
            [Freeze, Log, KillProcess, Kill]
        );
        assert_eq!([Freeze, CutNetwork, KillProcess, Kill].map(|asked| after(&[Kill], asked)), [Log; 4]);
    }
}
