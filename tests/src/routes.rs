//! Routes, taken in a container, and what was seen of them.

use std::fs;

use serde_json::Value;

use crate::incus::{Foreign, incus};
use crate::{Coi, Ended, Gate, Running, TINY, Viewer, alerts, copy_program, end, text};

/// The program that takes them, which runs anywhere.
pub const PROGRAM: &str = env!("COI_ROUTES");

/// The error number of an entry that is closed.
const ENOSYS: i64 = 38;

/// An address of the container's own that is not loopback.
const ADDRESS: &str = "198.51.100.7";

/// Tests of what was seen in a container of COI's and in a foreign one: has the routes taken once in each, and hands
/// what was seen to each of a module's functions.
#[macro_export]
macro_rules! in_containers {
    ($take:expr, $module:ident: $($test:ident)*) => {
        $crate::in_containers! { @one in_a_container_of_coi, Coi, $take, $module: $($test)* }
        $crate::in_containers! { @one in_a_foreign_container, Foreign, $take, $module: $($test)* }
    };
    (@one $container:ident, $owner:ident, $take:expr, $module:ident: $($test:ident)*) => {
        mod $container {
            use std::sync::LazyLock;
            use coi_tests::routes::{Owner, Taken};

            static TAKEN: LazyLock<Taken> = LazyLock::new(|| $take(Owner::$owner));

            $(
                #[test]
                fn $test() {
                    super::$module::$test(&TAKEN);
                }
            )*
        }
    };
}

/// Whose container it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// COI launched it.
    Coi,
    /// Somebody else did, and COI was attached to it.
    Foreign,
}

/// What was really done, and all that was told.
#[derive(Debug)]
pub struct Taken {
    owner: Owner,
    reports: Vec<Value>,
    events: Vec<Value>,
    audit: Vec<Value>,
}

/// One route: what was really done.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    taken: &'a Taken,
    /// The program's own report.
    pub report: &'a Value,
}

impl Taken {
    /// Boots a container, looks on, and takes these routes one after the other, as root.
    pub fn take(owner: Owner, routes: &[&str]) -> Self {
        Self::take_with(owner, routes, &[], "")
    }

    /// The same with a daemon on a kernel that has nothing of these names, and that has more rules.
    pub fn take_with(owner: Owner, routes: &[&str], missing: &[&str], rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [config, more] = ["config.toml", "rules"].map(|name| dir.path().join(name));
        fs::write(&config, harmless()).unwrap();
        fs::create_dir(&more).unwrap();
        fs::write(more.join("more.toml"), rules).unwrap();
        let arguments = ["--config", config.to_str().unwrap(), "--rules", more.to_str().unwrap()];
        let coi = Coi::without(missing, &arguments);
        std::os::unix::fs::chown(coi.workspace(), Some(0), Some(0)).unwrap();
        copy_program(PROGRAM, coi.workspace().join("routes"));
        coi.write("list", routes.join("\n"));
        let script = format!(
            "ip addr add {ADDRESS}/32 dev lo; for route in $(cat list); do ./routes $route {ADDRESS} || exit; done"
        );
        let (said, events, audit) = match owner {
            Owner::Coi => launched(&coi, &script),
            Owner::Foreign => attached(&coi, &script),
        };
        let said = said.expect(0).text();
        let reports: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let taken: Vec<_> = reports.iter().map(|report| text(&report["route"])).collect();
        assert_eq!(taken, routes, "not all of the routes were taken");
        Self { owner, reports, events, audit }
    }

    /// A route that was taken.
    #[track_caller]
    pub fn route(&self, name: &str) -> Route<'_> {
        let report = self.reports.iter().find(|report| report["route"] == name);
        Route { taken: self, report: report.unwrap_or_else(|| panic!("{name} was not taken")) }
    }

    /// Whose container it was.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// All events of a kind, as a viewer is told them.
    pub fn events(&self, action: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| is_event(event) && event["event"]["action"] == action)
    }

    /// How many events of a kind may be missing at most: those that are known to have been lost, and the lines that
    /// the viewer was too slow for.
    pub fn missing(&self, action: &str) -> u64 {
        let losses = self.events("loss").filter(|event| event["coi"]["loss"]["kind"] == action);
        let lost = losses.filter_map(|event| event["coi"]["loss"]["count"].as_u64());
        let states = self.events.iter().filter(|event| event["coi"]["record"] == "state");
        let missed = states.filter_map(|event| {
            let (_, count) = event["coi"]["message"].as_str()?.split_once(" has missed ")?;
            count.split(' ').next()?.parse::<u64>().ok()
        });
        lost.chain(missed).sum()
    }

    /// The alerts of a rule, from the audit log.
    pub fn alerts(&self, rule: &str) -> impl Iterator<Item = &Value> {
        alerts(&self.audit).filter(move |alert| alert["rule"]["id"] == rule)
    }

    /// All that a viewer was told.
    pub fn told(&self) -> &[Value] {
        &self.events
    }

    /// The coverage reports in the audit log.
    pub fn recorded_coverage(&self) -> Vec<&Value> {
        self.audit.iter().filter(|record| is_coverage(record)).collect()
    }

    /// The routes of which the coverage report says that they are not seen.
    pub fn holes(&self) -> Vec<&str> {
        let reports = self.events.iter().filter(|event| is_coverage(event));
        let holes = reports.filter_map(|report| report["coi"]["holes"].as_array()).flatten();
        holes.filter_map(|hole| hole["routes"].as_array()).flatten().filter_map(Value::as_str).collect()
    }
}

/// Is it a coverage report?
pub fn is_coverage(event: &Value) -> bool {
    event["coi"]["record"] == "coverage"
}

/// Is it an event, and not what the audit log makes of it?
fn is_event(event: &Value) -> bool {
    event["coi"]["record"] == "event" && event["event"]["sequence"].is_null()
}

impl<'a> Route<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.report["route"].as_str().unwrap()
    }

    /// A fact of the report.
    pub fn fact(&self, key: &str) -> &'a Value {
        &self.report[key]
    }

    /// Did the kernel refuse the entry itself?
    pub fn is_closed(&self) -> bool {
        self.report["errno"] == ENOSYS
    }

    /// Does the coverage report say that it is not seen?
    pub fn is_hole(&self) -> bool {
        self.taken.holes().contains(&self.name())
    }

    /// The events that the route's own process stands behind.
    pub fn all_events(&self) -> impl Iterator<Item = &'a Value> {
        let Self { taken, report } = *self;
        taken.events.iter().filter(move |event| {
            let process = &event["process"];
            let arguments = process["args"].as_array().map_or(&[][..], Vec::as_slice);
            // Process 0 is one that nobody could tell the number of.
            is_event(event)
                && (report["pid"] == 0 || process["vpid"] == report["pid"])
                && arguments.contains(&report["route"])
        })
    }

    /// Those of one kind.
    pub fn events(&self, action: &str) -> impl Iterator<Item = &'a Value> {
        self.all_events().filter(move |event| event["event"]["action"] == action)
    }
}

/// `coi run`.
fn launched(coi: &Coi, script: &str) -> (Ended, Vec<Value>, Vec<Value>) {
    let (go, done) = (Gate::new(coi, "go"), Gate::new(coi, "done"));
    let script = format!("read x <go; {{ {script}; }}; code=$?; read x <done; exit $code");
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", &script]);
    let go = go.reached();
    let viewer = Viewer::attach(coi, &coi.container());
    go.open();
    let (events, ended) = collect(&viewer, "gone", move || {
        done.reached().open();
        run.finish()
    });
    (ended, events, coi.audit(&coi.container()))
}

/// `coi monitor --attach`.
fn attached(coi: &Coi, script: &str) -> (Ended, Vec<Value>, Vec<Value>) {
    let container = Foreign::make(TINY);
    let name = container.name.as_str();
    let source = format!("source={}", coi.workspace().display());
    container.incus(&[
        "config",
        "device",
        "add",
        name,
        "workspace",
        "disk",
        &source,
        "path=/workspace",
        "shift=true",
    ]);
    container.start();
    let viewer = Viewer::attach(coi, name);
    let words = ["exec", name, "--cwd", "/workspace", "--", "sh", "-c", script];
    let run = Running::start(&mut incus(&words));
    let (events, ended) = collect(&viewer, "armed", || {
        let ended = run.finish();
        // What has not been told before is told when the last process is gone.
        container.incus(&["stop", "--force", name]);
        ended
    });
    viewer.leave().expect(0);
    (ended, events, coi.audit(name))
}

/// All events up to a state of the watch, while something else goes on.
fn collect(viewer: &Viewer, state: &str, run: impl FnOnce() -> Ended + Send) -> (Vec<Value>, Ended) {
    std::thread::scope(|scope| {
        let ended = scope.spawn(run);
        (viewer.until_state(state), ended.join().unwrap())
    })
}

/// A configuration under which every rule is applied and none stops anything.
fn harmless() -> String {
    let list = end(std::process::Command::new(crate::program()).args(["rules", "list", "--format", "json"]));
    let rules: Vec<Value> = serde_json::from_slice(&list.expect(0).stdout).unwrap();
    let ids = rules.iter().map(|rule| text(&rule["id"]));
    ids.map(|id| format!("[rules.{id}]\nseverity = \"info\"\n")).collect()
}
