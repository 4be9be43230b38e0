//! What a rule and a set of rules are, once compiled.

use std::{fmt, sync::Arc};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::{
    error::RuleError, eval::Expr, load, message::Template, overrides::Overrides, testing::Test,
    wanted::Wanted,
};
use crate::monitor::event::{EventKind, Field};

/// The text of a rule file and the name to use for it in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name, as the user would type it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// The rules that COI brings along, as they are in the repository's `rules` directory.
pub fn builtin_sources() -> Vec<Source> {
    macro_rules! sources {
        ($($name:literal),*) => {
            [$(($name, include_str!(concat!("../../../../", $name)))),*]
        };
    }
    sources!(
        "rules/reverse-shell.toml",
        "rules/environment.toml",
        "rules/network.toml",
        "rules/bulk-read.toml",
        "rules/monitor.toml"
    )
    .into_iter()
    .map(|(name, text)| Source { name: name.to_owned(), text: text.to_owned() })
    .collect()
}

/// How bad it is. What is done about it follows from this, elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a line in the log.
    Info,
    /// Worth a look.
    Warning,
    /// Stop until somebody has looked.
    High,
    /// Stop for good.
    Critical,
}

impl Severity {
    /// All severities, mildest first.
    pub const ALL: [Self; 4] = [Self::Info, Self::Warning, Self::High, Self::Critical];

    /// The name used in rule files, in the audit log and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The severity with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name() == name)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A set of event kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KindSet(u32);

impl KindSet {
    /// Every kind there is.
    pub fn all() -> Self {
        EventKind::ALL.into_iter().collect()
    }

    /// Adds a kind.
    pub fn insert(&mut self, kind: EventKind) {
        self.0 |= 1 << kind as u8;
    }

    /// Whether the kind is in the set.
    pub const fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }

    /// Whether there is nothing in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Takes a kind out.
    pub(super) fn remove(&mut self, kind: EventKind) {
        self.0 &= !(1 << kind as u8);
    }

    /// The set as bits: a kind's is `1 << kind as u8`.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// What is in either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The kinds, in the order of their discriminants.
    pub fn iter(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<EventKind> for KindSet {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        let mut set = Self::default();
        kinds.into_iter().for_each(|kind| set.insert(kind));
        set
    }
}

/// When a rule holds and yet is not meant.
#[derive(Clone, Debug)]
pub struct Exception {
    /// Why it is not meant.
    pub reason: String,
    /// The first day on which the exception no longer counts.
    pub expires: Option<Date>,
    /// Whether that day had come when the rules were compiled.
    pub expired: bool,
    pub(super) condition: Expr,
}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its name for good: in the audit log, in overrides, in reports.
    pub id: String,
    /// What it finds, in a few words.
    pub title: String,
    /// Why it looks as it does, and what it does not find.
    pub description: String,
    /// How bad it is when it fires.
    pub severity: Severity,
    /// The MITRE ATT&CK techniques it stands for.
    pub attack: Vec<String>,
    /// The kinds of events it looks at.
    pub kinds: KindSet,
    /// Whether it is applied.
    pub enabled: bool,
    /// When it is not meant.
    pub exceptions: Vec<Exception>,
    /// The name of the file it is from.
    pub origin: String,
    /// What it looks for: one step for a plain rule or a window, several for a sequence.
    pub(super) steps: Vec<Step>,
    /// How the steps belong together; `None` for a rule that fires on single events.
    pub(super) pattern: Option<Pattern>,
    pub(super) message: Template,
    pub(super) suppress: Suppress,
    pub(super) tests: Arc<[Test]>,
}

/// One thing that a rule looks for.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) kinds: KindSet,
    pub(super) condition: Expr,
    /// The step is complete when one of them is reached.
    pub(super) thresholds: Vec<Threshold>,
}

/// How much of something is enough.
#[derive(Clone, Debug)]
pub(super) struct Threshold {
    /// The name to change it by; `None` where one event is enough.
    pub(super) name: Option<String>,
    pub(super) measure: Measure,
    pub(super) at_least: u64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// The number of events.
    Count,
    /// The sum of a field.
    Sum(Field),
    /// The number of different values of a field.
    Distinct(Field),
}

/// How steps belong together.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    /// The time in which all of it happens, in nanoseconds.
    pub(super) within: u64,
    /// What the events have in common, beside the container.
    pub(super) by: Vec<Field>,
    /// Whether each step follows the one before it.
    pub(super) ordered: bool,
}

/// How often a rule repeats itself.
#[derive(Clone, Debug)]
pub(super) struct Suppress {
    /// For how long it does not, in nanoseconds.
    pub(super) time: u64,
    /// About whom.
    pub(super) by: Vec<Field>,
}

impl Rule {
    /// How many tests it carries.
    pub fn tests(&self) -> usize {
        self.tests.len()
    }

    /// The names and values of the thresholds that an override can change.
    pub fn thresholds(&self) -> impl Iterator<Item = (&str, u64)> {
        self.steps
            .iter()
            .flat_map(|step| &step.thresholds)
            .filter_map(|threshold| Some((threshold.name.as_deref()?, threshold.at_least)))
    }
}

/// A step of a rule: the rule's and the step's positions.
pub(super) type StepAt = (usize, usize);

/// Rules that fit together, compiled and checked.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    /// For each kind of event the steps of enabled rules that look at it.
    index: [Box<[StepAt]>; EventKind::ALL.len()],
}

impl RuleSet {
    /// Compiles rule files into one set. Lists and macros are shared between them, ids are unique among them.
    /// `today` decides which exceptions have expired: the rules themselves have no clock.
    pub fn compile(sources: &[Source], today: Date) -> Result<Self, Vec<RuleError>> {
        Ok(Self::index(load::load(sources, today)?.into_iter().map(Arc::new).collect()))
    }

    /// Puts rules together.
    pub(super) fn index(rules: Vec<Arc<Rule>>) -> Self {
        let index = EventKind::ALL.map(|kind| {
            let enabled = rules.iter().enumerate().filter(|(_, rule)| rule.enabled);
            enabled
                .flat_map(|(at, rule)| {
                    // The last step first: one event takes a sequence one step further, not two.
                    let steps = rule.steps.iter().enumerate().rev();
                    steps.filter(move |(_, step)| step.kinds.contains(kind)).map(move |(step, _)| (at, step))
                })
                .collect()
        });
        Self { rules, index }
    }

    /// The rules, in the order of their files; disabled ones too.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rule with this id.
    pub fn rule(&self, id: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// The events that could make a difference to the enabled rules.
    pub fn wanted(&self) -> Wanted {
        let kinds = EventKind::ALL.into_iter().filter(|kind| !self.steps(*kind).is_empty()).collect();
        let opens =
            self.steps(EventKind::Open).iter().map(|&(rule, step)| &self.rules[rule].steps[step].condition);
        Wanted::new(kinds, opens)
    }

    /// The steps that look at this kind of event.
    pub(super) fn steps(&self, kind: EventKind) -> &[StepAt] {
        &self.index[kind as usize]
    }

    /// The same rules with some of them turned on or off, made milder or graver, or given other thresholds.
    pub fn with(&self, overrides: &Overrides) -> Result<Self, Vec<RuleError>> {
        overrides.apply(&self.rules).map(Self::index)
    }
}
