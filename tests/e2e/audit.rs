//! The audit log: complete and in order in a burst, across rotations, crashes and full disks; found out when changed; in
//! the hands of who may read it.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use coi_tests::audit::{of_kind, record, records};
use coi_tests::{Cgroup, Coi, Running, Viewer, actions, alerts, eventually, text, tripwire};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How many alerts a burst has.
const BURST: usize = 1000;

/// One alert for each file that is made; for the last one two that each ask for a freeze.
fn rules() -> String {
    let last = |id| tripwire(id, "high", r#"== "audit-last""#, "process.entity_id");
    let each = tripwire("each", "info", r#"starts_with "audit-each-""#, "file.path");
    each + &last("last") + &last("last-too")
}

/// A daemon of its own with a configuration, and a cgroup that it watches.
struct Bench {
    cgroup: Cgroup,
    coi: Coi,
    files: TempDir,
}

impl Bench {
    fn new(name: &str, config: &str) -> Self {
        let files = tempfile::Builder::new().prefix("coi-e2e-audit-").tempdir().unwrap();
        let at = |file: &str| files.path().join(file).to_str().unwrap().to_owned();
        fs::write(at("rules.toml"), rules()).unwrap();
        fs::write(at("config.toml"), format!("[audit]\n{config}\n")).unwrap();
        let coi = Coi::with_daemon(&["--rules", &at("rules.toml"), "--config", &at("config.toml")]);
        Self { cgroup: Cgroup::make(name), coi, files }
    }

    fn watch(&self) {
        let path = self.cgroup.path().to_str().unwrap();
        self.coi.coi(&["monitor", "--cgroup", path, "--respond", "--detach"]).expect(0);
    }

    fn name(&self) -> String {
        self.cgroup.name()
    }

    /// A shell in the cgroup that makes these files, one by one, and then the last one if it is to.
    fn burst(&self, from: usize, to: usize, then: &str) -> Child {
        let line = format!(
            "cd {} && for ((i = {from}; i < {to}; i++)); do : >audit-each-$i; done; {then}",
            self.files.path().display()
        );
        self.cgroup.command(&line).spawn().unwrap()
    }

    /// All records.
    fn records(&self) -> Vec<Value> {
        self.coi.audit(&self.name())
    }

    fn path(&self) -> PathBuf {
        self.coi.coi(&["audit", "path", &self.name()]).expect(0).text().trim_end().into()
    }

    fn verify(&self) -> (i32, Value) {
        let ended = self.coi.coi(&["audit", "verify", &self.name(), "--format", "json"]);
        let reports: Value = serde_json::from_slice(&ended.stdout).unwrap();
        (ended.code, reports[0].clone())
    }

    #[track_caller]
    fn assert_whole(&self) -> Value {
        let (code, report) = self.verify();
        assert_eq!(code, 0, "{report:#}");
        report
    }
}

/// A program that ends with the test, however that ends.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The files that the alerts are about, in the order of the log.
fn told(records: &[Value]) -> Vec<String> {
    alerts(records)
        .filter(|alert| alert["rule"]["id"] == "each")
        .map(|alert| text(&alert["coi"]["message"]))
        .collect()
}

/// How many alerts of a rule there are.
fn of_rule(records: &[Value], rule: &str) -> usize {
    alerts(records).filter(|alert| alert["rule"]["id"] == rule).count()
}

fn each(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("audit-each-{n}")).collect()
}

/// Asserts that the records are numbered from 1 on without a gap.
#[track_caller]
fn assert_numbered(records: &[Value]) {
    let numbers: Vec<_> =
        records.iter().map(|record| record["event"]["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=records.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_burst_is_complete_and_in_order_with_one_freeze() {
    let bench = Bench::new("burst", "max_file_size = \"64KiB\"\nmin_file_age = \"1ms\"\nheartbeat = \"1s\"");
    bench.watch();
    // Who reads along misses nothing.
    let followed = bench.files.path().join("followed");
    let mut tail = bench.coi.command(&["audit", "tail", "-f", &bench.name(), "--format", "json"]);
    let tail = Guard(tail.stdout(File::create(&followed).unwrap()).spawn().unwrap());

    let shell = bench.burst(0, BURST, ": >audit-last; exec sleep 1000");
    eventually("it is told", || {
        of_rule(&bench.records(), "last-too") == 1 && of_rule(&bench.records(), "last") == 1
    });
    let all = bench.records();
    assert_eq!(told(&all), each(0, BURST));
    // Which of the two comes first, the other finds it done.
    let froze = |records: &[Value]| -> Vec<String> {
        actions(records).into_iter().map(|(_, action, result)| format!("{action} {result}")).collect()
    };
    assert_eq!(froze(&all), ["freeze success"]);
    assert_eq!(alerts(&all).filter(|alert| alert["coi"]["severity"] == "high").count(), 2);
    assert_numbered(&all);
    let events = fs::read_to_string(bench.cgroup.path().join("cgroup.events")).unwrap();
    assert!(events.contains("frozen 1"), "{events}");
    let report = bench.assert_whole();
    assert!(
        report["files"].as_u64().unwrap() > 5 && report["checkpoints"].as_u64().unwrap() > 0,
        "{report:#}"
    );

    // A thaw is a record, with who wanted it; then it is armed again.
    bench.coi.coi(&["unfreeze", &bench.name()]).expect(0);
    let all = bench.records();
    let thaw = of_kind(&all, "action").last().unwrap();
    assert_eq!((&thaw["coi"]["action"]["name"], &thaw["user"]["id"]), (&"thaw".into(), &"0".into()));
    let again = bench.burst(0, 0, ": >audit-last; exec sleep 1000");
    eventually("it is frozen again", || froze(&bench.records()).len() == 2);
    eventually("both rules have said so", || {
        let records = bench.records();
        [of_rule(&records, "last"), of_rule(&records, "last-too")] == [2, 2]
    });
    eventually("the monitor says that it is at work", || of_kind(&bench.records(), "heartbeat").count() > 1);

    let all = bench.records();
    let last = all.last().unwrap()["event"]["sequence"].as_u64().unwrap();
    let lines = || fs::read_to_string(&followed).unwrap();
    eventually("who reads along has it all", || {
        lines().lines().last().is_some_and(|line| record(line)["event"]["sequence"].as_u64() >= Some(last))
    });
    drop(tail);
    // It may have begun later, and has what came since.
    let seen: Vec<_> = lines().lines().map(record).collect();
    let first = usize::try_from(seen[0]["event"]["sequence"].as_u64().unwrap()).unwrap();
    let wanted = &all[first - 1..];
    assert_eq!(&seen[..wanted.len()], wanted);

    // Filters and forms.
    let show = |arguments: &[&str]| {
        bench
            .coi
            .coi(&[&["audit", "show", &bench.name(), "--format", "json"][..], arguments].concat())
            .expect(0)
            .text()
    };
    assert_eq!(show(&["--severity", "high"]).lines().count(), 4);
    assert_eq!(show(&["--rule", "last"]).lines().count(), 2);
    assert_eq!(show(&["--rule", "last", "--process", "no-such-program"]), "");
    assert_eq!(show(&["--until", "2026-01-01T00:00:00Z"]), "");
    let export =
        |form: &str| bench.coi.coi(&["audit", "export", &bench.name(), "--to", form]).expect(0).text();
    let findings: Vec<Value> =
        export("ocsf").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(findings.len(), BURST + 4);
    assert!(findings.iter().all(|finding| finding["class_uid"] == 2004));
    assert!(export("csv").lines().count() > BURST && export("ecs").lines().count() > BURST);
    let text = bench.coi.coi(&["audit", "show", &bench.name(), "--record", "attach"]).expect(0).text();
    assert!(text.contains("watched from here on"), "{text}");
    fs::write(bench.cgroup.path().join("cgroup.kill"), "1").unwrap();
    for shell in [shell, again] {
        drop(Guard(shell));
    }
}

#[test]
fn any_change_is_found() {
    let bench = Bench::new("changed", "max_file_size = \"16KiB\"\nmin_file_age = \"1ms\"");
    bench.watch();
    bench.burst(0, 50, "").wait().unwrap();
    eventually("they are told", || told(&bench.records()).len() == 50);
    bench.coi.coi(&["kill", &bench.name()]);
    bench.assert_whole();
    let directory = bench.path().parent().unwrap().to_owned();
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 2);
    for file in files {
        let original = fs::read_to_string(&file).unwrap();
        // The first line of the newest, when it has been begun by a last record.
        let lines: Vec<_> = original.lines().collect();
        let at = 1.min(lines.len() - 1);
        let sequence = record(lines[at])["event"]["sequence"].as_u64().unwrap();
        let text = |lines: &[&str]| lines.iter().fold(String::new(), joined);
        let (before, after) = (&lines[..at], &lines[at + 1..]);
        let edited = text(&[before, &[&lines[at].replacen("coi", "c0i", 1)], after].concat());
        let removed = text(&[before, after].concat());
        let cut = original[..original.len() - lines.last().unwrap().len() / 2].to_owned();
        let mut changes = vec![(edited, sequence), (removed, sequence), (cut, sequence)];
        if let [first, second, rest @ ..] = &lines[..] {
            changes.push((text(&[&[*second, *first], rest].concat()), sequence - 1));
        }
        for (changed, first) in changes {
            fs::write(&file, changed).unwrap();
            let (code, report) = bench.verify();
            assert_eq!(code, 7, "{report:#}");
            assert!(report["broken"]["sequence"].as_u64().unwrap() >= first, "{report:#}");
        }
        fs::write(&file, &original).unwrap();
    }
    bench.assert_whole();
}

fn joined(text: String, line: &&str) -> String {
    text + line + "\n"
}

#[test]
fn a_daemon_that_is_killed_leaves_a_gap_that_is_told() {
    const KILLS: usize = 4;
    let bench = Bench::new("killed", "max_file_size = \"128KiB\"\nmin_file_age = \"1ms\"\nkeep_files = 1000");
    bench.watch();
    let path = bench.path();
    for round in 0..KILLS {
        let so_far = records(&path).len();
        let mut burst = bench.burst(round * BURST, (round + 1) * BURST, "");
        // In the middle of it, or when nothing is written.
        if round % 2 == 0 {
            eventually("it is being written", || records(&path).len() > so_far + 50);
        } else {
            burst.wait().unwrap();
            eventually("it is written", || {
                told(&records(&path)).ends_with(&each(round * BURST, (round + 1) * BURST))
            });
        }
        bench.coi.daemon().kill();
        burst.wait().unwrap();
        // Before anybody goes on with it.
        bench.coi.daemon().start_again();
        bench.watch();
        let report = bench.assert_whole();
        let gaps: Vec<_> =
            report["gaps"].as_array().unwrap().iter().map(|gap| text(&gap["reason"])).collect();
        // In the log's chain, and in what was looked at.
        assert_eq!(gaps, ["crashed", "unwatched"].repeat(round + 1));
    }
    let all = bench.records();
    assert_numbered(&all);
    // What was written before a kill is there, in order.
    for round in 0..KILLS {
        let of_round: Vec<_> = told(&all)
            .into_iter()
            .filter(|name| each(round * BURST, (round + 1) * BURST).contains(name))
            .collect();
        assert!(each(round * BURST, (round + 1) * BURST).starts_with(&of_round), "round {round}");
        assert!(round % 2 == 0 || of_round.len() == BURST, "round {round}: {}", of_round.len());
    }
    assert_eq!(of_kind(&all, "attach").count(), KILLS + 1);
}

/// A small file system, where the logs are.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn on(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap();
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=16m")).unwrap();
        Self(path)
    }

    /// Takes all room that there is.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let mut file = File::create(&filler).unwrap();
        // It ends with an error: there is no more room.
        std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
        filler
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap();
        let _ = fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// It is unmounted after the daemon has ended.
fn on_tmpfs(name: &str, config: &str, test: impl FnOnce(&Bench, &Tmpfs)) {
    let tmpfs;
    let bench = Bench::new(name, config);
    tmpfs = Tmpfs::on(bench.coi.daemon().logs());
    bench.watch();
    test(&bench, &tmpfs);
}

#[test]
fn a_full_disk_freezes_until_there_is_room() {
    on_tmpfs("full-freeze", "", |bench, tmpfs| {
        let viewer = Viewer::start(
            &bench.coi,
            &["monitor", "--cgroup", bench.cgroup.path().to_str().unwrap(), "--format", "json"],
        );
        let filler = tmpfs.fill();
        let mut shell = bench.burst(0, BURST, "exec sleep 1000");
        viewer.until_state("frozen");
        let events = fs::read_to_string(bench.cgroup.path().join("cgroup.events")).unwrap();
        assert!(events.contains("frozen 1"), "{events}");
        fs::remove_file(filler).unwrap();
        viewer.until_state("running");
        eventually("all is told", || told(&bench.records()) == each(0, BURST));
        let all = bench.records();
        assert_numbered(&all);
        let done: Vec<_> =
            of_kind(&all, "action").map(|action| text(&action["coi"]["action"]["name"])).collect();
        assert_eq!(done, ["freeze", "thaw"]);
        let gap = of_kind(&all, "gap").next().unwrap();
        assert_eq!(gap["coi"]["gap"]["reason"], "disk");
        assert!(text(&gap["coi"]["gap"]["error"]).contains("No space left"), "{gap}");
        bench.assert_whole();
        viewer.leave();
        shell.kill().unwrap();
        shell.wait().unwrap();
    });
}

#[test]
fn a_full_disk_is_waited_for_where_the_policy_says_so() {
    on_tmpfs("full-continue", "on_full_disk = \"continue\"", |bench, tmpfs| {
        let filler = tmpfs.fill();
        // It ends by itself: nothing freezes it.
        bench.burst(0, BURST, "").wait().unwrap();
        eventually("it is noticed", || bench.coi.daemon().log().contains("the audit log cannot be written"));
        fs::remove_file(filler).unwrap();
        eventually("all is told", || told(&bench.records()) == each(0, BURST));
        let all = bench.records();
        assert_numbered(&all);
        assert_eq!(of_kind(&all, "action").count(), 0);
        assert_eq!(of_kind(&all, "gap").count(), 1);
        bench.assert_whole();
    });
}

#[test]
fn a_log_shipper_gets_every_record_once() {
    let bench = Bench::new("rsyslog", "max_file_size = \"128KiB\"");
    bench.watch();
    let log = bench.path();
    let at = |name: &str| bench.files.path().join(name);
    fs::create_dir(at("work")).unwrap();
    // Debian's own package and module; its configuration is the test's.
    let config = format!(
        r#"global(workDirectory="{work}" maxMessageSize="256k")
        module(load="imfile")
        template(name="raw" type="string" string="%msg%\n")
        input(type="imfile" File="{log}" Tag="coi" Severity="info" Facility="local0")
        action(type="omfile" file="{out}" template="raw")
        "#,
        work = at("work").display(),
        log = log.display(),
        out = at("out").display(),
    );
    fs::write(at("rsyslog.conf"), config).unwrap();
    let rsyslogd = Command::new("rsyslogd")
        .args(["-n", "-f", at("rsyslog.conf").to_str().unwrap(), "-i", at("pid").to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(at("said")).unwrap())
        .spawn();
    let rsyslogd =
        rsyslogd.unwrap_or_else(|error| panic!("rsyslogd: {error}; install it: cargo xtask setup"));
    let mut rsyslogd = Guard(rsyslogd);
    // As many alerts as it takes to fill some files.
    let line = "for ((i = 0; ; i++)); do [ -e stop ] && exit; : >audit-each-$i; /bin/true; done";
    let mut burst =
        bench.cgroup.command(&format!("cd {} && {line}", bench.files.path().display())).spawn().unwrap();
    let files = || fs::read_dir(log.parent().unwrap()).unwrap().count();
    eventually("it is rotated", || files() > 4);
    File::create(at("stop")).unwrap();
    burst.wait().unwrap();
    let out = || fs::read_to_string(at("out")).unwrap_or_default();
    let wanted = bench.records();
    assert!(told(&wanted).len() > 100);
    eventually("all is shipped", || out().lines().count() >= wanted.len());
    kill(Pid::from_raw(rsyslogd.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    rsyslogd.0.wait().unwrap();
    let shipped: Vec<_> = out().lines().map(record).collect();
    let numbers = |records: &[Value]| -> Vec<_> {
        records.iter().map(|record| record["event"]["sequence"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(&shipped)[..wanted.len()], numbers(&wanted));
    assert_eq!(shipped[..wanted.len()], wanted);
    bench.assert_whole();
}

#[test]
fn the_log_of_what_is_watched_no_longer_goes_when_it_is_old() {
    let bench = Bench::new("retired", "keep_age = \"3s\"");
    bench.watch();
    bench.burst(0, 3, "").wait().unwrap();
    eventually("it is told", || told(&bench.records()) == each(0, 3));
    let (path, beside) = (bench.path(), Cgroup::make("beside-a-retired"));
    let watched = ["monitor", "--cgroup", beside.path().to_str().unwrap(), "--detach"];
    bench.coi.coi(&watched).expect(0);
    bench.coi.coi(&["daemon", "stop"]).expect(0);
    bench.coi.daemon().assert_ends();
    bench.assert_whole();
    bench.coi.daemon().start_again();
    bench.coi.coi(&watched).expect(0);
    eventually("its files are gone", || !path.exists());
    // It was removed in order, and that is known as long again. What is watched stays, however old.
    assert!(!bench.coi.coi(&["audit", "path", &beside.name()]).expect(0).text().is_empty());
    bench.coi.coi(&["audit", "verify"]).expect(0);
    let heads = bench.coi.daemon().logs().parent().unwrap().join("state/audit/heads/0");
    let stem = path.file_stem().unwrap().to_str().unwrap();
    eventually("the note is gone", || !heads.join(format!("{stem}.json")).exists());
}

/// Reads a file with the rights of a user.
fn read_as(uid: u32, path: &Path) -> bool {
    let mut cat = Command::new("cat");
    cat.arg(path).uid(uid).gid(uid).stdout(Stdio::null()).stderr(Stdio::null());
    cat.status().unwrap().success()
}

#[test]
fn it_is_read_by_its_owner_and_linked_by_nobody_else() {
    // Debian has them everywhere: `daemon`, whose home is root's, and `bin`.
    const OWNER: u32 = 1;
    const OTHER: u32 = 2;
    let bench = Bench::new("owner", "events = [\"exec\"]");
    let outside = bench.coi.daemon().logs().parent().unwrap().to_owned();
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o755)).unwrap();
    let path = bench.cgroup.path().to_str().unwrap();
    let mut monitor = bench.coi.command(&["monitor", "--cgroup", path, "--respond", "--detach"]);
    monitor.env("SUDO_UID", OWNER.to_string());
    // What the user may not do is not done, whoever root is.
    let ended = Running::start(&mut monitor).finish().expect(0).says("no link to the audit log was made");
    assert!(ended.stderr.contains("Permission denied"), "{}", ended.stderr);
    assert!(!bench.coi.home().join(".coi").exists());

    let log = bench.path();
    assert_eq!(log.parent().unwrap().file_name().unwrap(), OWNER.to_string().as_str());
    let metadata = fs::metadata(&log).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (0, 0o640));
    assert!(read_as(OWNER, &log) && !read_as(OTHER, &log));
    let head = fs::read_dir(outside.join("state/audit/heads/1")).unwrap().next().unwrap().unwrap().path();
    assert!(read_as(OWNER, &head) && !read_as(OTHER, &head));
    assert!(!read_as(OWNER, &outside.join("state/audit/checkpoint.key")));
    assert!(read_as(OTHER, &outside.join("state/audit/checkpoint.pub")));

    // Asked for by root itself, the link is in root's home; the log stays whose it is.
    bench.watch();
    let link = bench.coi.home().join(format!(".coi/audit/{}.jsonl", bench.name()));
    assert_eq!(fs::read_link(&link).unwrap(), log);
    assert_eq!(bench.path(), log);

    // What the configuration asks for is written down, without what is secret.
    let line = "/bin/echo --password hunter2 done; TOKEN=hunter2 /bin/sh -c 'curl -H \"Authorization: Bearer hunter2\" x'";
    bench.cgroup.command(line).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let echoed = |records: &[Value]| {
        of_kind(records, "event")
            .any(|event| event["process"]["command_line"] == "/bin/echo --password [redacted] done")
    };
    eventually("the exec is told", || echoed(&bench.records()));
    assert!(!fs::read_to_string(log).unwrap().contains("hunter2"));
}
