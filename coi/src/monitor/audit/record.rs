//! The one model of a record: its kinds, and how each is made.
//!
//! It promises that every record has the names of ECS where ECS has one (`event.kind`, `category` and `type` are of its
//! allowed values, `coi.record` says which of ours it is), that what can come from inside a container has gone through
//! [`super::redact`], and that nothing but this file makes one. What a log adds when it writes a record (sequence, chain,
//! host) is in [`Record::sealed`]. [`super::schema`] says the same as a JSON Schema, and every record is tested against it.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, LazyLock},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value as Json, json};

use super::{
    chain::{Hash, Link},
    evidence::Kept,
    key::{self, Key},
    redact,
};
use crate::{
    monitor::{
        event::{self, Container, EventKind, Field},
        respond::Attempt,
        rules::{Alert, RuleSet, Severity, recording::json_of},
        sensor::boottime,
        service::api::{ActionName, Hole, Tally, WatchState},
        standing::Intent,
    },
    ui,
};

/// The version of ECS whose names are used.
pub(super) const ECS_VERSION: &str = "8.17.0";

/// A line longer than this is an attack on its reader; arguments and paths are capped far below it.
const LONGEST: usize = 64 << 10;

/// How much of each text is left of a record that would be longer.
const CUT: usize = 512;

/// How a line ends.
const END: &str = "}\n";

macro_rules! kinds {
    ($($variant:ident, $name:literal, $ecs:literal, $doc:literal;)*) => {
        /// What a record tells of: `coi.record`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = $doc] $variant,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in `coi.record`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The value of `event.kind`: one that ECS allows.
            pub const fn ecs_kind(self) -> &'static str {
                match self { $(Self::$variant => $ecs,)* }
            }

            /// What it means.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }
        }
    };
}

kinds! {
    Alert, "alert", "alert", "A rule fired; what was done about it stands in coi.action, with result and latency.";
    Action, "action", "event", "Something was done that no alert asked for: a person thawed, killed or froze it, or a policy did.";
    Event, "event", "event", "A kernel event, where `[audit] events` asks for its kind.";
    Loss, "loss", "event", "Kernel events were lost before anybody saw them, and how many.";
    Counts, "counts", "metric", "What became of all events since the watch began, by kind.";
    Coverage, "coverage", "state", "What is seen and what cannot be (coi.holes).";
    Attach, "attach", "event", "The watch began: who asked for it, by which rules it is judged.";
    Unmonitored, "unmonitored", "event", "In the place of attach and coverage: the container runs without the monitor. Nothing that happens in it is seen, recorded or stopped; who has it so.";
    Detach, "detach", "event", "The watch is over, or the daemon ends.";
    State, "state", "state", "The watch has come to a state.";
    Rules, "rules", "event", "Other rules are in force from here on.";
    Heartbeat, "heartbeat", "state", "The monitor is at work, and what it has counted: no alert means none.";
    Gap, "gap", "event", "Something is not in this log, and why: nobody watched, or it could not be written.";
    Checkpoint, "checkpoint", "event", "The chain so far, signed with the key of this machine.";
    Retention, "retention", "event", "Old files of this log were removed; the hash of the last record in them is their anchor.";
    Protection, "protection", "event", "A protected path of the workspace was changed while its container ran, and what became of that.";
    Note, "note", "event", "Something that people should know and that changes nothing.";
}

impl Kind {
    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Must it be on the disk before the next one is waited for? Losing others in a power failure is told by the gap.
    pub const fn is_urgent(self) -> bool {
        !matches!(self, Self::Event | Self::Note | Self::Heartbeat)
    }

    /// `event.category` and `event.type` of what is about no kernel event.
    const fn category(self) -> (&'static str, &'static str) {
        match self {
            Self::Attach | Self::Unmonitored => ("host", "start"),
            Self::Detach => ("host", "end"),
            Self::Action | Self::State => ("host", "change"),
            Self::Protection => ("file", "change"),
            Self::Rules | Self::Retention => ("configuration", "change"),
            _ => ("host", "info"),
        }
    }
}

/// A record that is not yet in a log: a text, since thousands may wait for the disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    kind: Kind,
    line: Arc<str>,
    /// Where in the line `event` and `coi` end: a log adds to both.
    ends: [usize; 2],
    brief: Option<Box<Brief>>,
}

/// What an alert or an action is counted by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brief {
    /// What was done in the end.
    pub action: ActionName,
    /// Whether it failed.
    pub failed: bool,
    /// From the event to its end.
    pub latency: Option<Duration>,
    /// The rule that fired, and how severe that is.
    pub rule: Option<(Severity, String)>,
}

/// A record that is being made.
struct Draft {
    kind: Kind,
    object: Map<String, Json>,
}

/// What was done about an alert.
pub struct Outcome<'a> {
    /// What was tried; the last of them is what was done in the end.
    pub attempts: &'a [Attempt],
    /// From the event to when it was decided, and if there is something to be done, to when the freeze was written.
    pub decided: Duration,
    /// From the event to when Incus had it frozen, or the container was gone.
    pub settled: Option<Duration>,
    /// The evidence that was kept, or why it was not.
    pub evidence: Option<&'a Result<Kept, String>>,
    /// The name of the stopped copy that was made, or why there is none.
    pub copy: Option<&'a Result<String, String>>,
}

/// What was done without an alert.
#[derive(Clone, Copy, Debug)]
pub struct Done<'a> {
    /// What.
    pub action: ActionName,
    /// `None` if it worked.
    pub error: Option<&'a str>,
    /// Who wanted it; `None` for the daemon's own policy.
    pub by: Option<u32>,
    /// Why, for people.
    pub why: &'a str,
}

/// What happened to a protected path, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Protection {
    /// From the workspace.
    pub path: String,
    /// `made`, `removed`, `replaced`, `written` or `exposed`.
    pub change: &'static str,
    /// `inside`, `outside` or `unknown`.
    pub by: &'static str,
    /// The process, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// `held`, `nothing` or `released`.
    pub now: &'static str,
    /// Why it could not be held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Protection {
    /// For people.
    pub fn words(&self) -> String {
        let Self { path, change, by, now, error, .. } = self;
        let who = match *by {
            "inside" => " from inside the container",
            "outside" => " on the host",
            _ => ", and it is not known by whom",
        };
        let then = match (error, *now) {
            (Some(error), _) => format!("it is not protected: {error}"),
            (None, "held") => "it is protected again".to_owned(),
            (None, "released") => "it is not protected until the container is started again".to_owned(),
            (None, _) => "there is nothing to protect".to_owned(),
        };
        format!("{path} was {change}{who}; {then}")
    }
}

/// Why something is not in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// `unwatched`: no daemon watched until now. `silent`: the daemon's monitor gave no sign of life for a while. `stopped`:
    /// the daemon ended in order and nobody watched until now. `crashed`: it ended without a word. `cut`: the end of the log
    /// is missing. `queue`: records came faster than they could be written. `disk`: the disk took none.
    pub reason: &'static str,
    /// From when on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What ran there when it was over, as far as it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<Vec<ProcessSeen>>,
    /// How many more ran there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_processes: Option<u64>,
    /// How many records are missing, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// How many of them are alerts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alerts: Option<u64>,
    /// The first sequence number that is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<u64>,
    /// The last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// What stands behind the last whole record before this one: records that were not written to their end, each at the
    /// end of a file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub torn: Vec<Torn>,
    /// The system's word for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A process that was there when somebody looked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessSeen {
    /// Its pid on the host.
    pub pid: u32,
    /// Its parent's.
    pub parent_pid: u32,
    /// Its program.
    pub executable: String,
    /// Its arguments, without what is secret.
    pub command_line: String,
}

impl ProcessSeen {
    /// Its texts are the container's.
    pub fn new(pid: u32, parent_pid: u32, executable: &str, command_line: &str) -> Self {
        let short = |text: &str| redact::text(&text[..text.floor_char_boundary(CUT)]).into_owned();
        Self { pid, parent_pid, executable: short(executable), command_line: short(command_line) }
    }
}

/// The beginning of a record that was never finished.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Torn {
    /// How many bytes of it there are.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: Hash,
}

impl Record {
    /// An event.
    pub fn event(record: &impl event::Record) -> Self {
        Draft::event(record).done()
    }

    /// Events that were lost.
    pub fn loss(record: &impl event::Record) -> Self {
        Draft { kind: Kind::Loss, object: of_event(record, Kind::Loss) }.done()
    }

    /// An alert and what was done about it.
    pub fn alert(record: &impl event::Record, alert: &Alert, outcome: &Outcome<'_>) -> Self {
        let mut object = of_event(record, Kind::Alert);
        let rule = &alert.rule;
        put(&mut object, "event.severity", number(rule.severity).into());
        put(&mut object, "rule.id", rule.id.as_str().into());
        put(&mut object, "rule.name", rule.title.as_str().into());
        if !rule.attack.is_empty() {
            put(&mut object, "threat.framework", "MITRE ATT&CK".into());
            put(&mut object, "threat.technique.id", rule.attack.clone().into());
        }
        put(&mut object, "coi.severity", rule.severity.name().into());
        put(&mut object, "coi.clock", alert.time.into());
        put(&mut object, "coi.response", rule.action().name().into());
        put(&mut object, "coi.message", alert.message.as_str().into());
        if alert.suppressed_before > 0 {
            put(&mut object, "coi.suppressed", alert.suppressed_before.into());
        }
        if !alert.evidence.is_empty() {
            let evidence = alert.evidence.iter().map(|evidence| {
                json!({
                    "@timestamp": timestamp(evidence.time),
                    "action": evidence.kind.name(),
                    "text": evidence.text,
                })
            });
            put(&mut object, "coi.evidence", evidence.collect());
        }
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let last = outcome.attempts.last();
        let name = last.map_or(ActionName::Log, |attempt| attempt.action);
        let mut done = action(name.name(), last.and_then(|attempt| attempt.error.as_deref()));
        done["decided_us"] = microseconds(outcome.decided).into();
        if let Some(last) = last.filter(|_| name != ActionName::Log) {
            done["latency_us"] = microseconds(last.latency).into();
        }
        if outcome.attempts.len() > 1 || last.is_some_and(|last| last.tries > 1) {
            let attempts = outcome.attempts.iter().map(|attempt| {
                let mut tried = action(attempt.action.name(), attempt.error.as_deref());
                tried["tries"] = attempt.tries.into();
                tried["latency_us"] = microseconds(attempt.latency).into();
                tried
            });
            done["attempts"] = attempts.collect();
        }
        if let Some(settled) = outcome.settled {
            done["settled_us"] = microseconds(settled).into();
        }
        match outcome.evidence {
            Some(Ok(kept)) => done["evidence"] = json!(kept),
            Some(Err(why)) => done["evidence"] = json!({ "error": why }),
            None => {}
        }
        match outcome.copy {
            Some(Ok(name)) => done["copy"] = json!({ "name": name }),
            Some(Err(why)) => done["copy"] = json!({ "error": why }),
            None => {}
        }
        put(&mut object, "coi.action", done);
        redact::record(&mut object);
        let brief = Brief {
            action: name,
            failed: last.is_some_and(|attempt| attempt.error.is_some()),
            latency: last.filter(|_| name != ActionName::Log).map(|attempt| attempt.latency),
            rule: Some((rule.severity, rule.id.clone())),
        };
        Draft { kind: Kind::Alert, object }.done_with(brief)
    }

    /// Something was done that no alert asked for.
    pub fn action(container: &Container, done: &Done<'_>) -> Self {
        Draft::action(container, done).done_with(done.into())
    }

    /// A rule asked for something, and a daemon ended before it could be recorded. What has become of it is `error`, and
    /// what is known of that for people, `then`.
    pub fn reconciled(container: &Container, intent: &Intent, error: Option<&str>, then: &str) -> Self {
        let process = format!("{} (pid {})", intent.process_executable, intent.process_pid);
        let at = timestamp(intent.clock);
        let why = format!("{then}; decided at {at} about process {process}: {}", intent.message);
        let why = redact::text(&why);
        let done = Done { action: intent.action, error, by: None, why: &why };
        let mut record = Draft::action(container, &done);
        record.put("rule.id", intent.rule_id.as_str().into());
        record.put("event.severity", number(intent.severity).into());
        record.put("coi.severity", intent.severity.name().into());
        record.done_with((&done).into())
    }

    /// The watch begins.
    pub fn attach(container: &Container, respond: bool, owner: u32, by: u32, rules: &RulesInForce) -> Self {
        let mut record = Draft::about(container, Kind::Attach);
        record.put_user(Some(by));
        record.put("coi.watch", json!({ "respond": respond, "owner": owner.to_string() }));
        record.put("coi.rules", json!(rules));
        record.put("coi.version", env!("CARGO_PKG_VERSION").into());
        record.done()
    }

    /// A container is accompanied that is not monitored, as `by` wants it.
    pub fn unmonitored(container: &Container, owner: u32, by: u32) -> Self {
        let mut record = Draft::about(container, Kind::Unmonitored);
        record.put_user(Some(by));
        record.put("coi.watch", json!({ "respond": false, "owner": owner.to_string() }));
        record.put("coi.version", env!("CARGO_PKG_VERSION").into());
        let words = format!(
            "it runs without the monitor, as uid {by} has it: nothing that happens in it is seen, recorded or stopped"
        );
        record.put("coi.message", words.into());
        record.done()
    }

    /// The watch is over. `why` is for people.
    pub fn detach(container: &Container, why: &str) -> Self {
        let mut record = Draft::about(container, Kind::Detach);
        record.put("coi.message", why.into());
        record.done()
    }

    /// Other rules are in force.
    pub fn rules(container: &Container, by: u32, rules: &RulesInForce) -> Self {
        let mut record = Draft::about(container, Kind::Rules);
        record.put_user(Some(by));
        record.put("coi.rules", json!(rules));
        record.done()
    }

    /// What is seen of a container, and what cannot be: told when its watch is armed, and to each viewer.
    pub fn coverage(container: &Container, programs: &[String], holes: &[Hole]) -> Self {
        let mut record = Draft::about(container, Kind::Coverage);
        record.put("coi.programs", json!(programs));
        record.put("coi.holes", json!(holes));
        record.done()
    }

    /// What became of a container's events since its watch began: told when it has stopped, and when the watch is over.
    pub fn counts(container: &Container, events: &BTreeMap<String, Tally>) -> Self {
        let mut record = Draft::about(container, Kind::Counts);
        record.put("coi.events", json!(events));
        record.done()
    }

    /// The monitor is at work.
    pub fn heartbeat(
        container: &Container,
        state: WatchState,
        alerts: u64,
        events: &BTreeMap<String, Tally>,
    ) -> Self {
        let mut record = Draft::about(container, Kind::Heartbeat);
        record.put("coi.state", json!(state));
        record.put("coi.alerts", alerts.into());
        record.put("coi.events", json!(events));
        record.done()
    }

    /// A watch has come to a state. `why` is for people.
    pub fn state(container: &Container, state: WatchState, why: &str) -> Self {
        let mut record = Draft::about(container, Kind::State);
        record.put("coi.state", json!(state));
        record.put("coi.message", redact::text(why).into());
        record.done()
    }

    /// Something that people should know of a watch, whose state it does not change.
    pub fn note(container: &Container, what: &str) -> Self {
        let mut record = Draft::about(container, Kind::Note);
        record.put("coi.message", redact::text(what).into());
        record.done()
    }

    /// A protected path was changed.
    pub fn protection(container: &Container, what: &Protection) -> Self {
        let mut record = Draft::about(container, Kind::Protection);
        record.put("coi.protection", json!(what));
        let outcome = if what.error.is_none() { "success" } else { "failure" };
        record.put("event.outcome", outcome.into());
        record.put("coi.message", what.words().into());
        record.done()
    }

    /// Something is not in this log.
    pub fn gap(container: &Container, gap: &Gap) -> Self {
        let mut record = Draft::about(container, Kind::Gap);
        record.put("coi.gap", json!(gap));
        record.done()
    }

    /// The chain up to the record `previous`, signed.
    pub(super) fn checkpoint(container: &Container, key: &Key, owner: u32, id: &str, previous: Link) -> Self {
        let mut record = Draft::about(container, Kind::Checkpoint);
        let time = record.object["@timestamp"].as_str().unwrap_or_default();
        let signature = key.sign(&key::statement(owner, id, time, previous));
        record.put(
            "coi.checkpoint",
            json!({ "algorithm": "ed25519", "key": key.id(), "signature": signature }),
        );
        record.done()
    }

    /// Files of this log were removed; `anchor` is the last record in them.
    pub(super) fn retention(container: &Container, files: &[String], anchor: Link) -> Self {
        let mut record = Draft::about(container, Kind::Retention);
        record.put("coi.retention", json!({ "files": files, "last": anchor.sequence, "hash": anchor.hash }));
        record.done()
    }

    /// What it tells of.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// What it is counted by, of an alert or an action.
    pub fn brief(&self) -> Option<&Brief> {
        self.brief.as_deref()
    }

    /// As a viewer is shown it: a line of JSON without a place in a log.
    pub fn line(&self) -> Arc<str> {
        Arc::clone(&self.line)
    }

    /// As it stands in a log after the record `previous`, without a line's end.
    pub(super) fn sealed(&self, previous: Link) -> String {
        let [event, coi] = self.ends;
        let line = self.line.strip_suffix(END).unwrap_or(&self.line);
        let (event, coi, rest) = (&line[..event], &line[event..coi], &line[coi..]);
        let (sequence, hash, host) = (previous.next(), json!(previous.hash), &*HOST);
        format!(
            "{event},\"sequence\":{sequence}{coi},\"chain\":{{\"previous\":{hash}}}{rest},\"host\":{host}}}"
        )
    }
}

impl Draft {
    fn event(record: &impl event::Record) -> Self {
        let mut object = of_event(record, Kind::Event);
        redact::record(&mut object);
        Self { kind: Kind::Event, object }
    }

    fn action(container: &Container, done: &Done<'_>) -> Self {
        let mut record = Self::about(container, Kind::Action);
        record.put("coi.action", action(done.action.name(), done.error));
        record.put("event.outcome", if done.error.is_none() { "success" } else { "failure" }.into());
        record.put("coi.message", done.why.into());
        record.put_user(done.by);
        record
    }

    /// What every record about a container, and not about an event, begins with.
    fn about(container: &Container, kind: Kind) -> Self {
        let now = boottime();
        let mut object = Map::new();
        object.insert("@timestamp".into(), timestamp(now).into());
        put(&mut object, "ecs.version", ECS_VERSION.into());
        let (category, ty) = kind.category();
        put_kind(&mut object, kind, &[category], &[ty]);
        put(&mut object, "event.action", kind.name().into());
        put(&mut object, "container.name", container.name.as_str().into());
        put(&mut object, "container.id", container.id.as_str().into());
        put(&mut object, "coi.clock", now.into());
        Self { kind, object }
    }

    fn put(&mut self, name: &str, value: Json) {
        put(&mut self.object, name, value);
    }

    fn put_user(&mut self, uid: Option<u32>) {
        if let Some(uid) = uid {
            self.put("user.id", uid.to_string().into());
        }
    }

    /// The record, which is changed no more.
    fn done(mut self) -> Record {
        let (mut line, mut ends) = self.write();
        if line.len() > LONGEST {
            self.object.values_mut().for_each(shorten);
            self.put("coi.record_truncated", true.into());
            (line, ends) = self.write();
        }
        Record { kind: self.kind, line: line.into(), ends, brief: None }
    }

    fn done_with(self, brief: Brief) -> Record {
        Record { brief: Some(Box::new(brief)), ..self.done() }
    }

    /// The line, and where in it `event` and `coi` end: [`put_kind`] sees to it that there are both, in this order.
    fn write(&self) -> (String, [usize; 2]) {
        let mut line = String::new();
        let mut ends = [0; 2];
        for (name, value) in &self.object {
            line.push(if line.is_empty() { '{' } else { ',' });
            line.push_str(&format!("\"{name}\":"));
            line.push_str(&visible(value.to_string()));
            match name.as_str() {
                "event" => ends[0] = line.len() - 1,
                "coi" => ends[1] = line.len() - 1,
                _ => {}
            }
        }
        line.push_str(END);
        (line, ends)
    }
}

/// Events as they stand in records, for what is no log. Each is made when it is written: all at once are megabytes.
#[derive(Debug)]
pub struct Told<'a, R>(pub &'a [R]);

impl<R: event::Record> Serialize for Told<'_, R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|record| Draft::event(record).object))
    }
}

impl From<&Done<'_>> for Brief {
    fn from(done: &Done<'_>) -> Self {
        Self { action: done.action, failed: done.error.is_some(), latency: None, rule: None }
    }
}

/// The rules that are in force, as far as a record says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RulesInForce {
    /// How many are enabled.
    pub enabled: usize,
    /// The SHA-256 of what they mean: rules that judge otherwise have another.
    pub digest: Hash,
}

impl RulesInForce {
    /// Of a set.
    pub fn of(set: &RuleSet) -> Self {
        let enabled = set.rules().iter().filter(|rule| rule.enabled).count();
        Self { enabled, digest: Hash::of(set.meaning().as_bytes()) }
    }
}

/// Which machine, since which boot.
static HOST: LazyLock<String> = LazyLock::new(|| {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    visible(json!({ "name": name, "boot": { "id": boot.trim() } }).to_string())
});

/// What every record about an event begins with.
fn of_event(record: &impl event::Record, kind: Kind) -> Map<String, Json> {
    let mut object = Map::new();
    object.insert("@timestamp".into(), timestamp(record.time()).into());
    put(&mut object, "ecs.version", ECS_VERSION.into());
    let (categories, types) = categories(record.kind());
    if kind == Kind::Alert {
        put_kind(&mut object, kind, &[&["intrusion_detection"], categories].concat(), types);
    } else {
        put_kind(&mut object, kind, categories, types);
    }
    for def in Field::TABLE {
        if let Some(value) = record.get(def.field) {
            put(&mut object, def.name, json_of(value));
        }
    }
    put(&mut object, "coi.clock", record.time().into());
    object
}

fn put_kind(object: &mut Map<String, Json>, kind: Kind, categories: &[&str], types: &[&str]) {
    put(object, "event.kind", kind.ecs_kind().into());
    put(object, "event.module", "coi".into());
    put(object, "event.category", json!(categories));
    put(object, "event.type", json!(types));
    put(object, "coi.record", kind.name().into());
}

/// `event.category` and `event.type` of a kernel event.
const fn categories(kind: EventKind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        EventKind::Exec | EventKind::ExecFailed | EventKind::Fork => (&["process"], &["start"]),
        EventKind::Exit => (&["process"], &["end"]),
        EventKind::Connect => (&["network"], &["connection", "start"]),
        EventKind::Accept => (&["network"], &["connection", "start"]),
        EventKind::Send | EventKind::Bind | EventKind::Listen => (&["network"], &["info"]),
        EventKind::Redirect => (&["process"], &["change"]),
        EventKind::Link => (&["process", "network"], &["info"]),
        EventKind::Open | EventKind::Read | EventKind::Map => (&["file"], &["access"]),
        EventKind::Change => (&["file"], &["change"]),
        EventKind::Syscall | EventKind::IoUring | EventKind::Mismatch => (&["process"], &["info"]),
        EventKind::Loss => (&["host"], &["info"]),
    }
}

fn action(name: &str, error: Option<&str>) -> Json {
    let mut action = json!({ "name": name, "result": if error.is_none() { "success" } else { "failure" } });
    if let Some(error) = error {
        action["error"] = error.into();
    }
    action
}

/// A time of the kernel's clock as RFC 3339 in UTC, with nine digits.
pub(crate) fn timestamp(boot_time: u64) -> String {
    let ago = Duration::from_nanos(boottime().saturating_sub(boot_time));
    let then = Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{then:.9}")
}

/// ECS wants a number; these are the ones Elastic's own rules use for the four steps.
const fn number(severity: Severity) -> u8 {
    match severity {
        Severity::Info => 21,
        Severity::Warning => 47,
        Severity::High => 73,
        Severity::Critical => 99,
    }
}

/// Sets a value below a dotted name.
fn put(object: &mut Map<String, Json>, name: &str, value: Json) {
    match name.split_once('.') {
        None => {
            object.insert(name.to_owned(), value);
        }
        Some((first, rest)) => {
            let below = object.entry(first).or_insert_with(|| Json::Object(Map::new()));
            // A name is never both a value and a prefix: the schema is tested for it.
            if let Json::Object(below) = below {
                put(below, rest, value);
            }
        }
    }
}

/// The same JSON, in which no character steers a terminal: whoever prints a log with `cat` is safe.
pub(crate) fn visible(line: String) -> String {
    if !line.contains(ui::is_hidden) {
        return line;
    }
    // Below U+0020 JSON escapes them itself, and outside of texts there is none.
    line.chars().fold(String::with_capacity(line.len()), |mut line, c| {
        if ui::is_hidden(c) {
            line.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            line.push(c);
        }
        line
    })
}

/// Leaves only the beginnings of what is long.
fn shorten(value: &mut Json) {
    match value {
        Json::String(text) if text.len() > CUT => text.truncate(text.floor_char_boundary(CUT)),
        Json::Array(values) => {
            values.truncate(32);
            values.iter_mut().for_each(shorten);
        }
        Json::Object(object) => object.values_mut().for_each(shorten),
        _ => {}
    }
}

/// A container that a record is about.
pub(super) type About = Arc<Container>;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn container() -> About {
        Arc::new(Container { name: "c1".into(), id: "0d5b5e0e-0000-4000-8000-000000000001".into() })
    }

    #[test]
    fn dotted_names_nest() {
        let mut object = Map::new();
        put(&mut object, "a.b.c", 1.into());
        put(&mut object, "a.d", 2.into());
        assert_eq!(Json::Object(object), json!({"a": {"b": {"c": 1}, "d": 2}}));
    }

    proptest::proptest! {
        #[test]
        fn a_log_adds_to_a_line_and_changes_nothing_of_it(said in ".*") {
            let record = Record::note(&container(), &said);
            let previous = Link::genesis(0, "x");
            let mut sealed: Json = serde_json::from_str(&record.sealed(previous)).unwrap();
            let event = sealed["event"].as_object_mut().unwrap();
            proptest::prop_assert_eq!(event.shift_remove("sequence"), Some(json!(1)));
            let coi = sealed["coi"].as_object_mut().unwrap();
            proptest::prop_assert_eq!(coi.shift_remove("chain"), Some(json!({ "previous": previous.hash })));
            let host = sealed.as_object_mut().unwrap().shift_remove("host").unwrap();
            proptest::prop_assert!(host["boot"]["id"].is_string());
            let line = serde_json::from_str::<Json>(&record.line()).unwrap();
            proptest::prop_assert_eq!(sealed.to_string(), line.to_string());
        }
    }

    #[test]
    fn a_line_is_safe_to_print_and_means_the_same() {
        let hidden = "a\u{1b}[2J\u{9b}31m\u{202e}b\u{7f}\n";
        let line = Record::note(&container(), hidden).sealed(Link::genesis(0, "x"));
        assert!(!line.contains(ui::is_hidden), "{line}");
        let read: Json = serde_json::from_str(&line).unwrap();
        assert_eq!(read["coi"]["message"], hidden);
    }

    #[test]
    fn a_record_that_is_too_long_is_shortened_and_says_so() {
        let line = Record::note(&container(), &"\u{e4} ".repeat(LONGEST)).sealed(Link::genesis(0, "x"));
        assert!(line.len() < 4 * CUT && line.contains("\"record_truncated\":true"), "{line}");
    }
}
