//! Any text as a workspace's configuration: what is accepted makes a configuration.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| coi::config::fuzz(text));
