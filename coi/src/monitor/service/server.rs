//! The daemon's life: one set of kernel programs, any number of watches, one unix socket.
//!
//! It promises that it answers once its programs are loaded, and that they are gone when it ends. Where they cannot be
//! loaded it answers all the same, if nothing has to be monitored: for what is to run without the monitor.

use std::{
    env, fs,
    io::{self, Write as _},
    os::unix::{fs::PermissionsExt as _, net},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Uid,
};
use sd_notify::NotifyState;
use tokio::{
    net::UnixListener,
    sync::{Notify, mpsc},
};

use super::{
    Options,
    api::{self, ApiError},
    calls::router,
    connections::{self, Places},
    deed::Means,
    detach::READY,
    kept::Keeping,
    memory, policy,
    registry::Registry,
    systemd,
    trees::Trees,
    watches::Service,
};
use crate::{
    incus,
    monitor::{
        audit::{LogError, Logs},
        config::Config,
        guard::{Guard, GuardError, News},
        inforce::Base,
        notify::Notifier,
        pipeline, priority,
        private::{Private, PrivateError},
        recorder::{RecordError, Recorder},
        rulefiles::RuleFilesError,
        sensor::{Sensor, SensorError, census::Counted, fill::Fill},
    },
};

/// How often it is looked whether there are logs to be removed, unless they may not even become that old.
const RETIRE: Duration = Duration::from_secs(3600);
/// How long an ending daemon waits until systemd has heard of it.
const HEARD: Duration = Duration::from_secs(1);
/// How often it is looked meanwhile: two things may happen, of which the kernel tells only one. The lock becomes free, or
/// who has it begins to answer.
const LOOK: Duration = Duration::from_millis(50);
/// How long an ending daemon may take: the kernel lets go of some twenty programs one by one.
const ENDING: Duration = Duration::from_secs(15);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another one does.
    #[error("a COI daemon runs already and answers on {socket}; nothing to do")]
    Running {
        /// Its socket.
        socket: PathBuf,
    },
    /// Kernel programs need root.
    #[error("the daemon must run as root to load kernel programs; run: sudo coi daemon")]
    NotRoot,
    /// The kernel side does not work.
    #[error(transparent)]
    Sensor(#[from] SensorError),
    /// The rules are wrong.
    #[error(transparent)]
    Rules(#[from] RuleFilesError),
    /// Another one does, where systemd has the socket.
    #[error(
        "another COI daemon runs, which holds {lock}; end it first (`fuser {lock}` says which it is), this one is started again"
    )]
    Held {
        /// The lock.
        lock: PathBuf,
    },
    /// systemd has started it with something else than its socket.
    #[error("{0}; see coi.socket")]
    Activation(#[source] io::Error),
    /// The socket cannot be made.
    #[error("cannot listen on {socket}: {source}")]
    Listen {
        /// Where.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nothing can be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The audit log cannot be kept.
    #[error(transparent)]
    Audit(#[from] LogError),
    /// The pipeline does not start.
    #[error(transparent)]
    Pipeline(#[from] pipeline::StartError),
    /// What must outlive the daemon cannot be kept.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// Nothing would freeze what is watched if the daemon went.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A thread or a signal handler cannot be made.
    #[error("cannot start the daemon: {0}")]
    Start(#[source] io::Error),
}

impl ServerError {
    /// As it is told to whoever started the daemon.
    fn told(&self) -> ApiError {
        let code = if matches!(self, Self::Rules(_)) { "rules" } else { "internal" };
        ApiError { code: code.to_owned(), message: self.to_string() }
    }
}

/// Runs the daemon until it is told to end, or has had nothing to watch for `options.idle_exit`.
pub async fn run(mut options: Options) -> Result<(), ServerError> {
    let ready = options.ready_fd.take().map(fs::File::from);
    let say = |words: &str| {
        if let Some(mut ready) = ready.as_ref() {
            // Who does not listen any more needs no answer.
            let _ = ready.write_all(words.as_bytes());
        }
    };
    let started = start(&options).await;
    match &started {
        Ok(_) => {
            say(READY);
            systemd::say(NotifyState::Ready);
        }
        Err(error) => say(&format!("{}\n", serde_json::json!(error.told()))),
    }
    drop(ready);
    let Started { service, listener, place, thread, lock } = started?;
    let result = serve(&service, listener, options.idle_exit).await;
    let said = systemd::say(NotifyState::Stopping);
    // From here on a successor may come; without one it is frozen, where that is the policy.
    service.keeping.guard.leaving(service.monitor.handover).await;
    service.pipeline.stop();
    // The programs are gone when the thread is, and the recordings are written.
    if tokio::task::spawn_blocking(move || thread.map(JoinHandle::join)).await.is_err() {
        tracing::error!("the monitor's thread did not end in order");
    }
    service.finish().await;
    let logs = Arc::clone(&service.logs);
    if tokio::task::spawn_blocking(move || logs.end()).await.is_err() {
        tracing::error!("the audit logs were not ended in order");
    }
    // Only after that may another daemon begin.
    if !place.is_systemds {
        let _ = fs::remove_file(place.path);
    }
    drop(lock);
    // What is not said by now would end with this process; who does not listen is not waited for any longer.
    let _ = tokio::time::timeout(HEARD, said).await;
    result
}

struct Started {
    service: Arc<Service>,
    listener: UnixListener,
    place: Place,
    /// The monitor's.
    thread: Option<JoinHandle<()>>,
    lock: Flock<fs::File>,
}

/// Where the daemon listens.
struct Place {
    path: PathBuf,
    /// systemd listens there, whether a daemon runs or not.
    is_systemds: bool,
}

impl Place {
    /// The place of systemd's socket, or the daemon's own.
    fn new(systemds: Option<&net::UnixListener>) -> Self {
        let path = systemds.and_then(|listener| Some(listener.local_addr().ok()?.as_pathname()?.to_owned()));
        let is_systemds = path.is_some();
        let own = || env::var_os("COI_SOCKET").map_or_else(|| api::DEFAULT_SOCKET.into(), PathBuf::from);
        Self { path: path.unwrap_or_else(own), is_systemds }
    }

    fn lock(&self) -> PathBuf {
        self.path.with_extension("lock")
    }

    /// Waits for a daemon that is just ending; one that answers is left alone.
    async fn take_lock(&self) -> Result<Flock<fs::File>, ServerError> {
        let failed = |source| ServerError::Listen { socket: self.path.clone(), source };
        fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        let mut file = fs::File::create(self.lock()).map_err(failed)?;
        let deadline = Instant::now() + ENDING;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(lock),
                Err((file, _)) => file,
            };
            let is_over = Instant::now() > deadline;
            if self.is_systemds && is_over {
                return Err(ServerError::Held { lock: self.lock() });
            }
            if !self.is_systemds && (is_over || net::UnixStream::connect(&self.path).is_ok()) {
                return Err(ServerError::Running { socket: self.path.clone() });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A socket of the daemon's own.
    fn listen(&self) -> io::Result<net::UnixListener> {
        // A socket that nobody listens on is left by a daemon that was killed; the lock says it is gone.
        let _ = fs::remove_file(&self.path);
        let listener = net::UnixListener::bind(&self.path)?;
        // Everybody may ask; who it is, and what that one may, is in [`super::admission`].
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o666))?;
        Ok(listener)
    }
}

/// The monitor, or none.
struct Monitor {
    pipeline: pipeline::Handle,
    thread: Option<JoinHandle<()>>,
    guard: Guard,
    blind: Option<SensorError>,
    programs: Vec<String>,
    holes: Vec<api::Hole>,
    rings: Vec<(&'static str, Fill)>,
    maps: Vec<Counted>,
}

impl Monitor {
    fn start(
        mut sensor: Sensor,
        recorder: Option<Recorder>,
        runtime: &Path,
        guard_ended: mpsc::UnboundedSender<News>,
    ) -> Result<Self, ServerError> {
        let (programs, holes) = (sensor.programs().to_vec(), sensor.holes().to_vec());
        let (rings, maps) = (sensor.fills(), sensor.counted());
        let (pipeline, pulse, thread) = pipeline::start(sensor, recorder)?;
        // After the programs: what a process has opened last is closed first when it is killed.
        let guard = Guard::connect(runtime, pulse, guard_ended)?;
        Ok(Self { pipeline, thread: Some(thread), guard, blind: None, programs, holes, rings, maps })
    }

    /// None, and nothing that a guard would have to hold.
    fn blind(why: SensorError) -> Self {
        Self {
            pipeline: pipeline::Handle::none(),
            thread: None,
            guard: Guard::absent(),
            blind: Some(why),
            programs: Vec::new(),
            holes: Vec::new(),
            rings: Vec::new(),
            maps: Vec::new(),
        }
    }
}

async fn start(options: &Options) -> Result<Started, ServerError> {
    let Options { rules, config, record, .. } = options;
    if !Uid::effective().is_root() {
        return Err(ServerError::NotRoot);
    }
    let systemds = systemd::socket().map_err(ServerError::Activation)?;
    let place = Place::new(systemds.as_ref());
    let lock = place.take_lock().await?;
    priority::prefer_daemon();
    memory::confine();
    let set = Config::read(config.as_deref())?;
    let directory = place.path.parent().unwrap_or(Path::new("/"));
    let runtime = Private::open(&directory.join("guard"))?;
    let standing = Arc::new(Private::open(&directory.join("standing"))?);
    let trees = Arc::new(Trees::at(directory.join("trees")));
    let registry = Registry::of_machine()?;
    let (base, monitor) = (Base::of(&set, rules.as_deref())?, set.monitor);
    let means = Arc::new(Means { respond: set.respond, notifier: Notifier::start(&set.notify) });
    let logs = Arc::new(Logs::of_machine(set.audit)?);
    let recorder = record.as_deref().map(Recorder::start).transpose()?;
    let (guard_ended, guard_ends) = mpsc::unbounded_channel();
    let is_needed = recorder.is_some() || registry.all()?.iter().any(|kept| kept.request.monitored);
    let Monitor { pipeline, thread, guard, blind, programs, holes, rings, maps } = match Sensor::load() {
        Ok(sensor) => Monitor::start(sensor, recorder, runtime.path(), guard_ended)?,
        Err(error) if is_needed => return Err(error.into()),
        Err(error) => {
            tracing::error!(%error, "nothing can be monitored: only what is to run without the monitor runs");
            Monitor::blind(error)
        }
    };
    let service = Arc::new(Service {
        pipeline,
        blind,
        incus: incus::Client::from_env(),
        watches: Mutex::default(),
        programs,
        holes,
        rings,
        maps,
        rules: base.count().into(),
        base: base.into(),
        logs,
        means,
        ledger: Arc::default(),
        places: Arc::new(Places::default()),
        rule_files: rules.clone(),
        config: config.clone(),
        changed: Notify::new(),
        keeping: Keeping { guard, registry, standing },
        runtime,
        trees,
        monitor,
        beginning: tokio::sync::Mutex::default(),
    });
    tokio::spawn(Arc::clone(&service).mind_guard(guard_ends));
    // What was watched is watched again before anybody is answered.
    service.restore().await?;
    service.trees.sweep(service.incus.clone()).await;
    let failed = |source| ServerError::Listen { socket: place.path.clone(), source };
    let listener = systemds.map_or_else(|| place.listen(), Ok).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    memory::give_back();
    let rules = service.rules.load(Ordering::Relaxed);
    tracing::info!(socket = %place.path.display(), rules, "ready");
    Ok(Started { service, listener, place, thread, lock })
}

async fn serve(
    service: &Arc<Service>,
    listener: UnixListener,
    idle_exit: Option<Duration>,
) -> Result<(), ServerError> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(ServerError::Start)?;
    let ending = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
            () = service.idle(idle_exit) => tracing::info!("nothing to watch; ending"),
        }
    };
    tokio::spawn(beat(Arc::downgrade(service)));
    tokio::spawn(retire(Arc::downgrade(service)));
    tokio::spawn(systemd::show_life(service.pipeline.clone()));
    tokio::spawn(policy::follow(Arc::downgrade(service)));
    let router = router(Arc::clone(service));
    let server = connections::answer(listener, router, Arc::clone(&service.places));
    // Viewers' streams have no end of their own, so the server is dropped rather than drained.
    tokio::select! {
        result = server => result.map_err(ServerError::Start),
        () = ending => Ok(()),
    }
}

/// Shows now and then in each log that the monitor is at work: its thread has to answer first.
async fn beat(service: Weak<Service>) {
    loop {
        let Some(interval) = service.upgrade().map(|service| service.logs.options().heartbeat) else {
            return;
        };
        tokio::time::sleep(interval).await;
        let Some(service) = service.upgrade() else { return };
        if let Err(error) = service.pipeline.catch_up().await {
            tracing::error!(%error, "nothing is monitored");
            return;
        }
        let watching: Vec<_> = service
            .watches()
            .values()
            .filter(|entry| entry.over.is_none())
            .map(|entry| Arc::clone(&entry.watching))
            .collect();
        for watching in watching {
            watching.beat();
        }
    }
}

/// Removes now and then what is too old of logs that nobody writes any more.
async fn retire(service: Weak<Service>) {
    loop {
        let Some(logs) = service.upgrade().map(|service| Arc::clone(&service.logs)) else { return };
        let interval = logs.options().keep_age.min(RETIRE);
        if tokio::task::spawn_blocking(move || logs.retire()).await.is_err() {
            tracing::error!("old logs are not removed");
        }
        tokio::time::sleep(interval).await;
    }
}
