//! Trees into typed conditions: every name is known, every operator is for its field's type, every value
//! has it, and every field comes with one of the kinds of events that the rule looks at.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use aho_corasick::AhoCorasick;
use globset::GlobBuilder;
use ipnet::IpNet;
use regex::{Regex, RegexBuilder, bytes};

use super::{
    error::{Place, RuleError, RuleErrorKind, Span, nearest},
    eval::{Expr, Globs, IntegerTest, IpTest, Needles, TextTest},
    layer::Origin,
    model::KindSet,
    parser::{Name, Node, NodeKind, Operand, Operator, Test},
};
use crate::monitor::event::{EventKind, Field, Type};

/// How much memory a compiled regular expression may take.
const REGEX_LIMIT: usize = 256 << 10;
/// How many parts a condition may have once its macros are in their places.
const PARTS: usize = 4096;
/// How much a user's conditions may weigh. A macro or list is compiled wherever it is used, so that little text can
/// become much; and one thread judges for all containers. The weights are what it takes in KiB or in time, roughly and
/// at most.
const USER_ROOM: usize = 1 << 16;
/// How much a workspace's may.
const WORKSPACE_ROOM: usize = 1 << 14;
/// A part of a condition.
pub(super) const PART: usize = 4;
/// A test of each of a list's texts, beyond that.
const EACH: usize = 12;
/// A text that something may begin or end with.
const END: usize = 16;
/// A regular expression: forwards and backwards, with room to run in.
pub(super) const PATTERN: usize = 4 * (REGEX_LIMIT >> 10);
/// What looks for texts or globs.
const SEARCH: usize = 64;
/// Each byte of these: a state, with its way on for each byte there is.
pub(super) const NEEDLE: usize = 4;

/// A text in a rule file, and where each of its bytes is.
#[derive(Clone, Debug)]
pub(in crate::monitor) struct Text {
    pub(super) value: String,
    /// The whole of it, quotes and all.
    pub(super) place: Place,
}

impl Text {
    /// The place of a part of the text.
    pub(super) fn at(&self, span: &Span) -> Place {
        let raw = self.place.file.inner().get(self.place.span.clone()).unwrap_or_default();
        let offset = |at, begins| self.place.span.start + raw_offset(raw, at, begins);
        let start = offset(span.start, true);
        // At least one character, so that there is something to mark.
        let end = self.place.file.inner().ceil_char_boundary(offset(span.end, false).max(start + 1));
        let end = end.min(self.place.span.end);
        Place { file: self.place.file.clone(), span: start.min(end)..end }
    }
}

/// The place in a TOML string as it was written, of a place in what it means. Where something `begins` after a
/// line that goes on, that is on the next line.
fn raw_offset(raw: &str, meant: usize, begins: bool) -> usize {
    let (open, escapes) = match raw {
        _ if raw.starts_with("'''") => (3, false),
        _ if raw.starts_with("\"\"\"") => (3, true),
        _ if raw.starts_with('\'') => (1, false),
        _ => (1, true),
    };
    let mut at = open;
    if open == 3 {
        // A line break right after the opening quotes is not part of the text.
        at += ["\r\n", "\n"].into_iter().find(|line| raw[open..].starts_with(line)).map_or(0, str::len);
    }
    let mut reached = 0;
    while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
        let escaped = rest.strip_prefix('\\').filter(|_| escapes);
        if let Some(next) = escaped.filter(|next| next.starts_with(char::is_whitespace)) {
            if reached == meant && !begins {
                break;
            }
            // The line goes on: the break and the indentation after it mean nothing.
            at += rest.len() - next.trim_start().len();
            continue;
        }
        if reached >= meant {
            break;
        }
        let digits = match escaped.and_then(|next| next.bytes().next()) {
            None => {
                let length = rest.chars().next().map_or(1, char::len_utf8);
                at += length;
                reached += length;
                continue;
            }
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            Some(_) => 0,
        };
        let code = rest.get(2..2 + digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        reached += code.and_then(char::from_u32).map_or(1, char::len_utf8);
        at += 2 + digits;
    }
    at.min(raw.len())
}

/// The lists and macros of all files.
#[derive(Debug)]
pub(super) struct Definitions {
    pub(super) lists: HashMap<String, List>,
    pub(super) macros: HashMap<String, Macro>,
    /// How much more the conditions of this layer may weigh.
    room: AtomicUsize,
    /// Whether they may have regular expressions: what one costs nobody can foresee.
    regexes: bool,
}

impl Default for Definitions {
    fn default() -> Self {
        Self { lists: HashMap::new(), macros: HashMap::new(), room: usize::MAX.into(), regexes: true }
    }
}

impl Definitions {
    /// The same for the next layer, which is by another.
    pub(super) fn for_layer(&self, origin: Origin) -> Self {
        let room = match origin {
            Origin::Builtin | Origin::System => usize::MAX,
            Origin::User => USER_ROOM,
            Origin::Workspace => WORKSPACE_ROOM,
        };
        let regexes = origin != Origin::Workspace;
        Self { lists: self.lists.clone(), macros: self.macros.clone(), room: room.into(), regexes }
    }

    /// Whether there is room for so much more; then it is taken.
    fn take(&self, weight: usize) -> bool {
        let left = |room: usize| room.checked_sub(weight);
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }
}

/// A list: its values with their places.
#[derive(Clone, Debug)]
pub(super) struct List {
    pub(super) values: Vec<(Operand, Place)>,
    pub(super) place: Place,
}

/// A macro: its text, and its tree where it could be parsed.
#[derive(Clone, Debug)]
pub(super) struct Macro {
    pub(super) text: Text,
    pub(super) tree: Option<Node>,
}

/// Types a condition. Where something is wrong, it is added to `errors` and the result is of no use.
pub(super) fn check(
    text: &Text,
    tree: &Node,
    kinds: KindSet,
    definitions: &Definitions,
    errors: &mut Vec<RuleError>,
) -> Condition {
    let mut checker =
        Checker { definitions, kinds, text, open: Vec::new(), alone: false, parts: PARTS, errors };
    let expr = checker.expr(tree);
    Condition { expr, kinds, written: Arc::new(Written { text: text.clone(), tree: tree.clone() }) }
}

/// A condition: what is evaluated, and what was written.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) expr: Expr,
    /// The kinds of events that it is for.
    pub(super) kinds: KindSet,
    pub(super) written: Arc<Written>,
}

/// A condition as it was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) text: Text,
    pub(super) tree: Node,
}

/// Checks a macro by itself, as if for a rule that looks at every kind of event.
pub(super) fn check_macro(name: &str, definitions: &Definitions, errors: &mut Vec<RuleError>) {
    let Some(Macro { text, tree: Some(tree) }) = definitions.macros.get(name) else { return };
    let open = vec![name.to_owned()];
    let kinds = KindSet::all();
    let mut checker = Checker { definitions, kinds, text, open, alone: true, parts: PARTS, errors };
    checker.expr(tree);
}

/// The field of this name, if one of these kinds of events carries it.
pub(super) fn carried_field(name: &str, kinds: KindSet, place: &Place) -> Result<Field, RuleError> {
    find_field(name, kinds).map_err(|kind| place.error(kind))
}

fn find_field(name: &str, kinds: KindSet) -> Result<Field, RuleErrorKind> {
    let field = Field::from_name(name).ok_or_else(|| RuleErrorKind::Unknown {
        what: "field",
        name: name.to_owned(),
        suggestion: nearest(name, Field::TABLE.iter().map(|def| def.name)).map(str::to_owned),
        known: Vec::new(),
    })?;
    if kinds.is_empty() || field.def().kinds.iter().any(|kind| kinds.contains(*kind)) {
        Ok(field)
    } else {
        Err(RuleErrorKind::NotCarried { field, kinds: kinds.iter().collect() })
    }
}

/// Where a value is written. What that is in the file is found out only where something is wrong: in a long text it
/// takes its time.
#[derive(Clone, Debug)]
enum Spot {
    /// In the text that is being checked.
    Here(Span),
    /// In a list.
    Listed(Place),
}

struct Checker<'a> {
    definitions: &'a Definitions,
    kinds: KindSet,
    /// What is being checked: the rule's condition, or the macro that stands in it.
    text: &'a Text,
    /// The macros that one is in.
    open: Vec<String>,
    /// Whether it is a macro by itself.
    alone: bool,
    /// How many parts more there may be.
    parts: usize,
    errors: &'a mut Vec<RuleError>,
}

/// What an expression is where there is none.
const WRONG: Expr = Expr::Literal(false);

impl<'a> Checker<'a> {
    fn error(&mut self, span: &Span, kind: RuleErrorKind) -> Expr {
        self.errors.push(self.text.at(span).error(kind));
        WRONG
    }

    /// Takes so much of the layer's room; says so, once, where there is none.
    fn take(&mut self, span: &Span, weight: usize) -> Option<()> {
        if self.definitions.take(weight) {
            return Some(());
        }
        if !self.errors.iter().any(|error| matches!(error.kind(), RuleErrorKind::NoRoom)) {
            self.error(span, RuleErrorKind::NoRoom);
        }
        None
    }

    fn error_at(&mut self, spot: &Spot, kind: RuleErrorKind) {
        let place = match spot {
            Spot::Here(span) => self.text.at(span),
            Spot::Listed(place) => place.clone(),
        };
        self.errors.push(place.error(kind));
    }

    fn field(&mut self, name: &Name) -> Option<Field> {
        find_field(&name.text, self.kinds).map_err(|kind| self.error(&name.span, kind)).ok()
    }

    fn expr(&mut self, node: &Node) -> Expr {
        match self.parts.checked_sub(1) {
            Some(parts) => self.parts = parts,
            None => {
                let said = self.errors.iter().any(|error| matches!(error.kind(), RuleErrorKind::TooLarge(_)));
                return if said { WRONG } else { self.error(&node.span, RuleErrorKind::TooLarge("large")) };
            }
        }
        if self.take(&node.span, PART).is_none() {
            return WRONG;
        }
        match &node.kind {
            NodeKind::And(parts) => Expr::all(parts.iter().map(|part| self.expr(part)).collect()),
            NodeKind::Or(parts) => Expr::any(parts.iter().map(|part| self.expr(part)).collect()),
            NodeKind::Not(inner) => Expr::Not(Box::new(self.expr(inner))),
            NodeKind::Literal(value) => Expr::Literal(*value),
            NodeKind::Macro(name) => self.expand(name, &node.span),
            NodeKind::Exists(name) => self.field(name).map_or(WRONG, Expr::Exists),
            NodeKind::Bare(name) => match self.field(name) {
                Some(field) if field.def().ty == Type::Boolean => Expr::Holds(field),
                Some(field) => {
                    let message =
                        format!("`{}` is not true or false, so it is no condition", field.def().name);
                    let help = "compare it with something, or ask whether it is there: exists(...)";
                    self.error(&name.span, RuleErrorKind::Conflict { message, help })
                }
                None => WRONG,
            },
            NodeKind::Test(name, test) => self.test(name, test),
            NodeKind::Any(name, test) => self.quantified(name, test, true),
            NodeKind::All(name, test) => self.quantified(name, test, false),
        }
    }

    fn expand(&mut self, name: &str, span: &Span) -> Expr {
        if self.open.iter().any(|open| open == name) {
            return self.error(span, RuleErrorKind::MacroCycle(name.to_owned()));
        }
        let definitions = self.definitions;
        let Some(definition) = definitions.macros.get(name) else {
            let suggestion = nearest(name, definitions.macros.keys().map(String::as_str)).map(str::to_owned);
            let kind = RuleErrorKind::Unknown {
                what: "macro",
                name: name.to_owned(),
                suggestion,
                known: Vec::new(),
            };
            return self.error(span, kind);
        };
        let Some(tree) = &definition.tree else { return WRONG };
        let outer = std::mem::replace(&mut self.text, &definition.text);
        let before = self.errors.len();
        self.open.push(name.to_owned());
        let expr = self.expr(tree);
        self.open.pop();
        self.text = outer;
        // What is wrong with the macro itself is said once, where it is defined. What is wrong only with
        // using it here is said here.
        let place = self.text.at(span);
        let alone = self.alone;
        let inner: Vec<RuleError> = self.errors.drain(before..).collect();
        self.errors.extend(inner.into_iter().filter_map(|error| match error.kind() {
            RuleErrorKind::NotCarried { .. }
            | RuleErrorKind::TooLarge(_)
            | RuleErrorKind::NoRoom
            | RuleErrorKind::NoRegex => Some(place.error(error.kind().clone())),
            RuleErrorKind::MacroCycle(_) if alone => Some(error),
            _ => None,
        }));
        expr
    }

    fn quantified(&mut self, name: &Name, test: &Test, any: bool) -> Expr {
        let Some(field) = self.field(name) else { return WRONG };
        if field.def().ty != Type::Keywords {
            let message = format!("`{}` is not a list of texts", field.def().name);
            let help = "any() and all() are for lists; write the test without them";
            return self.error(&name.span, RuleErrorKind::Conflict { message, help });
        }
        if self.take(&name.span, EACH).is_none() {
            return WRONG;
        }
        let Some((negated, test)) = self.text_test(field, test) else { return WRONG };
        if any { Expr::Any { field, negated, test } } else { Expr::All { field, negated, test } }
    }

    fn test(&mut self, name: &Name, test: &Test) -> Expr {
        let Some(field) = self.field(name) else { return WRONG };
        let expr = match field.def().ty {
            Type::Keyword => {
                if field == Field::EventAction {
                    self.event_kinds(test);
                }
                self.text_test(field, test).map(|(negated, test)| Expr::Text { field, negated, test })
            }
            Type::Integer => {
                self.integer_test(field, test).map(|(negated, test)| Expr::Integer { field, negated, test })
            }
            Type::Ip => self.ip_test(field, test).map(|(negated, test)| Expr::Ip { field, negated, test }),
            Type::Boolean | Type::Keywords => {
                self.bad_operator(field, test);
                None
            }
        };
        expr.unwrap_or(WRONG)
    }

    fn bad_operator(&mut self, field: Field, test: &Test) {
        let kind = RuleErrorKind::BadOperator { operator: test.operator.name(), field };
        self.error(&test.operator_span, kind);
    }

    /// The values of a test, with those of its lists in the lists' stead. The operator decides whether there
    /// may be several.
    fn values(&mut self, test: &Test) -> Option<Vec<(Operand, Spot)>> {
        let takes_one = matches!(
            test.operator,
            Operator::Equal
                | Operator::NotEqual
                | Operator::Less
                | Operator::LessOrEqual
                | Operator::Greater
                | Operator::GreaterOrEqual
        );
        let takes_list = matches!(test.operator, Operator::In | Operator::InCidr);
        if takes_one == test.list && (takes_one || takes_list) || (takes_list && !test.list) {
            let (message, help) = if takes_one {
                (
                    format!("`{}` compares with one value, this is a list", test.operator.name()),
                    "use `in` for a list",
                )
            } else {
                (
                    format!("`{}` takes a list, this is one value", test.operator.name()),
                    "write @list or [\"...\"]",
                )
            };
            self.error(&test.operator_span, RuleErrorKind::Conflict { message, help });
            return None;
        }
        let mut values = Vec::new();
        for (operand, span) in &test.values {
            match operand {
                Operand::List(name) => values.extend(self.list(name, span)?),
                other => {
                    self.take(span, PART + weight(other))?;
                    values.push((other.clone(), Spot::Here(span.clone())));
                }
            }
        }
        if values.is_empty() {
            self.error(&test.operator_span, RuleErrorKind::Empty("this list"));
            return None;
        }
        Some(values)
    }

    fn list(&mut self, name: &str, span: &Span) -> Option<Vec<(Operand, Spot)>> {
        let definitions = self.definitions;
        if let Some(list) = definitions.lists.get(name) {
            self.take(span, list.values.iter().map(|(value, _)| weight(value)).sum())?;
            let listed =
                list.values.iter().map(|(value, place)| (value.clone(), Spot::Listed(place.clone())));
            return (!list.values.is_empty()).then(|| listed.collect());
        }
        let suggestion = nearest(name, definitions.lists.keys().map(String::as_str)).map(str::to_owned);
        let kind =
            RuleErrorKind::Unknown { what: "list", name: name.to_owned(), suggestion, known: Vec::new() };
        self.error(span, kind);
        None
    }

    /// Turns every value into what the field takes, or says which one is of another type.
    fn typed<T>(
        &mut self,
        field: Field,
        test: &Test,
        convert: impl Fn(&Operand, &Spot) -> Result<Option<T>, RuleErrorKind>,
    ) -> Option<Vec<T>> {
        let mut typed = Vec::new();
        let mut wrong = false;
        for (operand, spot) in self.values(test)? {
            match convert(&operand, &spot) {
                Ok(Some(value)) => typed.push(value),
                Ok(None) => {
                    let found = match operand {
                        Operand::Text(text) => format!("\"{text}\""),
                        Operand::Number(number) => number.to_string(),
                        Operand::Boolean(value) => value.to_string(),
                        Operand::List(name) => format!("@{name}"),
                    };
                    self.error_at(&spot, RuleErrorKind::TypeMismatch { field, found });
                    wrong = true;
                }
                Err(kind) => {
                    self.error_at(&spot, kind);
                    wrong = true;
                }
            }
        }
        (!wrong).then_some(typed)
    }

    fn text_test(&mut self, field: Field, test: &Test) -> Option<(bool, TextTest)> {
        use Operator::*;
        if matches!(test.operator, Less | LessOrEqual | Greater | GreaterOrEqual | InCidr) {
            self.bad_operator(field, test);
            return None;
        }
        let part = matches!(test.operator, Contains | IContains | StartsWith | EndsWith);
        let mut texts = self.typed(field, test, |operand, spot| match operand {
            Operand::Text(text) if text.is_empty() && part => Err(RuleErrorKind::Conflict {
                message: format!("every text `{}` the empty one", test.operator.name()),
                help: "write what to look for",
            }),
            Operand::Text(text) => Ok(Some((text.clone().into_boxed_str(), spot.clone()))),
            _ => Ok(None),
        })?;
        if matches!(test.operator, StartsWith | EndsWith) {
            self.take(&test.operator_span, texts.len() * END)?;
        }
        let strings =
            |texts: Vec<(Box<str>, Spot)>| texts.into_iter().map(|(text, _)| text).collect::<Box<[_]>>();
        let compiled = match (test.operator, texts.as_mut_slice()) {
            (Equal | NotEqual | In, [(text, _)]) => TextTest::Equal(std::mem::take(text)),
            (StartsWith, _) => TextTest::StartsWith(strings(texts)),
            (EndsWith, _) => TextTest::EndsWith(strings(texts)),
            (Contains | IContains, _) => TextTest::Contains(self.needles(
                strings(texts),
                test.operator == IContains,
                &test.operator_span,
            )?),
            (Glob, _) => TextTest::Glob(self.globs(&texts, &test.operator_span)?),
            (Regex, _) if !self.definitions.regexes => {
                self.error(&test.operator_span, RuleErrorKind::NoRegex);
                return None;
            }
            (Regex, _) => {
                for (text, spot) in &texts {
                    if let Err(kind) = build_regex(text) {
                        self.error_at(spot, kind);
                        return None;
                    }
                }
                let pattern = match texts.as_slice() {
                    [(text, _)] => text.to_string(),
                    _ => texts.iter().map(|(text, _)| format!("(?:{text})")).collect::<Vec<_>>().join("|"),
                };
                TextTest::Regex(self.regex(&pattern, &test.operator_span)?)
            }
            _ => {
                let mut values = strings(texts);
                values.sort_unstable();
                TextTest::OneOf(values)
            }
        };
        Some((test.negated != (test.operator == NotEqual), compiled))
    }

    fn needles(&mut self, texts: Box<[Box<str>]>, any_case: bool, span: &Span) -> Option<Needles> {
        self.take(span, SEARCH + texts.iter().map(|text| text.len() * NEEDLE).sum::<usize>())?;
        let automaton =
            AhoCorasick::builder().ascii_case_insensitive(any_case).build(texts.iter().map(|text| &**text));
        match automaton {
            Ok(automaton) => Some(Needles { texts, any_case, automaton }),
            Err(_) => {
                self.error(span, RuleErrorKind::TooLarge("large"));
                None
            }
        }
    }

    fn regex(&mut self, pattern: &str, span: &Span) -> Option<Regex> {
        self.take(span, PATTERN)?;
        build_regex(pattern).map_err(|kind| self.error(span, kind)).ok()
    }

    /// Globs as one regular expression, which is found out about in one pass however many they are.
    fn globs(&mut self, patterns: &[(Box<str>, Spot)], span: &Span) -> Option<Globs> {
        self.take(span, SEARCH + patterns.iter().map(|(pattern, _)| pattern.len() * NEEDLE).sum::<usize>())?;
        let mut all = Vec::new();
        for (pattern, spot) in patterns {
            match GlobBuilder::new(pattern).literal_separator(true).build() {
                Ok(glob) => all.push(format!("(?:{})", glob.regex())),
                Err(error) => {
                    let help =
                        format!("{}; `*` stays within a part of a path, `**` crosses them", error.kind());
                    let text = pattern.to_string();
                    self.error_at(spot, RuleErrorKind::BadValue { what: "glob", text, help });
                    return None;
                }
            }
        }
        let mut builder = bytes::RegexBuilder::new(&all.join("|"));
        let built =
            builder.dot_matches_new_line(true).size_limit(REGEX_LIMIT).dfa_size_limit(REGEX_LIMIT).build();
        let regex =
            built.map_err(|error| self.error(span, bad_regex("glob", &all.join("|"), &error))).ok()?;
        Some(Globs { patterns: patterns.iter().map(|(pattern, _)| pattern.clone()).collect(), regex })
    }

    fn integer_test(&mut self, field: Field, test: &Test) -> Option<(bool, IntegerTest)> {
        use Operator::*;
        if !matches!(test.operator, Equal | NotEqual | Less | LessOrEqual | Greater | GreaterOrEqual | In) {
            self.bad_operator(field, test);
            return None;
        }
        let mut numbers = self.typed(field, test, |operand, _| match operand {
            Operand::Number(number) => Ok(Some(*number)),
            _ => Ok(None),
        })?;
        let compiled = match (test.operator, numbers.as_slice()) {
            (Less, [number]) => IntegerTest::Less(*number),
            (LessOrEqual, [number]) => IntegerTest::LessOrEqual(*number),
            (Greater, [number]) => IntegerTest::Greater(*number),
            (GreaterOrEqual, [number]) => IntegerTest::GreaterOrEqual(*number),
            (_, [number]) => IntegerTest::Equal(*number),
            _ => {
                numbers.sort_unstable();
                IntegerTest::OneOf(numbers.into())
            }
        };
        Some((test.negated != (test.operator == NotEqual), compiled))
    }

    fn ip_test(&mut self, field: Field, test: &Test) -> Option<(bool, IpTest)> {
        use Operator::*;
        let bad = |what, text: &str, help: &str| RuleErrorKind::BadValue {
            what,
            text: text.to_owned(),
            help: help.to_owned(),
        };
        let compiled = match test.operator {
            Equal | NotEqual | In => IpTest::OneOf(
                self.typed(field, test, |operand, _| match operand {
                    Operand::Text(text) => match text.parse::<IpAddr>() {
                        Ok(address) => Ok(Some(address.to_canonical())),
                        Err(_) if text.contains('/') => {
                            Err(bad("address", text, "a network is tested with `in cidr [...]`"))
                        }
                        Err(_) => Err(bad("address", text, "write one like 192.0.2.1 or 2001:db8::1")),
                    },
                    _ => Ok(None),
                })?
                .into(),
            ),
            InCidr => IpTest::Within(
                self.typed(field, test, |operand, _| match operand {
                    Operand::Text(text) => text
                        .parse::<IpNet>()
                        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                        .map(Some)
                        .map_err(|_| bad("network", text, "write one like 10.0.0.0/8 or fd00::/8")),
                    _ => Ok(None),
                })?
                .into(),
            ),
            _ => {
                self.bad_operator(field, test);
                return None;
            }
        };
        Some((test.negated != (test.operator == NotEqual), compiled))
    }

    /// A kind of event that does not exist, or that the rule does not look at, would never be found.
    fn event_kinds(&mut self, test: &Test) {
        if !matches!(test.operator, Operator::Equal | Operator::NotEqual | Operator::In) {
            return;
        }
        for (operand, span) in &test.values {
            let Operand::Text(name) = operand else { continue };
            match find_event_kind(name) {
                Ok(kind) if self.kinds.contains(kind) => {}
                Ok(kind) => {
                    let message = format!("this rule does not look at {kind} events");
                    let help = "add it to the rule's `event`";
                    self.error(span, RuleErrorKind::Conflict { message, help });
                }
                Err(kind) => drop(self.error(span, kind)),
            }
        }
    }
}

/// The kind of event of this name.
pub(super) fn event_kind(name: &str, place: &Place) -> Result<EventKind, RuleError> {
    find_event_kind(name).map_err(|kind| place.error(kind))
}

fn find_event_kind(name: &str) -> Result<EventKind, RuleErrorKind> {
    EventKind::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = EventKind::ALL.into_iter().map(EventKind::name).collect();
        let suggestion = nearest(name, known.iter().copied()).map(str::to_owned);
        RuleErrorKind::Unknown { what: "kind of event", name: name.to_owned(), suggestion, known }
    })
}

/// Of a value in a list.
fn weight(value: &Operand) -> usize {
    match value {
        Operand::Text(text) | Operand::List(text) => 1 + text.len() / 1024,
        Operand::Number(_) | Operand::Boolean(_) => 1,
    }
}

fn build_regex(pattern: &str) -> Result<Regex, RuleErrorKind> {
    let mut builder = RegexBuilder::new(pattern);
    let built = builder.size_limit(REGEX_LIMIT).dfa_size_limit(REGEX_LIMIT).build();
    built.map_err(|error| bad_regex("regular expression", pattern, &error))
}

fn bad_regex(what: &'static str, pattern: &str, error: &regex::Error) -> RuleErrorKind {
    match error {
        regex::Error::CompiledTooBig(limit) => RuleErrorKind::RegexTooLarge { what, limit: *limit },
        other => RuleErrorKind::BadValue {
            what,
            text: pattern.to_owned(),
            // The last line says what is wrong; those before it draw the place, which is marked already.
            help: other
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned(),
        },
    }
}
