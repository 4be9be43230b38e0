//! Honest work: all of it in one container, side by side, and nobody is disturbed.

use std::io::{Read, Write};
use std::net::TcpStream;

use coi_tests::attacker::{TlsServer, serve};
use coi_tests::incus::{bridge, exec, incus};
use coi_tests::{Coi, DEFAULT, Gate, Reached, Running, Shared, actions, alerts, end, fired};
use serde_json::{Value, json};

/// What may be told of honest work; all of it together opens so many files that this may be a warning.
const TOLD: [&str; 3] = ["bulk-read", "env-dump", "secret-grep"];

static CONTAINER: Shared<Container> = Shared::new();

/// A container of `coi run`, whose command waits while the tests work beside it.
struct Container {
    coi: Coi,
    run: Option<(Running, Reached)>,
}

impl Container {
    fn launch() -> Self {
        let coi = Coi::new();
        let end = Gate::new(&coi, "end");
        let run = coi.start(&["run", "--image", DEFAULT, "read x <end && echo undisturbed"]);
        let end = end.reached();
        Self { coi, run: Some((run, end)) }
    }

    /// Runs a script as the workspace's owner, in a directory of its own; asserts that it says that it is done.
    #[track_caller]
    fn work(&self, name: &str, interpreter: &str, script: &str, arguments: &[&str]) {
        let container = self.coi.container();
        self.coi.write(&format!("{name}.script"), script);
        let line = format!("mkdir {name} && cd {name} && exec {interpreter} ../{name}.script \"$@\"");
        let words = [&["bash", "-c", &line, "bash"][..], arguments].concat();
        let ended = end(&mut exec(&container, "/workspace", &words)).expect(0);
        assert_eq!(ended.text().lines().last(), Some(format!("{name} done").as_str()), "{}", ended.stderr);
        let (_, watch) = self.coi.ask(&format!("/v1/watches/{container}"));
        assert_eq!((&watch["state"], &watch["last_action"]), (&json!("running"), &Value::Null));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let Some((run, end)) = self.run.take() else { return };
        end.open();
        let ended = run.finish();
        let audit = self.coi.audit(&self.coi.container());
        for alert in alerts(&audit) {
            println!("{} {}: {}", alert["coi"]["severity"], alert["rule"]["id"], alert["coi"]["message"]);
        }
        if !std::thread::panicking() {
            let said: Vec<_> =
                fired(&audit).into_iter().filter(|rule| !TOLD.contains(&rule.as_str())).collect();
            assert_eq!(said, Vec::<String>::new());
            assert_eq!(actions(&audit), []);
            let states: Vec<_> = audit.iter().filter_map(|record| record["coi"]["state"].as_str()).collect();
            assert_eq!(states, ["armed", "running", "gone"]);
            assert_eq!(ended.expect(0).text(), "undisturbed\n");
        }
    }
}

#[test]
fn git_and_ssh() {
    let container = CONTAINER.get(Container::launch);
    let sshd = include_str!("../benign/sshd.sh");
    end(&mut incus(&["exec", &container.coi.container(), "--", "bash", "-c", sshd])).expect(0);
    container.work("git", "bash", include_str!("../benign/git.sh"), &[]);
    container.work("ssh", "bash", include_str!("../benign/ssh.sh"), &[]);
}

#[test]
fn searching() {
    CONTAINER.get(Container::launch).work("search", "bash", include_str!("../benign/search.sh"), &[]);
}

#[test]
fn make() {
    CONTAINER.get(Container::launch).work("make", "bash", include_str!("../benign/make.sh"), &[]);
}

#[test]
fn npm() {
    CONTAINER.get(Container::launch).work("npm", "bash", include_str!("../benign/npm.sh"), &[]);
}

#[test]
fn shells() {
    let server = serve(bridge(), install_script);
    CONTAINER.get(Container::launch).work(
        "shells",
        "bash",
        include_str!("../benign/shells.sh"),
        &[&server.to_string()],
    );
}

/// Answers any request over HTTP with an installer.
fn install_script(mut peer: TcpStream) {
    let script = "#!/bin/sh\necho installed\n";
    let mut request = [0; 4096];
    let _ = peer.read(&mut request);
    let length = script.len();
    let _ = write!(peer, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{script}");
}

#[test]
fn agent() {
    let service = TlsServer::start(bridge(), &["-rev"]);
    let (host, port) = (service.address.ip().to_string(), service.address.port().to_string());
    CONTAINER.get(Container::launch).work(
        "agent",
        "node",
        include_str!("../benign/agent.js"),
        &[&host, &port],
    );
}
