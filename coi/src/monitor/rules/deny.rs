//! What rules with `action = "deny"` say to the kernel.
//!
//! When a connection begins, the kernel side knows its address and its port and nothing else. So such a rule looks at
//! single `connect` events, and its condition and exceptions test `destination.ip` and `destination.port` alone; every
//! part of them that does not is an error in its place.
//!
//! What is left divides addresses into networks within which all rules say the same, and ports into classes of which the
//! same holds. For one address of each network and one port of each class the rules' own conditions are asked, so that
//! the kernel's answer and theirs cannot differ. An address belongs to the longest of the networks that it is in.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    check::{Definitions, Text},
    error::{RuleError, RuleErrorKind},
    eval::{Expr, IntegerTest, IpTest},
    model::{Action, Rule},
    parser::{Node, NodeKind},
};
use crate::monitor::event::{EventKind, Field, Record, Value};

/// How many networks and addresses the rules of a set may tell apart.
pub const MOST_NETWORKS: usize = 1024;
/// How many places there may be where one port is treated as its neighbour is not.
const MOST_BOUNDS: usize = 256;
/// How many classes of ports there may be: one bit each.
const MOST_CLASSES: usize = 64;
/// The networks in which every address is: the IPv4 addresses as IPv6 writes them, and all.
const EVERYWHERE: [Network; 2] = [Network { bits: 0xffff_u128 << 32, len: 96 }, Network { bits: 0, len: 0 }];

/// A network of IPv6 addresses, IPv4 ones written as ::ffff:192.0.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    /// Its first address.
    pub bits: u128,
    /// How many bits of it count.
    pub len: u8,
}

impl Network {
    fn of(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => {
                Self { bits: mapped(net.network().into()).to_bits(), len: 96 + net.prefix_len() }
            }
            IpNet::V6(net) => Self { bits: net.network().to_bits(), len: net.prefix_len() },
        }
    }

    fn last(self) -> u128 {
        self.bits | u128::MAX.checked_shr(self.len.into()).unwrap_or(0)
    }

    fn contains(self, bits: u128) -> bool {
        (self.bits..=self.last()).contains(&bits)
    }
}

/// An address as the kernel side looks it up.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// Ports that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The first of them.
    pub bits: u16,
    /// How many bits of it count.
    pub len: u8,
}

/// The connections that are refused. Empty where no rule asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// For the addresses of a network, and of no longer one that is listed: a bit for each class of ports that is
    /// refused there.
    pub networks: Vec<(Network, u64)>,
    /// The class of these ports; each port is in one of them.
    pub ports: Vec<(Ports, u32)>,
}

impl Denied {
    /// Whether nothing is refused.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Whether a connection is refused, found as the kernel side finds it.
    pub fn refuses(&self, address: IpAddr, port: u16) -> bool {
        let bits = mapped(address).to_bits();
        let networks = self.networks.iter().filter(|(network, _)| network.contains(bits));
        let classes = networks.max_by_key(|(network, _)| network.len).map_or(0, |(_, classes)| *classes);
        let of_port =
            |ports: &Ports| (ports.bits ^ port).checked_shr(16 - u32::from(ports.len)).unwrap_or(0) == 0;
        let class = self.ports.iter().find(|(ports, _)| of_port(ports)).map(|(_, class)| *class);
        class.is_some_and(|class| classes >> class & 1 == 1)
    }
}

/// What of a rule that denies cannot be decided in the kernel.
pub(super) fn check(rule: &Rule, definitions: &Definitions) -> Vec<RuleError> {
    let mut errors = Vec::new();
    if rule.action() != Action::Deny {
        return errors;
    }
    let wrong = |why: &str| rule.place.error(RuleErrorKind::NotDeniable(why.to_owned()));
    if rule.pattern.is_some() {
        errors.push(wrong("a window, a sequence or `absent` is over when its last connection is on its way"));
    }
    if rule.kinds.iter().any(|kind| kind != EventKind::Connect) {
        errors.push(wrong("what is refused is a connection, so the rule looks at `connect` events alone"));
    }
    if errors.is_empty() {
        let exceptions = rule.exceptions.iter().filter(|exception| !exception.expired);
        let conditions = rule.steps.iter().map(|step| &step.condition);
        for condition in conditions.chain(exceptions.map(|exception| &exception.condition)) {
            let written = &condition.written;
            Checker { definitions, depth: 0, errors: &mut errors }.node(&written.tree, &written.text);
        }
    }
    errors
}

struct Checker<'a> {
    definitions: &'a Definitions,
    /// Of macros in macros.
    depth: usize,
    errors: &'a mut Vec<RuleError>,
}

impl Checker<'_> {
    fn node(&mut self, node: &Node, text: &Text) {
        match &node.kind {
            NodeKind::And(parts) | NodeKind::Or(parts) => parts.iter().for_each(|part| self.node(part, text)),
            NodeKind::Not(inner) => self.node(inner, text),
            NodeKind::Literal(_) => {}
            NodeKind::Macro(name) => {
                let Some(inner) = self.definitions.macros.get(name).filter(|_| self.depth < 16) else {
                    return;
                };
                let Some(tree) = &inner.tree else { return };
                let mut within = Vec::new();
                Checker { definitions: self.definitions, depth: self.depth + 1, errors: &mut within }
                    .node(tree, &inner.text);
                // The macro is right for others; what is wrong is to use it here.
                let place = text.at(&node.span);
                self.errors.extend(within.into_iter().map(|error| place.error(error.kind().clone())));
            }
            NodeKind::Bare(name)
            | NodeKind::Exists(name)
            | NodeKind::Test(name, _)
            | NodeKind::Any(name, _)
            | NodeKind::All(name, _) => {
                let known = [Field::DestinationIp, Field::DestinationPort];
                if !Field::from_name(&name.text).is_some_and(|field| known.contains(&field)) {
                    let why = format!("`{}` is not known when a connection begins", name.text);
                    self.errors.push(text.at(&node.span).error(RuleErrorKind::NotDeniable(why)));
                }
            }
        }
    }
}

/// What these rules have refused; all that [`check`] has something against has been refused before.
pub(super) fn compile(rules: &[Arc<Rule>]) -> Result<Denied, RuleErrorKind> {
    let rules: Vec<&Rule> = rules.iter().map(|rule| &**rule).filter(|rule| rule.denies()).collect();
    if rules.is_empty() {
        return Ok(Denied::default());
    }
    let mut atoms = Atoms { networks: EVERYWHERE.into(), bounds: [0].into() };
    for rule in &rules {
        rule.conditions().for_each(|condition| atoms.collect(condition));
    }
    let Atoms { networks, bounds } = atoms;
    if networks.len() > MOST_NETWORKS + EVERYWHERE.len() || bounds.len() > MOST_BOUNDS {
        let most = format!(
            "all `deny` together tell apart more than {MOST_NETWORKS} networks or {MOST_BOUNDS} ranges of ports"
        );
        return Err(RuleErrorKind::NotDeniable(most));
    }
    let mut placed: Vec<(Network, IpAddr)> = Vec::new();
    for network in &networks {
        if let Some(address) = apart(*network, &networks) {
            placed.push((*network, address));
        }
    }
    let denied = |address, port| {
        let connection = Connection { address, port };
        rules.iter().any(|rule| rule.holds_for(&connection))
    };
    // Each range of ports by what is refused there, network by network.
    let mut classes: BTreeMap<Vec<bool>, u32> = BTreeMap::new();
    let mut ports = Vec::new();
    let starts: Vec<u16> = bounds.into_iter().collect();
    for (at, start) in starts.iter().enumerate() {
        let end = starts.get(at + 1).map_or(u16::MAX, |next| next - 1);
        let column: Vec<bool> = placed.iter().map(|(_, address)| denied(*address, *start)).collect();
        let next = classes.len() as u32;
        let class = *classes.entry(column).or_insert(next);
        ports.extend(blocks(*start, end).map(|block| (block, class)));
    }
    if classes.len() > MOST_CLASSES {
        let most = format!("all `deny` together treat ports in more than {MOST_CLASSES} different ways");
        return Err(RuleErrorKind::NotDeniable(most));
    }
    let row = |at: usize| {
        let refused = classes.iter().filter(|(column, _)| column[at]);
        refused.fold(0, |classes, (_, class)| classes | 1 << class)
    };
    let networks = placed.iter().enumerate().map(|(at, (network, _))| (*network, row(at))).collect();
    Ok(Denied { networks, ports })
}

impl Rule {
    fn denies(&self) -> bool {
        self.enabled && self.action() == Action::Deny
    }

    /// Its condition and its exceptions, as far as they count.
    fn conditions(&self) -> impl Iterator<Item = &Expr> {
        let exceptions = self.exceptions.iter().filter(|exception| !exception.expired);
        let steps = self.steps.iter().map(|step| &step.condition.expr);
        steps.chain(exceptions.map(|exception| &exception.condition.expr))
    }

    fn holds_for(&self, connection: &Connection) -> bool {
        self.steps.iter().any(|step| step.condition.expr.holds(connection))
            && !self
                .exceptions
                .iter()
                .any(|exception| !exception.expired && exception.condition.expr.holds(connection))
    }
}

/// All that the kernel knows of a connection that begins.
struct Connection {
    address: IpAddr,
    port: u16,
}

impl Record for Connection {
    fn kind(&self) -> EventKind {
        EventKind::Connect
    }

    fn time(&self) -> u64 {
        0
    }

    fn get(&self, field: Field) -> Option<Value<'_>> {
        match field {
            Field::DestinationIp => Some(Value::Ip(self.address)),
            Field::DestinationPort => Some(Value::Integer(self.port.into())),
            _ => None,
        }
    }
}

/// What conditions tell apart.
struct Atoms {
    networks: BTreeSet<Network>,
    /// The first of each range of ports.
    bounds: BTreeSet<u16>,
}

impl Atoms {
    fn collect(&mut self, expr: &Expr) {
        match expr {
            Expr::And(parts) | Expr::Or(parts) => parts.iter().for_each(|part| self.collect(part)),
            Expr::Not(inner) => self.collect(inner),
            Expr::Ip { test: IpTest::OneOf(addresses), .. } => {
                self.networks.extend(addresses.iter().map(|address| Network::of(IpNet::from(*address))));
            }
            Expr::Ip { test: IpTest::Within(networks), .. } => {
                self.networks.extend(networks.iter().map(|network| Network::of(*network)));
            }
            Expr::Integer { test, .. } => {
                let mut bound = |at: i64| self.bounds.extend(u16::try_from(at).ok());
                let mut around = |value: i64| {
                    bound(value);
                    bound(value.saturating_add(1));
                };
                match test {
                    IntegerTest::OneOf(values) => values.iter().for_each(|value| around(*value)),
                    IntegerTest::Equal(value)
                    | IntegerTest::Less(value)
                    | IntegerTest::LessOrEqual(value)
                    | IntegerTest::Greater(value)
                    | IntegerTest::GreaterOrEqual(value) => around(*value),
                }
            }
            Expr::Literal(_)
            | Expr::Exists(_)
            | Expr::Holds(_)
            | Expr::Text { .. }
            | Expr::Any { .. }
            | Expr::All { .. } => {}
        }
    }
}

/// An address of a network that is in none of the longer ones, if there is one.
fn apart(network: Network, all: &BTreeSet<Network>) -> Option<IpAddr> {
    let mut free = network.bits;
    // By their first address, so that each begins where those before it have left off, or later.
    for inner in all.range(network..).take_while(|inner| inner.bits <= network.last()) {
        if inner.len > network.len && inner.last() >= free {
            if inner.bits > free {
                break;
            }
            free = inner.last().checked_add(1)?;
        }
    }
    (free <= network.last()).then(|| IpAddr::V6(Ipv6Addr::from_bits(free)).to_canonical())
}

/// A range of ports as blocks of those that begin with the same bits.
fn blocks(start: u16, end: u16) -> impl Iterator<Item = Ports> {
    let mut next = Some(start);
    std::iter::from_fn(move || {
        let from = next?;
        let room = u32::from(end - from) + 1;
        let size = (1_u32 << from.trailing_zeros().min(16)).min(1 << room.ilog2());
        next = from.checked_add(u16::try_from(size).unwrap_or(0)).filter(|next| *next > from && *next <= end);
        Some(Ports { bits: from, len: (16 - size.ilog2()) as u8 })
    })
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use proptest::prelude::*;

    use super::*;
    use crate::monitor::rules::{RuleSet, Source};

    fn compiled(conditions: &[String]) -> Result<RuleSet, Vec<RuleError>> {
        let rule = |(at, condition): (usize, &String)| {
            format!(
                "[[rule]]\nid = 'r{at}'\ntitle = 't'\nseverity = 'warning'\naction = 'deny'\nevent = 'connect'\n\
                 condition = \"{condition}\"\n"
            )
        };
        let text = conditions.iter().enumerate().map(rule).collect();
        RuleSet::compile(&[Source { name: "test.toml".into(), text }], date(2026, 7, 1))
    }

    fn denied(condition: &str) -> Denied {
        let set = compiled(&[condition.to_owned()]);
        Denied::clone(set.unwrap_or_else(|errors| panic!("{condition}: {}", errors[0])).denied())
    }

    #[test]
    fn addresses_networks_and_ports() {
        let metadata = denied("destination.ip == '169.254.169.254'");
        assert!(metadata.refuses("169.254.169.254".parse().unwrap(), 80));
        assert!(metadata.refuses("::ffff:169.254.169.254".parse().unwrap(), 80));
        assert!(!metadata.refuses("169.254.169.253".parse().unwrap(), 80));
        let only = denied(
            "destination.ip not in cidr ['127.0.0.0/8', '10.0.0.0/8'] or destination.ip in cidr ['10.1.0.0/16'] and \
             not (destination.port == 443 or destination.port < 100)",
        );
        for (address, port, is_refused) in [
            ("10.2.3.4", 1, false),
            ("10.1.0.0", 1, false),
            ("10.1.255.255", 99, false),
            ("10.1.255.255", 100, true),
            ("10.1.2.3", 443, false),
            ("10.1.2.3", 444, true),
            ("127.0.0.1", 9, false),
            ("192.0.2.1", 443, true),
            ("2001:db8::1", 443, true),
        ] {
            assert_eq!(only.refuses(address.parse().unwrap(), port), is_refused, "{address}:{port}");
        }
        assert!(denied("true").refuses("::1".parse().unwrap(), 0));
        assert!(
            denied("destination.port >= 70000 or destination.port < -1")
                .networks
                .iter()
                .all(|(_, at)| *at == 0)
        );
        assert!(RuleSet::default().denied().is_empty());
    }

    #[test]
    fn there_may_be_only_so_much() {
        let addresses = |count: usize| {
            let all: Vec<_> = (0..count).map(|n| format!("'10.0.{}.{}'", n / 256, n % 256)).collect();
            format!("destination.ip in [{}]", all.join(", "))
        };
        assert!(compiled(&[addresses(MOST_NETWORKS)]).is_ok());
        let errors = compiled(&[addresses(MOST_NETWORKS + 1)]).unwrap_err();
        assert!(matches!(errors[0].kind(), RuleErrorKind::NotDeniable(_)));
        let ways = |count: u16| {
            let way = |n: u16| format!("destination.ip == '10.0.0.{n}' and destination.port == {}", 2 * n);
            (1..=count).map(way).collect::<Vec<_>>()
        };
        assert!(compiled(&ways(63)).is_ok());
        assert!(matches!(compiled(&ways(64)).unwrap_err()[0].kind(), RuleErrorKind::NotDeniable(_)));
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        // Few bits, so that networks meet.
        prop_oneof![
            (0..4_u8, 0..4_u8).prop_map(|(a, b)| IpAddr::from([10, a, 0, b])),
            (0..4_u16, 0..4_u16).prop_map(|(a, b)| IpAddr::from([0x2001, a, 0, 0, 0, 0, 0, b])),
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from),
        ]
    }

    fn test() -> impl Strategy<Value = String> {
        let network = (address(), 0..=32_u8).prop_map(|(ip, len)| {
            let ip = ip.to_canonical();
            let len = if ip.is_ipv6() { len * 4 } else { len };
            format!("'{}'", IpNet::new(ip, len).unwrap().trunc())
        });
        prop_oneof![
            address().prop_map(|ip| format!("destination.ip == '{}'", ip.to_canonical())),
            proptest::collection::vec(network, 1..4)
                .prop_map(|nets| format!("destination.ip not in cidr [{}]", nets.join(", "))),
            (any::<u16>(), proptest::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]))
                .prop_map(|(port, op)| format!("destination.port {op} {port}")),
        ]
    }

    fn condition() -> impl Strategy<Value = String> {
        test().prop_recursive(4, 12, 3, |inner| {
            let parts = proptest::collection::vec(inner.clone(), 2..4);
            prop_oneof![
                parts.clone().prop_map(|parts| format!("({})", parts.join(" and "))),
                parts.prop_map(|parts| format!("({})", parts.join(" or "))),
                inner.prop_map(|inner| format!("not ({inner})")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

        #[test]
        fn the_kernel_says_what_the_conditions_say(
            conditions in proptest::collection::vec(condition(), 1..3),
            asked in proptest::collection::vec((address(), any::<u16>()), 64),
        ) {
            let set = compiled(&conditions).map_err(|errors| TestCaseError::fail(errors[0].to_string()))?;
            let near = set.denied().networks.clone().into_iter().flat_map(|(network, _)| {
                [network.bits, network.last(), network.bits.wrapping_sub(1), network.last().wrapping_add(1)]
            });
            let near = near.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
            let ports = set.denied().ports.clone().into_iter().flat_map(|(ports, _)| [ports.bits, ports.bits.wrapping_sub(1)]);
            let all = asked.clone().into_iter().chain(near.zip(ports));
            for (address, port) in all {
                let connection = Connection { address, port };
                let holds = set.rules().iter().any(|rule| rule.holds_for(&connection));
                prop_assert_eq!(set.denied().refuses(address, port), holds, "{}:{}", address, port);
            }
        }

        #[test]
        fn blocks_are_the_range(start: u16, end: u16) {
            let (start, end) = (start.min(end), start.max(end));
            let mut next = u32::from(start);
            for block in blocks(start, end) {
                prop_assert_eq!(u32::from(block.bits), next);
                next += 1 << (16 - block.len);
            }
            prop_assert_eq!(next, u32::from(end) + 1);
        }
    }
}
