//! What COI says of its own accord while a command runs.

use super::event::{severity, verb};
use super::{err, plain};
use crate::launch::{MonitorLost, Notices};
use crate::monitor::service::api::{ActionName, ActionTaken, Watch};
use crate::monitor::service::stream::Line;

/// What a terminal needs to be told when the program that drew on it was killed: leave the second screen, show
/// the cursor, stop reporting the mouse and marking what is pasted, draw plainly.
const LEAVE_SCREEN: &str =
    "\x1b[?1049l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[0m";

/// Says it on standard error.
#[derive(Clone, Copy, Debug)]
pub enum Printer {
    /// At once.
    Lines,
    /// At once, over a terminal that somebody else draws on: only what the user must know now, each line
    /// begun and ended so that it reads in raw mode.
    OverScreen,
}

impl Printer {
    fn say(self, line: &str) {
        match self {
            Self::Lines => err(line),
            Self::OverScreen => err(&format!("\r\n{line}\r")),
        }
    }
}

impl Notices for Printer {
    fn alert(&mut self, line: &Line) {
        let is_felt = matches!(line.done(), Some(ActionName::KillProcess | ActionName::CutNetwork));
        if matches!(self, Self::Lines) || is_felt || line.failed().is_some() {
            self.say(&alert_line(line));
        }
    }

    fn frozen(&mut self, watch: &Watch, line: &Line) {
        self.say(&freeze_line(watch, line));
    }

    fn held(&mut self, watch: &Watch, why: &str) {
        self.say(&format!("coi: {}: {}", plain(&watch.name), plain(why)));
    }

    fn unfrozen(&mut self, watch: &Watch) {
        self.say(&format!("coi: {} goes on", plain(&watch.name)));
    }

    fn killed(&mut self, watch: &Watch, action: &ActionTaken) {
        let leave = if matches!(self, Self::OverScreen) { LEAVE_SCREEN } else { "" };
        self.say(&format!("{leave}{}", kill_line(watch, action)));
    }

    fn monitor_lost(&mut self, name: &str, then: MonitorLost) {
        self.say(&lost_line(name, &then));
    }
}

fn alert_line(line: &Line) -> String {
    let mut text = format!(
        "coi: {}: rule {}: {}",
        severity(line.coi.severity),
        plain(&line.rule.id),
        what(&line.coi.message, &line.process.executable, line.process.pid)
    );
    match line.done() {
        Some(ActionName::Deny) => text.push_str("; refused"),
        Some(ActionName::KillProcess) => text.push_str("; ended the process and what it had started"),
        Some(ActionName::CutNetwork) => {
            text.push_str("; cut its network. Give it back with `coi unfreeze`");
        }
        _ => {}
    }
    if let Some((action, why)) = line.failed() {
        text.push_str(&format!("; could not {} it: {}", verb(action), plain(why)));
    }
    text
}

fn freeze_line(watch: &Watch, line: &Line) -> String {
    format!(
        "coi: froze {name}: rule {} ({}): {}; audit: {}. \
         Let it go on with `coi unfreeze {name}`",
        plain(&line.rule.id),
        severity(line.coi.severity),
        what(&line.coi.message, &line.process.executable, line.process.pid),
        watch.audit.display(),
        name = plain(&watch.name),
    )
}

/// What is said of a kill.
pub fn kill_line(watch: &Watch, action: &ActionTaken) -> String {
    format!(
        "coi: killed {}: rule {} ({}): {}; audit: {}",
        plain(&watch.name),
        plain(&action.rule_id),
        severity(Some(action.severity)),
        what(&action.message, &action.process_executable, action.process_pid),
        watch.audit.display()
    )
}

/// What happened and who did it; most rules' messages name the process themselves.
fn what(message: &str, executable: &str, pid: u32) -> String {
    let message = plain(message);
    if message.contains(&format!("(pid {pid})")) {
        return message.to_string();
    }
    format!("{message}, process {} (pid {pid})", plain(executable))
}

fn lost_line(name: &str, then: &MonitorLost) -> String {
    match then {
        MonitorLost::Rearmed => format!(
            "coi: the daemon went away and is back; {name} is watched again, what it did between is not known"
        ),
        MonitorLost::Freezes(why) => format!(
            "coi: nothing monitors {name} at the moment, so it is frozen until something does (after a planned restart \
             it has half a minute): {why}. Waiting; end it with Ctrl-C or `coi kill {name}`"
        ),
        MonitorLost::Continues(why) => format!(
            "coi: nothing monitors {name} at the moment, and it goes on, as on_monitor_loss says: {why}. Waiting for a \
             daemon; end it with Ctrl-C or `coi kill {name}`"
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::monitor::rules::Severity;
    use crate::monitor::service::api::{ActionName, ApiError, OnMonitorLoss, Subject, WatchState};
    use crate::monitor::service::client;

    #[test]
    fn lines() {
        let watch = Watch {
            on_monitor_loss: OnMonitorLoss::Freeze,
            name: "coi-1a2b3c4d-1".into(),
            subject: Subject::container("coi-1a2b3c4d-1"),
            respond: true,
            monitored: true,
            owner: 0,
            state: WatchState::Killed,
            audit: "/var/log/coi/coi-1a2b3c4d-1.jsonl".into(),
            last_action: None,
            network_cut: false,
            alerts: 1,
            lost: 0,
            events: std::collections::BTreeMap::new(),
            passed_over: Vec::new(),
        };
        let action = ActionTaken {
            action: ActionName::Kill,
            error: None,
            latency_us: 812,
            rule_id: "reverse-shell".into(),
            severity: Severity::Critical,
            message: "a shell's input and output lead to 10.0.0.1:4444".into(),
            process_executable: "/bin/bash\x1b[2J".into(),
            process_pid: 4711,
            timestamp: "2026-11-20T12:00:01.123456Z".into(),
        };
        let line = |severity: &str, action: serde_json::Value| {
            Line::read(&json!({
                "event": {"kind": "alert", "action": "read"}, "rule": {"id": "bulk-read"},
                "process": {"pid": 4711, "executable": "/bin/tar"},
                "coi": {"severity": severity, "message": "read 100 MB", "action": action},
            }))
        };
        let lost = || client::Error::Refused(ApiError { code: "internal".into(), message: "gone".into() });
        let cut = json!({"name": "cut-network", "result": "success"});
        let failed = json!({"name": "freeze", "result": "failure", "error": "no cgroup"});
        let name = &watch.name;
        let all = [
            alert_line(&line("warning", json!({"name": "log", "result": "success"}))),
            alert_line(&line("high", failed)),
            alert_line(&line("warning", json!({"name": "deny", "result": "success"}))),
            alert_line(&line("high", json!({"name": "kill-process", "result": "success"}))),
            alert_line(&line("high", cut)),
            freeze_line(&watch, &line("high", json!({"name": "freeze", "result": "success"}))),
            kill_line(&watch, &action),
            lost_line(name, &MonitorLost::Rearmed),
            lost_line(name, &MonitorLost::Freezes(lost())),
            lost_line(name, &MonitorLost::Continues(lost())),
        ];
        insta::assert_snapshot!(all.join("\n"));
    }
}
