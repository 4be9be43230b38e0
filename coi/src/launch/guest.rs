//! What a started container is like inside: who runs there, and with which programs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{GUEST_WORKSPACE, Result, Workspace};
use crate::incus::{Client, Exec};

/// How long a container may take until it can be used.
const READY: Duration = Duration::from_secs(60);

/// The same search path for everybody: the host's says nothing about the container.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Asks everything in one go, since each `incus exec` costs 50 ms.
///
/// A container is ready when its init has set up the file system: systemd empties /tmp and mounts over it
/// while it boots, so that what runs too early would lose its files. The job of sysinit.target is what
/// systemd waits for itself; starting it again waits for the same job. Before systemd has opened its
/// private socket it cannot be asked. A command that wants the network should find it: where there is an
/// interface, a default route is waited for, but for no longer than a network without DHCP may cost.
const PROBE: &str = r#"
if [ "$(readlink -f /sbin/init)" = /usr/lib/systemd/systemd ] || [ "$(readlink -f /sbin/init)" = /lib/systemd/systemd ]; then
    tries=0
    until systemctl start sysinit.target 2>/dev/null || [ $tries -ge 200 ]; do
        tries=$((tries + 1)); sleep 0.05
    done
fi
if ls /sys/class/net | grep -qv '^lo$'; then
    tries=0
    until grep -qs '^[^[:space:]]*[[:space:]]00000000' /proc/net/route ||
        grep -s '^0\{32\} 00' /proc/net/ipv6_route | grep -qv ' lo$' || [ $tries -ge 100 ]; do
        tries=$((tries + 1)); sleep 0.05
    done
fi
printf 'passwd=%s\n' "$(grep "^[^:]*:[^:]*:$1:" /etc/passwd | head -n 1)"
for program in bash tmux; do
    command -v $program >/dev/null && echo "has=$program"
done
exit 0
"#;

/// The inside of a container, as far as launching cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    uid: u32,
    gid: u32,
    user: String,
    home: String,
    shell: String,
    programs: Vec<String>,
}

impl Guest {
    /// Waits until the container can be used, and looks around. A container without a shell is taken as it is.
    pub(super) async fn probe(incus: &Client, name: &str, workspace: &Workspace) -> Result<Self> {
        let command = ["/bin/sh", "-c", PROBE, "sh", &workspace.uid.to_string()].map(str::to_owned).to_vec();
        let environment = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        let probe = Exec { command, environment, cwd: "/".to_owned(), ..Exec::default() };
        let output = incus.output(name, &probe, READY).await?;
        Ok(Self::parse(&String::from_utf8_lossy(&output.stdout), workspace))
    }

    fn parse(text: &str, workspace: &Workspace) -> Self {
        let has = |key: &'static str| text.lines().filter_map(move |line| line.strip_prefix(key));
        let entry = has("passwd=").next().unwrap_or_default();
        let mut fields = entry.split(':');
        let field = |found: Option<&str>, or: &str| match found {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => or.to_owned(),
        };
        let (user, home) = match workspace.uid {
            0 => ("root", "/root"),
            // Nobody of that number lives there: a home that anybody may write to.
            _ => ("", "/tmp"),
        };
        Self {
            uid: workspace.uid,
            gid: workspace.gid,
            user: field(fields.next(), user),
            home: field(fields.nth(4), home),
            shell: field(fields.next(), "/bin/sh"),
            programs: has("has=").map(str::to_owned).collect(),
        }
    }

    /// Whether a program is there.
    pub(super) fn has(&self, program: &str) -> bool {
        self.programs.iter().any(|p| p == program)
    }

    /// A command to be run as the owner of the workspace, in the workspace. Nothing of the host's
    /// environment goes in.
    pub(super) fn exec(&self, command: Vec<String>, term: &str) -> Exec {
        let mut environment = BTreeMap::from([
            ("PATH", PATH),
            ("HOME", &self.home),
            ("SHELL", &self.shell),
            ("TERM", term),
            ("LANG", "C.UTF-8"),
        ]);
        if !self.user.is_empty() {
            environment.extend([("USER", self.user.as_str()), ("LOGNAME", &self.user)]);
        }
        Exec {
            command,
            environment: environment.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            user: self.uid,
            group: self.gid,
            cwd: GUEST_WORKSPACE.to_owned(),
        }
    }

    /// A command line as its program and arguments: a single word with blanks in it is for a shell.
    pub(super) fn command(&self, words: Vec<String>) -> Vec<String> {
        match shell_words(&words) {
            Some(line) if self.has("bash") => ["bash", "-lc", line].map(str::to_owned).to_vec(),
            Some(line) => ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
            None => words,
        }
    }
}

/// The command line, if these words are one that is meant for a shell.
pub fn shell_words(words: &[String]) -> Option<&str> {
    match words {
        [line] if line.contains(char::is_whitespace) => Some(line),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(text: &str, uid: u32) -> Guest {
        Guest::parse(text, &Workspace { path: "/w".into(), uid, gid: uid })
    }

    #[test]
    fn who_runs_there() {
        let code = guest("passwd=code:x:1000:1000:,,,:/home/code:/bin/bash\nhas=bash\nhas=tmux\n", 1000);
        assert_eq!((code.user.as_str(), code.home.as_str()), ("code", "/home/code"));
        assert_eq!(code.shell, "/bin/bash");
        assert!(code.has("tmux"));
        let stranger = guest("passwd=\n", 1234);
        assert_eq!((stranger.user.as_str(), stranger.home.as_str()), ("", "/tmp"));
        assert_eq!(guest("", 0).home, "/root");
        assert_eq!(guest("passwd=:::\n", 0).home, "/root");
    }

    #[test]
    fn what_goes_through_a_shell() {
        let words = |line: &[&str]| line.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        let with_bash = guest("has=bash", 0);
        assert_eq!(with_bash.command(words(&["npm test"])), ["bash", "-lc", "npm test"]);
        assert_eq!(guest("", 0).command(words(&["npm test"])), ["/bin/sh", "-c", "npm test"]);
        assert_eq!(with_bash.command(words(&["npm", "run test"])), ["npm", "run test"]);
        assert_eq!(with_bash.command(words(&["true"])), ["true"]);
    }

    #[test]
    fn nothing_of_the_host_goes_in() {
        let exec = guest("passwd=code:x:1000:1000::/home/code:/bin/bash", 1000).exec(vec![], "dumb");
        insta::assert_snapshot!(serde_json::to_string_pretty(&exec).unwrap());
    }
}
