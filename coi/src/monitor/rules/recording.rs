//! Recordings: the events of one container as the engine saw them, to be judged again.
//!
//! ```text
//! {"coi.recording":1,"coi.version":"0.1.0","container.name":"web","holds":"everything","events":["exec",...],"fields":["event.action",...]}
//! {"cgroup":8123,"time":81234567890123,"kind":"exec","fields":{"process.pid":4711,"process.args":["ls","-l"],...}}
//! {"cgroup":8123,"time":81234567990123,"mark":"thawed"}
//! ```
//!
//! It promises that what was recorded is judged as it was judged then: the same rules give the same alerts at the
//! same event times, if the recording began with the watch. The machine's own rules are not in it; those that the user
//! and the workspace had brought are, in the first line, as `"rules":{"user":[{"name":...,"text":...}],"workspace":[]}`. Each line is an event with all its fields, or a mark for
//! what else the engine was told, with the cgroup that it is about: what runs at the same time in two of them, as after
//! a restart while the end of what ran before still lingers, is judged apart. A line that is not understood is an error, never left out: a gap would look like
//! quiet. It reads and writes lines; files are somebody else's business.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use serde::Deserialize as _;
use serde_json::{Map, Value as Json, json};

use super::{
    engine::{Alert, Engine},
    layer::OwnRules,
    model::RuleSet,
    sample::{Datum, Sample},
};
use crate::monitor::event::{EventKind, Field, Record, Type, Value};

/// The version of the format. A reader refuses any other.
pub const VERSION: u64 = 1;

/// One line.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The cgroup that it is about; which number stands for it means nothing.
    pub cgroup: u64,
    /// What the engine was told about it.
    pub told: Told,
}

/// What the engine was told.
#[derive(Clone, Debug)]
pub enum Told {
    /// Something happened.
    Event(Sample),
    /// Something else.
    Mark(Mark),
}

/// How much a recording holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holds {
    /// Every event.
    #[default]
    Everything,
    /// What the rules that were in force looked at; the rest was left out in the kernel.
    Judged,
}

impl Holds {
    const ALL: [(&'static str, Self); 2] = [("everything", Self::Everything), ("judged", Self::Judged)];

    fn name(self) -> &'static str {
        match self {
            Self::Everything => "everything",
            Self::Judged => "judged",
        }
    }
}

/// Why events are missing in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// They came faster than they could be written.
    Slow,
    /// It is as long as it may be.
    Full,
}

impl Gap {
    const ALL: [(&'static str, Self); 2] = [("slow", Self::Slow), ("full", Self::Full)];

    fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Full => "full",
        }
    }
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
    Slow(u64),
    #[error(
        "says that nothing more was recorded, because it is as long as it may be; what is before that line is whole"
    )]
    Full,
}

/// The first line.
pub fn header(container: &str, holds: Holds, own: &OwnRules) -> String {
    let fields: Vec<&str> = Field::TABLE.iter().map(|def| def.name).collect();
    let events: Vec<&str> = EventKind::ALL.into_iter().map(EventKind::name).collect();
    let mut header = json!({
        "coi.recording": VERSION,
        "coi.version": env!("CARGO_PKG_VERSION"),
        "container.name": container,
        "holds": holds.name(),
        "events": events,
        "fields": fields,
    });
    if !own.is_empty() {
        header["rules"] = json!(own);
    }
    header.to_string()
}

/// The line of an event.
pub fn event(cgroup: u64, record: &impl Record) -> String {
    let present =
        Field::TABLE.iter().filter_map(|def| Some((def.name.to_owned(), json_of(record.get(def.field)?))));
    let fields: Map<String, Json> = present.collect();
    json!({ "cgroup": cgroup, "time": record.time(), "kind": record.kind().name(), "fields": fields })
        .to_string()
}

/// The line of a mark.
pub fn mark(cgroup: u64, mark: Mark, time: u64) -> String {
    json!({ "cgroup": cgroup, "time": time, "mark": mark.name() }).to_string()
}

/// The line for so many events that are not recorded.
pub fn gap(missed: u64, why: Gap) -> String {
    json!({ "gap": missed, "why": why.name() }).to_string()
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
    holds: Holds,
    own: OwnRules,
    texts: Texts,
}

/// Texts that were read before: the events of one process share its arguments here as they did when they happened.
#[derive(Debug, Default)]
struct Texts {
    single: HashSet<Arc<str>>,
    lists: HashSet<Arc<[Arc<str>]>>,
}

/// How many texts are kept to be shared.
const SHARED: usize = 16_384;

impl Texts {
    fn text(&mut self, text: &str) -> Arc<str> {
        self.single.get(text).cloned().unwrap_or_else(|| keep(&mut self.single, text.into()))
    }

    fn list(&mut self, list: &[Arc<str>]) -> Arc<[Arc<str>]> {
        self.lists.get(list).cloned().unwrap_or_else(|| keep(&mut self.lists, list.into()))
    }
}

/// Keeps one more. When there are too many it begins anew, so that a flood of different ones takes no room.
fn keep<T: Clone + Eq + Hash>(kept: &mut HashSet<T>, one: T) -> T {
    if kept.len() >= SHARED {
        kept.clear();
    }
    kept.insert(one.clone());
    one
}

impl Reader {
    /// Reads the next line, without its line break. The header and empty lines are no entries.
    pub fn line(&mut self, line: &[u8]) -> Result<Option<Entry>, RecordingError> {
        self.lines += 1;
        let line_number = self.lines;
        let failed = |what| RecordingError { line: line_number, what };
        if line.iter().all(u8::is_ascii_whitespace) && self.lines > 1 {
            return Ok(None);
        }
        let object: Map<String, Json> =
            serde_json::from_slice(line).map_err(|error| failed(What::NotJson(error.to_string())))?;
        if self.lines == 1 {
            (self.holds, self.own) = check_header(&object).map_err(failed)?;
            return Ok(None);
        }
        entry(&object, &mut self.texts).map(Some).map_err(failed)
    }

    /// How much it holds, once the first line is read.
    pub fn holds(&self) -> Holds {
        self.holds
    }

    /// The rules that the user and the workspace had brought, once the first line is read.
    pub fn own(&self) -> &OwnRules {
        &self.own
    }

    /// Reads a whole recording.
    pub fn all(text: &[u8]) -> Result<Vec<Entry>, RecordingError> {
        let mut reader = Self::default();
        let lines = text.strip_suffix(b"\n").unwrap_or(text).split(|byte| *byte == b'\n');
        lines.filter_map(|line| reader.line(line).transpose()).collect()
    }
}

fn check_header(object: &Map<String, Json>) -> Result<(Holds, OwnRules), What> {
    if object.get("coi.recording").and_then(Json::as_u64) != Some(VERSION) {
        return Err(What::NoHeader);
    }
    let names =
        |key: &str| object.get(key).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
    if let Some(name) = names("fields").find(|name| Field::from_name(name).is_none()) {
        return Err(What::Unknown("field", name.to_owned()));
    }
    if let Some(name) = names("events").find(|name| EventKind::from_name(name).is_none()) {
        return Err(What::Unknown("event", name.to_owned()));
    }
    let own = object.get("rules").map(OwnRules::deserialize).transpose();
    let own = own.ok().map(Option::unwrap_or_default).filter(|own| own.check().is_ok());
    let own = own.ok_or(What::BadValue("rules", "rule files as a watch may have"))?;
    Ok((named("holds", object.get("holds"), Holds::ALL)?, own))
}

/// What a text names, of a few things.
fn named<T>(key: &'static str, value: Option<&Json>, all: [(&'static str, T); 2]) -> Result<T, What> {
    let name = value.and_then(Json::as_str).ok_or(What::Lacks(key, "a name"))?;
    let found = all.into_iter().find(|(known, _)| *known == name);
    found.map(|(_, found)| found).ok_or_else(|| What::Unknown(key, name.to_owned()))
}

fn entry(object: &Map<String, Json>, texts: &mut Texts) -> Result<Entry, What> {
    if let Some(missed) = object.get("gap") {
        return Err(match named("why", object.get("why"), Gap::ALL)? {
            Gap::Slow => What::Slow(missed.as_u64().unwrap_or(0)),
            Gap::Full => What::Full,
        });
    }
    let number = |key, what| object.get(key).and_then(Json::as_u64).ok_or(What::Lacks(key, what));
    let cgroup = number("cgroup", "a cgroup's number")?;
    if let Some(mark) = object.get("mark") {
        let mark = named("mark", Some(mark), Mark::ALL)?;
        return Ok(Entry { cgroup, told: Told::Mark(mark) });
    }
    let time = number("time", "a number of nanoseconds")?;
    let kind = object.get("kind").and_then(Json::as_str).ok_or(What::Lacks("kind", "an event's name"))?;
    let kind = EventKind::from_name(kind).ok_or_else(|| What::Unknown("event", kind.to_owned()))?;
    let fields = object.get("fields").and_then(Json::as_object).ok_or(What::Lacks("fields", "an object"))?;
    let fields = fields.iter().map(|(name, value)| {
        let field = Field::from_name(name).ok_or_else(|| What::Unknown("field", name.clone()))?;
        Ok((field, datum(field, value, texts)?))
    });
    let event = Sample::new(kind, time, fields.collect::<Result<_, _>>()?);
    Ok(Entry { cgroup, told: Told::Event(event) })
}

fn datum(field: Field, value: &Json, texts: &mut Texts) -> Result<Datum, What> {
    let ty = field.def().ty;
    let datum = match ty {
        Type::Keyword => value.as_str().map(|text| Datum::Keyword(texts.text(text))),
        Type::Integer => value.as_i64().map(Datum::Integer),
        Type::Boolean => value.as_bool().map(Datum::Boolean),
        Type::Ip => value.as_str().and_then(|text| text.parse().ok()).map(Datum::Ip),
        Type::Keywords => {
            let list = value.as_array().into_iter().flatten().map(|text| Some(texts.text(text.as_str()?)));
            let list = value.is_array().then(|| list.collect::<Option<Vec<_>>>()).flatten();
            list.map(|list| Datum::Keywords(texts.list(&list)))
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
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Self { engine: Engine::new(rules) }
    }

    /// Judges one entry and appends the alerts.
    pub fn judge(&mut self, entry: &Entry, alerts: &mut Vec<Alert>) {
        match &entry.told {
            Told::Event(event) => self.engine.evaluate(event, entry.cgroup, alerts),
            Told::Mark(Mark::Thawed) => drop(self.engine.reset(entry.cgroup)),
            Told::Mark(Mark::Gone) => drop(self.engine.forget(entry.cgroup)),
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
        Reader::all(
            format!("{}\n{}", header("web", Holds::Everything, &OwnRules::default()), lines.join("\n"))
                .as_bytes(),
        )
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        let fields = vec![
            (Field::ProcessPid, Datum::Integer(-7)),
            (Field::ProcessArgs, Datum::Keywords(Arc::new(["ls".into(), "\u{1b}[0m\n".into()]))),
            (Field::ArgsTruncated, Datum::Boolean(true)),
            (Field::ProcessName, Datum::Keyword("l\"s".into())),
        ];
        let sample = Sample::new(EventKind::Exec, u64::MAX, fields);
        let entries = lines(&[&event(8, &sample), "", &mark(9, Mark::Thawed, 5)]).unwrap();
        let [
            Entry { cgroup: 8, told: Told::Event(back) },
            Entry { cgroup: 9, told: Told::Mark(Mark::Thawed) },
        ] = entries.as_slice()
        else {
            panic!("{entries:?}")
        };
        assert_eq!((back.kind(), back.time()), (EventKind::Exec, u64::MAX));
        for def in Field::TABLE {
            assert_eq!(back.get(def.field), sample.get(def.field), "{}", def.name);
        }
    }

    #[test]
    fn the_rules_that_were_brought_come_back() {
        let file = |name: &str| super::super::RuleText { name: name.to_owned(), text: "a\n\"b\"".to_owned() };
        let own = OwnRules { user: vec![file("u")], workspace: vec![file("w"), file("v")] };
        let mut reader = Reader::default();
        reader.line(header("web", Holds::Judged, &own).as_bytes()).unwrap();
        assert_eq!((reader.own(), reader.holds()), (&own, Holds::Judged));
        for rules in ["1", r#"{"sytem":[]}"#, r#"{"user":[{"name":"x"}]}"#] {
            let header = format!(r#"{{"coi.recording":1,"holds":"judged","rules":{rules}}}"#);
            let error = Reader::default().line(header.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("a value of `rules` that is not rule files"), "{error}");
        }
    }

    /// The end of what ran before may linger while it runs again.
    #[test]
    fn each_cgroup_is_judged_apart() {
        let rule = "[[rule]]\nid = 'twice'\ntitle = 't'\nseverity = 'info'\nevent = 'exec'\ncondition = 'true'\n\
                    window = { over = '1m', at_least = 2 }\n";
        let source = super::super::Source { name: "test".to_owned(), text: rule.to_owned() };
        let rules = Arc::new(RuleSet::compile(&[source], jiff::civil::date(2026, 7, 1)).unwrap());
        let exec = |cgroup, time| event(cgroup, &Sample::new(EventKind::Exec, time, Vec::new()));
        let alerts = |all: &[&str]| {
            let (mut replay, mut alerts) = (Replay::new(rules.clone()), Vec::new());
            lines(all).unwrap().iter().for_each(|entry| replay.judge(entry, &mut alerts));
            alerts.iter().map(|alert| alert.time).collect::<Vec<_>>()
        };
        assert_eq!(alerts(&[&exec(1, 10), &exec(1, 20)]), [20]);
        assert_eq!(alerts(&[&exec(1, 10), &exec(2, 20)]), Vec::<u64>::new());
        assert_eq!(alerts(&[&exec(1, 10), &exec(2, 20), &mark(1, Mark::Gone, 30), &exec(2, 40)]), [40]);
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        let error = |line: &str| lines(&[line]).unwrap_err().to_string();
        for (line, words) in [
            ("{", "line 2 of the recording is no JSON object"),
            (r#"{"time":1,"kind":"exec","fields":{}}"#, "lacks `cgroup`"),
            (r#"{"cgroup":1,"time":-1,"kind":"exec","fields":{}}"#, "lacks `time`"),
            (r#"{"cgroup":1,"time":1,"kind":"exce","fields":{}}"#, "names the event `exce`"),
            (
                r#"{"cgroup":1,"time":1,"kind":"exec","fields":{"process.pdi":1}}"#,
                "names the field `process.pdi`",
            ),
            (
                r#"{"cgroup":1,"time":1,"kind":"exec","fields":{"process.pid":"1"}}"#,
                "a value of `process.pid` that is not integer",
            ),
            (r#"{"cgroup":1,"time":1,"mark":"melted"}"#, "names the mark `melted`"),
            (r#"{"gap":17,"why":"slow"}"#, "17 events were not recorded"),
            (r#"{"gap":17,"why":"full"}"#, "nothing more was recorded"),
        ] {
            assert!(error(line).contains(words), "{}", error(line));
        }
        assert!(Reader::all(b"{}").unwrap_err().to_string().contains("this is no recording"));
        assert!(Reader::all(b"").is_err());
    }
}
