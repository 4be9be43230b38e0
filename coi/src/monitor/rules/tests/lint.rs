//! What `coi rules check` says about rules that can be used but are hardly meant.

use insta::assert_snapshot;
use miette::{GraphicalReportHandler, GraphicalTheme};

use super::*;
use crate::monitor::rules::builtin_sources;

fn rule(id: &str, rest: &str) -> String {
    format!("[[rule]]\nid = \"{id}\"\ntitle = \"t\"\nseverity = \"high\"\n{rest}\n")
}

fn told_with(text: &str, programs: Option<&[String]>) -> String {
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    let mut all = String::new();
    for warning in rules(text).lint(programs) {
        assert!(warning.is_warning(), "{warning}");
        all.push_str(&format!("{warning}\n"));
        handler.render_report(&mut all, &warning).unwrap();
    }
    all
}

fn told(text: &str) -> String {
    told_with(text, None)
}

#[test]
fn the_built_in_rules_are_all_meant() {
    let found = RuleSet::compile(&builtin_sources(), TODAY).unwrap().lint(None);
    assert!(found.is_empty(), "{}", found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
}

#[test]
fn lists_and_macros_that_nothing_uses() {
    assert_snapshot!(told(
        &("[lists]\nused = ['a']\nshells = ['sh']\n[macros]\nouter = '$inner'\ninner = 'process.name in @used'\nlone = 'true'\n".to_owned()
            + &rule("x", "event = 'exec'\ncondition = '$outer'"))
    ));
}

#[test]
fn a_condition_that_no_event_meets() {
    for (i, condition) in [
        "process.name == 'a' and process.name == 'b'",
        "process.name in ['a', 'b'] and process.executable == '/x' and process.name starts_with 'c'",
        "process.pid > 5 and process.pid < 5",
        "coi.process.args_truncated and not coi.process.args_truncated",
        "false or not true",
    ]
    .into_iter()
    .enumerate()
    {
        let told = told(&rule("x", &format!("event = 'exec'\ncondition = \"{condition}\"")));
        assert!(told.contains("never fires"), "{condition}: {told}");
        if i == 0 {
            assert_snapshot!(told);
        }
    }
    for condition in [
        "process.name == 'a' or process.name == 'b'",
        "process.pid >= 5 and process.pid <= 5",
        "process.name != 'a' and process.name != 'b'",
    ] {
        assert_eq!(
            told(&rule("x", &format!("event = 'exec'\ncondition = \"{condition}\""))),
            "",
            "{condition}"
        );
    }
}

#[test]
fn exceptions_that_take_all_or_nothing() {
    assert_snapshot!(told(&rule(
        "x",
        "event = 'exec'\ncondition = \"process.name == 'nc' and process.pid > 1\"\nexceptions = [\n  { condition = \"process.name in ['nc', 'ncat']\", reason = 'r' },\n  { condition = \"false\", reason = 'r' },\n]"
    )));
}

#[test]
fn a_rule_that_another_one_makes_needless() {
    let wide = rule("wide", "event = ['exec', 'open']\ncondition = \"process.name in ['nc', 'ncat']\"");
    let narrow = |action: &str| {
        rule(
            "narrow",
            &format!("{action}event = 'exec'\ncondition = \"process.name == 'nc' and process.pid > 1\""),
        )
    };
    assert_snapshot!(told(&(wide.clone() + &narrow(""))));
    assert_eq!(told(&(wide + &narrow("action = 'kill'\n"))), "", "it asks for more");
    let one = |id: &str| rule(id, "event = 'exec'\ncondition = \"process.name glob 'a*'\"");
    let twice = told(&(one("first") + &one("second")));
    assert!(
        twice.contains("whatever `second` finds") && !twice.contains("whatever `first` finds"),
        "{twice}"
    );
}

#[test]
fn a_rule_that_no_program_feeds() {
    let text = rule("x", "event = 'send'\ncondition = 'true'")
        + &rule("y", "event = ['exec', 'send']\ncondition = 'true'");
    assert_snapshot!(told_with(&text, Some(&["raw/sched_process_exec".to_owned()])));
}
