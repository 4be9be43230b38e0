//! A rule to begin with.

use super::load::is_name;
use crate::monitor::event::EventKind;

/// A commented rule of this id that looks at this kind of event, with tests that pass. `None` if it is no id.
pub fn template(id: &str, kind: EventKind) -> Option<String> {
    if !is_name(id) {
        return None;
    }
    let (condition, fires, quiet) = match kind {
        EventKind::Open | EventKind::ExecFailed => (
            "file.path glob '**/.example/secret'",
            "file.path = \"/home/code/.example/secret\"",
            "file.path = \"/home/code/example.txt\"",
        ),
        EventKind::Connect | EventKind::Link => {
            ("destination.port == 4444", "destination.port = 4444", "destination.port = 443")
        }
        EventKind::Read | EventKind::Send => {
            ("coi.io.bytes >= 50MiB", "coi.io.bytes = \"50MiB\"", "coi.io.bytes = \"1MiB\"")
        }
        EventKind::Loss => ("coi.loss.count >= 1000", "coi.loss.count = 1000", "coi.loss.count = 1"),
        _ => (
            "process.name in ['example', 'example2']",
            "process.executable = \"/usr/bin/example\"",
            "process.executable = \"/usr/bin/make\"",
        ),
    };
    Some(format!(
        r#"# {meaning}
# `coi rules fields` lists the fields, docs/rules.md has every key and operator.
# Try it: coi rules test {id} --rules THIS-FILE

[[rule]]
id = "{id}"
title = "What it finds, in a few words"
description = """
Why the rule is as it is, and what it does not find.
"""
# info: written down; warning: the user is told; high: frozen; critical: killed. `action` says otherwise.
severity = "warning"
# MITRE ATT&CK techniques, such as ["T1059.004"].
attack = []
event = "{kind}"
condition = "{condition}"
# What is said when it fires, with {{field}}.
message = "{{process.executable}} (pid {{process.pid}}): {id}"
# When it is not meant; each with its reason, perhaps with an end.
# exceptions = [{{ condition = "process.parent.name == 'ctest'", reason = "its job", expires = 2027-01-31 }}]
# Only if there are many: [rule.window] over = "10s", by = ["process.user.id"], at_least = 100

  # Every rule needs a test that must fire ...
  [[rule.test]]
  name = "what it is for"
  expect = "fire"
  events = [{{ event = "{kind}", {fires} }}]

  # ... and one that must stay quiet.
  [[rule.test]]
  name = "what looks like it and is not"
  expect = "quiet"
  events = [{{ event = "{kind}", {quiet} }}]
"#,
        meaning = kind.meaning(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::rules::{RuleSet, Source, testing};

    #[test]
    fn a_rule_to_begin_with_passes_its_tests() {
        for kind in EventKind::ALL {
            let text = template("my-rule", kind).unwrap();
            let source = Source {
                name: "x.toml".into(),
                text: text.replace("{process.executable} (pid {process.pid})", "it"),
            };
            let set = RuleSet::compile(&[source], jiff::civil::date(2026, 7, 1))
                .unwrap_or_else(|e| panic!("{kind}: {e:?}"));
            assert!(set.lint(None).is_empty());
            let report = testing::run(&set, None, &|_, _| Err(String::new()));
            assert!(report.passed(), "{kind}: {:?}", report.failures().collect::<Vec<_>>());
        }
        assert_eq!(template("My rule\"", EventKind::Exec), None);
    }
}
