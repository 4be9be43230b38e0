//! What a user changes about rules without rewriting them.
//!
//! ```toml
//! [rules.bulk-read-volume]
//! enabled = true
//! severity = "high"
//! action = "notify"                    # whatever the severity calls for; see docs/rules.md
//! exceptions = [{ condition = "process.name == 'backup'", reason = "OPS-7" }]   # beside the rule's own
//! at_least = "500MiB"                  # a rule with one threshold
//!
//! [rules.bulk-read-then-send]
//! at_least = { send = "16MiB" }        # a rule with several: by name, see `coi rules list`
//! ```
//!
//! A change to a rule or a threshold that does not exist is an error, and so is one by somebody who may not make it;
//! see [`Origin`].

use std::{collections::BTreeMap, sync::Arc};

use jiff::civil::Date;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

#[cfg(test)]
use super::model::Source;
use super::{
    check::Definitions,
    deny,
    error::{Place, RuleError, RuleErrorKind, nearest},
    layer::{Leeway, Origin},
    load::{Reader, WrittenException},
    model::{Action, Measure, Rule, Severity},
    quantity,
    state::MAX_DISTINCT,
};
use crate::monitor::event::Field;

const OVERRIDE: &[&str] = &["enabled", "severity", "action", "at_least", "exceptions"];

/// Changes to rules, by the rules' ids.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    rules: BTreeMap<String, (Override, Option<Place>)>,
}

/// Changes to one rule. What is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Override {
    /// Turn it on or off.
    pub enabled: Option<bool>,
    /// Make it milder or graver.
    pub severity: Option<Severity>,
    /// What to do when it fires.
    pub action: Option<Action>,
    /// When it is not meant, beside what the rule itself says.
    pub(super) exceptions: Vec<WrittenException>,
    /// Where its thresholds lie.
    pub at_least: Option<AtLeast>,
    /// Where each of these is written, by its key.
    pub(super) places: BTreeMap<&'static str, Place>,
}

/// A new threshold, or several by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtLeast {
    /// For a rule that has only one threshold.
    Only(Amount),
    /// By the threshold's name, see [`Rule::thresholds`].
    Named(BTreeMap<String, Amount>),
}

/// The value of a threshold as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many, or so many bytes.
    Number(u64),
    /// So many bytes, written with a unit.
    Size(u64),
}

impl Amount {
    /// The value, if it is one for this measure.
    pub(super) fn for_measure(self, measure: Measure) -> Result<u64, RuleErrorKind> {
        let bytes = measure == Measure::Sum(Field::IoBytes);
        match self {
            Self::Size(size) if !bytes => Err(RuleErrorKind::Conflict {
                message: format!(
                    "{} is a size, but what is measured here is not bytes",
                    quantity::show_size(size)
                ),
                help: "write a number without a unit",
            }),
            Self::Number(number) if number > MAX_DISTINCT && matches!(measure, Measure::Distinct(_)) => {
                Err(RuleErrorKind::BadValue {
                    what: "number of distinct values that can be kept",
                    text: number.to_string(),
                    help: format!("write at most {MAX_DISTINCT}, or count events or sum bytes instead"),
                })
            }
            Self::Size(value) | Self::Number(value) => Ok(value),
        }
    }
}

impl Overrides {
    /// Reads the tables `[rules.ID]` of a file.
    pub(in crate::monitor) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>) -> Self {
        let mut overrides = Self::default();
        if let Some((rules, _)) = reader.table(table, "rules") {
            for (id, value) in rules {
                let place = reader.place(id.span());
                let Some((table, _)) = reader.as_table(id.get_ref(), value) else { continue };
                reader.keys(table, "changes to a rule", OVERRIDE);
                let written =
                    OVERRIDE.iter().filter_map(|key| Some((*key, reader.place(table.get(*key)?.span()))));
                let change = Override {
                    places: written.collect(),
                    enabled: reader.boolean(table, "enabled"),
                    severity: reader.text(table, "severity").and_then(|text| reader.severity(&text)),
                    action: reader.text(table, "action").and_then(|text| reader.action(&text)),
                    exceptions: reader.exceptions(table),
                    at_least: table.get("at_least").and_then(|value| at_least(reader, value)),
                };
                overrides.rules.insert(id.get_ref().to_string(), (change, Some(place)));
            }
        }
        overrides
    }

    /// Those of a text that has nothing else.
    #[cfg(test)]
    pub(super) fn parse(source: &Source) -> Result<Self, Vec<RuleError>> {
        super::load::read(source, Self::read)
    }

    /// Adds or replaces the changes to one rule.
    pub fn set(&mut self, id: impl Into<String>, change: Override) {
        self.rules.insert(id.into(), (change, None));
    }

    /// The rules with the changes made, by whoever `origin` is.
    pub(super) fn apply(
        &self,
        rules: &[Arc<Rule>],
        definitions: &Definitions,
        today: Date,
        origin: Origin,
        users: Leeway,
    ) -> Result<Vec<Arc<Rule>>, Vec<RuleError>> {
        let mut rules = rules.to_vec();
        let mut errors = Vec::new();
        for (id, (change, place)) in &self.rules {
            let mut error = |kind| {
                errors.push(match place {
                    Some(place) => place.error(kind),
                    None => RuleError::nowhere(kind),
                });
            };
            let Some(at) = rules.iter().position(|rule| rule.id == *id) else {
                let suggestion = nearest(id, rules.iter().map(|rule| rule.id.as_str())).map(str::to_owned);
                error(RuleErrorKind::Unknown {
                    what: "rule",
                    name: id.clone(),
                    suggestion,
                    known: Vec::new(),
                });
                continue;
            };
            let mut rule = Rule::clone(&rules[at]);
            rule.enabled = change.enabled.unwrap_or(rule.enabled);
            rule.severity = change.severity.unwrap_or(rule.severity);
            rule.own_action = change.action.or(rule.own_action);
            rule.administered |= origin == Origin::System;
            if let Some(at_least) = &change.at_least {
                set_thresholds(&mut rule, at_least).unwrap_or_else(&mut error);
            }
            for exception in change.exceptions.iter().cloned() {
                rule.exceptions.push(exception.compile(rule.kinds, definitions, today, &mut errors));
            }
            for error in deny::check(&rule, definitions) {
                // What is wrong with it is that this table has it denied, or adds an exception that cannot be.
                let key = if change.action.is_some() { "action" } else { "exceptions" };
                let place = change.places.get(key).or(place.as_ref());
                errors.push(place.map_or_else(|| error.clone(), |place| place.error(error.kind().clone())));
            }
            if let Some(bound) = origin.bound(users, &rules[at]) {
                for (key, how) in milder(&rules[at], &rule) {
                    let place = change.places.get(key).or(place.as_ref());
                    let kind = RuleErrorKind::Loosens { bound, how };
                    errors.push(place.map_or(RuleError::nowhere(kind.clone()), |place| place.error(kind)));
                }
            }
            rules[at] = Arc::new(rule);
        }
        if errors.is_empty() { Ok(rules) } else { Err(errors) }
    }
}

/// In what a rule is milder than it was: the key that makes it so, and what it does.
fn milder(was: &Rule, is: &Rule) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if was.enabled && !is.enabled {
        found.push(("enabled", format!("turns `{}` off", was.id)));
    }
    if is.severity < was.severity {
        found.push(("severity", format!("lowers its severity from {} to {}", was.severity, is.severity)));
    } else if is.action() > was.action() && !is.action().replaces(was.action()) {
        let how = format!("lets out what `deny` refuses, {} comes after it", is.action());
        found.push(("action", how));
    } else if is.action() < was.action() {
        found.push(("action", format!("lowers its action from {} to {}", was.action(), is.action())));
    }
    for ((name, before), (_, now)) in was.thresholds().zip(is.thresholds()) {
        if now > before {
            found.push(("at_least", format!("raises its threshold `{name}` from {before} to {now}")));
        }
    }
    if is.exceptions.len() > was.exceptions.len() {
        found.push(("exceptions", "adds an exception".to_owned()));
    }
    found
}

fn at_least(reader: &mut Reader<'_>, value: &Spanned<DeValue<'_>>) -> Option<AtLeast> {
    match value.get_ref() {
        DeValue::Table(table) => {
            let amounts = table.iter().map(|(name, value)| {
                Some((name.get_ref().to_string(), reader.amount(name.get_ref(), value)?))
            });
            amounts.collect::<Option<_>>().map(AtLeast::Named)
        }
        _ => reader.amount("at_least", value).map(AtLeast::Only),
    }
}

fn set_thresholds(rule: &mut Rule, at_least: &AtLeast) -> Result<(), RuleErrorKind> {
    let names: Vec<String> = rule.thresholds().map(|(name, _)| name.to_owned()).collect();
    let id = rule.id.clone();
    let unknown = |message: String| RuleErrorKind::Threshold {
        message,
        help: match names.as_slice() {
            [] => "leave `at_least` out; it is for rules with a window or a sequence".to_owned(),
            names => format!(
                "its thresholds are {}: at_least = {{ {} = ... }}",
                names.join(", "),
                quote(&names[0])
            ),
        },
    };
    let changes: Vec<(String, Amount)> = match (at_least, names.as_slice()) {
        (AtLeast::Only(amount), [name]) => vec![(name.clone(), *amount)],
        (AtLeast::Only(_), []) => return Err(unknown(format!("the rule `{id}` has no threshold"))),
        (AtLeast::Only(_), _) => return Err(unknown(format!("the rule `{id}` has several thresholds"))),
        (AtLeast::Named(amounts), _) => {
            amounts.iter().map(|(name, amount)| (name.clone(), *amount)).collect()
        }
    };
    for (name, amount) in changes {
        let threshold = rule
            .steps
            .iter_mut()
            .flat_map(|step| &mut step.thresholds)
            .find(|threshold| threshold.name.as_ref() == Some(&name));
        match threshold {
            Some(threshold) => threshold.at_least = amount.for_measure(threshold.measure)?,
            None => return Err(unknown(format!("the rule `{id}` has no threshold `{name}`"))),
        }
    }
    Ok(())
}

/// A key as TOML wants it.
fn quote(name: &str) -> String {
    if name.contains('.') { format!("\"{name}\"") } else { name.to_owned() }
}
