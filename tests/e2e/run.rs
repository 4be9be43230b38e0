//! `coi run`: a command in a container is like a command here, but for where it runs.

use std::fs;
use std::os::unix::fs::MetadataExt;

use coi_tests::routes::PROGRAM;
use coi_tests::{Coi, DEFAULT, Gate, Running, TINY, USER, copy_program, incus};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn streams_and_exit_code_pass_through() {
    let coi = Coi::new();
    // More than any buffer on the way, and every byte there is.
    let input: Vec<u8> = (0..=255).cycle().take(3_000_001).collect();
    coi.write("input", &input);
    let script = "tee /tmp/input; cat /tmp/input >&2; exit 42";
    let mut run = coi.command(&["run", "--image", TINY, "--", "sh", "-c", script]);
    let run = run.stdin(fs::File::open(coi.workspace().join("input")).unwrap());
    let ended = Running::start(run).finish();
    assert_eq!(ended.code, 42);
    assert!(ended.stdout == input, "standard output: {} bytes", ended.stdout.len());
    assert!(ended.errors == input, "standard error: {} bytes", ended.errors.len());
}

#[test]
fn a_line_goes_through_a_shell() {
    let coi = Coi::new();
    let line = |image, line| coi.coi(&["run", "--image", image, line]).expect(0).text();
    assert_eq!(line(TINY, "echo a  b | tr a c"), "c b\n");
    assert_eq!(line(TINY, "pwd; id -un; echo $0"), "/workspace\ncode\n/bin/sh\n");
    // A login shell, with the user's own path.
    assert_eq!(line(DEFAULT, "shopt -q login_shell && echo ${BASH##*/} $HOME"), "bash /home/code\n");
    // Words stay words.
    let ended = coi.run(TINY, &["printf", "<%s>", "a b", "", "$HOME", "*"]).expect(0);
    assert_eq!(ended.text(), "<a b><><$HOME><*>");
    let ended = coi.run(TINY, &["no-such-program"]).expect(127);
    assert!(ended.stderr.contains("no-such-program"), "{}", ended.stderr);
}

#[test]
fn what_it_makes_belongs_to_the_workspaces_owner() {
    for owner in [USER, 0, 4711] {
        let coi = Coi::owned_by(owner);
        coi.run(TINY, &["sh", "-c", "mkdir made && echo made >made/file && id -u >made/id"]).expect(0);
        for name in ["made", "made/file"] {
            let metadata = fs::metadata(coi.workspace().join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (owner, owner), "{name}");
        }
        assert_eq!(fs::read_to_string(coi.workspace().join("made/id")).unwrap(), format!("{owner}\n"));
    }
}

#[test]
fn nothing_of_the_hosts_environment_goes_in() {
    let coi = Coi::new();
    let mut run = coi.command(&["run", "--image", TINY, "--", "env"]);
    run.env("AWS_SECRET_ACCESS_KEY", "of-the-host").env("LC_ALL", "C").env("USER", "somebody");
    let ended = Running::start(&mut run).finish().expect(0);
    let mut names: Vec<_> =
        ended.text().lines().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    names.sort();
    // `container` is Incus's own.
    assert_eq!(names, ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TZ", "USER", "container"]);
    let text = ended.text();
    assert!(text.contains("USER=code\n") && !text.contains("of-the-host"), "{text}");
}

#[test]
fn the_network_is_there() {
    let coi = Coi::new();
    for image in [TINY, DEFAULT] {
        let ended = coi.run(image, &["ip", "-4", "route", "show", "default"]).expect(0);
        assert!(ended.text().starts_with("default via "), "{image}: {}", ended.text());
    }
}

#[test]
fn an_interrupt_goes_to_the_command_and_a_second_ends_the_container() {
    let coi = Coi::new();
    let gate = Gate::new(&coi, "gate");
    let script = "trap 'echo caught; exit 9' INT; read x <gate; while :; do sleep 1; done";
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", script]);
    gate.reached().open();
    run.signal(Signal::SIGINT);
    let ended = run.finish().expect(9);
    assert_eq!(ended.text(), "caught\n");

    let (again, heard) = (Gate::new(&coi, "again"), Gate::new(&coi, "heard"));
    let script = "trap 'read x <heard' INT; read x <again; while :; do sleep 1; done";
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", script]);
    again.reached().open();
    run.signal(Signal::SIGINT);
    let _heard = heard.reached();
    run.signal(Signal::SIGTERM);
    run.finish().expect(143);
    assert_eq!(incus::of_workspace(coi.workspace()), Vec::<String>::new());
}

#[test]
fn two_at_once_in_one_workspace() {
    let coi = Coi::new();
    let gates = ["one", "two"].map(|name| (name, Gate::new(&coi, name)));
    let runs = gates.map(|(name, gate)| {
        let script = format!("hostname; read x <{name}");
        let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", &script]);
        (run, gate.reached())
    });
    assert_eq!(incus::of_workspace(coi.workspace()).len(), 2);
    let mut names = runs.map(|(run, gate)| {
        gate.open();
        run.finish().expect(0).text()
    });
    names.sort();
    let first = coi.container();
    let second = format!("{}2", first.trim_end_matches('1'));
    assert_eq!(names, [format!("{first}\n"), format!("{second}\n")]);
}

#[test]
fn what_is_allowed_stays_open_and_is_said_to_be_a_hole() {
    let coi = Coi::new();
    copy_program(PROGRAM, coi.workspace().join("routes"));
    for allowed in [false, true] {
        let script = "./routes io-uring-setup 192.0.2.1";
        let mut words = vec!["run", "--image", TINY];
        if allowed {
            words.extend(["--allow", "io-uring"]);
        }
        let ended = coi.coi(&[&words[..], &["--", "sh", "-c", script]].concat()).expect(0);
        let report: Value = serde_json::from_str(&ended.text()).unwrap();
        let audit = coi.audit(&coi.container());
        let coverage = audit.iter().rfind(|record| record["coi"]["holes"].is_array()).unwrap();
        let holes: Vec<_> =
            coverage["coi"]["holes"].as_array().unwrap().iter().map(|hole| &hole["id"]).collect();
        assert_eq!(report["errno"] != 38, allowed, "{report}");
        assert_eq!(holes.iter().any(|id| *id == "io-uring"), allowed, "{holes:?}");
    }
}
