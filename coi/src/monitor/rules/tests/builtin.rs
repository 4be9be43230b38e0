//! The rules that COI brings along.

use super::*;
use crate::monitor::rules::{builtin_sources, testing};

fn builtin() -> RuleSet {
    match RuleSet::compile(&builtin_sources(), TODAY) {
        Ok(rules) => rules,
        Err(errors) => panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

#[test]
fn the_built_in_rules_pass_their_tests() {
    let report = testing::run(&builtin(), None);
    let failures: Vec<String> = report
        .failures()
        .map(|outcome| {
            format!("{}: {}: {}", outcome.rule, outcome.test, outcome.failure.as_deref().unwrap_or_default())
        })
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
