//! Which conditions an event could meet, found out by the texts in it rather than by asking each of them.
//!
//! Most conditions hold only for events with one of a few texts: a program's name, a piece of a path. Such a text is
//! looked up for all of them at once: whole values in a table, pieces with one automaton per field. What is left is
//! asked; so what an event costs follows from what is in it, not from how many rules there are. It promises that a
//! condition that holds is never left out, and a lookup allocates nothing.

use std::collections::{BTreeMap, HashMap};

use aho_corasick::AhoCorasick;
use foldhash::fast::FixedState;

use super::eval::{Expr, TextTest};
use crate::monitor::event::{EventKind, Field, Record, Value};

/// Positions, as bits.
pub(super) type Marks = Vec<u64>;

/// For one kind of event, which of a number of conditions could hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Those that must be asked anyhow.
    always: Marks,
    fields: Box<[FieldIndex]>,
}

/// What is looked up in one field.
#[derive(Clone, Debug)]
struct FieldIndex {
    field: Field,
    /// By the whole value. What is looked up never gets in, so a hash that can be foreseen does no harm.
    whole: HashMap<Box<str>, Box<[u32]>, FixedState>,
    /// By what the value has in it.
    pieces: Option<Pieces>,
    /// The same, whether letters are large or small.
    any_case: Option<Pieces>,
}

#[derive(Clone, Debug)]
struct Pieces {
    automaton: AhoCorasick,
    /// By the pattern's number.
    positions: Box<[Box<[u32]>]>,
}

/// Of these texts an event must have one for a condition to hold.
type Needed<'a> = Vec<Text<'a>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Text<'a> {
    field: Field,
    how: How,
    text: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum How {
    Whole,
    Piece,
    AnyCase,
}

impl Index {
    /// The index of these conditions for events of one kind.
    pub(super) fn new<'a>(kind: EventKind, conditions: impl Iterator<Item = &'a Expr>) -> Self {
        let mut always = Marks::new();
        let mut texts: BTreeMap<(Field, How), BTreeMap<&str, Vec<u32>>> = BTreeMap::new();
        for (position, condition) in (0..).zip(conditions) {
            always.resize(position as usize / 64 + 1, 0);
            match needed(condition, kind) {
                None => mark(&mut always, position),
                Some(needed) => {
                    for Text { field, how, text } in needed {
                        let positions = texts.entry((field, how)).or_default().entry(text).or_default();
                        if positions.last() != Some(&position) {
                            positions.push(position);
                        }
                    }
                }
            }
        }
        let mut fields: Vec<FieldIndex> = Vec::new();
        for ((field, how), texts) in texts {
            if fields.last().is_none_or(|last| last.field != field) {
                fields.push(FieldIndex { field, whole: HashMap::default(), pieces: None, any_case: None });
            }
            let Some(last) = fields.last_mut() else { continue };
            if how == How::Whole {
                last.whole =
                    texts.into_iter().map(|(text, positions)| (text.into(), positions.into())).collect();
                continue;
            }
            let Some(pieces) = Pieces::new(&texts, how == How::AnyCase) else {
                // It is too large for one automaton, which is no reason not to ask.
                texts.values().flatten().for_each(|position| mark(&mut always, *position));
                continue;
            };
            *(if how == How::AnyCase { &mut last.any_case } else { &mut last.pieces }) = Some(pieces);
        }
        Self { always, fields: fields.into() }
    }

    /// Marks the conditions that the event could meet.
    pub(super) fn look_up(&self, record: &impl Record, marks: &mut Marks) {
        marks.clear();
        marks.extend_from_slice(&self.always);
        for index in &self.fields {
            match record.get(index.field) {
                Some(Value::Keyword(text)) => index.look_up(text, marks),
                Some(Value::Keywords(texts)) => texts.iter().for_each(|text| index.look_up(text, marks)),
                _ => {}
            }
        }
    }
}

impl FieldIndex {
    fn look_up(&self, text: &str, marks: &mut Marks) {
        if !self.whole.is_empty()
            && let Some(positions) = self.whole.get(text)
        {
            positions.iter().for_each(|position| mark(marks, *position));
        }
        for pieces in [&self.pieces, &self.any_case].into_iter().flatten() {
            for found in pieces.automaton.find_overlapping_iter(text) {
                pieces.positions[found.pattern()].iter().for_each(|position| mark(marks, *position));
            }
        }
    }
}

impl Pieces {
    fn new(texts: &BTreeMap<&str, Vec<u32>>, any_case: bool) -> Option<Self> {
        let automaton = AhoCorasick::builder().ascii_case_insensitive(any_case).build(texts.keys()).ok()?;
        Some(Self {
            automaton,
            positions: texts.values().map(|positions| positions.as_slice().into()).collect(),
        })
    }
}

fn mark(marks: &mut Marks, position: u32) {
    // Marks are as long as there are positions.
    if let Some(word) = marks.get_mut(position as usize / 64) {
        *word |= 1 << (position % 64);
    }
}

/// The texts of which an event must have one to meet the condition; `None` where there is no telling, none where
/// no event meets it.
fn needed(condition: &Expr, kind: EventKind) -> Option<Needed<'_>> {
    match condition {
        Expr::Literal(false) => Some(Needed::new()),
        Expr::And(parts) => parts.iter().filter_map(|part| needed(part, kind)).min_by_key(weight),
        Expr::Or(parts) => parts
            .iter()
            .map(|part| needed(part, kind))
            .collect::<Option<Vec<_>>>()
            .map(|parts| parts.concat()),
        // Of fields that these events never have, no test holds.
        Expr::Exists(field)
        | Expr::Holds(field)
        | Expr::Text { field, .. }
        | Expr::Integer { field, .. }
        | Expr::Ip { field, .. }
        | Expr::Any { field, .. }
        | Expr::All { field, .. }
            if !field.def().kinds.contains(&kind) =>
        {
            Some(Needed::new())
        }
        // All of several texts pass only if one does.
        Expr::Text { field, negated: false, test }
        | Expr::Any { field, negated: false, test }
        | Expr::All { field, negated: false, test } => texts(*field, test),
        _ => None,
    }
}

/// How little a lookup helps: the least telling text decides.
fn weight(needed: &Needed<'_>) -> (u32, usize) {
    let of = |text: &Text<'_>| match (text.field, text.how) {
        (
            Field::EventOutcome
            | Field::Phase
            | Field::NetworkTransport
            | Field::StdinKind
            | Field::StdoutKind
            | Field::StderrKind
            | Field::LinkKind
            | Field::ContainerName
            | Field::ContainerId,
            _,
        ) => 8,
        (_, How::Whole) => 1,
        (_, How::Piece | How::AnyCase) => match text.text.len() {
            ..3 => 6,
            3..6 => 3,
            _ => 2,
        },
    };
    (needed.iter().map(of).max().unwrap_or(0), needed.len())
}

fn texts(field: Field, test: &TextTest) -> Option<Needed<'_>> {
    let (how, texts) = match test {
        TextTest::Equal(text) => (How::Whole, std::slice::from_ref(text)),
        TextTest::OneOf(texts) => (How::Whole, &**texts),
        TextTest::StartsWith(texts) | TextTest::EndsWith(texts) => (How::Piece, &**texts),
        TextTest::Contains(needles) if needles.any_case => (How::AnyCase, &*needles.texts),
        TextTest::Contains(needles) => (How::Piece, &*needles.texts),
        TextTest::Glob(globs) => {
            let pieces = globs.patterns.iter().map(|pattern| piece(pattern));
            return pieces.map(|piece| Some(Text { field, how: How::Piece, text: piece? })).collect();
        }
        TextTest::Regex(_) => return None,
    };
    Some(texts.iter().map(|text| Text { field, how, text }).collect())
}

/// The longest text that is in whatever the glob matches.
fn piece(pattern: &str) -> Option<&str> {
    // An escape makes a literal of what looks like none, and a class may hold brackets itself.
    if pattern.contains(['\\', '[']) {
        return None;
    }
    let mut best = "";
    let (mut start, mut depth) = (0, 0_u32);
    let mut consider = |from: usize, to: usize| {
        let text = pattern.get(from..to).unwrap_or_default();
        if text.len() > best.len() {
            best = text;
        }
    };
    for (at, byte) in pattern.bytes().enumerate() {
        if matches!(byte, b'*' | b'?' | b'{' | b'}') {
            if depth == 0 {
                consider(start, at);
            }
            depth = match byte {
                b'{' => depth + 1,
                b'}' => depth.saturating_sub(1),
                _ => depth,
            };
            start = at + 1;
        }
    }
    if depth == 0 {
        consider(start, pattern.len());
    }
    // `**/x` matches `x`, too: a slash beside the stars need not be there.
    let best = best.trim_matches('/');
    (!best.is_empty()).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_piece_of_a_glob() {
        for (pattern, expected) in [
            ("/etc/shadow", Some("etc/shadow")),
            ("**/.ssh/id_*", Some(".ssh/id_")),
            ("**/{a,bcdef}/x*", Some("x")),
            ("**/[a-z]*", None),
            ("a/**/bc", Some("bc")),
            ("**", None),
            ("a\\*b", None),
        ] {
            assert_eq!(piece(pattern), expected, "{pattern}");
        }
    }
}
