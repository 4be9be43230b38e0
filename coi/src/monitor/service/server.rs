//! The daemon: one set of kernel programs, any number of watches, one unix socket.
//!
//! It promises that a watch that was answered is armed in the kernel, that only root and the group
//! incus-admin are answered at all, and that the programs are gone when it ends. What a call means is in
//! [`super::api`].

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{
        ConnectInfo, DefaultBodyLimit, Path as UrlPath, Query, Request, State, connect_info::Connected,
        rejection::JsonRejection,
    },
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use futures_util::stream::{self, StreamExt as _};
use nix::{
    fcntl::{Flock, FlockArg},
    unistd::{Gid, Group, Uid, User},
};
use serde::Deserialize;
use tokio::{
    net::{UnixListener, unix::UCred},
    sync::{Notify, RwLock, mpsc, oneshot},
};

use super::{
    Options,
    api::{ApiError, Hole, Kept, Reloaded, Status, Subject, Watch, WatchRequest, WatchState},
    client::READY,
    deed::Means,
    watch::{Raw, Watching},
};
use crate::{
    incus,
    monitor::{
        audit::{self, LogError, Logs, Record, RulesInForce},
        cgroup::{self, Cgroup, CgroupError},
        config::Config,
        counts::Counts,
        event::Container,
        inforce::{Base, InForce},
        notify::Notifier,
        pipeline::{self, NewRules, Note, Order, OrderError, Watched},
        priority,
        recorder::{RecordError, Recorder},
        respond::{CgroupResponder, IncusResponder, NetworkError, RespondError, Responder},
        rulefiles::{RuleFilesError, drawn},
        rules::{MOST_BYTES, OwnRules, RuleError, TooMuch, recording},
        seccomp,
        sensor::{Sensor, SensorError},
        viewers::{Shown, View, Viewers},
    },
};

/// Incus's own group; who is in it can become root on the machine, and Incus says so.
const ADMIN_GROUP: &str = "incus-admin";
/// Where COI mounts the workspace in its containers, and looks for it in others.
const WORKSPACE: &str = "/workspace";
/// How many notes may wait for a watch's task.
const NOTES: usize = 8192;
/// The deepest level at which the kernel side looks for watched cgroups.
const MAX_LEVEL: u32 = 8;
/// How long a request for a watch may be: in JSON a character of a rule file may take six.
const MOST_REQUEST: usize = 6 * MOST_BYTES + (64 << 10);
/// How long an ending daemon may take: the kernel lets go of some twenty programs one by one.
const ENDING: Duration = Duration::from_secs(15);
/// How long a watch that is over is still told of.
const REMEMBERED: Duration = Duration::from_secs(600);

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

/// Incus's group, if this machine has it.
pub fn admin_group() -> Option<Gid> {
    Group::from_name(ADMIN_GROUP).ok().flatten().map(|group| group.gid)
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
    std::env::var_os("COI_SOCKET").map_or_else(|| super::api::DEFAULT_SOCKET.into(), PathBuf::from)
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
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/watches", get(list).post(watch).layer(DefaultBodyLimit::max(MOST_REQUEST)))
        .route("/v1/watches/{name}", get(one).delete(forget))
        .route("/v1/watches/{name}/freeze", post(freeze))
        .route("/v1/watches/{name}/unfreeze", post(unfreeze))
        .route("/v1/watches/{name}/kill", post(kill))
        .route("/v1/rules/reload", post(reload))
        .route("/v1/events", get(events))
        .fallback(|| async {
            Refusal::not_found("there is no such call; see the documentation of /v1".into())
        })
        .layer(DefaultBodyLimit::max(64 << 10))
        .layer(middleware::from_fn(admit))
        .with_state(Arc::clone(service));
    tokio::spawn(beat(Arc::downgrade(service)));
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

/// The daemon's state.
struct Service {
    pipeline: pipeline::Handle,
    incus: incus::Client,
    watches: Mutex<HashMap<String, Entry>>,
    programs: Vec<String>,
    holes: Vec<Hole>,
    /// The rules of the machine. It is held for reading while a watch begins, so that none begins by rules that are
    /// just being replaced, and for writing while they are: one reload at a time.
    base: RwLock<Base>,
    /// How many these are: who only asks does not wait.
    rules: AtomicUsize,
    logs: Arc<Logs>,
    /// What all watches act with.
    means: Arc<Means>,
    /// Where they come from.
    rule_files: Option<PathBuf>,
    config: Option<PathBuf>,
    /// Watches have come or gone.
    changed: Notify,
}

struct Entry {
    watching: Arc<Watching>,
    /// When it was over.
    over: Option<Instant>,
}

/// A watch's identity and place, found out before it is armed.
struct Found {
    name: String,
    id: String,
    path: String,
    existing: Option<Arc<Cgroup>>,
    workspace: Option<PathBuf>,
    inside: Option<String>,
    responder: Box<dyn Responder>,
    ephemeral: bool,
    /// Its configuration in Incus; empty for a cgroup.
    config: BTreeMap<String, String>,
}

impl Service {
    fn watches(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Entries are only put in and taken out whole.
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.retain(|_, entry| entry.over.is_none_or(|over| over.elapsed() < REMEMBERED));
        watches
    }

    /// A watch by name, also one that is over.
    fn find(&self, name: &str) -> Result<Arc<Watching>, Refusal> {
        let watches = self.watches();
        let entry = watches.get(name).ok_or_else(|| {
            Refusal::not_found(format!(
                "{name} is not watched; see `coi list`, or watch it: coi monitor --attach {name}"
            ))
        })?;
        Ok(Arc::clone(&entry.watching))
    }

    /// Ends when there has been nothing to watch for so long; never without a limit.
    async fn idle(&self, limit: Option<Duration>) {
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

    async fn watch(self: &Arc<Self>, request: WatchRequest, by: u32) -> Result<Watch, Refusal> {
        let found = match &request.subject {
            Subject::Container { name } => self.find_container(name, &request).await?,
            Subject::Cgroup { path } => find_cgroup(path, &request, &self.incus)?,
        };
        let running = self
            .watches()
            .get(&found.name)
            .filter(|entry| entry.over.is_none())
            .map(|entry| Arc::clone(&entry.watching));
        if let Some(running) = running {
            if running.watched.container.id == found.id {
                if request.respond {
                    running.respond().await?;
                }
                let passed_over = passed_over(&request.rules, &running.watched.own);
                return Ok(Watch { passed_over, ..running.describe() });
            }
            // Another container has its name now.
            self.end(&running).await?;
        }
        let workspace = found.workspace.as_deref().map(workspace_scope).transpose()?;
        let base = self.base.read().await;
        let (own, rules) = self.rules_for(&base, request.rules).await?;
        let (notes, inbox) = mpsc::channel(NOTES);
        let container = Arc::new(Container { name: found.name.clone(), id: found.id });
        let (logs, about) = (Arc::clone(&self.logs), Arc::clone(&container));
        let owner = request.owner.unwrap_or(by);
        let opened = tokio::task::spawn_blocking(move || logs.open(owner, about)).await;
        let log = opened.map_err(|error| Refusal::internal(error.to_string()))??;
        let owner = log.owner();
        let in_force = RulesInForce::of(&rules.set);
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
        });
        let watching = Arc::new(Watching::new(
            Arc::clone(&watched),
            request.subject,
            found.responder,
            found.ephemeral,
            log,
            Arc::clone(&self.means),
            self.left_open(&found.config),
        ));
        if request.respond {
            watching.deny(watched.rules().set.denied(), found.existing.as_ref()).await?;
        }
        let why = if request.respond {
            "armed; it is frozen and killed by the rules"
        } else {
            "armed; it is only observed"
        };
        let container = &watching.watched.container;
        watching.record(Record::attach(container, request.respond, owner, by, &in_force));
        watching.record(Record::coverage(container, &self.programs, &watching.holes));
        watching.enter(WatchState::Armed, why);
        self.pipeline.arm(Arc::clone(&watched), found.existing).await??;
        let audit::Options { on_full_disk, events: kinds, .. } = self.logs.options().clone();
        let raw = match kinds.is_empty() {
            true => None,
            false => {
                let view = watched.viewers.join(true);
                let looks = self.pipeline.look(Arc::clone(&watched)).await??;
                Some(Raw { view, kinds, _looks: looks })
            }
        };
        let entry = Entry { watching: Arc::clone(&watching), over: None };
        self.watches().insert(found.name, entry);
        drop(base);
        self.changed.notify_waiters();
        let (ended, mut over) = mpsc::channel(1);
        tokio::spawn(Arc::clone(&watching).serve(self.pipeline.clone(), inbox, ended, on_full_disk, raw));
        let service = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(watching) = over.recv().await
                && let Err(refusal) = service.end(&watching).await
            {
                tracing::error!(error = refusal.error.message, "a watch could not be ended");
            }
        });
        Ok(watching.describe())
    }

    /// The rules for a watch that brings these: those of another that has brought the same, or new ones.
    async fn rules_for(&self, base: &Base, own: OwnRules) -> Result<(Arc<OwnRules>, Arc<InForce>), Refusal> {
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
    fn live(&self) -> Vec<Arc<Watching>> {
        let watches = self.watches();
        let live = watches.values().filter(|entry| entry.over.is_none());
        live.map(|entry| Arc::clone(&entry.watching)).collect()
    }

    /// The sensor's holes, less those that an instance's configuration closes. What it was configured to be when its
    /// watch began: who changes that and restarts it changes what is true.
    fn left_open(&self, config: &BTreeMap<String, String>) -> Vec<Hole> {
        let closed = seccomp::closed_holes(config);
        self.holes.iter().filter(|hole| !closed.contains(&hole.id.as_str())).cloned().collect()
    }

    async fn find_container(&self, name: &str, request: &WatchRequest) -> Result<Found, Refusal> {
        let instance = self.incus.instance(name).await?;
        let id = instance.uuid().ok_or_else(|| {
            Refusal::new(StatusCode::BAD_GATEWAY, "incus", format!("Incus gives no volatile.uuid for {name}"))
        })?;
        let mut path = format!("/lxc.payload.{name}");
        let mut existing = None;
        let state = self.incus.state(name).await?;
        if let Ok(pid @ 1..) = u32::try_from(state.pid)
            && let Some(running) = payload(pid)
        {
            existing = Some(Arc::new(Cgroup::open(&running)?));
            // After an unclean end it has a number behind its name; at the next start it may have none.
            if !running.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')) {
                path = running;
            }
        }
        let workspace = request.workspace.clone().or_else(|| {
            let device = instance.expanded_devices.values().find(|device| {
                device.get("type").map(String::as_str) == Some("disk")
                    && device.get("path").map(String::as_str) == Some(WORKSPACE)
            })?;
            device.get("source").map(PathBuf::from)
        });
        Ok(Found {
            name: name.to_owned(),
            id: id.to_owned(),
            path,
            existing,
            inside: workspace.as_ref().map(|_| WORKSPACE.to_owned()),
            workspace,
            responder: Box::new(IncusResponder::new(self.incus.clone(), name, id)),
            ephemeral: request.ephemeral || instance.ephemeral,
            config: instance.expanded_config,
        })
    }

    /// Has a watch's task do what a person wants: in order, so after every freeze that was decided before.
    async fn order(&self, name: &str, order: Order, by: u32) -> Result<Watch, Refusal> {
        let watching = self.find(name)?;
        let (reply, done) = oneshot::channel();
        watching.watched.notes.send(Note::Order(order, by, reply)).await.map_err(|_| pipeline::Ended)?;
        done.await.map_err(|_| pipeline::Ended)??;
        Ok(watching.describe())
    }

    /// Watches no longer.
    async fn end(&self, watching: &Arc<Watching>) -> Result<(), Refusal> {
        if !watching.is_over() {
            watching.enter(WatchState::Gone, "watched no longer");
        }
        self.pipeline.disarm(Arc::clone(&watching.watched)).await??;
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

/// The cgroup of the container that this process is the init of: the part of its path that Incus makes.
fn payload(pid: u32) -> Option<String> {
    let path = cgroup::of_process(pid)?;
    let mut end = 0;
    for part in path.split('/').skip(1) {
        end += 1 + part.len();
        if part.starts_with("lxc.payload.") {
            return Some(path[..end].to_owned());
        }
    }
    None
}

fn find_cgroup(path: &str, request: &WatchRequest, incus: &incus::Client) -> Result<Found, Refusal> {
    let path = format!("/{}", path.trim_matches('/'));
    let refuse = |why: &str| Err(Refusal::bad_request(format!("the cgroup {path} cannot be watched: {why}")));
    if path == "/" {
        return refuse("it is the root, and everything of the machine is in it");
    }
    if path.split('/').any(|part| part == "..") {
        return refuse("its path leads upwards");
    }
    if cgroup::level(&path) > MAX_LEVEL {
        return refuse(&format!("it is more than {MAX_LEVEL} levels deep"));
    }
    let cgroup = Cgroup::open(&path)?;
    if cgroup.holds(1) {
        return refuse("process 1 is in it");
    }
    if cgroup.holds(std::process::id()) {
        return refuse("COI's own daemon is in it");
    }
    if incus_pid(incus).is_some_and(|pid| cgroup.holds(pid)) {
        return refuse("Incus is in it");
    }
    let workspace = request.workspace.as_deref().map(fs::canonicalize).transpose();
    let workspace = workspace.map_err(|error| {
        Refusal::bad_request(format!("the workspace {:?} cannot be used: {error}", request.workspace))
    })?;
    Ok(Found {
        name: path.trim_start_matches('/').to_owned(),
        id: cgroup.id().to_string(),
        inside: workspace.as_ref().map(|path| path.to_string_lossy().into_owned()),
        workspace,
        existing: Some(Arc::new(cgroup)),
        path,
        responder: Box::new(CgroupResponder),
        ephemeral: true,
        config: BTreeMap::new(),
    })
}

/// The process that listens on Incus's socket.
fn incus_pid(incus: &incus::Client) -> Option<u32> {
    let stream = std::os::unix::net::UnixStream::connect(incus.socket()).ok()?;
    let peer = nix::sys::socket::getsockopt(&stream, nix::sys::socket::sockopt::PeerCredentials).ok()?;
    u32::try_from(peer.pid()).ok()
}

/// How the kernel side recognises the workspace.
fn workspace_scope(path: &Path) -> Result<coi_common::Scope, Refusal> {
    let metadata = fs::metadata(path).map_err(|error| {
        Refusal::bad_request(format!("the workspace {} cannot be used: {error}", path.display()))
    })?;
    let (major, minor) = filesystem_device(path)
        .unwrap_or((nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev())));
    Ok(coi_common::Scope {
        workspace_inode: metadata.ino(),
        // `include/linux/kdev_t.h`
        workspace_device: (major as u32) << 20 | minor as u32,
        ..Default::default()
    })
}

/// The device number of the file system a path is on, as the kernel itself numbers it: where stat(2) gives
/// each subvolume a number of its own (btrfs), mountinfo does not.
fn filesystem_device(path: &Path) -> Option<(u64, u64)> {
    use std::os::fd::AsRawFd as _;
    let directory = fs::File::open(path).ok()?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", directory.as_raw_fd())).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').next() == Some(id))?;
    let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
struct Peer(Option<UCred>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok())
    }
}

impl Peer {
    fn is_root(self) -> bool {
        self.0.is_some_and(|cred| cred.uid() == 0)
    }

    /// Whose calls are answered has one.
    fn uid(self) -> u32 {
        self.0.map_or(u32::MAX, |cred| cred.uid())
    }

    /// Root, or a member of Incus's group.
    fn is_admin(self) -> bool {
        let Some(cred) = self.0 else { return false };
        let Some(group) = admin_group() else { return self.is_root() };
        let member = || {
            let user = User::from_uid(Uid::from_raw(cred.uid())).ok().flatten()?;
            let name = std::ffi::CString::new(user.name).ok()?;
            Some(nix::unistd::getgrouplist(&name, user.gid).ok()?.contains(&group))
        };
        self.is_root() || cred.gid() == group.as_raw() || member().unwrap_or(false)
    }
}

async fn admit(ConnectInfo(peer): ConnectInfo<Peer>, mut request: Request, next: Next) -> Response {
    if !peer.is_admin() {
        let words = format!("only root and the group {ADMIN_GROUP} may talk to COI's daemon");
        return Refusal::new(StatusCode::FORBIDDEN, "denied", words).into_response();
    }
    request.extensions_mut().insert(peer);
    next.run(request).await
}

async fn status(State(service): State<Arc<Service>>) -> Json<Status> {
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        programs: service.programs.clone(),
        holes: service.holes.clone(),
        rules: service.rules.load(Ordering::Relaxed),
        watches: service.watches().values().filter(|entry| entry.over.is_none()).count(),
    })
}

async fn list(State(service): State<Arc<Service>>) -> Result<Json<Vec<Watch>>, Refusal> {
    service.pipeline.catch_up().await?;
    let mut watches: Vec<_> = service
        .watches()
        .values()
        .filter(|entry| entry.over.is_none())
        .map(|entry| entry.watching.describe())
        .collect();
    watches.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(watches))
}

async fn watch(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    request: Result<Json<WatchRequest>, JsonRejection>,
) -> Result<Json<Watch>, Refusal> {
    let Json(request) = request.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
    if matches!(request.subject, Subject::Cgroup { .. }) && !peer.is_root() {
        let words = "only root may have a cgroup of the host watched; run the command with sudo".into();
        return Err(Refusal::new(StatusCode::FORBIDDEN, "denied", words));
    }
    if request.owner.is_some_and(|owner| owner != peer.uid()) && !peer.is_root() {
        let words = "only root may say whose container it is; leave out `owner`".into();
        return Err(Refusal::new(StatusCode::FORBIDDEN, "denied", words));
    }
    // The caller may go away; what was begun is carried through.
    let watching = tokio::spawn(async move { service.watch(request, peer.uid()).await });
    watching.await.map_err(|error| Refusal::internal(error.to_string()))?.map(Json)
}

async fn one(
    State(service): State<Arc<Service>>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    let watching = service.find(&name)?;
    service.pipeline.catch_up().await?;
    watching.settled().await;
    Ok(Json(watching.describe()))
}

async fn forget(
    State(service): State<Arc<Service>>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    let watching = service.find(&name)?;
    let was = watching.describe();
    service.end(&watching).await?;
    Ok(Json(was))
}

async fn freeze(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Freeze, peer.uid()).await.map(Json)
}

async fn unfreeze(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Thaw, peer.uid()).await.map(Json)
}

async fn kill(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
    UrlPath(name): UrlPath<String>,
) -> Result<Json<Watch>, Refusal> {
    service.order(&name, Order::Kill, peer.uid()).await.map(Json)
}

/// Reads the rule files again. Only root may: rules decide what is frozen, and the files are root's.
async fn reload(
    State(service): State<Arc<Service>>,
    Extension(peer): Extension<Peer>,
) -> Result<Json<Reloaded>, Refusal> {
    if !peer.is_root() {
        let words = "only root may change the rules in force; run: sudo coi rules reload".into();
        return Err(Refusal::new(StatusCode::FORBIDDEN, "denied", words));
    }
    // The caller may go away; what was begun is carried through.
    let reloaded = tokio::spawn(async move { service.reload(peer.uid()).await });
    reloaded.await.map_err(|error| Refusal::internal(error.to_string()))?.map(Json)
}

impl Service {
    /// Has every watch judged by the rules as they are now, or none. What a watch has brought may not go with them any
    /// more; it keeps the rules that it has, and that is said.
    async fn reload(&self, by: u32) -> Result<Reloaded, Refusal> {
        let mut base = self.base.write().await;
        let (files, config) = (self.rule_files.clone(), self.config.clone());
        let live = self.live();
        let brought: Vec<_> = live.iter().map(|watching| Arc::clone(&watching.watched.own)).collect();
        let compile = move || {
            let base = Base::load(files.as_deref(), config.as_deref())?;
            let compiled = compile_all(&base, brought);
            Ok::<_, RuleFilesError>((base, compiled))
        };
        let compiled = tokio::task::spawn_blocking(compile).await;
        let compiled = compiled.map_err(|error| Refusal::internal(error.to_string()))?;
        let (new, compiled) = compiled.map_err(|error| {
            let words = format!("the rules that were in force stay in force; {error}");
            tracing::warn!("{words}");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "rules", words)
        })?;
        let mut rules: Vec<NewRules> = Vec::new();
        let mut misfits = Vec::new();
        for (watching, compiled) in live.into_iter().zip(compiled) {
            match compiled {
                Ok(compiled) => rules.push((Arc::clone(&watching.watched), compiled)),
                Err(why) => misfits.push((watching, why)),
            }
        }
        let told: Vec<_> = rules
            .iter()
            .map(|(watched, rules)| (Arc::clone(watched), RulesInForce::of(&rules.set)))
            .collect();
        // What is denied is refused before its rules judge it.
        for (watched, rules) in &rules {
            if let Ok(watching) = self.find(&watched.container.name) {
                watching.deny_by(rules.set.denied()).await?;
            }
        }
        self.pipeline.use_rules(rules).await??;
        for (watched, in_force) in told {
            if let Ok(watching) = self.find(&watched.container.name) {
                watching.record(Record::rules(&watched.container, by, &in_force));
            }
        }
        *base = new;
        let rules = base.count();
        self.rules.store(rules, Ordering::Relaxed);
        drop(base);
        give_back();
        tracing::info!(rules, "the rules were read again");
        let mut kept = Vec::new();
        for (watching, why) in misfits {
            let container = &watching.watched.container;
            let words =
                format!("it keeps its rules, since its own do not go with the machine's any more: {why}");
            tracing::warn!(name = container.name, "{words}");
            watching.record(Record::note(container, &words));
            kept.push(Kept { watch: container.name.clone(), why });
        }
        Ok(Reloaded { rules, kept })
    }
}

/// Rules, or what is wrong with them, drawn.
type Compiled = Result<Arc<InForce>, String>;

/// The rules for watches that have brought these, in the same order; those that have brought the same share theirs.
fn compile_all(base: &Base, brought: Vec<Arc<OwnRules>>) -> Vec<Compiled> {
    let mut done: Vec<(Arc<OwnRules>, Compiled)> = Vec::new();
    let compile = |own: Arc<OwnRules>| match done.iter().find(|(other, _)| *other == own) {
        Some((_, rules)) => rules.clone(),
        None => {
            let rules = base.with(&own).map_err(|errors| drawn(&errors));
            done.push((own, rules.clone()));
            rules
        }
    };
    brought.into_iter().map(compile).collect()
}

/// Those of these files that are not among the others.
fn passed_over(these: &OwnRules, others: &OwnRules) -> Vec<String> {
    let user = these.user.iter().filter(|file| !others.user.contains(file));
    let workspace = these.workspace.iter().filter(|file| !others.workspace.contains(file));
    user.chain(workspace).map(|file| file.name.clone()).collect()
}

/// Gives back to the system what loading programs or rules took and needs no more: several times what stays.
fn give_back() {
    // SAFETY: the allocator's own function, for any thread at any time; it takes a plain number.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

#[derive(Deserialize)]
struct EventsQuery {
    watch: String,
    #[serde(default)]
    form: Form,
}

/// What the lines are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// Events, alerts and states with ECS names.
    #[default]
    Ecs,
    /// Alerts and states only: no event is sent by the kernel for their sake.
    Alerts,
    /// A recording.
    Recording,
}

/// Lines from now on; the first ones are the coverage and the watch's state, so that a viewer knows it is there.
async fn events(
    State(service): State<Arc<Service>>,
    Query(query): Query<EventsQuery>,
) -> Result<Response, Refusal> {
    let watching = service.find(&query.watch)?;
    let view = watching.watched.viewers.join(query.form != Form::Alerts);
    let onlooker = match query.form {
        Form::Alerts => None,
        Form::Ecs | Form::Recording => Some(service.pipeline.look(Arc::clone(&watching.watched)).await??),
    };
    let state = |why: &str| Record::state(&watching.watched.container, watching.state(), why).line();
    let form = query.form;
    let coverage = Record::coverage(&watching.watched.container, &service.programs, &watching.holes).line();
    let first = match form {
        Form::Ecs | Form::Alerts => vec![coverage, state("you see what happens from now on")],
        Form::Recording => {
            let Watched { container, own, .. } = &*watching.watched;
            vec![recording::header(&container.name, recording::Holds::Everything, own) + "\n"]
        }
    };
    let container = Arc::clone(&watching.watched.container);
    let now = Arc::clone(&watching);
    let shown = stream::unfold(view, async |mut view: View| view.next().await.map(|shown| (shown, view)));
    let rest = shown.filter_map(move |shown| {
        std::future::ready(match shown {
            shown if form == Form::Recording => shown.into_recording(),
            Shown::Missed(missed) => {
                let why = format!(
                    "this viewer was too slow and has missed {missed} lines; the audit log has all alerts"
                );
                Some(Record::state(&container, now.state(), &why).line())
            }
            shown => shown.into_line(),
        })
    });
    let body = stream::iter(first).chain(rest).map(move |line| {
        // As long as there is a body, somebody looks.
        let _looks = &onlooker;
        Ok::<_, io::Error>(line)
    });
    Ok(([("content-type", "application/x-ndjson")], Body::from_stream(body)).into_response())
}

/// A call that is not carried out.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    error: ApiError,
}

impl Refusal {
    fn new(status: StatusCode, code: &str, message: String) -> Self {
        Self { status, error: ApiError { code: code.to_owned(), message } }
    }

    fn not_found(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    fn bad_request(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    fn internal(message: String) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}

impl From<incus::Error> for Refusal {
    fn from(error: incus::Error) -> Self {
        match error {
            incus::Error::NotFound { .. } => Self::not_found(error.to_string()),
            error => Self::new(StatusCode::BAD_GATEWAY, "incus", error.to_string()),
        }
    }
}

impl From<CgroupError> for Refusal {
    fn from(error: CgroupError) -> Self {
        match &error {
            CgroupError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Self::not_found(error.to_string())
            }
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<RespondError> for Refusal {
    fn from(error: RespondError) -> Self {
        match error {
            RespondError::Incus(error) => error.into(),
            error => Self::internal(error.to_string()),
        }
    }
}

impl From<OrderError> for Refusal {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::NothingRuns(_) => Self::new(StatusCode::CONFLICT, "bad_request", error.to_string()),
            OrderError::Respond(error) => error.into(),
            OrderError::Ended(error) => error.into(),
        }
    }
}

impl From<TooMuch> for Refusal {
    fn from(error: TooMuch) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rules", error.to_string())
    }
}

impl From<Vec<RuleError>> for Refusal {
    fn from(errors: Vec<RuleError>) -> Self {
        let words = format!(
            "the rules of the user or the workspace are wrong, and nothing runs without them:\n{}",
            drawn(&errors)
        );
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "rules", words)
    }
}

impl From<SensorError> for Refusal {
    fn from(error: SensorError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<NetworkError> for Refusal {
    fn from(error: NetworkError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<LogError> for Refusal {
    fn from(error: LogError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<pipeline::Ended> for Refusal {
    fn from(error: pipeline::Ended) -> Self {
        Self::internal(error.to_string())
    }
}
