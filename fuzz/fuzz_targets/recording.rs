//! Any bytes as a recording: what is read is judged by the built-in rules.

#![no_main]

use std::sync::{Arc, LazyLock};

use coi::monitor::rules::{
    OwnRules, RuleSet, builtin_sources,
    recording::{Holds, Reader, Replay, header},
};
use libfuzzer_sys::fuzz_target;

static RULES: LazyLock<Arc<RuleSet>> =
    LazyLock::new(|| Arc::new(RuleSet::compile(&builtin_sources(), jiff::civil::date(2026, 7, 1)).unwrap()));

fuzz_target!(|bytes: &[u8]| {
    drop(Reader::all(bytes));
    let with_header = [header("fuzz", Holds::Everything, &OwnRules::default()).as_bytes(), b"\n", bytes].concat();
    let Ok(entries) = Reader::all(&with_header) else { return };
    let mut replay = Replay::new(RULES.clone());
    let mut alerts = Vec::new();
    entries.iter().for_each(|entry| replay.judge(entry, &mut alerts));
});
