//! Any text as a condition: rules or errors that can be shown, and rules that judge.

#![no_main]

use coi::monitor::rules::{RuleSet, Source};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|condition: &str| {
    let condition = toml::Value::from(condition);
    let text = format!("[lists]\nl = ['a', 'b']\n[macros]\nm = \"process.name in @l\"\n[[rule]]\nid = 'r'\ntitle = 't'\nseverity = 'info'\nevent = ['exec', 'open', 'connect']\ncondition = {condition}\n");
    let source = Source { name: "fuzz.toml".to_owned(), text };
    match RuleSet::compile(&[source], jiff::civil::date(2026, 7, 1)) {
        Ok(rules) => {
            rules.wanted();
            rules.lint(None);
        }
        Err(errors) => errors.iter().for_each(|error| drop(error.to_string())),
    }
});
