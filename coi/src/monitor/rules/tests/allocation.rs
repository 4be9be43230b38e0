//! Judging an event that matches nothing allocates nothing, and what is remembered has a bound.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use super::*;
use crate::monitor::rules::builtin_sources;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// What is allocated and not given back. What another thread gives back is not known here.
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came; the counters are thread-local numbers without a
// destructor, so that counting neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size() as i64));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.with(|bytes| bytes.set(bytes.get() - layout.size() as i64));
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer is from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn an_event_that_matches_nothing_allocates_nothing() {
    let rules = Arc::new(RuleSet::compile(&builtin_sources(), TODAY).unwrap());
    let mut engine = Engine::new(rules);
    let mut alerts = Vec::new();
    let events = [
        "event = 'exec', process.executable = '/usr/lib/gcc/x86_64-linux-gnu/12/cc1', process.args = ['cc1', '-quiet', '-o', '/tmp/x.s', 'src/main.c']",
        "event = 'exec', process.executable = '/usr/bin/bash', process.args = ['bash', '-c', 'npm test']",
        "event = 'exec', process.executable = '/usr/bin/grep', process.args = ['grep', '-rn', 'TODO', 'src']",
        "event = 'open', process.executable = '/usr/bin/node', process.args = ['node', 'x.js'], file.path = '/usr/lib/node_modules/npm/lib/cli.js', coi.file.workspace = false",
        "event = 'connect', process.executable = '/usr/bin/curl', destination.ip = '203.0.113.7', destination.port = 443",
        "event = 'link', process.executable = '/usr/bin/bash', coi.link.kind = 'held', coi.link.relay.executable = '/usr/bin/node'",
        "event = 'fork'",
        "event = 'exec', coi.phase = 'setup', process.executable = '/usr/bin/env', process.args = ['env']",
    ];
    let records: Vec<Sample> = events.into_iter().flat_map(records).collect();
    let mut judge = |record: &Sample| engine.evaluate(record, 1, &mut alerts);
    // Regular expressions make room for themselves when they are first used on a thread.
    records.iter().for_each(&mut judge);
    let before = ALLOCATIONS.with(Cell::get);
    for _ in 0..100 {
        records.iter().for_each(&mut judge);
    }
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert!(alerts.is_empty(), "{alerts:?}");
}

#[test]
fn a_flood_of_keys_takes_no_more_memory_the_longer_it_lasts() {
    let by = "by = ['process.user.id']";
    let rule = |id: &str, rest: &str| {
        let quiet = "suppress = { for = '1h', by = ['process.user.id'] }";
        format!("[[rule]]\nid = '{id}'\ntitle = 't'\nseverity = 'info'\n{quiet}\n{rest}\n")
    };
    let exec = "event = 'exec', condition = 'true'";
    let alone = "event = 'exec'\ncondition = 'true'";
    let text = [
        rule("alone", alone),
        rule("count", &format!("{alone}\nwindow = {{ over = '1h', {by}, at_least = 5 }}")),
        rule(
            "sum",
            &format!("{alone}\nwindow = {{ over = '1h', {by}, sum = 'process.pid', at_least = 5000000 }}"),
        ),
        rule(
            "distinct",
            &format!("{alone}\nwindow = {{ over = '1h', {by}, distinct = 'process.pid', at_least = 5 }}"),
        ),
        rule(
            "sequence",
            &format!(
                "sequence = {{ within = '1h', {by}, steps = [{{ name = 'a', {exec} }}, {{ {exec}, at_least = 9 }}] }}"
            ),
        ),
    ];
    let mut engine = Engine::new(rules(&text.concat()));
    let flood = |at: &str, name: &str| {
        records(&format!(
            "event = 'exec', at = '{at}', every = '1ms', repeat = 30000, process.pid = 7, process.user.id = '{name}{{n}}'"
        ))
    };
    let first = flood("0s", "a");
    let second = [flood("1m", "b"), flood("2m", "c"), flood("3m", "d"), flood("4m", "e")].concat();
    let mut alerts = Vec::new();
    let before = BYTES.with(Cell::get);
    let mut most = |events: &[Sample]| {
        let mut most = 0;
        for event in events {
            engine.evaluate(event, 1, &mut alerts);
            alerts.clear();
            most = most.max(BYTES.with(Cell::get) - before);
        }
        most
    };
    let (most_first, most_second) = (most(&first), most(&second));
    // Five times as many keys; tables may grow once more, for what was taken out of them.
    assert!(most_second < 2 * most_first, "{most_first} bytes at first, then {most_second}");
    assert!(most_first < 16 << 20, "{most_first}");
    assert!(engine.counters().evicted > 400_000, "{:?}", engine.counters());
}
