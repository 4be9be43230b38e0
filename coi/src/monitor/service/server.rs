//! The daemon's life: one set of kernel programs, any number of watches, one unix socket.
//!
//! It promises that it answers once its programs are loaded, and that they are gone when it ends.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    unistd::Uid,
};
use tokio::{net::UnixListener, sync::Notify};

use super::{
    Options,
    admission::{Peer, admin_group},
    api::{self, ApiError},
    calls::router,
    client::READY,
    deed::Means,
    reload::give_back,
    watches::Service,
};
use crate::{
    incus,
    monitor::{
        audit::{LogError, Logs},
        config::Config,
        inforce::Base,
        notify::Notifier,
        pipeline, priority,
        recorder::{RecordError, Recorder},
        rulefiles::RuleFilesError,
        sensor::{Sensor, SensorError},
    },
};

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
        Ok(_) => say(READY),
        Err(error) => say(&format!("{}\n", serde_json::json!(error.told()))),
    }
    drop(ready);
    let Started { service, listener, thread, lock } = started?;
    let result = serve(&service, listener, options.idle_exit).await;
    service.pipeline.stop();
    for entry in service.watches().values().filter(|entry| entry.over.is_none()) {
        entry.watching.detach("the daemon ends");
    }
    // The programs are gone when the thread is, and the recordings are written.
    if tokio::task::spawn_blocking(move || thread.join()).await.is_err() {
        tracing::error!("the monitor's thread did not end in order");
    }
    let logs = Arc::clone(&service.logs);
    if tokio::task::spawn_blocking(move || logs.end()).await.is_err() {
        tracing::error!("the audit logs were not ended in order");
    }
    // Only after that may another daemon begin.
    let _ = fs::remove_file(socket());
    drop(lock);
    result
}

struct Started {
    service: Arc<Service>,
    listener: UnixListener,
    thread: std::thread::JoinHandle<()>,
    lock: Flock<fs::File>,
}

/// Where the daemon listens.
fn socket() -> PathBuf {
    std::env::var_os("COI_SOCKET").map_or_else(|| api::DEFAULT_SOCKET.into(), PathBuf::from)
}

async fn start(options: &Options) -> Result<Started, ServerError> {
    let Options { rules, config, record, .. } = options;
    if !Uid::effective().is_root() {
        return Err(ServerError::NotRoot);
    }
    let socket = socket();
    let failed = |source| ServerError::Listen { socket: socket.clone(), source };
    let directory = socket.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed)?;
    let lock = fs::File::create(socket.with_extension("lock")).map_err(failed)?;
    let lock = take_lock(lock, &socket).await?;
    priority::prefer_daemon();
    let set = Config::read(config.as_deref())?;
    let base = Base::of(&set, rules.as_deref())?;
    let means = Arc::new(Means { respond: set.respond, notifier: Notifier::start(&set.notify) });
    let logs = Arc::new(Logs::of_machine(set.audit)?);
    let recorder = record.as_deref().map(Recorder::start).transpose()?;
    let sensor = Sensor::load()?;
    let (programs, holes) = (sensor.programs().to_vec(), sensor.holes().to_vec());
    let (pipeline, thread) = pipeline::start(sensor, recorder)?;
    // A socket that nobody listens on is left by a daemon that was killed; the lock says it is gone.
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(failed)?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o660)).map_err(failed)?;
    if let Some(group) = admin_group() {
        chown(&socket, None, Some(group.as_raw())).map_err(failed)?;
    }
    let service = Arc::new(Service {
        pipeline,
        incus: incus::Client::from_env(),
        watches: Mutex::default(),
        programs,
        holes,
        rules: base.count().into(),
        base: base.into(),
        logs,
        means,
        rule_files: rules.clone(),
        config: config.clone(),
        changed: Notify::new(),
    });
    give_back();
    let rules = service.rules.load(Ordering::Relaxed);
    tracing::info!(socket = %socket.display(), rules, "ready");
    Ok(Started { service, listener, thread, lock })
}

/// Waits for a daemon that is just ending; one that answers is left alone.
async fn take_lock(mut file: fs::File, socket: &Path) -> Result<Flock<fs::File>, ServerError> {
    let deadline = Instant::now() + ENDING;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, _)) => file,
        };
        if Instant::now() > deadline || std::os::unix::net::UnixStream::connect(socket).is_ok() {
            return Err(ServerError::Running { socket: socket.to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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
    let router = router(Arc::clone(service));
    let server = axum::serve(listener, router.into_make_service_with_connect_info::<Peer>());
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
