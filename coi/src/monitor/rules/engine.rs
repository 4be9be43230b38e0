//! The engine: events in, alerts out.

use std::sync::Arc;

use super::model::{Rule, RuleSet};
use crate::monitor::event::{EventKind, Record};

/// A rule that fired.
#[derive(Clone, Debug)]
pub struct Alert {
    /// The rule.
    pub rule: Arc<Rule>,
    /// What happened, in one line, safe to print.
    pub message: String,
    /// When: the time of the event that made it fire.
    pub time: u64,
    /// How many alerts of this rule about the same subject were counted but not repeated since the last one.
    pub suppressed_before: u64,
    /// For a window or a sequence, what led to it.
    pub evidence: Vec<Evidence>,
}

/// One thing that an alert rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// When it happened; for a sum, when it began.
    pub time: u64,
    /// The kind of the event.
    pub kind: EventKind,
    /// What it was, in one line, safe to print.
    pub text: String,
}

/// What the engine did not say aloud.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Alerts that were counted into an earlier one.
    pub suppressed: u64,
    /// Keys of windows, sequences and suppressions that were dropped because there were too many.
    pub evicted: u64,
}

/// Applies a set of rules to events, container by container.
#[derive(Debug)]
pub struct Engine {
    rules: Arc<RuleSet>,
}

impl Engine {
    /// An engine that has seen nothing yet.
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Self { rules }
    }

    /// The rules it applies.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Judges one event of the container `scope` and appends the alerts to `out`. Events of the phase `setup`
    /// are not judged.
    pub fn evaluate<R: Record>(&mut self, record: &R, scope: u64, out: &mut Vec<Alert>) {
        let _ = (record, scope, out);
    }

    /// Arms a container again, after it was thawed: what led to earlier alerts is forgotten, and nothing is
    /// suppressed because of them.
    pub fn reset(&mut self, scope: u64) {
        let _ = scope;
    }

    /// Forgets a container that is gone.
    pub fn forget(&mut self, scope: u64) {
        let _ = scope;
    }

    /// The sums over all rules and containers.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }
}
