//! Incus hangs, goes away, comes back, deletes and renames: what is watched stays watched, freezing waits for nobody, and
//! policy finds what is to be watched.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use coi_tests::audit::of_kind;
use coi_tests::incus::{self, Foreign, incus};
use coi_tests::{Cgroup, Coi, Daemon, Proxy, Running, TINY, attack, end, eventually, text, tripwire};
use serde_json::Value;
use tempfile::TempDir;

/// A daemon that talks to Incus through a proxy.
struct Bench {
    coi: Coi,
    proxy: Proxy,
    files: TempDir,
}

impl Bench {
    fn new(config: &str) -> Self {
        let files = tempfile::Builder::new().prefix("coi-e2e-trouble-").tempdir().unwrap();
        let at = |file: &str| files.path().join(file).to_str().unwrap().to_owned();
        let fatal = tripwire("fatal", "critical", r#"== "fatal""#, "process.entity_id");
        fs::write(at("rules.toml"), attack() + &fatal).unwrap();
        fs::write(at("config.toml"), config).unwrap();
        let proxy = Proxy::start();
        let arguments = ["--rules", &at("rules.toml"), "--config", &at("config.toml")];
        let coi = Coi::with_this(Arc::new(Daemon::start_with_incus(&proxy.socket(), &arguments)));
        Self { coi, proxy, files }
    }

    /// A container that runs, and whose rules may act.
    fn watched(&self) -> Foreign {
        let container = Foreign::make(TINY);
        container.start();
        self.attach(&container.name);
        container
    }

    fn attach(&self, name: &str) {
        self.coi.coi(&["monitor", "--attach", name, "--respond", "--detach"]).expect(0);
    }

    fn watch(&self, name: &str) -> Option<Value> {
        match self.coi.ask(&format!("/v1/watches/{name}")) {
            (200, watch) => Some(watch).filter(|watch| watch["state"] != "gone"),
            (404, _) => None,
            (status, answer) => panic!("{status}: {answer}"),
        }
    }

    fn state(&self, name: &str) -> String {
        self.watch(name).map_or_else(|| "not watched".into(), |watch| text(&watch["state"]))
    }
}

/// What a rule freezes a container for. It ends with the container, or when that is thawed.
struct Attack(Child);

impl Attack {
    fn on(project: &str, name: &str) -> Self {
        Self::with("attack", project, name)
    }

    fn with(file: &str, project: &str, name: &str) -> Self {
        let exec = |line: &str| incus(&["exec", name, "--project", project, "--", "sh", "-c", line]);
        eventually("something can be run in it", || end(&mut exec("true")).code == 0);
        let mut exec = exec(&format!(": >/tmp/{file}"));
        Self(exec.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn payload(name: &str) -> PathBuf {
    incus::cgroups().join(format!("lxc.payload.{name}"))
}

fn is_frozen(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("frozen 1"))
}

/// LXC freezes, kills and thaws what it stops, and waits for each: whoever freezes or thaws in between must not keep it
/// waiting.
#[test]
fn a_freeze_in_the_middle_of_a_stop_keeps_nobody_waiting() {
    /// LXC has long come to the point by then.
    const AFTERWARDS: usize = 10_000;
    let bench = Bench::new("");
    let container = bench.watched();
    let name = &container.name;
    let file = |file: &str| payload(name).join(file);
    for _ in 0..3 {
        // Incus knows of this one, and thaws it itself.
        bench.coi.coi(&["freeze", name]).expect(0);
        let stop = Running::start(&mut incus(&["stop", "--force", name]));
        let mut afterwards = 0;
        while afterwards < AFTERWARDS && fs::write(file("cgroup.freeze"), "1").is_ok() {
            let events = fs::read_to_string(file("cgroup.events")).unwrap_or_default();
            afterwards += usize::from(!events.contains("populated 1"));
        }
        stop.finish().expect(0);
        container.start();
        eventually("it is watched again", || bench.state(name) == "running");
    }
}

#[test]
fn an_incus_that_hangs_delays_no_freeze() {
    let bench = Bench::new("");
    let container = bench.watched();
    let name = &container.name;
    bench.proxy.hang(true);
    let attack = Attack::on("default", name);
    eventually("it is frozen", || is_frozen(&payload(name)));
    // Others are judged, answered and recorded as ever.
    let cgroup = Cgroup::make("beside-a-hanging-incus");
    let path = cgroup.path().to_str().unwrap();
    bench.coi.coi(&["monitor", "--cgroup", path, "--respond", "--detach"]).expect(0);
    let line = format!("cd {} && : >attack; exec sleep 1000", bench.files.path().display());
    let mut shell = cgroup.command(&line).spawn().unwrap();
    eventually("it is frozen, too", || bench.state(&cgroup.name()) == "frozen");
    eventually("the freeze is recorded", || {
        let all = bench.coi.audit(name);
        of_kind(&all, "alert").any(|alert| alert["coi"]["action"]["result"] == "success")
    });
    assert_ne!(incus::status(name), "Frozen", "nobody could tell it");
    // Neither does a daemon that begins wait for it.
    bench.coi.daemon().kill();
    bench.coi.daemon().start_again();
    assert_eq!(bench.state(name), "frozen");
    assert!(is_frozen(&payload(name)));
    // As soon as it answers, it is told.
    bench.proxy.hang(false);
    eventually("Incus knows", || incus::status(name) == "Frozen");
    bench.coi.coi(&["unfreeze", name]).expect(0);
    assert_eq!((incus::status(name).as_str(), bench.state(name).as_str()), ("Running", "running"));
    drop(attack);
    fs::write(cgroup.path().join("cgroup.kill"), "1").unwrap();
    shell.wait().unwrap();
    bench.coi.coi(&["audit", "verify", name]).expect(0);
}

#[test]
fn a_kill_is_recorded_while_incus_hangs() {
    let bench = Bench::new("");
    let container = bench.watched();
    let name = &container.name;
    bench.proxy.hang(true);
    let attack = Attack::with("fatal", "default", name);
    let killed = || {
        let all = bench.coi.audit(name);
        of_kind(&all, "alert")
            .map(|alert| alert["coi"]["action"].clone())
            .find(|action| action["name"] == "kill")
    };
    eventually("the kill is recorded", || killed().is_some());
    // The proxy still hangs: what counts is that nothing runs any more.
    let action = killed().unwrap();
    assert_eq!((&action["result"], &action["settled_us"]), (&"success".into(), &Value::Null), "{action:#}");
    assert_eq!(bench.state(name), "killed");
    bench.proxy.hang(false);
    eventually("Incus knows", || incus::status(name) == "Stopped");
    drop(attack);
}

#[test]
fn an_incus_that_was_away_is_looked_at_anew() {
    let bench = Bench::new("");
    let (stays, goes, comes) = (Foreign::make(TINY), Foreign::make(TINY), Foreign::make(TINY));
    stays.start();
    for container in [&stays, &goes] {
        bench.attach(&container.name);
    }
    bench.proxy.close();
    // What is watched is watched, also when it starts again.
    stays.incus(&["restart", "--force", &stays.name]);
    let attack = Attack::on("default", &stays.name);
    eventually("it is frozen", || is_frozen(&payload(&stays.name)));
    goes.incus(&["delete", &goes.name]);
    comes.incus(&["config", "set", &comes.name, "user.coi.monitor=true"]);
    bench.proxy.reopen();
    eventually("what was deleted is not watched any more", || bench.watch(&goes.name).is_none());
    eventually("what is to be watched is", || bench.state(&comes.name) == "armed");
    eventually("Incus knows what stands still", || incus::status(&stays.name) == "Frozen");
    drop(attack);
}

#[test]
fn what_is_marked_is_watched_under_whatever_name() {
    let bench = Bench::new("");
    let mut container = Foreign::make(TINY);
    let old = container.name.clone();
    assert!(bench.watch(&old).is_none());
    container.incus(&["config", "set", &old, "user.coi.monitor=true"]);
    eventually("it is watched", || bench.state(&old) == "armed");
    container.start();
    let attack = Attack::on("default", &old);
    eventually("it is frozen", || bench.state(&old) == "frozen");
    bench.coi.coi(&["unfreeze", &old]).expect(0);
    drop(attack);
    container.incus(&["stop", "--force", &old]);
    let new = format!("{old}-new");
    container.incus(&["rename", &old, &new]);
    container.name.clone_from(&new);
    eventually("it is watched under its new name", || bench.state(&new) == "armed");
    assert!(bench.watch(&old).is_none());
    container.start();
    let attack = Attack::on("default", &new);
    eventually("it is frozen again", || bench.state(&new) == "frozen");
    // The container's log goes on where it was.
    let all = bench.coi.audit(&old);
    let frozen = of_kind(&all, "alert").filter(|alert| alert["coi"]["action"]["name"] == "freeze");
    assert_eq!(
        frozen.map(|alert| text(&alert["container"]["name"])).collect::<Vec<_>>(),
        [old.clone(), new.clone()]
    );
    bench.coi.coi(&["audit", "verify", &old]).expect(0);
    incus::delete(&new);
    eventually("it is not watched any more", || bench.watch(&new).is_none());
    drop(attack);
}

/// A project of Incus's. It goes when this does, with its one container.
struct Project(String);

impl Project {
    fn make() -> Self {
        let project = Self(format!("e2e-{}", std::process::id()));
        let features = ["-c", "features.images=false", "-c", "features.profiles=false"];
        end(&mut incus(&[&["project", "create", &project.0][..], &features].concat())).expect(0);
        project
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = end(&mut incus(&["delete", "--force", "in-project", "--project", &self.0]));
        let _ = end(&mut incus(&["project", "delete", &self.0]));
    }
}

#[test]
fn all_of_a_project_is_watched() {
    let project = Project::make();
    let Project(name) = &project;
    let bench = Bench::new(&format!("[monitor]\nprojects = [\"{name}\"]\n"));
    // One of the same name elsewhere is nobody's business.
    let profile = if end(&mut incus(&["profile", "show", "coi"])).code == 0 { "coi" } else { "default" };
    let init = ["init", TINY, "in-project", "--quiet", "--profile", profile, "--project", name];
    end(&mut incus(&init)).expect(0);
    let full = format!("{name}_in-project");
    eventually("it is watched", || bench.state(&full) == "armed");
    end(&mut incus(&["start", "in-project", "--project", name])).expect(0);
    eventually("its cgroup is found", || bench.state(&full) == "running");
    let attack = Attack::on(name, "in-project");
    eventually("it is frozen", || bench.state(&full) == "frozen");
    assert!(is_frozen(&payload(&full)));
    eventually("Incus knows", || {
        end(&mut incus(&["list", "in-project", "--project", name, "--format", "csv", "--columns", "s"]))
            .text()
            .trim()
            == "FROZEN"
    });
    bench.coi.coi(&["unfreeze", &full]).expect(0);
    assert_eq!(bench.state(&full), "running");
    drop(attack);
    drop(project);
    eventually("it is not watched any more", || bench.watch(&full).is_none());
}
