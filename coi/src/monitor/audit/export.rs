//! Records in the forms that others read: plain ECS, OCSF, CSV.
//!
//! It promises that what is exported says no more than the record. The chain does not come along: an export is a copy to
//! work with, the log is the evidence.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::ui;

/// The version of OCSF.
const OCSF_VERSION: &str = "1.4.0";

/// The columns of a CSV export: name, and where the value is in a record.
const COLUMNS: &[(&str, &str)] = &[
    ("time", "/@timestamp"),
    ("sequence", "/event/sequence"),
    ("record", "/coi/record"),
    ("severity", "/coi/severity"),
    ("rule", "/rule/id"),
    ("action", "/coi/action/name"),
    ("result", "/coi/action/result"),
    ("state", "/coi/state"),
    ("event", "/event/action"),
    ("container", "/container/name"),
    ("container_id", "/container/id"),
    ("pid", "/process/pid"),
    ("executable", "/process/executable"),
    ("command_line", "/process/command_line"),
    ("destination_ip", "/destination/ip"),
    ("destination_port", "/destination/port"),
    ("file", "/file/path"),
    ("message", "/coi/message"),
];

/// With the fields of ECS alone; what COI has to say beside them is in `message` and `labels`.
pub fn ecs(record: &Value) -> Value {
    let Value::Object(mut record) = record.clone() else { return Value::Null };
    let Some(coi) = record.shift_remove("coi") else { return Value::Object(record) };
    if let Some(message) = coi.get("message") {
        record.insert("message".into(), message.clone());
    }
    let mut labels = Map::new();
    for (label, place) in [
        ("coi_record", "/record"),
        ("coi_severity", "/severity"),
        ("coi_action", "/action/name"),
        ("coi_action_result", "/action/result"),
        ("coi_state", "/state"),
        ("coi_phase", "/phase"),
    ] {
        if let Some(value) = coi.pointer(place) {
            labels.insert(label.into(), value.clone());
        }
    }
    record.insert("labels".into(), Value::Object(labels));
    Value::Object(record)
}

/// An alert as an OCSF Detection Finding; `None` for what is no alert.
pub fn ocsf(record: &Value) -> Option<Value> {
    let text = |place: &str| record.pointer(place).and_then(Value::as_str);
    if text("/coi/record") != Some("alert") {
        return None;
    }
    let time = text("/@timestamp")?.parse::<Timestamp>().ok()?.as_millisecond();
    let severity = match text("/coi/severity")? {
        "critical" => 5,
        "high" => 4,
        "warning" => 3,
        _ => 1,
    };
    let sequence = record.pointer("/event/sequence").and_then(Value::as_u64)?;
    let container = text("/container/id")?;
    let uid = format!("{container}/{sequence}");
    let is_done = text("/coi/action/result") == Some("success");
    let is_blocked = is_done && matches!(text("/coi/action/name"), Some("freeze" | "kill"));
    let techniques = record.pointer("/threat/technique/id").and_then(Value::as_array);
    let attacks: Vec<_> =
        techniques.into_iter().flatten().map(|id| json!({ "technique": { "uid": id } })).collect();
    let mut evidence = Map::new();
    let process = without_empty(json!({
        "pid": record.pointer("/process/pid"),
        "uid": text("/process/entity_id"),
        "name": text("/process/name"),
        "cmd_line": text("/process/command_line"),
        "file": without_empty(json!({ "path": text("/process/executable"), "name": text("/process/name"), "type_id": text("/process/executable").map(|_| 1) })),
        "parent_process": without_empty(json!({
            "pid": record.pointer("/process/parent/pid"),
            "name": text("/process/parent/name"),
            "cmd_line": text("/process/parent/command_line"),
        })),
    }));
    let endpoint = |end: &str| {
        without_empty(json!({
            "ip": text(&format!("/{end}/ip")),
            "port": record.pointer(&format!("/{end}/port")),
        }))
    };
    let file = without_empty(
        json!({ "path": text("/file/path"), "name": text("/file/name"), "type_id": text("/file/path").map(|_| 0) }),
    );
    for (name, value) in [
        ("process", process),
        ("dst_endpoint", endpoint("destination")),
        ("src_endpoint", endpoint("source")),
        ("file", file),
    ] {
        if value.as_object().is_some_and(|value| !value.is_empty()) {
            evidence.insert(name.into(), value);
        }
    }
    Some(json!({
        "activity_id": 1,
        "category_uid": 2,
        "class_uid": 2004,
        "type_uid": 200_401,
        "time": time,
        "severity_id": severity,
        "status_id": 1,
        "is_alert": true,
        "action_id": if is_blocked { 2 } else { 1 },
        "disposition_id": if is_blocked { 2 } else { 17 },
        "message": text("/coi/message"),
        "attacks": attacks,
        "metadata": {
            "version": OCSF_VERSION,
            "uid": uid,
            "sequence": sequence,
            "profiles": ["security_control", "container"],
            "product": { "name": "COI", "vendor_name": "COI", "version": env!("CARGO_PKG_VERSION") },
        },
        "finding_info": {
            "uid": uid,
            "title": text("/rule/name"),
            "desc": text("/coi/message"),
            "created_time": time,
            "analytic": { "type_id": 1, "uid": text("/rule/id"), "name": text("/rule/name") },
            "attacks": attacks,
        },
        "container": { "uid": container, "name": text("/container/name") },
        "resources": [{ "uid": container, "name": text("/container/name"), "type": "container" }],
        "device": { "hostname": text("/host/name"), "type_id": 0 },
        "evidences": [evidence],
    }))
}

/// The first line of a CSV export.
pub fn csv_header() -> String {
    COLUMNS.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}

/// A record as a line of CSV. A spreadsheet takes none of it for a formula.
pub fn csv(record: &Value) -> String {
    let cells = COLUMNS.iter().map(|(_, place)| match record.pointer(place) {
        Some(Value::String(text)) => cell(text),
        None | Some(Value::Null) => String::new(),
        Some(value) => value.to_string(),
    });
    cells.collect::<Vec<_>>().join(",")
}

fn cell(text: &str) -> String {
    let mut text = ui::plain(text);
    if text.starts_with(['=', '+', '-', '@']) {
        text = Cow::Owned(format!("'{text}"));
    }
    if text.contains([',', '"', ' ']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into_owned()
    }
}

/// An object without what is not there.
fn without_empty(mut value: Value) -> Value {
    if let Value::Object(object) = &mut value {
        object
            .retain(|_, value| !value.is_null() && value.as_object().is_none_or(|object| !object.is_empty()));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Value {
        json!({
            "@timestamp": "2026-11-20T12:00:00.123456789Z", "ecs": {"version": "8.17.0"},
            "event": {"kind": "alert", "action": "connect", "sequence": 7},
            "host": {"name": "h"}, "container": {"name": "c1", "id": "u1"},
            "rule": {"id": "r", "name": "R"}, "threat": {"technique": {"id": ["T1059.004"]}},
            "process": {"pid": 9, "name": "nc", "executable": "/bin/nc", "command_line": "nc, \"x\"\u{1b}[2J", "parent": {"pid": 1}},
            "destination": {"ip": "10.0.0.1", "port": 443},
            "coi": {"record": "alert", "severity": "high", "message": "=cmd|' /C calc'!A0",
                "action": {"name": "freeze", "result": "success"}, "chain": {"previous": "0"}},
        })
    }

    #[test]
    fn forms() {
        let forms = [
            serde_json::to_string_pretty(&ecs(&alert())).unwrap(),
            serde_json::to_string_pretty(&ocsf(&alert()).unwrap()).unwrap(),
            csv_header(),
            csv(&alert()),
        ];
        insta::assert_snapshot!(forms.join("\n"));
        assert_eq!(ocsf(&json!({"coi": {"record": "state"}})), None);
    }

    proptest::proptest! {
        #[test]
        fn a_line_of_csv_is_a_line(text: String) {
            let line = csv(&json!({"coi": {"message": text}}));
            proptest::prop_assert!(!line.contains(char::is_control));
            let last = line.trim_start_matches(',');
            let quoted = last.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let read = quoted.map_or(last.to_owned(), |inner| inner.replace("\"\"", "\""));
            proptest::prop_assert!(!read.starts_with(['=', '+', '-', '@']), "{line}");
            let plain = ui::plain(&text);
            let bare = |text: &str| text.strip_prefix('\'').unwrap_or(text).to_owned();
            proptest::prop_assert_eq!(bare(&read), bare(&plain));
        }
    }
}
