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
//! In the stead of `events` there may be `fixture = "file.jsonl"`, a [`recording`](super::recording) that lies beside
//! the rule's file.
//!
//! A test sees its own rule alone, enabled. Events are in the order of their times, `at` from the test's
//! beginning. With `repeat`, `{n}` in a text counts from 0. What an event leaves out is derived, so that
//! tests say what matters: names from paths, `process.command_line` and `process.args_count` from
//! `process.args`, `process.entity_id` from `process.pid`, `event.outcome` is success unless there is a
//! `coi.errno`; all events are of one container, process 1000 and the phase `guest`.

use std::{ops::Range, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    check,
    engine::Alert,
    error::RuleErrorKind,
    explain::Explainer,
    load::Reader,
    model::{Rule, RuleSet},
    quantity,
    recording::{Entry, Reader as RecordingReader, Replay, Told},
    sample::{Datum, Sample},
};
use crate::monitor::event::{EventKind, Field, Record, Type};

const TEST: &[&str] = &["name", "expect", "times", "events", "fixture"];
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
    pub failure: Option<Failure>,
}

/// Why a test failed.
#[derive(Clone, Debug, Default)]
pub struct Failure {
    /// In one line.
    pub why: String,
    /// What was expected (`-`) and what was found (`+`), line by line, and for a rule that stayed quiet its judgement of
    /// the last event that it looked at.
    pub diff: String,
}

/// Finds the recording of this name that lies beside the rule file of that name, or says why not.
pub type Fixtures<'a> = dyn Fn(&str, &str) -> Result<Vec<u8>, String> + 'a;

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
pub fn run(rules: &RuleSet, filter: Option<&str>, fixtures: &Fixtures<'_>) -> Report {
    let wanted = |text: &str| filter.is_none_or(|filter| text.contains(filter));
    let mut outcomes = Vec::new();
    for rule in rules.rules() {
        let whole = wanted(&rule.id);
        for test in rule.tests.iter().filter(|test| whole || wanted(&test.name)) {
            outcomes.push(Outcome {
                rule: rule.id.clone(),
                test: test.name.clone(),
                failure: test.run(rules, rule, fixtures),
            });
        }
        for (fires, what) in [(true, "fire"), (false, "quiet")] {
            if whole && !rule.tests.iter().any(|test| (test.times != Times::Exactly(0)) == fires) {
                let why = format!("the rule has no test with expect = \"{what}\"");
                let failure = Some(Failure { why, diff: String::new() });
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

/// The events of a rule's test.
pub fn entries(rule: &Rule, name: &str, fixtures: &Fixtures<'_>) -> Result<Vec<Entry>, String> {
    let test = rule.tests.iter().find(|test| test.name == name);
    let names = || rule.tests.iter().map(|test| format!("`{}`", test.name)).collect::<Vec<_>>().join(", ");
    test.ok_or_else(|| format!("the rule {} has no test `{name}`; it has {}", rule.id, names()))?
        .entries(rule, fixtures)
}

/// A test of a rule.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) name: String,
    pub(super) times: Times,
    pub(super) events: Given,
}

/// What a test's events are.
#[derive(Clone, Debug)]
pub(super) enum Given {
    Lines(Vec<Line>),
    Fixture(String),
}

/// How often the rule must fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Times {
    /// Once or more.
    Some,
    Exactly(u64),
}

/// One line of a test: an event, or many like it.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) kind: EventKind,
    pub(super) at: u64,
    pub(super) every: u64,
    /// `None` where the line is one event and `{n}` means nothing.
    pub(super) repeat: Option<u64>,
    pub(super) fields: Vec<(Field, Datum)>,
}

impl Test {
    /// Runs the test; says why it failed.
    fn run(&self, rules: &RuleSet, rule: &Rule, fixtures: &Fixtures<'_>) -> Option<Failure> {
        let entries = match self.entries(rule, fixtures) {
            Ok(entries) => entries,
            Err(why) => return Some(Failure { why, diff: String::new() }),
        };
        let mut replay = Replay::new(Arc::new(rules.only(rule)));
        let mut alerts = Vec::new();
        entries.iter().for_each(|entry| replay.judge(entry, &mut alerts));
        let fired = alerts.len() as u64;
        let expected = match self.times {
            Times::Some if fired > 0 => return None,
            Times::Exactly(times) if fired == times => return None,
            Times::Some => "it should have fired".to_owned(),
            Times::Exactly(0) => "it should have stayed quiet".to_owned(),
            Times::Exactly(times) => format!("it should have fired {}", often(times)),
        };
        let began = entries.iter().find_map(time).unwrap_or(0);
        let shown = |alert: &Alert| {
            format!("after {}: {}", quantity::show_duration(alert.time.saturating_sub(began)), alert.message)
        };
        let found: String = alerts.iter().map(|alert| format!("+ fires {}\n", shown(alert))).collect();
        let diff = match found.as_str() {
            "" => format!("- fires\n+ stays quiet\n{}", last_judgement(rules, rule, &entries)),
            found if self.times == Times::Exactly(0) => format!("- stays quiet\n{found}"),
            found => format!("- {expected}\n{found}"),
        };
        Some(Failure { why: format!("{expected} and fired {}", often(fired)), diff })
    }

    fn entries(&self, rule: &Rule, fixtures: &Fixtures<'_>) -> Result<Vec<Entry>, String> {
        match &self.events {
            Given::Lines(lines) => {
                let mut samples: Vec<Sample> = lines.iter().flat_map(Line::samples).collect();
                samples.sort_by_key(Record::time);
                // They are of one container.
                let entry = |event| Entry { cgroup: 1, told: Told::Event(event) };
                Ok(samples.into_iter().map(entry).collect())
            }
            Given::Fixture(name) => {
                let bytes = fixtures(rule.file(), name)?;
                RecordingReader::all(&bytes)
                    .map_err(|error| format!("the fixture {name} is of no use: {error}"))
            }
        }
    }
}

fn time(entry: &Entry) -> Option<u64> {
    match &entry.told {
        Told::Event(event) => Some(event.time()),
        Told::Mark(_) => None,
    }
}

/// What the rule made of the last event that it looked at.
fn last_judgement(rules: &RuleSet, rule: &Rule, entries: &[Entry]) -> String {
    let mut explainer = Explainer::new(rules, rule);
    let pages = entries.iter().map(|entry| explainer.explain(entry));
    pages
        .filter(|page| !page.is_empty())
        .last()
        .unwrap_or_else(|| "no event is of a kind that it looks at\n".to_owned())
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
    fn samples(&self) -> impl Iterator<Item = Sample> {
        (0..self.repeat.unwrap_or(1)).map(|n| {
            let number = n.to_string();
            let fields = match self.repeat {
                Some(_) => {
                    self.fields.iter().map(|(field, datum)| (*field, datum.numbered(&number))).collect()
                }
                None => self.fields.clone(),
            };
            let time = START.saturating_add(self.at).saturating_add(self.every.saturating_mul(n));
            let mut sample = Sample::new(self.kind, time, fields);
            sample.derive();
            sample
        })
    }
}

/// Reads a test.
pub(super) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>, span: &Range<usize>) -> Option<Test> {
    const WHAT: &str = "a test";
    reader.keys(table, WHAT, TEST);
    for key in ["name", "expect"] {
        if !table.contains_key(key) {
            reader.missing(span.clone(), key, WHAT);
        }
    }
    match (table.get_key_value("events"), table.get_key_value("fixture")) {
        (None, None) => reader.missing(span.clone(), "events", WHAT),
        (Some((key, _)), Some(_)) => {
            let message = "a test has `events` or a `fixture`, not both".to_owned();
            reader.error(key.span(), RuleErrorKind::Conflict { message, help: "write two tests" });
        }
        _ => {}
    }
    let fixture = reader.text(table, "fixture").and_then(|text| {
        let plain = !text.value.is_empty()
            && !text.value.starts_with('/')
            && !text.value.split('/').any(|part| part == "..");
        if !plain {
            let help = "name a file beside the rule's own, or below: fixtures/attack.jsonl".to_owned();
            let kind = RuleErrorKind::BadValue { what: "fixture", text: text.value.clone(), help };
            reader.errors.push(text.place.error(kind));
        }
        plain.then_some(text.value)
    });
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
    let events = fixture.map_or(Given::Lines(events), Given::Fixture);
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
        (Type::Keyword, DeValue::String(text)) => Some(Datum::Keyword(text.as_ref().into())),
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
pub(super) fn records(line_text: &str) -> Vec<Sample> {
    let source = super::Source { name: "event".to_owned(), text: format!("line = {{ {line_text} }}") };
    let table = DeTable::parse(&source.text).unwrap();
    let mut errors = Vec::new();
    let mut reader = Reader { file: super::error::file(&source), errors: &mut errors };
    let (table, span) = reader.table(table.get_ref(), "line").unwrap();
    let line = line(&mut reader, table, &span);
    assert!(errors.is_empty(), "{line_text}: {errors:?}");
    line.unwrap().samples().collect()
}
