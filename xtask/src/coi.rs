//! The `coi` that is built here, with a daemon of its own.
//!
//! Promises: it never meets the COI that this machine may be using, since socket, audit log and workspace are in a
//! temporary directory; whatever is started here is ended by [`Coi::end`], whichever way the work between ended; and if
//! this program is killed, the daemon ends by itself once nothing is left to watch.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid, pipe};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::check::{cargo, of_workspace};
use crate::run::{Cmd, RunError};
use crate::setup::{self, Ready};

/// What the daemon says when it answers.
const READY: &str = "ready\n";
/// How long the daemon may take to load its programs.
const START: Duration = Duration::from_secs(60);
/// The signals that end one of our processes, each with the time it is given. The first goes to the command that
/// `coi` runs, the second makes `coi` remove the container.
const ENDING: [(Signal, u64); 3] = [(Signal::SIGTERM, 3), (Signal::SIGTERM, 60), (Signal::SIGKILL, 5)];

/// Why the work with `coi` could not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CoiError {
    /// Somebody asked us to stop.
    #[error("interrupted; what was made is gone again")]
    Interrupted,
    /// Something did not happen in time.
    #[error("{what} took longer than {} s", .limit.as_secs())]
    Slow { what: String, limit: Duration },
    /// The daemon did not start.
    #[error("`coi daemon` did not start: {0}")]
    Daemon(String),
    /// A command of coi's failed.
    #[error("`coi {command}` ended with {status}: {said}")]
    Failed { command: String, status: ExitStatus, said: String },
    /// The system would not.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// What was printed is not what coi promises to print.
    #[error("what `coi {command}` printed was not understood: {why}")]
    Answer { command: String, why: String },
    /// The daemon did not do what it was asked to.
    #[error("the daemon's answer to `{request}` is {status}: {said}")]
    Refused { request: String, status: String, said: String },
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> CoiError {
    let what = what.into();
    move |source| CoiError::Io { what, source }
}

/// How it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// As `cargo xtask test` builds it, so that mostly it is there already.
    Debug,
    /// As users run it.
    Release,
}

/// Builds `coi`, unless that was done, and says where it is. What follows needs root: whoever is not root becomes it here,
/// and begins anew with what was built.
pub(crate) fn build_unless(
    built: Option<PathBuf>,
    profile: Profile,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let program = match built {
        Some(program) => program,
        None => build(profile)?,
    };
    if geteuid().is_root() {
        return Ok(program);
    }
    let mut again = std::process::Command::new("sudo");
    again.arg(this_program()?).args(std::env::args_os().skip(1)).arg("--built").arg(program);
    // It does not come back from there unless it fails.
    Err(io_error("this needs root, and sudo cannot be run")(again.exec()).into())
}

fn build(profile: Profile) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let (build, dir) = match profile {
        Profile::Debug => (of_workspace("build").args(["--bin", "coi"]), "debug"),
        Profile::Release => (cargo().args(["build", "--release", "-p", "coi"]), "release"),
    };
    build.foreground()?;
    // Wherever cargo was told to build, this program was built there too: TARGET/debug/xtask.
    let mut path = this_program()?;
    path.pop();
    path.set_file_name(dir);
    path.push("coi");
    Ok(path)
}

fn this_program() -> Result<PathBuf, CoiError> {
    std::env::current_exe().map_err(io_error("this program's own path"))
}

/// SIGINT, SIGTERM and SIGHUP.
pub(crate) struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    /// From now on they end nothing by themselves.
    pub(crate) fn catch() -> Result<Self, CoiError> {
        let catch = |kind| signal(kind).map_err(io_error("catching signals"));
        Ok(Self([
            catch(SignalKind::interrupt())?,
            catch(SignalKind::terminate())?,
            catch(SignalKind::hangup())?,
        ]))
    }

    /// Waits for the work, but neither longer than `limit` nor after a signal.
    pub(crate) async fn unless<T>(
        &mut self,
        what: &str,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Result<T, CoiError> {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            done = timeout(limit, work) => done.map_err(|_| CoiError::Slow { what: what.to_owned(), limit }),
            _ = interrupt.recv() => Err(CoiError::Interrupted),
            _ = terminate.recv() => Err(CoiError::Interrupted),
            _ = hangup.recv() => Err(CoiError::Interrupted),
        }
    }
}

/// A built `coi` and its daemon.
pub(crate) struct Coi {
    program: PathBuf,
    incus_socket: PathBuf,
    dir: TempDir,
    daemon: Option<Child>,
}

impl Coi {
    /// With nothing running yet.
    pub(crate) fn new(program: PathBuf, ready: &Ready) -> Result<Self, CoiError> {
        let dir = tempfile::Builder::new().prefix("coi-xtask-").tempdir();
        let dir = dir.map_err(io_error("a temporary directory"))?;
        let workspace = dir.path().join("workspace");
        std::fs::create_dir(&workspace).map_err(io_error(workspace.display().to_string()))?;
        Ok(Self { program, incus_socket: ready.incus_socket.clone(), dir, daemon: None })
    }

    /// The directory that ends with this.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A workspace for containers.
    pub(crate) fn workspace(&self) -> PathBuf {
        self.dir().join("workspace")
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) async fn start(&mut self, more: &[&OsStr], signals: &mut Signals) -> Result<(), CoiError> {
        let log = self.dir().join("daemon.log");
        let log = File::create(&log).map_err(io_error(log.display().to_string()))?;
        // Without O_CLOEXEC, so that the daemon gets the one end. Nothing else is started before that is closed here.
        let (reader, writer) = pipe().map_err(|error| io_error("a pipe")(error.into()))?;
        fcntl(&reader, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(|error| io_error("a pipe")(error.into()))?;
        let ready_fd = writer.as_raw_fd().to_string();
        let mut command = self.command();
        // Should nobody be left to end it, it ends by itself.
        command.args(["daemon", "--idle-exit", "30s", "--ready-fd", &ready_fd]).args(more);
        let spawned = command.stdout(Stdio::null()).stderr(log).spawn();
        self.daemon = Some(spawned.map_err(io_error(self.program.display().to_string()))?);
        drop(writer);
        let mut reader = Receiver::from_owned_fd(reader).map_err(io_error("a pipe"))?;
        let mut said = String::new();
        let read = signals.unless("starting `coi daemon`", START, reader.read_to_string(&mut said)).await?;
        read.map_err(io_error("a pipe"))?;
        if said == READY { Ok(()) } else { Err(CoiError::Daemon(said.trim().to_owned())) }
    }

    /// The daemon's process.
    pub(crate) fn daemon_pid(&self) -> Option<u32> {
        self.daemon.as_ref().and_then(Child::id)
    }

    /// Ends the daemon; it can be started again.
    pub(crate) async fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            end(&mut daemon).await;
        }
    }

    /// Where the daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join("coi.sock")
    }

    /// Calls the daemon itself, for what no command of coi's offers.
    pub(crate) async fn ask(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
        signals: &mut Signals,
    ) -> Result<Value, CoiError> {
        let said = self.ask_text(method, target, body, signals).await?;
        serde_json::from_str(&said).map_err(|error| CoiError::Refused {
            request: format!("{method} {target}"),
            status: error.to_string(),
            said,
        })
    }

    /// The same, where the answer is a text.
    pub(crate) async fn ask_text(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
        signals: &mut Signals,
    ) -> Result<String, CoiError> {
        let request = format!("{method} {target}");
        let exchange = async {
            let mut stream = UnixStream::connect(self.socket()).await?;
            let body = body.map(Value::to_string).unwrap_or_default();
            // In this version of HTTP an answer is as long as the connection.
            let head = format!(
                "{request} HTTP/1.0\r\nHost: coi\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        let answer = signals.unless(&format!("`{request}`"), START, exchange).await?;
        let answer = answer.map_err(io_error(request.clone()))?;
        let (head, said) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status =
            head.lines().next().and_then(|line| line.split_once(' ')).map_or("nothing", |(_, it)| it);
        match status.starts_with('2') {
            true => Ok(said.to_owned()),
            false => Err(CoiError::Refused { request, status: status.to_owned(), said: said.to_owned() }),
        }
    }

    /// Starts a viewer of a cgroup that is watched, which is shown every event from now on.
    pub(crate) async fn view(
        &self,
        cgroup: &str,
        out: Stdio,
        signals: &mut Signals,
    ) -> Result<Running, CoiError> {
        let args = ["monitor", "--cgroup", cgroup, "--format", "json"];
        let mut child = self
            .command()
            .args(args)
            .stdout(out)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io_error(self.program.display().to_string()))?;
        let command = args.join(" ");
        let mut said = String::new();
        let mut err = child.stderr.take().map(BufReader::new);
        if let Some(err) = &mut err {
            let read = signals.unless(&format!("`coi {command}`"), START, err.read_line(&mut said)).await;
            read?.map_err(io_error("a pipe"))?;
        }
        if said != READY {
            return Err(CoiError::Answer {
                command,
                why: format!("it did not say `ready` but `{}`", said.trim()),
            });
        }
        Ok(Running { child, out: None, err: err.map(|err| tokio::spawn(lines(err, Show::Nothing))) })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("COI_SOCKET", self.socket())
            .env("COI_LOG_DIR", self.dir().join("log"))
            .env("COI_STATE_DIR", self.dir().join("state"))
            .env("INCUS_SOCKET", &self.incus_socket)
            .current_dir(self.workspace())
            .stdin(Stdio::null())
            // A Ctrl-C is for us, and we end it in order.
            .process_group(0);
        command
    }

    /// Runs a command of coi's to its end; answers what it printed.
    pub(crate) async fn run(&self, args: &[&str], signals: &mut Signals) -> Result<String, CoiError> {
        let mut running = self.spawn(args, Show::Nothing)?;
        let command = args.join(" ");
        let ended = signals.unless(&format!("`coi {command}`"), START, running.ended()).await;
        let ended = match ended {
            Ok(ended) => ended?,
            Err(error) => {
                running.end().await;
                return Err(error);
            }
        };
        if ended.status.success() {
            return Ok(ended.out);
        }
        Err(CoiError::Failed { command, status: ended.status, said: ended.err.trim().to_owned() })
    }

    /// Starts a command of coi's.
    pub(crate) fn spawn(&self, args: &[&str], show: Show) -> Result<Running, CoiError> {
        let mut child = self
            .command()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(io_error(self.program.display().to_string()))?;
        let out = child.stdout.take().map(|out| tokio::spawn(lines(out, show)));
        let err = child.stderr.take().map(|err| tokio::spawn(lines(err, show)));
        Ok(Running { child, out, err })
    }

    /// What the audit log of a container says.
    pub(crate) async fn audit(&self, name: &str, signals: &mut Signals) -> Result<Vec<Value>, CoiError> {
        let args = ["audit", "path", name];
        let path = self.run(&args, signals).await?;
        let path = path.trim_end();
        let text = std::fs::read_to_string(path).map_err(io_error(path))?;
        let records = text.lines().map(|line| {
            serde_json::from_str(line).map_err(|error| CoiError::Answer {
                command: args.join(" "),
                why: format!("{path} has a line that is no JSON: {error}"),
            })
        });
        records.collect()
    }

    /// The containers of our workspace that Incus has, in whatever state.
    pub(crate) fn containers(&self) -> Result<Vec<String>, setup::SetupError> {
        let workspace = self.workspace();
        let all = setup::instances()?;
        let ours = all.iter().filter(|instance| {
            instance["config"]["user.coi.workspace"].as_str().map(Path::new) == Some(&workspace)
        });
        Ok(ours.filter_map(|instance| instance["name"].as_str().map(str::to_owned)).collect())
    }

    /// Ends the daemon, and removes what is left of containers and files.
    pub(crate) async fn end(mut self) -> Result<(), Box<dyn std::error::Error>> {
        let removed = self.remove_containers();
        self.stop().await;
        let dir = self.dir.path().display().to_string();
        self.dir.close().map_err(io_error(dir))?;
        removed
    }

    fn remove_containers(&self) -> Result<(), Box<dyn std::error::Error>> {
        for name in self.containers()? {
            let deleted = Cmd::new("incus").args(["delete", "--force", &format!("local:{name}")]).output();
            match deleted {
                // It may have gone by itself meanwhile.
                Err(RunError::Failed { .. }) if !self.containers()?.contains(&name) => {}
                deleted => drop(deleted?),
            }
        }
        Ok(())
    }
}

/// Whether the lines of a command are shown as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    Lines,
    Nothing,
}

/// A command of coi's under way.
pub(crate) struct Running {
    child: Child,
    out: Option<JoinHandle<String>>,
    err: Option<JoinHandle<String>>,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Running {
    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Result<Ended, CoiError> {
        let status = self.child.wait().await.map_err(io_error("coi"))?;
        let (out, err) = (text(self.out.take()).await, text(self.err.take()).await);
        Ok(Ended { status, out, err })
    }

    /// Ends it without a word.
    pub(crate) async fn kill(mut self) -> Result<(), CoiError> {
        self.child.kill().await.map_err(io_error("coi"))
    }

    /// Ends it, and with it its container.
    pub(crate) async fn end(mut self) {
        end(&mut self.child).await;
    }
}

/// Ends a process; it has all the time that it may need.
async fn end(child: &mut Child) {
    for (signal, seconds) in ENDING {
        let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        // It can only have ended meanwhile.
        let _ = kill(Pid::from_raw(pid), signal);
        if timeout(Duration::from_secs(seconds), child.wait()).await.is_ok() {
            return;
        }
    }
}

async fn text(lines: Option<JoinHandle<String>>) -> String {
    match lines {
        Some(lines) => lines.await.unwrap_or_default(),
        None => String::new(),
    }
}

/// Reads to the end, and shows each line as it comes if that is wanted.
async fn lines(from: impl AsyncRead + Unpin, show: Show) -> String {
    let mut from = BufReader::new(from);
    let (mut all, mut line) = (String::new(), Vec::new());
    // What cannot be read has ended.
    while from.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line);
        if show == Show::Lines {
            let (dim, text) = (anstyle::Style::new().dimmed(), text.trim_end());
            anstream::println!("   {dim}|{dim:#} {text}");
        }
        all.push_str(&text);
        line.clear();
    }
    all
}
