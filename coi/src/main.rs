//! The `coi` command.
fn main() {}
