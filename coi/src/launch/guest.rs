//! What a started container is like inside: who runs there, and with which programs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::inside::{AGENT, AGENT_VARIABLE, Inside, Zone};
use super::{GUEST_WORKSPACE, Result, Workspace};
use crate::config::Config;
use crate::incus::{Client, Exec, Files};

/// How long a container may take until it can be used.
const READY: Duration = Duration::from_secs(60);

/// The same search path for everybody: the host's says nothing about the container.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All authorities that programs of Debian trust, those that an image was built with among them.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Asks everything in one go, since each `incus exec` costs 50 ms.
///
/// A container is ready when its init has set up the file system: systemd empties /tmp and mounts over it
/// while it boots, so that what runs too early would lose its files. The job of sysinit.target is what
/// systemd waits for itself; starting it again waits for the same job. Before systemd has opened its
/// private socket it cannot be asked. A command that wants the network should find it: where there is an
/// interface, a default route is waited for, but for no longer than a network without DHCP may cost. Who commits are by
/// is put where every other configuration of git's goes before it.
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
entry=$(grep "^[^:]*:[^:]*:$1:" /etc/passwd | head -n 1)
printf 'passwd=%s\n' "$entry"
home=$(echo "$entry" | cut -d: -f6)
for program in bash tmux $2; do
    if command -v $program >/dev/null || { [ -n "$home" ] && [ -x "$home/.local/bin/$program" ]; }; then
        echo "has=$program"
    fi
done
for file in cpuset.cpus cpu.max memory.max pids.max; do
    [ ! -e "/sys/fs/cgroup/$file" ] || echo "has=$file"
done
[ ! -e /sys/fs/cgroup/cpuset/cpuset.cpus ] || echo has=cpuset.cpus
[ ! -e /sys/fs/cgroup/cpu/cpu.cfs_quota_us ] || echo has=cpu.max
[ ! -e /sys/fs/cgroup/memory/memory.limit_in_bytes ] || echo has=memory.max
[ ! -e /sys/fs/cgroup/pids/pids.max ] || echo has=pids.max
[ -e "/usr/share/zoneinfo/$3" ] && echo has=zone
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || ! ls /usr/local/share/ca-certificates/*.crt >/dev/null 2>&1 || echo has=authorities
if command -v git >/dev/null; then
    [ -z "$4" ] || git config --system user.name "$4"
    [ -z "$5" ] || git config --system user.email "$5"
fi
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
    /// Where the workspace is.
    workspace: String,
    programs: Vec<String>,
    /// What the settings add to every command's environment, and everybody may see.
    open: BTreeMap<String, String>,
    /// The same, and nobody else on the host is to see it: tokens, perhaps.
    closed: BTreeMap<String, String>,
}

impl Guest {
    /// Waits until the container can be used, and looks around. A container without a shell is taken as it is.
    /// `program` is looked for beside the usual ones.
    pub(super) async fn probe(
        incus: &Client,
        name: &str,
        workspace: &Workspace,
        program: &str,
        inside: &Inside,
    ) -> Result<Self> {
        let [by, address] = inside.identity.each_ref().map(|part| part.as_deref().unwrap_or_default());
        let uid = workspace.uid.to_string();
        let command = ["/bin/sh", "-c", PROBE, "sh", &uid, program, &inside.zone.name, by, address];
        let command = command.map(str::to_owned).to_vec();
        let environment = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
        let probe = Exec { command, environment, cwd: "/".to_owned(), ..Exec::default() };
        let output = incus.output(name, &probe, READY).await?;
        let mut guest = Self::parse(&String::from_utf8_lossy(&output.stdout), workspace);
        guest.settle(inside);
        Ok(guest)
    }

    /// Takes what the settings say about commands.
    fn settle(&mut self, inside: &Inside) {
        let Zone { name, rule } = &inside.zone;
        // A zone that the container does not know would be taken for UTC.
        let zone = rule.as_ref().filter(|_| !self.has("zone")).unwrap_or(name);
        self.open = BTreeMap::from([("TZ".to_owned(), zone.clone())]);
        // Node, and what is made with Bun, trusts only what it brings along, unless it is told.
        if self.has("authorities") {
            self.open.insert("NODE_EXTRA_CA_CERTS".to_owned(), AUTHORITIES.to_owned());
        }
        if inside.has_agent {
            self.open.insert(AGENT_VARIABLE.to_owned(), AGENT.to_owned());
        }
        self.closed = inside.environment.clone();
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
            workspace: workspace.inside.clone(),
            programs: has("has=").map(str::to_owned).collect(),
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
        }
    }

    /// Whether a program is there.
    pub(super) fn has(&self, program: &str) -> bool {
        self.programs.iter().any(|p| p == program)
    }

    /// A command to be run as the owner of the workspace, in the workspace. Nothing of the host's
    /// environment goes in but what the settings say.
    pub(super) fn exec(&self, command: Vec<String>, term: &str) -> Exec {
        let mut exec = self.visibly(command, term);
        exec.environment.extend(self.closed.clone());
        exec
    }

    /// The same for a command whose environment all users of the host can see, since a program of the host is given it
    /// as arguments.
    pub(super) fn visibly(&self, command: Vec<String>, term: &str) -> Exec {
        // Where programs are that a user installs for themselves.
        let path = format!("{PATH}:{}/.local/bin", self.home);
        let mut environment = BTreeMap::from([
            ("PATH", path.as_str()),
            ("HOME", &self.home),
            ("SHELL", &self.shell),
            ("TERM", term),
            ("LANG", "C.UTF-8"),
        ]);
        if !self.user.is_empty() {
            environment.extend([("USER", self.user.as_str()), ("LOGNAME", &self.user)]);
        }
        let mut environment: BTreeMap<_, _> =
            environment.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        environment.extend(self.open.clone());
        Exec { command, environment, user: self.uid, group: self.gid, cwd: self.workspace.clone() }
    }

    /// Where the workspace is.
    pub(super) fn workspace(&self) -> &str {
        &self.workspace
    }

    /// The home of who runs there.
    pub(super) fn home(&self) -> &str {
        &self.home
    }

    /// Who runs there.
    pub(super) const fn owner(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// What of the host it has beside the workspace, for people.
    pub(super) fn granted(&self, settings: &Config) -> Vec<String> {
        let agent = self.open.get(AGENT_VARIABLE).map(|_| format!("the ssh agent at {AGENT_VARIABLE}"));
        let forwarded = settings.defaults.forward_env.0.iter().filter(|name| self.closed.contains_key(*name));
        agent.into_iter().chain(forwarded.map(|name| format!("its variable {name}"))).collect()
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

/// The longest list of users that is read.
const LONGEST_PASSWD: u64 = 1 << 20;

/// The home of a user, in a container that need not run.
pub(super) async fn home_of(files: &mut Files, uid: u32) -> Result<String> {
    let handle = files.open(b"/etc/passwd").await?;
    let mut text = Vec::new();
    while (text.len() as u64) < LONGEST_PASSWD {
        let chunk = files.read(&handle, text.len() as u64).await?;
        if chunk.is_empty() {
            break;
        }
        text.extend(chunk);
    }
    files.close(handle).await?;
    let text = String::from_utf8_lossy(&text);
    let entry = text.lines().find(|line| line.split(':').nth(2) == Some(&uid.to_string()));
    let workspace = Workspace { path: "/".into(), uid, gid: uid, inside: GUEST_WORKSPACE.to_owned() };
    Ok(Guest::parse(&format!("passwd={}\n", entry.unwrap_or_default()), &workspace).home)
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
        Guest::parse(text, &Workspace { path: "/w".into(), uid, gid: uid, inside: "/workspace".into() })
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
