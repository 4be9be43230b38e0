//! Starting a daemon that goes on without its starter.
//!
//! It promises an answer: when [`start`] comes back the daemon answers on its socket, or has said why it does not. It is
//! in a session of its own, with a log file in the place of the terminal. Where systemd is, its unit is the better way.

use std::{
    env,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{DirBuilderExt as _, OpenOptionsExt as _},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl},
    sys::stat::{Mode, umask},
    unistd::setsid,
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use super::{
    api::ApiError,
    client::{Error, Result},
};
use crate::monitor::audit;

/// What a started daemon writes to its `--ready-fd` once it answers. Else it writes why it does not, an [`ApiError`].
pub const READY: &str = "ready\n";

/// Where a daemon that was started so leaves its words.
pub fn log_path() -> PathBuf {
    audit::directory().join("daemon.log")
}

/// How long it may take to load its kernel programs and answer.
pub(super) const START: Duration = Duration::from_secs(30);

/// How often to look whether a daemon's lock is free.
pub(super) const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// How much of the log's end tells why a daemon died.
const LOG_END: usize = 2000;

/// Whether a daemon holds the lock that lies beside its socket.
pub(super) fn is_locked(socket: &Path) -> bool {
    let Ok(file) = File::open(socket.with_extension("lock")) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

/// Held by who starts a daemon.
pub(super) async fn start_lock(socket: &Path) -> Result<Flock<File>> {
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

/// Starts `coi daemon ARGUMENTS` and waits until it answers or says why it does not. Gives its process id.
pub async fn start(arguments: &[OsString]) -> Result<u32> {
    let failed = |why: String| Error::Start { why };
    let cannot = |what: &str, e: &dyn std::fmt::Display| failed(format!("{what}: {e}"));
    let log = open_log().map_err(|e| cannot(&log_path().display().to_string(), &e))?;
    let logged_before = log.metadata().map_or(0, |m| m.len());
    let (reader, writer) = io::pipe().map_err(|e| cannot("a pipe", &e))?;
    let errors = log.try_clone().map_err(|e| cannot(&log_path().display().to_string(), &e))?;
    let program = env::current_exe().map_err(|e| cannot("its program", &e))?;
    let mut command = Command::new(&program);
    command
        .arg("daemon")
        .args(arguments)
        .args(["--ready-fd", &writer.as_raw_fd().to_string()])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    let ready = writer.as_raw_fd();
    // SAFETY: between fork and exec only setsid(2), umask(2) and fcntl(2) are called, all async-signal-safe, and
    // the descriptor is open: `writer` lives until after the spawn.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            // Its own files are nobody else's to write, whatever the starter's mask.
            umask(Mode::from_bits_truncate(0o022));
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
        Ok(Ok(_)) if answer == READY => Ok(pid),
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
