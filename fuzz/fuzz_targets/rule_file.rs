//! Any text as a rule file and as a configuration: what is accepted can be tested and linted.

#![no_main]

use std::sync::LazyLock;

use coi::monitor::config::Config;
use coi::monitor::rules::{RuleSet, RuleText, Source, builtin_sources, testing};
use libfuzzer_sys::fuzz_target;

static BUILTIN: LazyLock<RuleSet> =
    LazyLock::new(|| RuleSet::compile(&builtin_sources(), jiff::civil::date(2026, 7, 1)).unwrap());

fuzz_target!(|text: &str| {
    let source = Source { name: "fuzz.toml".to_owned(), text: text.to_owned() };
    let config = Config::parse(&source);
    // As a stranger's, on top of the built-in rules: what is accepted leaves them as strict as they were.
    let file = RuleText { name: "workspace.toml".to_owned(), text: text.to_owned() };
    if let Ok(with) = BUILTIN.with_workspace(&[file]) {
        for (rule, was) in with.rules().iter().zip(BUILTIN.rules()) {
            assert!(rule.id == was.id && rule.enabled >= was.enabled && rule.severity >= was.severity);
            assert!(rule.action() >= was.action() && rule.exceptions.len() == was.exceptions.len());
            assert!(rule.thresholds().zip(was.thresholds()).all(|(is, was)| is <= was));
        }
    }
    let Ok(rules) = RuleSet::compile(&[source], jiff::civil::date(2026, 7, 1)) else { return };
    rules.wanted();
    rules.lint(None);
    // A test may ask for a great many events; that is slow, not wrong.
    if !text.contains("repeat") {
        testing::run(&rules, None, &|_, name| Err(format!("no {name}")));
    }
    if let Ok(config) = config {
        drop(rules.with(&config.rules));
    }
});
