//! A daemon of the tests' own.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Running, end, lines};
use crate::{DEADLINE, alerts, audit, eventually};

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

/// A daemon that listens and logs in a directory of its own; or the place for one that the product starts itself.
#[derive(Debug)]
pub struct Daemon {
    /// The one that the test has started.
    child: Mutex<Option<Child>>,
    /// What it was started with.
    arguments: Vec<String>,
    /// What runs it, if it is not run as it is.
    launcher: String,
    /// It was killed: its recordings end in the middle.
    was_killed: AtomicBool,
    /// What floods: its recording may have gaps that it tells of.
    floods: Mutex<BTreeSet<String>>,
    /// It records nothing, and may have no programs: its monitor may not work.
    is_bare: bool,
    /// Where it finds Incus, if not where the tests do.
    incus: Option<PathBuf>,
    dir: TempDir,
}

impl Daemon {
    /// None yet.
    pub fn absent() -> Self {
        Self::with(&[])
    }

    fn with(arguments: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("coi-e2e-daemon-").tempdir().unwrap();
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self {
            child: Mutex::new(None),
            arguments,
            launcher: String::new(),
            was_killed: AtomicBool::new(false),
            floods: Mutex::default(),
            is_bare: false,
            incus: None,
            dir,
        }
    }

    /// Starts one, and waits until it answers.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_without(&[], arguments)
    }

    /// Starts one that finds Incus at this socket.
    pub fn start_with_incus(incus: &Path, arguments: &[&str]) -> Self {
        let mut daemon = Self::with(arguments);
        daemon.incus = Some(incus.to_owned());
        let answer = daemon.spawn(&[]);
        assert_eq!(answer, "ready", "the daemon does not start: {}", daemon.log());
        daemon
    }

    /// Starts one on a kernel that has nothing of these names, such as `btf_trace_sock_send_length`.
    pub fn start_without(missing: &[&str], arguments: &[&str]) -> Self {
        let daemon = Self::with(arguments);
        let answer = daemon.spawn(missing);
        assert_eq!(answer, "ready", "the daemon does not start: {}", daemon.log());
        daemon
    }

    /// Starts one that records nothing, on a kernel that has nothing of these names: its monitor may not work.
    pub fn start_bare(missing: &[&str]) -> Self {
        let mut daemon = Self::with(&[]);
        daemon.is_bare = true;
        assert_eq!(daemon.spawn(missing), "ready", "the daemon does not start: {}", daemon.log());
        daemon
    }

    /// Starts one by way of another program, such as `setpriv --no-new-privs`.
    pub fn start_by(launcher: &str, arguments: &[&str]) -> Self {
        let mut daemon = Self::with(arguments);
        launcher.clone_into(&mut daemon.launcher);
        assert_eq!(daemon.spawn(&[]), "ready", "the daemon does not start: {}", daemon.log());
        daemon
    }

    /// Asserts that one that is started in the place of this one, which has gone, does not start on a kernel that has nothing
    /// of these names; gives what it says.
    #[track_caller]
    pub fn refuses_without(&self, missing: &[&str]) -> String {
        assert_ne!(self.spawn(missing), "ready", "the daemon starts");
        let child = self.child.lock().unwrap().take().unwrap();
        assert_ne!(Running::of("coi daemon", child).finish().code, 0);
        self.log()
    }

    /// Starts it; gives the first that it says to who waits for it.
    fn spawn(&self, missing: &[&str]) -> String {
        let log = File::options().create(true).append(true).open(self.dir.path().join("daemon.log")).unwrap();
        // `--ready-fd` asks for a descriptor that is inherited; a shell makes one without unsafe code. With nothing
        // to watch it ends by itself, should the test be killed.
        let line = "if [ -n \"$TYPES\" ]; then mount --bind \"$TYPES\" /sys/kernel/btf/vmlinux || exit; fi
                    exec $LAUNCHER \"$0\" daemon --idle-exit 10m --ready-fd 3 \
                    ${RECORDINGS:+--record \"$RECORDINGS\"} \"$@\" 3>&1 >&2";
        let mut command = if missing.is_empty() {
            Command::new("sh")
        } else {
            // In a mount namespace of its own the kernel's types have other names.
            let mut unshare = Command::new("unshare");
            let types = self.dir.path().join("types");
            fs::write(&types, types_without(missing)).unwrap();
            unshare.args(["--mount", "sh"]).env("TYPES", types);
            unshare
        };
        command.args(["-c", line]).arg(program()).args(&self.arguments);
        command.env("LAUNCHER", &self.launcher);
        if !self.is_bare {
            command.env("RECORDINGS", self.recordings());
        }
        self.point(&mut command);
        if let Some(incus) = &self.incus {
            command.env("INCUS_SOCKET", incus);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let answer = lines(child.stdout.take().unwrap()).recv_timeout(DEADLINE).unwrap_or_default();
        *self.child.lock().unwrap() = Some(child);
        answer
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("coi.sock")
    }

    /// The process that answers there, if one does.
    pub fn pid(&self) -> Option<Pid> {
        let stream = UnixStream::connect(self.socket()).ok()?;
        Some(Pid::from_raw(getsockopt(&stream, PeerCredentials).unwrap().pid()))
    }

    /// `coi ARGUMENTS`, which will talk to this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).stdin(Stdio::null());
        self.point(&mut command);
        command
    }

    /// Has a program talk to this daemon, or be it.
    pub fn point(&self, command: &mut Command) {
        command.env("COI_SOCKET", self.socket()).env("COI_LOG_DIR", self.logs());
        command.env("COI_STATE_DIR", self.dir.path().join("state"));
        // Whoever runs the tests has rules of their own, perhaps.
        command.env("HOME", self.dir.path().join("no-home"));
    }

    /// Where its audit logs are.
    pub fn logs(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn recordings(&self) -> PathBuf {
        self.dir.path().join("recordings")
    }

    /// This watch is going to have more events than the recorder may find time for. Its recording is held against its log
    /// only if it is whole.
    pub fn expect_flood(&self, name: &str) {
        self.floods.lock().unwrap().insert(name.to_owned());
    }

    /// Asserts that a replay of all that was watched gives the alerts of the audit logs, each at its time.
    fn assert_replayed(&self) {
        for (stem, records) in audit::logs(&self.logs()) {
            let name = &stem;
            if audit::of_kind(&records, "attach").next().is_none() {
                // It ran without the monitor.
                continue;
            }
            let told = alerts(&records)
                .map(|alert| [&alert["coi"]["clock"], &alert["rule"]["id"], &alert["coi"]["message"]]);
            // A container that was watched twice has one log and two recordings.
            // One that was renamed, recordings of either name.
            let (watch, id) = stem.rsplit_once('.').unwrap_or_default();
            let id = format!(".{id}.");
            let all = fs::read_dir(self.recordings()).unwrap().map(|entry| entry.unwrap().path());
            let recordings: Vec<_> = all.filter(|path| path.to_str().unwrap().contains(&id)).collect();
            assert!(!recordings.is_empty(), "{name} was not recorded");
            let has_gap = |path: &PathBuf| {
                fs::read_to_string(path).unwrap().lines().any(|line| line.starts_with("{\"gap\":"))
            };
            if self.floods.lock().unwrap().contains(watch) && recordings.iter().any(has_gap) {
                continue;
            }
            let replayed: Vec<Value> = recordings.iter().flat_map(|path| self.replay(path)).collect();
            let replayed = replayed.iter().map(|alert| [&alert["time"], &alert["rule"], &alert["message"]]);
            let sorted = |alerts: &mut dyn Iterator<Item = [&Value; 3]>| {
                let mut alerts: Vec<_> = alerts.map(|alert| alert.map(Value::to_string)).collect();
                alerts.sort();
                alerts
            };
            assert_eq!(sorted(&mut { replayed }), sorted(&mut { told }), "a replay, and what {name} has");
        }
    }

    /// The alerts that a recording gives by this daemon's rules.
    fn replay(&self, recording: &Path) -> Vec<Value> {
        let mut replay = self.command(&["rules", "replay", "--format", "json"]);
        let replayed = end(replay.arg(recording).args(&self.arguments)).expect(0);
        serde_json::from_slice(&replayed.stdout).unwrap()
    }

    /// What the one that the test has started has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("daemon.log")).unwrap_or_default()
    }

    /// Ends the one that the test has started as a crash would.
    pub fn kill(&self) {
        let held = Held::by(self.pid().unwrap());
        let mut child = self.child.lock().unwrap().take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.was_killed.store(true, Ordering::Relaxed);
        held.assert_gone();
    }

    /// Ends the one that the test has started, as a service manager would.
    pub fn terminate(&self) {
        let pid = self.child.lock().unwrap().as_ref().unwrap().id();
        kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.assert_ends();
    }

    /// Asserts that the one that the test has started ends in order, as somebody has told it to.
    pub fn assert_ends(&self) {
        let child = self.child.lock().unwrap().take().unwrap();
        assert_eq!(Running::of("coi daemon", child).finish().code, 0, "the daemon's end: {}", self.log());
    }

    /// The process that freezes what is watched when the daemon is gone.
    pub fn guard(&self) -> Option<Pid> {
        let directory = self.dir.path().join("guard");
        let is_it = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.get(1) == Some(&b"guard".as_slice())
                && words.contains(&directory.as_os_str().as_encoded_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(is_it).map(Pid::from_raw)
    }

    /// Starts one again after [`Self::kill`] or [`Self::terminate`].
    pub fn start_again(&self) {
        assert_eq!(self.spawn(&[]), "ready", "the daemon does not start: {}", self.log());
    }

    /// Asserts that the one that runs ends when it is told to, and that nothing of it stays.
    fn end(&self) {
        let Some(pid) = self.pid() else { return };
        let held = (!self.is_bare).then(|| Held::by(pid));
        kill(pid, Signal::SIGTERM).unwrap();
        match self.child.lock().unwrap().take() {
            Some(child) => {
                let ended = Running::of("coi daemon", child).finish();
                assert_eq!(ended.code, 0, "the daemon's end: {}", self.log());
                if !self.is_bare && !self.was_killed.load(Ordering::Relaxed) {
                    self.assert_replayed();
                }
                // Whatever was done: the logs are what the daemon wrote.
                end(&mut self.command(&["audit", "verify"])).expect(0);
            }
            None => eventually("the daemon has ended", || has_ended(pid)),
        }
        assert!(!self.socket().exists(), "its socket is left");
        held.iter().for_each(Held::assert_gone);
        self.end_guard();
    }

    /// It stays as long as there is something that could run without a monitor; the test's containers will not.
    fn end_guard(&self) {
        if let Some(guard) = self.guard() {
            let _ = kill(guard, Signal::SIGKILL);
            eventually("the guard has ended", || has_ended(guard));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !thread::panicking() {
            return self.end();
        }
        eprintln!("the daemon's log:\n{}", self.log());
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if let Ok(Some(child)) = self.child.get_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(guard) = self.guard() {
            let _ = kill(guard, Signal::SIGKILL);
        }
    }
}

/// Where process 1 does not reap them, the dead stay zombies.
fn has_ended(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z"))
}

/// What a process holds of the kernel's BPF side.
#[derive(Debug)]
struct Held {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Held {
    fn by(pid: Pid) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap();
        let texts: Vec<_> =
            descriptors.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok()).collect();
        let ids = |key: &str| -> BTreeSet<u32> {
            let lines = texts.iter().flat_map(|text| text.lines());
            lines.filter_map(|line| line.strip_prefix(key)?.trim().parse().ok()).collect()
        };
        let held = Self { programs: ids("prog_id:"), maps: ids("map_id:") };
        assert!(!held.programs.is_empty() && !held.maps.is_empty(), "{pid} holds nothing");
        held
    }

    /// The kernel frees them when nobody can be at work in them any more.
    fn assert_gone(&self) {
        eventually("the daemon's programs are gone", || {
            let mut loaded = aya::programs::loaded_programs().flatten();
            !loaded.any(|program| self.programs.contains(&program.id()))
        });
        eventually("the daemon's maps are gone", || map_ids().is_disjoint(&self.maps));
    }
}

/// The ids of all maps. None is opened, as aya would: a table of programs that is opened and closed while the kernel frees it
/// stays for ever, since `prog_array_map_clear` (`kernel/bpf/arraymap.c`) then counts itself twice. Seen on Linux 6.18.
fn map_ids() -> BTreeSet<u32> {
    const BPF_MAP_GET_NEXT_ID: libc::c_int = 12;
    // As in `include/uapi/linux/bpf.h`: from where on, the next one, flags.
    let mut attributes = [0u32; 3];
    let mut ids = BTreeSet::new();
    loop {
        // SAFETY: the kernel reads and writes as much as it is told there is, and no more.
        let found = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_GET_NEXT_ID,
                attributes.as_mut_ptr(),
                size_of_val(&attributes),
            )
        };
        if found != 0 {
            assert_eq!(Errno::last(), Errno::ENOENT);
            return ids;
        }
        attributes[0] = attributes[1];
        ids.insert(attributes[0]);
    }
}

/// The running kernel's types, in which what has these names has others.
fn types_without(names: &[&str]) -> Vec<u8> {
    let mut types = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    for name in names {
        let string = [b"\0", name.as_bytes(), b"\0"].concat();
        let at = types.windows(string.len()).position(|bytes| bytes == string);
        types[at.unwrap_or_else(|| panic!("this kernel has no {name} anyway")) + 1] = b'_';
    }
    types
}
