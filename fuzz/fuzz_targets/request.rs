//! Any bytes on a connection to the daemon, as root's, an administrator's or a user's: an answer in the protocol or none,
//! and nothing is watched because of it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| coi::monitor::service::unmonitored::fuzz(bytes));
