//! Recordings: the events of one container as the engine saw them, to be judged again.
//!
//! ```text
//! {"coi.recording":1,"coi.version":"0.1.0","container.name":"web","events":["exec",...],"fields":["event.action",...]}
//! {"time":81234567890123,"kind":"exec","fields":{"process.pid":4711,"process.args":["ls","-l"],...}}
//! {"time":81234567990123,"mark":"thawed"}
//! ```
//!
//! It promises that what was recorded is judged as it was judged then: the same rules give the same alerts at the
//! same event times, if the recording began with the watch. Each line is an event with all its fields, or a mark for
//! what else the engine was told. A line that is not understood is an error, never left out: a gap would look like
//! quiet. It reads and writes lines; files are somebody else's business.

use serde_json::{Map, Value as Json, json};

use super::{
    engine::{Alert, Engine},
    model::RuleSet,
    sample::{Datum, Sample},
};
use crate::monitor::event::{EventKind, Field, Record, Type, Value};

/// The version of the format. A reader refuses any other.
pub const VERSION: u64 = 1;

/// One line.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Something happened.
    Event(Sample),
    /// The engine was told something.
    Mark(Mark),
}

/// What the engine was told beside events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The container was thawed, and armed again.
    Thawed,
    /// The container's processes are gone; if it is started again, it begins anew.
    Gone,
}

impl Mark {
    const ALL: [(&'static str, Self); 2] = [("thawed", Self::Thawed), ("gone", Self::Gone)];

    fn name(self) -> &'static str {
        match self {
            Self::Thawed => "thawed",
            Self::Gone => "gone",
        }
    }
}

/// Why a recording cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the recording {what}")]
pub struct RecordingError {
    /// Which line, from 1.
    pub line: u64,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum What {
    #[error(
        "is no JSON object ({0}); the recording may have been cut off: take that line out, or record again"
    )]
    NotJson(String),
    #[error("does not say `\"coi.recording\":{VERSION}`: this is no recording, or one of a newer COI")]
    NoHeader,
    #[error("names the {0} `{1}`, which this COI does not have; replay it with the version that recorded it")]
    Unknown(&'static str, String),
    #[error("lacks `{0}`, or has something else there than {1}")]
    Lacks(&'static str, &'static str),
    #[error("has a value of `{0}` that is not {1}")]
    BadValue(&'static str, &'static str),
    #[error("says that {0} events were not recorded, because the recorder was too slow; record again")]
    Gap(u64),
}

/// The first line.
pub fn header(container: &str) -> String {
    let fields: Vec<&str> = Field::TABLE.iter().map(|def| def.name).collect();
    let events: Vec<&str> = EventKind::ALL.into_iter().map(EventKind::name).collect();
    json!({
        "coi.recording": VERSION,
        "coi.version": env!("CARGO_PKG_VERSION"),
        "container.name": container,
        "events": events,
        "fields": fields,
    })
    .to_string()
}

/// The line of an event.
pub fn event(record: &impl Record) -> String {
    let present =
        Field::TABLE.iter().filter_map(|def| Some((def.name.to_owned(), json_of(record.get(def.field)?))));
    let fields: Map<String, Json> = present.collect();
    json!({ "time": record.time(), "kind": record.kind().name(), "fields": fields }).to_string()
}

/// The line of a mark.
pub fn mark(mark: Mark, time: u64) -> String {
    json!({ "time": time, "mark": mark.name() }).to_string()
}

/// The line for events that could not be recorded.
pub fn gap(missed: u64) -> String {
    json!({ "gap": missed }).to_string()
}

/// A value as JSON.
pub fn json_of(value: Value<'_>) -> Json {
    match value {
        Value::Keyword(text) => text.into(),
        Value::Integer(number) => number.into(),
        Value::Boolean(yes) => yes.into(),
        Value::Ip(ip) => ip.to_string().into(),
        Value::Keywords(texts) => texts.iter().map(|text| &**text).collect(),
    }
}

/// Reads a recording line by line.
#[derive(Debug, Default)]
pub struct Reader {
    lines: u64,
}

impl Reader {
    /// Reads the next line, without its line break. The header and empty lines are no entries.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Entry>, RecordingError> {
        self.lines += 1;
        let failed = |what| RecordingError { line: self.lines, what };
        if line.iter().all(u8::is_ascii_whitespace) && self.lines > 1 {
            return Ok(None);
        }
        let object: Map<String, Json> =
            serde_json::from_slice(line).map_err(|error| failed(What::NotJson(error.to_string())))?;
        if self.lines == 1 {
            return check_header(&object).map(|()| None).map_err(failed);
        }
        entry(&object).map(Some).map_err(failed)
    }

    /// Reads a whole recording.
    pub fn all(text: &[u8]) -> Result<Vec<Entry>, RecordingError> {
        let mut reader = Self::default();
        let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
        lines.filter_map(|line| reader.line(line).transpose()).collect()
    }
}

fn check_header(object: &Map<String, Json>) -> Result<(), What> {
    if object.get("coi.recording").and_then(Json::as_u64) != Some(VERSION) {
        return Err(What::NoHeader);
    }
    let names =
        |key: &str| object.get(key).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    if let Some(name) = names("fields").find(|name| Field::from_name(name).is_none()) {
        return Err(What::Unknown("field", name.to_owned()));
    }
    match names("events").find(|name| EventKind::from_name(name).is_none()) {
        Some(name) => Err(What::Unknown("event", name.to_owned())),
        None => Ok(()),
    }
}

fn entry(object: &Map<String, Json>) -> Result<Entry, What> {
    if let Some(missed) = object.get("gap") {
        return Err(What::Gap(missed.as_u64().unwrap_or(0)));
    }
    if let Some(mark) = object.get("mark") {
        let name = mark.as_str().unwrap_or_default();
        let found = Mark::ALL.into_iter().find(|(known, _)| *known == name);
        return found
            .map(|(_, mark)| Entry::Mark(mark))
            .ok_or_else(|| What::Unknown("mark", name.to_owned()));
    }
    let time =
        object.get("time").and_then(Json::as_u64).ok_or(What::Lacks("time", "a number of nanoseconds"))?;
    let kind = object.get("kind").and_then(Json::as_str).ok_or(What::Lacks("kind", "an event's name"))?;
    let kind = EventKind::from_name(kind).ok_or_else(|| What::Unknown("event", kind.to_owned()))?;
    let fields = object.get("fields").and_then(Json::as_object).ok_or(What::Lacks("fields", "an object"))?;
    let fields = fields.iter().map(|(name, value)| {
        let field = Field::from_name(name).ok_or_else(|| What::Unknown("field", name.clone()))?;
        Ok((field, datum(field, value)?))
    });
    Ok(Entry::Event(Sample::new(kind, time, fields.collect::<Result<_, _>>()?)))
}

fn datum(field: Field, value: &Json) -> Result<Datum, What> {
    let ty = field.def().ty;
    let datum = match ty {
        Type::Keyword => value.as_str().map(|text| Datum::Keyword(text.to_owned())),
        Type::Integer => value.as_i64().map(Datum::Integer),
        Type::Boolean => value.as_bool().map(Datum::Boolean),
        Type::Ip => value.as_str().and_then(|text| text.parse().ok()).map(Datum::Ip),
        Type::Keywords => {
            let texts = value
                .as_array()
                .map(|texts| texts.iter().map(|text| text.as_str().map(Into::into)).collect());
            texts.and_then(|texts: Option<Vec<_>>| texts).map(Datum::Keywords)
        }
    };
    datum.ok_or(What::BadValue(field.def().name, ty.name()))
}

/// Judges a recording, entry by entry.
#[derive(Debug)]
pub struct Replay {
    engine: Engine,
}

impl Replay {
    /// A replay by these rules.
    pub fn new(rules: std::sync::Arc<RuleSet>) -> Self {
        Self { engine: Engine::new(rules) }
    }

    /// Judges one entry and appends the alerts.
    pub fn judge(&mut self, entry: &Entry, alerts: &mut Vec<Alert>) {
        // A recording is of one container; which number stands for it means nothing.
        const SCOPE: u64 = 1;
        match entry {
            Entry::Event(event) => self.engine.evaluate(event, SCOPE, alerts),
            Entry::Mark(Mark::Thawed) => drop(self.engine.reset(SCOPE)),
            Entry::Mark(Mark::Gone) => drop(self.engine.forget(SCOPE)),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Result<Vec<Entry>, RecordingError> {
        Reader::all(format!("{}\n{}", header("web"), lines.join("\n")).as_bytes())
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        let fields = vec![
            (Field::ProcessPid, Datum::Integer(-7)),
            (Field::ProcessArgs, Datum::Keywords(vec!["ls".into(), "\u{1b}[0m\n".into()])),
            (Field::ArgsTruncated, Datum::Boolean(true)),
            (Field::ProcessName, Datum::Keyword("l\"s".into())),
        ];
        let sample = Sample::new(EventKind::Exec, u64::MAX, fields);
        let entries = lines(&[&event(&sample), "", &mark(Mark::Thawed, 5)]).unwrap();
        let [Entry::Event(back), Entry::Mark(Mark::Thawed)] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!((back.kind(), back.time()), (EventKind::Exec, u64::MAX));
        for def in Field::TABLE {
            assert_eq!(back.get(def.field), sample.get(def.field), "{}", def.name);
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        let error = |line: &str| lines(&[line]).unwrap_err().to_string();
        for (line, words) in [
            ("{", "line 2 of the recording is no JSON object"),
            (r#"{"time":-1,"kind":"exec","fields":{}}"#, "lacks `time`"),
            (r#"{"time":1,"kind":"exce","fields":{}}"#, "names the event `exce`"),
            (r#"{"time":1,"kind":"exec","fields":{"process.pdi":1}}"#, "names the field `process.pdi`"),
            (
                r#"{"time":1,"kind":"exec","fields":{"process.pid":"1"}}"#,
                "a value of `process.pid` that is not integer",
            ),
            (r#"{"time":1,"mark":"melted"}"#, "names the mark `melted`"),
            (r#"{"gap":17}"#, "17 events were not recorded"),
        ] {
            assert!(error(line).contains(words), "{}", error(line));
        }
        assert!(Reader::all(b"{}").unwrap_err().to_string().contains("this is no recording"));
        assert!(Reader::all(b"").is_err());
    }
}
