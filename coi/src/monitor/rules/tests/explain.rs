//! What `coi rules explain` says.

use insta::assert_snapshot;

use super::*;
use crate::monitor::rules::{
    explain::Explainer,
    recording::{Entry, Told},
};

fn explained(text: &str, lines: &[&str]) -> String {
    let set = rules(text);
    let mut explainer = Explainer::new(&set, &set.rules()[0]);
    lines
        .iter()
        .flat_map(|line| records(line))
        .map(|sample| explainer.explain(&Entry { cgroup: 1, told: Told::Event(sample) }))
        .collect()
}

#[test]
fn each_part_of_a_condition_with_its_value() {
    let text = "[lists]\nshells = ['sh', 'bash']\n[macros]\nshell = 'process.name in @shells'\n\
                [[rule]]\nid = 'r'\ntitle = 't'\nseverity = 'info'\nevent = 'exec'\n\
                condition = \"$shell and (process.pid > 1 or not exists(process.exit_code)) and any(process.args, contains '-i')\"\n\
                exceptions = [{ condition = \"process.parent.name == 'make'\", reason = 'a build' }]\n";
    assert_snapshot!(explained(
        &text.replace("process.exit_code", "process.user.id"),
        &[
            "event = 'exec', process.executable = '/bin/bash', process.args = ['bash', '-i']",
            "event = 'exec', process.executable = '/bin/bash', process.args = ['bash', '-i'], process.parent.executable = '/bin/make'",
            "event = 'open', file.path = '/x'",
            "event = 'exec', process.executable = '/bin/ls'",
        ]
    ));
}

#[test]
fn how_far_each_event_took_a_sequence() {
    let text = "[[rule]]\nid = 'r'\ntitle = 'sent after reading'\nseverity = 'info'\n[rule.sequence]\nwithin = '60s'\n\
                unless = { event = 'exit', condition = 'true' }\nsteps = [\n\
                { event = 'read', condition = 'true', sum = 'coi.io.bytes', at_least = '50MiB' },\n\
                { event = 'connect', condition = 'destination.port == 443' },\n]\n";
    assert_snapshot!(explained(
        text,
        &[
            "event = 'read', coi.io.bytes = '30MiB'",
            "event = 'exit', at = '1s', process.exit_code = 0",
            "event = 'read', at = '2s', coi.io.bytes = '60MiB'",
            "event = 'connect', at = '3s', destination.port = 80",
            "event = 'connect', at = '4s', destination.port = 443",
        ]
    ));
}
