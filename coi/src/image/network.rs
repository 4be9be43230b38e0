//! Why a container does not reach the network: facts from inside and from Incus, and what they come to.
//!
//! [`diagnose`] is a function of facts, so that each cause has a test. What the container says of itself decides only
//! which advice is given.

use std::fmt;
use std::time::Duration;

use super::container::{PATH, exec};
use super::{Error, Result};
use crate::incus;

/// How long a network may take to come, where it must, and where it may be missing.
pub(super) const WAIT: Duration = Duration::from_secs(30);
pub(super) const WAIT_PERHAPS: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);
/// How long the look from inside may take.
const LOOK: Duration = Duration::from_secs(40);

/// How the container is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// It has an interface other than its loopback.
    pub interface: bool,
    /// One has an address that reaches further than its link.
    pub address: bool,
    /// It has a default route.
    pub route: bool,
    /// The name servers it asks.
    pub servers: Vec<String>,
    /// Whether one of them answers, if that was tried.
    pub answers: Option<bool>,
}

impl Facts {
    fn is_connected(&self) -> bool {
        self.address && self.route && !self.servers.is_empty()
    }
}

/// What is wrong with a container's network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It has no interface.
    NoInterface,
    /// Its interface has no address.
    NoAddress,
    /// It has no default route.
    NoRoute,
    /// It knows no name server.
    NoServer,
    /// No name server answers.
    Silent(Vec<String>),
    /// They answer, and do not know the name.
    NoName,
    /// The name is known, and nothing connects.
    NoConnection,
    /// A connection is not trusted.
    Untrusted {
        /// Authorities were brought.
        brought: bool,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInterface => f.write_str(
                "the build container has no network interface. Give Incus's profile one: \
                 `incus profile device add default eth0 nic network=incusbr0 name=eth0`",
            ),
            Self::NoAddress => f.write_str(
                "the build container's network interface got no address by DHCP. See that the bridge is up (`incus network \
                 list`), that Incus's dnsmasq runs, and that a firewall on the host lets DHCP through (UDP port 67): with \
                 firewalld `firewall-cmd --zone=trusted --change-interface=incusbr0 --permanent`, with ufw `ufw allow in on \
                 incusbr0`. The base must ask for an address by itself",
            ),
            Self::NoRoute => f.write_str(
                "the build container has an address and no default route. See `incus network show incusbr0`: ipv4.address \
                 has to be set, and ipv4.dhcp.gateway not be empty",
            ),
            Self::NoServer => f.write_str(
                "the build container knows no name server: its /etc/resolv.conf is empty. See `incus network show incusbr0`: \
                 dns.mode must not be none, or the base must bring its own",
            ),
            Self::Silent(servers) => write!(
                f,
                "no name server answers the build container; it asks {}. Where the bridge's own does not answer, a firewall \
                 on the host drops DNS from the bridge (port 53); with ufw `ufw allow in on incusbr0`. Where names resolve on \
                 the host, its own server may have to be passed on: `incus network set incusbr0 raw.dnsmasq \
                 server=ADDRESS`",
                servers.join(", ")
            ),
            Self::NoName => f.write_str(
                "name servers answer the build container, and do not know a name that is needed. See the log for the name; try \
                 it on the host; behind a proxy set http_proxy and https_proxy, which a build takes along",
            ),
            Self::NoConnection => f.write_str(
                "names resolve in the build container, and nothing connects. Docker on the host drops what bridges forward: \
                 `iptables -I DOCKER-USER -i incusbr0 -j ACCEPT; iptables -I DOCKER-USER -o incusbr0 -j ACCEPT`; with ufw \
                 `ufw route allow in on incusbr0`. Else see ipv4.nat in `incus network show incusbr0`; behind a proxy set \
                 http_proxy and https_proxy, which a build takes along",
            ),
            Self::Untrusted { brought: false } => f.write_str(
                "a server's certificate is not trusted in the build container, as behind a proxy that opens TLS. Bring this \
                 machine's own certificate authorities along: --host-ca",
            ),
            Self::Untrusted { brought: true } => f.write_str(
                "a server's certificate is not trusted in the build container, though authorities were brought along. See \
                 that the one of the proxy is among them: --host-ca=DIRECTORY",
            ),
        }
    }
}

/// What is wrong: by the facts, and by what the step that failed has said.
pub fn diagnose(facts: &Facts, said: &str, brought: bool) -> Option<Trouble> {
    let said = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if !facts.interface {
        return Some(Trouble::NoInterface);
    }
    if !facts.address {
        return Some(Trouble::NoAddress);
    }
    if !facts.route {
        return Some(Trouble::NoRoute);
    }
    if facts.servers.is_empty() {
        return Some(Trouble::NoServer);
    }
    if facts.answers == Some(false) {
        return Some(Trouble::Silent(facts.servers.clone()));
    }
    // From what is furthest on the way to what is nearest: programs try again, and say the rest as well.
    if has(&TLS) {
        return Some(Trouble::Untrusted { brought });
    }
    if has(&CONNECTIONS) {
        return Some(Trouble::NoConnection);
    }
    has(&NAMES).then_some(Trouble::NoName)
}

// In the words of apt, npm, curl, git, wget, pip.
const TLS: [&str; 9] = [
    "self_signed_cert",
    "self-signed certificate",
    "self signed certificate",
    "unable_to_get_issuer_cert",
    "unable_to_verify_leaf",
    "unable to get local issuer",
    "certificate verification failed",
    "certificate_verify_failed",
    "certificate is not trusted",
];
const CONNECTIONS: [&str; 9] = [
    "connection timed out",
    "connection refused",
    "econnrefused",
    "etimedout",
    "ehostunreach",
    "enetunreach",
    "network is unreachable",
    "no route to host",
    "could not connect to",
];
const NAMES: [&str; 6] = [
    "temporary failure resolving",
    "temporary failure in name resolution",
    "could not resolve",
    "enotfound",
    "eai_again",
    "name or service not known",
];

/// Waits until a container is connected; answers how it is, when it is or the time is up.
pub(super) async fn wait(incus: &incus::Client, name: &str, within: Duration) -> Result<Facts> {
    let deadline = std::time::Instant::now() + within;
    loop {
        let facts = look(incus, name, false).await?;
        if facts.is_connected() || !facts.interface || std::time::Instant::now() > deadline {
            return Ok(facts);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is asked inside: the routes, the name servers and, if it is asked for, whether they answer a question for the root's
/// name servers. Bash opens UDP sockets itself; busybox has nslookup.
const QUESTIONS: &str = r#"
if grep -qs '^[^[:space:]]*[[:space:]]00000000' /proc/net/route ||
    grep -s '^0\{32\} 00' /proc/net/ipv6_route | grep -qv ' lo$'; then echo route; fi
servers=$(sed -n 's/^nameserver[[:space:]]*\([^[:space:]]*\).*/\1/p' /etc/resolv.conf 2>/dev/null | head -n 3)
for server in $servers; do echo "server $server"; done
[ "$1" = ask ] && [ -n "$servers" ] || exit 0
answer=no
for server in $servers; do
    if command -v bash >/dev/null && command -v timeout >/dev/null; then
        timeout 5 bash -c 'exec 3<>"/dev/udp/$1/53" &&
            printf "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01" >&3 &&
            head -c 1 <&3 | grep -q .' bash "$server" 2>/dev/null && answer=yes
    elif command -v nslookup >/dev/null; then
        nslookup -type=ns . "$server" 2>&1 | grep -Eq 'timed out|no servers could|refused' || answer=yes
    else
        answer=unknown
    fi
done
echo "answer $answer"
"#;

/// How a container is connected.
pub(super) async fn look(incus: &incus::Client, name: &str, asks: bool) -> Result<Facts> {
    let state = incus.state(name).await?;
    let network = state.network.unwrap_or_default();
    let others = || network.iter().filter(|(name, _)| *name != "lo");
    let mut exec = exec(&["/bin/sh", "-c", QUESTIONS, "sh", if asks { "ask" } else { "" }]);
    exec.environment.insert("PATH".to_owned(), PATH.to_owned());
    let output = incus.output(name, &exec, LOOK).await.map_err(Error::from)?;
    let mut facts = parse(&String::from_utf8_lossy(&output.stdout));
    facts.interface = others().next().is_some();
    facts.address = others().any(|(_, interface)| interface.addresses.iter().any(|a| a.scope == "global"));
    Ok(facts)
}

fn parse(text: &str) -> Facts {
    let mut facts = Facts::default();
    for line in text.lines() {
        match line.split_once(' ') {
            None if line == "route" => facts.route = true,
            // It is said to people, and nothing but an address is.
            Some(("server", server)) => {
                facts.servers.extend(server.parse::<std::net::IpAddr>().map(|a| a.to_string()));
            }
            Some(("answer", "yes")) => facts.answers = Some(true),
            Some(("answer", "no")) => facts.answers = Some(false),
            _ => {}
        }
    }
    facts.servers.truncate(3);
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> Facts {
        Facts {
            interface: true,
            address: true,
            route: true,
            servers: vec!["192.0.2.53".into()],
            answers: Some(true),
        }
    }

    #[test]
    fn each_cause_is_told_from_the_others() {
        let silent = Trouble::Silent(vec!["192.0.2.53".into()]);
        let dns = "Err:1 Temporary failure resolving 'deb.test'";
        let cases = [
            (Facts { interface: false, ..Facts::default() }, dns, Some(Trouble::NoInterface)),
            (Facts { interface: true, ..Facts::default() }, dns, Some(Trouble::NoAddress)),
            (Facts { route: false, ..connected() }, dns, Some(Trouble::NoRoute)),
            (Facts { servers: vec![], answers: None, ..connected() }, dns, Some(Trouble::NoServer)),
            (Facts { answers: Some(false), ..connected() }, dns, Some(silent)),
            (connected(), dns, Some(Trouble::NoName)),
            (Facts { answers: None, ..connected() }, "npm ERR! code EAI_AGAIN", Some(Trouble::NoName)),
            (connected(), "connect ETIMEDOUT 192.0.2.1:443", Some(Trouble::NoConnection)),
            (
                connected(),
                "npm ERR! code SELF_SIGNED_CERT_IN_CHAIN",
                Some(Trouble::Untrusted { brought: false }),
            ),
            (connected(), "E: the package x has no candidate", None),
        ];
        for (facts, said, trouble) in cases {
            assert_eq!(diagnose(&facts, said, false), trouble, "{facts:?} {said}");
        }
    }

    #[test]
    fn what_to_do_about_it() {
        let all = [
            Trouble::NoInterface,
            Trouble::NoAddress,
            Trouble::NoRoute,
            Trouble::NoServer,
            Trouble::Silent(vec!["192.0.2.53".into(), "fd00::53".into()]),
            Trouble::NoName,
            Trouble::NoConnection,
            Trouble::Untrusted { brought: false },
            Trouble::Untrusted { brought: true },
        ];
        insta::assert_snapshot!(all.map(|trouble| trouble.to_string()).join("\n"));
    }

    #[test]
    fn what_the_container_says() {
        let facts = parse("route\nserver 10.0.0.1\nserver \u{1b}[31mx\nserver fd00::1\nanswer no\nserver\n");
        assert_eq!(facts.servers, ["10.0.0.1", "fd00::1"]);
        assert_eq!((facts.route, facts.answers), (true, Some(false)));
        assert_eq!(parse("answer unknown").answers, None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_facts(text: String) {
            proptest::prop_assert!(parse(&text).servers.len() <= 3);
        }
    }
}
