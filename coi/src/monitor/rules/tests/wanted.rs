//! What a set of rules wants to see of the kernel's events.

use proptest::prelude::*;

use super::*;
use crate::monitor::{
    event::EventKind,
    rules::{
        builtin_sources,
        model::At,
        wanted::{Form, NameTest, Only, Opens, Wanted, accepts},
    },
};

fn rule(condition: &str) -> String {
    format!(
        "[[rule]]\nid = 'r'\ntitle = 't'\nseverity = 'info'\nevent = 'open'\ncondition = '''{condition}'''\n"
    )
}

fn opens(condition: &str) -> Opens {
    rules(&rule(condition)).wanted().opens
}

/// The tests for a condition, as one line.
fn line(condition: &str) -> String {
    let Opens::Some(tests) = opens(condition) else { return format!("{:?}", opens(condition)) };
    let show = |NameTest { form, text, only }: &NameTest| {
        let Only { write, create, refused } = only;
        let mut line = format!("{form:?} {text}").trim_end().to_owned();
        for (set, word) in [(write, "+write"), (create, "+create"), (refused, "+refused")] {
            if *set {
                line.push_str(word);
            }
        }
        line
    };
    tests.iter().map(show).collect::<Vec<_>>().join(", ")
}

#[test]
fn names_are_found_in_conditions() {
    for (condition, tests) in [
        ("file.path == '/etc/shadow'", "Name shadow"),
        ("file.name in ['a', 'b']", "Name a, Name b"),
        ("file.name == 'a-name-that-is-longer-than-what-the-kernel-compares'", "Prefix a-na"),
        ("file.path glob '**/.ssh/id_*'", "Directory .ssh"),
        ("file.path glob '**/.ssh/id_rsa*'", "Prefix id_r"),
        ("file.path glob '/proc/*/environ'", "Name environ"),
        ("file.path glob '**/*.pem'", "Suffix .pem"),
        ("file.path glob '**/.azure/**'", "Directory .azure"),
        ("file.path glob '**/{.a,.b}/{c,d*}'", "Name c, Directory .a, Directory .b"),
        ("file.path glob '**/[ab]/x'", "All"),
        ("file.path glob '**'", "All"),
        ("file.path starts_with '/proc/'", "Directory proc"),
        ("file.path starts_with '/proc'", "All"),
        ("file.path contains '/.ssh/id'", "Directory .ssh"),
        ("file.path contains 'ssh/id'", "All"),
        ("file.path ends_with '/authorized_keys'", "Name authorized_keys"),
        ("file.name ends_with '.pub'", "Suffix .pub"),
        ("file.name ends_with '.gz'", "All"),
        ("file.extension == 'pem'", "Suffix .pem"),
        ("file.extension == 'gz'", "All"),
        ("file.name icontains 'secret'", "All"),
        ("file.name regex '^x$'", "All"),
        ("file.name != 'x'", "All"),
        ("not file.name == 'x'", "All"),
        ("coi.file.workspace", "Workspace"),
        ("coi.file.workspace and file.name == 'x'", "Name x"),
        ("coi.file.workspace and coi.file.write", "Workspace+write"),
        ("coi.file.write and coi.file.create", "Any+write+create"),
        ("file.name == 'x' and coi.file.write and exists(coi.errno)", "Name x+write+refused"),
        ("file.name == 'x' and (coi.file.write or coi.errno == 13)", "Name x"),
        ("event.outcome == 'failure'", "Any+refused"),
        ("event.action == 'open' and file.name == 'x'", "Name x"),
        ("file.name == 'x' or file.name == 'x' and coi.file.write", "Name x"),
        ("file.name == 'x' or true", "All"),
        ("false", "None"),
    ] {
        assert_eq!(line(condition), tests, "{condition}");
    }
}

#[test]
fn only_enabled_rules_want_anything() {
    let off = rule("true").replace("id = 'r'", "id = 'r'\nenabled = false");
    let wanted = rules(&off).wanted();
    assert!(wanted.kinds.is_empty());
    assert_eq!(wanted.opens, Opens::None);
    assert!(!rules(&rule("false")).wanted().kinds.contains(EventKind::Open));
}

#[test]
fn the_built_in_rules_do_not_want_every_open() {
    let wanted = RuleSet::compile(&builtin_sources(), TODAY).unwrap().wanted();
    let Opens::Some(tests) = wanted.opens else { panic!("{:?}", wanted.opens) };
    assert!(tests.iter().all(|test| test.form != Form::Any || test.only != Only::default()), "{tests:#?}");
}

fn part() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "",
        "a",
        "ab",
        ".env",
        "id_rsa",
        "key.pem",
        "x.gz",
        "é.pem",
        "éé",
        ".ssh",
        "a-name-of-more-than-forty-bytes-is-too-long-for-it",
    ])
}

fn path() -> impl Strategy<Value = String> {
    (any::<bool>(), proptest::collection::vec(part(), 1..4))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

/// A piece of a path, whole or cut anywhere.
fn piece() -> impl Strategy<Value = String> {
    (path(), any::<proptest::sample::Index>(), any::<proptest::sample::Index>()).prop_map(
        |(path, from, to)| {
            let (from, to) = (from.index(path.len() + 1), to.index(path.len() + 1));
            let (from, to) = (path.floor_char_boundary(from.min(to)), path.floor_char_boundary(from.max(to)));
            if from == to { path } else { path[from..to].to_owned() }
        },
    )
}

fn pattern() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => part().prop_map(str::to_owned),
        1 => proptest::sample::select(vec!["*", "**", "?", "id_*", "*.pem", "{a,.env}", "{id_*,**/x.gz}", "[!b]", "a**", "{a,{ab,é*}}"]).prop_map(str::to_owned),
    ];
    (any::<bool>(), proptest::collection::vec(part, 1..4))
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")))
}

fn leaf() -> impl Strategy<Value = String> {
    let field = || proptest::sample::select(vec!["file.path", "file.name", "file.extension"]);
    let operator = proptest::sample::select(vec![
        "==",
        "!=",
        "contains",
        "icontains",
        "starts_with",
        "ends_with",
        "not ends_with",
    ]);
    prop_oneof![
        6 => (field(), operator, piece())
            .prop_map(|(field, operator, text)| format!("{field} {operator} \"{}\"", if text.is_empty() { "a" } else { &text })),
        3 => (field(), piece(), path()).prop_map(|(field, a, b)| format!("{field} in [\"{a}\", \"{b}\"]")),
        4 => (field(), pattern()).prop_map(|(field, pattern)| format!("{field} glob \"{pattern}\"")),
        4 => proptest::sample::select(vec![
            "coi.file.write", "coi.file.create", "coi.file.workspace", "exists(coi.errno)", "coi.errno != 2", "exists(file.extension)",
            "event.outcome == 'failure'", "event.outcome != 'success'", "event.action == 'open'", "event.action != 'open'", "true", "false",
        ]).prop_map(str::to_owned),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    leaf().prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            2 => proptest::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" and "))),
            2 => proptest::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" or "))),
            1 => inner.prop_map(|inner| format!("not {inner}")),
        ]
    })
}

prop_compose! {
    fn open()(path in path(), write: bool, create: bool, workspace: bool, errno in proptest::option::of(1..40)) -> Sample {
        let errno = errno.map_or(String::new(), |errno| format!(", coi.errno = {errno}"));
        record(&format!(
            "event = 'open', file.path = \"{path}\", coi.file.write = {write}, coi.file.create = {create}, coi.file.workspace = {workspace}{errno}"
        ))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn no_open_that_matches_is_unwanted(condition in condition(), opened in proptest::collection::vec(open(), 1..16)) {
        let Ok(set) = compile(&rule(&condition)) else { return Ok(()) };
        let wanted = set.wanted();
        let written = set.rules()[0].condition(At::Step(0)).unwrap().expr.clone();
        let mut engine = Engine::new(Arc::new(set));
        for open in &opened {
            let mut alerts = Vec::new();
            engine.evaluate(open, 1, &mut alerts);
            engine.reset(1);
            prop_assert_eq!(!alerts.is_empty(), written.holds(open), "{} is looked up wrongly for {:?}", condition, open);
            if alerts.is_empty() {
                continue;
            }
            let accepted = match &wanted.opens {
                Opens::None => false,
                Opens::All => true,
                Opens::Some(tests) => tests.iter().any(|test| accepts(test, open)),
            };
            prop_assert!(accepted, "{condition} matches {open:?} but is {wanted:?}");
        }
    }

    #[test]
    fn what_two_want_is_what_either_accepts(one in condition(), other in condition(), opened in proptest::collection::vec(open(), 1..16)) {
        let wanted = |condition: &str| compile(&rule(condition)).ok().map(|set| set.wanted());
        let (Some(one), Some(other)) = (wanted(&one), wanted(&other)) else { return Ok(()) };
        let both = one.union(&other);
        prop_assert!(both.covers(&one) && both.covers(&other), "{one:?} {other:?}");
        for open in &opened {
            let accepted = |wanted: &Wanted| match &wanted.opens {
                Opens::None => false,
                Opens::All => true,
                Opens::Some(tests) => tests.iter().any(|test| accepts(test, open)),
            };
            prop_assert_eq!(accepted(&both), accepted(&one) || accepted(&other), "{:?} {:?}", one, other);
            prop_assert!(!one.covers(&other) || accepted(&one) >= accepted(&other), "{one:?} {other:?}");
        }
    }
}
