//! The TOML layer: from the text of rule files to rules.
//!
//! Every key is known or an error, and as many errors as can be told apart are reported at once.
//!
//! ```toml
//! [lists]                                # shared by all files
//! shells = ["sh", "bash"]
//!
//! [macros]                               # conditions with a name, used as $shell
//! shell = "process.name in @shells"
//!
//! [[rule]]
//! id = "many-shells"
//! title = "Many shells were started at once"
//! description = "Why the rule is as it is."
//! severity = "warning"                   # info, warning, high, critical
//! attack = ["T1059.004"]
//! enabled = true                         # unless said otherwise
//! event = "exec"                         # or ["exec", "open"]
//! condition = "$shell and not process.parent.name == 'make'"
//! window = { over = "10s", by = ["process.user.id"], at_least = 100 }
//! message = "{process.executable} (pid {process.pid}) is one of many"
//! suppress = { for = "60s", by = ["process.user.id"] }
//! exceptions = [{ condition = "process.parent.name == 'ctest'", reason = "its job", expires = 2027-01-31 }]
//! ```
//!
//! A threshold counts events; with `sum` it sums a field, with `distinct` it counts a field's values. One of
//! several is enough with `any = [{ sum = "coi.io.bytes", at_least = "50MiB" }, { ... }]`. Instead of `event`,
//! `condition` and `window` a rule can have
//! `sequence = { within = "60s", by = [...], ordered = false, steps = [{ event, condition, threshold }, ...] }`, where
//! `unless = { event, condition }` is an event after which it begins anew. A rule with `absent = { event, condition,
//! since = { event, condition }, within = "1h", by = [...] }` is meant only if there was none of that event since
//! the last of the other. `action` says what is done, if not what the severity calls for: log, notify, deny (see
//! [`deny`]), kill-process, cut-network, freeze or kill.
//! A file may also have tables `[rules.ID]` that change rules, see [`Overrides`].
//! State is never shared between containers: `by` divides further. Without `suppress` a rule does not repeat
//! itself for 30 s about the same `by`, or, where it has none, about the same process.
//! The tests of a rule are the business of [`testing`](super::testing).

use std::{collections::HashMap, ops::Range, sync::Arc};

use jiff::civil::Date;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    attack,
    check::{self, Condition, Definitions, List, Macro, Text},
    deny,
    error::{File, Place, RuleError, RuleErrorKind, file, nearest},
    layer::Origin,
    message::Template,
    model::{
        Action, Exception, KindSet, Measure, Pattern, Rule, RuleSet, Severity, Source, Step, Suppress,
        Threshold, Unless,
    },
    overrides::{Amount, Overrides},
    parser::{self, Node, Operand},
    quantity, testing,
};
use crate::monitor::event::{EventKind, Field, Type};

const FILE: &[&str] = &["lists", "macros", "rule", "rules"];
const RULE: &[&str] = &[
    "id",
    "title",
    "description",
    "severity",
    "action",
    "attack",
    "enabled",
    "event",
    "condition",
    "window",
    "sequence",
    "absent",
    "exceptions",
    "message",
    "suppress",
    "test",
];
const WINDOW: &[&str] = &["over", "by", "any", "sum", "distinct", "at_least"];
const SEQUENCE: &[&str] = &["within", "by", "ordered", "unless", "steps"];
const ABSENT: &[&str] = &["event", "condition", "since", "within", "by"];
const PART: &[&str] = &["event", "condition"];
const STEP: &[&str] = &["name", "event", "condition", "any", "sum", "distinct", "at_least"];
const THRESHOLD: &[&str] = &["sum", "distinct", "at_least"];
const EXCEPTION: &[&str] = &["condition", "reason", "expires"];
const SUPPRESS: &[&str] = &["for", "by"];

/// How long a rule does not repeat itself about the same subject, unless it says otherwise.
const SUPPRESSED: u64 = 30_000_000_000;

/// What the files of a layer say.
pub(super) struct Loaded {
    /// The rules that they add.
    pub(super) rules: Vec<Rule>,
    /// The lists and macros, those of the layers below among them.
    pub(super) definitions: Definitions,
    /// What they change, file by file.
    pub(super) changes: Vec<Overrides>,
}

/// Loads the files of a layer; what is below it is known to them, and its names are taken.
pub(super) fn load(sources: &[Source], below: &RuleSet, origin: Origin) -> Result<Loaded, Vec<RuleError>> {
    let mut errors = Vec::new();
    let mut parsed = Vec::new();
    for source in sources {
        let file = file(source);
        match DeTable::parse(&source.text) {
            Ok(table) => parsed.push((file, table)),
            Err(error) => errors.push(not_toml(file, &error)),
        }
    }
    if !errors.is_empty() {
        // What the others take from this file would seem to be missing.
        return Err(errors);
    }
    let mut definitions = below.definitions().for_layer(origin);
    for (file, table) in &parsed {
        define(&mut Reader { file: file.clone(), errors: &mut errors }, table.get_ref(), &mut definitions);
    }
    let new = |name: &&str| !below.definitions().macros.contains_key(*name);
    let mut macros: Vec<&str> = definitions.macros.keys().map(String::as_str).filter(new).collect();
    macros.sort_unstable();
    for name in macros {
        check::check_macro(name, &definitions, &mut errors);
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut changes = Vec::new();
    let mut first: HashMap<String, String> =
        below.rules().iter().map(|rule| (rule.id.clone(), rule.place.to_string())).collect();
    for (file, table) in &parsed {
        let mut reader = Reader { file: file.clone(), errors: &mut errors };
        changes.push(Overrides::read(&mut reader, table.get_ref()));
        for (table, span) in reader.tables(table.get_ref(), "rule") {
            let today = below.today();
            let mut loader = RuleLoader { reader: &mut reader, definitions: &definitions, today, origin };
            let Some(rule) = loader.rule(table, span, &mut first) else { continue };
            rules.push(rule);
        }
    }
    if errors.is_empty() {
        return Ok(Loaded { rules, definitions, changes });
    }
    let order = |name: &str| sources.iter().position(|source| source.name == name);
    errors.sort_by_key(|error| (order(error.file()), error.start()));
    Err(errors)
}

/// What `read` makes of a TOML file, or all that is wrong with it.
pub(crate) fn read<T>(
    source: &Source,
    read: impl FnOnce(&mut Reader<'_>, &DeTable<'_>) -> T,
) -> Result<T, Vec<RuleError>> {
    let file = file(source);
    let table = DeTable::parse(&source.text).map_err(|error| vec![not_toml(file.clone(), &error)])?;
    let mut errors = Vec::new();
    let made = read(&mut Reader { file, errors: &mut errors }, table.get_ref());
    errors.sort_by_key(RuleError::start);
    if errors.is_empty() { Ok(made) } else { Err(errors) }
}

/// What a TOML file says, by the type that it is read into; the first that is wrong.
pub(crate) fn deserialize<T: serde::de::DeserializeOwned>(source: &Source) -> Result<T, Vec<RuleError>> {
    toml::from_str(&source.text).map_err(|error| vec![not_toml(file(source), &error)])
}

/// The error for a file that is not TOML.
fn not_toml(file: File, error: &toml::de::Error) -> RuleError {
    let end = file.inner().len();
    let span = error.span().unwrap_or(0..0);
    let span = span.start.min(end)..span.end.min(end);
    // Some messages have several lines, the second being what was expected.
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    Place { file, span }.error(RuleErrorKind::Toml(message))
}

/// Reads the keys `lists` and `macros` of a file, and says which of its keys mean nothing.
fn define(reader: &mut Reader<'_>, table: &DeTable<'_>, definitions: &mut Definitions) {
    reader.keys(table, "a rule file", FILE);
    if let Some((lists, _)) = reader.table(table, "lists") {
        for (key, value) in lists {
            let place = reader.place(key.span());
            // A list with something wrong in it is known, but empty, so that its uses are not wrong as well.
            let values = reader.list_values(key.get_ref(), value).unwrap_or_default();
            let earlier = definitions.lists.get(key.get_ref().as_ref()).map(|list| list.place.clone());
            if reader.name("list", key.get_ref(), &place, earlier.as_ref()) {
                definitions.lists.insert(key.get_ref().to_string(), List { values, place });
            }
        }
    }
    if let Some((macros, _)) = reader.table(table, "macros") {
        for (key, value) in macros {
            let place = reader.place(key.span());
            let Some(text) = reader.as_text(key.get_ref(), value) else { continue };
            let tree = reader.parse(&text);
            let earlier =
                definitions.macros.get(key.get_ref().as_ref()).map(|earlier| earlier.text.place.clone());
            if reader.name("macro", key.get_ref(), &place, earlier.as_ref()) {
                definitions.macros.insert(key.get_ref().to_string(), Macro { text, tree });
            }
        }
    }
}

/// Reads values out of TOML tables, and notes what is wrong with them.
pub(crate) struct Reader<'a> {
    pub(super) file: File,
    pub(super) errors: &'a mut Vec<RuleError>,
}

impl Reader<'_> {
    pub(crate) fn place(&self, span: Range<usize>) -> Place {
        let end = self.file.inner().len();
        Place { file: self.file.clone(), span: span.start.min(end)..span.end.min(end) }
    }

    pub(crate) fn error(&mut self, span: Range<usize>, kind: RuleErrorKind) {
        let error = self.place(span).error(kind);
        self.errors.push(error);
    }

    /// Every key of the table must be a known one.
    pub(crate) fn keys(&mut self, table: &DeTable<'_>, what: &'static str, known: &'static [&'static str]) {
        for key in table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let kind = RuleErrorKind::UnknownKey { key: key.get_ref().to_string(), table: what, known };
                self.error(key.span(), kind);
            }
        }
    }

    pub(crate) fn wrong_type(&mut self, key: &str, expected: &'static str, value: &Spanned<DeValue<'_>>) {
        let found = found(value.get_ref());
        self.error(value.span(), RuleErrorKind::WrongType { key: key.to_owned(), expected, found });
    }

    pub(super) fn missing(&mut self, span: Range<usize>, key: &'static str, table: &'static str) {
        self.error(span, RuleErrorKind::MissingKey { key, table });
    }

    /// Whether a name is one, and not taken.
    fn name(&mut self, what: &'static str, name: &str, place: &Place, earlier: Option<&Place>) -> bool {
        let kind = if let Some(earlier) = earlier {
            RuleErrorKind::Duplicate { what, name: name.to_owned(), first: earlier.to_string() }
        } else if is_name(name) {
            return true;
        } else {
            RuleErrorKind::BadName { what, name: name.to_owned() }
        };
        self.errors.push(place.error(kind));
        false
    }

    pub(super) fn as_text(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Text> {
        match value.get_ref() {
            DeValue::String(text) => Some(Text { value: text.to_string(), place: self.place(value.span()) }),
            _ => {
                self.wrong_type(key, "a text", value);
                None
            }
        }
    }

    pub(in crate::monitor) fn text(&mut self, table: &DeTable<'_>, key: &str) -> Option<Text> {
        table.get(key).and_then(|value| self.as_text(key, value))
    }

    fn needed_text(
        &mut self,
        table: &DeTable<'_>,
        span: &Range<usize>,
        key: &'static str,
        what: &'static str,
    ) -> Option<Text> {
        if table.get(key).is_none() {
            self.missing(span.clone(), key, what);
        }
        self.text(table, key)
    }

    pub(crate) fn boolean(&mut self, table: &DeTable<'_>, key: &str) -> Option<bool> {
        let value = table.get(key)?;
        let boolean = value.get_ref().as_bool();
        if boolean.is_none() {
            self.wrong_type(key, "true or false", value);
        }
        boolean
    }

    pub(super) fn integer(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<i64> {
        let integer = value
            .get_ref()
            .as_integer()
            .and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok());
        if integer.is_none() {
            self.wrong_type(key, "a whole number of at most 64 bits", value);
        }
        integer
    }

    /// A whole number from 1.
    pub(super) fn count(&mut self, table: &DeTable<'_>, key: &str) -> Option<u64> {
        let value = table.get(key)?;
        match u64::try_from(self.integer(key, value)?) {
            Ok(count) if count > 0 => Some(count),
            _ => {
                self.wrong_type(key, "a number from 1", value);
                None
            }
        }
    }

    /// A duration that is not zero: nothing happens in no time.
    fn span_of_time(&mut self, table: &DeTable<'_>, key: &str) -> Option<u64> {
        match self.duration(table, key)? {
            0 => {
                if let Some(value) = table.get(key) {
                    let help = "nothing happens in no time: write a longer one".to_owned();
                    let kind =
                        RuleErrorKind::BadValue { what: "time to look at", text: "0".to_owned(), help };
                    self.error(value.span(), kind);
                }
                None
            }
            duration => Some(duration),
        }
    }

    pub(super) fn duration(&mut self, table: &DeTable<'_>, key: &str) -> Option<u64> {
        let text = self.text(table, key)?;
        let duration = quantity::duration(&text.value);
        if duration.is_none() {
            let help = "write a whole number and a unit: 500ms, 10s, 5m, 1h".to_owned();
            self.errors.push(text.place.error(RuleErrorKind::BadValue {
                what: "duration",
                text: text.value,
                help,
            }));
        }
        duration
    }

    /// A threshold's value: a number, or a size.
    pub(super) fn amount(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Amount> {
        let amount = match value.get_ref() {
            DeValue::String(text) => quantity::size(text).map(Amount::Size),
            DeValue::Integer(_) => u64::try_from(self.integer(key, value)?).ok().map(Amount::Number),
            _ => {
                self.wrong_type(key, "a number, or a size such as \"50MiB\"", value);
                return None;
            }
        };
        match amount {
            Some(Amount::Size(1..) | Amount::Number(1..)) => amount,
            _ => {
                let text = self.file.inner().get(value.span()).unwrap_or_default().to_owned();
                let help = "write a number from 1, or a size such as \"50MiB\"".to_owned();
                self.error(value.span(), RuleErrorKind::BadValue { what: "threshold", text, help });
                None
            }
        }
    }

    /// The values of an array.
    pub(super) fn array<'t>(
        &mut self,
        table: &'t DeTable<'_>,
        key: &str,
    ) -> Option<Vec<&'t Spanned<DeValue<'t>>>> {
        let value = table.get(key)?;
        match value.get_ref().as_array() {
            Some(array) => Some(array.iter().collect()),
            None => {
                self.wrong_type(key, "a list", value);
                None
            }
        }
    }

    pub(super) fn texts(&mut self, table: &DeTable<'_>, key: &str) -> Option<Vec<Text>> {
        let values = self.array(table, key)?;
        values.into_iter().map(|value| self.as_text(key, value)).collect()
    }

    pub(crate) fn table<'t>(
        &mut self,
        table: &'t DeTable<'_>,
        key: &str,
    ) -> Option<(&'t DeTable<'t>, Range<usize>)> {
        let value = table.get(key)?;
        self.as_table(key, value)
    }

    pub(super) fn as_table<'t>(
        &mut self,
        key: &str,
        value: &'t Spanned<DeValue<'_>>,
    ) -> Option<(&'t DeTable<'t>, Range<usize>)> {
        match value.get_ref().as_table() {
            Some(inner) => Some((inner, value.span())),
            None => {
                self.wrong_type(key, "a table", value);
                None
            }
        }
    }

    /// The tables of an array of tables.
    pub(super) fn tables<'t>(
        &mut self,
        table: &'t DeTable<'_>,
        key: &str,
    ) -> Vec<(&'t DeTable<'t>, Range<usize>)> {
        let values = self.array(table, key).unwrap_or_default();
        values.into_iter().filter_map(|value| self.as_table(key, value)).collect()
    }

    /// The values of a list of texts or of numbers.
    fn list_values(&mut self, name: &str, value: &Spanned<DeValue<'_>>) -> Option<Vec<(Operand, Place)>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(name, "a list of texts or numbers", value);
            return None;
        };
        if array.is_empty() {
            self.error(value.span(), RuleErrorKind::Empty("this list"));
            return None;
        }
        let mut values = Vec::new();
        for value in array.iter() {
            let operand = match value.get_ref() {
                DeValue::String(text) => Operand::Text(text.to_string()),
                DeValue::Integer(_) => Operand::Number(self.integer(name, value)?),
                _ => {
                    self.wrong_type(name, "texts or numbers", value);
                    return None;
                }
            };
            values.push((operand, self.place(value.span())));
        }
        Some(values)
    }

    fn parse(&mut self, text: &Text) -> Option<Node> {
        parser::parse(&text.value).map_err(|(kind, span)| self.errors.push(text.at(&span).error(kind))).ok()
    }

    pub(super) fn severity(&mut self, text: &Text) -> Option<Severity> {
        self.one_of("severity", text, Severity::ALL.map(|severity| (severity.name(), severity)))
    }

    pub(super) fn action(&mut self, text: &Text) -> Option<Action> {
        self.one_of("action", text, Action::ALL.map(|action| (action.name(), action)))
    }

    /// What a text names, of a few things.
    pub(in crate::monitor) fn one_of<T: Copy, const N: usize>(
        &mut self,
        what: &'static str,
        text: &Text,
        all: [(&'static str, T); N],
    ) -> Option<T> {
        let found = all.iter().find(|(name, _)| *name == text.value).map(|(_, value)| *value);
        if found.is_none() {
            let known: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            let suggestion = nearest(&text.value, known.iter().copied()).map(str::to_owned);
            let kind = RuleErrorKind::Unknown { what, name: text.value.clone(), suggestion, known };
            self.errors.push(text.place.error(kind));
        }
        found
    }

    fn date(&mut self, key: &str, value: &Spanned<DeValue<'_>>) -> Option<Date> {
        let date = match value.get_ref() {
            DeValue::Datetime(toml::value::Datetime { date: Some(date), time: None, .. }) => {
                let year = i16::try_from(date.year).ok();
                let (month, day) = (i8::try_from(date.month).ok(), i8::try_from(date.day).ok());
                year.zip(month).zip(day).and_then(|((year, month), day)| Date::new(year, month, day).ok())
            }
            _ => None,
        };
        if date.is_none() {
            self.wrong_type(key, "a date without quotes, such as 2027-01-31", value);
        }
        date
    }

    /// The key `exceptions`.
    pub(super) fn exceptions(&mut self, table: &DeTable<'_>) -> Vec<WrittenException> {
        const WHAT: &str = "an exception";
        let mut exceptions = Vec::new();
        for (inner, span) in self.tables(table, "exceptions") {
            self.keys(inner, WHAT, EXCEPTION);
            let reason = self.needed_text(inner, &span, "reason", WHAT);
            if let Some(reason) = reason.as_ref().filter(|reason| reason.value.trim().is_empty()) {
                self.errors.push(reason.place.error(RuleErrorKind::Empty("this reason")));
            }
            let text = self.needed_text(inner, &span, "condition", WHAT);
            let tree = text.as_ref().and_then(|text| self.parse(text));
            let expires = inner.get("expires").and_then(|value| self.date("expires", value));
            if let (Some(text), Some(tree), Some(reason)) = (text, tree, reason) {
                exceptions.push(WrittenException { reason: reason.value, expires, text, tree });
            }
        }
        exceptions
    }
}

/// An exception before it is known what the events of its rule carry.
#[derive(Clone, Debug)]
pub(super) struct WrittenException {
    reason: String,
    expires: Option<Date>,
    text: Text,
    tree: Node,
}

impl WrittenException {
    /// The exception to a rule that looks at these kinds of events.
    pub(super) fn compile(
        self,
        kinds: KindSet,
        definitions: &Definitions,
        today: Date,
        errors: &mut Vec<RuleError>,
    ) -> Exception {
        let condition = check::check(&self.text, &self.tree, kinds, definitions, errors);
        let expired = self.expires.is_some_and(|expires| expires <= today);
        Exception { reason: self.reason, expires: self.expires, expired, condition }
    }
}

fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c))
}

/// Reads one rule.
struct RuleLoader<'a, 'e> {
    reader: &'a mut Reader<'e>,
    definitions: &'a Definitions,
    today: Date,
    origin: Origin,
}

impl RuleLoader<'_, '_> {
    /// Reads a rule. All of it is looked at, even where something is wrong, so that everything wrong is said
    /// at once; what is returned then is never used.
    fn rule(
        &mut self,
        table: &DeTable<'_>,
        span: Range<usize>,
        first: &mut HashMap<String, String>,
    ) -> Option<Rule> {
        const WHAT: &str = "a rule";
        self.reader.keys(table, WHAT, RULE);
        let id = self.reader.needed_text(table, &span, "id", WHAT);
        if let Some(id) = &id {
            let place = id.place.clone();
            if let Some(earlier) = first.get(&id.value) {
                let kind =
                    RuleErrorKind::Duplicate { what: "rule", name: id.value.clone(), first: earlier.clone() };
                self.reader.errors.push(place.error(kind));
            } else if self.reader.name("rule", &id.value, &place, None) {
                first.insert(id.value.clone(), place.to_string());
            }
        }
        let title = self.reader.needed_text(table, &span, "title", WHAT);
        let description = self.reader.text(table, "description").map(|text| text.value).unwrap_or_default();
        let severity = self
            .reader
            .needed_text(table, &span, "severity", WHAT)
            .and_then(|text| self.reader.severity(&text));
        let own_action = self.reader.text(table, "action").and_then(|text| self.reader.action(&text));
        let attack = self.attack(table);
        let enabled = self.reader.boolean(table, "enabled").unwrap_or(true);
        let (steps, pattern) = self.looked_for(table, &span)?;
        let kinds = steps.iter().fold(KindSet::default(), |kinds, step| kinds.union(step.kinds));
        let exceptions = self.exceptions(table, kinds);
        let message = self.reader.text(table, "message").and_then(|text| {
            Template::parse(&text, kinds).map_err(|error| self.reader.errors.push(error)).ok()
        });
        let suppress = self.suppress(table, kinds, pattern.as_ref());
        let tests: Vec<testing::Test> = self
            .reader
            .tables(table, "test")
            .into_iter()
            .filter_map(|(table, span)| testing::read(self.reader, table, &span))
            .collect();
        let title = title?.value;
        let Text { value: id, place } = id?;
        let rule = Rule {
            id,
            description: description.trim().to_owned(),
            severity: severity?,
            own_action,
            attack,
            kinds,
            enabled,
            exceptions,
            origin: self.origin,
            administered: self.origin == Origin::System,
            place,
            message: message.unwrap_or_else(|| Template::plain(&title)),
            title,
            steps,
            pattern,
            suppress,
            tests: Arc::from(tests),
        };
        let denied = deny::check(&rule, self.definitions);
        self.reader.errors.extend(denied);
        Some(rule)
    }

    fn attack(&mut self, table: &DeTable<'_>) -> Vec<String> {
        let texts = self.reader.texts(table, "attack").unwrap_or_default();
        let mut ids = Vec::new();
        for text in texts {
            let kind = if !attack::is_technique_id(&text.value) {
                RuleErrorKind::BadTechnique(text.value)
            } else if attack::is_known(&text.value) {
                ids.push(text.value);
                continue;
            } else {
                let suggestion = nearest(&text.value, attack::TECHNIQUES.iter().copied()).map(str::to_owned);
                RuleErrorKind::Unknown { what: "technique", name: text.value, suggestion, known: Vec::new() }
            };
            self.reader.errors.push(text.place.error(kind));
        }
        ids
    }

    /// What the rule looks for: `event` and `condition`, perhaps with a `window`; or a `sequence`.
    fn looked_for(
        &mut self,
        table: &DeTable<'_>,
        span: &Range<usize>,
    ) -> Option<(Vec<Step>, Option<Pattern>)> {
        const HELP: &str = "a sequence has its events, conditions and thresholds in its steps";
        if table.contains_key("sequence") {
            for key in ["event", "condition", "window", "absent"] {
                if let Some((key, _)) = table.get_key_value(key) {
                    let message = format!("a rule with a sequence has no `{}` of its own", key.get_ref());
                    self.reader.error(key.span(), RuleErrorKind::Conflict { message, help: HELP });
                }
            }
            let (sequence, span) = self.reader.table(table, "sequence")?;
            return self.sequence(sequence, &span);
        }
        let (kinds, condition) = self.events(table, span, "a rule")?;
        let mut step = Step { name: String::new(), kinds, condition, thresholds: Vec::new() };
        if let Some((absent, span)) = self.reader.table(table, "absent") {
            if let Some((key, _)) = table.get_key_value("window") {
                let message = "a rule with `absent` has no `window`".to_owned();
                let help = "write two rules, or a sequence with `unless`";
                self.reader.error(key.span(), RuleErrorKind::Conflict { message, help });
            }
            return self.absent(absent, &span, step);
        }
        let Some((window, span)) = self.reader.table(table, "window") else {
            return Some((vec![step], None));
        };
        self.reader.keys(window, "a window", WINDOW);
        if !window.contains_key("over") {
            self.reader.missing(span.clone(), "over", "a window");
        }
        if !window.contains_key("at_least") && !window.contains_key("any") {
            self.reader.missing(span.clone(), "at_least", "a window");
        }
        step.thresholds = self.thresholds(window, &span, kinds, None);
        let by = self.fields(window, "by", &[kinds]).unwrap_or_default();
        let within = self.reader.span_of_time(window, "over")?;
        Some((vec![step], Some(Pattern { within, by, ordered: false, unless: None, again: false })))
    }

    /// The key `absent`: the rule's own event is meant if there was none of these since another. That is a sequence
    /// of the other and the rule's own, which what should have been there undoes.
    fn absent(
        &mut self,
        table: &DeTable<'_>,
        span: &Range<usize>,
        mut own: Step,
    ) -> Option<(Vec<Step>, Option<Pattern>)> {
        const WHAT: &str = "`absent`";
        self.reader.keys(table, WHAT, ABSENT);
        for key in ["since", "within"] {
            if !table.contains_key(key) {
                self.reader.missing(span.clone(), key, WHAT);
            }
        }
        let unless = self.events(table, span, WHAT).map(|(kinds, condition)| Unless { kinds, condition });
        let since = self.reader.table(table, "since").and_then(|(since, span)| {
            self.reader.keys(since, "`since`", PART);
            self.events(since, &span, "`since`")
        });
        let kinds: Vec<KindSet> = [
            Some(own.kinds),
            unless.as_ref().map(|unless| unless.kinds),
            since.as_ref().map(|since| since.0),
        ]
        .into_iter()
        .flatten()
        .collect();
        let by = self.fields(table, "by", &kinds).unwrap_or_default();
        let within = self.reader.span_of_time(table, "within")?;
        let single = || vec![Threshold { name: None, measure: Measure::Count, at_least: 1 }];
        let (kinds, condition) = since?;
        own.name = "event".to_owned();
        own.thresholds = single();
        let since = Step { name: "since".to_owned(), kinds, condition, thresholds: single() };
        Some((
            vec![since, own],
            Some(Pattern { within, by, ordered: true, unless: Some(unless?), again: true }),
        ))
    }

    fn sequence(&mut self, table: &DeTable<'_>, span: &Range<usize>) -> Option<(Vec<Step>, Option<Pattern>)> {
        const WHAT: &str = "a sequence";
        self.reader.keys(table, WHAT, SEQUENCE);
        for key in ["within", "steps"] {
            if !table.contains_key(key) {
                self.reader.missing(span.clone(), key, WHAT);
            }
        }
        let mut steps: Vec<Step> = Vec::new();
        for (step, span) in self.reader.tables(table, "steps") {
            const WHAT: &str = "a step";
            self.reader.keys(step, WHAT, STEP);
            let Some((kinds, condition)) = self.events(step, &span, WHAT) else { continue };
            let name = self
                .reader
                .text(step, "name")
                .map(|text| text.value)
                .unwrap_or_else(|| kinds.iter().map(EventKind::name).collect::<Vec<_>>().join("-"));
            if steps.iter().any(|earlier| earlier.name == name) {
                let message = format!("two steps are called `{name}`");
                let help = "give each a `name`";
                self.reader.error(span.clone(), RuleErrorKind::Conflict { message, help });
            }
            let thresholds = self.thresholds(step, &span, kinds, Some(&name));
            steps.push(Step { name, kinds, condition, thresholds });
        }
        if steps.len() < 2 && table.contains_key("steps") {
            let message = "a sequence needs two steps or more".to_owned();
            let help = "for one kind of event use `event`, `condition` and `window`";
            self.reader.error(span.clone(), RuleErrorKind::Conflict { message, help });
        }
        let unless = self.reader.table(table, "unless").and_then(|(unless, span)| {
            self.reader.keys(unless, "`unless`", PART);
            self.events(unless, &span, "`unless`").map(|(kinds, condition)| Unless { kinds, condition })
        });
        let kinds: Vec<KindSet> =
            steps.iter().map(|step| step.kinds).chain(unless.as_ref().map(|unless| unless.kinds)).collect();
        let by = self.fields(table, "by", &kinds).unwrap_or_default();
        let ordered = self.reader.boolean(table, "ordered").unwrap_or(true);
        let within = self.reader.span_of_time(table, "within")?;
        Some((steps, Some(Pattern { within, by, ordered, unless, again: false })))
    }

    /// The keys `event` and `condition`.
    fn events(
        &mut self,
        table: &DeTable<'_>,
        span: &Range<usize>,
        what: &'static str,
    ) -> Option<(KindSet, Condition)> {
        let text = self.reader.needed_text(table, span, "condition", what);
        let tree = text.as_ref().and_then(|text| self.reader.parse(text));
        let Some(value) = table.get("event") else {
            self.reader.missing(span.clone(), "event", what);
            return None;
        };
        let names = match value.get_ref() {
            DeValue::Array(_) => self.reader.texts(table, "event")?,
            _ => vec![self.reader.as_text("event", value)?],
        };
        if names.is_empty() {
            self.reader.error(value.span(), RuleErrorKind::Empty("this list"));
        }
        let mut kinds = KindSet::default();
        for name in names {
            match check::event_kind(&name.value, &name.place) {
                Ok(kind) => kinds.insert(kind),
                Err(error) => self.reader.errors.push(error),
            }
        }
        if kinds.is_empty() {
            return None;
        }
        let condition =
            check::check(text.as_ref()?, tree.as_ref()?, kinds, self.definitions, self.reader.errors);
        Some((kinds, condition))
    }

    /// The fields of a key such as `by`, each of which must come with every one of the sets of kinds.
    fn fields(&mut self, table: &DeTable<'_>, key: &str, kinds: &[KindSet]) -> Option<Vec<Field>> {
        let mut fields = Vec::new();
        for text in self.reader.texts(table, key)? {
            let field = kinds
                .iter()
                .try_fold(None, |_, kinds| check::carried_field(&text.value, *kinds, &text.place).map(Some));
            match field {
                Ok(field) => fields.extend(field),
                Err(error) => self.reader.errors.push(error),
            }
        }
        Some(fields)
    }

    /// The thresholds of a window or of a step: one in the table itself, or several under `any`.
    fn thresholds(
        &mut self,
        table: &DeTable<'_>,
        span: &Range<usize>,
        kinds: KindSet,
        step: Option<&str>,
    ) -> Vec<Threshold> {
        let mut thresholds: Vec<Threshold> = Vec::new();
        if table.contains_key("any") {
            for key in THRESHOLD {
                if let Some((key, _)) = table.get_key_value(*key) {
                    let message = format!("`{}` stands beside `any`", key.get_ref());
                    let help = "write one threshold, or several in `any = [{ ... }, { ... }]`";
                    self.reader.error(key.span(), RuleErrorKind::Conflict { message, help });
                }
            }
            for (inner, span) in self.reader.tables(table, "any") {
                self.reader.keys(inner, "a threshold", THRESHOLD);
                if !inner.contains_key("at_least") {
                    self.reader.missing(span.clone(), "at_least", "a threshold");
                }
                thresholds.extend(self.threshold(inner, kinds));
            }
            if thresholds.is_empty() && !self.reader.errors.is_empty() {
                return thresholds;
            }
            if thresholds.is_empty() {
                self.reader.error(span.clone(), RuleErrorKind::Empty("`any`"));
            }
        } else if table.contains_key("at_least") {
            thresholds.extend(self.threshold(table, kinds));
        } else {
            for key in ["sum", "distinct"] {
                if let Some((key, _)) = table.get_key_value(key) {
                    let key = key.span();
                    self.reader.missing(key, "at_least", "a threshold");
                }
            }
        }
        // An override changes a threshold by its name: what it measures; in a sequence, its step.
        let alone = thresholds.len() == 1;
        for i in 0..thresholds.len() {
            let measured = match thresholds[i].measure {
                Measure::Count => "count",
                Measure::Sum(field) | Measure::Distinct(field) => field.def().name,
            };
            let name = match step {
                Some(step) if alone => step.to_owned(),
                Some(step) => format!("{step}.{measured}"),
                None => measured.to_owned(),
            };
            if thresholds.iter().any(|earlier| earlier.name.as_ref() == Some(&name)) {
                let message = format!("`{measured}` is measured twice");
                let help = "keep the lower threshold: any of them is enough";
                self.reader.error(span.clone(), RuleErrorKind::Conflict { message, help });
            }
            thresholds[i].name = Some(name);
        }
        if thresholds.is_empty() && step.is_some() {
            thresholds.push(Threshold { name: None, measure: Measure::Count, at_least: 1 });
        }
        thresholds
    }

    fn threshold(&mut self, table: &DeTable<'_>, kinds: KindSet) -> Option<Threshold> {
        let sum = self.reader.text(table, "sum");
        let distinct = self.reader.text(table, "distinct");
        let carried = |text: &Text| check::carried_field(&text.value, kinds, &text.place);
        let measure = match (&sum, &distinct) {
            (Some(_), Some(text)) => Err(text.place.error(RuleErrorKind::Conflict {
                message: "one threshold cannot be a sum and a number of distinct values".to_owned(),
                help: "write several in `any = [{ ... }, { ... }]`",
            })),
            (Some(text), None) => carried(text).and_then(|field| match field.def().ty {
                Type::Integer => Ok(Measure::Sum(field)),
                _ => Err(text.place.error(RuleErrorKind::BadOperator { operator: "sum", field })),
            }),
            (None, Some(text)) => carried(text).map(Measure::Distinct),
            (None, None) => Ok(Measure::Count),
        };
        let measure = measure.map_err(|error| self.reader.errors.push(error)).ok();
        let value = table.get("at_least")?;
        let amount = self.reader.amount("at_least", value)?;
        match amount.for_measure(measure?) {
            Ok(at_least) => Some(Threshold { name: None, measure: measure?, at_least }),
            Err(kind) => {
                self.reader.error(value.span(), kind);
                None
            }
        }
    }

    fn exceptions(&mut self, table: &DeTable<'_>, kinds: KindSet) -> Vec<Exception> {
        let written = self.reader.exceptions(table);
        let (definitions, today) = (self.definitions, self.today);
        let errors = &mut *self.reader.errors;
        written.into_iter().map(|exception| exception.compile(kinds, definitions, today, errors)).collect()
    }

    fn suppress(&mut self, table: &DeTable<'_>, kinds: KindSet, pattern: Option<&Pattern>) -> Suppress {
        let entity = || match pattern {
            Some(pattern) => pattern.by.clone(),
            None => vec![Field::ProcessEntityId],
        };
        let Some((inner, span)) = self.reader.table(table, "suppress") else {
            return Suppress { time: SUPPRESSED, by: entity() };
        };
        self.reader.keys(inner, "`suppress`", SUPPRESS);
        if !inner.contains_key("for") {
            self.reader.missing(span, "for", "`suppress`");
        }
        let time = self.reader.duration(inner, "for").unwrap_or(SUPPRESSED);
        let by = self.fields(inner, "by", &[kinds]).unwrap_or_else(entity);
        Suppress { time, by }
    }
}
