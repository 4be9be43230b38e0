//! What can be used as it is and yet is hardly meant: lists that nothing uses, rules that never fire, that another
//! one makes needless, or that no program feeds.
//!
//! It promises no false word rather than every true one: what it says is so, what it does not say may still be.

use std::collections::BTreeSet;

use super::{
    check::Definitions,
    error::{RuleError, RuleErrorKind},
    eval::{Expr, IntegerTest, TextTest},
    model::{At, Exception, KindSet, Rule, RuleSet},
    parser::{Node, NodeKind, Operand, Test},
};

impl RuleSet {
    /// What of these rules is hardly meant, in the order of the files. `programs` are those that the daemon's status
    /// lists, where there is a daemon to ask.
    pub fn lint(&self, programs: Option<&[String]>) -> Vec<RuleError> {
        let mut found = unused(self);
        for rule in self.rules() {
            found.extend(unreachable(rule));
            found.extend(rule.exceptions.iter().filter_map(|exception| excepted(rule, exception)));
            found.extend(programs.into_iter().flat_map(|programs| unprovided(rule, programs)));
            found.extend(self.shadowed(rule));
        }
        found
    }

    fn shadowed(&self, rule: &Rule) -> Option<RuleError> {
        let condition = rule.plain().filter(|_| rule.enabled)?;
        let by = self.rules().iter().find(|other| {
            let plain = other.plain().filter(|_| other.enabled && other.exceptions.is_empty());
            // Of two that say the same, the later one is needless.
            let same = |a: &Rule, b: &Rule| b.plain().zip(a.plain()).is_some_and(|(b, a)| implies(b, a));
            other.id != rule.id
                && other.action().replaces(rule.action())
                && other.kinds.union(rule.kinds) == other.kinds
                && plain.is_some_and(|plain| implies(condition, plain))
                && !(same(rule, other) && self.before(rule, other) && rule.action() == other.action())
        })?;
        Some(rule.place.error(RuleErrorKind::Shadowed {
            rule: rule.id.clone(),
            by: by.id.clone(),
            action: by.action().name(),
        }))
    }

    fn before(&self, rule: &Rule, other: &Rule) -> bool {
        let at = |id: &str| self.rules().iter().position(|rule| rule.id == id);
        at(&rule.id) < at(&other.id)
    }
}

impl Rule {
    /// The condition of a rule that fires on single events.
    fn plain(&self) -> Option<&Expr> {
        match (&self.pattern, self.steps.as_slice()) {
            (None, [step]) => Some(&step.condition.expr),
            _ => None,
        }
    }

    /// Every condition in it, those of exceptions too.
    fn trees(&self) -> impl Iterator<Item = &Node> {
        let unless = self.condition(At::Unless);
        let steps = self.steps.iter().map(|step| &step.condition).chain(unless);
        let exceptions = self.exceptions.iter().map(|exception| &exception.condition);
        steps.chain(exceptions).map(|condition| &condition.written.tree)
    }
}

fn unused(rules: &RuleSet) -> Vec<RuleError> {
    let definitions = rules.definitions();
    let mut used = Used::default();
    rules.rules().iter().flat_map(|rule| rule.trees()).for_each(|tree| used.note(tree, definitions));
    let lists = definitions.lists.iter().map(|(name, list)| ("list", name, &list.place));
    let macros = definitions.macros.iter().map(|(name, text)| ("macro", name, &text.text.place));
    let mut found: Vec<RuleError> = lists
        .filter(|(_, name, _)| !used.lists.contains(name.as_str()))
        .chain(macros.filter(|(_, name, _)| !used.macros.contains(name.as_str())))
        .map(|(what, name, place)| place.error(RuleErrorKind::Unused { what, name: name.clone() }))
        .collect();
    found.sort_by(|a, b| (a.file(), a.start()).cmp(&(b.file(), b.start())));
    found
}

/// The names that conditions use.
#[derive(Default)]
struct Used<'a> {
    lists: BTreeSet<&'a str>,
    macros: BTreeSet<&'a str>,
}

impl<'a> Used<'a> {
    fn note(&mut self, tree: &'a Node, definitions: &'a Definitions) {
        match &tree.kind {
            NodeKind::And(parts) | NodeKind::Or(parts) => {
                parts.iter().for_each(|part| self.note(part, definitions));
            }
            NodeKind::Not(inner) => self.note(inner, definitions),
            NodeKind::Macro(name) => {
                // A name that was there before has been followed before.
                if let Some(tree) = definitions.macros.get(name).and_then(|found| found.tree.as_ref())
                    && self.macros.insert(name)
                {
                    self.note(tree, definitions);
                }
            }
            NodeKind::Test(_, test) | NodeKind::Any(_, test) | NodeKind::All(_, test) => {
                self.note_lists(test);
            }
            NodeKind::Literal(_) | NodeKind::Bare(_) | NodeKind::Exists(_) => {}
        }
    }

    fn note_lists(&mut self, test: &'a Test) {
        self.lists.extend(test.values.iter().filter_map(|(value, _)| match value {
            Operand::List(name) => Some(name.as_str()),
            _ => None,
        }));
    }
}

fn unreachable(rule: &Rule) -> Option<RuleError> {
    // Of an unordered sequence, too, every step is needed.
    let step = rule.steps.iter().find(|step| never(&step.condition.expr))?;
    let place = &step.condition.written.text.place;
    Some(place.error(RuleErrorKind::Unreachable(rule.id.clone())))
}

fn excepted(rule: &Rule, exception: &Exception) -> Option<RuleError> {
    let about = if never(&exception.condition.expr) {
        ("no event at all", "it changes nothing".to_owned())
    } else if rule.steps.iter().all(|step| implies(&step.condition.expr, &exception.condition.expr)) {
        ("every event the rule looks for", format!("the rule `{}` never fires", rule.id))
    } else {
        return None;
    };
    let (about, so) = about;
    Some(exception.condition.written.text.place.error(RuleErrorKind::Exception { about, so }))
}

fn unprovided(rule: &Rule, programs: &[String]) -> Option<RuleError> {
    let provided = |kinds: KindSet| {
        kinds
            .iter()
            .any(|kind| kind.programs().iter().any(|name| programs.iter().any(|program| program == name)))
    };
    let step = rule.steps.iter().find(|step| !provided(step.kinds))?;
    Some(rule.place.error(RuleErrorKind::NotProvided { kinds: step.kinds.iter().collect() }))
}

/// Whether it is plain that no event meets the condition.
fn never(condition: &Expr) -> bool {
    match condition {
        Expr::Literal(value) => !value,
        Expr::Not(inner) => always(inner),
        Expr::Or(parts) => parts.iter().all(never),
        Expr::And(parts) => {
            parts.iter().any(never)
                || parts.iter().enumerate().any(|(i, a)| parts[..i].iter().any(|b| exclude(a, b)))
        }
        _ => false,
    }
}

/// Whether it is plain that every event meets it.
fn always(condition: &Expr) -> bool {
    match condition {
        Expr::Literal(value) => *value,
        Expr::Not(inner) => never(inner),
        Expr::Or(parts) => parts.iter().any(always),
        Expr::And(parts) => parts.iter().all(always),
        _ => false,
    }
}

/// Whether it is plain that no event meets both.
fn exclude(a: &Expr, b: &Expr) -> bool {
    match (a, b) {
        (Expr::Not(inner), other) | (other, Expr::Not(inner)) if implies(other, inner) => true,
        (Expr::Text { field, negated: false, test: known }, Expr::Text { field: same, negated, test })
        | (Expr::Text { field, negated, test }, Expr::Text { field: same, negated: false, test: known })
            if field == same && known.values().is_some() =>
        {
            known.values().into_iter().flatten().all(|value| test.passes(value) == *negated)
        }
        (
            Expr::Integer { field, negated: false, test: a },
            Expr::Integer { field: same, negated: false, test: b },
        ) if field == same => {
            let ((low, high), (least, most)) = (bounds(a), bounds(b));
            low > most || least > high
        }
        _ => false,
    }
}

/// Whether it is plain that every event that meets `a` meets `b`.
fn implies(a: &Expr, b: &Expr) -> bool {
    if always(b) || never(a) {
        return true;
    }
    match (a, b) {
        (Expr::Or(parts), b) => parts.iter().all(|part| implies(part, b)),
        (a, Expr::And(parts)) => parts.iter().all(|part| implies(a, part)),
        (a, Expr::Or(parts)) if parts.iter().any(|part| implies(a, part)) => true,
        (Expr::And(parts), b) => parts.iter().any(|part| implies(part, b)),
        (Expr::Not(a), Expr::Not(b)) => implies(b, a),
        (Expr::Exists(a), Expr::Exists(b)) | (Expr::Holds(a), Expr::Holds(b)) => a == b,
        (Expr::Text { field: a, negated: false, test: known }, Expr::Text { field: b, negated, test })
            if a == b && known.values().is_some() =>
        {
            known.values().into_iter().flatten().all(|value| test.passes(value) != *negated)
        }
        (
            Expr::Text { field: a, negated: not_a, test: known },
            Expr::Text { field: b, negated: not_b, test },
        )
        | (
            Expr::Any { field: a, negated: not_a, test: known },
            Expr::Any { field: b, negated: not_b, test },
        )
        | (
            Expr::All { field: a, negated: not_a, test: known },
            Expr::All { field: b, negated: not_b, test },
        ) => a == b && not_a == not_b && known.same(test),
        _ => false,
    }
}

/// The least and the greatest number that pass.
fn bounds(test: &IntegerTest) -> (i64, i64) {
    match test {
        IntegerTest::Equal(value) => (*value, *value),
        IntegerTest::Less(value) => (i64::MIN, value.saturating_sub(1)),
        IntegerTest::LessOrEqual(value) => (i64::MIN, *value),
        IntegerTest::Greater(value) => (value.saturating_add(1), i64::MAX),
        IntegerTest::GreaterOrEqual(value) => (*value, i64::MAX),
        IntegerTest::OneOf(values) => {
            (values.first().copied().unwrap_or(i64::MIN), values.last().copied().unwrap_or(i64::MAX))
        }
    }
}

impl TextTest {
    /// All texts that pass, where they are listed.
    fn values(&self) -> Option<impl Iterator<Item = &str>> {
        let values = match self {
            Self::Equal(value) => std::slice::from_ref(value),
            Self::OneOf(values) => values,
            _ => return None,
        };
        Some(values.iter().map(|value| &**value))
    }

    /// Whether the two are written alike.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Contains(a), Self::Contains(b)) => a.any_case == b.any_case && a.texts == b.texts,
            (Self::StartsWith(a), Self::StartsWith(b)) | (Self::EndsWith(a), Self::EndsWith(b)) => a == b,
            (Self::Glob(a), Self::Glob(b)) => a.patterns == b.patterns,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}
