//! The client of `coi daemon`.
//!
//! This module promises a daemon that answers, or an error that says why there is none and which command
//! starts one. Root gets a daemon started; it outlives its starter.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use nix::unistd::{geteuid, setsid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::api::{ApiError, DEFAULT_SOCKET, Reloaded, Status, Watch, WatchRequest};
use crate::http::{self, Lines, segment};
use crate::monitor::audit;
use crate::ui;

/// What a started daemon writes to its `--ready-fd` once it answers. Else it writes why it does not, an [`ApiError`].
pub const READY: &str = "ready\n";

/// Where a daemon that was started by a client leaves its words.
fn log_path() -> PathBuf {
    audit::directory().join("daemon.log")
}

/// How long it stays with nothing to watch.
const IDLE_EXIT: &str = "30s";

/// How long the daemon may take to answer from memory.
const QUICK: Duration = Duration::from_secs(5);

/// How long it may take when it has to arm or to talk to Incus: longer than the daemon's own deadlines for Incus
/// and the kernel together, so that its word of what went wrong arrives.
const CHANGE: Duration = Duration::from_secs(120);

/// How long it may take to load its kernel programs and answer.
const START: Duration = Duration::from_secs(30);

/// How often to look whether a daemon's lock is free.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How much of the log's end tells why a daemon died.
const LOG_END: usize = 2000;

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the daemon did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No daemon runs, and only root could start one.
    #[error(
        "nothing monitors this machine: no COI daemon answers on {}, and only root can start one. \
         Run `sudo {} daemon` in another terminal, or run this command with sudo",
        socket.display(),
        program.display()
    )]
    NotRunning {
        /// Where it was looked for.
        socket: PathBuf,
        /// This program.
        program: PathBuf,
    },
    /// A daemon runs, and its socket's permissions keep us out.
    #[error(
        "you may not use the COI daemon: no permission on its socket {}. Become a member of the group \
         incus-admin (`sudo usermod -aG incus-admin $USER`, then log in anew) or run this with sudo",
        socket.display()
    )]
    NotPermitted {
        /// Its socket.
        socket: PathBuf,
    },
    /// The daemon was started, and could not do its work.
    #[error("the COI daemon could not start: {why}")]
    Start {
        /// In its words, or the system's.
        why: String,
    },
    /// The daemon does not answer as it should.
    #[error("the COI daemon does not answer as it should: {0}. Its log is {log}, or `journalctl -u coi`", log = log_path().display())]
    Unreachable(#[source] http::Error),
    /// The daemon understood and refused.
    #[error("{}", .0.message)]
    Refused(ApiError),
}

impl Error {
    /// The daemon knows no watch of that name.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(e) if e.code == "not_found")
    }

    /// No daemon runs.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }
}

/// The daemon, on its unix socket.
#[derive(Clone, Debug)]
pub struct Client {
    http: http::Client,
}

impl Client {
    /// The daemon that listens where `COI_SOCKET` says, else in the usual place. Nothing is connected yet.
    pub fn from_env() -> Self {
        let socket = env::var_os("COI_SOCKET").filter(|s| !s.is_empty());
        Self::at(socket.map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from))
    }

    /// The daemon that listens there.
    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self { http: http::Client::new(socket) }
    }

    /// A client of a daemon that runs: the one that answers, else, for root, one that is started now.
    pub async fn ensure(self) -> Result<Self> {
        match self.status().await {
            Ok(_) => return Ok(self),
            Err(error) if error.is_absent() && geteuid().is_root() => {}
            Err(error) => return Err(error),
        }
        // One starts it, the others wait here and then find it running.
        let _lock = start_lock(self.http.path()).await?;
        let deadline = Instant::now() + START;
        loop {
            match self.status().await {
                Ok(_) => return Ok(self),
                // One that has just ended holds its lock until the kernel has unloaded its programs, and
                // one that somebody else starts until it answers: neither can be waited for but like this.
                Err(error) if error.is_absent() && is_locked(self.http.path()) => {
                    if Instant::now() > deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(LOCK_PAUSE).await;
                }
                Err(error) if error.is_absent() => break,
                Err(error) => return Err(error),
            }
        }
        start().await?;
        self.status().await.map(|_| self)
    }

    /// The daemon itself.
    pub async fn status(&self) -> Result<Status> {
        self.call(Method::GET, "/v1/status", NOTHING, QUICK).await
    }

    /// All that it watches.
    pub async fn watches(&self) -> Result<Vec<Watch>> {
        self.call(Method::GET, "/v1/watches", NOTHING, QUICK).await
    }

    /// Has something watched; answered once the watch is armed. It belongs to who called sudo, where somebody did, and a
    /// link in the user's home leads to its audit log.
    pub async fn watch(&self, request: &WatchRequest) -> Result<Watch> {
        let owner = request.owner.or_else(|| Some(audit::link::sudo_user()?.uid.as_raw()));
        let request = WatchRequest { owner, ..request.clone() };
        let watch: Watch = self.call(Method::POST, "/v1/watches", Some(&request), CHANGE).await?;
        let (name, log) = (watch.name.clone(), watch.audit.clone());
        let linked = tokio::task::spawn_blocking(move || audit::link::make(&name, &log)).await;
        if let Err(error) = linked.unwrap_or_else(|error| Err(io::Error::other(error))) {
            // The log is where it is; the link is for convenience.
            ui::err(&format!("coi: no link to the audit log was made: {}", ui::plain(&error.to_string())));
        }
        Ok(watch)
    }

    /// The watch of this name.
    pub async fn get(&self, name: &str) -> Result<Watch> {
        // It waits for an action that is under way.
        self.call(Method::GET, &watch_path(name), NOTHING, CHANGE).await
    }

    /// Ends a watch.
    pub async fn forget(&self, name: &str) -> Result<Watch> {
        self.call(Method::DELETE, &watch_path(name), NOTHING, CHANGE).await
    }

    /// Stops it as it stands.
    pub async fn freeze(&self, name: &str) -> Result<Watch> {
        self.call(Method::POST, &format!("{}/freeze", watch_path(name)), NOTHING, CHANGE).await
    }

    /// Lets what a rule froze go on.
    pub async fn unfreeze(&self, name: &str) -> Result<Watch> {
        self.call(Method::POST, &format!("{}/unfreeze", watch_path(name)), NOTHING, CHANGE).await
    }

    /// Ends what is watched as it stands, frozen or not.
    pub async fn kill(&self, name: &str) -> Result<Watch> {
        self.call(Method::POST, &format!("{}/kill", watch_path(name)), NOTHING, CHANGE).await
    }

    /// Has the rule files read again.
    pub async fn reload_rules(&self) -> Result<Reloaded> {
        self.call(Method::POST, "/v1/rules/reload", NOTHING, CHANGE).await
    }

    /// What the engine is told about the watch of this name, from now on, as the lines of a recording.
    pub async fn recording(&self, name: &str) -> Result<Events> {
        self.lines(&format!("/v1/events?watch={}&form=recording", segment(name))).await
    }

    /// What the watch of this name sees, from now on.
    pub async fn events(&self, name: &str) -> Result<Events> {
        self.lines(&format!("/v1/events?watch={}", segment(name))).await
    }

    /// The alerts and states of the watch of this name, from now on. Nothing is sent by the kernel for their sake.
    pub async fn alerts(&self, name: &str) -> Result<Events> {
        self.lines(&format!("/v1/events?watch={}&form=alerts", segment(name))).await
    }

    async fn lines(&self, target: &str) -> Result<Events> {
        match self.http.lines(target, QUICK, None).await.map_err(|e| self.error(e))? {
            Ok(lines) => Ok(Events { lines }),
            Err(reply) => Err(self.refusal(target, reply.status, &reply.body)),
        }
    }

    async fn call<T: DeserializeOwned, B: Serialize + Sync>(
        &self,
        method: Method,
        target: &str,
        body: Option<&B>,
        within: Duration,
    ) -> Result<T> {
        let call = format!("{method} {target}");
        let reply = self.http.request_json(method, target, body, within).await.map_err(|e| self.error(e))?;
        if reply.status.is_success() {
            return self.http.decode(&call, &reply.body).map_err(Error::Unreachable);
        }
        Err(self.refusal(&call, reply.status, &reply.body))
    }

    fn refusal(&self, call: &str, status: StatusCode, body: &[u8]) -> Error {
        match serde_json::from_slice(body) {
            Ok(error) => Error::Refused(error),
            Err(_) => Error::Unreachable(http::Error::Protocol {
                path: self.http.path().to_owned(),
                call: call.to_owned(),
                why: format!("status {status} without a reason"),
            }),
        }
    }

    fn error(&self, error: http::Error) -> Error {
        match error {
            http::Error::NoSocket { path } | http::Error::Refused { path } => Error::NotRunning {
                socket: path,
                program: env::current_exe().unwrap_or_else(|_| PathBuf::from("coi")),
            },
            http::Error::NotPermitted { path } => Error::NotPermitted { socket: path },
            other => Error::Unreachable(other),
        }
    }
}

/// A call without a body.
const NOTHING: Option<&()> = None;

fn watch_path(name: &str) -> String {
    format!("/v1/watches/{}", segment(name))
}

/// What a watch sees, line by line.
#[derive(Debug)]
pub struct Events {
    lines: Lines,
}

impl Events {
    /// The next line: as it came, and what it says. `None` when the watch or the daemon has ended.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(Bytes, Value)> {
        loop {
            let line = self.lines.next().await.ok().flatten()?;
            // An empty line keeps the connection alive.
            if let Ok(value) = serde_json::from_slice(&line) {
                return Some((line, value));
            }
        }
    }
}

/// Whether a daemon holds the lock that lies beside its socket.
fn is_locked(socket: &Path) -> bool {
    let Ok(file) = File::open(socket.with_extension("lock")) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

/// Held by who starts a daemon.
async fn start_lock(socket: &Path) -> Result<Flock<File>> {
    let dir = socket.parent().unwrap_or(Path::new("/")).to_owned();
    let path = dir.join("start.lock");
    let shown = path.display().to_string();
    let lock = move || -> io::Result<Flock<File>> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir)?;
        let file = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
    };
    let locked = tokio::task::spawn_blocking(lock).await;
    let locked = locked.unwrap_or_else(|e| Err(io::Error::other(e)));
    locked.map_err(|e| Error::Start { why: format!("{shown} cannot be locked: {e}") })
}

/// Starts a daemon and waits until it answers or says why it does not.
async fn start() -> Result<()> {
    let failed = |why: String| Error::Start { why };
    let cannot = |what: &str, e: &dyn std::fmt::Display| failed(format!("{what}: {e}"));
    let log = open_log().map_err(|e| cannot(&log_path().display().to_string(), &e))?;
    let logged_before = log.metadata().map_or(0, |m| m.len());
    let (reader, writer) = io::pipe().map_err(|e| cannot("a pipe", &e))?;
    let errors = log.try_clone().map_err(|e| cannot(&log_path().display().to_string(), &e))?;
    let program = env::current_exe().map_err(|e| cannot("its program", &e))?;
    let mut command = Command::new(&program);
    command
        .args(["daemon", "--idle-exit", IDLE_EXIT, "--ready-fd", &writer.as_raw_fd().to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    let ready = writer.as_raw_fd();
    // SAFETY: between fork and exec only setsid(2) and fcntl(2) are called, both async-signal-safe, and
    // the descriptor is open: `writer` lives until after the spawn.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            let ready = std::os::fd::BorrowedFd::borrow_raw(ready);
            fcntl(ready, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    let child = command.spawn().map_err(|e| cannot(&program.display().to_string(), &e))?;
    // The daemon's copy is then the only one: its end, whatever the reason, ends the reading.
    drop(writer);
    let pid = child.id();
    let mut reader =
        pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(|e| cannot("a pipe", &e))?;
    let mut answer = String::new();
    match tokio::time::timeout(START, reader.read_to_string(&mut answer)).await {
        Ok(Ok(_)) if answer == READY => Ok(()),
        Ok(Ok(_)) if answer.trim().is_empty() => Err(failed(last_words(logged_before))),
        Ok(Ok(_)) => Err(not_started(&answer)),
        Ok(Err(e)) => Err(cannot("reading its answer", &e)),
        Err(_) => Err(failed(format!(
            "process {pid} is not ready after {} s and goes on trying; its log is {}",
            START.as_secs(),
            log_path().display()
        ))),
    }
}

/// What a daemon that does not start has said.
fn not_started(answer: &str) -> Error {
    let wrong = |error: ApiError| match error.code.as_str() {
        "rules" => {
            let message = format!("the COI daemon does not start: {}", error.message);
            Error::Refused(ApiError { message, ..error })
        }
        _ => Error::Start { why: error.message },
    };
    serde_json::from_str(answer).map_or_else(|_| Error::Start { why: answer.trim().to_owned() }, wrong)
}

fn open_log() -> io::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(audit::directory())?;
    OpenOptions::new().create(true).append(true).mode(0o640).open(log_path())
}

/// Why a daemon died that did not say so to its starter.
fn last_words(since: u64) -> String {
    let log = fs::read(log_path()).unwrap_or_default();
    let new = log.get(usize::try_from(since).unwrap_or(0)..).unwrap_or_default();
    let end = String::from_utf8_lossy(&new[new.len().saturating_sub(LOG_END)..]);
    match end.trim() {
        "" => format!("it ended without a word; its log is {}", log_path().display()),
        words => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_about_it() {
        let socket = PathBuf::from(DEFAULT_SOCKET);
        let all = [
            Error::NotRunning { socket: socket.clone(), program: "/usr/bin/coi".into() },
            Error::NotPermitted { socket: socket.clone() },
            Error::Start { why: "no BTF: /sys/kernel/btf/vmlinux is missing".into() },
            Error::Unreachable(http::Error::Deadline {
                path: socket,
                call: "GET /v1/status".into(),
                within: QUICK,
            }),
            Error::Refused(ApiError {
                code: "not_found".into(),
                message: "nothing named x is watched".into(),
            }),
        ];
        insta::assert_snapshot!(all.map(|e| e.to_string()).join("\n"));
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there() {
        let error = Client::at("/nonexistent/coi.sock").status().await.unwrap_err();
        assert!(error.is_absent());
    }
}
