//! Copies of what is killed: stopped, without network and workspace, and no more of them than the configuration says.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::fs;

use coi_tests::incus::{self, Foreign, incus};
use coi_tests::{Coi, TINY, alerts, end, eventually, text, tripwire};
use serde_json::Value;
use tempfile::TempDir;

struct Bench {
    coi: Coi,
    _files: TempDir,
}

impl Bench {
    fn new(respond: &str) -> Self {
        let files = tempfile::Builder::new().prefix("coi-e2e-copies-").tempdir().unwrap();
        let at = |file: &str| files.path().join(file).to_str().unwrap().to_owned();
        let fatal = tripwire("fatal", "critical", r#"== "fatal""#, "process.entity_id");
        fs::write(at("rules.toml"), fatal).unwrap();
        fs::write(at("config.toml"), format!("[respond]\n{respond}\n")).unwrap();
        let coi = Coi::with_daemon(&["--rules", &at("rules.toml"), "--config", &at("config.toml")]);
        Self { coi, _files: files }
    }

    /// A container that runs, and whose rules may act.
    fn watched(&self) -> Foreign {
        let container = Foreign::make(TINY);
        container.start();
        self.coi.coi(&["monitor", "--attach", &container.name, "--respond", "--detach"]).expect(0);
        container
    }

    /// One that was killed for an attack, and what was done about that.
    fn killed(&self) -> (Foreign, Value) {
        let container = self.watched();
        let name = &container.name;
        end(&mut incus(&["exec", name, "--", "sh", "-c", ": >/tmp/fatal"]));
        eventually("the kill is recorded", || self.kills(name).len() == 1);
        let kill = self.kills(name).remove(0);
        (container, kill)
    }

    /// What was done about the attack, each time.
    fn kills(&self, name: &str) -> Vec<Value> {
        let all = self.coi.audit(name);
        alerts(&all)
            .map(|alert| alert["coi"]["action"].clone())
            .filter(|done| done["name"] == "kill")
            .collect()
    }
}

/// Copies that go with the test.
struct Copies(Vec<String>);

impl Drop for Copies {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| incus::delete(name));
    }
}

#[test]
fn the_newest_copies_of_what_is_killed_are_kept() {
    let bench = Bench::new("keep_copies = 2");
    let container = bench.watched();
    let name = &container.name;
    let mut copies = Copies(Vec::new());
    for round in 1..=3 {
        let line = format!("echo round {round} >/root/proof; : >/tmp/fatal");
        // It ends with the container.
        end(&mut incus(&["exec", name, "--", "sh", "-c", &line]));
        eventually("the kill is recorded", || bench.kills(name).len() == round);
        let kill = bench.kills(name).pop().unwrap();
        assert_eq!(kill["result"], "success", "{kill:#}");
        let copy = text(&kill["copy"]["name"]);
        copies.0.push(copy.clone());
        // What it is: all that was in it, and nothing that leads out of it.
        let instance = incus::instance(&copy).unwrap();
        assert_eq!(instance["status"], "Stopped");
        let devices = instance["expanded_devices"].as_object().unwrap();
        let leads: Vec<_> = devices.values().filter(|device| device["type"] != "none").collect();
        assert!(leads.len() == 1 && leads[0]["path"] == "/", "{devices:#?}");
        assert_eq!(instance["profiles"], Value::Array(Vec::new()));
        assert_eq!(instance["config"]["user.coi.kept.of"], name.as_str());
        let proof = end(&mut incus(&["file", "pull", &format!("{copy}/root/proof"), "-"])).expect(0);
        assert_eq!(proof.text(), format!("round {round}\n"));
        eventually("it can be started again", || end(&mut incus(&["start", name])).code == 0);
        eventually("it is watched again", || {
            bench.coi.ask(&format!("/v1/watches/{name}")).1["state"] == "running"
        });
    }
    eventually("the oldest is gone", || incus::instance(&copies.0[0]).is_none());
    assert!(copies.0[1..].iter().all(|copy| incus::instance(copy).is_some()));
    // None of them is taken for one of COI's containers.
    let list = bench.coi.coi(&["list", "--format", "json"]).expect(0).text();
    assert!(!list.contains("-kept-"), "{list}");
}

#[test]
fn a_copy_that_takes_too_long_keeps_nothing_from_being_killed() {
    let bench = Bench::new("keep_copies = 2\ncopy_within = \"1ms\"");
    let (container, kill) = bench.killed();
    assert_eq!(kill["result"], "success", "{kill:#}");
    let error = text(&kill["copy"]["error"]);
    assert!(error.contains("was not finished within 1ms"), "{error}");
    let copy = error.split(' ').nth(2).unwrap().to_owned();
    // What Incus makes of it is not the daemon's any more.
    let _copies = Copies(vec![copy]);
    eventually("it is stopped", || incus::status(&container.name) == "Stopped");
}

#[test]
fn nobody_asked_for_copies() {
    let bench = Bench::new("");
    let (_container, kill) = bench.killed();
    assert_eq!(kill["copy"], Value::Null);
}
