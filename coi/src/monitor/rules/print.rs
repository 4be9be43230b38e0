//! A condition as text again: what is printed parses to the same tree.

use std::fmt;

use super::parser::{Node, NodeKind, Operand, Test};

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            NodeKind::And(parts) => joined(f, parts, " and "),
            NodeKind::Or(parts) => joined(f, parts, " or "),
            NodeKind::Not(inner) => write!(f, "not ({inner})"),
            NodeKind::Literal(value) => write!(f, "{value}"),
            NodeKind::Macro(name) => write!(f, "${name}"),
            NodeKind::Bare(name) => f.write_str(&name.text),
            NodeKind::Exists(name) => write!(f, "exists({})", name.text),
            NodeKind::Test(name, test) => write!(f, "{} {test}", name.text),
            NodeKind::Any(name, test) => write!(f, "any({}, {test})", name.text),
            NodeKind::All(name, test) => write!(f, "all({}, {test})", name.text),
        }
    }
}

fn joined(f: &mut fmt::Formatter<'_>, parts: &[Node], word: &str) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        write!(f, "{}({part})", if i > 0 { word } else { "" })?;
    }
    Ok(())
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} ", if self.negated { "not " } else { "" }, self.operator.name())?;
        // One list by its name needs no brackets.
        if !self.list || matches!(self.values.as_slice(), [(Operand::List(_), _)]) {
            return self.values.iter().try_for_each(|(value, _)| value.fmt(f));
        }
        f.write_str("[")?;
        for (i, (value, _)) in self.values.iter().enumerate() {
            write!(f, "{}{value}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            Self::Number(number) => write!(f, "{number}"),
            Self::Boolean(value) => write!(f, "{value}"),
            Self::List(name) => write!(f, "@{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parser::{Name, Operator, parse};
    use super::*;

    /// The same tree without its places.
    fn bare(node: &Node) -> Node {
        let many = |parts: &[Node]| parts.iter().map(bare).collect();
        let name = |name: &Name| Name { text: name.text.clone(), span: 0..0 };
        let test = |test: &Test| Test {
            operator_span: 0..0,
            values: test.values.iter().map(|(value, _)| (value.clone(), 0..0)).collect(),
            ..test.clone()
        };
        let kind = match &node.kind {
            NodeKind::And(parts) => NodeKind::And(many(parts)),
            NodeKind::Or(parts) => NodeKind::Or(many(parts)),
            NodeKind::Not(inner) => NodeKind::Not(Box::new(bare(inner))),
            NodeKind::Literal(value) => NodeKind::Literal(*value),
            NodeKind::Macro(text) => NodeKind::Macro(text.clone()),
            NodeKind::Bare(n) => NodeKind::Bare(name(n)),
            NodeKind::Exists(n) => NodeKind::Exists(name(n)),
            NodeKind::Test(n, t) => NodeKind::Test(name(n), test(t)),
            NodeKind::Any(n, t) => NodeKind::Any(name(n), test(t)),
            NodeKind::All(n, t) => NodeKind::All(name(n), test(t)),
        };
        Node { kind, span: 0..0 }
    }

    fn operand() -> impl Strategy<Value = Operand> {
        prop_oneof![
            "(?s:.{0,12})".prop_map(Operand::Text),
            any::<i64>().prop_map(Operand::Number),
            any::<bool>().prop_map(Operand::Boolean),
            "[a-z][a-z0-9_]{0,8}".prop_map(Operand::List),
        ]
    }

    fn test() -> impl Strategy<Value = Test> {
        let operator = proptest::sample::select(Operator::ALL.map(|(operator, ..)| operator).to_vec());
        let values = prop_oneof![
            operand().prop_map(|one| (matches!(one, Operand::List(_)), vec![one])),
            proptest::collection::vec(operand(), 0..4).prop_map(|many| (true, many)),
        ];
        (operator, any::<bool>(), values).prop_map(|(operator, negated, (list, values))| {
            let word = operator.name().starts_with(|c: char| c.is_ascii_alphabetic());
            let values = values.into_iter().map(|value| (value, 0..0)).collect();
            Test { negated: negated && word, operator, operator_span: 0..0, values, list }
        })
    }

    fn node() -> impl Strategy<Value = Node> {
        let of = |kind| Node { kind, span: 0..0 };
        let name = || "[a-z]{1,5}x(\\.[a-z]{1,5})?".prop_map(|text| Name { text, span: 0..0 });
        let leaf = prop_oneof![
            any::<bool>().prop_map(NodeKind::Literal),
            "[a-z]{1,8}".prop_map(NodeKind::Macro),
            name().prop_map(NodeKind::Bare),
            name().prop_map(NodeKind::Exists),
            (name(), test()).prop_map(|(name, test)| NodeKind::Test(name, test)),
            (name(), test()).prop_map(|(name, test)| NodeKind::Any(name, test)),
            (name(), test()).prop_map(|(name, test)| NodeKind::All(name, test)),
        ];
        leaf.prop_map(of).prop_recursive(5, 32, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 2..4).prop_map(NodeKind::And),
                proptest::collection::vec(inner.clone(), 2..4).prop_map(NodeKind::Or),
                inner.prop_map(|inner| NodeKind::Not(Box::new(inner))),
            ]
            .prop_map(of)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_printed_is_read_as_it_was(node in node()) {
            let printed = node.to_string();
            let read = parse(&printed).map_err(|(kind, span)| TestCaseError::fail(format!("{printed}: {kind} at {span:?}")))?;
            prop_assert_eq!(bare(&read), node, "{}", printed);
        }

        #[test]
        fn what_parses_is_printed_and_read_again(text in "(?s:.{0,60})") {
            if let Ok(node) = parse(&text) {
                prop_assert_eq!(bare(&parse(&node.to_string()).unwrap()), bare(&node));
            }
        }
    }
}
