//! Why a rule fired, or did not: its conditions as trees with each leaf's value and verdict, and for windows and
//! sequences how far each event took them.

use std::fmt::Write as _;

use super::{
    check::{self, Condition, Definitions, Text},
    engine::{Alert, Engine, Standing},
    message,
    model::{At, Rule, RuleSet},
    parser::{Node, NodeKind},
    quantity,
    recording::{Entry, Mark, Told},
};
use crate::monitor::event::{Field, Record};

/// A part of a condition, judged on one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// As it is written; for a macro its name; `and`, `or` or `not` for what is made of parts.
    pub text: String,
    /// Whether it holds.
    pub holds: bool,
    /// The value of the field that it tests; `None` where there is none to show.
    pub value: Option<String>,
    /// What it is made of.
    pub parts: Vec<Verdict>,
}

/// Judges a condition part by part.
fn judge(condition: &Condition, definitions: &Definitions, record: &impl Record) -> Verdict {
    let written = &condition.written;
    Judge { condition, definitions, record, depth: 0 }.node(&written.tree, &written.text)
}

struct Judge<'a, R> {
    condition: &'a Condition,
    definitions: &'a Definitions,
    record: &'a R,
    /// Of macros in macros.
    depth: usize,
}

impl<R: Record> Judge<'_, R> {
    fn node(&mut self, node: &Node, text: &Text) -> Verdict {
        // What was compiled once compiles again.
        let holds = check::check(text, node, self.condition.kinds, self.definitions, &mut Vec::new())
            .expr
            .holds(self.record);
        let mut many = |word: &str, parts: &[Node]| Verdict {
            text: word.to_owned(),
            holds,
            value: None,
            parts: parts.iter().map(|part| self.node(part, text)).collect(),
        };
        match &node.kind {
            NodeKind::And(parts) => many("and", parts),
            NodeKind::Or(parts) => many("or", parts),
            NodeKind::Not(inner) => many("not", std::slice::from_ref(inner)),
            NodeKind::Macro(name) => {
                let inner = self.definitions.macros.get(name).filter(|_| self.depth < 16);
                self.depth += 1;
                let parts = inner.and_then(|inner| Some(vec![self.node(inner.tree.as_ref()?, &inner.text)]));
                self.depth -= 1;
                Verdict { text: format!("${name}"), holds, value: None, parts: parts.unwrap_or_default() }
            }
            NodeKind::Literal(value) => {
                Verdict { text: value.to_string(), holds, value: None, parts: Vec::new() }
            }
            NodeKind::Bare(name) | NodeKind::Exists(name) => self.leaf(node, &name.text, holds),
            NodeKind::Test(name, _) | NodeKind::Any(name, _) | NodeKind::All(name, _) => {
                self.leaf(node, &name.text, holds)
            }
        }
    }

    fn leaf(&self, node: &Node, field: &str, holds: bool) -> Verdict {
        let value = Field::from_name(field).and_then(|field| self.record.get(field));
        let value = value
            .map_or_else(|| format!("no {field}"), |value| format!("{field} = {}", message::show(value)));
        Verdict { text: node.to_string(), holds, value: Some(value), parts: Vec::new() }
    }
}

impl Verdict {
    fn draw(&self, page: &mut String, indent: usize) {
        let mark = if self.holds { "✓" } else { "✗" };
        let value = self.value.as_ref().map(|value| format!("    [{value}]")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(page, "{:indent$}{mark} {}{value}", "", self.text);
        self.parts.iter().for_each(|part| part.draw(page, indent + 2));
    }
}

/// Goes through events and says of each what the rule makes of it.
pub struct Explainer<'a> {
    rule: &'a Rule,
    definitions: &'a Definitions,
    engine: Engine,
    began: Option<u64>,
    events: u64,
}

impl<'a> Explainer<'a> {
    /// For one rule of a set, as if it were enabled.
    pub fn new(rules: &'a RuleSet, rule: &'a Rule) -> Self {
        let engine = Engine::new(std::sync::Arc::new(rules.only(rule)));
        Self { rule, definitions: rules.definitions(), engine, began: None, events: 0 }
    }

    /// What the rule makes of the next event, in lines. Nothing is said of events that it does not look at.
    pub fn explain(&mut self, entry: &Entry) -> String {
        match &entry.told {
            Told::Event(event) => self.event(entry.cgroup, event),
            Told::Mark(Mark::Thawed) => {
                self.engine.reset(entry.cgroup);
                "thawed: it begins anew\n".to_owned()
            }
            Told::Mark(Mark::Gone) => {
                self.engine.forget(entry.cgroup);
                "gone: it begins anew\n".to_owned()
            }
        }
    }

    fn event(&mut self, cgroup: u64, record: &impl Record) -> String {
        self.events += 1;
        let began = *self.began.get_or_insert(record.time());
        let mut alerts: Vec<Alert> = Vec::new();
        self.engine.evaluate(record, cgroup, &mut alerts);
        let mut page = String::new();
        for at in self.rule.looking_at(record.kind()) {
            let Some(condition) = self.rule.condition(at) else { continue };
            let name = match at {
                At::Unless => " unless".to_owned(),
                At::Step(step) if self.rule.steps.len() > 1 => {
                    format!(" step `{}`", self.rule.steps[step].name)
                }
                At::Step(_) => String::new(),
            };
            let _ = writeln!(page, "{} ", format!("condition{name}:").trim_end());
            judge(condition, self.definitions, record).draw(&mut page, 2);
        }
        if page.is_empty() {
            return page;
        }
        for exception in &self.rule.exceptions {
            let expired = if exception.expired { " (expired)" } else { "" };
            let _ = writeln!(page, "exception{expired}: {}", exception.reason);
            judge(&exception.condition, self.definitions, record).draw(&mut page, 2);
        }
        for Standing { step, reached, complete } in self.engine.standing(0, record, cgroup) {
            let mark = if complete { "✓" } else { "…" };
            let _ = writeln!(page, "{mark} step `{step}`: {reached}");
        }
        for alert in &alerts {
            let _ = writeln!(page, "→ fires: {}", alert.message);
        }
        let after = quantity::show_duration(record.time().saturating_sub(began));
        let page: String = page.lines().map(|line| format!("  {}\n", line.trim_end())).collect();
        format!(
            "event {} ({}, after {after}): {}\n{page}",
            self.events,
            record.kind(),
            message::describe(record)
        )
    }
}
