//! The engine: events in, alerts out.
//!
//! A window or a sequence fires when all it asks for is there, and then begins anew: what one alert rests on
//! does not count for the next. How often it fires is then the business of `suppress`, which counts what it
//! holds back.
//!
//! Containers never share state, and nothing of a container's outlives [`Engine::reset`].

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    ops::AddAssign,
    sync::Arc,
};

use super::{
    index::Marks,
    message,
    model::{At, Measure, Rule, RuleSet},
    quantity,
    state::{Contribution, Keyed, Progress, SUBJECTS, What, key_cap},
};
use crate::monitor::event::{EventKind, Field, Record, Value};

/// How far one step has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its name.
    pub(super) step: String,
    /// How much of how much.
    pub(super) reached: String,
    /// Whether that is enough.
    pub(super) complete: bool,
}

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
    /// The kind of the event; for a sum over several kinds, that of the last one.
    pub kind: EventKind,
    /// What it was, in one line, safe to print.
    pub text: String,
}

/// What the engine did not say aloud.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Alerts that were counted and not repeated.
    pub suppressed: u64,
    /// Keys of windows, sequences and suppressions that were dropped because there were too many.
    pub evicted: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.suppressed += other.suppressed;
        self.evicted += other.evicted;
    }
}

/// What rules did not say aloud about one container.
pub type Unsaid = Vec<(Arc<Rule>, Counters)>;

/// Applies a set of rules to events, container by container.
#[derive(Debug)]
pub struct Engine {
    rules: Arc<RuleSet>,
    scopes: HashMap<u64, Scope>,
    /// By the rule's position in the set.
    counters: Vec<Counters>,
    /// Kept for its room.
    marks: Marks,
}

/// What is remembered about one container, by the rule's position in the set.
type Scope = Vec<RuleState>;

#[derive(Debug, Default)]
struct RuleState {
    progress: Keyed<Progress>,
    said: Keyed<Said>,
    /// What no alert and no report has told yet.
    unsaid: Counters,
}

/// What was said about one subject.
#[derive(Debug)]
struct Said {
    /// When it was last said; `None` before the first time.
    at: Option<u64>,
    /// How often it was not said since then.
    suppressed: u64,
}

impl Engine {
    /// An engine that has seen nothing yet.
    pub fn new(rules: Arc<RuleSet>) -> Self {
        let counters = vec![Counters::default(); rules.rules().len()];
        Self { rules, scopes: HashMap::new(), counters, marks: Marks::new() }
    }

    /// The rules it applies.
    pub fn rules(&self) -> &Arc<RuleSet> {
        &self.rules
    }

    /// Judges one event of the container `scope` and appends the alerts to `out`. Events of the phase `setup`
    /// are not judged. The events of a container come in the order of their times.
    pub fn evaluate<R: Record>(&mut self, record: &R, scope: u64, out: &mut Vec<Alert>) {
        let parts = self.rules.parts(record.kind());
        if parts.is_empty() || matches!(record.get(Field::Phase), Some(Value::Keyword("setup"))) {
            return;
        }
        self.rules.look_up(record, &mut self.marks);
        let marked =
            self.marks.iter().enumerate().flat_map(|(at, word)| bits(*word).map(move |bit| at * 64 + bit));
        for &(at, part) in marked.filter_map(|position| parts.get(position)) {
            let rule = &self.rules.rules()[at];
            if !rule.condition(part).is_some_and(|condition| condition.expr.holds(record)) {
                continue;
            }
            match part {
                At::Unless => {
                    if let (Some(scope), Some(pattern)) = (self.scopes.get_mut(&scope), &rule.pattern) {
                        scope[at].progress.remove(key(record, &pattern.by));
                    }
                }
                At::Step(step) if !rule.excepts(record) => {
                    let states = self
                        .scopes
                        .entry(scope)
                        .or_insert_with(|| self.rules.rules().iter().map(|_| RuleState::default()).collect());
                    let mut counted = Counters::default();
                    if let Some(alert) = matched(rule, step, record, &mut states[at], &mut counted) {
                        let unsaid = &mut states[at].unsaid.suppressed;
                        *unsaid = unsaid.saturating_sub(alert.suppressed_before);
                        out.push(alert);
                    }
                    states[at].unsaid += counted;
                    self.counters[at] += counted;
                }
                At::Step(_) => {}
            }
        }
    }

    /// Arms a container again, after it was thawed: what led to earlier alerts is forgotten, and nothing is
    /// suppressed because of them. What was not said aloud so far is said now.
    pub fn reset(&mut self, scope: u64) -> Unsaid {
        let Some(states) = self.scopes.get_mut(&scope) else { return Unsaid::new() };
        for state in states.iter_mut() {
            state.progress.clear();
            state.said.clear();
        }
        unsaid(&self.rules, states)
    }

    /// Forgets a container that is gone, and says what was not said aloud so far.
    pub fn forget(&mut self, scope: u64) -> Unsaid {
        self.scopes.remove(&scope).map(|mut states| unsaid(&self.rules, &mut states)).unwrap_or_default()
    }

    /// How far the steps of a rule have come for the subject of this event: nothing of a rule that fires on single
    /// events, or of which nothing was seen.
    pub(super) fn standing(&self, at: usize, record: &impl Record, scope: u64) -> Vec<Standing> {
        let standing = || {
            let rule = self.rules.rules().get(at)?;
            let pattern = rule.pattern.as_ref()?;
            let state = self.scopes.get(&scope)?.get(at)?;
            Some(state.progress.get(key(record, &pattern.by))?.standing(&rule.steps).collect())
        };
        standing().unwrap_or_default()
    }

    /// The sums over all rules.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.counters.iter().for_each(|counters| sum += *counters);
        sum
    }

    /// What each rule did not say aloud.
    pub fn counters_by_rule(&self) -> impl Iterator<Item = (&Arc<Rule>, Counters)> {
        self.rules.rules().iter().zip(self.counters.iter().copied())
    }
}

/// The positions of the bits that are set, the lowest first.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros() as usize;
        word &= word.checked_sub(1)?;
        Some(bit)
    })
}

/// Takes what was not said yet.
fn unsaid(rules: &RuleSet, states: &mut Scope) -> Unsaid {
    let taken = states.iter_mut().map(|state| std::mem::take(&mut state.unsaid));
    let by_rule = rules.rules().iter().cloned().zip(taken);
    by_rule.filter(|(_, counters)| *counters != Counters::default()).collect()
}

impl Rule {
    /// Whether one of its exceptions holds.
    fn excepts<R: Record>(&self, record: &R) -> bool {
        self.exceptions.iter().any(|exception| !exception.expired && exception.condition.expr.holds(record))
    }
}

/// An event met the condition of one step of a rule.
fn matched<R: Record>(
    rule: &Arc<Rule>,
    step: usize,
    record: &R,
    state: &mut RuleState,
    counters: &mut Counters,
) -> Option<Alert> {
    let now = record.time();
    let mut evidence = Vec::new();
    if let Some(pattern) = &rule.pattern {
        let key = key(record, &pattern.by);
        let new = || Progress::new(&rule.steps);
        let (progress, evicted) = state.progress.entry(key, now, key_cap(&rule.steps), new);
        counters.evicted += evicted;
        let amount = |measure| amount(record, measure);
        let describe = || message::describe(record);
        if !progress.add(pattern, &rule.steps, step, (now, record.kind()), amount, describe) {
            return None;
        }
        evidence.extend(progress.contributions(&rule.steps).map(|contribution| explain(&contribution)));
        evidence.sort_by_key(|evidence| evidence.time);
        if !pattern.again {
            state.progress.remove(key);
        }
    }
    let subject = key(record, &rule.suppress.by);
    let (said, evicted) = state.said.entry(subject, now, SUBJECTS, || Said { at: None, suppressed: 0 });
    counters.evicted += evicted;
    if said.at.is_some_and(|at| now.saturating_sub(at) < rule.suppress.time) {
        said.suppressed += 1;
        counters.suppressed += 1;
        return None;
    }
    said.at = Some(now);
    let suppressed_before = std::mem::take(&mut said.suppressed);
    let message = rule.message.render(record);
    Some(Alert { rule: rule.clone(), message, time: now, suppressed_before, evidence })
}

/// What an event adds to a measure.
fn amount<R: Record>(record: &R, measure: Measure) -> Option<u64> {
    match measure {
        Measure::Count => Some(1),
        Measure::Sum(field) => match record.get(field)? {
            // A negative number takes nothing back.
            Value::Integer(number) => u64::try_from(number).ok(),
            _ => None,
        },
        Measure::Distinct(field) => {
            let mut hasher = DefaultHasher::new();
            hash(record.get(field)?, &mut hasher);
            Some(hasher.finish())
        }
    }
}

/// The key of an event: its values of these fields. A missing one is a value of its own.
fn key<R: Record>(record: &R, by: &[Field]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for field in by {
        match record.get(*field) {
            Some(value) => {
                true.hash(&mut hasher);
                hash(value, &mut hasher);
            }
            None => false.hash(&mut hasher),
        }
    }
    hasher.finish()
}

fn hash(value: Value<'_>, hasher: &mut DefaultHasher) {
    match value {
        Value::Keyword(text) => text.hash(hasher),
        Value::Integer(number) => number.hash(hasher),
        Value::Boolean(value) => value.hash(hasher),
        Value::Ip(address) => address.to_canonical().hash(hasher),
        Value::Keywords(texts) => texts.hash(hasher),
    }
}

/// What a step contributed, in words.
fn explain(contribution: &Contribution<'_>) -> Evidence {
    let text = match &contribution.what {
        What::Event(text) => (*text).to_owned(),
        What::Level(threshold, level) => {
            let span = quantity::show_duration(contribution.until.saturating_sub(contribution.since));
            let at_least = threshold.at_least;
            match threshold.measure {
                Measure::Sum(Field::IoBytes) => format!(
                    "{} in {span} (at least {})",
                    quantity::show_size(*level),
                    quantity::show_size(at_least)
                ),
                Measure::Sum(field) => {
                    format!("{level} of {} in {span} (at least {at_least})", field.def().name)
                }
                Measure::Distinct(field) => {
                    format!("{level} different {} in {span} (at least {at_least})", field.def().name)
                }
                Measure::Count => format!("{level} events in {span} (at least {at_least})"),
            }
        }
    };
    Evidence { time: contribution.since, kind: contribution.kind, text }
}
