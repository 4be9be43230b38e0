//! Whose rules may change whose.

use insta::assert_snapshot;

use super::*;
use crate::monitor::rules::{Action, Leeway, Origin, RuleText, Severity};

/// A rule that is COI's own, as far as the tests go.
const BUILTIN: &str = "[lists]\nshells = ['sh', 'bash']\n[macros]\nshell = \"process.name in @shells\"\n\
                       [[rule]]\nid = 'shells'\ntitle = 't'\nseverity = 'high'\nevent = 'exec'\ncondition = '$shell'\n\
                       window = { over = '10s', at_least = 10 }\n\
                       [[rule]]\nid = 'off'\ntitle = 't'\nseverity = 'high'\nevent = 'exec'\ncondition = '$shell'\n\
                       enabled = false\n";
/// A rule of the administrator's.
const SYSTEM: &str =
    "[[rule]]\nid = 'site'\ntitle = 't'\nseverity = 'high'\nevent = 'exec'\ncondition = 'true'\n";

fn file(name: &str, text: &str) -> Vec<RuleText> {
    vec![RuleText { name: name.to_owned(), text: text.to_owned() }]
}

fn base() -> RuleSet {
    let system = Source { name: "/etc/coi/rules.d/site.toml".to_owned(), text: SYSTEM.to_owned() };
    compile(BUILTIN).unwrap().with_system(&[system]).unwrap()
}

fn user(text: &str, leeway: Leeway) -> Result<RuleSet, Vec<RuleError>> {
    base().with_user(&file("~/.coi/rules/mine.toml", text), leeway)
}

fn workspace(text: &str) -> Result<RuleSet, Vec<RuleError>> {
    base().with_workspace(&file(".coi/rules/theirs.toml", text))
}

/// All that is wrong, as it is drawn.
#[track_caller]
fn drawn(set: Result<RuleSet, Vec<RuleError>>) -> String {
    set.unwrap_err().iter().map(RuleError::drawn).collect()
}

fn rule(id: &str, condition: &str) -> String {
    format!(
        "[[rule]]\nid = '{id}'\ntitle = 't'\nseverity = 'info'\nevent = 'exec'\ncondition = \"{condition}\"\n"
    )
}

#[test]
fn each_may_add_and_tighten() {
    let stricter = "[rules.shells]\nseverity = 'critical'\nat_least = 5\n[rules.off]\nenabled = true\n\
                    [rules.site]\naction = 'kill'\n";
    let text = stricter.to_owned() + &rule("mine", "$shell and process.name in @shells");
    for set in [workspace(&text), user(&text, Leeway::Tighten), user(&text, Leeway::Defaults)] {
        let set = set.unwrap();
        let shells = set.rule("shells").unwrap();
        assert_eq!((shells.severity, shells.action()), (Severity::Critical, Action::Kill));
        assert_eq!(shells.thresholds().map(|(_, at_least)| at_least).collect::<Vec<_>>(), [5]);
        assert!(set.rule("off").unwrap().enabled);
        assert_eq!(set.rule("site").unwrap().action(), Action::Kill);
    }
    let origins: Vec<_> = workspace(&text).unwrap().rules().iter().map(|rule| rule.origin).collect();
    assert_eq!(origins, [Origin::Builtin, Origin::Builtin, Origin::System, Origin::Workspace]);
}

/// What makes a rule milder, in each way that there is.
const MILDER: [&str; 6] = [
    "[rules.shells]\nenabled = false\n",
    "[rules.shells]\nseverity = 'info'\naction = 'kill'\n",
    "[rules.shells]\nseverity = 'critical'\naction = 'log'\n",
    "[rules.shells]\nat_least = 11\n",
    "[rules.shells]\nexceptions = [{ condition = 'true', reason = 'we know' }]\n",
    "[rules.site]\nseverity = 'warning'\n",
];

#[test]
fn a_workspace_makes_nothing_milder() {
    assert_snapshot!(MILDER.map(|text| drawn(workspace(text))).join("\n"));
}

#[test]
fn nothing_takes_the_place_of_a_denial_but_its_like() {
    let deny = "[[rule]]\nid = 'deny'\ntitle = 't'\nseverity = 'warning'\naction = 'deny'\nevent = 'connect'\n\
                condition = 'destination.port == 25'\n[[rule]]\nid = 'cut'\ntitle = 't'\nseverity = 'high'\n\
                action = 'cut-network'\nevent = 'connect'\ncondition = 'destination.port == 26'\n";
    let base = compile(deny).unwrap();
    let with = |text: &str| base.with_workspace(&file("theirs", text));
    for stricter in ["freeze", "kill"] {
        assert!(with(&format!("[rules.cut]\naction = '{stricter}'\n")).is_ok());
    }
    for milder in ["log", "notify", "deny", "kill-process"] {
        assert!(with(&format!("[rules.cut]\naction = '{milder}'\n")).is_err(), "{milder}");
    }
    for other in ["log", "notify", "kill-process", "cut-network", "freeze", "kill"] {
        assert!(with(&format!("[rules.deny]\naction = '{other}'\n")).is_err(), "{other}");
    }
    assert!(with("[rules.deny]\nseverity = 'critical'\n").is_ok());
    assert_snapshot!(drawn(with("[rules.deny]\naction = 'kill'\n")));
}

#[test]
fn what_is_wrong_is_said_all_at_once() {
    let errors = workspace(&(MILDER[0].to_owned() + MILDER[5])).unwrap_err();
    assert_eq!(errors.len(), 2);
}

#[test]
fn what_is_said_twice_is_as_mild_as_each() {
    let strict = "[rules.shells]\nat_least = 5\n";
    let two = [file("a", strict), file("b", "[rules.shells]\nat_least = 8\n")].concat();
    let errors = base().with_workspace(&two).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "b:2:12: a workspace may only tighten rules, and this raises its threshold `count` from 5 to 8"
    );
}

#[test]
fn a_user_makes_milder_what_the_administrator_leaves_to_him() {
    for text in &MILDER[..5] {
        assert!(user(text, Leeway::Defaults).is_ok(), "{text}");
        assert!(user(text, Leeway::Tighten).is_err(), "{text}");
    }
    assert!(user(MILDER[5], Leeway::Full).is_ok());
    assert_snapshot!(drawn(user(MILDER[0], Leeway::Tighten)) + &drawn(user(MILDER[5], Leeway::Defaults)));
    // What he has only touched is his as well.
    let touched =
        base().with(&Overrides::parse(&source("[rules.shells]\nat_least = 20\n")).unwrap()).unwrap();
    let mine = file("mine", MILDER[0]);
    assert!(touched.with_user(&mine, Leeway::Defaults).is_err());
    assert!(touched.with_user(&mine, Leeway::Full).is_ok());
}

#[test]
fn a_workspace_takes_nothing_from_the_user() {
    let mine = user(&(rule("mine", "true") + "[lists]\nx = ['x']\n"), Leeway::Defaults).unwrap();
    let errors = mine.with_workspace(&file("theirs", "[rules.mine]\nenabled = false\n")).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "theirs:2:11: a workspace may only tighten rules, and this turns `mine` off"
    );
    let own = "[rules.theirs]\nenabled = false\n".to_owned() + &rule("theirs", "process.name in @x");
    assert!(!mine.with_workspace(&file("theirs", &own)).unwrap().rule("theirs").unwrap().enabled);
}

#[test]
fn names_are_taken_by_those_below() {
    let text =
        "[lists]\nshells = ['none']\n[macros]\nshell = \"false\"\n".to_owned() + &rule("shells", "true");
    assert_snapshot!(drawn(workspace(&text)));
    assert!(user(&text, Leeway::Full).is_err());
}

#[test]
fn what_is_below_knows_nothing_of_what_is_above() {
    // A set is built from below, so it cannot use what comes later.
    assert!(RuleSet::compile(&[source(&rule("a", "$late"))], TODAY).is_err());
    let before = base();
    let after = before.with_workspace(&file("theirs", &rule("new", "true"))).unwrap();
    assert!(before.rules().iter().zip(after.rules()).all(|(one, other)| Arc::ptr_eq(one, other)));
}

/// How a few bytes become much: lists and macros stand for themselves wherever they are used.
#[test]
fn what_others_bring_takes_only_so_much() {
    let uses = |what: &str, count| vec![what; count].join(" or ");
    let names: Vec<_> = (0..1000).map(|n| format!("'name-{n}'")).collect();
    let list = format!("[lists]\nnames = [{}]\n", names.join(", "));
    let needles = format!("[lists]\nnames = ['{}']\n", "needle".repeat(4000));
    let patterns = |count| -> String {
        (0..count).map(|n| rule(&format!("r{n}"), &format!("process.name regex 'a{n}.*b'"))).collect()
    };
    let many = format!("[macros]\nmany = \"{}\"\n", uses("process.pid == 1", 2000));
    let parts: String = (0..10).map(|n| rule(&format!("r{n}"), "$many")).collect();
    let ends = format!("[lists]\nnames = [{}]\n", vec!["'x'"; 5000].join(", "));
    let each = vec!["any(process.args, == 'x')"; 1000];
    let weighs = |text: &str, set: Result<RuleSet, Vec<RuleError>>| {
        let errors = set.unwrap_err();
        assert_eq!(errors.len(), 1, "{text}");
        assert!(errors[0].to_string().contains("these rules weigh too much"), "{}", errors[0]);
        errors[0].drawn()
    };
    let list = list + &rule("r", &uses("process.name in @names", 200));
    let needles = needles + &rule("r", "process.name contains @names");
    let many = many + &parts;
    let ends = ends + &rule("r", "any(process.args, starts_with @names)");
    for text in [&list, &needles, &many, &ends] {
        weighs(text, workspace(text));
        weighs(text, user(text, Leeway::Full));
    }
    assert_snapshot!(weighs(&list, workspace(&list)));
    let each = rule("r", &each.join(" or ")) + &rule("s", &each.join(" or "));
    weighs(&each, workspace(&each));
    assert!(user(&each, Leeway::Full).is_ok());
    weighs("patterns", user(&patterns(65), Leeway::Full));
    assert!(user(&patterns(60), Leeway::Full).is_ok());
    assert!(compile(&patterns(65)).is_ok(), "nobody limits the administrator");
}

/// What the worst of them costs, all containers would wait for.
#[test]
fn a_workspace_has_no_regular_expressions() {
    assert_snapshot!(drawn(workspace(&rule("r", "process.name regex 'a.*b'"))));
    let below = compile("[macros]\nslow = \"process.name regex 'a.*b'\"\n").unwrap();
    let errors = below.with_workspace(&file("theirs", &rule("r", "$slow"))).unwrap_err();
    assert_eq!(errors[0].to_string(), "theirs:6:14: a workspace's rules may not use `regex`");
    assert!(below.with_user(&file("mine", &rule("r", "$slow")), Leeway::Tighten).is_ok());
}
