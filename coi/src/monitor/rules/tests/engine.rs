//! Windows, sequences, suppression, exceptions, overrides.

use super::*;
use crate::monitor::{
    event::EventKind,
    rules::{Amount, AtLeast, Counters, KindSet, Override, Severity},
};

/// A rule with the usual beginning.
fn rule(rest: &str) -> String {
    format!("[[rule]]\nid = 'r'\ntitle = 'A title'\nseverity = 'high'\n{rest}\n")
}

const BYTES: &str = "event = 'read'\ncondition = 'true'\n\
    window = { over = '10s', sum = 'coi.io.bytes', at_least = '50MiB' }\nsuppress = { for = '0s' }";

#[test]
fn a_plain_rule_fires_on_what_it_looks_at_and_on_nothing_else() {
    let mut bench = Bench::new(&rule("event = 'exec'\ncondition = 'process.name == \"nc\"'"));
    assert_eq!(bench.see("event = 'exec', process.executable = '/bin/nc'"), 1);
    assert_eq!(bench.see("event = 'exec', process.executable = '/bin/ncat', process.pid = 2"), 0);
    assert_eq!(bench.see("event = 'connect', process.executable = '/bin/nc', process.pid = 3"), 0);
    assert_eq!(bench.alerts[0].message, "A title");
    assert_eq!(bench.alerts[0].rule.id, "r");
}

#[test]
fn what_lxc_does_before_the_guest_is_not_judged() {
    let mut bench = Bench::new(&rule("event = 'exec'\ncondition = 'true'"));
    assert_eq!(bench.see("event = 'exec', coi.phase = 'setup'"), 0);
    assert_eq!(bench.see("event = 'exec', coi.phase = 'guest'"), 1);
}

#[test]
fn messages_show_fields_and_nothing_dangerous() {
    let mut bench = Bench::new(&rule(
        "event = ['exec', 'connect']\ncondition = 'true'\n\
         message = '{{{process.executable}}} {process.args} to {destination.ip}:{destination.port}'",
    ));
    bench
        .see("event = 'exec', process.executable = '/bin/a', process.args = ['a', \"\\u001b[2J\\u202e\\n\"]");
    assert_eq!(bench.alerts[0].message, "{/bin/a} a \\u{1b}[2J\\u{202e}\\n to ?:?");
    bench.see("event = 'connect', process.pid = 2, destination.ip = '2001:db8::1', destination.port = 1");
    assert_eq!(bench.alerts[1].message, "{?} ? to 2001:db8::1:1");
    let long = "x".repeat(10_000);
    bench.see(&format!("event = 'exec', process.pid = 3, process.executable = '{long}'"));
    assert!(bench.alerts[2].message.chars().count() < 300);
}

#[test]
fn a_sum_fires_when_it_is_reached_within_the_time() {
    let mut bench = Bench::new(&rule(BYTES));
    assert_eq!(bench.see("event = 'read', coi.io.bytes = '49MiB'"), 0);
    assert_eq!(bench.see("event = 'read', at = '10s', coi.io.bytes = '1MiB'"), 1);
    assert_eq!(bench.alerts[0].evidence.len(), 1);
    assert_eq!(bench.alerts[0].evidence[0].text, "50 MiB in 10 s (at least 50 MiB)");
    assert_eq!(bench.alerts[0].evidence[0].kind, EventKind::Read);
}

#[test]
fn a_sum_forgets_what_is_older() {
    let mut bench = Bench::new(&rule(BYTES));
    assert_eq!(bench.see("event = 'read', coi.io.bytes = '49MiB'"), 0);
    assert_eq!(bench.see("event = 'read', at = '10001ms', coi.io.bytes = '49MiB'"), 0);
    assert_eq!(bench.see("event = 'read', at = '15s', coi.io.bytes = '1MiB'"), 1);
}

#[test]
fn a_window_begins_anew_when_it_has_fired() {
    let mut bench = Bench::new(&rule(BYTES));
    assert_eq!(bench.see("event = 'read', repeat = 10, every = '10ms', coi.io.bytes = '10MiB'"), 2);
    assert_eq!(bench.see("event = 'read', at = '1s', coi.io.bytes = '49MiB'"), 0);
}

#[test]
fn a_negative_number_takes_nothing_back() {
    let mut bench = Bench::new(&rule(BYTES));
    assert_eq!(bench.see("event = 'read', coi.io.bytes = '49MiB'"), 0);
    assert_eq!(bench.see("event = 'read', coi.io.bytes = -999999999"), 0);
    assert_eq!(bench.see("event = 'read', coi.io.bytes = 9223372036854775807"), 1);
}

#[test]
fn distinct_counts_values_once() {
    let mut bench = Bench::new(&rule(
        "event = 'open'\ncondition = 'true'\nwindow = { over = '10s', distinct = 'file.path', at_least = 3 }",
    ));
    assert_eq!(bench.see("event = 'open', repeat = 100, file.path = '/a'"), 0);
    assert_eq!(bench.see("event = 'open', at = '1s', file.path = '/b'"), 0);
    assert_eq!(bench.see("event = 'open', at = '2s', file.path = '/b'"), 0);
    // A file that is opened again is as fresh as its last opening.
    assert_eq!(bench.see("event = 'open', at = '9s', file.path = '/a'"), 0);
    assert_eq!(bench.see("event = 'open', at = '11s', file.path = '/c'"), 1);
}

#[test]
fn one_of_several_thresholds_is_enough() {
    let text = rule(
        "event = ['read', 'open']\ncondition = 'true'\nsuppress = { for = '0s' }\n\
         window = { over = '10s', any = [{ sum = 'coi.io.bytes', at_least = '1MiB' }, { distinct = 'file.inode', at_least = 2 }] }",
    );
    let mut bench = Bench::new(&text);
    assert_eq!(bench.see("event = 'read', coi.io.bytes = '1MiB'"), 1);
    assert_eq!(bench.see("event = 'open', file.inode = '1:{n}', repeat = 2"), 1);
    assert_eq!(bench.alerts[1].evidence[0].text, "2 different file.inode in no time (at least 2)");
    assert_eq!(bench.see("event = 'read', coi.io.bytes = '1023KiB'"), 0);
    assert_eq!(bench.see("event = 'open', file.inode = '1:1'"), 0);
}

#[test]
fn keys_are_counted_apart_and_containers_share_nothing() {
    let text = rule(
        "event = 'exec'\ncondition = 'true'\nwindow = { over = '10s', by = ['process.user.id'], at_least = 2 }",
    );
    let mut bench = Bench::new(&text);
    assert_eq!(bench.see("event = 'exec', process.user.id = '0'"), 0);
    assert_eq!(bench.see("event = 'exec', process.user.id = '1'"), 0);
    assert_eq!(bench.see("event = 'exec'"), 0, "no user is a key of its own");
    assert_eq!(bench.see_in(2, "event = 'exec', process.user.id = '0'"), 0);
    assert_eq!(bench.see("event = 'exec', process.user.id = '0'"), 1);
    assert_eq!(bench.see("event = 'exec'"), 1);
}

fn sequence(ordered: bool) -> String {
    rule(&format!(
        "sequence = {{ within = '60s', ordered = {ordered}, steps = [\n\
           {{ event = 'read', condition = 'true', sum = 'coi.io.bytes', at_least = '50MiB' }},\n\
           {{ event = 'open', condition = 'file.extension == \"tgz\"' }},\n\
         ] }}\nsuppress = {{ for = '0s' }}"
    ))
}

const READ: &str = "event = 'read', repeat = 5, every = '1s', coi.io.bytes = '10MiB'";

#[test]
fn an_unordered_sequence_fires_in_either_order() {
    let mut bench = Bench::new(&sequence(false));
    // tar opens the archive before it reads.
    assert_eq!(bench.see("event = 'open', file.path = '/tmp/x.tgz', process.executable = '/bin/tar'"), 0);
    assert_eq!(bench.see("event = 'read', at = '1s', repeat = 5, every = '1s', coi.io.bytes = '10MiB'"), 1);
    let evidence: Vec<_> = bench.alerts[0].evidence.iter().map(|e| (e.kind, e.text.as_str())).collect();
    assert_eq!(
        evidence,
        [(EventKind::Open, "tar /tmp/x.tgz"), (EventKind::Read, "50 MiB in 4 s (at least 50 MiB)")]
    );
    let mut bench = Bench::new(&sequence(false));
    assert_eq!(bench.see(READ), 0);
    assert_eq!(bench.see("event = 'open', at = '64s', file.path = '/tmp/x.tgz'"), 0, "too late");
    let mut bench = Bench::new(&sequence(false));
    assert_eq!(bench.see(READ), 0);
    assert_eq!(bench.see("event = 'open', at = '59s', file.path = '/tmp/x.tgz'"), 1);
    assert_eq!(bench.see("event = 'open', at = '59s', file.path = '/tmp/x.tgz'"), 0, "it begins anew");
}

#[test]
fn an_ordered_sequence_wants_its_order() {
    let mut bench = Bench::new(&sequence(true));
    assert_eq!(bench.see("event = 'open', file.path = '/tmp/x.tgz'"), 0);
    assert_eq!(bench.see(READ), 0);
    assert_eq!(bench.see("event = 'open', at = '5s', file.path = '/tmp/x.tar'"), 0);
    assert_eq!(bench.see("event = 'open', at = '5s', file.path = '/tmp/x.tgz'"), 1);
}

#[test]
fn an_ordered_sequence_lies_within_its_time() {
    // Both the read that began it and the open that ends it are within 60 s, or it is none.
    let mut bench = Bench::new(&sequence(true));
    assert_eq!(bench.see(READ), 0);
    assert_eq!(bench.see("event = 'open', at = '61s', file.path = '/tmp/x.tgz'"), 0);
    let mut bench = Bench::new(&sequence(true));
    assert_eq!(bench.see(READ), 0);
    // Its first 10 MiB are too old, but there are 10 MiB more.
    assert_eq!(bench.see("event = 'read', at = '50s', coi.io.bytes = '10MiB'"), 0);
    assert_eq!(bench.see("event = 'open', at = '61s', file.path = '/tmp/x.tgz'"), 1);
}

#[test]
fn an_ordered_sequence_takes_one_step_for_an_event() {
    let text = rule(
        "sequence = { within = '10s', by = ['process.pid'], steps = [\n\
           { name = 'first', event = 'exec', condition = 'true' },\n\
           { name = 'second', event = 'exec', condition = 'true' },\n\
           { name = 'third', event = 'exec', condition = 'true' },\n\
         ] }",
    );
    let mut bench = Bench::new(&text);
    assert_eq!(bench.see("event = 'exec', process.pid = 1"), 0);
    assert_eq!(bench.see("event = 'exec', process.pid = 2"), 0);
    assert_eq!(bench.see("event = 'exec', process.pid = 1, at = '1s'"), 0);
    assert_eq!(bench.see("event = 'exec', process.pid = 1, at = '2s'"), 1);
    assert_eq!(bench.alerts[0].evidence.len(), 3);
}

#[test]
fn a_later_beginning_replaces_an_earlier_one() {
    let text = rule(
        "sequence = { within = '10s', steps = [\n\
           { event = 'exec', condition = 'true' }, { event = 'connect', condition = 'true' },\n\
         ] }",
    );
    let mut bench = Bench::new(&text);
    assert_eq!(bench.see("event = 'exec'"), 0);
    assert_eq!(bench.see("event = 'exec', at = '9s'"), 0);
    assert_eq!(bench.see("event = 'connect', at = '18s'"), 1);
}

#[test]
fn repetitions_are_counted_and_the_count_is_told() {
    let mut bench = Bench::new(&rule("event = 'exec'\ncondition = 'true'"));
    assert_eq!(bench.see("event = 'exec'"), 1);
    assert_eq!(bench.see("event = 'exec', at = '10s', repeat = 3, every = '1s'"), 0);
    assert_eq!(
        bench.see("event = 'exec', at = '10s', process.pid = 7"),
        1,
        "another process is another subject"
    );
    assert_eq!(bench.see("event = 'exec', at = '30s'"), 1);
    let told: Vec<u64> = bench.alerts.iter().map(|alert| alert.suppressed_before).collect();
    assert_eq!(told, [0, 0, 3]);
    assert_eq!(bench.engine.counters(), Counters { suppressed: 3, evicted: 0 });
}

#[test]
fn suppression_has_its_own_time_and_key() {
    let mut bench = Bench::new(&rule(
        "event = 'exec'\ncondition = 'true'\nsuppress = { for = '60s', by = ['process.name'] }",
    ));
    assert_eq!(bench.see("event = 'exec', process.pid = 1, process.name = 'a'"), 1);
    assert_eq!(bench.see("event = 'exec', process.pid = 2, process.name = 'a', at = '59s'"), 0);
    assert_eq!(bench.see("event = 'exec', process.pid = 1, process.name = 'b', at = '59s'"), 1);
    assert_eq!(bench.see("event = 'exec', process.pid = 2, process.name = 'a', at = '60s'"), 1);
}

#[test]
fn a_thawed_container_is_armed_again() {
    let mut bench = Bench::new(&rule("event = 'exec'\ncondition = 'true'\nsuppress = { for = '1h' }"));
    assert_eq!(bench.see("event = 'exec'"), 1);
    assert_eq!(bench.see("event = 'exec'"), 0);
    bench.engine.reset(2);
    assert_eq!(bench.see("event = 'exec'"), 0, "another container's thaw changes nothing");
    bench.engine.reset(1);
    assert_eq!(bench.see("event = 'exec'"), 1);

    let mut bench = Bench::new(&sequence(false));
    assert_eq!(bench.see(READ), 0);
    bench.engine.reset(1);
    assert_eq!(
        bench.see("event = 'open', at = '5s', file.path = '/tmp/x.tgz'"),
        0,
        "what was read is forgotten"
    );
    assert_eq!(bench.see("event = 'read', at = '6s', coi.io.bytes = '50MiB'"), 1, "and the same sweep fires");
    bench.engine.forget(1);
    assert_eq!(bench.see("event = 'read', at = '7s', coi.io.bytes = '50MiB'"), 0);
}

#[test]
fn exceptions_hold_until_they_expire() {
    let exception = |expires: &str| {
        rule(&format!(
            "event = 'exec'\ncondition = 'true'\nexceptions = [{{ condition = 'process.name == \"a\"', reason = 'known'{expires} }}]"
        ))
    };
    let quiet = |expires: &str| {
        let mut bench = Bench::new(&exception(expires));
        assert_eq!(bench.see("event = 'exec', process.pid = 2, process.name = 'b'"), 1);
        bench.see("event = 'exec', process.name = 'a'") == 0
    };
    assert!(quiet(""));
    assert!(quiet(", expires = 2026-07-02"));
    assert!(!quiet(", expires = 2026-07-01"), "that day it no longer counts");
    assert!(!quiet(", expires = 2025-01-01"));
    let rules = rules(&exception(", expires = 2025-01-01"));
    let told = &rules.rules()[0].exceptions[0];
    assert!(told.expired && told.reason == "known" && told.expires.is_some());
}

#[test]
fn an_excepted_event_counts_for_no_step() {
    let text = rule(
        "event = 'exec'\ncondition = 'true'\nwindow = { over = '10s', at_least = 2 }\n\
         exceptions = [{ condition = 'process.name == \"a\"', reason = 'known' }]",
    );
    let mut bench = Bench::new(&text);
    assert_eq!(bench.see("event = 'exec', process.name = 'a', repeat = 10"), 0);
    assert_eq!(bench.see("event = 'exec', process.name = 'b'"), 0);
    assert_eq!(bench.see("event = 'exec', process.name = 'b'"), 1);
}

#[test]
fn overrides_change_what_they_name() {
    let rules = rules(&rule(&format!("{BYTES}\nenabled = false")));
    assert!(rules.wanted().kinds.is_empty());
    assert_eq!(rules.rules()[0].thresholds().collect::<Vec<_>>(), [("coi.io.bytes", 50 << 20)]);
    let overrides = Overrides::parse(&source(
        "[other]\nx = 1\n[rules.r]\nenabled = true\nseverity = 'info'\nat_least = '500MiB'\n",
    ));
    let changed = rules.with(&overrides.unwrap()).unwrap();
    assert_eq!(changed.rules()[0].severity, Severity::Info);
    assert_eq!(changed.wanted().kinds, [EventKind::Read].into_iter().collect::<KindSet>());
    assert_eq!(changed.rules()[0].thresholds().collect::<Vec<_>>(), [("coi.io.bytes", 500 << 20)]);
    let mut bench = Bench { engine: Engine::new(Arc::new(changed)), alerts: Vec::new() };
    assert_eq!(bench.see("event = 'read', coi.io.bytes = '499MiB'"), 0);
    assert_eq!(bench.see("event = 'read', coi.io.bytes = '1MiB'"), 1);
    assert_eq!(rules.rules()[0].severity, Severity::High, "the set itself stays as it is");
}

#[test]
fn overrides_of_what_does_not_exist_are_errors() {
    let rules = rules(&rule(BYTES));
    let errors = |text: &str| match Overrides::parse(&source(text)) {
        Ok(overrides) => rules.with(&overrides).err().map(|errors| errors[0].to_string()),
        Err(errors) => Some(errors[0].to_string()),
    };
    for (text, said) in [
        ("[rules.rr]\nenabled = true", "test.toml:1:8: there is no rule `rr`"),
        ("[rules.r]\nenable = true", "test.toml:2:1: unknown key `enable` in changes to a rule"),
        ("[rules.r]\nat_least = { x = 1 }", "test.toml:1:8: the rule `r` has no threshold `x`"),
        ("[rules.r]\nat_least = 0", "test.toml:2:12: `0` is no threshold"),
        ("[rules.r]\nat_least = 'lots'", "test.toml:2:12: `'lots'` is no threshold"),
        ("[rules.r]\nseverity = 'hihg'", "test.toml:2:12: there is no severity `hihg`"),
    ] {
        assert_eq!(errors(text).as_deref(), Some(said), "{text}");
    }
    assert_eq!(errors("[rules.r]\nat_least = { \"coi.io.bytes\" = 1 }"), None);
    let mut overrides = Overrides::default();
    let at_least = Some(AtLeast::Only(Amount::Number(5)));
    overrides.set("r", Override { at_least, ..Override::default() });
    assert_eq!(rules.with(&overrides).unwrap().rules()[0].thresholds().next(), Some(("coi.io.bytes", 5)));
    overrides.set("nobody", Override::default());
    assert_eq!(rules.with(&overrides).unwrap_err()[0].to_string(), "there is no rule `nobody`");
}

#[test]
fn a_size_is_no_number_of_values() {
    let text = rule(
        "event = 'open'\ncondition = 'true'\nwindow = { over = '1s', distinct = 'file.path', at_least = 5 }",
    );
    let overrides = Overrides::parse(&source("[rules.r]\nat_least = '5MiB'")).unwrap();
    let errors = rules(&text).with(&overrides).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "test.toml:1:8: 5 MiB is a size, but what is measured here is not bytes"
    );
}

#[test]
fn a_flood_of_keys_is_bounded_and_counted() {
    let text = rule(
        "event = 'exec'\ncondition = 'true'\n\
         window = { over = '1h', by = ['process.pid'], at_least = 2 }\nsuppress = { for = '0s' }",
    );
    let mut bench = Bench::new(&text);
    for pid in 0..20_000 {
        let line = format!("event = 'exec', process.pid = {pid}, at = '{pid}ms'");
        assert_eq!(bench.see(&line), 0);
    }
    let Counters { evicted, suppressed } = bench.engine.counters();
    assert!((20_000 - 4096..20_000).contains(&evicted), "{evicted}");
    assert_eq!(suppressed, 0);
    assert_eq!(bench.see("event = 'exec', process.pid = 19999, at = '20s'"), 1, "the latest are still known");
}

#[test]
fn an_engine_can_live_on_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Engine>();
    is_send::<Alert>();
}

#[test]
fn a_sequence_can_count_distinct_values_before_it_goes_on() {
    let text = rule(
        "sequence = { within = '60s', steps = [\n\
           { event = 'open', condition = 'true', distinct = 'file.path', at_least = 3 },\n\
           { event = 'connect', condition = 'true', at_least = 2 },\n\
         ] }",
    );
    let mut bench = Bench::new(&text);
    assert_eq!(bench.see("event = 'connect', repeat = 5"), 0, "before the files");
    assert_eq!(bench.see("event = 'open', at = '1s', file.path = '/{n}', repeat = 100, every = '10ms'"), 0);
    assert_eq!(bench.see("event = 'connect', at = '3s'"), 0);
    assert_eq!(bench.see("event = 'connect', at = '4s'"), 1);
    let evidence = &bench.alerts[0].evidence;
    assert_eq!(evidence.len(), 2);
    assert!(evidence[0].text.ends_with("(at least 3)"), "{}", evidence[0].text);
    assert_eq!(evidence[1].text, "2 events in 1 s (at least 2)");
}

#[test]
fn an_event_can_undo_a_sequence() {
    let text = rule(
        "sequence = { within = '60s', by = ['process.pid'], unless = { event = 'exit', condition = 'process.exit_code == 0' }, steps = [\n\
           { event = 'open', condition = 'file.name == \"secret\"' },\n\
           { event = 'connect', condition = 'true' },\n\
         ] }",
    );
    let mut bench = Bench::new(&text);
    assert_eq!(bench.see("event = 'open', file.path = '/secret'"), 0);
    assert_eq!(
        bench.see("event = 'exit', at = '1s', process.pid = 7, process.exit_code = 0"),
        0,
        "another's"
    );
    assert_eq!(bench.see("event = 'exit', at = '1s', process.exit_code = 1"), 0, "not what undoes it");
    assert_eq!(bench.see("event = 'connect', at = '2s'"), 1);
    assert_eq!(bench.see("event = 'open', at = '3s', file.path = '/secret'"), 0);
    assert_eq!(bench.see("event = 'exit', at = '4s', process.exit_code = 0"), 0);
    assert_eq!(bench.see("event = 'connect', at = '40s'"), 0);
}

#[test]
fn what_is_absent_since_something_else() {
    let text = rule(
        "event = 'exec'\ncondition = 'process.name == \"git-push\"'\nsuppress = { for = '0s' }\n\
         absent = { event = 'exec', condition = 'process.name == \"cargo-test\"', within = '1h', \
                    since = { event = 'open', condition = 'coi.file.write' } }",
    );
    let mut bench = Bench::new(&text);
    let push = |at: u32| format!("event = 'exec', at = '{at}s', process.executable = '/bin/git-push'");
    assert_eq!(bench.see(&push(1)), 0, "nothing was written");
    assert_eq!(bench.see("event = 'open', at = '2s', coi.file.write = true"), 0);
    assert_eq!(bench.see(&push(3)), 1);
    assert_eq!(bench.see(&push(4)), 1, "still not tested");
    assert_eq!(bench.see("event = 'exec', at = '5s', process.executable = '/bin/cargo-test'"), 0);
    assert_eq!(bench.see(&push(6)), 0);
    assert_eq!(bench.see("event = 'open', at = '7s', coi.file.write = true"), 0);
    assert_eq!(bench.see(&push(8)), 1);
}

#[test]
fn what_undoes_a_sequence_is_wanted_too() {
    let text = rule(
        "event = 'exec'\ncondition = 'true'\n\
         absent = { event = 'connect', condition = 'true', within = '1h', since = { event = 'open', condition = 'file.name == \"x\"' } }",
    );
    let kinds: Vec<_> = rules(&text).wanted().kinds.iter().collect();
    assert_eq!(kinds, [EventKind::Exec, EventKind::Connect, EventKind::Open]);
}

#[test]
fn an_action_is_the_rules_own_or_its_severitys() {
    use crate::monitor::rules::Action;
    let text = rule("event = 'exec'\ncondition = 'true'");
    let own = text.replace("severity = 'high'", "severity = 'high'\naction = 'log'");
    assert_eq!(rules(&text).rules()[0].action(), Action::Freeze);
    assert_eq!(rules(&own).rules()[0].action(), Action::Log);
    let id = rules(&own).rules()[0].id.clone();
    let overrides = Overrides::parse(&source(&format!("[rules.{id}]\naction = 'kill'\n"))).unwrap();
    assert_eq!(rules(&own).with(&overrides).unwrap().rules()[0].action(), Action::Kill);
}

#[test]
fn exceptions_can_be_added_from_outside() {
    let text = "[lists]\nours = ['a', 'b']\n".to_owned()
        + &rule("event = 'exec'\ncondition = 'true'\nsuppress = { for = '0s' }");
    let set = rules(&text);
    let id = &set.rules()[0].id;
    let added = |exception: &str| {
        let overrides =
            Overrides::parse(&source(&format!("[rules.{id}]\nexceptions = [{{ {exception} }}]\n"))).unwrap();
        set.with(&overrides)
    };
    let with = added("condition = 'process.name in @ours', reason = 'OPS-7'").unwrap();
    let mut bench = Bench { engine: Engine::new(Arc::new(with)), alerts: Vec::new() };
    assert_eq!(bench.see("event = 'exec', process.executable = '/bin/a'"), 0);
    assert_eq!(bench.see("event = 'exec', process.executable = '/bin/c'"), 1);
    for (condition, error) in [
        ("file.name == 'x'", "test.toml:2:30: exec events do not carry `file.name`"),
        ("process.name in @theirs", "test.toml:2:46: there is no list `theirs`"),
    ] {
        let errors = added(&format!("condition = \"{condition}\", reason = 'OPS-7'")).unwrap_err();
        assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [error]);
    }
}

#[test]
fn what_was_not_said_is_said_in_the_end() {
    let mut bench = Bench::new(&rule("event = 'exec'\ncondition = 'true'"));
    assert_eq!(bench.see("event = 'exec', repeat = 5"), 1);
    assert_eq!(bench.see("event = 'exec', at = '31s'"), 1, "and tells of the four");
    assert_eq!(bench.see("event = 'exec', at = '32s', repeat = 3"), 0);
    let unsaid = bench.engine.forget(1);
    assert_eq!(unsaid.iter().map(|(_, counters)| counters.suppressed).collect::<Vec<_>>(), [3]);
}
