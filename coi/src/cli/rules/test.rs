//! `coi rules test`

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};
use serde_json::{Value, json};

use super::{Code, Failure, Here, Result, out};
use crate::monitor::rulefiles;
use crate::monitor::rules::testing::{self, Outcome, Report};
use crate::ui::{self, plain};

/// Run the tests that the rules carry. Needs neither root nor a daemon.
///
/// Ends with 1 if a test fails, with 2 if the rules are wrong. A rule without a test that must fire and one that must
/// stay quiet fails.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules test\n  coi rules test reverse-shell --rules ./rules\n  \
                        coi rules test --format junit > rules.xml")]
pub(super) struct Test {
    /// Only those rules whose id, or tests whose name, contains this.
    filter: Option<String>,
    #[command(flatten)]
    here: Here,
    /// How to print the results.
    #[arg(long, value_enum, default_value_t)]
    format: Results,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Results {
    /// What failed, for people.
    #[default]
    Text,
    /// Every test, for programs.
    Json,
    /// Every test, for a CI.
    Junit,
}

impl Test {
    pub(super) fn execute(self) -> Result {
        let set = match self.here.load() {
            Ok(set) => set,
            Err(failure @ Failure::Rules(_)) => {
                ui::err(&format!("coi: {}", failure.text().unwrap_or_default()));
                return Ok(Code::USAGE);
            }
            Err(failure) => return Err(failure),
        };
        let report = testing::run(&set, self.filter.as_deref(), &rulefiles::fixture);
        if report.outcomes.is_empty() {
            let what =
                self.filter.map_or_else(|| "there are no tests".into(), |f| format!("no test fits {f}"));
            return Err(Failure::Usage(what));
        }
        out(&match self.format {
            Results::Text => text(&report),
            Results::Json => format!("{:#}\n", report.outcomes.iter().map(object).collect::<Value>()),
            Results::Junit => junit(&report),
        })?;
        Ok(if report.passed() { Code::OK } else { Code::FAILURE })
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for outcome in report.failures() {
        let failure = outcome.failure.clone().unwrap_or_default();
        let (rule, test) = (plain(&outcome.rule), plain(&outcome.test));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "FAILED {rule}: {test}: {}", plain(&failure.why));
        for line in failure.diff.lines() {
            let _ = writeln!(text, "    {}", plain(line));
        }
    }
    let (all, failed) = (report.outcomes.len(), report.failures().count());
    let _ = writeln!(text, "{} passed, {failed} failed", all - failed);
    text
}

fn object(outcome: &Outcome) -> Value {
    let failure = outcome.failure.as_ref();
    json!({
        "rule": outcome.rule,
        "test": outcome.test,
        "passed": failure.is_none(),
        "failure": failure.map(|failure| &failure.why),
        "diff": failure.map(|failure| &failure.diff),
    })
}

/// A suite for each rule.
fn junit(report: &Report) -> String {
    let mut page = Junit::new("coi rules");
    for outcomes in report.outcomes.chunk_by(|a, b| a.rule == b.rule) {
        let Some(first) = outcomes.first() else { continue };
        let mut suite = TestSuite::new(&first.rule);
        for outcome in outcomes {
            let status = match &outcome.failure {
                None => TestCaseStatus::success(),
                Some(failure) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(&failure.why).set_description(&failure.diff);
                    status
                }
            };
            suite.add_test_case(TestCase::new(&outcome.test, status));
        }
        page.add_test_suite(suite);
    }
    // It is written to memory, and names with control characters lose them.
    page.to_string().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::rules::testing::Failure;

    fn report() -> Report {
        let failed = Failure {
            why: "it should have fired and fired never".into(),
            diff: "- fires\n+ stays quiet\n".into(),
        };
        let outcome =
            |test: &str, failure| Outcome { rule: "reverse-shell".into(), test: test.into(), failure };
        Report { outcomes: vec![outcome("a shell", None), outcome("bash <&\"", Some(failed))] }
    }

    #[test]
    fn what_failed_is_said() {
        assert_eq!(
            text(&report()),
            "FAILED reverse-shell: bash <&\": it should have fired and fired never\n    - fires\n    + stays quiet\n1 passed, 1 failed\n"
        );
    }

    #[test]
    fn a_ci_can_read_it() {
        insta::assert_snapshot!(junit(&report()));
    }
}
