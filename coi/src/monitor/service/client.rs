//! The client of `coi daemon`.
//!
//! This module promises a daemon that answers, or an error that says why there is none and which command
//! starts one. Root gets a daemon started; it outlives its starter.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use nix::unistd::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::api::{
    ApiError, DEFAULT_SOCKET, Ended, Reloaded, Status, Tree, TreeRequest, Watch, WatchRequest, Wish,
};
use super::detach::{self, LOCK_PAUSE, START, is_locked, start_lock};
use crate::http::{self, Lines, segment};
use crate::monitor::audit;
use crate::session::Plan;
use crate::ui;

/// How long a daemon that was started for a command stays with nothing to watch.
const IDLE_EXIT: &str = "30s";

/// How long the daemon may take to answer from memory.
const QUICK: Duration = Duration::from_secs(5);

/// How long it may take when it has to arm or to talk to Incus: longer than the daemon's own deadlines for Incus
/// and the kernel together, so that its word of what went wrong arrives.
const CHANGE: Duration = Duration::from_secs(120);

/// How long a container's end may take: longer than the daemon gives the saving of its session.
const FINISH: Duration = Duration::from_secs(240);

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the daemon did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No daemon runs, and only root could start one.
    #[error(
        "nothing monitors this machine: no COI daemon answers on {}, and only root can start one. \
         Run `sudo {} daemon install` once, which has systemd keep it running (without systemd: `daemon --detach`), \
         or run this command with sudo",
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
    #[error("the COI daemon does not answer as it should: {0}. Its log is {log}, or `journalctl -u coi`", log = detach::log_path().display())]
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

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        self.http.path()
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
        detach::start(&["--idle-exit", IDLE_EXIT].map(Into::into)).await?;
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

    /// Has the mounts of a container made.
    pub async fn make_tree(&self, request: &TreeRequest) -> Result<Tree> {
        self.call(Method::POST, "/v1/trees", Some(request), CHANGE).await
    }

    /// Has mounts taken away that no container will be started with.
    pub async fn discard_tree(&self, id: &str) -> Result<()> {
        self.call(Method::DELETE, &format!("/v1/trees/{}", segment(id)), NOTHING, CHANGE).await
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

    /// Says that a session begins in a launched container, and what of it is saved when that has stopped.
    pub async fn set_session(&self, name: &str, plan: Option<&Plan>) -> Result<Watch> {
        self.call(Method::POST, &format!("{}/session", watch_path(name)), Some(&plan), QUICK).await
    }

    /// A launched container stays when it stops.
    pub async fn keep(&self, name: &str) -> Result<Watch> {
        self.call(Method::POST, &format!("{}/keep", watch_path(name)), NOTHING, QUICK).await
    }

    /// Brings a stopped container that COI has launched to its end.
    pub async fn finish(&self, name: &str, wish: Wish) -> Result<Ended> {
        let wish = match wish {
            Wish::AsPlanned => "as_planned",
            Wish::Delete => "delete",
            Wish::GiveUp => "give_up",
        };
        let target = format!("{}/finish?wish={wish}", watch_path(name));
        self.call(Method::POST, &target, NOTHING, FINISH).await
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
