//! A rule that is printed and read again is the same rule.

use proptest::{collection::vec, option, prelude::*, sample::select};
use toml::{Table, Value};

use super::*;
use crate::monitor::event::{EventKind, Field};
use crate::monitor::rules::{
    Origin, builtin_sources,
    check::{Condition, Definitions},
    load,
    message::{Part, Template},
    model::{Exception, KindSet, Measure, Pattern, Rule, Step, Suppress, Threshold, Unless},
    parser::Operand,
    sample::Datum,
    testing::{Given, Line, Test, Times},
};

/// Rules as a file. What a rule is made of is taken apart by name, so that a new key cannot be forgotten here.
fn printed(rules: &[Rule], definitions: &Definitions) -> String {
    let Definitions { lists, macros, .. } = definitions;
    let operand = |operand: &Operand| match operand {
        Operand::Text(text) => Value::from(text.as_str()),
        Operand::Number(number) => (*number).into(),
        other => panic!("a list has texts and numbers, not {other}"),
    };
    let list = |values: &[(Operand, _)]| values.iter().map(|(value, _)| operand(value)).collect::<Vec<_>>();
    let lists: Table = lists.iter().map(|(name, l)| (name.clone(), list(&l.values).into())).collect();
    let tree = |m: &super::super::check::Macro| m.tree.as_ref().unwrap().to_string();
    let macros: Table = macros.iter().map(|(name, m)| (name.clone(), tree(m).into())).collect();
    let rules: Vec<Value> = rules.iter().map(|rule| rule_table(rule).into()).collect();
    table([("lists", lists.into()), ("macros", macros.into()), ("rule", rules.into())]).to_string()
}

fn table<const N: usize>(keys: [(&str, Value); N]) -> Table {
    keys.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

fn rule_table(rule: &Rule) -> Table {
    let Rule {
        id,
        title,
        description,
        severity,
        own_action,
        attack,
        // Those of the steps.
        kinds: _,
        enabled,
        exceptions,
        // Whose a rule is, is not said in it.
        origin: _,
        administered: _,
        place: _,
        steps,
        pattern,
        message,
        suppress: Suppress { time, by },
        tests,
    } = rule;
    let mut all = table([
        ("id", id.as_str().into()),
        ("title", title.as_str().into()),
        ("description", description.as_str().into()),
        ("severity", severity.name().into()),
        ("attack", attack.clone().into()),
        ("enabled", (*enabled).into()),
        ("exceptions", exceptions.iter().map(exception).collect::<Vec<_>>().into()),
        ("message", template(message).into()),
        ("suppress", table([("for", time_text(*time)), ("by", names(by))]).into()),
        ("test", tests.iter().map(test).collect::<Vec<_>>().into()),
    ]);
    if let Some(action) = own_action {
        all.insert("action".into(), action.name().into());
    }
    match (pattern, steps.as_slice()) {
        (None, [Step { name: _, kinds, condition, thresholds }]) => {
            assert!(thresholds.is_empty());
            all.extend(looked_for(*kinds, condition));
        }
        (Some(Pattern { within, by, ordered: false, unless: None, again: false }), [step]) => {
            all.extend(looked_for(step.kinds, &step.condition));
            let window = table([
                ("over", time_text(*within)),
                ("by", names(by)),
                ("any", thresholds(&step.thresholds)),
            ]);
            all.insert("window".into(), window.into());
        }
        (Some(Pattern { within, by, ordered: true, unless: Some(unless), again: true }), [since, own]) => {
            all.extend(looked_for(own.kinds, &own.condition));
            let Unless { kinds, condition } = unless;
            let mut absent = looked_for(*kinds, condition);
            absent.extend(table([
                ("since", looked_for(since.kinds, &since.condition).into()),
                ("within", time_text(*within)),
                ("by", names(by)),
            ]));
            all.insert("absent".into(), absent.into());
        }
        (Some(Pattern { within, by, ordered, unless, again: false }), steps) => {
            let steps: Vec<Value> = steps.iter().map(step).collect();
            let mut sequence = table([
                ("within", time_text(*within)),
                ("by", names(by)),
                ("ordered", (*ordered).into()),
                ("steps", steps.into()),
            ]);
            if let Some(Unless { kinds, condition }) = unless {
                sequence.insert("unless".into(), looked_for(*kinds, condition).into());
            }
            all.insert("sequence".into(), sequence.into());
        }
        _ => panic!("no such rule can be written: {rule:?}"),
    }
    all
}

fn step(step: &Step) -> Value {
    let Step { name, kinds, condition, thresholds: all } = step;
    let mut step = looked_for(*kinds, condition);
    step.insert("name".into(), name.as_str().into());
    // One event is enough where nothing is said.
    if all.iter().any(|threshold| threshold.name.is_some()) {
        step.insert("any".into(), thresholds(all));
    }
    step.into()
}

fn looked_for(kinds: KindSet, condition: &Condition) -> Table {
    let kinds: Vec<&str> = kinds.iter().map(EventKind::name).collect();
    table([("event", kinds.into()), ("condition", condition.written.tree.to_string().into())])
}

fn thresholds(thresholds: &[Threshold]) -> Value {
    let threshold = |threshold: &Threshold| {
        // The name follows from the rest.
        let Threshold { name: _, measure, at_least } = threshold;
        let mut all = table([("at_least", i64::try_from(*at_least).unwrap().into())]);
        match measure {
            Measure::Count => {}
            Measure::Sum(field) => drop(all.insert("sum".into(), field.def().name.into())),
            Measure::Distinct(field) => drop(all.insert("distinct".into(), field.def().name.into())),
        }
        all
    };
    thresholds.iter().map(threshold).collect::<Vec<_>>().into()
}

fn exception(exception: &Exception) -> Value {
    // Whether it has expired follows from the day.
    let Exception { reason, expires, expired: _, condition } = exception;
    let mut all =
        table([("condition", condition.written.tree.to_string().into()), ("reason", reason.as_str().into())]);
    if let Some(expires) = expires {
        all.insert("expires".into(), Value::Datetime(expires.to_string().parse().unwrap()));
    }
    all.into()
}

fn template(message: &Template) -> String {
    let part = |part: &Part| match part {
        Part::Text(text) => text.replace('{', "{{").replace('}', "}}"),
        Part::Field(field) => format!("{{{}}}", field.def().name),
    };
    message.parts.iter().map(part).collect()
}

fn test(test: &Test) -> Value {
    let Test { name, times, events } = test;
    let quiet = *times == Times::Exactly(0);
    let mut all =
        table([("name", name.as_str().into()), ("expect", if quiet { "quiet" } else { "fire" }.into())]);
    if let Times::Exactly(times @ 1..) = times {
        all.insert("times".into(), i64::try_from(*times).unwrap().into());
    }
    match events {
        Given::Fixture(name) => all.insert("fixture".into(), name.as_str().into()),
        Given::Lines(lines) => all.insert("events".into(), lines.iter().map(line).collect::<Vec<_>>().into()),
    };
    all.into()
}

fn line(line: &Line) -> Value {
    let Line { kind, at, every, repeat, fields } = line;
    let mut all =
        table([("event", kind.name().into()), ("at", time_text(*at)), ("every", time_text(*every))]);
    if let Some(repeat) = repeat {
        all.insert("repeat".into(), i64::try_from(*repeat).unwrap().into());
    }
    let datum = |datum: &Datum| -> Value {
        match datum {
            Datum::Keyword(text) => text.as_ref().into(),
            Datum::Integer(number) => (*number).into(),
            Datum::Boolean(value) => (*value).into(),
            Datum::Ip(address) => address.to_string().into(),
            Datum::Keywords(texts) => texts.iter().map(|text| &**text).collect::<Vec<_>>().into(),
        }
    };
    all.extend(fields.iter().map(|(field, value)| (field.def().name.to_owned(), datum(value))));
    all.into()
}

fn names(fields: &[Field]) -> Value {
    fields.iter().map(|field| field.def().name).collect::<Vec<_>>().into()
}

fn time_text(nanoseconds: u64) -> Value {
    assert_eq!(nanoseconds % 1_000_000, 0, "no such time can be written");
    format!("{}ms", nanoseconds / 1_000_000).into()
}

/// All that a rule means, without the places where it is written.
fn meaning(rule: &Rule) -> String {
    let exceptions: Vec<_> =
        rule.exceptions.iter().map(|e| (&e.reason, e.expires, e.expired, &e.condition.expr)).collect();
    let steps: Vec<_> =
        rule.steps.iter().map(|s| (&s.name, s.kinds, &s.condition.expr, &s.thresholds)).collect();
    let pattern = rule.pattern.as_ref().map(|p| {
        let unless = p.unless.as_ref().map(|unless| (unless.kinds, &unless.condition.expr));
        (p.within, &p.by, p.ordered, p.again, unless)
    });
    format!(
        "{:#?}",
        (
            (&rule.id, &rule.title, &rule.description, rule.severity, rule.own_action, &rule.attack),
            (rule.kinds, rule.enabled, exceptions, steps, pattern),
            (&rule.message, &rule.suppress, &rule.tests),
        )
    )
}

/// The rules of a file, printed and read again, are the same rules.
#[track_caller]
fn assert_same(sources: &[Source]) {
    let read = |sources: &[Source]| match load::load(
        sources,
        &RuleSet::compile(&[], TODAY).unwrap(),
        Origin::Builtin,
    ) {
        Ok(loaded) => loaded,
        Err(errors) => panic!("{errors:#?}\n{}", sources[0].text),
    };
    let load::Loaded { rules, definitions, .. } = read(sources);
    let text = printed(&rules, &definitions);
    let again = read(&[source(&text)]).rules;
    assert_eq!(rules.len(), again.len(), "{text}");
    for (rule, again) in rules.iter().zip(&again) {
        let (rule, again) = (meaning(rule), meaning(again));
        // The first line that differs says enough.
        let differs = rule.lines().zip(again.lines()).find(|(one, other)| one != other);
        assert_eq!(differs, None, "{text}");
        assert_eq!(rule, again);
    }
}

#[test]
fn the_built_in_rules_are_what_they_are_printed_as() {
    assert_same(&builtin_sources());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z/*\\[]{0,8}", "(?s:.{0,10})"]
}

/// A condition on what every event has.
fn condition() -> impl Strategy<Value = String> {
    let quoted = || text().prop_map(|text| Operand::Text(text).to_string());
    let plain = "[a-z]{1,6}";
    let leaf = prop_oneof![
        quoted().prop_map(|text| format!("process.name == {text}")),
        (quoted(), quoted()).prop_map(|(a, b)| format!("process.executable not in [{a}, {b}]")),
        quoted().prop_map(|text| format!("process.parent.name != {text}")),
        plain.prop_map(|text| format!("process.command_line icontains ['{text}', 'x']")),
        plain.prop_map(|text| format!("process.executable glob '/usr/**/{text}*'")),
        plain.prop_map(|text| format!("process.name regex '^({text}|[0-9]+)$'")),
        any::<i64>().prop_map(|number| format!("process.pid >= {number}")),
        plain.prop_map(|text| format!("any(process.args, ends_with '{text}')")),
        plain.prop_map(|text| format!("all(coi.process.ancestors, not starts_with '{text}')")),
        Just("exists(process.parent.name)".to_owned()),
        Just("coi.process.args_truncated".to_owned()),
        Just("process.name in @names".to_owned()),
        Just("process.pid in @numbers".to_owned()),
        Just("$big".to_owned()),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" and "))),
            vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" or "))),
            inner.prop_map(|one| format!("not ({one})")),
        ]
    })
}

fn kinds() -> impl Strategy<Value = Value> {
    let kinds = || select(vec!["exec", "open", "connect", "exit"]);
    prop_oneof![
        kinds().prop_map(Value::from),
        proptest::collection::hash_set(kinds(), 1..4)
            .prop_map(|set| set.into_iter().collect::<Vec<_>>().into()),
    ]
}

fn part() -> impl Strategy<Value = Table> {
    (kinds(), condition())
        .prop_map(|(kinds, condition)| table([("event", kinds), ("condition", condition.into())]))
}

fn time() -> impl Strategy<Value = Value> {
    (1..1000_u32, select(vec!["ms", "s", "m", "h"])).prop_map(|(n, unit)| format!("{n}{unit}").into())
}

fn by() -> impl Strategy<Value = Value> {
    proptest::sample::subsequence(vec!["process.name", "process.pid", "process.user.id"], 0..3)
        .prop_map(Value::from)
}

/// `at_least` and the like: one threshold, or several.
fn amounts() -> impl Strategy<Value = Table> {
    let measures = vec![None, Some(("sum", "process.pid")), Some(("distinct", "process.name"))];
    let one = |measure: Option<(&str, &str)>, at_least: i64| {
        let mut threshold = table([("at_least", at_least.into())]);
        threshold.extend(measure.map(|(key, field)| (key.to_owned(), field.into())));
        threshold
    };
    prop_oneof![
        (select(measures.clone()), 1..500_i64).prop_map(move |(measure, at_least)| one(measure, at_least)),
        (proptest::sample::subsequence(measures, 1..=3), 1..500_i64).prop_map(move |(some, at_least)| {
            let some: Vec<Value> = some.into_iter().map(|measure| one(measure, at_least).into()).collect();
            table([("any", some.into())])
        }),
    ]
}

/// What a rule looks for.
fn look() -> impl Strategy<Value = Table> {
    let under = |key: &'static str, inner: Table, mut rule: Table| {
        rule.insert(key.into(), inner.into());
        rule
    };
    let window = (part(), amounts(), time(), by()).prop_map(move |(part, mut window, over, by)| {
        window.extend(table([("over", over), ("by", by)]));
        under("window", window, part)
    });
    let absent =
        (part(), part(), part(), time(), by()).prop_map(move |(own, mut absent, since, within, by)| {
            absent.extend(table([("since", since.into()), ("within", within), ("by", by)]));
            under("absent", absent, own)
        });
    let steps = vec((part(), option::of(amounts())), 2..4).prop_map(|steps| {
        let step = |(n, (mut step, amounts)): (usize, (Table, Option<Table>))| {
            step.insert("name".into(), format!("step{n}").into());
            step.extend(amounts.into_iter().flatten());
            Value::from(step)
        };
        steps.into_iter().enumerate().map(step).collect::<Vec<_>>()
    });
    let sequence = (steps, option::of(part()), any::<bool>(), time(), by()).prop_map(
        move |(steps, unless, ordered, within, by)| {
            let keys = [("steps", steps.into()), ("ordered", ordered.into()), ("within", within), ("by", by)];
            let mut sequence = table(keys);
            sequence.extend(unless.map(|unless| ("unless".to_owned(), unless.into())));
            under("sequence", sequence, Table::new())
        },
    );
    prop_oneof![part(), window, absent, sequence]
}

fn written_exception() -> impl Strategy<Value = Value> {
    let expires = option::of(select(vec!["2026-06-30", "2027-01-31"]));
    (condition(), "[a-z]\\PC{0,10}", expires).prop_map(|(condition, reason, expires)| {
        let mut all = table([("condition", condition.into()), ("reason", reason.into())]);
        all.extend(expires.map(|day| ("expires".to_owned(), Value::Datetime(day.parse().unwrap()))));
        all.into()
    })
}

fn written_test() -> impl Strategy<Value = Value> {
    let event = (time(), option::of(1..50_i64), text(), any::<i64>(), any::<bool>(), vec(text(), 0..3));
    let event = event.prop_map(|(at, repeat, path, number, truncated, args)| {
        let mut all = table([
            ("event", "connect".into()),
            ("at", at),
            ("process.executable", path.into()),
            ("process.pid", number.into()),
            ("coi.process.args_truncated", truncated.into()),
            ("process.args", args.into()),
            ("destination.ip", "2001:db8::1".into()),
        ]);
        all.extend(repeat.map(|repeat| ("repeat".to_owned(), repeat.into())));
        Value::from(all)
    });
    let given = prop_oneof![
        vec(event, 0..3).prop_map(|events| ("events", Value::from(events))),
        Just(("fixture", "recorded/x.jsonl".into())),
    ];
    let expected = prop_oneof![
        Just(("quiet", None)),
        Just(("fire", None)),
        (1..5_i64).prop_map(|times| ("fire", Some(times)))
    ];
    (text(), expected, given).prop_map(|(name, (expect, times), given)| {
        let mut all = table([("name", name.into()), ("expect", expect.into()), given]);
        all.extend(times.map(|times| ("times".to_owned(), times.into())));
        all.into()
    })
}

/// A rule as somebody might write it.
fn rule() -> impl Strategy<Value = Table> {
    let message =
        vec(prop_oneof!["[a-z (:]{1,5}", Just("{process.name}".to_owned()), Just("{{}}".to_owned())], 0..4);
    let attack = proptest::sample::subsequence(vec!["T1059", "T1059.004", "T1095"], 0..3);
    let action = option::of(select(vec!["log", "notify", "freeze", "kill"]));
    let head = (
        "[a-z][a-z0-9._-]{0,8}",
        (text(), text()),
        select(vec!["info", "warning", "high", "critical"]),
        action,
        attack,
        option::of(any::<bool>()),
        option::of(message),
        option::of(option::of(0..100_000_u32)),
    );
    (head, look(), vec(written_exception(), 0..3), vec(written_test(), 0..3)).prop_map(
        |((id, texts, severity, action, attack, enabled, message, suppress), look, exceptions, tests)| {
            let mut all = table([
                ("id", id.into()),
                ("title", texts.0.into()),
                ("description", texts.1.into()),
                ("severity", severity.into()),
                ("attack", attack.into()),
                ("exceptions", exceptions.into()),
                ("test", tests.into()),
            ]);
            all.extend(look);
            let mut maybe =
                |key: &str, value: Option<Value>| all.extend(value.map(|value| (key.to_owned(), value)));
            maybe("action", action.map(Value::from));
            maybe("enabled", enabled.map(Value::from));
            maybe("message", message.map(|parts| parts.concat().into()));
            let time = |milliseconds| table([("for", format!("{milliseconds}ms").into())]);
            maybe("suppress", suppress.flatten().map(|milliseconds| time(milliseconds).into()));
            all
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_rule_that_is_printed_is_read_as_it_was(mut rules in vec(rule(), 1..3), names in vec(text(), 1..4)) {
        // No two may have the same id.
        for (n, rule) in rules.iter_mut().enumerate() {
            let id = format!("{}{n}", rule["id"].as_str().unwrap());
            rule.insert("id".into(), id.into());
        }
        let rules: Vec<Value> = rules.into_iter().map(Value::from).collect();
        let lists = table([("names", names.into()), ("numbers", vec![1_i64, -7].into())]);
        let macros = table([("big", "process.pid > 1000 and not process.name in @names".into())]);
        let file = table([("lists", lists.into()), ("macros", macros.into()), ("rule", rules.into())]);
        assert_same(&[source(&file.to_string())]);
    }
}
