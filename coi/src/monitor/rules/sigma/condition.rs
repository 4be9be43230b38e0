//! Sigma's conditions: names of selections, `and`, `or`, `not`, `1 of x*`, `all of them`.

use std::collections::BTreeMap;

use super::{Skipped, detection::Sig};

/// How deep conditions may nest.
const DEPTH: usize = 32;

/// Reads a condition over these selections.
pub(super) fn read(text: &str, selections: &BTreeMap<String, Sig>) -> Result<Sig, Skipped> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, selections, text, depth: 0 };
    let sig = reader.any()?;
    if reader.words.is_empty() { Ok(sig) } else { Err(reader.wrong()) }
}

struct Reader<'a> {
    words: &'a [&'a str],
    selections: &'a BTreeMap<String, Sig>,
    text: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self) -> Skipped {
        Skipped::Condition(self.text.to_owned())
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first().is_some_and(|first| first.eq_ignore_ascii_case(word));
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    fn next(&mut self) -> Result<&'a str, Skipped> {
        let (first, rest) = self.words.split_first().ok_or_else(|| self.wrong())?;
        self.words = rest;
        Ok(first)
    }

    fn any(&mut self) -> Result<Sig, Skipped> {
        let mut parts = vec![self.all()?];
        while self.take("or") {
            parts.push(self.all()?);
        }
        Ok(Sig::or(parts))
    }

    fn all(&mut self) -> Result<Sig, Skipped> {
        let mut parts = vec![self.one()?];
        while self.take("and") {
            parts.push(self.one()?);
        }
        Ok(Sig::and(parts))
    }

    fn one(&mut self) -> Result<Sig, Skipped> {
        if self.depth == DEPTH {
            return Err(self.wrong());
        }
        self.depth += 1;
        let sig = self.nested();
        self.depth -= 1;
        sig
    }

    fn nested(&mut self) -> Result<Sig, Skipped> {
        if self.take("not") {
            return Ok(Sig::Not(Box::new(self.one()?)));
        }
        if self.take("(") {
            let inner = self.any()?;
            return if self.take(")") { Ok(inner) } else { Err(self.wrong()) };
        }
        let word = self.next()?;
        if self.take("of") {
            let pattern = self.next()?;
            let of: Vec<Sig> = self.matching(pattern).cloned().collect();
            return match word.to_ascii_lowercase().as_str() {
                _ if of.is_empty() => Err(self.wrong()),
                "1" | "any" => Ok(Sig::or(of)),
                "all" => Ok(Sig::and(of)),
                _ => Err(self.wrong()),
            };
        }
        self.selections.get(word).cloned().ok_or_else(|| self.wrong())
    }

    /// The selections of `them`, or of a name with stars.
    fn matching(&self, pattern: &str) -> impl Iterator<Item = &'a Sig> {
        let matches = move |name: &str| match pattern.split_once('*') {
            _ if pattern == "them" => !name.starts_with('_'),
            Some((start, end)) => {
                name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
            }
            None => name == pattern,
        };
        let matches = move |(name, _): &(&'a String, &'a Sig)| matches(name);
        self.selections.iter().filter(matches).map(|(_, sig)| sig).collect::<Vec<_>>().into_iter()
    }
}
