//! Rules from a recording and into the running daemon.

use std::fs;

use coi_tests::incus::exec;
use coi_tests::{Coi, DEFAULT, Gate, TINY, Viewer, alerts, end, fired, text};
use serde_json::Value;

const MINER: &str = "[[rule]]\nid = \"no-miner\"\ntitle = \"t\"\nseverity = \"warning\"\nevent = \"exec\"\ncondition = \"process.name == 'xmrig'\"\n";

/// When which rule fired, of alerts as they were told or as a replay prints them.
fn times<'a>(alerts: impl Iterator<Item = (&'a Value, &'a Value)>) -> Vec<(Option<u64>, String)> {
    let mut times: Vec<_> = alerts.map(|(time, rule)| (time.as_u64(), text(rule))).collect();
    times.sort();
    times
}

#[test]
fn a_recording_is_judged_as_it_was_judged_then() {
    let coi = Coi::new();
    let gate = Gate::new(&coi, "end");
    let run = coi.start(&["run", "--image", DEFAULT, "read x <end"]);
    let gate = gate.reached();
    let file = tempfile::tempdir().unwrap();
    let recording = file.path().join("session.jsonl");
    let recording = recording.to_str().unwrap();
    let recorder = Viewer::start(&coi, &["monitor", "--attach", &coi.container(), "--record", recording]);
    let script = "for i in 1 2 3; do cat /proc/1/environ; done; env; grep -rn api_key . ; echo done";
    end(&mut exec(&coi.container(), "/workspace", &["sh", "-c", script]));
    gate.open();
    run.finish();
    recorder.leave();
    let audit = coi.audit(&coi.container());
    let live = times(alerts(&audit).map(|alert| (&alert["coi"]["clock"], &alert["rule"]["id"])));
    let replayed = coi.coi(&["rules", "replay", recording, "--format", "json"]).expect(0);
    let replayed: Value = serde_json::from_slice(&replayed.stdout).unwrap();
    let replayed = replayed.as_array().unwrap().iter();
    let replayed = times(replayed.map(|alert| (&alert["time"], &alert["rule"])));
    assert!(replayed.iter().any(|(time, _)| time.is_some()));
    assert_eq!(replayed, live);
}

#[test]
fn rules_are_reloaded_whole_or_not_at_all() {
    let rules = tempfile::tempdir().unwrap();
    let coi = Coi::with_daemon(&["--rules", rules.path().to_str().unwrap()]);
    fs::write(rules.path().join("miner.toml"), MINER).unwrap();
    coi.coi(&["rules", "reload"]).expect(0).says("rules are in force");
    fs::write(rules.path().join("broken.toml"), "[[rule]]\nid = \"x\"\n").unwrap();
    coi.coi(&["rules", "reload"]).expect(6).says("stay in force");
    // What is recorded is replayed by the files as they are then.
    fs::remove_file(rules.path().join("broken.toml")).unwrap();
    let script = "cp /bin/busybox /tmp/xmrig; /tmp/xmrig true; echo on";
    coi.run(TINY, &["sh", "-c", script]).expect(0);
    assert!(fired(&coi.audit(&coi.container())).contains("no-miner"));
}
