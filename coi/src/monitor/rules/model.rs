//! What a rule and a set of rules are, once compiled.

use std::{fmt, sync::Arc};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::{
    check::{Condition, Definitions},
    deny::{self, Denied},
    error::{Place, RuleError},
    index::{Index, Marks},
    layer::{Leeway, Origin, OwnRules, RuleText},
    load,
    message::Template,
    overrides::Overrides,
    testing::Test,
    wanted::Wanted,
};
use crate::monitor::event::{EventKind, Field, Record};

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

    /// What is done where a rule does not say.
    pub const fn action(self) -> Action {
        match self {
            Self::Info => Action::Log,
            Self::Warning => Action::Notify,
            Self::High => Action::Freeze,
            Self::Critical => Action::Kill,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is done about an alert, where something is to be done at all.
///
/// The order is that of how much of what runs is stopped: `deny` one connection, `kill-process` one process with its
/// descendants, `cut-network` all that is not on this machine. None of them takes the place of `deny`, which alone keeps
/// the act itself from happening; see [`Self::replaces`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is written down.
    Log,
    /// The user is told as well.
    Notify,
    /// The kernel refuses the connection.
    Deny,
    /// The process is ended, and all that it has started.
    KillProcess,
    /// The container goes on without network.
    CutNetwork,
    /// All processes of the container are stopped.
    Freeze,
    /// All of them are ended.
    Kill,
}

impl Action {
    /// All actions, mildest first.
    pub const ALL: [Self; 7] =
        [Self::Log, Self::Notify, Self::Deny, Self::KillProcess, Self::CutNetwork, Self::Freeze, Self::Kill];

    /// The name used in rule files and in the audit log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Notify => "notify",
            Self::Deny => "deny",
            Self::KillProcess => "kill-process",
            Self::CutNetwork => "cut-network",
            Self::Freeze => "freeze",
            Self::Kill => "kill",
        }
    }

    /// The action with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Whether nothing is lost when this is done instead of the other.
    pub fn replaces(self, other: Self) -> bool {
        self >= other && (self == Self::Deny || other != Self::Deny)
    }
}

impl fmt::Display for Action {
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
    pub(super) condition: Condition,
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
    /// What is to be done, where that does not follow from the severity.
    pub(super) own_action: Option<Action>,
    /// The MITRE ATT&CK techniques it stands for.
    pub attack: Vec<String>,
    /// The kinds of events it looks at.
    pub kinds: KindSet,
    /// Whether it is applied.
    pub enabled: bool,
    /// When it is not meant.
    pub exceptions: Vec<Exception>,
    /// Who wrote it.
    pub origin: Origin,
    /// Whether the administrator wrote or changed it.
    pub(super) administered: bool,
    /// Where its id is written.
    pub(super) place: Place,
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
    pub(super) condition: Condition,
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
    /// What undoes all that was found so far.
    pub(super) unless: Option<Unless>,
    /// Whether it fires again for as long as its first step stands, rather than beginning anew.
    pub(super) again: bool,
}

/// An event after which a sequence begins anew.
#[derive(Clone, Debug)]
pub(super) struct Unless {
    pub(super) kinds: KindSet,
    pub(super) condition: Condition,
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
    /// The name of the file it is from.
    pub fn file(&self) -> &str {
        self.place.file.name()
    }

    /// What is to be done when it fires.
    pub fn action(&self) -> Action {
        self.own_action.unwrap_or(self.severity.action())
    }

    /// The condition of a step, or of what undoes the steps.
    pub(super) fn condition(&self, at: At) -> Option<&Condition> {
        match at {
            At::Step(step) => self.steps.get(step).map(|step| &step.condition),
            At::Unless => self.pattern.as_ref()?.unless.as_ref().map(|unless| &unless.condition),
        }
    }

    /// What of it looks at this kind of event, in the order in which one event is tried: what undoes the steps,
    /// then the last step first, so that one event takes a sequence one step further, not two.
    pub(super) fn looking_at(&self, kind: EventKind) -> impl Iterator<Item = At> {
        let unless = self.pattern.iter().filter_map(|pattern| pattern.unless.as_ref());
        let unless = unless.filter(move |unless| unless.kinds.contains(kind)).map(|_| At::Unless);
        let steps = self.steps.iter().enumerate().rev();
        unless.chain(steps.filter(move |(_, step)| step.kinds.contains(kind)).map(|(step, _)| At::Step(step)))
    }

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

/// A part of a rule that looks at events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// The step of this position.
    Step(usize),
    /// What undoes the steps.
    Unless,
}

/// A part of the rule at this position.
pub(super) type Part = (usize, At);

/// Rules that fit together, compiled and checked.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Arc<Rule>>,
    /// For each kind of event the steps of enabled rules that look at it.
    index: [(Box<[Part]>, Index); EventKind::ALL.len()],
    /// What their conditions may name; overrides may too.
    definitions: Arc<Definitions>,
    /// The day that decides which exceptions have expired.
    today: Date,
    /// What the kernel is to refuse.
    denied: Arc<Denied>,
}

impl RuleSet {
    /// Compiles rule files into one set. Lists and macros are shared between them, ids are unique among them.
    /// `today` decides which exceptions have expired: the rules themselves have no clock.
    pub fn compile(sources: &[Source], today: Date) -> Result<Self, Vec<RuleError>> {
        Self::new(Vec::new(), Arc::default(), today).and(sources, Origin::Builtin, Leeway::Full)
    }

    /// This set with the administrator's rules.
    pub fn with_system(&self, sources: &[Source]) -> Result<Self, Vec<RuleError>> {
        self.and(sources, Origin::System, Leeway::Full)
    }

    /// This set with the rules of a user.
    pub fn with_user(&self, files: &[RuleText], leeway: Leeway) -> Result<Self, Vec<RuleError>> {
        self.and(&sources(files), Origin::User, leeway)
    }

    /// This set with the rules of a workspace.
    pub fn with_workspace(&self, files: &[RuleText]) -> Result<Self, Vec<RuleError>> {
        self.and(&sources(files), Origin::Workspace, Leeway::Tighten)
    }

    /// This set with the rules of a user and of a workspace.
    pub fn with_own(&self, own: &OwnRules, leeway: Leeway) -> Result<Self, Vec<RuleError>> {
        self.with_user(&own.user, leeway)?.with_workspace(&own.workspace)
    }

    /// This set and one more layer: rules under ids that are free, and changes to those below.
    fn and(&self, sources: &[Source], origin: Origin, users: Leeway) -> Result<Self, Vec<RuleError>> {
        if sources.is_empty() {
            return Ok(self.clone());
        }
        let loaded = load::load(sources, self, origin)?;
        let added = loaded.rules.into_iter().map(Arc::new);
        let mut rules: Vec<_> = self.rules.iter().cloned().chain(added).collect();
        for changes in &loaded.changes {
            rules = changes.apply(&rules, &loaded.definitions, self.today, origin, users)?;
        }
        Self::new(rules, Arc::new(loaded.definitions), self.today).denying()
    }

    /// With what the kernel is to refuse.
    fn denying(self) -> Result<Self, Vec<RuleError>> {
        let denied = deny::compile(&self.rules).map_err(|kind| vec![RuleError::nowhere(kind)])?;
        Ok(Self { denied: Arc::new(denied), ..self })
    }

    fn new(rules: Vec<Arc<Rule>>, definitions: Arc<Definitions>, today: Date) -> Self {
        let index = EventKind::ALL.map(|kind| {
            let enabled = rules.iter().enumerate().filter(|(_, rule)| rule.enabled);
            let parts: Box<[Part]> =
                enabled.flat_map(|(at, rule)| rule.looking_at(kind).map(move |part| (at, part))).collect();
            let conditions = parts.iter().filter_map(|&(at, part)| rules[at].condition(part));
            let index = Index::new(kind, conditions.map(|condition| &condition.expr));
            (parts, index)
        });
        Self { rules, index, definitions, today, denied: Arc::default() }
    }

    /// This one rule of the set, enabled.
    pub(super) fn only(&self, rule: &Rule) -> Self {
        let rule = Rule { enabled: true, ..rule.clone() };
        Self::new(vec![Arc::new(rule)], Arc::clone(&self.definitions), self.today)
    }

    /// The rules, in the order of their files; disabled ones too.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rule with this id.
    pub fn rule(&self, id: &str) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| rule.id == id)
    }

    /// What the kernel is to refuse.
    pub fn denied(&self) -> &Arc<Denied> {
        &self.denied
    }

    /// Whether an enabled rule asks for this.
    pub fn asks_for(&self, action: Action) -> bool {
        self.rules.iter().any(|rule| rule.enabled && rule.action() == action)
    }

    /// The events that could make a difference to the enabled rules.
    pub fn wanted(&self) -> Wanted {
        let kinds = EventKind::ALL.into_iter().filter(|kind| !self.parts(*kind).is_empty()).collect();
        let opens =
            self.parts(EventKind::Open).iter().filter_map(|&(rule, at)| self.rules[rule].condition(at));
        let opens = opens.map(|condition| &condition.expr);
        Wanted::new(kinds, opens)
    }

    /// The day that decides which exceptions have expired.
    pub(super) fn today(&self) -> Date {
        self.today
    }

    /// The lists and macros.
    pub(super) fn definitions(&self) -> &Arc<Definitions> {
        &self.definitions
    }

    /// What looks at this kind of event.
    pub(super) fn parts(&self, kind: EventKind) -> &[Part] {
        &self.index[kind as usize].0
    }

    /// Which of [`Self::parts`] an event could meet.
    pub(super) fn look_up(&self, record: &impl Record, marks: &mut Marks) {
        self.index[record.kind() as usize].1.look_up(record, marks);
    }

    /// The same rules with some of them turned on or off, made milder or graver, given other thresholds or more
    /// exceptions, by the administrator.
    pub fn with(&self, overrides: &Overrides) -> Result<Self, Vec<RuleError>> {
        let rules =
            overrides.apply(&self.rules, &self.definitions, self.today, Origin::System, Leeway::Full)?;
        Self::new(rules, Arc::clone(&self.definitions), self.today).denying()
    }
}

fn sources(files: &[RuleText]) -> Vec<Source> {
    files.iter().map(|file| Source { name: file.name.clone(), text: file.text.clone() }).collect()
}
