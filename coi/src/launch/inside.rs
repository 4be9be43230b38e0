//! What the settings have the inside of a container be like: variables, time zone, who commits are by, the ssh agent.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::caller::Caller;
use super::{Error, Guest, Result, Workspace, limits};
use crate::config::{Config, Timezone, TimezoneMode};
use crate::incus::Devices;

/// Where the host keeps its time zones, and every image that has any.
pub(super) const ZONES: &str = "/usr/share/zoneinfo";

/// Where a container finds the caller's ssh agent. Nothing is mounted over the root directory while it boots.
pub(super) const AGENT: &str = "/.coi-ssh-agent";

/// The variable that says where the agent is.
pub(super) const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// The inside of a container, as it is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inside {
    /// The variables of every command. Nobody else on the host is to see them.
    pub(super) environment: BTreeMap<String, String>,
    /// The caller's ssh agent is there.
    pub(super) has_agent: bool,
    /// Its time zone.
    pub(super) zone: Zone,
    /// The name and the address that commits are by.
    pub(super) identity: [Option<String>; 2],
    /// The limits that are set, each with the file by which it is enforced.
    limits: Vec<(&'static str, &'static str)>,
    /// What could not be had, for people.
    remarks: Vec<String>,
}

/// A time zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Zone {
    /// Such as `Europe/Berlin`.
    pub(super) name: String,
    /// What it comes to nowadays, for a container that knows no zones: such as `CET-1CEST,M3.5.0,M10.5.0/3`.
    pub(super) rule: Option<String>,
}

impl Default for Zone {
    fn default() -> Self {
        Self { name: "UTC".to_owned(), rule: Some("UTC0".to_owned()) }
    }
}

impl Inside {
    /// As these settings have it, for whoever calls.
    pub(super) fn of(settings: &Config) -> Result<Self> {
        let limits = limits::enforced_by(&settings.limits);
        let mut inside = Self { zone: Zone::of(&settings.timezone)?, limits, ..Self::default() };
        for name in &settings.defaults.forward_env.0 {
            if let Some(value) = env::var_os(name).map(std::ffi::OsString::into_string) {
                match value {
                    Ok(value) => drop(inside.environment.insert(name.clone(), value)),
                    Err(_) => inside.remarks.push(format!("{name} is not handed on: it is not UTF-8")),
                }
            }
        }
        inside.environment.extend(settings.defaults.environment.0.clone());
        if settings.ssh.forward_agent {
            match agent() {
                Some(_) => inside.has_agent = true,
                None => inside.remarks.push(format!(
                    "ssh.forward_agent is set, but no agent is at {AGENT_VARIABLE}: there is none inside"
                )),
            }
        }
        let git = &settings.git;
        inside.identity = [git.name.clone(), git.email.clone()];
        if git.seed_host_identity && inside.identity.iter().any(Option::is_none) {
            let host = host_identity(&Caller::find()?);
            for (set, host) in inside.identity.iter_mut().zip(host) {
                *set = set.take().or(host);
            }
        }
        Ok(inside)
    }

    /// What could not be had in this container, for people.
    pub(super) fn remarks(&self, guest: &Guest) -> Vec<String> {
        let missing = self.limits.iter().filter(|(_, file)| !guest.has(file));
        let missing = missing.map(|(name, _)| {
            format!(
                "{name} is set, and this machine's cgroups cannot enforce it: the container has no such limit"
            )
        });
        self.remarks.iter().cloned().chain(missing).collect()
    }
}

impl Zone {
    fn of(settings: &Timezone) -> Result<Self> {
        match (settings.mode, &settings.name) {
            (TimezoneMode::Utc, _) => Ok(Self::default()),
            (TimezoneMode::Host, _) => Ok(Self::of_host(Path::new("/etc"))),
            (TimezoneMode::Fixed, None) => Err(Error::NoZoneNamed),
            (TimezoneMode::Fixed, Some(name)) => Self::named(name, Path::new(ZONES)),
        }
    }

    fn named(name: &str, zones: &Path) -> Result<Self> {
        let known = is_zone(name) && (!zones.is_dir() || zones.join(name).is_file());
        if known {
            Ok(Self { name: name.to_owned(), rule: rule(&zones.join(name)) })
        } else {
            Err(Error::NoZone { name: name.to_owned() })
        }
    }

    /// The host's, by the link to it, or by the name that stands beside.
    fn of_host(etc: &Path) -> Self {
        let localtime = etc.join("localtime");
        let linked = localtime.canonicalize().ok().and_then(|path| {
            let (_, name) = path.to_str()?.split_once("/zoneinfo/")?;
            Some(name.to_owned())
        });
        let named = || fs::read_to_string(etc.join("timezone")).ok().map(|name| name.trim().to_owned());
        match linked.or_else(named).filter(|name| is_zone(name)) {
            Some(name) => Self { name, rule: rule(&localtime) },
            // A zone without a name is known by what it comes to.
            None => rule(&localtime).map_or_else(Self::default, |rule| Self { name: rule, rule: None }),
        }
    }
}

/// Whether it can be the name of a time zone: it becomes part of a path.
fn is_zone(name: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part != ".."
            && part != "."
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "+-_".contains(c))
    };
    name.split('/').all(part)
}

/// The rule at the end of a file of zone information.
fn rule(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok().filter(|bytes| bytes.starts_with(b"TZif"))?;
    let text = bytes.strip_suffix(b"\n")?;
    let line = text.rsplit(|byte| *byte == b'\n').next()?;
    let rule = std::str::from_utf8(line).ok()?;
    (!rule.is_empty() && rule.is_ascii()).then(|| rule.to_owned())
}

/// The caller's ssh agent, if there is one.
fn agent() -> Option<PathBuf> {
    use std::os::unix::fs::FileTypeExt as _;
    let path = PathBuf::from(env::var_os(AGENT_VARIABLE)?);
    let is_socket = fs::metadata(&path).is_ok_and(|file| file.file_type().is_socket());
    (path.is_absolute() && path.to_str().is_some() && is_socket).then_some(path)
}

/// The device by which a container reaches the caller's agent, if it is to. Incus's end of it has the caller's rights
/// alone.
pub(super) fn agent_device(settings: &Config, workspace: &Workspace) -> Result<Devices> {
    let Some(agent) = agent().filter(|_| settings.ssh.forward_agent) else { return Ok(Devices::new()) };
    let Caller { uid, gid, .. } = Caller::find()?;
    let device = [
        ("type", "proxy".to_owned()),
        ("bind", "instance".to_owned()),
        ("listen", format!("unix:{AGENT}")),
        ("connect", format!("unix:{}", agent.display())),
        ("uid", workspace.uid.to_string()),
        ("gid", workspace.gid.to_string()),
        ("mode", "0600".to_owned()),
        ("security.uid", uid.to_string()),
        ("security.gid", gid.to_string()),
    ];
    let device = device.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    Ok(Devices::from([("ssh-agent".to_owned(), device)]))
}

/// Who the caller is in their own git configuration, if git is there and they are anybody. No repository is looked at.
fn host_identity(caller: &Caller) -> [Option<String>; 2] {
    let Some(home) = &caller.home else { return [None, None] };
    let mut git = Command::new("git");
    git.args(["config", "--global", "--includes", "--null", "--get-regexp", r"^user\.(name|email)$"]);
    git.env_clear().env("HOME", home).env("PATH", env::var_os("PATH").unwrap_or_default()).current_dir("/");
    git.stdin(Stdio::null()).stderr(Stdio::null());
    if nix::unistd::geteuid().as_raw() != caller.uid {
        // Root's rights are not for what a user's configuration includes.
        git.uid(caller.uid).gid(caller.gid);
    }
    let output = git.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    ["user.name", "user.email"].map(|key| {
        // The last one is the one that git goes by.
        let mut values = text.split('\0').filter_map(|entry| entry.strip_prefix(key)?.strip_prefix('\n'));
        values.next_back().filter(|value| !value.is_empty()).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_zone_by_its_name_or_by_what_it_comes_to() {
        let all = tempfile::tempdir().unwrap();
        let zones = all.path().join("zoneinfo");
        fs::create_dir_all(zones.join("Europe")).unwrap();
        fs::write(zones.join("Europe/Berlin"), "TZif2...\nCET-1CEST,M3.5.0,M10.5.0/3\n").unwrap();
        let rule = "CET-1CEST,M3.5.0,M10.5.0/3";
        let berlin = Zone { name: "Europe/Berlin".into(), rule: Some(rule.to_owned()) };
        assert_eq!(Zone::named("Europe/Berlin", &zones).unwrap(), berlin);
        for wrong in ["Europe/Atlantis", "../zoneinfo/Europe/Berlin", "/Europe/Berlin", "", "Europe/Berlin\n"]
        {
            assert!(Zone::named(wrong, &zones).is_err(), "{wrong:?}");
        }
        let etc = all.path().join("etc");
        fs::create_dir(&etc).unwrap();
        assert_eq!(Zone::of_host(&etc), Zone::default());
        symlink(zones.join("Europe/Berlin"), etc.join("localtime")).unwrap();
        assert_eq!(Zone::of_host(&etc), berlin);
        fs::remove_file(etc.join("localtime")).unwrap();
        fs::copy(zones.join("Europe/Berlin"), etc.join("localtime")).unwrap();
        assert_eq!(Zone::of_host(&etc), Zone { name: rule.to_owned(), rule: None });
        fs::write(etc.join("timezone"), "Europe/Berlin\n").unwrap();
        assert_eq!(Zone::of_host(&etc), berlin);
    }
}
