//! The daemon goes, by a kill or in order, and comes back: nothing watched is forgotten, what is frozen meanwhile is what
//! the policy says, only what its absence had frozen is thawed, and the log tells it.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Child;

use coi_tests::audit::of_kind;
use coi_tests::incus::{self, Foreign, incus};
use coi_tests::{Cgroup, Coi, Running, TINY, attack, eventually, text, tripwire};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A daemon of its own, and files for what it watches.
struct Bench {
    coi: Coi,
    files: TempDir,
}

impl Bench {
    fn new(config: &str) -> Self {
        let files = tempfile::Builder::new().prefix("coi-e2e-continuity-").tempdir().unwrap();
        let at = |file: &str| files.path().join(file).to_str().unwrap().to_owned();
        let load = tripwire("each", "info", r#"starts_with "load-""#, "file.path");
        fs::write(at("rules.toml"), load + &attack()).unwrap();
        fs::write(at("config.toml"), config).unwrap();
        let coi = Coi::with_daemon(&["--rules", &at("rules.toml"), "--config", &at("config.toml")]);
        Self { coi, files }
    }

    fn watch(&self, cgroup: &Cgroup, on_loss: &str) {
        let path = cgroup.path().to_str().unwrap();
        let how = ["--respond", "--on-monitor-loss", on_loss, "--detach"];
        self.coi.coi(&[&["monitor", "--cgroup", path][..], &how].concat()).expect(0);
    }

    fn attach(&self, name: &str) {
        let how = ["--respond", "--on-monitor-loss", "freeze", "--detach"];
        self.coi.coi(&[&["monitor", "--attach", name][..], &how].concat()).expect(0);
    }

    /// A shell in the cgroup.
    fn shell(&self, cgroup: &Cgroup, line: &str) -> Child {
        cgroup.command(&format!("cd {} && {line}", self.files.path().display())).spawn().unwrap()
    }

    /// So many files of the load, as fast as can be; then something else.
    fn load(&self, cgroup: &Cgroup, files: usize, then: &str) -> Child {
        self.shell(cgroup, &format!("for ((i = 0; i < {files}; i++)); do : >load-$i; done; {then}"))
    }

    fn records(&self, name: &str) -> Vec<Value> {
        self.coi.audit(name)
    }

    fn watched(&self, name: &str) -> Value {
        let (status, watch) = self.coi.ask(&format!("/v1/watches/{name}"));
        assert_eq!(status, 200, "{name} is forgotten");
        watch
    }

    /// Asserts that the log is whole, and tells its gaps for want of a daemon; gives all records.
    #[track_caller]
    fn assert_told(&self, name: &str, absences: usize) -> Vec<Value> {
        self.coi.coi(&["audit", "verify", name]).expect(0);
        let all = self.records(name);
        let numbers: Vec<_> =
            all.iter().map(|record| record["event"]["sequence"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>());
        let gaps: Vec<_> = unwatched(&all).collect();
        assert_eq!(gaps.len(), absences, "{gaps:#?}");
        for gap in gaps {
            assert!(gap["since"].as_str().unwrap() < gap["until"].as_str().unwrap(), "{gap}");
        }
        all
    }
}

/// The times without a daemon.
fn unwatched(records: &[Value]) -> impl Iterator<Item = &Value> {
    of_kind(records, "gap").map(|gap| &gap["coi"]["gap"]).filter(|gap| gap["reason"] == "unwatched")
}

/// What was done without an alert: the action and its reason.
fn done(records: &[Value]) -> Vec<(String, String)> {
    let told = |action: &Value| {
        assert_eq!(action["coi"]["action"]["result"], "success", "{action}");
        (text(&action["coi"]["action"]["name"]), text(&action["coi"]["message"]))
    };
    of_kind(records, "action").map(told).collect()
}

/// The actions alone.
fn named(records: &[Value]) -> Vec<String> {
    done(records).into_iter().map(|(name, _)| name).collect()
}

fn is_frozen(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).unwrap().contains("frozen 1")
}

fn payload(name: &str) -> std::path::PathBuf {
    incus::cgroups().join(format!("lxc.payload.{name}"))
}

/// What runs in it when it is killed, and its shell is waited for.
fn end(cgroup: &Cgroup, shells: impl IntoIterator<Item = Child>) {
    fs::write(cgroup.path().join("cgroup.kill"), "1").unwrap();
    for mut shell in shells {
        shell.wait().unwrap();
    }
}

#[test]
fn ten_containers_outlive_a_killed_daemon() {
    let bench = Bench::new("");
    let containers: Vec<_> = (0..10).map(|_| Foreign::make(TINY)).collect();
    for container in &containers {
        container.start();
        bench.attach(&container.name);
    }
    let (goes_on, held) = (Cgroup::make("goes-on"), Cgroup::make("held"));
    bench.watch(&goes_on, "continue");
    bench.watch(&held, "freeze");
    let goes = bench.shell(&goes_on, "exec sleep 1000");
    let attack = bench.shell(&held, ": >attack; exec sleep 1000");
    eventually("a rule has frozen it", || bench.watched(&held.name())["state"] == "frozen");

    bench.coi.daemon().kill();
    for container in &containers {
        eventually("it is frozen", || is_frozen(&payload(&container.name)));
    }
    assert!(!is_frozen(goes_on.path()), "its policy is to go on");
    bench.coi.daemon().start_again();
    // Armed and thawed before anybody was answered.
    for container in &containers {
        let name = &container.name;
        assert!(!is_frozen(&payload(name)), "{name}");
        eventually("it runs", || bench.watched(name)["state"] == "running");
        let all = bench.assert_told(name, 1);
        assert_eq!(named(&all), ["freeze", "thaw"]);
        let gap = unwatched(&all).next().unwrap().clone();
        let processes = gap["processes"].as_array().unwrap();
        assert!(processes.iter().any(|process| process["executable"] == "/bin/busybox"), "{gap:#}");
    }
    // What a rule had frozen stays so, and it is known why.
    let watch = bench.watched(&held.name());
    assert!(is_frozen(held.path()) && watch["state"] == "frozen", "{watch:#}");
    assert_eq!(watch["last_action"]["rule_id"], "attack");
    assert_eq!(named(&bench.assert_told(&held.name(), 1)), [""; 0]);
    bench.coi.coi(&["unfreeze", &held.name()]).expect(0);
    assert!(!is_frozen(held.path()));
    assert_eq!(named(&bench.assert_told(&goes_on.name(), 1)), [""; 0]);

    // They are judged as before.
    let again = bench.shell(&goes_on, ": >attack; exec sleep 1000");
    eventually("the rule acts", || bench.watched(&goes_on.name())["state"] == "frozen");
    end(&goes_on, [goes, again]);
    end(&held, [attack]);
}

/// Whoever stops a container waits to be told of its freeze and of its thaw, also once nothing runs in it any more.
#[test]
fn what_has_ended_while_it_stood_still_does_both_by_turns() {
    let bench = Bench::new("");
    let is_held = |cgroup: &Cgroup| fs::read_to_string(cgroup.path().join("cgroup.freeze")).unwrap() == "1\n";
    let (container, other) = (Cgroup::payload("ends"), Cgroup::make("ends"));
    let shells = [&container, &other].map(|cgroup| {
        bench.watch(cgroup, "freeze");
        let shell = bench.shell(cgroup, ": >attack; exec sleep 1000");
        eventually("it is frozen", || bench.watched(&cgroup.name())["state"] == "frozen");
        (cgroup, shell)
    });
    for (cgroup, shell) in shells {
        end(cgroup, [shell]);
    }
    // LXC may wait for either.
    for held in [false, true, false] {
        eventually("it is let go, and held, by turns", || is_held(&container) == held);
    }
    assert!(is_held(&other), "something may come into what is no container");
}

/// The same, by what outlives the daemon.
#[test]
fn what_has_ended_while_the_guard_held_it_does_both_by_turns() {
    let bench = Bench::new("");
    let container = Cgroup::payload("guarded");
    bench.watch(&container, "freeze");
    let shell = bench.shell(&container, "exec sleep 1000");
    eventually("it runs", || bench.watched(&container.name())["state"] == "running");
    bench.coi.daemon().kill();
    eventually("it is frozen", || is_frozen(container.path()));
    end(&container, [shell]);
    for frozen in [false, true, false] {
        eventually("it is let go, and held, by turns", || is_frozen(container.path()) == frozen);
    }
    bench.coi.daemon().start_again();
}

/// Between the freeze and its record, or a little before or after: whatever is told is told once, and it stays frozen.
#[test]
fn a_kill_during_an_attack_leaves_it_frozen_and_told() {
    const KILLS: usize = 5;
    let bench = Bench::new("");
    for round in 0..KILLS {
        let cgroup = Cgroup::make(&format!("attack-{round}"));
        bench.watch(&cgroup, "freeze");
        let load = bench.load(&cgroup, 200, ": >attack; exec sleep 1000");
        eventually("it is frozen", || is_frozen(cgroup.path()));
        bench.coi.daemon().kill();
        bench.coi.daemon().start_again();
        let name = cgroup.name();
        assert!(is_frozen(cgroup.path()), "a rule had frozen it");
        assert_eq!(bench.watched(&name)["state"], "frozen");
        let all = bench.assert_told(&name, 1);
        let told = all
            .iter()
            .filter(|record| record["rule"]["id"] == "attack" && record["coi"]["action"]["name"] == "freeze");
        assert_eq!(told.count(), 1, "{all:#?}");
        assert!(!named(&all).contains(&"thaw".to_owned()));
        bench.coi.coi(&["unfreeze", &name]).expect(0);
        assert!(!is_frozen(cgroup.path()));
        end(&cgroup, [load]);
        eventually("its end is noticed", || {
            let (_, watches) = bench.coi.ask("/v1/watches");
            drop(fs::remove_dir(cgroup.path()));
            watches.as_array().unwrap().is_empty()
        });
        fs::create_dir(cgroup.path()).unwrap();
    }
}

/// After a flood, files at a pace until there is one called `stop`.
const STEADILY: &str = "for ((i = 1000000; ; i++)); do [ -e stop ] && exit; : >load-$i; /bin/true; done";

#[test]
fn a_flood_goes_on_where_a_kill_had_frozen_it() {
    let bench = Bench::new("");
    let cgroup = Cgroup::make("flood");
    bench.watch(&cgroup, "freeze");
    let name = cgroup.name();
    let mut load = bench.load(&cgroup, 5000, STEADILY);
    for absences in 1..=2 {
        let so_far = bench.records(&name).len();
        eventually("it is under way", || bench.records(&name).len() > so_far + 200);
        bench.coi.daemon().kill();
        eventually("it is frozen", || is_frozen(cgroup.path()));
        bench.coi.daemon().start_again();
        assert!(!is_frozen(cgroup.path()));
        bench.assert_told(&name, absences);
    }
    fs::write(bench.files.path().join("stop"), "").unwrap();
    load.wait().unwrap();
    bench.shell(&cgroup, ": >load-last").wait().unwrap();
    eventually("its end is told", || {
        bench.records(&name).iter().any(|record| record["coi"]["message"] == "load-last")
    });
    // What it did while it was watched is told once.
    let all = bench.assert_told(&name, 2);
    let each = all.iter().filter(|record| record["rule"]["id"] == "each");
    let told: Vec<_> = each.map(|record| text(&record["coi"]["message"])).collect();
    assert_eq!(told.iter().collect::<BTreeSet<_>>().len(), told.len());
}

#[test]
fn a_successor_takes_over_under_load_and_nothing_is_frozen() {
    let bench = Bench::new("");
    let cgroup = Cgroup::make("handover");
    bench.watch(&cgroup, "freeze");
    let name = cgroup.name();
    let mut load = bench.shell(&cgroup, STEADILY);
    let guard = bench.coi.daemon().guard().unwrap();
    for handovers in 1..=2 {
        let so_far = bench.records(&name).len();
        eventually("it is under way", || bench.records(&name).len() > so_far + 50);
        bench.coi.daemon().terminate();
        assert!(!is_frozen(cgroup.path()));
        bench.coi.daemon().start_again();
        assert_eq!(bench.watched(&name)["state"], "running");
        assert_eq!(named(&bench.assert_told(&name, handovers)), [""; 0]);
        assert_eq!(bench.coi.daemon().guard(), Some(guard), "the same guard is in charge");
    }
    fs::write(bench.files.path().join("stop"), "").unwrap();
    load.wait().unwrap();
    // What each of the three daemons has judged is in the log: the harness replays it.
}

#[test]
fn without_a_successor_it_is_frozen_in_the_end() {
    let bench = Bench::new("[monitor]\nhandover = \"1s\"\n");
    let cgroup = Cgroup::make("no-successor");
    bench.watch(&cgroup, "freeze");
    let name = cgroup.name();
    let shell = bench.shell(&cgroup, "exec sleep 1000");
    bench.coi.daemon().terminate();
    eventually("it is frozen", || is_frozen(cgroup.path()));
    bench.coi.daemon().start_again();
    assert!(!is_frozen(cgroup.path()));
    let all = bench.assert_told(&name, 1);
    let told = done(&all);
    assert!(told[0].1.contains("no other daemon had come in time"), "{told:?}");
    assert_eq!(named(&all), ["freeze", "thaw"]);
    end(&cgroup, [shell]);
}

#[test]
fn what_is_stopped_for_good_is_let_go() {
    let bench = Bench::new("[monitor]\nhandover = \"1s\"\n");
    let cgroup = Cgroup::make("stopped");
    bench.watch(&cgroup, "freeze");
    let name = cgroup.name();
    let shell = bench.shell(&cgroup, "exec sleep 1000");
    bench.coi.coi(&["daemon", "stop"]).expect(0).says("is not watched any more");
    bench.coi.daemon().assert_ends();
    eventually("there is no guard", || bench.coi.daemon().guard().is_none());
    assert!(!is_frozen(cgroup.path()));
    let all = bench.assert_told(&name, 0);
    assert!(of_kind(&all, "detach").any(|detach| detach["coi"]["message"] == "watched no longer"));
    bench.coi.coi(&["daemon", "stop"]).expect(0).says("no daemon runs");
    bench.coi.daemon().start_again();
    assert_eq!(bench.coi.ask("/v1/watches").1, Value::Array(Vec::new()));
    end(&cgroup, [shell]);
}

#[test]
fn the_guards_own_end_is_noticed() {
    let bench = Bench::new("");
    let cgroup = Cgroup::make("guard");
    bench.watch(&cgroup, "freeze");
    let name = cgroup.name();
    let shell = bench.shell(&cgroup, "exec sleep 1000");
    let guard = bench.coi.daemon().guard().unwrap();
    kill(guard, Signal::SIGKILL).unwrap();
    eventually("it is told", || {
        let all = bench.records(&name);
        of_kind(&all, "note").any(|note| text(&note["coi"]["message"]).contains("another one"))
    });
    assert!(bench.coi.daemon().guard().is_some_and(|now| now != guard));
    // The new one does what the old one would have.
    bench.coi.daemon().kill();
    eventually("it is frozen", || is_frozen(cgroup.path()));
    bench.coi.daemon().start_again();
    assert_eq!(named(&bench.assert_told(&name, 1)), ["freeze", "thaw"]);
    end(&cgroup, [shell]);
}

/// The times in which the daemon was there and its monitor did not get on.
fn silences(records: &[Value]) -> usize {
    of_kind(records, "gap").filter(|gap| gap["coi"]["gap"]["reason"] == "silent").count()
}

#[test]
fn what_a_daemon_that_hangs_does_not_see_is_frozen() {
    let bench = Bench::new("");
    let container = Foreign::make(TINY);
    container.start();
    bench.attach(&container.name);
    let (cgroup, goes_on) = (Cgroup::make("hangs"), Cgroup::make("hangs-goes-on"));
    bench.watch(&cgroup, "freeze");
    bench.watch(&goes_on, "continue");
    let shells = [&cgroup, &goes_on].map(|cgroup| bench.shell(cgroup, "exec sleep 1000"));
    let daemon = bench.coi.daemon().pid().unwrap();
    for hangs in 1..=2 {
        kill(daemon, Signal::SIGSTOP).unwrap();
        for frozen in [cgroup.path().to_owned(), payload(&container.name)] {
            eventually("it is frozen", || is_frozen(&frozen));
        }
        assert!(!is_frozen(goes_on.path()), "its policy is to go on");
        kill(daemon, Signal::SIGCONT).unwrap();
        for (name, directory) in
            [(cgroup.name(), cgroup.path().to_owned()), (container.name.clone(), payload(&container.name))]
        {
            eventually("it is thawed", || !is_frozen(&directory));
            eventually("that is recorded", || named(&bench.records(&name)).len() == 2 * hangs);
            assert_eq!(bench.watched(&name)["state"], "running");
            let all = bench.assert_told(&name, 0);
            assert_eq!(named(&all), ["freeze", "thaw"].repeat(hangs));
            assert!(done(&all)[0].1.contains("had given no sign of life"), "{:?}", done(&all));
            assert_eq!(silences(&all), hangs);
        }
        eventually("that is recorded, too", || silences(&bench.records(&goes_on.name())) == hangs);
    }
    // It is judged as before, and nothing thaws it.
    let attack = bench.shell(&cgroup, ": >attack; exec sleep 1000");
    eventually("a rule has frozen it", || bench.watched(&cgroup.name())["state"] == "frozen");
    kill(daemon, Signal::SIGSTOP).unwrap();
    eventually("the container is frozen", || is_frozen(&payload(&container.name)));
    kill(daemon, Signal::SIGCONT).unwrap();
    eventually("the container is thawed", || !is_frozen(&payload(&container.name)));
    eventually("that is recorded", || silences(&bench.records(&cgroup.name())) == 3);
    assert!(is_frozen(cgroup.path()));
    end(&goes_on, []);
    end(&cgroup, [attack]);
    for mut shell in shells {
        shell.wait().unwrap();
    }
}

/// What it does while nobody looks is judged when somebody does, before it could be thawed.
#[test]
fn an_attack_on_a_daemon_that_hangs_is_frozen_for_good() {
    let bench = Bench::new("");
    let cgroup = Cgroup::make("hangs-attacked");
    bench.watch(&cgroup, "freeze");
    let name = cgroup.name();
    let daemon = bench.coi.daemon().pid().unwrap();
    kill(daemon, Signal::SIGSTOP).unwrap();
    let attack = bench.shell(&cgroup, ": >attack; exec sleep 1000");
    eventually("it is frozen", || is_frozen(cgroup.path()));
    kill(daemon, Signal::SIGCONT).unwrap();
    eventually("that is recorded", || silences(&bench.records(&name)) == 1);
    assert!(is_frozen(cgroup.path()));
    assert_eq!(bench.watched(&name)["last_action"]["rule_id"], "attack");
    assert_eq!(named(&bench.assert_told(&name, 0)), ["freeze"]);
    end(&cgroup, [attack]);
}

/// Only the thread that judges stands still; whoever asks the daemon for nothing that it would know is answered.
#[test]
fn a_daemon_whose_monitor_hangs_only_looks_alive() {
    let bench = Bench::new("");
    let cgroup = Cgroup::make("hangs-inside");
    bench.watch(&cgroup, "freeze");
    let name = cgroup.name();
    let shell = bench.shell(&cgroup, "exec sleep 1000");
    let monitor = thread_of(bench.coi.daemon().pid().unwrap(), "coi-monitor");
    ptrace::seize(monitor, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(monitor).unwrap();
    waitpid(monitor, Some(WaitPidFlag::__WALL)).unwrap();
    eventually("it is frozen", || is_frozen(cgroup.path()));
    for call in ["/v1/status", "/v1/watches", &format!("/v1/watches/{name}")] {
        assert_eq!(bench.coi.ask(call).0, 200, "the daemon answers {call}");
    }
    ptrace::detach(monitor, None).unwrap();
    eventually("that is recorded", || named(&bench.records(&name)) == ["freeze", "thaw"]);
    assert!(!is_frozen(cgroup.path()));
    end(&cgroup, [shell]);
}

#[test]
fn a_daemon_that_is_killed_while_it_hangs_is_as_any_other() {
    let bench = Bench::new("");
    let cgroup = Cgroup::make("hangs-killed");
    bench.watch(&cgroup, "freeze");
    let name = cgroup.name();
    let shell = bench.shell(&cgroup, "exec sleep 1000");
    kill(bench.coi.daemon().pid().unwrap(), Signal::SIGSTOP).unwrap();
    eventually("it is frozen", || is_frozen(cgroup.path()));
    bench.coi.daemon().kill();
    bench.coi.daemon().start_again();
    assert!(!is_frozen(cgroup.path()));
    let all = bench.assert_told(&name, 1);
    assert_eq!(named(&all), ["freeze", "thaw"]);
    assert!(done(&all)[0].1.contains("had given no sign of life"), "{:?}", done(&all));
    end(&cgroup, [shell]);
}

/// A thread of a process, by its name.
fn thread_of(process: Pid, name: &str) -> Pid {
    let mut tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| task.unwrap());
    let task = tasks.find(|task| fs::read_to_string(task.path().join("comm")).unwrap().trim_end() == name);
    Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap())
}

#[test]
fn a_container_that_starts_without_a_daemon_waits_for_one() {
    let bench = Bench::new("");
    let container = Foreign::make(TINY);
    let name = &container.name;
    container.start();
    bench.attach(name);
    bench.coi.daemon().kill();
    eventually("it is frozen", || is_frozen(&payload(name)));
    container.incus(&["stop", "--force", name]);
    let start = Running::start(&mut incus(&["start", name]));
    eventually("what starts is frozen", || {
        let events = payload(name).join("cgroup.events");
        fs::read_to_string(events).is_ok_and(|events| events.contains("frozen 1"))
    });
    bench.coi.daemon().start_again();
    start.finish().expect(0);
    eventually("it runs", || bench.watched(name)["state"] == "running");
    assert_eq!(named(&bench.assert_told(name, 1)), ["freeze", "thaw"]);
}

#[test]
fn what_was_deleted_meanwhile_is_not_watched_any_more() {
    let bench = Bench::new("");
    let (container, successor) = (Foreign::make(TINY), Foreign::make(TINY));
    for container in [&container, &successor] {
        bench.attach(&container.name);
    }
    let cgroup = Cgroup::make("deleted");
    bench.watch(&cgroup, "freeze");
    bench.coi.daemon().kill();
    container.incus(&["delete", &container.name]);
    successor.incus(&["delete", &successor.name]);
    successor.incus(&["init", TINY, &successor.name, "--quiet"]);
    fs::remove_dir(cgroup.path()).unwrap();
    bench.coi.daemon().start_again();
    eventually("they are forgotten", || bench.coi.ask("/v1/watches").1.as_array().unwrap().is_empty());
    for name in [&container.name, &cgroup.name()] {
        let all = bench.assert_told(name, 1);
        let states: Vec<_> = of_kind(&all, "state").map(|state| &state["coi"]["message"]).collect();
        assert!(states.iter().any(|why| text(why).contains("while nobody watched")), "{states:?}");
        assert_eq!(of_kind(&all, "detach").count(), 1);
    }
    fs::create_dir(cgroup.path()).unwrap();
    // A third daemon does not find them either.
    bench.coi.daemon().kill();
    bench.coi.daemon().start_again();
    assert_eq!(bench.coi.ask("/v1/watches").1, Value::Array(Vec::new()));
}
