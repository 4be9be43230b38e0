//! Rules that fire when a file of a certain name is opened: the harmless stand-in for an attack.

/// A rule of this severity that fires at each open for which `file.name` and `test` hold, such as `== "trip"`; it is not
/// repeated for what has the same `by` within a millisecond.
pub fn tripwire(id: &str, severity: &str, test: &str, by: &str) -> String {
    format!(
        r#"
        [[rule]]
        id = "{id}"
        title = "A file is opened"
        description = "Made by the test."
        severity = "{severity}"
        attack = ["T1059"]
        event = "open"
        condition = 'file.name {test}'
        message = "{{file.name}}"
        suppress = {{ for = "1ms", by = ["{by}"] }}
        "#
    )
}

/// The one that acts: a file called `attack`.
pub fn attack() -> String {
    tripwire("attack", "high", r#"== "attack""#, "process.entity_id")
}
