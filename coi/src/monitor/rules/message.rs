//! Messages: a rule's template filled with an event's fields, safe to print on a terminal.

use std::fmt::{self, Write};

use super::{
    check::{Text, carried_field},
    error::{RuleError, RuleErrorKind},
    model::KindSet,
};
use crate::monitor::event::{EventKind, Field, Record, Value};

/// How much of one field a message shows, in characters.
const SHOWN: usize = 200;

/// A message with places for fields.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub(super) parts: Vec<Part>,
}

/// A part of a message.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Text(String),
    Field(Field),
}

impl Template {
    /// A message without fields.
    pub(super) fn plain(text: &str) -> Self {
        let text = (!text.is_empty()).then(|| Part::Text(safe(text)));
        Self { parts: text.into_iter().collect() }
    }

    /// Reads `{field}` as the field, and `{{` and `}}` as braces.
    pub(super) fn parse(text: &Text, kinds: KindSet) -> Result<Self, RuleError> {
        let value = &text.value;
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(brace) = value[at..].find(['{', '}']).map(|offset| at + offset) {
            literal.push_str(&value[at..brace]);
            let rest = &value[brace..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                literal.push_str(&rest[..1]);
                at = brace + 2;
                continue;
            }
            let Some(end) = rest.strip_prefix('{').and_then(|rest| rest.find('}')) else {
                return Err(text.at(&(brace..brace + 1)).error(RuleErrorKind::Syntax {
                    expected: "a field in braces".to_owned(),
                    found: format!("a lone `{}`", &rest[..1]),
                    hint: Some("a brace itself is written twice: {{ or }}"),
                }));
            };
            let name = brace + 1..brace + 1 + end;
            let field = carried_field(&value[name.clone()], kinds, &text.at(&name))?;
            if !literal.is_empty() {
                parts.push(Part::Text(safe(&std::mem::take(&mut literal))));
            }
            parts.push(Part::Field(field));
            at = name.end + 1;
        }
        literal.push_str(&value[at..]);
        if !literal.is_empty() {
            parts.push(Part::Text(safe(&literal)));
        }
        Ok(Self { parts })
    }

    /// The message about an event. A field that the event does not have is shown as `?`.
    pub(super) fn render<R: Record>(&self, record: &R) -> String {
        let mut message = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => message.push_str(text),
                Part::Field(field) => push(&mut message, record.get(*field)),
            }
        }
        message
    }
}

/// The one or two fields that say best what an event was, in one line.
pub(super) fn describe<R: Record>(record: &R) -> String {
    let fields: &[Field] = match record.kind() {
        EventKind::Exec => &[Field::ProcessCommandLine],
        EventKind::Open | EventKind::ExecFailed | EventKind::Map => &[Field::ProcessName, Field::FilePath],
        EventKind::Connect | EventKind::Redirect | EventKind::Link => {
            &[Field::ProcessName, Field::DestinationIp, Field::DestinationPort]
        }
        EventKind::Accept => &[Field::ProcessName, Field::SourceIp, Field::SourcePort],
        EventKind::Read | EventKind::Send => &[Field::ProcessName, Field::IoBytes],
        EventKind::Fork | EventKind::Exit => &[Field::ProcessName],
        EventKind::Bind | EventKind::Listen => &[Field::ProcessName, Field::ServerIp, Field::ServerPort],
        EventKind::Change => &[Field::ProcessName, Field::FileChange, Field::FilePath],
        EventKind::Syscall => &[Field::ProcessName, Field::SyscallName],
        EventKind::IoUring => &[Field::ProcessName, Field::IoUringOpcode],
        EventKind::Mismatch => &[Field::ProcessName, Field::FilePath, Field::DestinationIp],
        EventKind::Loss => &[Field::LossKind, Field::LossCount],
    };
    let mut line = String::new();
    for (i, field) in fields.iter().enumerate() {
        if i > 0 {
            line.push(' ');
        }
        push(&mut line, record.get(*field));
    }
    line
}

/// A value, safe to print.
pub(super) fn show(value: Value<'_>) -> String {
    let mut line = String::new();
    push(&mut line, Some(value));
    line
}

fn push(line: &mut String, value: Option<Value<'_>>) {
    let printed = match value {
        None => write!(line, "?"),
        Some(Value::Keyword(text)) => push_text(line, text),
        Some(Value::Integer(number)) => write!(line, "{number}"),
        Some(Value::Boolean(value)) => write!(line, "{value}"),
        Some(Value::Ip(address)) => write!(line, "{address}"),
        Some(Value::Keywords(texts)) => texts.iter().enumerate().try_for_each(|(i, text)| {
            if i > 0 {
                line.push(' ');
            }
            push_text(line, text)
        }),
    };
    debug_assert!(printed.is_ok(), "writing to a string does not fail");
}

/// The watched process chose this text. It must not reach a terminal as commands, nor fill a screen.
fn push_text(line: &mut String, text: &str) -> fmt::Result {
    for (i, c) in text.chars().enumerate() {
        if i == SHOWN {
            return line.write_str("…");
        }
        push_safe(line, c)?;
    }
    Ok(())
}

/// The text in one line, safe to print: who wrote it may be a stranger.
pub(crate) fn safe(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let written = text.chars().try_for_each(|c| push_safe(&mut line, c));
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    line
}

/// Whether a character steers a terminal, or reorders or hides its neighbours.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn push_safe(line: &mut String, c: char) -> fmt::Result {
    if is_unsafe(c) { write!(line, "{}", c.escape_default()) } else { line.write_char(c) }
}
