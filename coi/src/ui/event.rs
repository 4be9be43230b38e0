//! One line per event.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::plain;
use crate::monitor::rules::Severity;
use crate::monitor::service::api::{ActionName, Tally, WatchState};
use crate::monitor::service::stream::{Gap, Line};

/// A line of the event stream for people: when, what, who, and on what.
pub fn event(line: &Line, zone: &TimeZone) -> String {
    let style = style(line);
    let (what, rest) = match line.coi.record.as_str() {
        "alert" => (severity(line.coi.severity).to_owned(), alert(line)),
        "coverage" => return coverage(line),
        "counts" => ("counts".to_owned(), counts(line)),
        "state" => (line.coi.state.map_or("state", state).to_owned(), plain(&line.coi.message).into_owned()),
        "event" | "loss" => (plain(&line.event.action).into_owned(), detail(line)),
        kind => (plain(kind).into_owned(), about(line)),
    };
    let pid = match line.process.pid {
        0 => String::new(),
        pid => pid.to_string(),
    };
    let text = format!("{} {what:<8} {pid:>7} {rest}", time(&line.timestamp, zone));
    format!("{style}{}{style:#}", text.trim_end())
}

/// What a record says that is about no event.
fn about(line: &Line) -> String {
    let coi = &line.coi;
    match coi.record.as_str() {
        "attach" => format!("watched from here on, by {} rules", coi.rules.enabled),
        "rules" => format!("{} rules are in force from here on", coi.rules.enabled),
        "heartbeat" => format!("the monitor is at work; alerts so far: {}", coi.alerts),
        "checkpoint" => "the log up to here is signed".to_owned(),
        "retention" => format!(
            "{} old files up to record {} were removed",
            coi.retention.files.len(),
            coi.retention.last
        ),
        "gap" => gap(&coi.gap),
        _ => plain(&coi.message).into_owned(),
    }
}

fn gap(gap: &Gap) -> String {
    let mut text = match gap.reason.as_str() {
        "stopped" => "nobody watched: the daemon had ended".to_owned(),
        "crashed" => "nobody watched: the daemon had ended without a word".to_owned(),
        "cut" => format!("records {} to {} were written, and are gone", gap.first, gap.last),
        "queue" => format!("{} records came faster than they could be written", gap.records),
        "disk" => "the disk took no records".to_owned(),
        other => plain(other).into_owned(),
    };
    if !gap.since.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(text, ", since {}", plain(&gap.since));
    }
    if !gap.error.is_empty() {
        let _ = write!(text, ": {}", plain(&gap.error));
    }
    text
}

fn time(timestamp: &str, zone: &TimeZone) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(time) => time.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string(),
        Err(_) => "--:--:--.---".to_owned(),
    }
}

fn detail(line: &Line) -> String {
    // Who ran before it was watched has not been seen to run anything.
    let who = match line.process.executable.as_str() {
        "" => "?".into(),
        who => plain(who),
    };
    let mut text = match (line.event.action.as_str(), line.process.command_line.as_str()) {
        ("exec" | "exec-failed", command) if !command.is_empty() => plain(command).into_owned(),
        _ => who.into_owned(),
    };
    for (arrow, end) in [(" -> ", &line.destination), (" at ", &line.server)] {
        if !end.ip.is_empty() {
            text.push_str(arrow);
            text.push_str(&address(&end.ip, end.port));
        }
    }
    let coi = &line.coi;
    let words = [
        ("", &coi.file.change),
        ("", &coi.syscall.name),
        ("", &coi.io_uring.opcode),
        ("-> ", &coi.socket.path),
        ("", &line.file.path),
        ("", &coi.syscall.path),
        ("from ", &coi.file.source),
        ("but passed ", &coi.passed.path),
    ];
    // Writing to a string cannot fail.
    for (before, word) in words.into_iter().filter(|(_, word)| !word.is_empty()) {
        let _ = write!(text, " {before}{}", plain(word));
    }
    if !coi.passed.ip.is_empty() {
        let _ = write!(text, " but passed {}", address(&coi.passed.ip, coi.passed.port));
    }
    if let Some(result) = coi.syscall.result {
        let _ = write!(text, " = {result}");
    }
    if coi.loss.count > 0 {
        let why = if coi.loss.reason == "budget" {
            "more than one container may send"
        } else {
            "no room in the ring"
        };
        text = format!("{} events of kind {} were not seen: {why}", coi.loss.count, plain(&coi.loss.kind));
    }
    if let Some(code) = line.process.exit_code {
        let _ = write!(text, " = {code}");
    }
    if !line.coi.message.is_empty() {
        let _ = write!(text, " {}", plain(&line.coi.message));
    }
    if line.coi.phase == "setup" {
        text.push_str(" (container set-up)");
    }
    text
}

fn address(ip: &str, port: Option<u16>) -> String {
    match port {
        Some(port) if ip.contains(':') => format!("[{}]:{port}", plain(ip)),
        Some(port) => format!("{}:{port}", plain(ip)),
        None => plain(ip).into_owned(),
    }
}

/// What cannot be seen, a line each.
/// What became of all events, where something is missing.
fn counts(line: &Line) -> String {
    let told = |(kind, tally): (&String, &Tally)| {
        let Tally { delivered, lost, throttled } = tally;
        let kind = plain(kind);
        if lost + throttled == 0 {
            format!("{delivered} {kind}")
        } else {
            format!("{delivered} {kind} ({lost} more lost, {throttled} throttled)")
        }
    };
    let all: Vec<_> = line.coi.events.iter().map(told).collect();
    format!("events so far: {}", if all.is_empty() { "none".to_owned() } else { all.join(", ") })
}

fn coverage(line: &Line) -> String {
    let style = Style::new().dimmed();
    let holes = line.coi.holes.iter();
    let lines: Vec<_> = holes
        .map(|hole| format!("{style}not seen: {}: {}{style:#}", plain(&hole.what), plain(&hole.why)))
        .collect();
    lines.join("\n")
}

fn alert(line: &Line) -> String {
    let mut text =
        format!("{} {}: {}", plain(&line.process.executable), plain(&line.rule.id), plain(&line.coi.message));
    if let Some((action, why)) = line.failed() {
        let _ = write!(text, " (could not {}: {})", verb(action), plain(why));
    } else if let Some(action) = line.coi.action.as_ref().filter(|a| a.name != ActionName::Log) {
        let done = done(action.name);
        let _ = match action.latency_us {
            Some(us) => write!(text, " ({done} in {}.{:03} ms)", us / 1000, us % 1000),
            None => write!(text, " ({done})"),
        };
    }
    text
}

fn style(line: &Line) -> Style {
    let color = |c: AnsiColor| Style::new().fg_color(Some(c.into()));
    match (line.coi.record.as_str(), line.coi.severity) {
        ("alert", Some(Severity::Critical)) => color(AnsiColor::Red).bold(),
        ("alert", Some(Severity::High)) => color(AnsiColor::Red),
        ("alert", Some(Severity::Warning)) => color(AnsiColor::Yellow),
        ("alert", _) => color(AnsiColor::Cyan),
        ("state", _) => Style::new().bold(),
        _ if line.coi.phase == "setup" => Style::new().dimmed(),
        _ => Style::new(),
    }
}

/// A severity's name.
pub(super) fn severity(severity: Option<Severity>) -> &'static str {
    match severity {
        Some(Severity::Info) => "info",
        Some(Severity::Warning) => "warning",
        Some(Severity::High) => "high",
        Some(Severity::Critical) => "critical",
        None => "alert",
    }
}

/// A state's name.
fn state(state: WatchState) -> &'static str {
    match state {
        WatchState::Armed => "armed",
        WatchState::Running => "running",
        WatchState::Frozen => "frozen",
        WatchState::Killed => "killed",
        WatchState::Gone => "gone",
    }
}

/// What an action has done.
fn done(action: ActionName) -> &'static str {
    match action {
        ActionName::Log => "logged",
        ActionName::Deny => "refused",
        ActionName::KillProcess => "process ended",
        ActionName::CutNetwork => "network cut",
        ActionName::RestoreNetwork => "network restored",
        ActionName::Freeze => "frozen",
        ActionName::Kill => "killed",
        ActionName::Thaw => "thawed",
    }
}

/// What an action does.
pub(super) fn verb(action: ActionName) -> &'static str {
    match action {
        ActionName::Log => "log",
        ActionName::Deny => "refuse",
        ActionName::KillProcess => "end the process of",
        ActionName::CutNetwork => "cut the network of",
        ActionName::RestoreNetwork => "restore the network of",
        ActionName::Freeze => "freeze",
        ActionName::Kill => "kill",
        ActionName::Thaw => "thaw",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines() {
        let at = "2026-11-20T12:00:01.123456Z";
        let lines = [
            json!({"@timestamp": at, "coi": {"record": "event"}, "event": {"action": "exec"},
                "process": {"pid": 1234, "executable": "/usr/bin/curl", "command_line": "curl -s http://a\x1b[2J"}}),
            json!({"@timestamp": at, "coi": {"record": "event"}, "event": {"action": "connect"},
                "process": {"pid": 1234, "executable": "/usr/bin/curl"}, "destination": {"ip": "10.0.0.1", "port": 443}}),
            json!({"@timestamp": at, "coi": {"record": "event"}, "event": {"action": "connect"},
                "process": {"pid": 1234, "executable": "/usr/bin/curl"}, "destination": {"ip": "::1", "port": 443}}),
            json!({"@timestamp": at, "coi": {"record": "event"}, "event": {"action": "open"},
                "process": {"pid": 7, "executable": "/bin/cat"}, "file": {"path": "/workspace/.env"}}),
            json!({"@timestamp": at, "event": {"action": "exit"},
                "process": {"pid": 7, "executable": "/bin/cat", "exit_code": 1}, "coi": {"record": "event", "phase": "setup"}}),
            json!({"@timestamp": at, "coi": {"record": "counts", "events": {"exec": {"delivered": 12, "lost": 0, "throttled": 0},
                    "open": {"delivered": 2000, "lost": 1, "throttled": 30}}}}),
            json!({"@timestamp": at, "event": {"action": "link"}, "rule": {"id": "reverse-shell"},
                "process": {"pid": 9, "executable": "/bin/bash"},
                "coi": {"record": "alert", "severity": "critical", "message": "a shell on a socket",
                    "action": {"name": "kill", "result": "success", "latency_us": 812}}}),
            json!({"@timestamp": at, "event": {"action": "read"}, "rule": {"id": "bulk"},
                "process": {"pid": 9, "executable": "/bin/tar"},
                "coi": {"record": "alert", "severity": "high", "message": "much",
                    "action": {"name": "freeze", "result": "failure", "error": "no cgroup"}}}),
            json!({"@timestamp": "when?", "coi": {"record": "state", "state": "gone"}}),
        ];
        let text =
            lines.map(|l| anstream::adapter::strip_str(&event(&Line::read(&l), &TimeZone::UTC)).to_string());
        insta::assert_snapshot!(text.join("\n"));
    }
}
