//! The JSON Schema of a record.
//!
//! Made from the table of event fields, from the kinds of records and from the table below, and kept in
//! `docs/audit.schema.json`. It is strict: a field that is not in it is an error, so that no record gets one that is not
//! documented.

use serde_json::{Map, Value, json};

use super::record::Kind;
use crate::monitor::{
    event::{EventKind, Field, Type},
    rules::Action,
    service::api::ActionName,
};

/// Where it is said to be; `$id` is a name, nobody need fetch it.
const ID: &str = "urn:coi:audit:record:1";

/// The schema of one line.
pub fn schema() -> Value {
    let mut root = Node::default();
    for def in Field::TABLE {
        let mut schema = match def.ty {
            Type::Keyword | Type::Ip => json!({ "type": "string" }),
            Type::Integer => json!({ "type": "integer" }),
            Type::Boolean => json!({ "type": "boolean" }),
            Type::Keywords => json!({ "type": "array", "items": { "type": "string" } }),
        };
        schema["description"] = def.doc.into();
        root.put(def.name, schema);
    }
    for (name, schema, doc) in fields() {
        let mut schema = schema;
        schema["description"] = doc.into();
        root.put(name, schema);
    }
    let mut schema = root.schema(ALWAYS);
    let own = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "A record of COI's audit log",
        "description": "One line of an audit log: ECS names, and coi.* for what ECS lacks.",
    });
    let kinds = Kind::ALL.iter().map(|kind| {
        json!({
            "if": below("coi.record", json!({ "const": kind.name() })),
            "then": required(&needs(*kind)),
            "$comment": kind.doc(),
        })
    });
    if let (Value::Object(schema), Value::Object(mut own)) = (&mut schema, own) {
        own.append(schema);
        own.insert("allOf".into(), kinds.collect());
        *schema = own;
    }
    schema
}

/// What every record in a log has.
const ALWAYS: &[&str] = &[
    "@timestamp",
    "ecs.version",
    "event.kind",
    "event.module",
    "event.action",
    "event.category",
    "event.type",
    "event.sequence",
    "host.name",
    "host.boot.id",
    "container.name",
    "container.id",
    "coi.record",
    "coi.clock",
    "coi.chain.previous",
];

/// What a record of a kind has beside that.
fn needs(kind: Kind) -> Vec<&'static str> {
    match kind {
        Kind::Alert => vec![
            "event.severity",
            "rule.id",
            "rule.name",
            "coi.severity",
            "coi.response",
            "coi.message",
            "coi.action",
            "coi.phase",
        ],
        Kind::Action => vec!["coi.action", "coi.message", "event.outcome"],
        Kind::Event => vec!["coi.phase"],
        Kind::Loss => vec!["coi.loss.reason", "coi.loss.kind", "coi.loss.count"],
        Kind::Counts => vec!["coi.events"],
        Kind::Coverage => vec!["coi.programs", "coi.holes"],
        Kind::Attach => vec!["coi.watch", "coi.rules", "coi.version", "user.id"],
        Kind::Unmonitored => vec!["coi.watch", "coi.version", "coi.message", "user.id"],
        Kind::Detach | Kind::Note => vec!["coi.message"],
        Kind::State => vec!["coi.state", "coi.message"],
        Kind::Rules => vec!["coi.rules", "user.id"],
        Kind::Heartbeat => vec!["coi.state", "coi.alerts", "coi.events"],
        Kind::Gap => vec!["coi.gap"],
        Kind::Protection => vec!["coi.protection", "coi.message", "event.outcome"],
        Kind::Checkpoint => vec!["coi.checkpoint"],
        Kind::Retention => vec!["coi.retention"],
    }
}

/// The fields that no event has.
fn fields() -> Vec<(&'static str, Value, &'static str)> {
    let text = || json!({ "type": "string" });
    let count = || json!({ "type": "integer", "minimum": 0 });
    let time = || json!({ "type": "string", "format": "date-time" });
    let hash = || json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" });
    let one_of = |values: &[&str]| json!({ "enum": values });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    let actions: Vec<_> =
        EventKind::ALL.iter().map(|kind| kind.name()).chain(kinds.iter().copied()).collect();
    let result = || one_of(&["success", "failure"]);
    let done = ActionName::ALL.map(ActionName::name);
    vec![
        ("@timestamp", time(), "When it happened, in UTC, by the machine's clock."),
        ("ecs.version", text(), "The version of the Elastic Common Schema whose names are used."),
        (
            "event.kind",
            one_of(&["alert", "event", "metric", "state"]),
            "ECS's word for what kind of record it is; coi.record is finer.",
        ),
        ("event.module", json!({ "const": "coi" }), "What writes it."),
        ("event.action", one_of(&actions), "The kind of the event, or of the record where it is about none."),
        (
            "event.category",
            json!({ "type": "array", "items": one_of(&["configuration", "file", "host", "intrusion_detection", "network", "process"]) }),
            "ECS's categories.",
        ),
        (
            "event.type",
            json!({ "type": "array", "items": one_of(&["access", "change", "connection", "end", "info", "start"]) }),
            "ECS's types.",
        ),
        (
            "event.severity",
            json!({ "type": "integer", "enum": [21, 47, 73, 99] }),
            "The rule's severity as a number.",
        ),
        (
            "event.sequence",
            json!({ "type": "integer", "minimum": 1 }),
            "The record's number in its log: 1, 2, 3 and so on, across files and restarts.",
        ),
        ("host.name", text(), "The machine."),
        ("host.boot.id", text(), "Its boot: coi.clock counts from there."),
        ("user.id", text(), "Who asked for it."),
        ("rule.id", text(), "The rule that fired."),
        ("rule.name", text(), "Its title."),
        ("threat.framework", text(), "Where the techniques are from."),
        (
            "threat.technique.id",
            json!({ "type": "array", "items": text() }),
            "The techniques of MITRE ATT&CK that the rule is about.",
        ),
        ("coi.record", one_of(&kinds), "Which kind of record it is."),
        (
            "coi.clock",
            count(),
            "When it happened, in nanoseconds since the machine's boot: no change of the clock moves it.",
        ),
        (
            "coi.chain.previous",
            hash(),
            "The SHA-256 of the line before this one, without its end; of the log's name in the first.",
        ),
        ("coi.redacted", json!({ "const": true }), "Something was replaced by [redacted]."),
        (
            "coi.record_truncated",
            json!({ "const": true }),
            "The record was too long; of each text there is only the beginning.",
        ),
        ("coi.severity", one_of(&["info", "warning", "high", "critical"]), "How grave the rule says it is."),
        ("coi.response", one_of(&Action::ALL.map(Action::name)), "What the rule asks for."),
        ("coi.message", text(), "What happened, for people."),
        (
            "coi.suppressed",
            count(),
            "How many alerts of the rule about the same were not repeated before this one.",
        ),
        (
            "coi.evidence",
            json!({ "type": "array", "items": object(&["@timestamp", "action", "text"], json!({ "@timestamp": time(), "action": text(), "text": text() })) }),
            "What led to the alert.",
        ),
        (
            "coi.action",
            object(
                &["name", "result"],
                json!({
                    "name": one_of(&done), "result": result(), "error": text(),
                    "decided_us": count(), "latency_us": count(), "settled_us": count(),
                    "evidence": object(&[], json!({ "file": text(), "sha256": hash(), "bytes": count(), "error": text() })),
                    "copy": object(&[], json!({ "name": text(), "error": text() })),
                    "attempts": { "type": "array", "items": object(&["name", "result", "tries", "latency_us"], json!({
                        "name": one_of(&done), "result": result(), "error": text(), "tries": count(), "latency_us": count(),
                    })) },
                }),
            ),
            "What was done and what came of it. Microseconds since the event: until it was decided and a freeze written, until all stood still or was gone, until Incus had it so. attempts, where there was more than one: each action that was tried, in their order, and how often; the last is what was done. evidence: the file that was written before a kill, or why there is none. copy: the stopped container that was made of it before a kill, or why there is none.",
        ),
        ("coi.state", one_of(&["armed", "running", "frozen", "killed", "gone"]), "The watch's state."),
        (
            "coi.programs",
            json!({ "type": "array", "items": text() }),
            "The kernel programs that are attached.",
        ),
        (
            "coi.holes",
            json!({ "type": "array", "items": object(&["id", "what", "why", "routes"], json!({
            "id": text(), "what": text(), "why": text(), "routes": { "type": "array", "items": text() },
        })) }),
            "What is not seen, and why.",
        ),
        (
            "coi.events",
            json!({ "type": "object", "additionalProperties": object(&["delivered", "lost", "throttled"], json!({
            "delivered": count(), "lost": count(), "throttled": count(),
        })) }),
            "What became of all events so far, by kind.",
        ),
        ("coi.alerts", count(), "Alerts since the watch began."),
        (
            "coi.watch",
            object(&["respond", "owner"], json!({ "respond": { "type": "boolean" }, "owner": text() })),
            "Whether the rules may freeze and kill, and the uid of whom the log belongs to.",
        ),
        (
            "coi.rules",
            object(&["enabled", "digest"], json!({ "enabled": count(), "digest": hash() })),
            "The rules in force: how many, and the SHA-256 of what they mean: conditions, thresholds, windows, exceptions, severities and actions, with their lists and macros. Rules that judge otherwise have another.",
        ),
        ("coi.version", text(), "COI's version."),
        (
            "coi.gap",
            object(
                &["reason"],
                json!({
                    "reason": one_of(&["unwatched", "silent", "stopped", "crashed", "cut", "queue", "disk"]), "since": time(), "until": time(), "records": count(),
                    "processes": { "type": "array", "items": object(&["pid", "parent_pid", "executable", "command_line"], json!({
                        "pid": count(), "parent_pid": count(), "executable": text(), "command_line": text(),
                    })) },
                    "more_processes": count(),
                    "alerts": count(), "first": count(), "last": count(), "error": text(),
                    "torn": { "type": "array", "items": object(&["bytes", "sha256"], json!({ "bytes": count(), "sha256": hash() })) },
                }),
            ),
            "What is not in this log. unwatched: no daemon watched from since until until; processes ran there then. silent: the daemon's monitor gave no sign of life from since until until; what happened meanwhile was judged then, as far as the kernel had kept it. stopped: the daemon had ended in order and nobody watched. crashed: it had ended without a word. cut: the records first to last were written, and are gone. queue: they came faster than they could be written. disk: the disk took none. torn: files before this record end with so many bytes of an unfinished one.",
        ),
        (
            "coi.protection",
            object(
                &["path", "change", "by", "now"],
                json!({
                    "path": text(), "change": one_of(&["made", "removed", "replaced", "written", "exposed"]),
                    "by": one_of(&["inside", "outside", "unknown"]), "pid": count(),
                    "now": one_of(&["held", "nothing", "released"]), "error": text(),
                }),
            ),
            "What happened to a protected path of the workspace. exposed: the same file could be written to where a process inside sees it. by: whether a process of the container did it, or another one, by its pid on the host. now: held, it can only be read again; nothing, there is nothing of that name; released, it is not protected until the container is started again, since it came from inside where nothing was. error: why it is not held.",
        ),
        (
            "coi.checkpoint",
            object(
                &["algorithm", "key", "signature"],
                json!({
                    "algorithm": { "const": "ed25519" }, "key": hash(), "signature": { "type": "string", "pattern": "^[0-9a-f]{128}$" },
                }),
            ),
            "A signature of the chain before this record, and the SHA-256 of the public key.",
        ),
        (
            "coi.retention",
            object(
                &["files", "last", "hash"],
                json!({
                    "files": { "type": "array", "items": text() }, "last": count(), "hash": hash(),
                }),
            ),
            "The files that were removed, and the number and hash of the last record in them: what the next file's first record is to be held against.",
        ),
    ]
}

/// The properties below a name.
#[derive(Default)]
struct Node {
    below: Map<String, Value>,
    nodes: Vec<(String, Node)>,
}

impl Node {
    fn put(&mut self, name: &str, schema: Value) {
        match name.split_once('.') {
            // What a table says later is finer.
            None => {
                self.below.insert(name.to_owned(), schema);
            }
            Some((first, rest)) => {
                if let Some((_, node)) = self.nodes.iter_mut().find(|(name, _)| name == first) {
                    return node.put(rest, schema);
                }
                let mut node = Self::default();
                node.put(rest, schema);
                self.nodes.push((first.to_owned(), node));
            }
        }
    }

    fn schema(self, required: &[&str]) -> Value {
        let mut properties = self.below;
        let mut own: Vec<&str> = Vec::new();
        for name in required {
            let first = name.split('.').next().unwrap_or(name);
            if !own.contains(&first) {
                own.push(first);
            }
        }
        for (name, node) in self.nodes {
            let prefix = format!("{name}.");
            let below: Vec<_> = required.iter().filter_map(|name| name.strip_prefix(&prefix)).collect();
            properties.insert(name, node.schema(&below));
        }
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if !own.is_empty() {
            schema["required"] = json!(own);
        }
        schema
    }
}

/// A schema of the value below a dotted name.
fn below(name: &str, schema: Value) -> Value {
    name.rsplit('.')
        .fold(schema, |schema, part| json!({ "properties": { part: schema }, "required": [part] }))
}

/// Requires all these dotted names.
fn required(names: &[&str]) -> Value {
    json!({ "allOf": names.iter().map(|name| below(name, json!(true))).collect::<Vec<_>>() })
}

#[cfg(test)]
pub(super) mod tests {
    use std::{collections::BTreeMap, sync::LazyLock};

    use super::*;
    use crate::monitor::{
        audit::{
            chain::{Hash, Link},
            key::Key,
            record::{Done, Gap, Record, RulesInForce, Torn, tests::container},
        },
        event::{Actor, Detail, Event},
        rules::RuleSet,
        service::api::{ActionName, Hole, Tally, WatchState},
    };

    static VALIDATOR: LazyLock<jsonschema::Validator> =
        LazyLock::new(|| jsonschema::draft202012::new(&schema()).unwrap());

    /// Asserts that a line is what the schema says.
    #[track_caller]
    pub(crate) fn assert_valid(line: &str) {
        let record: Value = serde_json::from_str(line).unwrap();
        let errors: Vec<_> = VALIDATOR
            .iter_errors(&record)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}\n{record:#}");
    }

    /// `COI_UPDATE_DOCS=1 cargo test -p coi the_schema_is_that_of_the_docs` writes it anew.
    #[test]
    fn the_schema_is_that_of_the_docs() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/audit.schema.json");
        let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("COI_UPDATE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).is_ok_and(|docs| docs == text),
            "docs/audit.schema.json is old; COI_UPDATE_DOCS=1 cargo test -p coi the_schema_is_that_of_the_docs"
        );
        jsonschema::draft202012::meta::validate(&schema()).unwrap();
    }

    #[test]
    fn no_field_is_both_a_value_and_a_prefix() {
        let own = fields();
        let names: Vec<_> =
            Field::TABLE.iter().map(|def| def.name).chain(own.iter().map(|(name, ..)| *name)).collect();
        for a in &names {
            for b in &names {
                assert!(!b.starts_with(&format!("{a}.")), "{a} and {b}");
            }
        }
    }

    #[test]
    fn every_kind_of_record_is_valid_and_nothing_else_is() {
        let about = container();
        let rules = RulesInForce::of(&RuleSet::default());
        let events = BTreeMap::from([("exec".to_owned(), Tally { delivered: 1, lost: 2, throttled: 3 })]);
        let hole = Hole { id: "h".into(), what: "w".into(), why: "y".into(), routes: vec!["r".into()] };
        let link = Link::genesis(0, "x");
        let state = tempfile::tempdir().unwrap();
        let key = Key::of_machine(state.path()).unwrap();
        let torn = vec![Torn { bytes: 3, sha256: Hash::of(b"abc") }];
        let event = Event {
            kind: EventKind::Fork,
            time: 1,
            setup: false,
            container: about.clone(),
            actor: Actor::default(),
            process: None,
            parent: None,
            capabilities: [].into(),
            detail: Detail::None,
        };
        let records = [
            Record::action(
                &about,
                &Done { action: ActionName::Thaw, error: Some("e"), by: Some(7), why: "w" },
            ),
            Record::event(&event),
            Record::counts(&about, &events),
            Record::coverage(&about, &["p".into()], &[hole]),
            Record::attach(&about, true, 1000, 0, &rules),
            Record::unmonitored(&about, 1000, 0),
            Record::detach(&about, "over"),
            Record::state(&about, WatchState::Frozen, "why"),
            Record::rules(&about, 0, &rules),
            Record::heartbeat(&about, WatchState::Running, 3, &events),
            Record::gap(&about, &Gap { reason: "crashed", torn, records: Some(3), ..Gap::default() }),
            Record::checkpoint(&about, &key, 0, "x", link),
            Record::retention(&about, &["f".into()], link),
            Record::note(&about, "n"),
        ];
        for record in records {
            let kind = record.kind();
            let line = record.sealed(link);
            assert_valid(&line);
            let mut unknown: Value = serde_json::from_str(&line).unwrap();
            unknown["coi"]["unknown"] = 1.into();
            assert!(!VALIDATOR.is_valid(&unknown), "{kind:?}");
            for name in ALWAYS.iter().chain(&needs(kind)) {
                let mut less: Value = serde_json::from_str(&line).unwrap();
                let (parent, last) = name.rsplit_once('.').unwrap_or(("", name));
                let parent = parent.split('.').filter(|part| !part.is_empty());
                let parent = parent.fold(&mut less, |value, part| &mut value[part]);
                assert!(parent.as_object_mut().unwrap().shift_remove(last).is_some(), "{name}");
                assert!(!VALIDATOR.is_valid(&less), "{kind:?} without {name}");
            }
        }
    }
}
