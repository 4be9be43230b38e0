//! The life of a container: slots, what is left of a launch that was interrupted, ends, and the commands for all of it.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use coi_tests::incus::{self, Foreign, exec};
use coi_tests::{Coi, Ended, Gate, Proxy, Reached, Running, SMALL, TINY, Turnstile, end, eventually};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// What `coi ARGUMENTS --format json` prints.
#[track_caller]
fn json(coi: &Coi, arguments: &[&str]) -> Value {
    let ended = coi.coi(&[arguments, &["--format", "json"]].concat()).expect(0);
    serde_json::from_slice(&ended.stdout).unwrap()
}

/// The row of a container in `coi list`.
#[track_caller]
fn row(coi: &Coi, name: &str) -> Value {
    let list = json(coi, &["list"]);
    list.as_array().unwrap().iter().find(|row| row["name"] == name).cloned().unwrap_or_default()
}

/// Starts a session without a terminal; gives the container's name.
#[track_caller]
fn background(coi: &Coi, arguments: &[&str]) -> String {
    let shell = ["shell", "--background", "--tool", "bash", "--image", SMALL];
    let ended = coi.coi(&[&shell[..], arguments].concat()).expect(0);
    ended.text().trim().to_owned()
}

/// Ends the session's shell. One that has not shown its prompt yet throws away what is typed.
#[track_caller]
fn leave(coi: &Coi, name: &str) {
    eventually("there is a prompt", || coi.coi(&["tmux", "capture", name]).text().contains("code@"));
    coi.coi(&["tmux", "send", name, "exit"]).expect(0);
}

#[test]
fn ten_at_once_take_ten_slots() {
    let coi = Coi::new();
    let gates: Vec<_> = (0..10).map(|n| Gate::new(&coi, &format!("gate{n}"))).collect();
    let runs: Vec<_> = (0..10)
        .map(|n| {
            let script = format!("hostname; read x <gate{n}");
            coi.start(&["run", "--image", TINY, "--", "sh", "-c", &script])
        })
        .collect();
    let gates: Vec<_> = gates.into_iter().map(Gate::reached).collect();
    assert_eq!(incus::of_workspace(coi.workspace()).len(), 10);
    coi.run(TINY, &["true"]).expect(1).says("all 10 containers");
    coi.coi(&["run", "--slot", "3", "--image", TINY, "true"]).expect(1).says("slot 3 is taken by");
    gates.into_iter().for_each(Reached::open);
    let names: BTreeSet<_> = runs.into_iter().map(|run| run.finish().expect(0).text()).collect();
    let stem = coi.container().trim_end_matches('1').to_owned();
    assert_eq!(names, (1..=10).map(|slot| format!("{stem}{slot}\n")).collect());
    assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());
}

#[test]
fn a_slot_may_be_named() {
    let coi = Coi::new();
    let name = coi.container();
    let text = coi.coi(&["run", "--slot", "7", "--image", TINY, "hostname"]).expect(0).text();
    assert_eq!(text, format!("{}7\n", name.trim_end_matches('1')));
    coi.coi(&["run", "--slot", "11", "--image", TINY, "true"]).expect(2);
}

/// Where a launch is interrupted, by the request to Incus that has just been sent.
fn stages(name: &str) -> [(&'static str, String, usize); 5] {
    [
        ("created", format!("GET /1.0/instances/{name} "), 0),
        ("armed", format!("PUT /1.0/instances/{name}/state "), 0),
        // The first is waited for while it is made.
        ("starting", "GET /1.0/operations/".to_owned(), 1),
        ("probing", format!("POST /1.0/instances/{name}/exec "), 0),
        ("preparing", format!("GET /1.0/instances/{name}/sftp "), 0),
    ]
}

/// Interrupts a launch at each stage; `then` says what must be so.
fn at_each_stage(signal: Signal, then: impl Fn(&Coi, &str, &str, Running)) {
    let coi = Coi::new();
    let name = coi.container();
    for (stage, begins, pass) in stages(&name) {
        let turnstile = Turnstile::before(&begins, pass);
        let mut command = coi.command(&["shell", "--background", "--tool", "bash", "--image", SMALL]);
        let launch = Running::start(command.env("INCUS_SOCKET", turnstile.socket()));
        turnstile.reached();
        assert!(incus::instance(&name).is_some(), "{stage}: nothing is there yet");
        launch.signal(signal);
        turnstile.open();
        then(&coi, stage, &name, launch);
        assert_eq!(incus::instance(&name), None, "{stage}: it is left");
    }
    // What was made for a container that nobody has claimed since stays for a minute.
    eventually("its mounts are gone", || incus::mount_of(&name, coi.workspace()).is_none());
}

#[test]
fn interrupted_at_any_stage_nothing_is_left() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        at_each_stage(signal, |coi, stage, name, launch| {
            let ended = launch.finish();
            // What comes when all is ready ends no session: it goes on, as when a terminal is closed.
            if stage == "preparing" && ended.code == 0 {
                coi.coi(&["kill", name]).expect(0);
            } else {
                assert_eq!(ended.code, code, "{stage}: {}", ended.stderr);
            }
        });
    }
}

#[test]
fn killed_at_any_stage_what_is_left_is_found() {
    at_each_stage(Signal::SIGKILL, |coi, stage, name, launch| {
        assert_eq!(launch.finish().code, 137, "{stage}");
        // What Incus was asked to do it does.
        eventually("the container stands still", || {
            matches!(incus::status(name).as_str(), "Stopped" | "Running")
        });
        let clean = ["clean", "--orphans", "--workspace", "."];
        let listed = coi.coi(&[&clean[..], &["--dry-run"]].concat()).expect(0).text();
        assert!(listed.starts_with(&format!("container {name} of ")), "{stage}: {listed}");
        assert!(incus::instance(name).is_some(), "{stage}: a dry run removes nothing");
        coi.coi(&clean).expect(2).says("say --force");
        coi.coi(&[&clean[..], &["--force"]].concat()).expect(0).says(&format!("{name} is gone"));
        coi.coi(&clean).expect(0).says("nothing to be removed");
    });
}

#[test]
fn a_command_whose_launcher_was_killed_is_found() {
    let coi = Coi::new();
    let name = coi.container();
    let gate = Gate::new(&coi, "gate");
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", "read x <gate; sleep 1000"]);
    gate.reached().open();
    let clean = ["clean", "--orphans", "--workspace", ".", "--force"];
    coi.coi(&clean).expect(0).says("nothing to be removed");
    run.signal(Signal::SIGKILL);
    run.finish().expect(137);
    assert_eq!(row(&coi, &name)["watched"], true);
    coi.coi(&clean).expect(0).says(&format!("{name} is gone"));
    assert_eq!(incus::instance(&name), None);
}

#[test]
fn a_session_in_the_background() {
    let coi = Coi::new();
    let began = coi.coi(&["shell", "--background", "--tool", "bash", "--image", SMALL]).expect(0);
    let name = began.text().trim().to_owned();
    assert_eq!(name, coi.container());
    let listed = row(&coi, &name);
    let wanted = json!({
        "kind": "container", "status": "running", "watched": true, "network_cut": false, "slot": 1,
        "tool": "bash", "ephemeral": true,
    });
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&listed[key], value, "{key}: {listed}");
    }
    coi.coi(&["info", &name]).expect(0);
    assert_eq!(json(&coi, &["info", &name])["name"], name.as_str());
    let sessions = json(&coi, &["tmux", "list"]);
    assert!(sessions.as_array().unwrap().iter().any(|session| session["name"] == name.as_str()));

    coi.coi(&["tmux", "send", &name, "here=$((20+22)); echo \"here\"=$here $PWD"]).expect(0);
    eventually("the line was read", || {
        coi.coi(&["tmux", "capture", &name]).expect(0).text().contains("here=42 /workspace")
    });
    // What would steer a terminal is not passed on.
    coi.coi(&["tmux", "send", &name, "printf 'a\\033]0;b\\007c\\n'; echo \"d\"one"]).expect(0);
    eventually("the line was printed", || {
        let lines = json(&coi, &["tmux", "capture", &name]);
        lines["lines"].as_array().unwrap().iter().any(|line| line == "done")
    });
    let ended = coi.coi(&["tmux", "capture", "--workspace", "."]).expect(0);
    assert!(!ended.stdout.contains(&0x1b));
    coi.coi(&["tmux", "send", &name, "--no-enter", "half"]).expect(0);
    coi.coi(&["tmux", "send", &name, "--keys", "C-c"]).expect(0);

    // It is not left over: a session goes on.
    coi.coi(&["clean", "--workspace", ".", "--force"]).expect(0).says("nothing to be removed");
    // A second one takes the next slot.
    let second = background(&coi, &["--slot", "2"]);
    coi.coi(&["tmux", "capture"]).expect(2).says("has several containers");
    coi.coi(&["shutdown", &second, "--timeout", "5"])
        .expect(0)
        .says(&format!("{second} is shut down, and gone"));
    coi.coi(&["kill", &name]).expect(0).says(&format!("{name} is gone"));
    coi.coi(&["tmux", "send", &name, "x"]).expect(5);
    coi.coi(&["info", &name]).expect(5);
}

/// The list was none at all when one container, of another workspace even, could not be asked: while it starts or ends
/// Incus refuses for a moment.
#[test]
fn sessions_are_listed_beside_a_container_that_cannot_be_asked() {
    let coi = Coi::new();
    let (works, silent) = (background(&coi, &[]), background(&coi, &["--slot", "2"]));
    let incus = Proxy::start();
    let list = || {
        let mut list = coi.command(&["tmux", "list", "--format", "json"]);
        list.env("INCUS_SOCKET", incus.socket());
        list
    };
    let listed = |ended: &Ended, name: &str| {
        let rows: Value = serde_json::from_slice(&ended.stdout).unwrap();
        rows.as_array().unwrap().iter().any(|row| row["name"] == name)
    };
    let both = end(&mut list()).expect(0);
    assert!(listed(&both, &works) && listed(&both, &silent));

    incus.refuse(format!("POST /1.0/instances/{silent}/exec"));
    let one = end(&mut list()).expect(1).says(&format!("Incus could not run tmux in {silent}: "));
    assert!(listed(&one, &works) && !listed(&one, &silent));
    // One that ends meanwhile has no session, and that is no failure.
    incus.refuse(format!("POST /1.0/instances/{silent}/exec"));
    let ends = Running::start(&mut list());
    incus.until_refused();
    coi.coi(&["kill", &silent]).expect(0);
    let one = ends.finish().expect(0);
    assert!(listed(&one, &works) && !listed(&one, &silent));
    coi.coi(&["kill", &works]).expect(0);
}

#[test]
fn when_the_session_is_over_the_container_goes_without_anybody_there() {
    let coi = Coi::new();
    let name = background(&coi, &[]);
    leave(&coi, &name);
    eventually("it has ended", || incus::instance(&name).is_none());
}

#[test]
fn whoever_switches_it_off_inside_ends_it() {
    let coi = Coi::new();
    let name = background(&coi, &[]);
    end(&mut incus::incus(&["exec", &name, "--", "poweroff"]));
    eventually("it has ended", || incus::instance(&name).is_none());
    let notes: Vec<_> = coi.audit(&name);
    assert!(notes.iter().any(|record| record["coi"]["state"] == "gone"), "{notes:?}");
}

#[test]
fn one_that_is_kept_is_started_again() {
    let coi = Coi::new();
    let name = background(&coi, &["--persistent"]);
    assert_eq!(row(&coi, &name)["ephemeral"], false);
    end(&mut exec(&name, "/", &["sh", "-c", "echo kept >/tmp/../home/code/kept"])).expect(0);
    coi.coi(&["shutdown", &name]).expect(0).says(&format!("{name} is stopped, and kept"));
    assert_eq!(incus::status(&name), "Stopped");
    assert_eq!(row(&coi, &name)["watched"], true);
    // Nobody takes what is kept for something left over.
    coi.coi(&["clean", "--workspace", ".", "--force"]).expect(0).says("nothing to be removed");
    coi.coi(&["tmux", "capture", &name]).expect(1).says("`coi shell` starts it again");

    assert_eq!(background(&coi, &[]), name);
    assert_eq!(end(&mut exec(&name, "/", &["cat", "/home/code/kept"])).expect(0).text(), "kept\n");
    assert_eq!(row(&coi, &name)["watched"], true);
    coi.coi(&["shell", "--background", "--tool", "bash", "--slot", "1"]).expect(1).says("slot 1 is taken by");
    // The exit of its session stops it, and it stays.
    leave(&coi, &name);
    eventually("it has stopped", || incus::status(&name) == "Stopped");
    coi.coi(&["kill", &name]).expect(0);
    assert_eq!(incus::instance(&name), None);
}

/// Its workspace is there only when `coi` starts it.
#[test]
fn started_otherwise_it_stands_still() {
    let coi = Coi::new();
    let name = background(&coi, &["--persistent"]);
    let stands = || {
        eventually("it stands still", || row(&coi, &name)["status"] == "frozen");
        let records = coi.audit(&name);
        let why = records.iter().filter_map(|record| record["coi"]["message"].as_str());
        assert!(
            why.clone().any(|why| why.contains("started without `coi`")),
            "{:?}",
            why.collect::<Vec<_>>()
        );
    };
    end(&mut incus::incus(&["exec", &name, "--", "reboot"]));
    stands();
    coi.coi(&["shutdown", &name]).expect(0).says("is stopped, and kept");
    end(&mut incus::incus(&["start", &name])).expect(0);
    stands();
    coi.coi(&["kill", &name]).expect(0);
}

#[test]
fn one_that_was_to_go_may_be_kept() {
    let coi = Coi::new();
    let name = background(&coi, &[]);
    coi.coi(&["persist", &name]).expect(0).says(&format!("{name} stays when it stops"));
    assert_eq!(row(&coi, &name)["ephemeral"], false);
    coi.coi(&["shutdown", &name]).expect(0).says("is stopped, and kept");
    coi.coi(&["kill", &name]).expect(0);
    // So may what `coi run` has made, which Incus would delete otherwise.
    let gate = Gate::new(&coi, "gate");
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", "read x <gate"]);
    let gate = gate.reached();
    coi.coi(&["persist", &name]).expect(0);
    gate.open();
    run.finish().expect(0);
    assert_eq!(incus::status(&name), "Stopped");
    coi.coi(&["kill", &name]).expect(0);
}

#[test]
fn all_are_asked_about() {
    let coi = Coi::new();
    let name = background(&coi, &[]);
    for command in ["shutdown", "kill", "persist"] {
        coi.coi(&[command, "--all"]).expect(2).says("There is no terminal to ask on: say --force");
        coi.coi(&[command]).expect(2);
        coi.coi(&[command, "no-such"]).expect(5);
    }
    assert_eq!(incus::status(&name), "Running");
    coi.coi(&["kill", &name]).expect(0);
}

#[test]
fn a_frozen_one_is_ended_as_it_stands() {
    let coi = Coi::new();
    let name = background(&coi, &[]);
    coi.coi(&["freeze", &name]).expect(0);
    coi.coi(&["tmux", "capture", &name]).expect(1).says("is frozen");
    coi.coi(&["shutdown", &name]).expect(0);
    assert_eq!(incus::instance(&name), None);
}

#[test]
fn it_runs_for_no_longer_than_it_may() {
    let coi = Coi::new();
    let container = Foreign::make(TINY);
    let name = container.name.as_str();
    let request = json!({
        "subject": {"type": "container", "name": name}, "respond": true,
        "life": {"delete": true, "max_seconds": 2, "grace_seconds": 0},
    });
    assert_eq!(coi.post("/v1/watches", &request).0, 200);
    container.start();
    eventually("its time is up, and it is deleted", || incus::instance(name).is_none());
    let notes: Vec<_> = coi.audit(name);
    let is_told = |record: &Value| {
        record["coi"]["message"].as_str().is_some_and(|message| message.contains("as long as it may"))
    };
    assert!(notes.iter().any(is_told), "{notes:?}");
}

/// Every machine has this user.
const NOBODY: u32 = 65534;

#[test]
fn a_session_is_written_by_its_owner_and_nobody_else() {
    let coi = Coi::new();
    let container = Foreign::make(TINY);
    let name = container.name.as_str();
    let said = coi.workspace().join("said");
    fs::write(&said, "something").unwrap();
    container.incus(&[
        "file",
        "push",
        said.to_str().unwrap(),
        &format!("{name}/root/kept/said"),
        "--create-dirs",
    ]);
    let watch = json!({
        "subject": {"type": "container", "name": name}, "respond": true, "owner": NOBODY,
        "life": {"delete": true, "grace_seconds": 0},
    });
    let (status, answer) = coi.post("/v1/watches", &watch);
    assert_eq!((status, &answer["owner"]), (200, &json!(NOBODY)), "{answer}");
    let directory = tempfile::tempdir().unwrap();
    let plan = |directory: &Path| {
        json!({
            "directory": directory, "home": "/root", "paths": ["kept"],
            "metadata": {
                "session_id": "0d5b5e0e-0000-4000-8000-000000000001", "container": name, "workspace": "/w",
                "tool": "claude",
            },
        })
    };
    // Root could write there; whose session it is cannot.
    assert_eq!(coi.post(&format!("/v1/watches/{name}/session"), &plan(directory.path())).0, 200);
    let (status, answer) = coi.post(&format!("/v1/watches/{name}/finish"), &Value::Null);
    assert_eq!(status, 500, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("Permission denied"), "{answer}");
    assert_eq!(incus::status(name), "Stopped");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);

    chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let (status, answer) = coi.post(&format!("/v1/watches/{name}/finish"), &Value::Null);
    assert_eq!((status, &answer["deleted"]), (200, &json!(true)), "{answer}");
    let session = directory.path().join("0d5b5e0e-0000-4000-8000-000000000001");
    assert_eq!(fs::read_to_string(session.join("home/kept/said")).unwrap(), "something");
    for path in [&session, &session.join("metadata.json"), &session.join("home/kept/said")] {
        assert_eq!(fs::metadata(path).unwrap().uid(), NOBODY, "{path:?}");
    }
    assert_eq!(incus::instance(name), None);
    // Under sudo whoever called it is asked for their sessions, with their rights.
    let mut list = coi.command(&["list", "--all"]);
    end(list.env("SUDO_UID", NOBODY.to_string())).expect(0);
}

#[test]
fn a_tool_that_the_image_does_not_have() {
    let coi = Coi::new();
    let ended = coi.coi(&["shell", "--background", "--image", SMALL]).expect(1);
    ended.says(&format!("the image {SMALL} has no claude")).says("--tool bash");
    coi.coi(&["shell", "--background", "--image", TINY, "--tool", "bash"]).expect(1).says("has no tmux");
    coi.coi(&["shell", "--tool", "cursor"]).expect(2);
    assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());
}
