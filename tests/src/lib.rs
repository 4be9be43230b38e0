//! The harness of the end-to-end tests: a daemon of the tests' own, the command line, Incus, attackers, viewers.
//!
//! It promises:
//! - nothing is mocked, and nothing outside is touched: the daemon listens and logs in a directory of its own, the
//!   containers are those of workspaces that the tests make;
//! - the tests of one program share a daemon; when the last of those that run has ended, the daemon is ended too, and
//!   a program, map, mount or cgroup of it that is left fails the test;
//! - all that a daemon of the tests watches is recorded; when the daemon has ended, a replay must give the alerts of
//!   the audit log, one by one;
//! - nothing is waited for by time: what has an event is waited for by it, and every wait has an end ([`DEADLINE`]).

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a harness that fails is a test that fails")]

pub mod agent;
pub mod attacker;
pub mod audit;
mod cgroup;
mod daemon;
mod executable;
mod gate;
pub mod incus;
mod process;
mod proxy;
pub mod routes;
mod terminal;
mod tripwire;
mod turnstile;
mod viewer;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub use attacker::Attacker;
pub use cgroup::Cgroup;
pub use daemon::{Daemon, program};
pub use executable::{copy_program, write_script};
pub use gate::{Gate, Reached};
pub use process::{Ended, Running, end};
pub use proxy::Proxy;
pub use terminal::Terminal;
pub use tripwire::{attack, tripwire};
pub use turnstile::Turnstile;
pub use viewer::{Viewer, is_init};

/// How long anything may take before its test fails. A container's start on a machine that compiles meanwhile is what
/// takes longest.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The image with everything in it.
pub const DEFAULT: &str = "coi-default";
/// The image with nothing but busybox.
pub const TINY: &str = "coi-tiny";
/// The image with what a session needs besides, and no more.
pub const SMALL: &str = "coi-small";

/// The user of all images, who owns the workspaces.
pub const USER: u32 = 1000;

/// How many tests may be at work at once, however many threads there are: each has a container or two.
const AT_ONCE: usize = 4;

static DAEMON: Shared<Daemon> = Shared::new();

/// One test's own workspace and home, with the daemon and the command line.
#[derive(Debug)]
pub struct Coi {
    daemon: Arc<Daemon>,
    workspace: TempDir,
    home: TempDir,
    _turn: Turn,
}

impl Default for Coi {
    fn default() -> Self {
        Self::new()
    }
}

impl Coi {
    /// With the built-in rules.
    pub fn new() -> Self {
        let turn = Turn::take();
        Self::with(DAEMON.get(|| Daemon::start(&[])), turn)
    }

    /// With a daemon for this test alone, started with these arguments.
    pub fn with_daemon(arguments: &[&str]) -> Self {
        let turn = Turn::take();
        Self::with(Arc::new(Daemon::start(arguments)), turn)
    }

    /// With this daemon, which is for this test alone.
    pub fn with_this(daemon: Arc<Daemon>) -> Self {
        let turn = Turn::take();
        Self::with(daemon, turn)
    }

    /// With a daemon for this test alone on a kernel that has nothing of these names.
    pub fn without(missing: &[&str], arguments: &[&str]) -> Self {
        let turn = Turn::take();
        Self::with(Arc::new(Daemon::start_without(missing, arguments)), turn)
    }

    /// With a daemon for this test alone that another program starts with these arguments.
    pub fn with_daemon_by(launcher: &str, arguments: &[&str]) -> Self {
        let turn = Turn::take();
        Self::with(Arc::new(Daemon::start_by(launcher, arguments)), turn)
    }

    /// Without a daemon; the product may start one, for this test alone.
    pub fn without_daemon() -> Self {
        let turn = Turn::take();
        Self::with(Arc::new(Daemon::absent()), turn)
    }

    /// With another owner of the workspace than the images' user.
    pub fn owned_by(uid: u32) -> Self {
        let coi = Self::new();
        chown(coi.workspace(), Some(uid), Some(uid)).unwrap();
        coi
    }

    fn with(daemon: Arc<Daemon>, turn: Turn) -> Self {
        let workspace = tempfile::Builder::new().prefix("coi-e2e-").tempdir().unwrap();
        chown(workspace.path(), Some(USER), Some(USER)).unwrap();
        let home = tempfile::Builder::new().prefix("coi-e2e-home-").tempdir().unwrap();
        Self { daemon, workspace, home, _turn: turn }
    }

    /// Another workspace of the same user, with the same daemon.
    pub fn beside(&self) -> Self {
        let beside = Self::with(Arc::clone(&self.daemon), Turn::take());
        let rules = self.home.path().join(".coi/rules");
        for file in fs::read_dir(rules).into_iter().flatten().flatten() {
            beside.user_rules(file.file_name().to_str().unwrap(), &fs::read_to_string(file.path()).unwrap());
        }
        beside
    }

    /// Writes a rule file of the user's.
    pub fn user_rules(&self, name: &str, text: &str) {
        let directory = self.home.path().join(".coi/rules");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join(name), text).unwrap();
    }

    /// The directory of the workspace's own rules, which is made.
    pub fn workspace_rules(&self) -> PathBuf {
        let directory = self.workspace().join(".coi/rules");
        fs::create_dir_all(&directory).unwrap();
        chown(&directory, Some(USER), Some(USER)).unwrap();
        directory
    }

    /// The daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// Asserts that a rule has frozen the container, in everybody's eyes, and that this is all that was done so far.
    #[track_caller]
    pub fn assert_frozen(&self, rule: &str, times: usize) {
        let name = self.container();
        let list: Value =
            serde_json::from_slice(&self.coi(&["list", "--format", "json"]).expect(0).stdout).unwrap();
        let row = list.as_array().unwrap().iter().find(|row| row["name"] == name.as_str()).unwrap();
        assert_eq!((&row["status"], &row["watched"]), (&"frozen".into(), &true.into()));
        assert_eq!(incus::status(&name), "Frozen");
        incus::assert_still(&name);
        let freeze = (rule.to_owned(), "freeze".to_owned(), "success".to_owned());
        assert_eq!(actions(&self.audit(&name)), vec![freeze; times]);
    }

    /// Makes `data/` in the workspace: 100 files of 1 MB each.
    pub fn bulk(&self) {
        let data = self.workspace().join("data");
        fs::create_dir(&data).unwrap();
        for n in 0..100 {
            // Of holes, which are read like anything else.
            fs::File::create(data.join(format!("{n}"))).unwrap().set_len(1_000_000).unwrap();
        }
    }

    /// The home of who calls `coi`.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The workspace on the host.
    pub fn workspace(&self) -> &Path {
        self.workspace.path()
    }

    /// Writes a file of the workspace, as its owner.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.workspace().join(name);
        fs::write(&path, text).unwrap();
        chown(path, Some(USER), Some(USER)).unwrap();
    }

    /// The name of the workspace's first container.
    pub fn container(&self) -> String {
        let hash = Sha256::digest(self.workspace().as_os_str().as_encoded_bytes());
        let hex: String = hash[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("coi-{hex}-1")
    }

    /// `coi ARGUMENTS` with this daemon, in the workspace.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.daemon.command(arguments);
        command.current_dir(self.workspace()).env("HOME", self.home.path());
        command
    }

    /// `coi ARGUMENTS`, to its end.
    pub fn coi(&self, arguments: &[&str]) -> Ended {
        end(&mut self.command(arguments))
    }

    /// `coi ARGUMENTS`, without waiting for its end.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// `coi run --image IMAGE -- WORDS`, to its end.
    pub fn run(&self, image: &str, words: &[&str]) -> Ended {
        self.coi(&[&["run", "--image", image, "--"][..], words].concat())
    }

    /// What the daemon says at an address of its API.
    pub fn ask(&self, target: &str) -> (u16, Value) {
        incus::call(self.daemon.socket(), "GET", target)
    }

    /// What the daemon answers to root who posts this to an address of its API.
    #[track_caller]
    pub fn post(&self, target: &str, body: &Value) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--write-out", "\n%{http_code}", "-H", "content-type: application/json"]);
        curl.arg("--unix-socket").arg(self.daemon.socket()).args(["-d", &body.to_string()]);
        let answer = end(curl.arg(format!("http://coi{target}"))).expect(0).text();
        let (body, status) = answer.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    /// The audit log of a container or cgroup.
    pub fn audit(&self, name: &str) -> Vec<Value> {
        let path = self.coi(&["audit", "path", name]).expect(0).text();
        audit::records(Path::new(path.trim_end()))
    }

    /// Asserts that a rule killed the container that this command ran in: the command's code and last word, what the
    /// log says was done, and that Incus knows the container no more.
    #[track_caller]
    pub fn assert_killed(&self, ended: Ended, rule: &str) {
        let ended = ended.expect(137);
        let name = self.container();
        let word = format!("coi: killed {name}: rule {rule} (critical): ");
        assert!(ended.stderr.contains(&word), "not said: {word}\n{}", ended.stderr);
        assert_eq!(incus::instance(&name), None, "{name} is still there");
        assert_eq!(actions(&self.audit(&name)), [(rule.into(), "kill".into(), "success".into())]);
    }
}

impl Drop for Coi {
    fn drop(&mut self) {
        let left = incus::of_workspace(self.workspace());
        for name in &left {
            incus::delete(name);
        }
        if !thread::panicking() {
            assert!(left.is_empty(), "containers are left: {left:?}");
            incus::assert_forgotten(&self.container(), self.workspace());
        }
    }
}

/// The rules that fired, each once.
pub fn fired(audit: &[Value]) -> BTreeSet<String> {
    alerts(audit).map(|record| text(&record["rule"]["id"])).collect()
}

/// What was done beyond writing it down: rule, action and result, in order.
pub fn actions(audit: &[Value]) -> Vec<(String, String, String)> {
    alerts(audit)
        .map(|record| (&record["rule"]["id"], &record["coi"]["action"]))
        .filter(|(_, action)| action["name"] != "log")
        .map(|(rule, action)| (text(rule), text(&action["name"]), text(&action["result"])))
        .collect()
}

/// The alerts in an audit log.
pub fn alerts(audit: &[Value]) -> impl Iterator<Item = &Value> {
    audit.iter().filter(|record| record["event"]["kind"] == "alert")
}

/// A value that is text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// Waits for what has no event to be waited for: what the kernel frees when it gets round to it.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Something that is made for the first who needs it and ended by the last.
#[derive(Debug)]
pub struct Shared<T>(Mutex<Weak<T>>);

impl<T> Shared<T> {
    /// Nothing yet.
    #[expect(clippy::new_without_default, reason = "it is made in statics")]
    pub const fn new() -> Self {
        Self(Mutex::new(Weak::new()))
    }

    /// The one that there is, or a new one.
    pub fn get(&self, make: impl FnOnce() -> T) -> Arc<T> {
        // Who panicked while making one has made none.
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.upgrade().unwrap_or_else(|| {
            let made = Arc::new(make());
            *held = Arc::downgrade(&made);
            made
        })
    }
}

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to be at work.
#[derive(Debug)]
struct Turn;

impl Turn {
    fn take() -> Self {
        let (taken, given_back) = &TURNS;
        let mut taken = taken.lock().unwrap();
        while *taken == AT_ONCE {
            taken = given_back.wait(taken).unwrap();
        }
        *taken += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (taken, given_back) = &TURNS;
        *taken.lock().unwrap() -= 1;
        given_back.notify_one();
    }
}
