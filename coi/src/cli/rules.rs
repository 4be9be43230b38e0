//! `coi rules`

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use miette::{GraphicalReportHandler, GraphicalTheme};
use serde_json::json;

use super::{Code, Failure, Format, Result};
use crate::monitor::event::{EventKind, Field, FieldDef, Source};
use crate::monitor::rulefiles::{self, RuleFilesError};
use crate::monitor::rules::testing::{self, Report};
use crate::monitor::rules::{self, Rule, RuleSet};
use crate::ui::{self, plain};

/// The rules: those built in, those of /etc/coi/rules.d, and those of a directory.
#[derive(Debug, Args)]
pub(super) struct Rules {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the rules, and whether they are applied.
    #[command(after_help = "Examples:\n  coi rules list\n  coi rules list --rules ./rules --format json")]
    List {
        #[command(flatten)]
        from: From,
        /// How to print them.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// List the fields that rules can test: type, source, the events that carry it, meaning.
    #[command(after_help = "Examples:\n  coi rules fields\n  coi rules fields --format json | jq '.[].name'")]
    Fields {
        /// How to print them.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Run the tests that the rules carry. Needs neither root nor a daemon.
    #[command(after_help = "Examples:\n  coi rules test\n  coi rules test reverse-shell --rules ./rules")]
    Test {
        /// Only those rules whose id, or tests whose name, contains this.
        filter: Option<String>,
        #[command(flatten)]
        from: From,
        /// How to print the results.
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

#[derive(Debug, Args)]
struct From {
    /// A directory of rules to be added.
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// A configuration file instead of /etc/coi/config.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl From {
    /// The rules; what is wrong with them is shown in place.
    fn load(&self) -> Result<RuleSet> {
        rulefiles::load(self.rules.as_deref(), self.config.as_deref()).map_err(|error| {
            if let RuleFilesError::Wrong(errors) = &error {
                let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode());
                for error in errors {
                    let mut text = String::new();
                    if handler.render_report(&mut text, error).is_ok() {
                        ui::err(text.trim_end());
                    }
                }
            }
            Failure::Rules(error)
        })
    }
}

impl Rules {
    pub(super) fn execute(self) -> Result {
        let (text, code) = match self.command {
            Command::List { from, format } => {
                let set = from.load()?;
                let text = match format {
                    Format::Text => set.rules().iter().map(|rule| line(rule)).collect(),
                    Format::Json => {
                        let all = set.rules().iter().map(|rule| object(rule)).collect::<Vec<_>>();
                        format!("{:#}\n", json!(all))
                    }
                };
                (text, Code::OK)
            }
            Command::Fields { format } => {
                let text = match format {
                    Format::Text => rules::fields_table(),
                    Format::Json => {
                        format!("{:#}\n", Field::TABLE.iter().map(field).collect::<serde_json::Value>())
                    }
                };
                (text, Code::OK)
            }
            Command::Test { filter, from, format } => {
                let report = testing::run(&from.load()?, filter.as_deref());
                let text = match format {
                    Format::Text => results(&report),
                    Format::Json => results_json(&report),
                };
                if report.outcomes.is_empty() {
                    let what =
                        filter.map_or_else(|| "there are no tests".into(), |f| format!("no test fits {f}"));
                    return Err(Failure::Usage(what));
                }
                (text, if report.passed() { Code::OK } else { Code::RULE })
            }
        };
        ui::out(&text).map_err(Failure::system("standard output"))?;
        Ok(code)
    }
}

fn line(rule: &Rule) -> String {
    let off = if rule.enabled { "" } else { " (off)" };
    format!("{:<32} {:<8} {}{off}\n", plain(&rule.id), rule.severity, plain(&rule.title))
}

fn object(rule: &Rule) -> serde_json::Value {
    json!({
        "id": rule.id,
        "title": rule.title,
        "severity": rule.severity,
        "action": rule.action(),
        "enabled": rule.enabled,
        "events": rule.kinds.iter().map(EventKind::name).collect::<Vec<_>>(),
        "attack": rule.attack,
        "thresholds": rule.thresholds().collect::<std::collections::BTreeMap<_, _>>(),
        "tests": rule.tests(),
        "origin": rule.origin(),
    })
}

fn field(def: &FieldDef) -> serde_json::Value {
    let programs: std::collections::BTreeSet<_> = def
        .kinds
        .iter()
        .flat_map(|kind| kind.programs())
        .filter(|_| def.field.source() == Source::Kernel)
        .collect();
    json!({
        "name": def.name,
        "type": def.ty.name(),
        "events": def.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "source": def.field.source().name(),
        "programs": programs,
        "meaning": def.doc,
    })
}

fn results(report: &Report) -> String {
    let mut text = String::new();
    for outcome in report.failures() {
        let why = outcome.failure.as_deref().unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "FAILED {}: {}: {}", plain(&outcome.rule), plain(&outcome.test), plain(why));
    }
    let (all, failed) = (report.outcomes.len(), report.failures().count());
    let _ = writeln!(text, "{} passed, {failed} failed", all - failed);
    text
}

fn results_json(report: &Report) -> String {
    let all = report.outcomes.iter().map(|outcome| {
        json!({ "rule": outcome.rule, "test": outcome.test, "passed": outcome.failure.is_none(), "failure": outcome.failure })
    });
    format!("{:#}\n", json!(all.collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::rules::testing::Outcome;

    #[test]
    fn what_failed_is_said() {
        let outcome = |failure: Option<&str>| Outcome {
            rule: "reverse-shell".into(),
            test: "bash on a socket".into(),
            failure: failure.map(str::to_owned),
        };
        let report = Report { outcomes: vec![outcome(None), outcome(Some("it should have fired"))] };
        assert_eq!(
            results(&report),
            "FAILED reverse-shell: bash on a socket: it should have fired\n1 passed, 1 failed\n"
        );
    }
}
