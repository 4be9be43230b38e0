//! Events that a Sigma rule fires on, and some that it should not: the generated tests.

use std::collections::BTreeMap;

use regex_syntax::hir::{Class, Hir, HirKind};

use super::detection::{Detection, How, Sig, Source, Test};
use crate::monitor::event::{EventKind, Field, Type};

/// How many choices among alternatives are tried.
const CHOICES: u64 = 256;

/// An ordinary event, as a line of a test.
pub(super) fn quiet(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Open => {
            "{ event = \"open\", process.executable = \"/usr/bin/make\", file.path = \"/workspace/notes.txt\", coi.file.write = true }"
        }
        EventKind::Connect => {
            "{ event = \"connect\", process.executable = \"/usr/bin/make\", destination.ip = \"203.0.113.77\", destination.port = 443 }"
        }
        _ => {
            "{ event = \"exec\", process.executable = \"/usr/bin/make\", process.command_line = \"make all\", process.parent.executable = \"/usr/bin/ninja\" }"
        }
    }
}

/// Events that may well meet the condition, as lines of a test: whether they do is for the rule to say.
pub(super) fn fires(detection: &Detection) -> impl Iterator<Item = String> {
    (0..CHOICES).filter_map(move |choice| {
        let mut event = Event { fields: BTreeMap::new(), choice };
        event.meet(&detection.sig)?;
        Some(event.line(detection.source))
    })
}

/// What an event must be like.
struct Event {
    fields: BTreeMap<Field, Wanted>,
    /// Which alternatives to take, as digits of changing base.
    choice: u64,
}

/// What a value must be like.
#[derive(Default)]
struct Wanted {
    whole: Option<String>,
    start: String,
    pieces: Vec<String>,
    end: String,
}

impl Event {
    /// Adds what the condition asks for. What must not be is left to luck.
    fn meet(&mut self, sig: &Sig) -> Option<()> {
        match sig {
            Sig::And(parts) => parts.iter().try_for_each(|part| self.meet(part)),
            Sig::Or(parts) => {
                let count = parts.len().max(1) as u64;
                let part = parts.get((self.choice % count) as usize)?;
                self.choice /= count;
                self.meet(part)
            }
            Sig::Constant(value) => value.then_some(()),
            Sig::Not(_) => Some(()),
            Sig::Holds(field) | Sig::Exists(field) => {
                self.fields.entry(*field).or_default();
                Some(())
            }
            Sig::Test(test) => self.test(test),
        }
    }

    fn test(&mut self, test: &Test) -> Option<()> {
        let Test { field, how, value, .. } = test;
        let wanted = self.fields.entry(*field).or_default();
        match how {
            How::Equal | How::Same | How::LessOrEqual | How::GreaterOrEqual => {
                wanted.whole = Some(value.clone())
            }
            How::Contains => wanted.pieces.push(value.clone()),
            How::StartsWith => wanted.start = value.clone(),
            How::EndsWith => wanted.end = value.clone(),
            How::Regex => wanted.pieces.push(text_of(&regex_syntax::parse(value).ok()?)?),
            How::Cidr => wanted.whole = Some(value.split('/').next()?.to_owned()),
            How::Less => wanted.whole = Some(value.parse::<i64>().ok()?.checked_sub(1)?.to_string()),
            How::Greater => wanted.whole = Some(value.parse::<i64>().ok()?.checked_add(1)?.to_string()),
        }
        Some(())
    }

    fn line(&self, source: Source) -> String {
        let mut line = format!("{{ event = \"{}\"", source.kind());
        for (field, wanted) in &self.fields {
            let value = match field.def().ty {
                Type::Boolean => "true".to_owned(),
                Type::Integer => wanted.text(*field),
                _ => super::quote(&wanted.text(*field)),
            };
            line.push_str(&format!(", {} = {value}", field.def().name));
        }
        line + " }"
    }
}

impl Wanted {
    fn text(&self, field: Field) -> String {
        if let Some(whole) = &self.whole {
            return whole.clone();
        }
        // Words of a command line stand apart; parts of a path do not.
        let space =
            if matches!(field, Field::ProcessCommandLine | Field::ParentCommandLine) { " " } else { "" };
        let mut text = self.start.clone();
        for piece in &self.pieces {
            if !text.to_lowercase().contains(&piece.to_lowercase()) {
                text.push_str(if text.is_empty() { "" } else { space });
                text.push_str(piece);
            }
        }
        if !text.ends_with(&self.end) {
            text.push_str(&self.end);
        }
        if text.is_empty() { "x".to_owned() } else { text }
    }
}

/// A short text that the expression matches.
fn text_of(hir: &Hir) -> Option<String> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(String::new()),
        HirKind::Literal(literal) => String::from_utf8(literal.0.to_vec()).ok(),
        HirKind::Class(Class::Unicode(class)) => {
            // A letter or a digit is the plainest.
            let plain = ('a'..='z')
                .chain('0'..='9')
                .chain([' ', '-', '/'])
                .find(|c| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(c)));
            plain.or_else(|| class.ranges().first().map(|range| range.start())).map(String::from)
        }
        HirKind::Class(Class::Bytes(class)) => {
            class.ranges().first().map(|range| char::from(range.start()).to_string())
        }
        HirKind::Repetition(repetition) => {
            let times = usize::try_from(repetition.min.min(64)).ok()?;
            text_of(&repetition.sub).map(|text| text.repeat(times))
        }
        HirKind::Capture(capture) => text_of(&capture.sub),
        HirKind::Concat(parts) => parts.iter().map(text_of).collect(),
        HirKind::Alternation(parts) => text_of(parts.first()?),
    }
}
