//! Words into a tree, each part with its span. The tree says what was written, not whether it makes sense:
//! that is the business of [`check`](super::check).
//!
//! ```text
//! condition  = and { "or" and }
//! and        = unary { "and" unary }
//! unary      = "not" unary | "(" condition ")" | "$" macro | "true" | "false"
//!            | "exists" "(" field ")" | ("any" | "all") "(" field "," test ")"
//!            | field [ test ]
//! test       = ("==" | "!=" | "<" | "<=" | ">" | ">=") value
//!            | [ "not" ] ("in" | "in" "cidr" | "contains" | "icontains" | "starts_with" | "ends_with"
//!                         | "glob" | "regex") values
//! values     = value | "@" list | "[" value-or-list { "," value-or-list } "]"
//! ```

use super::{
    error::{RuleErrorKind, Span},
    lexer::{Token, tokens},
};

/// How deep conditions may nest: far deeper than anyone reads, far shallower than the stack.
const DEPTH: usize = 64;

/// A part of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    pub(super) span: Span,
}

/// What a part of a condition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    /// All of them hold.
    And(Vec<Node>),
    /// One of them holds.
    Or(Vec<Node>),
    /// It does not hold.
    Not(Box<Node>),
    /// `true` or `false`.
    Literal(bool),
    /// A macro stands here.
    Macro(String),
    /// A boolean field holds.
    Bare(Name),
    /// The event has the field.
    Exists(Name),
    /// The field passes the test.
    Test(Name, Test),
    /// A text in the field passes the test.
    Any(Name, Test),
    /// There are texts in the field and all of them pass the test.
    All(Name, Test),
}

/// A field's name as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: String,
    pub(super) span: Span,
}

/// An operator and what it compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) negated: bool,
    pub(super) operator: Operator,
    pub(super) operator_span: Span,
    pub(super) values: Vec<(Operand, Span)>,
    /// Whether they were written as a list.
    pub(super) list: bool,
}

/// What a field is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
    /// `true` or `false`.
    Boolean(bool),
    /// The values of a list.
    List(String),
}

/// The operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    InCidr,
    Contains,
    IContains,
    StartsWith,
    EndsWith,
    Glob,
    Regex,
}

impl Operator {
    /// All of them, as the documentation has them: what they apply to, and when they hold.
    pub(super) const ALL: [(Self, &'static str, &'static str); 14] = [
        (Self::Equal, "keyword, integer, ip", "The field has this value."),
        (Self::NotEqual, "keyword, integer, ip", "The field has another value; it must have one."),
        (Self::Less, "integer", "The number is less."),
        (Self::LessOrEqual, "integer", "The number is not greater."),
        (Self::Greater, "integer", "The number is greater."),
        (Self::GreaterOrEqual, "integer", "The number is not less."),
        (Self::In, "keyword, integer, ip", "The field has one of these values."),
        (Self::InCidr, "ip", "The address is in one of these networks."),
        (Self::Contains, "keyword", "The text has one of these in it."),
        (Self::IContains, "keyword", "The same, whether ASCII letters are large or small."),
        (Self::StartsWith, "keyword", "The text begins with one of these."),
        (Self::EndsWith, "keyword", "The text ends with one of these."),
        (
            Self::Glob,
            "keyword",
            "One of these patterns matches the whole text: `?` is one character, `*` any but `/`, `**/` any directories, `{a,b}` either, `[a-z]` one of them.",
        ),
        (
            Self::Regex,
            "keyword",
            "One of these regular expressions matches somewhere in the text, in linear time.",
        ),
    ];
    const WORDS: [Self; 7] = [
        Self::In,
        Self::Contains,
        Self::IContains,
        Self::StartsWith,
        Self::EndsWith,
        Self::Glob,
        Self::Regex,
    ];
    const SIGNS: [Self; 6] =
        [Self::Equal, Self::NotEqual, Self::Less, Self::LessOrEqual, Self::Greater, Self::GreaterOrEqual];

    /// How it is written.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::InCidr => "in cidr",
            Self::Contains => "contains",
            Self::IContains => "icontains",
            Self::StartsWith => "starts_with",
            Self::EndsWith => "ends_with",
            Self::Glob => "glob",
            Self::Regex => "regex",
        }
    }
}

/// Parses a condition.
pub(super) fn parse(text: &str) -> Result<Node, (RuleErrorKind, Span)> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    let node = parser.condition()?;
    match parser.peek() {
        Token::End => Ok(node),
        _ => Err(parser.unexpected("`and`, `or` or the end of the condition", None)),
    }
}

type Parsed<T> = Result<T, (RuleErrorKind, Span)>;

struct Parser {
    /// Ends with [`Token::End`], which is never passed.
    tokens: Vec<(Token, Span)>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at].0
    }

    fn span(&self) -> Span {
        self.tokens[self.at].1.clone()
    }

    /// Takes the next word, whatever it is.
    fn next(&mut self) -> (Token, Span) {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(next) if next == word);
        if found {
            self.next();
        }
        found
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(next) if *next == sign);
        if found {
            self.next();
        }
        found
    }

    fn expect_sign(&mut self, sign: &'static str) -> Parsed<Span> {
        let span = self.span();
        if self.take_sign(sign) { Ok(span) } else { Err(self.unexpected(&format!("`{sign}`"), None)) }
    }

    fn unexpected(&self, expected: &str, hint: Option<&'static str>) -> (RuleErrorKind, Span) {
        let kind =
            RuleErrorKind::Syntax { expected: expected.to_owned(), found: self.peek().describe(), hint };
        (kind, self.span())
    }

    fn condition(&mut self) -> Parsed<Node> {
        self.chain("or", Self::conjunction, NodeKind::Or)
    }

    fn conjunction(&mut self) -> Parsed<Node> {
        self.chain("and", Self::unary, NodeKind::And)
    }

    /// One or more parts with the same word between them.
    fn chain(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Parsed<Node>,
        join: fn(Vec<Node>) -> NodeKind,
    ) -> Parsed<Node> {
        let first = part(self)?;
        if !matches!(self.peek(), Token::Word(next) if next == word) {
            return Ok(first);
        }
        let start = first.span.start;
        let mut parts = vec![first];
        while self.take_word(word) {
            parts.push(part(self)?);
        }
        let end = parts.last().map_or(start, |last| last.span.end);
        Ok(Node { kind: join(parts), span: start..end })
    }

    fn unary(&mut self) -> Parsed<Node> {
        if self.depth == DEPTH {
            return Err((RuleErrorKind::TooLarge("deep"), self.span()));
        }
        self.depth += 1;
        let node = self.nested();
        self.depth -= 1;
        node
    }

    fn nested(&mut self) -> Parsed<Node> {
        let start = self.span().start;
        if self.take_word("not") {
            let inner = self.unary()?;
            let span = start..inner.span.end;
            return Ok(Node { kind: NodeKind::Not(Box::new(inner)), span });
        }
        if self.take_sign("(") {
            let inner = self.condition()?;
            self.expect_sign(")")?;
            return Ok(inner);
        }
        let (kind, end) = match self.peek().clone() {
            Token::Macro(name) => {
                let (_, span) = self.next();
                (NodeKind::Macro(name), span.end)
            }
            Token::Word(word) => match word.as_str() {
                "true" | "false" => {
                    let (_, span) = self.next();
                    (NodeKind::Literal(word == "true"), span.end)
                }
                "exists" | "any" | "all" => self.call(&word)?,
                "and" | "or" | "in" => return Err(self.unexpected("a field", None)),
                _ => self.field()?,
            },
            Token::Text(_) | Token::Number(_) => {
                return Err(
                    self.unexpected("a field", Some("the field stands on the left: file.name == \"x\""))
                );
            }
            _ => return Err(self.unexpected("a field, `not`, `(` or a macro", None)),
        };
        Ok(Node { kind, span: start..end })
    }

    /// `exists(field)`, `any(field, test)` or `all(field, test)`.
    fn call(&mut self, function: &str) -> Parsed<(NodeKind, usize)> {
        self.next();
        self.expect_sign("(")?;
        let name = self.name()?;
        let kind = if function == "exists" {
            NodeKind::Exists(name)
        } else {
            self.expect_sign(",")?;
            let Some(test) = self.test()? else {
                return Err(
                    self.unexpected("an operator", Some("for example: any(process.args, contains \"x\")"))
                );
            };
            if function == "any" { NodeKind::Any(name, test) } else { NodeKind::All(name, test) }
        };
        let end = self.expect_sign(")")?.end;
        Ok((kind, end))
    }

    fn name(&mut self) -> Parsed<Name> {
        match self.peek() {
            Token::Word(_) => match self.next() {
                (Token::Word(text), span) => Ok(Name { text, span }),
                (_, span) => Ok(Name { text: String::new(), span }),
            },
            _ => Err(self.unexpected("a field", None)),
        }
    }

    fn field(&mut self) -> Parsed<(NodeKind, usize)> {
        let name = self.name()?;
        Ok(match self.test()? {
            Some(test) => {
                let end = self.tokens[self.at - 1].1.end;
                (NodeKind::Test(name, test), end)
            }
            None => {
                let end = name.span.end;
                (NodeKind::Bare(name), end)
            }
        })
    }

    /// An operator and its values, if there is an operator.
    fn test(&mut self) -> Parsed<Option<Test>> {
        let start = self.span();
        let negated = self.take_word("not");
        let operator = match self.peek() {
            Token::Sign(sign) if !negated => {
                Operator::SIGNS.into_iter().find(|operator| operator.name() == *sign)
            }
            Token::Word(word) => Operator::WORDS.into_iter().find(|operator| operator.name() == word),
            _ => None,
        };
        let Some(mut operator) = operator else {
            let foreign = match self.peek() {
                Token::Word(word) => !matches!(word.as_str(), "and" | "or"),
                Token::Text(_) | Token::Number(_) | Token::List(_) => true,
                _ => false,
            };
            if negated || foreign {
                let expected =
                    "an operator: == != < <= > >= in contains icontains starts_with ends_with glob regex";
                return Err(self.unexpected(expected, None));
            }
            return Ok(None);
        };
        let (_, mut span) = self.next();
        if operator == Operator::In && self.take_word("cidr") {
            operator = Operator::InCidr;
            span.end = self.tokens[self.at - 1].1.end;
        }
        let operator_span = start.start..span.end;
        let (values, list) = self.values()?;
        Ok(Some(Test { negated, operator, operator_span, values, list }))
    }

    fn values(&mut self) -> Parsed<(Vec<(Operand, Span)>, bool)> {
        if !self.take_sign("[") {
            let value = self.value()?;
            let list = matches!(value.0, Operand::List(_));
            return Ok((vec![value], list));
        }
        let mut values = Vec::new();
        while !self.take_sign("]") {
            values.push(self.value()?);
            if !self.take_sign(",") {
                self.expect_sign("]")?;
                break;
            }
        }
        Ok((values, true))
    }

    fn value(&mut self) -> Parsed<(Operand, Span)> {
        let operand = match self.peek() {
            Token::Text(text) => Operand::Text(text.clone()),
            Token::Number(number) => Operand::Number(*number),
            Token::List(name) => Operand::List(name.clone()),
            Token::Word(word) if word == "true" || word == "false" => Operand::Boolean(word == "true"),
            Token::Word(_) => return Err(self.unexpected("a value", Some("texts stand in quotes"))),
            _ => return Err(self.unexpected("a value or a list", None)),
        };
        let (_, span) = self.next();
        Ok((operand, span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree with all its parentheses.
    fn show(node: &Node) -> String {
        let many = |parts: &[Node], word: &str| parts.iter().map(show).collect::<Vec<_>>().join(word);
        match &node.kind {
            NodeKind::And(parts) => format!("({})", many(parts, " and ")),
            NodeKind::Or(parts) => format!("({})", many(parts, " or ")),
            NodeKind::Not(inner) => format!("(not {})", show(inner)),
            NodeKind::Literal(value) => value.to_string(),
            NodeKind::Macro(name) => format!("${name}"),
            NodeKind::Bare(name) => name.text.clone(),
            NodeKind::Exists(name) => format!("exists({})", name.text),
            NodeKind::Test(name, test) => format!("{} {}", name.text, show_test(test)),
            NodeKind::Any(name, test) => format!("any({}, {})", name.text, show_test(test)),
            NodeKind::All(name, test) => format!("all({}, {})", name.text, show_test(test)),
        }
    }

    fn show_test(test: &Test) -> String {
        let not = if test.negated { "not " } else { "" };
        let values: Vec<String> = test
            .values
            .iter()
            .map(|(value, _)| match value {
                Operand::Text(text) => format!("{text:?}"),
                Operand::Number(number) => number.to_string(),
                Operand::Boolean(value) => value.to_string(),
                Operand::List(name) => format!("@{name}"),
            })
            .collect();
        let values = if test.list { format!("[{}]", values.join(", ")) } else { values.join("") };
        format!("{not}{} {values}", test.operator.name())
    }

    #[test]
    fn words_bind_as_expected() {
        for (text, tree) in [
            ("a or b and c", "(a or (b and c))"),
            ("(a or b) and c", "((a or b) and c)"),
            ("not a == 1 and b", "((not a == 1) and b)"),
            ("not not a", "(not (not a))"),
            ("not (a or b)", "(not (a or b))"),
            ("a not in ['x', @y]", "a not in [\"x\", @y]"),
            ("a in cidr @nets", "a in cidr [@nets]"),
            ("any(x, not contains 'y')", "any(x, not contains \"y\")"),
            ("all(x, in [])", "all(x, in [])"),
            ("exists(x) or $m", "(exists(x) or $m)"),
            ("a in ['x',]", "a in [\"x\"]"),
            ("true", "true"),
        ] {
            assert_eq!(show(&parse(text).unwrap()), tree, "{text}");
        }
    }

    #[test]
    fn spans_cover_what_they_are_about() {
        let node = parse("a and b == 'x'").unwrap();
        assert_eq!(node.span, 0..14);
        let NodeKind::And(parts) = node.kind else { panic!() };
        assert_eq!(parts[1].span, 6..14);
    }

    #[test]
    fn what_is_no_condition_is_refused_at_its_place() {
        for (text, span) in [
            ("", 0..0),
            ("a and", 5..5),
            ("a b", 2..3),
            ("a == ", 5..5),
            ("a == b", 5..6),
            ("'x' == a", 0..3),
            ("(a", 2..2),
            ("a)", 1..2),
            ("a not == 1", 6..8),
            ("any(a)", 5..6),
            ("any(a, b)", 7..8),
            ("a in ['x' 'y']", 10..13),
            ("exists()", 7..8),
            ("and", 0..3),
        ] {
            let (kind, at) = parse(text).unwrap_err();
            assert_eq!(at, span, "{text}: {kind}");
        }
    }

    #[test]
    fn depth_has_an_end() {
        for text in [format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000)), "not ".repeat(10_000) + "a"] {
            let (kind, _) = parse(&text).unwrap_err();
            assert_eq!(kind, RuleErrorKind::TooLarge("deep"));
        }
        assert!(parse(&("a and ".repeat(10_000) + "a")).is_ok());
    }
}
