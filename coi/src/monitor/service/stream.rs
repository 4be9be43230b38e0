//! What a line of the event stream says, as far as its readers on this machine care.
//!
//! A line is an object of nested ECS names. Whatever is missing is empty here, and whatever is unknown is
//! passed over: a viewer must not stop at an event it has not heard of.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::api::{ActionName, Hole, Tally, WatchState};
use crate::monitor::rules::{self, Severity};

/// A line.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Line {
    /// When it happened, RFC 3339.
    #[serde(rename = "@timestamp")]
    pub timestamp: String,
    /// What kind of line, and of event.
    pub event: Event,
    /// The rule that fired.
    pub rule: Rule,
    /// Who did it.
    pub process: Process,
    /// Where it connected to.
    pub destination: Destination,
    /// Where it listens.
    pub server: Destination,
    /// What it opened.
    pub file: File,
    /// What COI adds.
    pub coi: Coi,
}

/// What kind of line, and of event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    /// Such as `exec`.
    pub action: String,
}

/// The rule that fired.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Its id.
    pub id: String,
}

/// A process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its id on the host.
    pub pid: u32,
    /// Its program.
    pub executable: String,
    /// Its arguments in one line.
    pub command_line: String,
    /// How it ended.
    pub exit_code: Option<i64>,
}

/// The other end of a connection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Destination {
    /// Its address.
    pub ip: String,
    /// Its port.
    pub port: Option<u16>,
}

/// A file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct File {
    /// Its path.
    pub path: String,
}

/// What COI adds to ECS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Coi {
    /// Which kind of line: `event`, `alert`, `state` and so on, see [`crate::monitor::audit::Kind`].
    pub record: String,
    /// How grave the rule says it is.
    pub severity: Option<Severity>,
    /// What the rule asks for.
    pub response: Option<rules::Action>,
    /// What the rule says about it.
    pub message: String,
    /// What was done about it.
    pub action: Option<Action>,
    /// What the watch has become.
    pub state: Option<WatchState>,
    /// `setup` before the container's own init runs.
    pub phase: String,
    /// What was changed about a file.
    pub file: Change,
    /// A rare system call.
    pub syscall: Syscall,
    /// A request of io_uring.
    pub io_uring: IoUring,
    /// What the caller passed, where it is not what the kernel took.
    pub passed: Passed,
    /// An AF_UNIX socket.
    pub socket: Socket,
    /// What was lost.
    pub loss: Loss,
    /// What became of all events, by kind.
    pub events: BTreeMap<String, Tally>,
    /// What cannot be seen.
    pub holes: Vec<Hole>,
    /// Alerts so far.
    pub alerts: u64,
    /// The rules in force.
    pub rules: Rules,
    /// What is not in the log.
    pub gap: Gap,
    /// What was removed from it in order.
    pub retention: Retention,
}

/// The rules in force.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// How many.
    pub enabled: u64,
}

/// What is not in a log.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Gap {
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: String,
    /// How many records.
    pub records: u64,
    /// The first that is missing.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// The system's word for it.
    pub error: String,
}

/// What was removed from a log in order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Retention {
    /// Which files.
    pub files: Vec<String>,
    /// The last record in them.
    pub last: u64,
}

/// What was changed about a file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Such as `rename`.
    pub change: String,
    /// The old name, or a symbolic link's text.
    pub source: String,
}

/// A rare system call.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Syscall {
    /// Its name.
    pub name: String,
    /// A path or name among its arguments.
    pub path: String,
    /// What it gave back.
    pub result: Option<i64>,
}

/// A request of io_uring.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct IoUring {
    /// What was asked for.
    pub opcode: String,
}

/// What a caller passed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Passed {
    /// A path.
    pub path: String,
    /// An address.
    pub ip: String,
    /// Its port.
    pub port: Option<u16>,
}

/// An AF_UNIX socket.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Socket {
    /// Its path.
    pub path: String,
}

/// What was lost.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// Events of which kind.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// `ring` or `budget`.
    pub reason: String,
}

/// What was done.
#[derive(Clone, Debug, Deserialize)]
pub struct Action {
    /// What.
    pub name: ActionName,
    /// `success` or `failure`.
    #[serde(default)]
    pub result: String,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<String>,
    /// From the event to the decision.
    #[serde(default)]
    pub decided_us: Option<u64>,
    /// From the event to the action's end.
    #[serde(default)]
    pub latency_us: Option<u64>,
}

impl Line {
    /// Reads a line.
    pub fn read(value: &Value) -> Self {
        // One field of an unexpected type must not hide a kill: what decides is then read by itself.
        Self::deserialize(value).unwrap_or_else(|_| Self {
            event: read(value, "event"),
            rule: read(value, "rule"),
            process: read(value, "process"),
            coi: read(value, "coi"),
            ..Self::default()
        })
    }

    /// Whether a rule fired.
    pub fn is_alert(&self) -> bool {
        self.coi.record == "alert"
    }

    /// The action that was taken, if it worked.
    pub fn done(&self) -> Option<ActionName> {
        self.coi.action.as_ref().filter(|a| a.result != "failure").map(|a| a.name)
    }

    /// The action that was tried in vain, and why.
    pub fn failed(&self) -> Option<(ActionName, &str)> {
        let action = self.coi.action.as_ref().filter(|a| a.result == "failure")?;
        Some((action.name, action.error.as_deref().unwrap_or("for an unknown reason")))
    }
}

fn read<T: Default + for<'a> Deserialize<'a>>(value: &Value, key: &str) -> T {
    value.get(key).and_then(|part| T::deserialize(part).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_kill() {
        let line = Line::read(&json!({
            "event": { "action": "link", "severity": 99 },
            "rule": { "id": "reverse-shell", "name": "Reverse shell" },
            "coi": { "record": "alert", "severity": "critical", "message": "m", "action": { "name": "kill", "result": "success" } },
        }));
        assert!(line.is_alert());
        assert_eq!((line.done(), line.coi.severity), (Some(ActionName::Kill), Some(Severity::Critical)));
    }

    #[test]
    fn an_odd_field_hides_nothing() {
        let line = Line::read(&json!({
            "event": {}, "file": "not an object", "coi": { "state": "killed", "new": 1 },
        }));
        assert_eq!(line.coi.state, Some(WatchState::Killed));
    }
}
