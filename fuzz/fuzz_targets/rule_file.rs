//! Any text as a rule file and as a configuration: what is accepted can be tested and linted.

#![no_main]

use coi::monitor::config::Config;
use coi::monitor::rules::{RuleSet, Source, testing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let source = Source { name: "fuzz.toml".to_owned(), text: text.to_owned() };
    let config = Config::parse(&source);
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
