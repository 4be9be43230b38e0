//! Typed conditions, and whether an event meets them.
//!
//! A test of a field that the event does not have is false, and that goes for the negated operators too:
//! `file.name != "x"` and `file.name not in @list` ask for a name that is another one, not for no name.
//! Only `not` in front of a test turns it around; `exists(field)` asks whether there is a value. `any` and
//! `all` are false on an empty list, which is as good as a missing one.
//!
//! Nothing here allocates.

use std::net::IpAddr;

use aho_corasick::AhoCorasick;
use ipnet::IpNet;
use regex::{Regex, bytes};

use crate::monitor::event::{Field, Record, Value};

/// A condition whose fields, operators and values fit together.
#[derive(Clone, Debug)]
pub(super) enum Expr {
    Literal(bool),
    And(Box<[Expr]>),
    Or(Box<[Expr]>),
    Not(Box<Expr>),
    Exists(Field),
    /// A boolean field.
    Holds(Field),
    Text {
        field: Field,
        negated: bool,
        test: TextTest,
    },
    Integer {
        field: Field,
        negated: bool,
        test: IntegerTest,
    },
    Ip {
        field: Field,
        negated: bool,
        test: IpTest,
    },
    /// One of the texts of a list.
    Any {
        field: Field,
        negated: bool,
        test: TextTest,
    },
    /// Each of the texts of a list.
    All {
        field: Field,
        negated: bool,
        test: TextTest,
    },
}

/// A test of a text.
#[derive(Clone, Debug)]
pub(super) enum TextTest {
    Equal(Box<str>),
    /// Sorted.
    OneOf(Box<[Box<str>]>),
    Contains(Needles),
    StartsWith(Box<[Box<str>]>),
    EndsWith(Box<[Box<str>]>),
    Glob(Globs),
    Regex(Regex),
}

/// Texts to look for, of which one is enough.
#[derive(Clone, Debug)]
pub(super) struct Needles {
    pub(super) texts: Box<[Box<str>]>,
    /// Whether an ASCII letter is the same large and small.
    pub(super) any_case: bool,
    pub(super) automaton: AhoCorasick,
}

/// Globs, of which one is enough.
#[derive(Clone, Debug)]
pub(super) struct Globs {
    /// As they were written.
    pub(super) patterns: Box<[Box<str>]>,
    /// All of them as one expression, over bytes as paths are.
    pub(super) regex: bytes::Regex,
}

/// A test of a number.
#[derive(Clone, Debug)]
pub(super) enum IntegerTest {
    Equal(i64),
    Less(i64),
    LessOrEqual(i64),
    Greater(i64),
    GreaterOrEqual(i64),
    /// Sorted.
    OneOf(Box<[i64]>),
}

/// A test of an address.
#[derive(Clone, Debug)]
pub(super) enum IpTest {
    OneOf(Box<[IpAddr]>),
    Within(Box<[IpNet]>),
}

impl Expr {
    /// All of them, the cheap ones first: their order means nothing, and most events fail at once.
    pub(super) fn all(mut parts: Vec<Self>) -> Self {
        parts.sort_by_key(Self::cost);
        Self::And(parts.into())
    }

    /// One of them, the cheap ones first.
    pub(super) fn any(mut parts: Vec<Self>) -> Self {
        parts.sort_by_key(Self::cost);
        Self::Or(parts.into())
    }

    /// What it costs to find out, roughly, in comparisons.
    fn cost(&self) -> u32 {
        match self {
            Self::Literal(_) => 0,
            Self::Exists(_) | Self::Holds(_) | Self::Integer { .. } => 1,
            Self::Ip { .. } => 2,
            Self::Text { test, .. } => test.cost(),
            Self::Any { test, .. } | Self::All { test, .. } => test.cost().saturating_mul(8),
            Self::Not(inner) => inner.cost(),
            Self::And(parts) | Self::Or(parts) => {
                parts.iter().fold(0, |sum, part| part.cost().saturating_add(sum))
            }
        }
    }

    /// Whether the event meets the condition.
    pub(super) fn holds<R: Record>(&self, record: &R) -> bool {
        match self {
            Self::Literal(value) => *value,
            Self::And(parts) => parts.iter().all(|part| part.holds(record)),
            Self::Or(parts) => parts.iter().any(|part| part.holds(record)),
            Self::Not(inner) => !inner.holds(record),
            Self::Exists(field) => record.get(*field).is_some(),
            Self::Holds(field) => matches!(record.get(*field), Some(Value::Boolean(true))),
            Self::Text { field, negated, test } => match record.get(*field) {
                Some(Value::Keyword(text)) => test.passes(text) != *negated,
                _ => false,
            },
            Self::Integer { field, negated, test } => match record.get(*field) {
                Some(Value::Integer(number)) => test.passes(number) != *negated,
                _ => false,
            },
            Self::Ip { field, negated, test } => match record.get(*field) {
                Some(Value::Ip(address)) => test.passes(address) != *negated,
                _ => false,
            },
            Self::Any { field, negated, test } => match record.get(*field) {
                Some(Value::Keywords(texts)) => texts.iter().any(|text| test.passes(text) != *negated),
                _ => false,
            },
            Self::All { field, negated, test } => match record.get(*field) {
                Some(Value::Keywords(texts)) => {
                    !texts.is_empty() && texts.iter().all(|text| test.passes(text) != *negated)
                }
                _ => false,
            },
        }
    }
}

impl TextTest {
    fn cost(&self) -> u32 {
        match self {
            Self::Equal(_) => 2,
            Self::OneOf(_) => 4,
            Self::StartsWith(_) | Self::EndsWith(_) => 6,
            Self::Contains(_) => 10,
            Self::Glob(_) | Self::Regex(_) => 40,
        }
    }

    pub(super) fn passes(&self, text: &str) -> bool {
        match self {
            Self::Equal(value) => text == &**value,
            Self::OneOf(values) => values.binary_search_by(|value| (**value).cmp(text)).is_ok(),
            Self::Contains(needles) => needles.automaton.is_match(text),
            Self::StartsWith(values) => values.iter().any(|value| text.starts_with(&**value)),
            Self::EndsWith(values) => values.iter().any(|value| text.ends_with(&**value)),
            Self::Glob(globs) => globs.regex.is_match(text.as_bytes()),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

impl IntegerTest {
    fn passes(&self, number: i64) -> bool {
        match self {
            Self::Equal(value) => number == *value,
            Self::Less(value) => number < *value,
            Self::LessOrEqual(value) => number <= *value,
            Self::Greater(value) => number > *value,
            Self::GreaterOrEqual(value) => number >= *value,
            Self::OneOf(values) => values.binary_search(&number).is_ok(),
        }
    }
}

impl IpTest {
    fn passes(&self, address: IpAddr) -> bool {
        // An IPv4 address is the same one when a socket for IPv6 writes it as ::ffff:192.0.2.1.
        let address = address.to_canonical();
        match self {
            Self::OneOf(values) => values.contains(&address),
            Self::Within(networks) => networks.iter().any(|network| network.contains(&address)),
        }
    }
}
