//! The reference of the rule language, made from the tables that the language itself is made from.

use std::fmt::Write as _;

use super::parser::Operator;
use crate::monitor::event::{EventKind, Field};

const INTRODUCTION: &str = "\
# Rules: the reference

This page is generated from COI's own tables. `docs/authoring.md` is where to begin.

## A rule file

TOML. Every key is known or an error. Lists and macros are shared by all files.

| key | meaning |
|---|---|
| `[lists]` `name = [...]` | Values under a name: `field in @name`. |
| `[macros]` `name = \"condition\"` | A condition under a name: `$name`. |
| `[[rule]]` | A rule, see below. |
| `[rules.ID]` | A change to a rule, see [Overrides](#overrides). |

## A rule

| key | meaning |
|---|---|
| `id` | Its name for good: in the audit log, in overrides, in reports. |
| `title`, `description` | What it finds, and why it looks as it does. |
| `severity` | `info`, `warning`, `high` or `critical`. |
| `action` | What is done, see [Actions](#actions); without it `log`, `notify`, `freeze` or `kill`, as the severity calls for. |
| `attack` | MITRE ATT&CK techniques, `T1059` or `T1059.004`. |
| `enabled` | `false` turns it off. |
| `event`, `condition` | The kinds of events it looks at, and when it holds. |
| `window` | `{ over = \"10s\", by = [...], at_least = 100 }` counts events, with `sum = \"field\"` a field's sum, with `distinct = \"field\"` its different values; `any = [{...}, {...}]` takes several thresholds of which one is enough. |
| `sequence` | `{ within = \"60s\", by = [...], ordered = true, steps = [{ event, condition, ... }, ...], unless = { event, condition } }`: all steps within the time, about the same `by`; after an `unless` it begins anew. A step may have a threshold as a window has, and a `name`. |
| `absent` | `{ event, condition, since = { event, condition }, within = \"1h\", by = [...] }`: the rule's own event, if there was none of these since the last of `since`. |
| `exceptions` | `[{ condition, reason, expires = 2027-01-31 }]`: when it is not meant, and why. |
| `message` | What is said, with `{field}`. |
| `suppress` | `{ for = \"60s\", by = [...] }`: how long it does not repeat itself about the same; what is held back is counted and told. Without it 30 s. |
| `[[rule.test]]` | `name`, `expect = \"fire\"` or `\"quiet\"`, `times`, and `events = [{ event, at, every, repeat, field = value, ... }]` or `fixture = \"file.jsonl\"`. |

## Actions

In their order; each may only be replaced by a later one where somebody may only tighten, and `deny` by none.

| action | what is done | if that fails |
|---|---|---|
| `log` | It is written down. | |
| `notify` | As `log`, and told to whoever looks on and by `[notify]`. | |
| `deny` | For rules on `connect` alone: the kernel refuses the connection (EPERM), and the attempt is an alert. The condition and the exceptions may test `destination.ip` and `destination.port` only. AF_UNIX is not refused, nor is a raw socket. | `freeze` |
| `kill-process` | The process is ended, with all that it and its descendants have started; meanwhile the container stands still. | `freeze` |
| `cut-network` | The container goes on without network: nothing comes in or goes out but over its loopback, established connections included; a restart does not change that, `coi unfreeze` does. AF_UNIX and AF_PACKET sockets are not cut. | `freeze` |
| `freeze` | All processes of the container stand still until `coi unfreeze`. | `kill` |
| `kill` | Evidence is kept, then all of them are ended. | |

## Overrides

In `/etc/coi/config.toml` or any rule file, for a rule that exists. Who may make which rule milder is said in
`docs/authoring.md`.

```toml
[rules.bulk-read-volume]
enabled = true
severity = \"high\"
action = \"notify\"
at_least = \"500MiB\"
exceptions = [{ condition = \"process.name == 'backup'\", reason = \"OPS-7\", expires = 2027-01-31 }]
```

## Conditions

`and`, `or`, `not`, parentheses, `true`, `false`, `$macro`, a boolean field alone, `exists(field)`,
`any(list, test)`, `all(list, test)`, and a field with a test. A test of a field that the event does not have is
false, also `!=` and `not in`; `not` before a test turns it around. Texts stand in single quotes, where a backslash is a
backslash, or in double quotes. Numbers may be sizes, `50MiB`.

";

/// The whole reference.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    row(&mut page, &["operator", "for", "holds when"]);
    row(&mut page, &["---"; 3]);
    for (operator, types, meaning) in Operator::ALL {
        row(&mut page, &[&code(operator.name()), types, meaning]);
    }
    page.push_str(
        "\nThe operators that are words take `not` before them, and a list where it says \"one of these\".\n",
    );
    page.push_str("\n## Events\n\n");
    row(&mut page, &["event", "kernel programs", "meaning"]);
    row(&mut page, &["---"; 3]);
    for kind in EventKind::ALL {
        row(&mut page, &[&code(kind.name()), &kind.programs().join(", "), kind.meaning()]);
    }
    page.push_str(
        "\n## Fields\n\nA value of the source `kernel` comes with the event from its program, `lineage` from earlier events of \
         the process and of\nthose that made it, `watch` from how the container was attached, `derived` from other fields.\n\n",
    );
    row(&mut page, &["field", "type", "events", "source", "meaning"]);
    row(&mut page, &["---"; 5]);
    for def in Field::TABLE {
        row(
            &mut page,
            &[&code(def.name), def.ty.name(), &events(def.kinds), def.field.source().name(), def.doc],
        );
    }
    page
}

/// The table of fields for a terminal.
pub fn fields_table() -> String {
    let mut table = String::new();
    for def in Field::TABLE {
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "{:<34} {:<16} {:<8} {}\n{:34} {}",
            def.name,
            def.ty.name(),
            def.field.source().name(),
            events(def.kinds),
            "",
            def.doc
        );
    }
    table
}

fn row(page: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn events(kinds: &[EventKind]) -> String {
    if kinds.len() == EventKind::ALL.len() {
        return "all".to_owned();
    }
    kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `COI_UPDATE_DOCS=1 cargo test -p coi the_reference` writes it anew.
    #[test]
    fn the_reference_is_what_is_committed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/rules.md");
        if std::env::var_os("COI_UPDATE_DOCS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == reference(),
            "docs/rules.md is old; COI_UPDATE_DOCS=1 cargo test -p coi the_reference"
        );
    }
}
