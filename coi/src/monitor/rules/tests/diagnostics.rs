//! What users are told when something is wrong with a rule, as they see it.

use insta::assert_snapshot;
use miette::{GraphicalReportHandler, GraphicalTheme};

use super::*;

/// A rule with nothing wrong but this.
fn with(rest: &str) -> String {
    format!("[[rule]]\nid = \"x\"\ntitle = \"t\"\nseverity = \"high\"\n{rest}\n")
}

/// The same, looking at opened files with this condition.
fn condition(condition: &str) -> String {
    with(&format!("event = \"open\"\ncondition = \"{condition}\""))
}

/// Everything that is wrong, drawn as on the screen, after its one line.
fn told(text: &str) -> String {
    let errors = compile(text).expect_err("there is something wrong");
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor()).with_width(100);
    let mut all = String::new();
    for error in errors {
        all.push_str(&format!("{error}\n"));
        handler.render_report(&mut all, &error).unwrap();
    }
    all
}

#[test]
fn not_toml() {
    assert_snapshot!(told("[[rule]]\nid = \"x\ntitle = \"t\"\n"));
}

#[test]
fn what_would_steer_a_terminal() {
    assert_snapshot!(told("[[rule]]\nid = \"a\u{1b}[2Jb\" \u{1b}]0;title\u{7}\u{202e}\rx\n"));
    assert_snapshot!(told(&with("event = \"open\"\ncondition = \"true\"\n\"a\\u001b[2Jb\" = 1")));
}

#[test]
fn a_misspelt_key() {
    assert_snapshot!(told(&with("event = \"open\"\nconditon = \"coi.file.write\"")));
}

#[test]
fn a_misspelt_key_in_an_exception() {
    assert_snapshot!(told(&with(
        "event = \"open\"\ncondition = \"true\"\nexceptions = [{ condition = \"coi.file.write\", raeson = \"ours\" }]"
    )));
}

#[test]
fn a_misspelt_key_at_the_top_and_in_tests() {
    assert_snapshot!(told(
        &(condition("true")
            + "[[rule.test]]\nname = \"n\"\nexpects = \"fire\"\nevents = [{ event = \"open\", file.pth = \"/x\" }]\n[list]\n")
    ));
}

#[test]
fn an_unknown_field() {
    assert_snapshot!(told(&condition("file.pth == '/etc/shadow'")));
}

#[test]
fn a_field_that_these_events_never_have() {
    assert_snapshot!(told(&condition("coi.file.write and destination.port == 22")));
}

#[test]
fn a_field_that_these_events_never_have_in_a_macro() {
    assert_snapshot!(told(&("[macros]\nssh = \"destination.port == 22\"\n".to_owned() + &condition("$ssh"))));
}

#[test]
fn values_of_a_wrong_type() {
    assert_snapshot!(told(&with(
        "event = \"connect\"\ncondition = \"\"\"\n    destination.port == '22'\n    or process.name == 22\n    \
         or destination.ip == 'localhost'\n    or destination.ip in cidr ['10.0.0.0/33']\n\"\"\""
    )));
}

#[test]
fn operators_of_a_wrong_type() {
    assert_snapshot!(told(&with(
        "event = \"open\"\ncondition = '''\nprocess.args contains \"x\" or coi.file.write == true or file.path > 5 \
         or process.pid contains \"1\" or file.path'''"
    )));
}

#[test]
fn a_key_of_a_wrong_type() {
    assert_snapshot!(told(&with(
        "event = \"open\"\ncondition = true\nenabled = \"yes\"\nattack = \"T1059\""
    )));
}

#[test]
fn an_unknown_list() {
    assert_snapshot!(told(
        &("[lists]\nshells = [\"sh\"]\n".to_owned() + &condition("process.name in @shell"))
    ));
}

#[test]
fn an_item_of_a_list_of_a_wrong_type() {
    assert_snapshot!(told(
        &("[lists]\nports = [\"sh\", 22]\n".to_owned() + &condition("process.name in @ports"))
    ));
}

#[test]
fn an_unknown_macro_and_a_macro_of_itself() {
    assert_snapshot!(told(&("[macros]\na = \"$b\"\nb = \"$a\"\n".to_owned() + &condition("$c"))));
}

#[test]
fn an_unknown_kind_of_event() {
    assert_snapshot!(told(&with("event = \"opened\"\ncondition = \"true\"")));
    assert_snapshot!(told(&condition("event.action == 'exec' or event.action == 'red'")));
}

#[test]
fn a_regular_expression_that_is_too_large() {
    assert_snapshot!(told(&condition("file.path regex '(\\\\w{50}){50}'")));
}

#[test]
fn patterns_that_are_none() {
    assert_snapshot!(told(&with(
        "event = \"open\"\ncondition = '''file.path regex \"a(b\" or file.path glob \"a[b\"'''"
    )));
}

#[test]
fn a_rule_that_is_there_twice() {
    assert_snapshot!(told(&(condition("true") + &condition("true"))));
}

#[test]
fn a_list_that_is_there_twice() {
    let a = Source { name: "a.toml".to_owned(), text: "[lists]\nx = [1]\n".to_owned() };
    let b = Source { name: "b.toml".to_owned(), text: "[lists]\nx = [2]\n".to_owned() };
    let errors = RuleSet::compile(&[a, b], TODAY).unwrap_err();
    assert_snapshot!(errors[0], @"b.toml:2:1: the list `x` is defined twice");
}

#[test]
fn techniques_that_do_not_exist() {
    assert_snapshot!(told(&with(
        "event = \"open\"\ncondition = \"true\"\nattack = [\"T1059.4\", \"T1059.044\", \"attack.t1059\"]"
    )));
}

#[test]
fn an_unknown_severity() {
    assert_snapshot!(told(
        "[[rule]]\nid = \"x\"\ntitle = \"t\"\nseverity = \"hgih\"\nevent = \"open\"\ncondition = \"true\"\n"
    ));
}

#[test]
fn keys_that_are_missing() {
    assert_snapshot!(told("[[rule]]\nid = \"x\"\n"));
}

#[test]
fn conditions_that_are_none() {
    for (i, text) in [
        "file.path =",
        "file.path == ",
        "(coi.file.write",
        "a && b",
        "file.path in 'x'",
        "file.path == ['x']",
        "'x' == file.path",
    ]
    .into_iter()
    .enumerate()
    {
        assert_snapshot!(format!("conditions_that_are_none-{i}"), told(&condition(text)));
    }
}

#[test]
fn places_in_a_text_with_escapes() {
    // As it is written: an escape that is longer than what it means, and a line that goes on.
    assert_snapshot!(told(&with(
        r#"event = "open"
condition = """
file.path == "\u00e9" and \
    file.pth == 'x'"""
"#
    )));
}

#[test]
fn windows_and_sequences_that_make_no_sense() {
    assert_snapshot!(told(&with(
        "event = \"open\"\ncondition = \"true\"\n\
         window = { over = \"10\", by = [\"destination.ip\"], sum = \"file.path\", at_least = \"50MiB\" }"
    )));
    assert_snapshot!(told(&with(
        "event = \"open\"\ncondition = \"true\"\n\
         window = { over = \"10s\", distinct = \"file.path\", at_least = \"50MiB\", any = [] }"
    )));
    assert_snapshot!(told(&with(
        "event = \"open\"\nsequence = { within = \"0s\", steps = [{ event = \"read\", condition = \"true\" }] }"
    )));
    assert_snapshot!(told(&with(
        "sequence = { within = \"1s\", steps = [{ event = \"read\", condition = \"true\" }, { event = \"read\", condition = \"true\", sum = \"coi.io.bytes\" }] }"
    )));
}

#[test]
fn a_message_with_a_field_that_is_none() {
    assert_snapshot!(told(&(condition("true") + "message = \"{file.path} {proces.name} {\"\n")));
}

#[test]
fn an_exception_without_a_reason() {
    assert_snapshot!(told(&with(
        "event = \"open\"\ncondition = \"true\"\nexceptions = [{ condition = \"true\", reason = \" \", expires = \"2027-01-01\" }]"
    )));
}

#[test]
fn tests_that_make_no_sense() {
    assert_snapshot!(told(
        &(condition("true")
            + "[[rule.test]]\nname = \"n\"\nexpect = \"quite\"\nevents = [\n  { event = \"open\", process.pid = \"one\", destination.ip = \"::1\" },\n  { at = \"soon\" },\n]\n")
    ));
}

#[test]
fn a_list_with_something_wrong_is_said_once() {
    assert_snapshot!(told(
        &("[lists]\nnone = []\nodd = [true]\n".to_owned()
            + &condition("process.name in @none or process.name in @odd"))
    ));
}

#[test]
fn every_error_says_where_and_most_say_what_to_do() {
    use miette::Diagnostic;
    let errors = compile(&condition("file.pth == 1 and $m and process.name in @l")).unwrap_err();
    assert_eq!(errors.len(), 3);
    for error in errors {
        assert!(
            error.help().is_some() && error.labels().is_some() && error.source_code().is_some(),
            "{error}"
        );
    }
}

/// A rule that denies, with this.
fn denies(rest: &str) -> String {
    format!("[macros]\ncurl = \"process.name == 'curl'\"\n{}", with(&format!("action = \"deny\"\n{rest}")))
}

#[test]
fn what_cannot_be_denied() {
    let connect = |condition: &str| format!("event = \"connect\"\ncondition = \"{condition}\"\n");
    assert_snapshot!(told(&denies(&connect(
        "destination.port == 443 and (process.name == 'curl' or $curl)"
    ))));
    assert_snapshot!(told(&denies(
        &(connect("destination.port == 443")
            + "exceptions = [{ condition = \"network.transport == 'udp'\", reason = \"r\" }]")
    )));
    assert_snapshot!(told(&denies(
        "event = [\"connect\", \"link\"]\ncondition = \"destination.port == 443\"\n"
    )));
    assert_snapshot!(told(&denies(
        &(connect("destination.port == 443") + "window = { over = \"1s\", at_least = 3 }")
    )));
    let change = "[rules.y]\naction = \"deny\"\n";
    let other = "[[rule]]\nid = \"y\"\ntitle = \"t\"\nseverity = \"high\"\nevent = \"connect\"\ncondition = \"$curl\"\n";
    assert_snapshot!(told(&(denies(&connect("true")) + other + change)));
}
