//! Judging an event that matches nothing allocates nothing.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use super::*;
use crate::monitor::rules::builtin_sources;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came; the counter is a thread-local number without a
// destructor, so that counting neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
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
