//! `coi rules explain`

use std::path::PathBuf;

use clap::Args;

use super::{Code, Failure, Here, Recording, Result, out};
use crate::monitor::rulefiles;
use crate::monitor::rules::{explain::Explainer, testing};
use crate::ui::plain;

/// Say why a rule fires or does not: its condition part by part, with the values it saw.
///
/// For windows and sequences also how far each event took them. Events that the rule does not look at are passed over.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules explain reverse-shell-socket --event session.jsonl\n  \
                        coi rules explain reverse-shell-socket --test 'bash on a socket'")]
pub(super) struct Explain {
    /// The rule's id.
    rule: String,
    #[command(flatten)]
    events: Events,
    #[command(flatten)]
    here: Here,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Events {
    /// The events of a recording.
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// The events of that test of the rule.
    #[arg(long, value_name = "NAME")]
    test: Option<String>,
}

impl Explain {
    pub(super) fn execute(self) -> Result {
        let set = self.here.load()?;
        let rule = set.rule(&self.rule).ok_or_else(|| {
            Failure::Usage(format!(
                "there is no rule {}; `coi rules list` shows those there are",
                plain(&self.rule)
            ))
        })?;
        let mut explainer = Explainer::new(&set, rule);
        let page = |text: String| {
            let lines: Vec<_> = text.lines().map(plain).collect();
            if lines.is_empty() { Ok(()) } else { out(&(lines.join("\n") + "\n")) }
        };
        if let Some(path) = self.events.event {
            Recording::open(&path)?.each(|entry| page(explainer.explain(&entry)))?;
        } else if let Some(name) = self.events.test {
            let entries = testing::entries(rule, &name, &rulefiles::fixture).map_err(Failure::Usage)?;
            entries.iter().try_for_each(|entry| page(explainer.explain(entry)))?;
        }
        Ok(Code::OK)
    }
}
