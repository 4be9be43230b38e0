//! `coi rules replay`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::{Base, Code, Format, From, OwnRules, Recording, Result, load, out, ui, with};
use crate::monitor::rules::Alert;
use crate::monitor::rules::recording::{Holds, Replay as Engine};
use crate::ui::plain;

/// Judge a recording again: the same rules give the same alerts at the same event times.
///
/// It is judged by the rules of this machine as they are now, and those that the user and the workspace had brought,
/// which it carries.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coi rules replay session.jsonl\n  coi rules replay session.jsonl --rules ./rules\n  \
                        coi rules replay session.jsonl --diff ./rules ./rules.new"
)]
pub(super) struct Replay {
    /// What `coi monitor --record` or `coi daemon --record` wrote.
    file: PathBuf,
    #[command(flatten)]
    from: From,
    /// Two directories of rules: show what would have changed from the first to the second.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "rules")]
    diff: Option<Vec<PathBuf>>,
    /// Leave out the rules of the user and the workspace that the recording carries.
    #[arg(long)]
    without_own: bool,
    /// How to print the alerts.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What became of the same alert under other rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Gone,
    New,
}

impl Replay {
    pub(super) fn execute(self) -> Result {
        let (alerts, holds): (Vec<_>, _) = match self.diff.as_deref() {
            Some([old, new]) => {
                let config = self.from.config.as_deref();
                let (old, new) = (load(Some(old), config)?, load(Some(new), config)?);
                let (old, new) = (self.alerts(&old)?, self.alerts(&new)?);
                (difference(&old.0, &new.0), new.1)
            }
            _ => {
                let (alerts, holds) = self.alerts(&self.from.load()?)?;
                (alerts.into_iter().map(|alert| (None, alert)).collect(), holds)
            }
        };
        if holds == Holds::Judged && (self.from.rules.is_some() || self.diff.is_some()) {
            ui::err(
                "coi: this recording holds what the rules of then looked at; of what only other rules look at, \
                 nothing is in it",
            );
        }
        out(&match self.format {
            Format::Text => alerts.iter().map(|(change, alert)| line(*change, alert)).collect(),
            Format::Json => {
                format!(
                    "{:#}\n",
                    alerts.iter().map(|(change, alert)| object(*change, alert)).collect::<Value>()
                )
            }
        })?;
        Ok(Code::OK)
    }

    fn alerts(&self, base: &Base) -> Result<(Vec<Alert>, Holds)> {
        let mut recording = Recording::open(&self.file)?;
        let nothing = OwnRules::default();
        let own = if self.without_own { &nothing } else { recording.reader.own() };
        let mut engine = Engine::new(Arc::new(with(base, own)?));
        let mut alerts = Vec::new();
        recording.each(|entry| {
            engine.judge(&entry, &mut alerts);
            Ok(())
        })?;
        Ok((alerts, recording.reader.holds()))
    }
}

/// What only one of them has, in the order of time. An alert is the same if its rule, time, message and action are.
fn difference(old: &[Alert], new: &[Alert]) -> Vec<(Option<Change>, Alert)> {
    let same = |a: &Alert, b: &Alert| {
        (a.time, &a.rule.id, &a.message, a.rule.action()) == (b.time, &b.rule.id, &b.message, b.rule.action())
    };
    let without = |these: &[Alert], others: &[Alert], change| {
        let only = these.iter().filter(|alert| !others.iter().any(|other| same(alert, other)));
        only.map(|alert| (Some(change), alert.clone())).collect::<Vec<_>>()
    };
    let mut all = without(old, new, Change::Gone);
    all.extend(without(new, old, Change::New));
    all.sort_by_key(|(_, alert)| alert.time);
    all
}

fn line(change: Option<Change>, alert: &Alert) -> String {
    let sign = match change {
        None => "",
        Some(Change::Gone) => "- ",
        Some(Change::New) => "+ ",
    };
    let (seconds, nanos) = (alert.time / 1_000_000_000, alert.time % 1_000_000_000);
    let rule = &alert.rule;
    format!(
        "{sign}{seconds}.{nanos:09} {} {} {}: {}\n",
        rule.severity,
        rule.action(),
        plain(&rule.id),
        plain(&alert.message)
    )
}

fn object(change: Option<Change>, alert: &Alert) -> Value {
    let mut object = json!({
        "time": alert.time,
        "rule": alert.rule.id,
        "severity": alert.rule.severity,
        "action": alert.rule.action(),
        "message": alert.message,
        "suppressed_before": alert.suppressed_before,
    });
    if let Some(change) = change {
        object["change"] = if change == Change::Gone { "gone" } else { "new" }.into();
    }
    object
}
