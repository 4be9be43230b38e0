//! Events, alerts and states as JSON objects.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Map, Value as Json, json};

use crate::monitor::{
    event::{Container, Field, Record},
    rules::{Alert, Severity, recording::json_of},
    sensor::boottime,
    service::api::{ActionName, Hole, Tally, WatchState},
};

/// The version of ECS whose names are used.
const ECS_VERSION: &str = "8.17.0";

/// An event.
pub fn event(record: &impl Record) -> Map<String, Json> {
    let mut object = Map::new();
    object.insert("@timestamp".into(), timestamp(record.time()).into());
    put(&mut object, "ecs.version", ECS_VERSION.into());
    put(&mut object, "event.kind", "event".into());
    for def in Field::TABLE {
        if let Some(value) = record.get(def.field) {
            put(&mut object, def.name, json_of(value));
        }
    }
    object
}

/// What was done about an alert.
pub struct Outcome<'a> {
    /// What.
    pub action: ActionName,
    /// From the event to when it was decided, and if there is something to be done, to when the freeze was written.
    pub decided: Duration,
    /// From the event to when all processes stood still, or none was left.
    pub latency: Duration,
    /// From the event to when Incus had it frozen, or the container was gone.
    pub settled: Option<Duration>,
    /// `None` if it worked.
    pub error: Option<&'a str>,
}

/// An alert and what was done about it.
pub fn alert(record: &impl Record, alert: &Alert, outcome: &Outcome<'_>) -> Map<String, Json> {
    let mut object = event(record);
    let rule = &alert.rule;
    put(&mut object, "event.kind", "alert".into());
    put(&mut object, "event.severity", number(rule.severity).into());
    put(&mut object, "rule.id", rule.id.as_str().into());
    put(&mut object, "rule.name", rule.title.as_str().into());
    if !rule.attack.is_empty() {
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
    let mut done = json!({
        "name": outcome.action,
        "result": if outcome.error.is_none() { "success" } else { "failure" },
    });
    done["decided_us"] = microseconds(outcome.decided).into();
    if outcome.action != ActionName::Log {
        done["latency_us"] = microseconds(outcome.latency).into();
    }
    if let Some(settled) = outcome.settled {
        done["settled_us"] = microseconds(settled).into();
    }
    if let Some(error) = outcome.error {
        done["error"] = error.into();
    }
    put(&mut object, "coi.action", done);
    object
}

/// What is seen of a container, and what cannot be: told when its watch is armed, and to each viewer.
pub fn coverage(container: &Container, programs: &[String], holes: &[Hole]) -> Map<String, Json> {
    let mut object = about(container, "coverage");
    put(&mut object, "coi.programs", json!(programs));
    put(&mut object, "coi.holes", json!(holes));
    object
}

/// What became of a container's events since its watch began: told when it has stopped, and when the watch is over.
pub fn counts(container: &Container, events: &BTreeMap<String, Tally>) -> Map<String, Json> {
    let mut object = about(container, "counts");
    put(&mut object, "coi.events", json!(events));
    object
}

/// A watch has come to a state. `why` is for people.
pub fn state(container: &Container, state: WatchState, why: &str) -> Map<String, Json> {
    let mut object = about(container, "state");
    put(&mut object, "coi.state", json!(state));
    put(&mut object, "coi.message", why.into());
    object
}

/// Something that people should know of a watch, whose state it does not change.
pub fn note(container: &Container, what: &str) -> Map<String, Json> {
    let mut object = about(container, "note");
    put(&mut object, "coi.message", what.into());
    object
}

/// What every record about a container, and not about an event, begins with.
fn about(container: &Container, kind: &str) -> Map<String, Json> {
    let mut object = Map::new();
    object.insert("@timestamp".into(), timestamp(boottime()).into());
    put(&mut object, "ecs.version", ECS_VERSION.into());
    put(&mut object, "event.kind", kind.into());
    put(&mut object, "container.name", container.name.as_str().into());
    put(&mut object, "container.id", container.id.as_str().into());
    object
}

/// A time of the kernel's clock as RFC 3339 in UTC, with nine digits.
pub(crate) fn timestamp(boot_time: u64) -> String {
    let ago = Duration::from_nanos(boottime().saturating_sub(boot_time));
    let then = Timestamp::now().checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{then:.9}")
}

/// ECS wants a number; these are the ones Elastic's own rules use for the four steps.
fn number(severity: Severity) -> u8 {
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
            // A name is never both a value and a prefix: the table of fields is tested for it.
            if let Json::Object(below) = below {
                put(below, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_both_a_value_and_a_prefix() {
        for a in Field::TABLE {
            for b in Field::TABLE {
                assert!(!b.name.starts_with(&format!("{}.", a.name)), "{} and {}", a.name, b.name);
            }
        }
    }

    #[test]
    fn dotted_names_nest() {
        let mut object = Map::new();
        put(&mut object, "a.b.c", 1.into());
        put(&mut object, "a.d", 2.into());
        assert_eq!(Json::Object(object), json!({"a": {"b": {"c": 1}, "d": 2}}));
    }
}
