//! What is seen: every process of the container from its init on, and nothing else.

use coi_tests::incus::{self, Foreign};
use coi_tests::{Coi, Gate, TINY, Viewer, alerts, end, is_init};
use serde_json::{Value, json};

/// The arguments of the programs that were started, in order.
fn execs(events: &[Value]) -> Vec<&Value> {
    let execs = events.iter().filter(|event| event["event"]["action"] == "exec");
    execs.map(|event| &event["process"]["args"]).collect()
}

#[test]
fn every_short_process_and_nothing_of_the_host() {
    const COUNT: usize = 200;
    let coi = Coi::new();
    let (go, done) = (Gate::new(&coi, "go"), Gate::new(&coi, "done"));
    let script = format!(
        "read x <go; n=0; while [ $n -lt {COUNT} ]; do /bin/busybox true short-$n; n=$((n+1)); done; read x <done"
    );
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", &script]);
    let go = go.reached();
    let viewer = Viewer::attach(&coi, &coi.container());
    go.open();
    let done = done.reached();
    end(std::process::Command::new("true").arg("outside-of-the-container")).expect(0);
    done.open();
    let events = viewer.until_state("gone");
    run.finish().expect(0);

    let seen: Vec<_> = execs(&events).into_iter().filter(|args| args[1] == "true").cloned().collect();
    let all: Vec<_> = (0..COUNT).map(|n| json!(["/bin/busybox", "true", format!("short-{n}")])).collect();
    assert_eq!(seen, all);
    let elsewhere = events.iter().find(|event| event["container"]["name"] != coi.container().as_str());
    assert_eq!(elsewhere, None);
    let outside = events.iter().find(|event| event.to_string().contains("outside-of-the-container"));
    assert_eq!(outside, None);
}

#[test]
fn init_is_the_first_of_the_guest_at_every_start() {
    const STARTS: usize = 50;
    let coi = Coi::new();
    let container = Foreign::make(TINY);
    let name = container.name.as_str();
    coi.coi(&["monitor", "--attach", name, "--detach"]).expect(0);
    let viewer = Viewer::attach(&coi, name);
    for start in 0..STARTS {
        if start == 0 {
            container.start();
        } else {
            container.incus(&["restart", "--force", name]);
        }
        let events = viewer.until("the container's init", is_init);
        // The end of what ran before, then LXC's set-up, then init.
        let phases: Vec<_> = events.iter().filter_map(|event| event["coi"]["phase"].as_str()).collect();
        let begin = phases.iter().position(|phase| *phase == "setup").expect("no set-up was seen");
        let (set_up, init) = phases[begin..].split_at(phases.len() - begin - 1);
        assert!(set_up.iter().all(|phase| *phase == "setup"), "{phases:?}");
        assert_eq!(init, ["guest"]);
        assert_eq!(alerts(&events).next(), None);
    }
    container.incus(&["stop", "--force", name]);
    let rest = viewer.until_state("armed");
    let set_up = rest.iter().find(|event| event["coi"]["phase"] == "setup");
    assert_eq!(set_up, None, "after init nothing is set-up");
    assert_eq!(alerts(&rest).next(), None);
    viewer.leave().expect(0);
    // Whoever looked on has left; the watch has not.
    let (status, watch) = coi.ask(&format!("/v1/watches/{name}"));
    assert_eq!(
        (status, &watch["state"], &watch["alerts"], &watch["lost"]),
        (200, &json!("armed"), &json!(0), &json!(0))
    );
}

#[test]
fn the_launchers_own_containers_from_their_init_on() {
    // The audit log has alerts only; a rule makes one of every init.
    let rules = tempfile::tempdir().unwrap();
    let rule = r#"
        [[rule]]
        id = "an-init"
        title = "An init"
        description = "Its first exec."
        severity = "info"
        attack = ["T1059"]
        event = "exec"
        condition = "process.vpid == 1"
        message = "{process.executable}"
    "#;
    std::fs::write(rules.path().join("init.toml"), rule).unwrap();
    let coi = Coi::with_daemon(&["--rules", rules.path().to_str().unwrap()]);
    coi.run(TINY, &["true"]).expect(0);
    let audit = coi.audit(&coi.container());
    let inits: Vec<_> = alerts(&audit).collect();
    let [init] = inits[..] else { panic!("{inits:#?}") };
    assert_eq!(init["rule"]["id"], "an-init");
    assert_eq!(init["process"]["args"], json!(["/sbin/init"]));
    assert_eq!(init["process"]["executable"], "/bin/busybox");
    let states: Vec<_> = audit.iter().filter_map(|record| record["coi"]["state"].as_str()).collect();
    assert_eq!(states, ["armed", "running", "gone"]);
    let sequence: Vec<_> = audit.iter().map(|record| record["event"]["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequence, (1..=audit.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_container_that_runs_already() {
    let coi = Coi::new();
    let container = Foreign::make(TINY);
    let name = container.name.as_str();
    container.start();
    let viewer = Viewer::attach(&coi, name);
    end(&mut incus::exec(name, "/", &["true", "marked"])).expect(0);
    let found = viewer.until("the marked one", |event| event["process"]["args"] == json!(["true", "marked"]));
    let marked = &found.last().unwrap()["process"];
    assert_eq!((&marked["user"]["id"], &marked["executable"]), (&json!("1000"), &json!("/bin/busybox")));
    viewer.leave().expect(0);
    // It was watched for this viewer only.
    let (_, watches) = coi.ask("/v1/watches");
    let left = watches.as_array().unwrap().iter().find(|watch| watch["name"] == name);
    assert_eq!(left, None);
}
