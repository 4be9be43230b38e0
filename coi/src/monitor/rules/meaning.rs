//! What rules mean, as a text: sets that judge differently have different texts.
//!
//! It promises that nothing that decides about an alert, or about what is done about it, is left out; and that what
//! decides nothing (titles, descriptions, messages, tests, comments, the order of files) changes nothing. Conditions are
//! as they were written, with the lists and macros of the set beside them.

use std::fmt::{self, Write as _};

use super::{
    check::Condition,
    model::{KindSet, Measure, Pattern, Rule, RuleSet, Step, Suppress, Threshold, Unless},
};
use crate::monitor::event::{EventKind, Field};

impl RuleSet {
    /// The text of the rules that are enabled.
    pub fn meaning(&self) -> String {
        let lists = self.definitions().lists.iter().map(|(name, list)| {
            let values: Vec<_> = list.values.iter().map(|(value, _)| value.to_string()).collect();
            format!("list {name} {values:?}\n")
        });
        let macros =
            self.definitions().macros.iter().filter_map(|(name, written)| {
                written.tree.as_ref().map(|tree| format!("macro {name} {tree}\n"))
            });
        let rules = self.rules().iter().filter(|rule| rule.enabled).map(|rule| rule.meaning());
        let mut all: Vec<String> = lists.chain(macros).chain(rules).collect();
        all.sort_unstable();
        all.concat()
    }
}

impl Rule {
    fn meaning(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_meaning(&mut text);
        text
    }

    fn write_meaning(&self, to: &mut String) -> fmt::Result {
        writeln!(to, "rule {} {} {}", self.id, self.severity, self.action())?;
        for Step { name, kinds: of, condition, thresholds } in &self.steps {
            writeln!(to, " step {name} {} {}", kinds(*of), written(condition))?;
            for Threshold { name, measure, at_least } in thresholds {
                let measure = match measure {
                    Measure::Count => "count".to_owned(),
                    Measure::Sum(field) => format!("sum {}", field.def().name),
                    Measure::Distinct(field) => format!("distinct {}", field.def().name),
                };
                writeln!(to, "  threshold {name:?} {measure} {at_least}")?;
            }
        }
        if let Some(Pattern { within, by, ordered, unless, again }) = &self.pattern {
            writeln!(to, " within {within} by {} ordered {ordered} again {again}", names(by))?;
            if let Some(Unless { kinds: of, condition }) = unless {
                writeln!(to, " unless {} {}", kinds(*of), written(condition))?;
            }
        }
        let Suppress { time, by } = &self.suppress;
        writeln!(to, " suppress {time} by {}", names(by))?;
        for exception in self.exceptions.iter().filter(|exception| !exception.expired) {
            writeln!(to, " except {}", written(&exception.condition))?;
        }
        Ok(())
    }
}

fn written(condition: &Condition) -> String {
    format!("{} {}", kinds(condition.kinds), condition.written.tree)
}

fn kinds(kinds: KindSet) -> String {
    kinds.iter().map(EventKind::name).collect::<Vec<_>>().join(",")
}

fn names(fields: &[Field]) -> String {
    fields.iter().map(|field| field.def().name).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jiff::civil::date;

    use super::*;
    use crate::monitor::rules::Source;

    const RULE: &str = "[lists]\nshells = ['sh']\n[macros]\nshell = \"process.name in @shells\"\n\
                        [[rule]]\nid = 'r'\ntitle = 't'\nseverity = 'warning'\nevent = 'exec'\n\
                        condition = \"$shell and process.args_count > 1\"\n\
                        window = { over = '10s', by = ['process.user.id'], at_least = 3 }\n\
                        exceptions = [{ condition = \"process.name == 'x'\", reason = 'r' }]\n\
                        suppress = { for = '5s' }\n";

    fn meaning(text: &str) -> String {
        let source = Source { name: "r.toml".into(), text: text.into() };
        RuleSet::compile(&[source], date(2026, 7, 1)).unwrap().meaning()
    }

    #[test]
    fn what_decides_is_in_it() {
        let changes = [
            ("['sh']", "['sh', 'zsh']"),
            ("process.name in @shells", "not process.name in @shells"),
            ("'r'\ntitle", "'s'\ntitle"),
            ("'warning'", "'high'"),
            ("'exec'", "['exec', 'exit']"),
            ("> 1", "> 2"),
            ("'10s'", "'11s'"),
            ("process.user.id", "process.name"),
            ("at_least = 3", "at_least = 4"),
            ("== 'x'", "== 'y'"),
            ("'5s'", "'6s'"),
        ];
        let mut all = HashSet::from([meaning(RULE)]);
        for (from, to) in changes {
            assert!(RULE.contains(from), "{from}");
            assert!(all.insert(meaning(&RULE.replacen(from, to, 1))), "{from} -> {to} is not seen");
        }
    }

    #[test]
    fn what_decides_nothing_is_not() {
        for (from, to) in
            [("title = 't'", "title = 'u'"), ("[[rule]]", "# a word\n[[rule]]"), (" and ", "  and ")]
        {
            assert_eq!(meaning(&RULE.replacen(from, to, 1)), meaning(RULE), "{from} -> {to}");
        }
        assert_eq!(
            meaning(&RULE.replacen("[[rule]]\n", "[[rule]]\nenabled = false\n", 1)).matches("rule ").count(),
            0
        );
    }
}
