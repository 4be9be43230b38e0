//! What can be wrong with a rule file, and how it is said.
//!
//! Every error knows its file and the span in it, says what is wrong in its message, and what to do about it
//! in its help. One line comes from `Display`, the annotated source from [`miette`]. Who wrote the file may be a
//! stranger: neither of them steers a terminal, whatever is in it.

use std::{fmt, ops::Range, sync::Arc};

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use super::{
    check::{NEEDLE, PART, PATTERN},
    layer::Bound,
    message::{is_unsafe, safe},
    model::Source,
};
use crate::monitor::event::{EventKind, Field, Type};

/// A range of bytes, in a file or in a condition.
pub(super) type Span = Range<usize>;

/// A file, as the errors about it need it.
pub(super) type File = Arc<NamedSource<String>>;

/// Makes a file from a source. What must not be shown is replaced by as many bytes, so that every span stays true.
pub(super) fn file(source: &Source) -> File {
    let mut text = String::with_capacity(source.text.len());
    let mut chars = source.text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' | '\t' => text.push(c),
            '\r' if chars.peek() == Some(&'\n') => text.push(c),
            c if is_unsafe(c) => text.extend(std::iter::repeat_n('?', c.len_utf8())),
            c => text.push(c),
        }
    }
    Arc::new(NamedSource::new(safe(&source.name), text).with_language("TOML"))
}

/// A place in a file.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(super) file: File,
    pub(super) span: Span,
}

impl Place {
    /// An error about what is here.
    pub(crate) fn error(&self, kind: RuleErrorKind) -> RuleError {
        RuleError { kind: Box::new(kind), place: Some(self.clone()) }
    }

    /// Line and column, both from 1.
    fn position(&self) -> (usize, usize) {
        let before = self.file.inner().get(..self.span.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.position();
        write!(f, "{}:{line}:{column}", self.file.name())
    }
}

/// Something wrong with a rule file: what, where, and what to do about it.
#[derive(Clone, Debug)]
pub struct RuleError {
    kind: Box<RuleErrorKind>,
    /// `None` for an override that came from no file.
    place: Option<Place>,
}

/// The kinds of things that can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleErrorKind {
    /// The file is not TOML.
    #[error("this is not TOML: {0}")]
    Toml(String),
    /// A table has a key that means nothing.
    #[error("unknown key `{key}` in {table}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Which table.
        table: &'static str,
        /// The keys that it could have.
        known: &'static [&'static str],
    },
    /// A table lacks a key.
    #[error("{table} needs the key `{key}`")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// Which table.
        table: &'static str,
    },
    /// A key has a value of another type than it takes.
    #[error("`{key}` takes {expected}, this is {found}")]
    WrongType {
        /// The key.
        key: String,
        /// What it takes.
        expected: &'static str,
        /// What it was given.
        found: &'static str,
    },
    /// Something is defined twice.
    #[error("the {what} `{name}` is defined twice")]
    Duplicate {
        /// A rule, a list, a macro, ...
        what: &'static str,
        /// Its name.
        name: String,
        /// Where it was defined first.
        first: String,
    },
    /// A name is made of other characters than names are.
    #[error("`{name}` is no name for a {what}")]
    BadName {
        /// A rule, a list, a macro, ...
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Something is named that does not exist.
    #[error("there is no {what} `{name}`")]
    Unknown {
        /// A field, a list, a severity, ...
        what: &'static str,
        /// Its name.
        name: String,
        /// The name that was meant, as far as one can tell.
        suggestion: Option<String>,
        /// All there are, where they are few.
        known: Vec<&'static str>,
    },
    /// A technique's id has the wrong form.
    #[error("`{0}` is no ATT&CK technique id")]
    BadTechnique(String),
    /// No event of the rule has this field.
    #[error("{} do not carry `{}`", events(kinds), field.def().name)]
    NotCarried {
        /// The field.
        field: Field,
        /// The kinds of events that the rule looks at.
        kinds: Vec<EventKind>,
    },
    /// A condition is not written as conditions are.
    #[error("expected {expected}, found {found}")]
    Syntax {
        /// What could have stood here.
        expected: String,
        /// What stands here.
        found: String,
        /// How to write what was probably meant.
        hint: Option<&'static str>,
    },
    /// An operator is used on a field of a type that it is not for.
    #[error("`{operator}` does not apply to `{}`, which is {}", field.def().name, a(field.def().ty))]
    BadOperator {
        /// The operator.
        operator: &'static str,
        /// The field.
        field: Field,
    },
    /// A field is compared with a value of another type.
    #[error("`{}` is {} and cannot be compared with {found}", field.def().name, a(field.def().ty))]
    TypeMismatch {
        /// The field.
        field: Field,
        /// The value as it was written.
        found: String,
    },
    /// An address, network, pattern, date, duration or size cannot be read.
    #[error("`{text}` is no {what}")]
    BadValue {
        /// What it should have been.
        what: &'static str,
        /// What was written.
        text: String,
        /// Why it is not, or how to write one.
        help: String,
    },
    /// A regular expression or a list of globs would take too much memory.
    #[error("this {what} is too large: compiled, it is over {} KiB", limit / 1024)]
    RegexTooLarge {
        /// Which of them.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// A condition is too large or too deep.
    #[error("this condition is too {0}")]
    TooLarge(&'static str),
    /// What a user or a workspace brings takes too much memory.
    #[error("these rules weigh too much for what a user or a workspace brings")]
    NoRoom,
    /// A workspace's rules have a regular expression.
    #[error("a workspace's rules may not use `regex`")]
    NoRegex,
    /// Somebody makes a rule milder who may not.
    #[error("{}, and this {how}", bound.reason())]
    Loosens {
        /// Who forbids it.
        bound: Bound,
        /// What would be done.
        how: String,
    },
    /// What is to be denied cannot be told from addresses and ports alone.
    #[error("`deny` cannot be decided in the kernel: {0}")]
    NotDeniable(String),
    /// A macro uses itself.
    #[error("the macro `${0}` uses itself")]
    MacroCycle(String),
    /// A list, or a list of things, has nothing in it.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Two things that exclude each other, or one that needs another.
    #[error("{message}")]
    Conflict {
        /// What is wrong.
        message: String,
        /// What to do.
        help: &'static str,
    },
    /// A list or a macro that nothing uses.
    #[error("nothing uses the {what} `{name}`")]
    Unused {
        /// Which of the two.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A condition that no event meets.
    #[error("no event can meet this condition, so the rule `{0}` never fires")]
    Unreachable(String),
    /// An exception that takes everything away from a rule, or nothing.
    #[error("this exception is about {about}, so {so}")]
    Exception {
        /// Which events it is about.
        about: &'static str,
        /// What follows.
        so: String,
    },
    /// Whatever a rule finds is found by another one already.
    #[error("whatever `{rule}` finds, `{by}` finds too, and it asks for `{action}`")]
    Shadowed {
        /// The rule.
        rule: String,
        /// The other.
        by: String,
        /// What the other asks for: as much, or more.
        action: &'static str,
    },
    /// No loaded program reports any of the events that a step needs.
    #[error("no program of the running daemon reports {}", events(kinds))]
    NotProvided {
        /// The kinds of events.
        kinds: Vec<EventKind>,
    },
    /// A setting is not as it may be.
    #[error("{message}")]
    Setting {
        /// What is wrong.
        message: String,
        /// What to do.
        help: String,
        /// What stands below the marked place.
        label: &'static str,
    },
    /// An override gives a threshold to a rule that has none of that name, or several.
    #[error("{message}")]
    Threshold {
        /// What is wrong.
        message: String,
        /// What to do.
        help: String,
    },
}

impl RuleErrorKind {
    /// What to do about it.
    fn help(&self) -> Option<String> {
        match self {
            Self::Toml(_) => None,
            Self::Empty(_) => Some("put something into it, or leave it out".into()),
            Self::UnknownKey { key, known, .. } => Some(match nearest(key, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the keys are {}", known.join(", ")),
            }),
            Self::MissingKey { key, table } => Some(format!("add `{key} = ...` to {table}")),
            Self::WrongType { .. } => None,
            Self::Duplicate { first, .. } => {
                Some(format!("it is first defined at {first}; give this one another name"))
            }
            Self::BadName { .. } => {
                Some("names are made of a-z, 0-9, - and _, and begin with a letter".into())
            }
            Self::Unknown { suggestion: Some(meant), .. } => Some(format!("did you mean `{meant}`?")),
            Self::Unknown { known, .. } if !known.is_empty() => {
                Some(format!("there are {}", known.join(", ")))
            }
            Self::Unknown { what: "field", .. } => Some("`coi rules fields` lists the fields".into()),
            Self::Unknown { what: "list", name, .. } => {
                Some(format!("define it in a rule file: [lists] {name} = [\"...\"]"))
            }
            Self::Unknown { what: "macro", name, .. } => {
                Some(format!("define it in a rule file: [macros] {name} = \"...\""))
            }
            Self::Unknown { what: "rule", .. } => Some("`coi rules list` lists the rules".into()),
            Self::Unknown { .. } => None,
            Self::BadTechnique(_) => Some("write T1059, or T1059.004 for a sub-technique".into()),
            Self::NotCarried { field, .. } => {
                let kinds: Vec<&str> = field.def().kinds.iter().map(|kind| kind.name()).collect();
                Some(format!(
                    "it comes with {}; look at one of these events, or at another field",
                    kinds.join(", ")
                ))
            }
            Self::Syntax { hint, .. } => hint.map(str::to_owned),
            Self::BadOperator { operator, field } => Some(operator_help(operator, *field)),
            Self::TypeMismatch { field, .. } => Some(
                match field.def().ty {
                    Type::Keyword | Type::Keywords => "write a text in quotes: \"...\"",
                    Type::Integer => "write a number without quotes",
                    Type::Boolean => "write the field alone, or `not` and the field",
                    Type::Ip => "write an address in quotes: \"192.0.2.1\"",
                }
                .to_owned(),
            ),
            Self::BadValue { help, .. } | Self::Threshold { help, .. } | Self::Setting { help, .. } => {
                Some(help.clone())
            }
            Self::RegexTooLarge { .. } => {
                Some("shorten its repetitions, or use contains, starts_with or glob".into())
            }
            Self::TooLarge(_) => Some("split it into two rules, or use a list".into()),
            Self::NoRoom => Some(format!(
                "a part of a condition weighs {PART} or more, a regex {PATTERN}, a byte of a glob or a `contains` {NEEDLE}, \
                 and what is in a macro or list so wherever it is used; use fewer, or have them in /etc/coi/rules.d"
            )),
            Self::NoRegex => {
                Some("use contains, starts_with, ends_with or glob; what a regex costs, all containers would wait for".into())
            }
            Self::Loosens { bound, .. } => Some(bound.help().into()),
            Self::NotDeniable(_) => Some(
                "the kernel knows destination.ip and destination.port of a connection that begins; test these alone, or \
                 choose another action"
                    .into(),
            ),
            Self::MacroCycle(_) => Some("a macro can only use macros that do not lead back to it".into()),
            Self::Conflict { help, .. } => Some((*help).to_owned()),
            Self::Unused { what, .. } => Some(format!("use it, or take the {what} out")),
            Self::Unreachable(_) => {
                Some("its parts exclude each other; was `or` meant where `and` stands?".into())
            }
            Self::Exception { .. } => Some("narrow it, or take it out".into()),
            Self::Shadowed { .. } => Some("take one of them out, or make this one ask for more".into()),
            Self::NotProvided { .. } => {
                Some("its log says why; the rule is blind until that is mended".into())
            }
        }
    }

    /// What stands below the marked place.
    fn label(&self) -> &'static str {
        match self {
            Self::Toml(_) | Self::Syntax { .. } => "here",
            Self::UnknownKey { .. } | Self::Unknown { .. } => "unknown",
            Self::MissingKey { .. } => "in this table",
            Self::WrongType { .. } | Self::TypeMismatch { .. } | Self::BadOperator { .. } => "wrong type",
            Self::Duplicate { .. } => "again here",
            Self::NotCarried { .. } => "never there",
            Self::RegexTooLarge { .. } | Self::TooLarge(_) | Self::NoRoom => "too much",
            Self::Loosens { .. } => "milder",
            Self::NoRegex | Self::NotDeniable(_) => "not here",
            Self::Empty(_) => "nothing in it",
            Self::Unused { .. } => "not used",
            Self::Unreachable(_) => "never true",
            Self::Exception { .. } => "this",
            Self::Shadowed { .. } => "found already",
            Self::NotProvided { .. } => "blind",
            Self::Setting { label, .. } => label,
            Self::BadName { .. }
            | Self::BadTechnique(_)
            | Self::BadValue { .. }
            | Self::MacroCycle(_)
            | Self::Conflict { .. }
            | Self::Threshold { .. } => "this",
        }
    }
}

/// What to use instead of an operator that is not for the field.
fn operator_help(operator: &str, field: Field) -> String {
    let name = field.def().name;
    match field.def().ty {
        _ if operator == "sum" => "sum a number such as coi.io.bytes, or count values with `distinct`".into(),
        Type::Keywords => {
            format!("say which of its texts: any({name}, {operator} ...) or all({name}, {operator} ...)")
        }
        Type::Integer => "numbers take == != < <= > >= and in".into(),
        Type::Boolean => format!("write `{name}` or `not {name}`"),
        Type::Ip => "addresses take == != in and in cidr".into(),
        Type::Keyword => "texts take == != in contains icontains starts_with ends_with glob regex".into(),
    }
}

/// A type with its article.
fn a(ty: Type) -> &'static str {
    match ty {
        Type::Keyword => "a text",
        Type::Integer => "a number",
        Type::Boolean => "true or false",
        Type::Ip => "an address",
        Type::Keywords => "a list of texts",
    }
}

fn events(kinds: &[EventKind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    format!("{} events", names.join(" and "))
}

impl RuleError {
    /// Drawn in its place, without colours.
    pub fn drawn(&self) -> String {
        // How wide the screen is that it is shown on, nobody knows here.
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
        let handler = handler.with_wrap_lines(false);
        let mut text = String::new();
        // Where it cannot be drawn, its one line says as much.
        if handler.render_report(&mut text, self).is_err() {
            text = format!("{self}\n");
        }
        text
    }

    /// Whether it is only something to look at: the rules can be used as they are.
    pub fn is_warning(&self) -> bool {
        use RuleErrorKind::{Exception, NotProvided, Shadowed, Unreachable, Unused};
        matches!(
            *self.kind,
            Unused { .. } | Unreachable(_) | Exception { .. } | Shadowed { .. } | NotProvided { .. }
        )
    }

    /// An error that no file is to blame for.
    pub(crate) fn nowhere(kind: RuleErrorKind) -> Self {
        Self { kind: Box::new(kind), place: None }
    }

    /// Where it is in its file.
    pub(super) fn start(&self) -> usize {
        self.place.as_ref().map_or(0, |place| place.span.start)
    }

    /// The name of its file.
    pub(super) fn file(&self) -> &str {
        self.place.as_ref().map_or("", |place| place.file.name())
    }

    /// What is wrong.
    pub fn kind(&self) -> &RuleErrorKind {
        &self.kind
    }
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{place}: {}", safe(&self.kind.to_string())),
            None => f.write_str(&safe(&self.kind.to_string())),
        }
    }
}

impl std::error::Error for RuleError {}

impl Diagnostic for RuleError {
    fn severity(&self) -> Option<miette::Severity> {
        Some(if self.is_warning() { miette::Severity::Warning } else { miette::Severity::Error })
    }

    fn help(&self) -> Option<Box<dyn fmt::Display + '_>> {
        self.kind.help().map(|help| Box::new(safe(&help)) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|place| &place.file as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let label = LabeledSpan::new_with_span(Some(self.kind.label().to_owned()), place.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// The candidate that the name was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // More than a third wrong is another word, not a slip.
    let limit = name.chars().count() / 3;
    candidates
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many characters must be put in, left out, replaced or swapped with their neighbour to get from one
/// text to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut best = (last[j] + usize::from(a[i] != b[j])).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_slips() {
        for (a, b, expected) in
            [("", "", 0), ("abc", "", 3), ("abc", "abd", 1), ("abc", "acb", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn only_slips_are_suggested() {
        assert_eq!(nearest("serverity", ["severity", "title"]), Some("severity"));
        assert_eq!(nearest("colour", ["severity", "title"]), None);
        assert_eq!(nearest("", ["severity"]), None);
    }
}
