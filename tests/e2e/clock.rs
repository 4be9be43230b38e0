//! The machine's clock is set, forward and back by hours, while alerts come: what is kept is kept, what counts time counts
//! the time that has passed, and the log is whole.
//!
//! The daemon runs under faketime, whose file says how far its clock is off; the kernel's own clocks are what they are.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use coi_tests::audit::{of_kind, record};
use coi_tests::{Cgroup, Coi, alerts, eventually, text};
use serde_json::Value;
use tempfile::TempDir;

const RULES: &str = r#"
    [[rule]]
    id = "each"
    title = "A file"
    description = "Made by the test."
    severity = "info"
    attack = ["T1059"]
    event = "open"
    condition = 'file.name starts_with "clock-"'
    message = "{file.name}"
    suppress = { for = "1h", by = ["file.path"] }
"#;

/// How often the monitor says that it is at work, and a file is rotated by its size; a file may not become old by a clock
/// that was set.
const CONFIG: &str = r#"
    [audit]
    heartbeat = "1s"
    checkpoint_interval = "1s"
    max_file_size = "16KiB"
    min_file_age = "1ms"
    max_file_age = "1h"
    keep_age = "2h"
"#;

/// A daemon with a clock of its own, and a cgroup that it watches.
struct Bench {
    cgroup: Cgroup,
    coi: Coi,
    files: TempDir,
}

impl Bench {
    fn new(name: &str) -> Self {
        let files = tempfile::Builder::new().prefix("coi-e2e-clock-").tempdir().unwrap();
        let at = |file: &str| files.path().join(file).to_str().unwrap().to_owned();
        fs::write(at("rules.toml"), RULES).unwrap();
        fs::write(at("config.toml"), CONFIG).unwrap();
        fs::write(at("clock"), "+0\n").unwrap();
        let launcher = format!(
            "env LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1",
            library().display(),
            at("clock")
        );
        let arguments = ["--rules", &at("rules.toml"), "--config", &at("config.toml")];
        let coi = Coi::with_daemon_by(&launcher, &arguments);
        let bench = Self { cgroup: Cgroup::make(name), coi, files };
        let path = bench.cgroup.path().to_str().unwrap();
        let how = ["--respond", "--on-monitor-loss", "freeze", "--detach"];
        bench.coi.coi(&[&["monitor", "--cgroup", path][..], &how].concat()).expect(0);
        bench
    }

    /// The daemon's clock is so far off from now on.
    fn set(&self, hours: i32) {
        let new = self.files.path().join("clock.new");
        fs::write(&new, format!("{hours:+}h\n")).unwrap();
        // Whoever reads it reads the one or the other.
        fs::rename(new, self.files.path().join("clock")).unwrap();
    }

    fn name(&self) -> String {
        self.cgroup.name()
    }

    fn shell(&self, line: &str) -> Child {
        let line = format!("cd {} && {line}", self.files.path().display());
        self.cgroup.command(&line).spawn().unwrap()
    }

    /// Makes these files, one by one.
    fn make(&self, files: std::ops::Range<usize>) {
        let line = format!("for ((i = {}; i < {}; i++)); do : >clock-$i; done", files.start, files.end);
        self.shell(&line).wait().unwrap();
    }

    fn records(&self) -> Vec<Value> {
        self.coi.audit(&self.name())
    }

    /// Waits until so many heartbeats more are told.
    fn beats(&self, more: usize) {
        let count = || of_kind(&self.records(), "heartbeat").count();
        let so_far = count();
        eventually("the monitor says that it is at work", || count() >= so_far + more);
    }

    #[track_caller]
    fn assert_whole(&self) -> Value {
        let ended = self.coi.coi(&["audit", "verify", &self.name(), "--format", "json"]).expect(0);
        let reports: Value = serde_json::from_slice(&ended.stdout).unwrap();
        reports[0].clone()
    }
}

/// Debian's, whatever the machine is.
fn library() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut libraries = directories.map(|directory| directory.join("faketime/libfaketimeMT.so.1"));
    libraries
        .find(|library| library.exists())
        .unwrap_or_else(|| panic!("no faketime; install it: cargo xtask setup"))
}

fn told(records: &[Value]) -> Vec<String> {
    alerts(records).map(|alert| text(&alert["coi"]["message"])).collect()
}

fn each(to: usize) -> Vec<String> {
    (0..to).map(|n| format!("clock-{n}")).collect()
}

/// A program that ends with the test, however that ends.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_clock_that_is_set_changes_no_record_and_no_limit() {
    const STEPS: [i32; 5] = [0, 6, -6, 30, 0];
    const FILES: usize = 40;
    let bench = Bench::new("stepped");
    let followed = bench.files.path().join("followed");
    let mut tail = bench.coi.command(&["audit", "tail", "-f", &bench.name(), "--format", "json"]);
    let tail = Ends(tail.stdout(File::create(&followed).unwrap()).stderr(Stdio::null()).spawn().unwrap());
    for (at, hours) in STEPS.into_iter().enumerate() {
        bench.set(hours);
        bench.make(at * FILES..(at + 1) * FILES);
        // Nothing is told twice within the hour, of which none has passed.
        bench.make(0..FILES);
        bench.beats(2);
    }
    let wanted = each(STEPS.len() * FILES);
    eventually("all is told", || told(&bench.records()).len() >= wanted.len());
    let all = bench.records();
    assert_eq!(told(&all), wanted, "each once, in order");
    let numbers: Vec<_> = all.iter().map(|record| record["event"]["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=all.len() as u64).collect::<Vec<_>>());
    let clocks: Vec<_> = alerts(&all).map(|alert| alert["coi"]["clock"].as_u64().unwrap()).collect();
    assert!(clocks.is_sorted(), "the kernel's clock is nobody's to set");
    // The daemon did live by that clock.
    let hour = |record: &Value| text(&record["@timestamp"])[..13].to_owned();
    let mut hours: Vec<_> = alerts(&all).map(hour).collect();
    hours.dedup();
    assert!(hours.len() >= STEPS.len() && !hours.is_sorted(), "{hours:?}");
    // By that clock all files were older than two hours at times; by any other none was.
    let report = bench.assert_whole();
    assert_eq!(report["first"], 1, "{report:#}");
    assert!(
        report["files"].as_u64().unwrap() > 3 && report["checkpoints"].as_u64().unwrap() > 3,
        "{report:#}"
    );
    assert_eq!(report["gaps"], Value::Array(Vec::new()));
    // Files are rotated by their size alone.
    let shown = bench.coi.coi(&["audit", "show", &bench.name(), "--format", "json"]).expect(0).text();
    assert!(shown.lines().count() >= all.len());
    let last = all.last().unwrap()["event"]["sequence"].as_u64().unwrap();
    let lines = || fs::read_to_string(&followed).unwrap();
    eventually("who reads along has it all", || {
        lines().lines().last().is_some_and(|line| record(line)["event"]["sequence"].as_u64() >= Some(last))
    });
    drop(tail);
    let seen: Vec<_> =
        lines().lines().map(|line| record(line)["event"]["sequence"].as_u64().unwrap()).collect();
    assert_eq!(seen, (seen[0]..seen[0] + seen.len() as u64).collect::<Vec<_>>());
}

#[test]
fn an_absence_has_a_beginning_and_an_end_whatever_the_clock_says() {
    let bench = Bench::new("stepped-absence");
    let mut shell = bench.shell("exec sleep 1000");
    let is_frozen =
        || fs::read_to_string(bench.cgroup.path().join("cgroup.events")).unwrap().contains("frozen 1");
    bench.set(6);
    bench.beats(1);
    bench.coi.daemon().kill();
    eventually("it is frozen", is_frozen);
    // The clock was wrong, and is set back.
    bench.set(-6);
    bench.coi.daemon().start_again();
    assert!(!is_frozen());
    eventually("it is told", || of_kind(&bench.records(), "action").count() == 2);
    let all = bench.records();
    let gap = of_kind(&all, "gap").find(|gap| gap["coi"]["gap"]["reason"] == "unwatched").unwrap();
    let (since, until) = (&gap["coi"]["gap"]["since"], &gap["coi"]["gap"]["until"]);
    assert!(text(since) < text(until), "{gap:#}");
    assert!(text(until) <= text(&gap["@timestamp"]), "{gap:#}");
    bench.beats(1);
    bench.assert_whole();
    // Of two logs of one name the one that was written last is meant, whatever its file's time.
    let (id, path) = (all[0]["container"]["id"].as_str().unwrap().to_owned(), bench.coi.daemon().logs());
    let path = path.join(format!("0/{}.{id}.jsonl", bench.name()));
    let older = path.with_file_name(format!("{}.1.jsonl", bench.name()));
    fs::write(&older, "").unwrap();
    File::open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    File::open(&older)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1))
        .unwrap();
    let said = bench.coi.coi(&["audit", "path", &bench.name()]).expect(0).text();
    assert_eq!(said.trim_end(), path.to_str().unwrap());
    fs::remove_file(older).unwrap();
    fs::write(bench.cgroup.path().join("cgroup.kill"), "1").unwrap();
    shell.wait().unwrap();
}
