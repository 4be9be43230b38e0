//! Reading a lot: a warning by itself, high with what follows from it; frozen, thawed, armed again.

use std::fs;

use coi_tests::attacker::{fill, serve, swallow};
use coi_tests::incus::{self, bridge};
use coi_tests::{Coi, DEFAULT, Gate, Running, SMALL, Viewer, actions, fired};

#[test]
fn a_sweep_warns_and_goes_on() {
    let coi = Coi::new();
    coi.bulk();
    let ended =
        coi.run(SMALL, &["sh", "-c", "cat data/* | wc -c"]).expect(0).says("coi: warning: rule bulk-read: ");
    assert_eq!(ended.text(), "100000000\n");
    let audit = coi.audit(&coi.container());
    assert_eq!(actions(&audit), []);
    assert_eq!(Vec::from_iter(fired(&audit)), ["bulk-read"]);
}

/// Asserts that what runs was frozen by this rule and nothing else.
fn frozen(coi: &Coi, viewer: &Viewer, rule: &str, times: usize) {
    viewer.until_state("frozen");
    coi.assert_frozen(rule, times);
}

/// Ends what is frozen.
fn kill(coi: &Coi, run: Running) {
    let name = coi.container();
    coi.coi(&["kill", &name]).expect(0).says(&format!("coi: {name} is gone"));
    assert_eq!(incus::instance(&name), None);
    run.finish().expect(1).says("no rule did it");
}

#[test]
fn a_sweep_that_is_sent_freezes_and_so_does_the_next_one() {
    let coi = Coi::new();
    let name = coi.container();
    coi.bulk();
    let place = serve(bridge(), swallow);
    let (first, second) = (Gate::new(&coi, "first"), Gate::new(&coi, "second"));
    let script = "for gate in first second; do read x <$gate; tar c data | nc -N HOST PORT; done";
    let run = coi.start(&["run", "--image", DEFAULT, "--", "bash", "-c", &fill(place, script)]);
    let first = first.reached();
    let viewer = Viewer::attach(&coi, &name);
    first.open();
    frozen(&coi, &viewer, "bulk-read-then-send", 1);
    coi.coi(&["unfreeze", &name]).expect(0).says(&format!("coi: {name} goes on"));
    viewer.until_state("running");
    assert_eq!(incus::status(&name), "Running");
    // What was left of the first sweep is not enough for an alert.
    second.reached().open();
    frozen(&coi, &viewer, "bulk-read-then-send", 2);
    kill(&coi, run);
}

#[test]
fn a_sweep_into_an_archive_elsewhere_freezes() {
    let coi = Coi::new();
    coi.bulk();
    let go = Gate::new(&coi, "go");
    let script = "read x <go; cat data/* >/dev/null; tar czf /tmp/x.tgz data";
    let run = coi.start(&["run", "--image", DEFAULT, "--", "sh", "-c", script]);
    let go = go.reached();
    let viewer = Viewer::attach(&coi, &coi.container());
    go.open();
    frozen(&coi, &viewer, "bulk-read-then-archive", 1);
    kill(&coi, run);
}

#[test]
fn volume_alone_freezes_where_it_is_told_to() {
    let config = tempfile::NamedTempFile::new().unwrap();
    fs::write(&config, "[rules.bulk-read-volume]\nenabled = true\nat_least = \"80MiB\"\n").unwrap();
    let coi = Coi::with_daemon(&["--config", config.path().to_str().unwrap()]);
    let name = coi.container();
    coi.bulk();
    let (go, on) = (Gate::new(&coi, "go"), Gate::new(&coi, "on"));
    // It waits: what has read everything in a few milliseconds would be over before it is frozen.
    let script = "read x <go; cat data/* >/dev/null; read x <on; echo swept";
    let run = coi.start(&["run", "--image", DEFAULT, "--", "sh", "-c", script]);
    let go = go.reached();
    let viewer = Viewer::attach(&coi, &name);
    go.open();
    frozen(&coi, &viewer, "bulk-read-volume", 1);
    // `resume` is another word for it; what is left is below the threshold.
    coi.coi(&["resume", &name]).expect(0);
    on.reached().open();
    assert_eq!(run.finish().expect(0).text(), "swept\n");
}
