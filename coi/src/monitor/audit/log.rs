//! A log that is being written: a bounded queue, and a thread that writes.
//!
//! It promises that who appends never waits; that records come into the log in the order in which they were appended;
//! that those that find no room are counted, and told in the place where they are missing; and that all that was appended
//! before a [`Log::flushed`] is on the disk when that says so. One thread for each log: what one container's records wait
//! for, no other's do.

use std::{
    collections::{HashMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    files::{self, Place},
    key::Key,
    options::Options,
    record::{About, Gap, Kind, Record, timestamp},
    retire::retire,
    store::Store,
};
use crate::monitor::sensor::boottime;

/// How many records may wait. Raw events may take half of it: no flood of them keeps an alert out.
const QUEUE: usize = 8192;
/// How much is written at once.
const BATCH: usize = 256 << 10;
/// How often a disk that takes nothing is tried.
const RETRY: Duration = Duration::from_millis(250);
/// How long who asks for it waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a log cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot write the audit log {path}: {source}; make room, or set COI_LOG_DIR and COI_STATE_DIR to other directories"
)]
pub struct LogError {
    /// The file or directory.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// All logs of this machine, of which any number is being written.
pub struct Logs {
    directory: PathBuf,
    state: PathBuf,
    options: Arc<Options>,
    key: Arc<Key>,
    /// By place. A log's thread takes it out when it ends.
    open: Arc<Mutex<HashMap<PathBuf, Arc<Shared>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The way into one log. When the last of its clones is gone the log is ended.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    owner: u32,
}

/// What a log's writer says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// So many of the records that were appended have been taken care of.
    pub written: u64,
    /// Why the disk takes nothing, as long as it does not.
    pub trouble: Option<String>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    queue: Mutex<Queue>,
    /// Something was appended, or it is to end.
    wake: Condvar,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<Record>,
    /// So many were appended, those that found no room among them.
    appended: u64,
    missed: Missed,
    handles: usize,
    /// What waits is to be written at once.
    flush: bool,
    /// The daemon ends.
    ended: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Missed {
    records: u64,
    alerts: u64,
    /// By the kernel's clock.
    since: Option<u64>,
}

impl Logs {
    /// The logs of this machine. The signing key is made if there is none.
    pub fn of_machine(options: Options) -> Result<Self, LogError> {
        Self::at(&files::directory(), &files::state_directory(), options)
    }

    /// The logs in a directory, with the daemon's notes in another.
    pub fn at(directory: &Path, state: &Path, options: Options) -> Result<Self, LogError> {
        let failed = |source| LogError { path: state.to_owned(), source };
        // Everybody may look for the public key; what is below `heads` is closed by itself.
        std::fs::create_dir_all(state).map_err(failed)?;
        let key = Key::of_machine(state).map_err(failed)?;
        Ok(Self {
            directory: directory.to_owned(),
            state: state.to_owned(),
            options: Arc::new(options),
            key: Arc::new(key),
            open: Arc::default(),
            threads: Mutex::default(),
        })
    }

    /// How they are kept.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Opens the log of a container, or goes on with it. Whose it is was decided when it was made; `owner` is whose it
    /// becomes if there is none.
    pub fn open(&self, owner: u32, about: About) -> Result<Log, LogError> {
        let place =
            files::existing(&self.directory, &self.state, &about.name, &about.id).unwrap_or_else(|| {
                Place::new(&self.directory, &self.state, owner, files::stem(&about.name, &about.id))
            });
        let (path, owner) = (place.active(), place.owner);
        let mut open = lock(&self.open);
        if let Some(shared) = open.get(&path) {
            let mut queue = lock(&shared.queue);
            if !queue.ended {
                // Its thread may be about to end; it looks once more before it does.
                queue.handles += 1;
                drop(queue);
                return Ok(Log { shared: Arc::clone(shared), owner });
            }
        }
        let failed = |source| LogError { path: path.clone(), source };
        let store =
            Store::open(place, about, Arc::clone(&self.options), Arc::clone(&self.key)).map_err(failed)?;
        let shared = Arc::new(Shared {
            path: path.clone(),
            queue: Mutex::new(Queue { handles: 1, ..Queue::default() }),
            wake: Condvar::new(),
            progress: watch::Sender::default(),
        });
        let writer =
            Writer { store, shared: Arc::clone(&shared), open: Arc::clone(&self.open), about_trouble: None };
        let thread = std::thread::Builder::new().name("coi-audit".into());
        let thread = thread.spawn(move || writer.run()).map_err(failed)?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        open.insert(path, Arc::clone(&shared));
        Ok(Log { shared, owner })
    }

    /// Removes what is too old of the logs that nobody writes any more.
    pub fn retire(&self) {
        for place in files::places(&self.directory, &self.state) {
            // Who opens it just then waits.
            let open = lock(&self.open);
            if open.contains_key(&place.active()) {
                continue;
            }
            if let Err(error) = retire(&place, self.options.keep_age) {
                tracing::warn!(%error, log = %place.active().display(), "an old log cannot be removed");
            }
        }
    }

    /// Ends all logs, each in order as far as the disk allows. Waits for them no longer than [`PATIENCE`].
    pub fn end(&self) {
        let all: Vec<_> = lock(&self.open).values().cloned().collect();
        for shared in all {
            lock(&shared.queue).ended = true;
            shared.wake.notify_all();
        }
        let deadline = Instant::now() + PATIENCE;
        for thread in lock(&self.threads).drain(..) {
            // A thread that the disk holds cannot be waited for but like this.
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("the writer of an audit log ended by a panic");
            }
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.end();
    }
}

impl Log {
    /// Its newest file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Whose it is.
    pub const fn owner(&self) -> u32 {
        self.owner
    }

    /// Puts a record into the queue.
    pub fn append(&self, record: Record) {
        let mut queue = lock(&self.shared.queue);
        queue.appended += 1;
        let room = if record.kind() == Kind::Event { QUEUE / 2 } else { QUEUE };
        if queue.records.len() < room {
            queue.records.push_back(record);
        } else {
            queue.missed.records += 1;
            queue.missed.alerts += u64::from(record.kind() == Kind::Alert);
            queue.missed.since.get_or_insert_with(boottime);
        }
        drop(queue);
        self.shared.wake.notify_all();
    }

    /// Ends when all that was appended before this call is on the disk. Gives up if the disk takes nothing; is it there?
    pub fn flushed(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut progress = self.shared.progress.subscribe();
        let wanted = {
            let mut queue = lock(&self.shared.queue);
            queue.flush = true;
            queue.appended
        };
        self.shared.wake.notify_all();
        async move {
            let written =
                progress.wait_for(|progress| progress.written >= wanted || progress.trouble.is_some());
            matches!(tokio::time::timeout(PATIENCE, written).await, Ok(Ok(progress)) if progress.written >= wanted)
        }
    }

    /// What its writer says of itself.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        lock(&self.shared.queue).handles -= 1;
        self.shared.wake.notify_all();
    }
}

/// The thread that writes a log.
struct Writer {
    store: Store,
    shared: Arc<Shared>,
    open: Arc<Mutex<HashMap<PathBuf, Arc<Shared>>>>,
    /// Since when, by the kernel's clock, the disk takes nothing, and its word for it.
    about_trouble: Option<(u64, String)>,
}

/// What the writer took out of the queue.
struct Batch {
    records: VecDeque<Record>,
    missed: Missed,
    /// So many were appended up to here.
    upto: u64,
    flush: bool,
    over: bool,
}

impl Writer {
    fn run(mut self) {
        let mut due = Duration::ZERO;
        loop {
            let Batch { records, missed, upto, flush, over } = self.take(due);
            for record in records {
                self.make_room();
                self.store.push(&record);
                if self.store.waiting() >= BATCH {
                    self.commit();
                }
            }
            if missed.records > 0 {
                self.store.push(&Record::gap(
                    self.store.about(),
                    &Gap {
                        reason: "queue",
                        since: missed.since.map(timestamp),
                        records: Some(missed.records),
                        alerts: Some(missed.alerts),
                        ..Gap::default()
                    },
                ));
            }
            if flush {
                self.store.hurry();
            }
            self.commit();
            let trouble = self.about_trouble.is_some();
            if !trouble {
                self.shared.progress.send_if_modified(|progress| {
                    let changed = progress.written != upto;
                    progress.written = upto;
                    changed
                });
            }
            if over && self.end() {
                return;
            }
            due = match self.store.tick() {
                Ok(due) => due,
                Err(error) => {
                    self.complain(&error);
                    RETRY
                }
            };
        }
    }

    /// Waits until there is something to do, and takes what there is.
    fn take(&self, due: Duration) -> Batch {
        let queue = lock(&self.shared.queue);
        let is_idle = |queue: &mut Queue| {
            queue.records.is_empty()
                && queue.missed.records == 0
                && !queue.flush
                && queue.handles > 0
                && !queue.ended
        };
        let waited = self.shared.wake.wait_timeout_while(queue, due, is_idle);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        Batch {
            records: std::mem::take(&mut queue.records),
            missed: std::mem::take(&mut queue.missed),
            upto: queue.appended,
            flush: std::mem::take(&mut queue.flush),
            over: queue.handles == 0 || queue.ended,
        }
    }

    /// Begins another file where one is due.
    fn make_room(&mut self) {
        while self.store.wants_rotation() {
            let done = self.store.rotate();
            if !self.settle(done) {
                return;
            }
        }
    }

    /// Writes what waits; tries until the disk has taken it, or the daemon ends.
    fn commit(&mut self) {
        loop {
            let done = self.store.commit();
            if self.settle(done) && self.store.waiting() == 0 {
                return;
            }
            if self.about_trouble.is_some() && self.is_given_up() {
                return;
            }
        }
    }

    /// Takes note of what the disk said; after an error, waits before it is tried again. Is it worth going on?
    fn settle(&mut self, done: io::Result<()>) -> bool {
        match done {
            Ok(()) => {
                if let Some((since, error)) = self.about_trouble.take() {
                    tracing::info!(path = %self.shared.path.display(), "the audit log can be written again");
                    let gap = Gap {
                        reason: "disk",
                        since: Some(timestamp(since)),
                        error: Some(error),
                        ..Gap::default()
                    };
                    self.store.push(&Record::gap(self.store.about(), &gap));
                    self.shared.progress.send_modify(|progress| progress.trouble = None);
                }
                true
            }
            Err(error) => {
                self.complain(&error);
                let queue = lock(&self.shared.queue);
                // Nobody wakes it but by ending; a queue that fills meanwhile counts what it has no room for.
                let ended = |queue: &mut Queue| !queue.ended;
                drop(self.shared.wake.wait_timeout_while(queue, RETRY, ended));
                false
            }
        }
    }

    /// Nobody waits for the disk any more.
    fn is_given_up(&self) -> bool {
        lock(&self.shared.queue).ended
    }

    fn complain(&mut self, error: &io::Error) {
        if self.about_trouble.is_some() {
            return;
        }
        tracing::error!(%error, path = %self.shared.path.display(), "the audit log cannot be written; it is tried again");
        self.about_trouble = Some((boottime(), error.to_string()));
        self.shared.progress.send_modify(|progress| progress.trouble = Some(error.to_string()));
    }

    /// Ends the log, unless somebody has opened it again meanwhile.
    fn end(&mut self) -> bool {
        let mut open = lock(&self.open);
        {
            let queue = lock(&self.shared.queue);
            let is_over = queue.handles == 0 || queue.ended;
            if !is_over || !queue.records.is_empty() {
                return false;
            }
        }
        // Who opens it next waits for that: there is one writer.
        if let Err(error) = self.store.end() {
            tracing::error!(%error, path = %self.shared.path.display(), "an audit log was not ended in order");
        }
        open.remove(&self.shared.path);
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
