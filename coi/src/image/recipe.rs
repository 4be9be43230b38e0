//! What is done to a base, step by step, as data: what an image is, is said by the hash of it.
//!
//! The default image is made from Debian's packages and npm alone. It promises that two recipes of one hash do the same;
//! it does not know what a package's or an agent's newest version is on the day of the build. Who needs the same again
//! names versions (`claude@2.1.0`), and a base by its fingerprint.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// To be raised when the code does something else with the same steps.
const BUILDER: u32 = 2;

/// An agent that npm has.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownAgent {
    /// The name of it as a tool of COI's.
    pub name: &'static str,
    /// The package.
    package: &'static str,
    /// The program that it brings.
    program: &'static str,
}

/// The agents that can be put into an image.
pub const AGENTS: [KnownAgent; 3] = [
    KnownAgent { name: "claude", package: "@anthropic-ai/claude-code", program: "claude" },
    KnownAgent { name: "opencode", package: "opencode-ai", program: "opencode" },
    KnownAgent { name: "codex", package: "@openai/codex", program: "codex" },
];

/// An agent that is to be put into an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    known: &'static KnownAgent,
    /// The newest if none is named.
    version: Option<String>,
}

impl Agent {
    /// Reads `NAME` or `NAME@VERSION`. The error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, version) =
            text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)));
        let Some(known) = AGENTS.iter().find(|agent| agent.name == name) else {
            let names = AGENTS.iter().map(|agent| agent.name).collect::<Vec<_>>().join(", ");
            return Err(format!(
                "`{name}` is no agent that npm has; there are {names}. Others a build script can install"
            ));
        };
        // It becomes a word for a shell, and for npm, to which `-` or a path would mean something else.
        let is_version = |version: &str| {
            version.starts_with(|c: char| c.is_ascii_alphanumeric())
                && version.chars().all(|c| c.is_ascii_alphanumeric() || ".-+".contains(c))
        };
        match version {
            Some(version) if !is_version(version) => Err(format!("`{version}` is no version of {name}")),
            version => Ok(Self { known, version: version.map(str::to_owned) }),
        }
    }

    /// The name of it as a tool of COI's.
    pub fn name(&self) -> &'static str {
        self.known.name
    }

    /// Its npm package.
    pub(super) fn package(&self) -> &'static str {
        self.known.package
    }

    /// Whether this is what an image says that it has: `NAME VERSION`.
    pub(super) fn is(&self, told: &str) -> bool {
        told.split_once(' ').is_some_and(|(name, version)| {
            name == self.known.name && self.version.as_deref().is_none_or(|wanted| wanted == version)
        })
    }

    fn wanted(&self) -> String {
        format!("{}@{}", self.known.package, self.version.as_deref().unwrap_or("latest"))
    }
}

/// One step of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done, for people.
    pub name: String,
    /// What it does.
    pub action: Action,
    /// Whether it needs the network.
    pub network: Network,
}

/// What a step does, in the container, as its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs lines of the shell; any that fails is the end.
    Shell(String),
    /// Runs a script of somebody's, by the interpreter that it names.
    Script(String),
    /// Writes certificate authorities that programs are to trust: name and text.
    Authorities(Vec<(String, String)>),
}

/// Whether a step needs the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It does not.
    Unneeded,
    /// Nobody knows: without it, it is tried.
    Perhaps,
    /// It does.
    Needed,
}

/// What is to be in an image, beside its base.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The base is a bare system, to be made COI's.
    pub bare: bool,
    /// Agents.
    pub agents: Vec<Agent>,
    /// Docker.
    pub docker: bool,
    /// Certificate authorities: name and text.
    pub authorities: Vec<(String, String)>,
    /// A script.
    pub script: Option<String>,
    /// Lines for a shell.
    pub commands: Vec<String>,
}

impl Contents {
    /// The steps, in order.
    pub fn steps(&self) -> Vec<Step> {
        let shell = |name: &str, network, text: String| Step {
            name: name.into(),
            action: Action::Shell(text),
            network,
        };
        let mut steps = vec![shell("wait until the system is up", Network::Unneeded, READY.to_owned())];
        let uses_apt = self.bare || self.docker;
        if !self.authorities.is_empty() {
            // Before packages: the package ca-certificates takes in what lies there when it is installed.
            let action = Action::Authorities(self.authorities.clone());
            steps.push(Step {
                name: "bring certificate authorities".into(),
                action,
                network: Network::Unneeded,
            });
        }
        if uses_apt {
            steps.push(shell("fetch the lists of packages", Network::Needed, APT_UPDATE.to_owned()));
        }
        if self.bare {
            let install = format!("{APT_INSTALL} {}\n", PACKAGES.join(" "));
            steps.push(shell("install the system and tools", Network::Needed, install));
            steps.push(shell("make the user code", Network::Unneeded, USER.to_owned()));
            steps.push(shell("set the system up", Network::Unneeded, SYSTEM.to_owned()));
        }
        if !self.authorities.is_empty() {
            steps.push(shell("trust the certificate authorities", Network::Unneeded, TRUST.to_owned()));
        }
        if self.docker {
            let install = format!("{APT_INSTALL} {}\n{DOCKER}", DOCKER_PACKAGES.join(" "));
            steps.push(shell("install Docker", Network::Needed, install));
        }
        if !self.agents.is_empty() {
            let names = self.agents.iter().map(Agent::name).collect::<Vec<_>>().join(", ");
            steps.push(shell(&format!("install {names}"), Network::Needed, install_agents(&self.agents)));
        }
        if let Some(script) = &self.script {
            let action = Action::Script(script.clone());
            steps.push(Step { name: "run the build script".into(), action, network: Network::Perhaps });
        }
        for command in &self.commands {
            steps.push(shell(&format!("run {command}"), Network::Perhaps, command.clone()));
        }
        if uses_apt {
            steps.push(shell("clean up", Network::Unneeded, CLEAN.to_owned()));
        }
        steps
    }
}

/// The hash of all that goes into an image. `base` is the base's fingerprint.
pub(super) fn hash(base: &str, steps: &[Step]) -> String {
    let mut hash = Sha256::new();
    // Each part says how long it is: none can be taken for another.
    let mut part = |text: &str| hash.update(format!("{} {text}\n", text.len()));
    part(&format!("{BUILDER} {}", std::env::consts::ARCH));
    part(base);
    for step in steps {
        part(&step.name);
        match &step.action {
            Action::Shell(text) => part(&format!("shell {text}")),
            Action::Script(text) => part(&format!("script {text}")),
            Action::Authorities(all) => {
                all.iter().for_each(|(name, text)| part(&format!("authority {name} {text}")));
            }
        }
    }
    hash.finalize().iter().take(16).fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Until systemd has set the file system up it may empty what is written to /tmp, and its services may hold apt's locks.
const READY: &str = r#"
init=$(readlink -f /sbin/init)
case "$init" in */systemd)
    tries=0
    until systemctl start sysinit.target 2>/dev/null || [ $tries -ge 200 ]; do
        tries=$((tries + 1)); sleep 0.1
    done
    systemctl stop apt-daily.timer apt-daily-upgrade.timer 2>/dev/null || true
esac
"#;

/// What apt warns of when a list cannot be fetched is a failure here. Services do not start in an image that is being
/// made, and one that is thrown away on failure needs no fsync.
const APT_UPDATE: &str = r#"
export DEBIAN_FRONTEND=noninteractive
command -v apt-get >/dev/null || { echo "the base has no apt: build on Debian, or use coi build custom" >&2; exit 1; }
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/coi-build
apt-get -q -o Acquire::Retries=2 -o APT::Update::Error-Mode=any update
"#;

const APT_INSTALL: &str = "DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=2 -o DPkg::Lock::Timeout=120 \
                           install --yes --no-install-recommends";

const CLEAN: &str = r#"
apt-get clean
rm -f /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/coi-build
find /var/lib/apt/lists /var/log -type f -delete
rm -rf /root/.npm /root/.cache /tmp/* /var/tmp/*
: >/etc/machine-id
"#;

const PACKAGES: &[&str] = &[
    // The system.
    "ca-certificates",
    "dbus",
    "iproute2",
    "iputils-ping",
    "procps",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tzdata",
    "udev",
    // The developer's.
    "bash",
    "build-essential",
    "bzip2",
    "curl",
    "fd-find",
    "file",
    "gawk",
    "git",
    "jq",
    "less",
    "nodejs",
    "npm",
    "openssh-client",
    "openssl",
    "patch",
    "perl",
    "pkg-config",
    "python3",
    "python3-pip",
    "python3-venv",
    "ripgrep",
    "rsync",
    "tmux",
    "unzip",
    "vim-tiny",
    "wget",
    "xz-utils",
    "zip",
];

const DOCKER_PACKAGES: &[&str] = &["docker.io", "fuse-overlayfs", "iptables"];

const DOCKER: &str = "usermod --append --groups docker code 2>/dev/null || true\n";

/// Some images of the server have a user of their own with this number.
const USER: &str = r#"
other=$(getent passwd 1000 | cut -d: -f1)
if [ -n "$other" ] && [ "$other" != code ]; then
    userdel --force --remove "$other" 2>/dev/null
fi
id code >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --uid 1000 code
echo 'code ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/code
chmod 440 /etc/sudoers.d/code
"#;

const SYSTEM: &str = r#"
echo LANG=C.UTF-8 >/etc/default/locale
for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim man-db; do
    ln -sf /dev/null /etc/systemd/system/$timer.timer
done
ln -sf /dev/null /etc/systemd/system/systemd-networkd-wait-online.service
[ -e /usr/bin/fd ] || [ ! -e /usr/bin/fdfind ] || ln -s fdfind /usr/bin/fd
"#;

/// Where programs of Debian find authorities, and Node, which has a list of its own.
const TRUST: &str = r#"
command -v update-ca-certificates >/dev/null || {
    echo "the base has no ca-certificates, which authorities are trusted by: install that package in a base" >&2
    exit 1
}
update-ca-certificates
"#;

/// npm's packages of some agents hold the same program twice, a few hundred megabytes each time: equal files become one.
fn install_agents(agents: &[Agent]) -> String {
    let wanted = agents.iter().map(Agent::wanted).collect::<Vec<_>>().join(" ");
    let mut text = format!(
        r#"
command -v npm >/dev/null || {{ echo "the base has no npm: install Debian's package npm in it" >&2; exit 1; }}
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
npm install --global --no-fund --no-audit --no-progress {wanted}
rm -rf /root/.npm
last=
find "$(npm root --global)" -type f -size +1024k -exec sha256sum {{}} + | sort | while read -r sum file; do
    if [ "$sum" = "$last" ]; then ln -f "$kept" "$file"; else last=$sum kept=$file; fi
done
"#
    );
    for agent in agents {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} --version </dev/null", agent.known.program);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        Contents {
            bare: true,
            agents: ["claude", "codex@0.1.2"].map(|name| Agent::parse(name).unwrap()).to_vec(),
            docker: true,
            authorities: vec![("a.crt".into(), "A".into())],
            script: Some("#!/bin/sh\ntrue\n".into()),
            commands: vec!["touch /x".into()],
        }
    }

    #[test]
    fn the_steps_of_everything() {
        let name = |step: &Step| format!("{:?}: {}", step.network, step.name);
        let all: Vec<_> = contents().steps().iter().map(name).collect();
        insta::assert_snapshot!(all.join("\n"));
        let custom = Contents { script: Some("true".into()), ..Contents::default() }.steps();
        assert_eq!(custom.len(), 2, "{custom:?}");
    }

    #[test]
    fn an_image_is_known_by_all_that_goes_in() {
        let whole = contents();
        let one = hash("base", &whole.steps());
        assert_eq!(one, hash("base", &contents().steps()));
        assert_eq!(one.len(), 32);
        let others = [
            Contents { bare: false, ..contents() },
            Contents { agents: vec![], ..contents() },
            Contents { agents: vec![Agent::parse("codex@0.1.3").unwrap()], ..contents() },
            Contents { docker: false, ..contents() },
            Contents { authorities: vec![("a.crt".into(), "B".into())], ..contents() },
            Contents { authorities: vec![("b.crt".into(), "A".into())], ..contents() },
            Contents { script: Some("false".into()), ..contents() },
            Contents { commands: vec!["touch /y".into()], ..contents() },
            Contents { commands: vec![], ..contents() },
        ];
        let mut hashes: Vec<String> = others.iter().map(|other| hash("base", &other.steps())).collect();
        hashes.extend([one, hash("another", &whole.steps())]);
        let count = hashes.len();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }

    #[test]
    fn agents() {
        assert_eq!(Agent::parse("claude").unwrap().wanted(), "@anthropic-ai/claude-code@latest");
        assert_eq!(Agent::parse("codex@0.1.2").unwrap().wanted(), "@openai/codex@0.1.2");
        let texts = ["aider", "", "claude@", "claude@-g", "claude@1;reboot", "claude@../x", "claude@$(id)"];
        let errors = texts.map(|text| format!("{text:?}: {}", Agent::parse(text).unwrap_err()));
        insta::assert_snapshot!(errors.join("\n"));
    }
}
