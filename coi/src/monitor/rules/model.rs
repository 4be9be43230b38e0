//! What a rule and a set of rules are, once compiled.

use std::{fmt, str::FromStr, sync::Arc};

use jiff::civil::Date;

use super::{error::RuleError, overrides::Overrides};
use crate::monitor::event::EventKind;

/// The text of a rule file and the name to use for it in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name, as the user would type it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// The rules that COI brings along.
pub fn builtin_sources() -> Vec<Source> {
    Vec::new()
}

/// How bad it is. What is done about it follows from this, elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

impl FromStr for Severity {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::from_name(name).ok_or(())
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
    /// How many tests it carries.
    pub tests: usize,
}

/// Rules that fit together, compiled and checked.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
}

impl RuleSet {
    /// Compiles rule files into one set. Lists and macros are shared between them, ids are unique among them.
    /// `today` decides which exceptions have expired: the rules themselves have no clock.
    pub fn compile(sources: &[Source], today: Date) -> Result<Self, Vec<RuleError>> {
        let _ = (sources, today);
        Ok(Self::default())
    }

    /// The rules, in the order of their files; disabled ones too.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rule with this id.
    pub fn rule(&self, id: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// The kinds of events that enabled rules look at.
    pub fn wanted(&self) -> KindSet {
        self.rules
            .iter()
            .filter(|rule| rule.enabled)
            .fold(KindSet::default(), |kinds, rule| kinds.union(rule.kinds))
    }

    /// The same rules with some of them turned on or off, made milder or graver, or given other thresholds.
    pub fn with(&self, overrides: &Overrides) -> Result<Self, Vec<RuleError>> {
        let _ = overrides;
        Ok(self.clone())
    }
}
