//! Conditions into words.

use super::{error::RuleErrorKind, error::Span, quantity};

/// A word of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A field, an operator that is a word, `and`, `or`, `not`, `true`, `false`.
    Word(String),
    /// `@list`
    List(String),
    /// `$macro`
    Macro(String),
    /// A text in quotes.
    Text(String),
    /// A number, perhaps with a unit of size.
    Number(i64),
    /// `( ) [ ] ,` and the comparisons that are signs.
    Sign(&'static str),
    /// There is no more.
    End,
}

impl Token {
    /// How it is called in messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Word(word) => format!("`{word}`"),
            Self::List(name) => format!("`@{name}`"),
            Self::Macro(name) => format!("`${name}`"),
            Self::Text(text) => format!("\"{text}\""),
            Self::Number(number) => format!("`{number}`"),
            Self::Sign(sign) => format!("`{sign}`"),
            Self::End => "the end of the condition".to_owned(),
        }
    }
}

/// Longer signs before those they begin with.
const SIGNS: &[&str] = &["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ","];

/// What people write instead, and what it is here.
const FOREIGN: &[(&str, &str)] = &[
    ("=~", "match with `regex '...'`"),
    ("~=", "match with `regex '...'`"),
    ("=", "compare with `==`"),
    ("&&", "write `and`"),
    ("||", "write `or`"),
    ("!", "write `not`"),
];

/// Splits a condition into words. The last one is [`Token::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, Span)>, (RuleErrorKind, Span)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else {
            tokens.push((Token::End, at..at));
            return Ok(tokens);
        };
        let (token, length) = if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Token::Sign(sign), sign.len())
        } else {
            match first {
                '"' | '\'' => {
                    quoted(rest, first).map_err(|(kind, span)| (kind, at + span.start..at + span.end))?
                }
                '@' => (Token::List(word(&rest[1..]).to_owned()), 1 + word(&rest[1..]).len()),
                '$' => (Token::Macro(word(&rest[1..]).to_owned()), 1 + word(&rest[1..]).len()),
                '-' | '0'..='9' => {
                    let length = 1 + word(&rest[1..]).len();
                    let number = number(&rest[..length])
                        .ok_or_else(|| (bad_number(&rest[..length]), at..at + length))?;
                    (Token::Number(number), length)
                }
                _ if !word(rest).is_empty() => (Token::Word(word(rest).to_owned()), word(rest).len()),
                _ => return Err(foreign(rest, first, at)),
            }
        };
        tokens.push((token, at..at + length));
        at += length;
    }
}

/// The word at the beginning of the text; it may be empty.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c))).unwrap_or(text.len());
    &text[..end]
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok().or_else(|| i64::try_from(quantity::size(text)?).ok())
}

fn bad_number(text: &str) -> RuleErrorKind {
    RuleErrorKind::BadValue {
        what: "number",
        text: text.to_owned(),
        help: "write a whole number, or a size such as 50MiB".to_owned(),
    }
}

fn foreign(rest: &str, first: char, at: usize) -> (RuleErrorKind, Span) {
    let (found, hint) = match FOREIGN.iter().find(|(sign, _)| rest.starts_with(sign)) {
        Some((sign, hint)) => (*sign, Some(*hint)),
        None => (&rest[..first.len_utf8()], None),
    };
    let kind = RuleErrorKind::Syntax {
        expected: "a field, an operator or a value".to_owned(),
        found: format!("`{}`", found.escape_debug()),
        hint,
    };
    (kind, at..at + found.len())
}

/// A text in quotes and how long it is with them. In single quotes a backslash is a backslash; in double
/// quotes it may stand before a quote or a backslash, and nowhere else, so that nobody's `\d` is lost.
fn quoted(rest: &str, quote: char) -> Result<(Token, usize), (RuleErrorKind, Span)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok((Token::Text(text), i + 1)),
            '\\' if quote == '"' => match chars.next() {
                Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                _ => {
                    let kind = RuleErrorKind::Syntax {
                        expected: "`\\\"` or `\\\\`".to_owned(),
                        found: "another backslash".to_owned(),
                        hint: Some("in single quotes a backslash is a backslash"),
                    };
                    return Err((kind, i..i + 1));
                }
            },
            _ => text.push(c),
        }
    }
    let kind = RuleErrorKind::Syntax {
        expected: format!("a closing {quote}"),
        found: "the end of the condition".to_owned(),
        hint: None,
    };
    Err((kind, 0..rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Token> {
        tokens(text).unwrap().into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn every_kind_of_word_is_told() {
        assert_eq!(
            words("process.name in @shells\n and(x>=-5) $m 50MiB"),
            [
                Token::Word("process.name".into()),
                Token::Word("in".into()),
                Token::List("shells".into()),
                Token::Word("and".into()),
                Token::Sign("("),
                Token::Word("x".into()),
                Token::Sign(">="),
                Token::Number(-5),
                Token::Sign(")"),
                Token::Macro("m".into()),
                Token::Number(50 << 20),
                Token::End,
            ]
        );
    }

    #[test]
    fn quotes_keep_what_is_in_them() {
        assert_eq!(words(r#"'a\d"'"#)[0], Token::Text(r#"a\d""#.into()));
        assert_eq!(words(r#""a\"\\é""#)[0], Token::Text(r#"a"\é"#.into()));
    }

    #[test]
    fn other_languages_are_translated() {
        for (text, hint) in
            [("a = 1", "`==`"), ("a && b", "`and`"), ("!a", "`not`"), ("a =~ 'x'", "`regex '...'`")]
        {
            let (kind, _) = tokens(text).unwrap_err();
            let RuleErrorKind::Syntax { hint: Some(said), .. } = kind else { panic!("{text}: {kind:?}") };
            assert!(said.contains(hint), "{text}: {said}");
        }
    }

    #[test]
    fn broken_words_are_errors_at_their_place() {
        for (text, span) in [("a == \"x", 5..7), (r#"a == "\d""#, 6..7), ("a == 5x", 5..7), ("a == é", 5..7)]
        {
            assert_eq!(tokens(text).unwrap_err().1, span, "{text}");
        }
    }
}
