//! A daemon of the tests' own.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{Running, lines};
use crate::{DEADLINE, eventually};

/// The program under test: what cargo has built where this test is.
pub fn program() -> PathBuf {
    let test = env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("coi");
    assert!(
        program.is_file(),
        "{} is missing; build it first: cargo build -p coi, or run everything: cargo xtask test",
        program.display()
    );
    program
}

/// A daemon that listens and logs in a directory of its own.
#[derive(Debug)]
pub struct Daemon {
    /// Taken when it is ended.
    child: Option<Child>,
    dir: TempDir,
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Daemon {
    /// Starts one, and waits until it answers.
    pub fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("coi-e2e-daemon-").tempdir().unwrap();
        let log = File::create(dir.path().join("daemon.log")).unwrap();
        // `--ready-fd` asks for a descriptor that is inherited; a shell makes one without unsafe code. With nothing
        // to watch it ends by itself, should the test be killed.
        let line = "exec \"$0\" daemon --idle-exit 10m --ready-fd 3 \"$@\" 3>&1 >&2";
        let mut command = Command::new("sh");
        command.args(["-c", line]).arg(program()).args(arguments);
        in_dir(&mut command, dir.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let answer = lines(child.stdout.take().unwrap()).recv_timeout(DEADLINE).unwrap_or_default();
        let mut daemon = Self { child: Some(child), dir, programs: BTreeSet::new(), maps: BTreeSet::new() };
        assert_eq!(answer, "ready", "the daemon does not start: {}", daemon.log());
        daemon.programs = daemon.held("prog_id:");
        daemon.maps = daemon.held("map_id:");
        assert!(!daemon.programs.is_empty() && !daemon.maps.is_empty(), "nothing is loaded");
        daemon
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("coi.sock")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// `coi ARGUMENTS`, which will talk to this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).stdin(Stdio::null());
        in_dir(&mut command, self.dir.path());
        command
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default()
    }

    /// The ids of what its descriptors hold of the kernel's BPF side.
    fn held(&self, key: &str) -> BTreeSet<u32> {
        let descriptors = fs::read_dir(format!("/proc/{}/fdinfo", self.pid())).unwrap();
        let texts = descriptors.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
        texts
            .flat_map(|text| {
                let ids = text.lines().filter_map(|line| line.strip_prefix(key)?.trim().parse().ok());
                ids.collect::<Vec<u32>>()
            })
            .collect()
    }

    /// Asserts that it ends when it is told to, and that nothing of it stays.
    fn end(&mut self, child: Child) {
        let daemon = Running::of("coi daemon", child);
        daemon.signal(Signal::SIGTERM);
        let ended = daemon.finish();
        assert_eq!(ended.code, 0, "the daemon's end: {}", self.log());
        assert!(!self.socket().exists(), "its socket is left");
        // The kernel frees them when nobody can be at work in them any more.
        eventually("its programs are gone", || {
            let mut loaded = aya::programs::loaded_programs().flatten();
            !loaded.any(|program| self.programs.contains(&program.id()))
        });
        eventually("its maps are gone", || {
            let mut loaded = aya::maps::loaded_maps().flatten();
            !loaded.any(|map| self.maps.contains(&map.id()))
        });
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
            let _ = child.kill();
            let _ = child.wait();
        } else {
            self.end(child);
        }
    }
}

/// Points a `coi` at the daemon in this directory.
fn in_dir(command: &mut Command, dir: &Path) {
    command.env("COI_SOCKET", dir.join("coi.sock")).env("COI_LOG_DIR", dir.join("log"));
}
