//! Runs the tests that rules carry.
//!
//! ```toml
//! [[rule.test]]
//! name = "bash on a socket"
//! expect = "fire"                      # or "quiet"
//! times = 1                            # how often, where it matters
//! events = [
//!   { event = "link", process.executable = "/usr/bin/bash", coi.link.kind = "socket" },
//!   { at = "1s", every = "10ms", repeat = 500, event = "open", file.path = "/workspace/{n}.c" },
//! ]
//! ```
//!
//! A test sees its own rule alone, enabled. Events are in the order of their times, `at` from the test's
//! beginning. With `repeat`, `{n}` in a text counts from 0. What an event leaves out is derived, so that
//! tests say what matters: names from paths, `process.command_line` and `process.args_count` from
//! `process.args`, `process.entity_id` from `process.pid`, `event.outcome` is success unless there is a
//! `coi.errno`; all events are of one container, process 1000 and the phase `guest`.

use std::{net::IpAddr, ops::Range, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    check,
    engine::Engine,
    error::RuleErrorKind,
    load::Reader,
    model::{Rule, RuleSet},
    quantity,
};
use crate::monitor::event::{EventKind, Field, Record, Type, Value};

const TEST: &[&str] = &["name", "expect", "times", "events"];
/// The keys of an event that are not fields.
const EVENT: [&str; 4] = ["event", "at", "every", "repeat"];
/// How many events one line may stand for.
const REPEAT: u64 = 100_000;

/// How the tests went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each test, and one for each rule that lacks a test.
    pub outcomes: Vec<Outcome>,
}

/// How one test went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The rule's id.
    pub rule: String,
    /// The test's name.
    pub test: String,
    /// Why it failed; `None` where it passed.
    pub failure: Option<String>,
}

impl Report {
    /// Whether nothing failed.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// What failed.
    pub fn failures(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.failure.is_some())
    }
}

/// Runs the tests of the rules whose id, or whose test's name, contains `filter`. A rule without a test that
/// must fire, or without one that must stay quiet, fails.
pub fn run(rules: &RuleSet, filter: Option<&str>) -> Report {
    let wanted = |text: &str| filter.is_none_or(|filter| text.contains(filter));
    let mut outcomes = Vec::new();
    for rule in rules.rules() {
        let whole = wanted(&rule.id);
        for test in rule.tests.iter().filter(|test| whole || wanted(&test.name)) {
            outcomes.push(Outcome {
                rule: rule.id.clone(),
                test: test.name.clone(),
                failure: test.run(rules, rule),
            });
        }
        for (fires, what) in [(true, "fire"), (false, "quiet")] {
            if whole && !rule.tests.iter().any(|test| (test.times != Times::Exactly(0)) == fires) {
                let failure = Some(format!("the rule has no test with expect = \"{what}\""));
                outcomes.push(Outcome {
                    rule: rule.id.clone(),
                    test: format!("(a test that expects {what})"),
                    failure,
                });
            }
        }
    }
    Report { outcomes }
}

/// A test of a rule.
#[derive(Clone, Debug)]
pub(super) struct Test {
    name: String,
    times: Times,
    events: Vec<Line>,
}

/// How often the rule must fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    /// Once or more.
    Some,
    Exactly(u64),
}

/// One line of a test: an event, or many like it.
#[derive(Clone, Debug)]
struct Line {
    kind: EventKind,
    at: u64,
    every: u64,
    /// `None` where the line is one event and `{n}` means nothing.
    repeat: Option<u64>,
    fields: Vec<(Field, Datum)>,
}

/// A field's value.
#[derive(Clone, Debug, PartialEq)]
enum Datum {
    Keyword(String),
    Integer(i64),
    Boolean(bool),
    Ip(IpAddr),
    Keywords(Vec<Arc<str>>),
}

impl Datum {
    fn numbered(&self, n: &str) -> Self {
        match self {
            Self::Keyword(text) => Self::Keyword(text.replace("{n}", n)),
            Self::Keywords(texts) => {
                Self::Keywords(texts.iter().map(|text| text.replace("{n}", n).into()).collect())
            }
            other => other.clone(),
        }
    }
}

/// An event that was written by hand.
#[derive(Clone, Debug)]
pub(super) struct TestRecord {
    kind: EventKind,
    time: u64,
    fields: Vec<(Field, Datum)>,
}

impl Record for TestRecord {
    fn kind(&self) -> EventKind {
        self.kind
    }

    fn time(&self) -> u64 {
        self.time
    }

    fn get(&self, field: Field) -> Option<Value<'_>> {
        self.fields.iter().find(|(name, _)| *name == field).map(|(_, datum)| match datum {
            Datum::Keyword(text) => Value::Keyword(text),
            Datum::Integer(number) => Value::Integer(*number),
            Datum::Boolean(value) => Value::Boolean(*value),
            Datum::Ip(address) => Value::Ip(*address),
            Datum::Keywords(texts) => Value::Keywords(texts),
        })
    }
}

impl Test {
    /// Runs the test; says why it failed.
    fn run(&self, rules: &RuleSet, rule: &Rule) -> Option<String> {
        let mut engine = Engine::new(Arc::new(rules.only(rule)));
        let mut records: Vec<TestRecord> = self.events.iter().flat_map(Line::records).collect();
        records.sort_by_key(|record| record.time);
        let mut alerts = Vec::new();
        for record in &records {
            engine.evaluate(record, 1, &mut alerts);
        }
        let fired = alerts.len() as u64;
        let expected = match self.times {
            Times::Some if fired > 0 => return None,
            Times::Exactly(times) if fired == times => return None,
            Times::Some => "it should have fired".to_owned(),
            Times::Exactly(0) => "it should have stayed quiet".to_owned(),
            Times::Exactly(times) => format!("it should have fired {}", often(times)),
        };
        let said = match alerts.first() {
            Some(alert) => format!(" at {}: {}", quantity::show_duration(alert.time - START), alert.message),
            None => String::new(),
        };
        Some(format!("{expected} and fired {}{said}", often(fired)))
    }
}

fn often(times: u64) -> String {
    match times {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        times => format!("{times} times"),
    }
}

/// Tests begin an hour after the machine did.
const START: u64 = 3_600_000_000_000;

impl Line {
    fn records(&self) -> impl Iterator<Item = TestRecord> {
        (0..self.repeat.unwrap_or(1)).map(|n| {
            let number = n.to_string();
            let fields = match self.repeat {
                Some(_) => {
                    self.fields.iter().map(|(field, datum)| (*field, datum.numbered(&number))).collect()
                }
                None => self.fields.clone(),
            };
            let time = START.saturating_add(self.at).saturating_add(self.every.saturating_mul(n));
            let mut record = TestRecord { kind: self.kind, time, fields };
            record.derive();
            record
        })
    }
}

impl TestRecord {
    /// Fills in what follows from what was written.
    fn derive(&mut self) {
        let text = |text: &str| Datum::Keyword(text.to_owned());
        self.default(Field::EventAction, |record| Some(text(record.kind.name())));
        self.default(Field::Phase, |_| Some(text("guest")));
        self.default(Field::ContainerName, |_| Some(text("test")));
        self.default(Field::ContainerId, |_| Some(text("test")));
        self.default(Field::ProcessPid, |_| Some(Datum::Integer(1000)));
        self.default(Field::ProcessEntityId, |record| match record.get(Field::ProcessPid) {
            Some(Value::Integer(pid)) => Some(Datum::Keyword(pid.to_string())),
            _ => None,
        });
        self.default(Field::EventOutcome, |record| {
            let failed = record.kind == EventKind::ExecFailed || record.get(Field::Errno).is_some();
            Some(text(if failed { "failure" } else { "success" }))
        });
        self.default(Field::ProcessCommandLine, |record| match record.get(Field::ProcessArgs) {
            Some(Value::Keywords(args)) => Some(Datum::Keyword(args.join(" "))),
            _ => None,
        });
        self.default(Field::ProcessArgsCount, |record| match record.get(Field::ProcessArgs) {
            Some(Value::Keywords(args)) => i64::try_from(args.len()).ok().map(Datum::Integer),
            _ => None,
        });
        for (path, name) in [
            (Field::ProcessExecutable, Field::ProcessName),
            (Field::ParentExecutable, Field::ParentName),
            (Field::LinkRelayExecutable, Field::LinkRelayName),
            (Field::FilePath, Field::FileName),
        ] {
            self.default(name, |record| record.last_part(path, '/'));
        }
        self.default(Field::FileExtension, |record| {
            let Some(Value::Keyword(name)) = record.get(Field::FileName) else { return None };
            name.contains('.').then(|| record.last_part(Field::FileName, '.'))?
        });
    }

    /// Fills in a field that was left out, if this kind of event has it.
    fn default(&mut self, field: Field, value: impl FnOnce(&Self) -> Option<Datum>) {
        if self.get(field).is_some() || !field.def().kinds.contains(&self.kind) {
            return;
        }
        let value = value(self);
        self.fields.extend(value.map(|value| (field, value)));
    }

    fn last_part(&self, of: Field, separator: char) -> Option<Datum> {
        match self.get(of) {
            Some(Value::Keyword(text)) => {
                text.rsplit(separator).next().map(|part| Datum::Keyword(part.to_owned()))
            }
            _ => None,
        }
    }
}

/// Reads a test.
pub(super) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, span: &Range<usize>) -> Option<Test> {
    const WHAT: &str = "a test";
    reader.keys(table, WHAT, TEST);
    for key in ["name", "expect", "events"] {
        if !table.contains_key(key) {
            reader.missing(span.clone(), key, WHAT);
        }
    }
    let times = reader.count(table, "times");
    let times = reader.text(table, "expect").and_then(|expect| match (expect.value.as_str(), times) {
        ("fire", None) => Some(Times::Some),
        ("fire", Some(times)) => Some(Times::Exactly(times)),
        ("quiet", None) => Some(Times::Exactly(0)),
        ("quiet", Some(_)) => {
            let message = "a test that expects quiet has no `times`".to_owned();
            let help = "leave `times` out, or expect fire";
            reader.errors.push(expect.place.error(RuleErrorKind::Conflict { message, help }));
            None
        }
        (other, _) => {
            let known = vec!["fire", "quiet"];
            let kind = RuleErrorKind::Unknown {
                what: "expectation",
                name: other.to_owned(),
                suggestion: None,
                known,
            };
            reader.errors.push(expect.place.error(kind));
            None
        }
    });
    let name = reader.text(table, "name");
    let events: Vec<Line> = reader
        .tables(table, "events")
        .into_iter()
        .filter_map(|(table, span)| line(reader, table, &span))
        .collect();
    Some(Test { name: name?.value, times: times?, events })
}

fn line(reader: &mut Reader<'_>, table: &DeTable<'_>, span: &Range<usize>) -> Option<Line> {
    let Some(kind) = reader.text(table, "event") else {
        if !table.contains_key("event") {
            reader.missing(span.clone(), "event", "an event of a test");
        }
        return None;
    };
    let kind = check::event_kind(&kind.value, &kind.place).map_err(|error| reader.errors.push(error)).ok()?;
    let repeat = reader.count(table, "repeat");
    if let Some(value) = table.get("repeat")
        && repeat.is_some_and(|repeat| repeat > REPEAT)
    {
        reader.wrong_type("repeat", "at most 100000", value);
    }
    let mut line = Line {
        kind,
        at: reader.duration(table, "at").unwrap_or(0),
        every: reader.duration(table, "every").unwrap_or(0),
        repeat: repeat.map(|repeat| repeat.min(REPEAT)),
        fields: Vec::new(),
    };
    fields(reader, table, "", &mut line);
    Some(line)
}

/// Reads the fields of an event, whether they are written `"file.path"`, `file.path` or as a table.
fn fields(reader: &mut Reader<'_>, table: &DeTable<'_>, prefix: &str, line: &mut Line) {
    for (key, value) in table {
        if prefix.is_empty() && EVENT.contains(&key.get_ref().as_ref()) {
            continue;
        }
        let name = format!("{prefix}{}", key.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            fields(reader, inner, &format!("{name}."), line);
            continue;
        }
        let place = reader.place(key.span());
        match check::carried_field(&name, [line.kind].into_iter().collect(), &place) {
            Ok(field) if line.fields.iter().any(|(earlier, _)| *earlier == field) => {
                let message = format!("`{name}` is given twice");
                reader.error(key.span(), RuleErrorKind::Conflict { message, help: "keep one of them" });
            }
            Ok(field) => {
                let datum = datum(reader, field, value);
                line.fields.extend(datum.map(|datum| (field, datum)));
            }
            Err(error) => reader.errors.push(error),
        }
    }
}

fn datum(reader: &mut Reader<'_>, field: Field, value: &Spanned<DeValue<'_>>) -> Option<Datum> {
    let name = field.def().name;
    match (field.def().ty, value.get_ref()) {
        (Type::Keyword, DeValue::String(text)) => Some(Datum::Keyword(text.to_string())),
        (Type::Integer, DeValue::Integer(_)) => reader.integer(name, value).map(Datum::Integer),
        // A size is easier to read than its bytes.
        (Type::Integer, DeValue::String(text)) if quantity::size(text).is_some() => {
            quantity::size(text).and_then(|size| i64::try_from(size).ok()).map(Datum::Integer)
        }
        (Type::Boolean, DeValue::Boolean(boolean)) => Some(Datum::Boolean(*boolean)),
        (Type::Ip, DeValue::String(text)) => match text.parse() {
            Ok(address) => Some(Datum::Ip(address)),
            Err(_) => {
                let help = "write one like 192.0.2.1 or 2001:db8::1".to_owned();
                let kind = RuleErrorKind::BadValue { what: "address", text: text.to_string(), help };
                reader.error(value.span(), kind);
                None
            }
        },
        (Type::Keywords, DeValue::Array(array)) => array
            .iter()
            .map(|value| reader.as_text(name, value).map(|text| text.value.into()))
            .collect::<Option<_>>()
            .map(Datum::Keywords),
        (ty, _) => {
            let expected = match ty {
                Type::Keyword => "a text",
                Type::Integer => "a whole number",
                Type::Boolean => "true or false",
                Type::Ip => "an address in quotes",
                Type::Keywords => "a list of texts",
            };
            reader.wrong_type(name, expected, value);
            None
        }
    }
}

/// Events written as in a rule's tests, for the tests of this module itself.
#[cfg(test)]
pub(super) fn records(line_text: &str) -> Vec<TestRecord> {
    let source = super::Source { name: "event".to_owned(), text: format!("line = {{ {line_text} }}") };
    let table = DeTable::parse(&source.text).unwrap();
    let mut errors = Vec::new();
    let mut reader = Reader { file: super::error::file(&source), errors: &mut errors };
    let (table, span) = reader.table(table.get_ref(), "line").unwrap();
    let line = line(&mut reader, table, &span);
    assert!(errors.is_empty(), "{line_text}: {errors:?}");
    line.unwrap().records().collect()
}
