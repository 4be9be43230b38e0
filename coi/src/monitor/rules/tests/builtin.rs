//! The rules that COI brings along.

use super::*;
use crate::monitor::{
    event::Record,
    rules::{Severity, builtin_sources, testing},
};

fn builtin() -> RuleSet {
    match RuleSet::compile(&builtin_sources(), TODAY) {
        Ok(rules) => rules,
        Err(errors) => panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

#[test]
fn the_built_in_rules_pass_their_tests() {
    let report = testing::run(&builtin(), None, &|_, name| Err(format!("no {name}")));
    let failures: Vec<String> = report
        .failures()
        .map(|outcome| format!("{}: {}: {:?}", outcome.rule, outcome.test, outcome.failure))
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(!report.outcomes.is_empty());
}

#[test]
fn the_built_in_rules_say_what_they_are_for() {
    for rule in builtin().rules() {
        assert!(!rule.description.is_empty(), "{} has no description", rule.id);
    }
}

/// What the whole set says about these events, each rule once, at `high` or above.
fn stops(lines: &[&str]) -> Vec<String> {
    let mut bench = Bench { engine: Engine::new(Arc::new(builtin())), alerts: Vec::new() };
    let mut records: Vec<Sample> = lines.iter().flat_map(|line| records(line)).collect();
    records.sort_by_key(Record::time);
    for record in &records {
        bench.engine.evaluate(record, 1, &mut bench.alerts);
    }
    let stopping = bench.alerts.iter().filter(|alert| alert.rule.severity >= Severity::High);
    let mut ids: Vec<String> = stopping.map(|alert| alert.rule.id.clone()).collect();
    ids.sort();
    ids.dedup();
    ids
}

#[test]
fn real_work_stays_below_high() {
    for (work, lines) in [
        (
            "make -j4 of a C project",
            &[
                "event = 'exec', repeat = 2000, every = '10ms', process.pid = 5, process.executable = '/usr/lib/gcc/x86_64-linux-gnu/12/cc1', process.args = ['cc1', 'src/{n}.c']",
                "event = 'read', repeat = 200, every = '100ms', process.executable = '/usr/lib/gcc/x86_64-linux-gnu/12/cc1', coi.io.bytes = '5MiB'",
                "event = 'open', repeat = 2000, every = '10ms', process.executable = '/usr/bin/as', file.path = '/tmp/cc{n}.o', coi.file.write = true, coi.file.create = true",
            ][..],
        ),
        (
            "grep -rn token",
            &[
                "event = 'exec', process.executable = '/usr/bin/grep', process.args = ['grep', '-rn', 'token', '.']",
                "event = 'read', repeat = 20, every = '100ms', process.executable = '/usr/bin/grep', coi.io.bytes = '30MiB'",
                "event = 'open', repeat = 5000, every = '1ms', process.executable = '/usr/bin/grep', file.path = '/workspace/{n}/.env', file.inode = '8:{n}', coi.file.workspace = true",
            ],
        ),
        (
            "npm install",
            &[
                "event = 'connect', process.executable = '/usr/bin/node', process.args = ['npm', 'install'], destination.ip = '203.0.113.9', destination.port = 443",
                "event = 'open', process.executable = '/usr/bin/node', process.args = ['node', '/usr/bin/npm', 'install'], file.path = '/root/.npmrc'",
                "event = 'open', repeat = 3000, every = '1ms', process.executable = '/usr/bin/node', file.path = '/root/.npm/_cacache/tmp/{n}.tgz', coi.file.write = true, coi.file.create = true",
                "event = 'exec', process.executable = '/usr/bin/dash', process.args = ['sh', '-c', 'node-gyp rebuild']",
                "event = 'read', repeat = 20, every = '100ms', process.executable = '/usr/bin/node', coi.io.bytes = '30MiB'",
                "event = 'send', repeat = 20, every = '100ms', process.executable = '/usr/bin/node', coi.io.bytes = '20KiB'",
            ],
        ),
        (
            "git over ssh",
            &[
                "event = 'exec', process.executable = '/usr/bin/ssh', process.args = ['ssh', 'git@example.org', 'git-receive-pack x.git'], coi.process.stdin.kind = 'pipe'",
                "event = 'open', process.executable = '/usr/bin/ssh', file.path = '/home/code/.ssh/id_{n}', repeat = 5",
                "event = 'connect', process.executable = '/usr/bin/ssh', destination.ip = '203.0.113.9', destination.port = 22",
                "event = 'link', process.executable = '/usr/bin/dash', coi.link.kind = 'held', coi.link.stream = 'pipe', coi.link.relay.executable = '/usr/bin/ssh'",
                "event = 'read', process.executable = '/usr/bin/git', coi.io.bytes = '80MiB'",
                "event = 'send', process.executable = '/usr/bin/ssh', process.parent.executable = '/usr/bin/git', coi.io.bytes = '80MiB'",
            ],
        ),
        (
            "an agent that holds a connection open while it runs shells",
            &[
                "event = 'connect', process.executable = '/usr/bin/node', destination.ip = '203.0.113.9', destination.port = 443",
                "event = 'link', repeat = 20, every = '1s', process.executable = '/usr/bin/bash', process.args = ['bash', '-ic', 'ls'], coi.link.kind = 'held', coi.link.stream = 'pipe', coi.link.relay.executable = '/usr/bin/node'",
                "event = 'link', process.executable = '/usr/bin/bash', coi.link.kind = 'held', coi.link.stream = 'unix', coi.link.relay.executable = '/usr/bin/node'",
                "event = 'link', process.executable = '/usr/bin/bash', coi.link.kind = 'held', coi.link.stream = 'pty', coi.link.relay.executable = '/usr/bin/node'",
                "event = 'read', repeat = 60, every = '1s', process.executable = '/usr/bin/rg', coi.io.bytes = '30MiB'",
                "event = 'send', repeat = 60, every = '1s', process.executable = '/usr/bin/node', process.args = ['node', '--max-old-space-size=4096', '/usr/local/bin/claude'], coi.io.bytes = '900KiB'",
            ],
        ),
        (
            "looking at environments and for keys",
            &[
                "event = 'open', process.executable = '/usr/bin/cat', file.path = '/proc/1/environ'",
                "event = 'exec', repeat = 20, process.executable = '/usr/bin/grep', process.args = ['grep', '-E', 'KEY{n}|TOKEN']",
                "event = 'exec', process.executable = '/usr/bin/env', process.args = ['env']",
                "event = 'open', repeat = 20, process.executable = '/usr/bin/cat', file.path = '/home/{n}/.aws/credentials'",
            ],
        ),
    ] {
        assert_eq!(stops(lines), Vec::<String>::new(), "{work}");
    }
}

#[test]
fn attacks_are_stopped_by_the_rule_for_them() {
    for (rule, lines) in [
        (
            "reverse-shell-socket",
            &["event = 'link', process.executable = '/usr/bin/bash', coi.link.kind = 'socket'"][..],
        ),
        (
            "reverse-shell-pipes",
            &[
                "event = 'link', process.executable = '/usr/bin/dash', coi.link.kind = 'pipes', coi.link.loop = true, coi.link.relay.executable = '/usr/bin/nc.traditional'",
            ],
        ),
        (
            "reverse-shell-relay",
            &[
                "event = 'link', process.executable = '/usr/bin/bash', coi.link.kind = 'held', coi.link.relay.executable = '/usr/bin/socat1'",
            ],
        ),
        (
            "reverse-shell-ancestor",
            &["event = 'link', process.executable = '/usr/bin/bash', coi.link.kind = 'ancestor'"],
        ),
        ("program-on-socket", &["event = 'link', process.executable = '/tmp/x', coi.link.kind = 'socket'"]),
        (
            "bulk-read-then-send",
            &[
                "event = 'read', repeat = 10, every = '10ms', process.executable = '/usr/bin/cat', coi.io.bytes = '10MB'",
                "event = 'send', repeat = 10, every = '10ms', process.executable = '/usr/bin/nc.traditional', coi.io.bytes = '10MB'",
            ],
        ),
        (
            "bulk-read-then-archive",
            &[
                "event = 'open', process.executable = '/usr/bin/tar', process.args = ['tar', 'czf', '/tmp/x.tgz', '/workspace'], file.path = '/tmp/x.tgz', coi.file.write = true, coi.file.create = true",
                "event = 'read', repeat = 10, every = '10ms', process.executable = '/usr/bin/tar', coi.io.bytes = '10MB'",
            ],
        ),
    ] {
        assert_eq!(stops(lines), [rule], "{rule}");
    }
}

#[test]
fn a_thawed_container_is_frozen_by_the_same_sweep_again() {
    let mut bench = Bench { engine: Engine::new(Arc::new(builtin())), alerts: Vec::new() };
    let read = "event = 'read', repeat = 10, every = '10ms', process.executable = '/usr/bin/cat', coi.io.bytes = '10MB'";
    let send = "event = 'send', at = '1s', process.executable = '/usr/bin/cat', coi.io.bytes = '100MB'";
    for _ in 0..3 {
        bench.alerts.clear();
        bench.see(read);
        bench.see(send);
        let ids: Vec<&str> = bench.alerts.iter().map(|alert| alert.rule.id.as_str()).collect();
        assert_eq!(ids, ["bulk-read", "bulk-read-then-send"]);
        bench.engine.reset(1);
    }
}

#[test]
fn volume_alone_freezes_where_it_is_told_to() {
    let sweep = "event = 'read', repeat = 20, every = '10ms', process.executable = '/usr/bin/cat', coi.io.bytes = '10MiB'";
    assert_eq!(stops(&[sweep]), Vec::<String>::new());
    let overrides =
        Overrides::parse(&source("[rules.bulk-read-volume]\nenabled = true\nat_least = '100MiB'\n")).unwrap();
    let rules = builtin().with(&overrides).unwrap();
    let mut bench = Bench { engine: Engine::new(Arc::new(rules)), alerts: Vec::new() };
    bench.see(sweep);
    let alert = bench.alerts.iter().find(|alert| alert.rule.id == "bulk-read-volume").unwrap();
    assert_eq!(alert.rule.severity, Severity::High);
    assert_eq!(alert.evidence[0].text, "100 MiB in 90 ms (at least 100 MiB)");
}
