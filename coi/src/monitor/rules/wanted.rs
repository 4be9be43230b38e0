//! Which events could make a difference to a set of rules, so that the kernel need not send the others.
//!
//! It promises to err on one side only: an event of a kind that is not wanted, or an open that none of the
//! tests accepts, makes no condition of the set true. The other way round nothing is promised: most of what is
//! accepted will match no rule. Failing that promise would blind a rule, so [`accepts`] says in a few lines what
//! a test means, and a property test holds the derivation to it.
//!
//! A test looks at little more than the last part of a path, since that is what the kernel has at hand.

use super::{
    eval::{Expr, TextTest},
    model::KindSet,
};
use crate::monitor::event::{EventKind, Field, Record, Value};

/// What a set of rules wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The kinds of events.
    pub kinds: KindSet,
    /// Which of the opens.
    pub opens: Opens,
}

/// The opens that a set of rules wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opens {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Those that one of the tests accepts.
    Some(Vec<NameTest>),
}

/// A test of an open; see [`accepts`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameTest {
    /// What is compared.
    pub form: Form,
    /// With what: at most [`LONGEST`] bytes; [`PIECE`] for a beginning or an end; empty where the form takes none.
    pub text: String,
    /// The opens that the test is about; others it does not accept.
    pub only: Only,
}

/// What a [`NameTest`] compares, the sharpest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// The last part of the path is the text.
    Name,
    /// The last part begins with the text.
    Prefix,
    /// The last part ends with the text.
    Suffix,
    /// One of the parts above the last is the text.
    Directory,
    /// The file is in the workspace.
    Workspace,
    /// Nothing about the name.
    Any,
}

/// What must be so of an open, beside its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Only {
    /// It is for writing.
    pub write: bool,
    /// It made the file.
    pub create: bool,
    /// It failed.
    pub refused: bool,
}

/// The longest text of a test, in bytes.
pub const LONGEST: usize = 39;
/// How long the text of a [`Form::Prefix`] or [`Form::Suffix`] is, in bytes.
pub const PIECE: usize = 4;
/// How many patterns the braces of one glob may stand for.
const BRACES: usize = 64;

/// Whether the test accepts an open: the meaning of tests, for whoever carries them out elsewhere.
pub fn accepts(test: &NameTest, open: &impl Record) -> bool {
    let holds = |field| open.get(field) == Some(Value::Boolean(true));
    let failed = open.get(Field::Errno).is_some() || open.keyword(Field::EventOutcome) == "failure";
    let Only { write, create, refused } = test.only;
    if write && !holds(Field::FileWrite) || create && !holds(Field::FileCreate) || refused && !failed {
        return false;
    }
    let path = open.keyword(Field::FilePath);
    let (above, last) = path.rsplit_once('/').unwrap_or(("", path));
    match test.form {
        Form::Name => last == test.text,
        Form::Prefix => last.starts_with(&test.text),
        Form::Suffix => last.ends_with(&test.text),
        Form::Directory => above.split('/').any(|part| part == test.text),
        Form::Workspace => holds(Field::FileWorkspace),
        Form::Any => true,
    }
}

impl Wanted {
    /// What conditions want: those of all kinds of events in `kinds`, those about opens in `opens`.
    pub(super) fn new<'a>(mut kinds: KindSet, opens: impl Iterator<Item = &'a Expr>) -> Self {
        let tests = simplified(opens.flat_map(tests).collect());
        let opens = match tests.as_slice() {
            [] => {
                kinds.remove(EventKind::Open);
                Opens::None
            }
            [NameTest { form: Form::Any, only, .. }] if *only == Only::default() => Opens::All,
            _ => Opens::Some(tests),
        };
        Self { kinds, opens }
    }

    /// Nothing at all.
    pub fn nothing() -> Self {
        Self { kinds: KindSet::default(), opens: Opens::None }
    }

    /// What either wants.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let opens = match (&self.opens, &other.opens) {
            (Opens::None, opens) | (opens, Opens::None) => opens.clone(),
            (Opens::All, _) | (_, Opens::All) => Opens::All,
            (Opens::Some(these), Opens::Some(those)) => Opens::Some(simplified([&these[..], those].concat())),
        };
        Self { kinds: self.kinds.union(other.kinds), opens }
    }

    /// Whether all that the other wants is wanted anyhow.
    pub fn covers(&self, other: &Self) -> bool {
        let opens = match (&self.opens, &other.opens) {
            (Opens::All, _) | (_, Opens::None) => true,
            (Opens::None, _) | (_, Opens::All) => false,
            (Opens::Some(these), Opens::Some(those)) => {
                those.iter().all(|test| these.iter().any(|by| by.covers(test)))
            }
        };
        opens && self.kinds.union(other.kinds) == self.kinds
    }
}

impl Only {
    fn and(self, other: Self) -> Self {
        Self {
            write: self.write || other.write,
            create: self.create || other.create,
            refused: self.refused || other.refused,
        }
    }

    /// What both ask for.
    fn common(self, other: Self) -> Self {
        Self {
            write: self.write && other.write,
            create: self.create && other.create,
            refused: self.refused && other.refused,
        }
    }
}

impl NameTest {
    fn new(form: Form, text: &str) -> Self {
        Self { form, text: text.to_owned(), only: Only::default() }
    }

    fn any(only: Only) -> Self {
        Self { form: Form::Any, text: String::new(), only }
    }

    /// Whether it accepts whatever the other one accepts.
    fn covers(&self, other: &Self) -> bool {
        self.only.common(other.only) == self.only
            && (self.form == Form::Any || self.form == other.form && self.text == other.text)
    }
}

/// Without those that another one makes needless.
fn simplified(mut tests: Vec<NameTest>) -> Vec<NameTest> {
    tests.sort();
    tests.dedup();
    let needless = |test: &NameTest| tests.iter().any(|other| other != test && other.covers(test));
    tests.iter().filter(|test| !needless(test)).cloned().collect()
}

/// Tests of which one accepts every open that the condition holds for. None of them, if it holds for no open.
fn tests(condition: &Expr) -> Vec<NameTest> {
    let anything = || vec![NameTest::any(Only::default())];
    let only = |only| vec![NameTest::any(only)];
    // A test of a field that opens never have is false, however it goes on.
    let absent = |field: &Field| !field.def().kinds.contains(&EventKind::Open);
    let refused = Only { refused: true, ..Only::default() };
    match condition {
        Expr::Literal(false) => Vec::new(),
        Expr::And(parts) => all(parts),
        Expr::Or(parts) => parts.iter().flat_map(tests).collect(),
        Expr::Exists(field)
        | Expr::Holds(field)
        | Expr::Text { field, .. }
        | Expr::Integer { field, .. }
        | Expr::Ip { field, .. }
        | Expr::Any { field, .. }
        | Expr::All { field, .. }
            if absent(field) =>
        {
            Vec::new()
        }
        Expr::Exists(Field::Errno) | Expr::Integer { field: Field::Errno, .. } => only(refused),
        Expr::Holds(Field::FileWorkspace) => vec![NameTest::new(Form::Workspace, "")],
        Expr::Holds(Field::FileWrite) => only(Only { write: true, ..Only::default() }),
        Expr::Holds(Field::FileCreate) => only(Only { create: true, ..Only::default() }),
        Expr::Text { field: Field::EventAction, negated, test } => {
            if test.passes(EventKind::Open.name()) == *negated { Vec::new() } else { anything() }
        }
        Expr::Text { field: Field::EventOutcome, negated: false, test } if !test.passes("success") => {
            only(refused)
        }
        Expr::Text { field, negated: false, test } => named(*field, test),
        _ => anything(),
    }
}

/// Where all parts must hold, the tests of the sharpest one are enough; what the others say of more than names
/// is asked for as well.
fn all(parts: &[Expr]) -> Vec<NameTest> {
    let parts: Vec<Vec<NameTest>> = parts.iter().map(tests).collect();
    let bluntness = |tests: &Vec<NameTest>| (tests.iter().map(|test| test.form).max(), tests.len());
    let only =
        parts.iter().map(|tests| tests.iter().map(|test| test.only).reduce(Only::common).unwrap_or_default());
    let only = only.fold(Only::default(), Only::and);
    let mut best = parts.iter().min_by_key(|tests| bluntness(tests)).cloned().unwrap_or_default();
    best.iter_mut().for_each(|test| test.only = test.only.and(only));
    best
}

/// The tests for a field that says something about the path.
fn named(field: Field, test: &TextTest) -> Vec<NameTest> {
    type Mine = fn(&str) -> Option<NameTest>;
    let (equal, starts, ends, contains): (Mine, Mine, Mine, Mine) = match field {
        Field::FilePath => (last_part, path_starts, ends, path_contains),
        Field::FileName => (last_part, prefix, ends, nothing),
        Field::FileExtension => (|extension| suffix(&format!(".{extension}")), nothing, nothing, nothing),
        _ => (nothing, nothing, nothing, nothing),
    };
    let of_all =
        |texts: &[Box<str>], mine: Mine| texts.iter().map(|text| mine(text)).collect::<Option<Vec<_>>>();
    let tests = match test {
        TextTest::Equal(text) => equal(text).map(|test| vec![test]),
        TextTest::OneOf(texts) => of_all(texts, equal),
        TextTest::StartsWith(texts) => of_all(texts, starts),
        TextTest::EndsWith(texts) => of_all(texts, ends),
        TextTest::Contains(needles) if !needles.any_case => of_all(&needles.texts, contains),
        TextTest::Glob(globs) if matches!(field, Field::FilePath | Field::FileName) => globs
            .patterns
            .iter()
            .map(|pattern| unbraced(pattern)?.iter().map(|pattern| glob(pattern)).collect::<Option<Vec<_>>>())
            .collect::<Option<Vec<_>>>()
            .map(|tests| tests.concat()),
        TextTest::Contains(_) | TextTest::Glob(_) | TextTest::Regex(_) => None,
    };
    tests.unwrap_or_else(|| vec![NameTest::any(Only::default())])
}

fn nothing(_: &str) -> Option<NameTest> {
    None
}

/// For a path, or a name, that is known.
fn last_part(path: &str) -> Option<NameTest> {
    match path.rsplit('/').next().unwrap_or(path) {
        "" => None,
        name if name.len() > LONGEST => prefix(name),
        name => Some(NameTest::new(Form::Name, name)),
    }
}

/// For the beginning of a name.
fn prefix(name: &str) -> Option<NameTest> {
    name.get(..PIECE).filter(|piece| !piece.contains('/')).map(|piece| NameTest::new(Form::Prefix, piece))
}

/// For the end of a name.
fn suffix(name: &str) -> Option<NameTest> {
    name.get(name.len().checked_sub(PIECE)?..).map(|piece| NameTest::new(Form::Suffix, piece))
}

/// For the end of a path or a name.
fn ends(end: &str) -> Option<NameTest> {
    if end.contains('/') { last_part(end) } else { suffix(end) }
}

/// For the beginning of a path.
fn path_starts(start: &str) -> Option<NameTest> {
    start.rsplit_once('/').and_then(|(above, _)| directory(above.split('/')))
}

/// For a piece of a path: what stands between two slashes is a whole part.
fn path_contains(piece: &str) -> Option<NameTest> {
    let (above, _) = piece.rsplit_once('/')?;
    let (_, whole) = above.split_once('/')?;
    directory(whole.split('/'))
}

/// The lowest of these parts that a test can hold.
fn directory<'a>(parts: impl DoubleEndedIterator<Item = &'a str>) -> Option<NameTest> {
    let mut parts = parts.rev();
    parts.find(|part| (1..=LONGEST).contains(&part.len())).map(|part| NameTest::new(Form::Directory, part))
}

/// The globs that a glob with braces stands for. `None` if it is not plain enough to say.
fn unbraced(pattern: &str) -> Option<Vec<String>> {
    // A class can match a slash, and an escape makes a literal of what looks like none.
    if pattern.contains(['[', '\\']) {
        return None;
    }
    let mut open = vec![pattern.to_owned()];
    let mut plain = Vec::new();
    while let Some(pattern) = open.pop() {
        let Some(end) = pattern.find('}') else {
            plain.push(pattern);
            continue;
        };
        // The innermost braces first.
        let start = pattern[..end].rfind('{')?;
        let (before, after) = (&pattern[..start], &pattern[end + 1..]);
        open.extend(pattern[start + 1..end].split(',').map(|choice| format!("{before}{choice}{after}")));
        if open.len() + plain.len() > BRACES {
            return None;
        }
    }
    Some(plain)
}

/// For a path that a glob without braces matches.
fn glob(pattern: &str) -> Option<NameTest> {
    let literal = |part: &&str| !part.contains(['*', '?']);
    let (above, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    let above = || directory(above.split('/').filter(literal));
    if literal(&last) {
        return last_part(last);
    }
    // `**` crosses slashes, but only as a part of its own.
    let start = &last[..last.find(['*', '?']).unwrap_or(0)];
    let end = &last[last.rfind(['*', '?']).map_or(0, |at| at + 1)..];
    prefix(start).or_else(|| suffix(end)).or_else(above)
}
