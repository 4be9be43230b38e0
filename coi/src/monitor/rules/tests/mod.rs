//! Tests of the rules as their users see them: texts in, alerts or errors out.

mod allocation;
mod builtin;
mod conditions;
mod diagnostics;
mod engine;
mod explain;
mod layers;
mod lint;
mod printed;
mod robustness;
mod sigma;
mod wanted;

use std::sync::Arc;

use jiff::civil::{Date, date};

use super::{Alert, Engine, Overrides, RuleError, RuleSet, Source, sample::Sample, testing::records};

const TODAY: Date = date(2026, 7, 1);

fn source(text: &str) -> Source {
    Source { name: "test.toml".to_owned(), text: text.to_owned() }
}

fn compile(text: &str) -> Result<RuleSet, Vec<RuleError>> {
    RuleSet::compile(&[source(text)], TODAY)
}

fn rules(text: &str) -> Arc<RuleSet> {
    match compile(text) {
        Ok(rules) => Arc::new(rules),
        Err(errors) => panic!("{}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    }
}

/// An event, written as in a rule's test.
fn record(text: &str) -> Sample {
    records(text).remove(0)
}

/// An engine with these rules, and what it said.
struct Bench {
    engine: Engine,
    alerts: Vec<Alert>,
}

impl Bench {
    fn new(text: &str) -> Self {
        Self { engine: Engine::new(rules(text)), alerts: Vec::new() }
    }

    /// How many alerts this line of events leads to in container `scope`.
    fn see_in(&mut self, scope: u64, line: &str) -> usize {
        let before = self.alerts.len();
        for record in records(line) {
            self.engine.evaluate(&record, scope, &mut self.alerts);
        }
        self.alerts.len() - before
    }

    fn see(&mut self, line: &str) -> usize {
        self.see_in(1, line)
    }
}
