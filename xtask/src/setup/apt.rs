//! Packages of the distribution, and what its package manager is configured with.
//!
//! Promises: the machine's own mirrors are used, whatever they are; the only thing ever added to apt's configuration is
//! a backports source on Debian 12, whose own archive has no Incus, and only where none is configured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Found, Item, STATE, SetupError, host, incus, io_error, make_dir};
use crate::run::{Cmd, Step, on_path};

/// What is needed whoever runs Incus: packages, and a program of each to know it by where there is no apt.
const TOOLS: [(&str, &str); 16] = [
    ("attr", "setfattr"),
    ("busybox-static", "busybox"),
    ("ca-certificates", ""),
    ("debootstrap", "debootstrap"),
    ("faketime", "faketime"),
    ("gcc", "cc"),
    ("git", "git"),
    ("iproute2", "ip"),
    ("libc6-dev", ""),
    ("make", "make"),
    ("nftables", "nft"),
    ("rsyslog", "rsyslogd"),
    ("squashfs-tools", "unsquashfs"),
    ("tmux", "tmux"),
    ("uidmap", "newuidmap"),
    ("zstd", "zstd"),
];

/// What an Incus of the distribution consists of, without the virtual machines that its package `incus` brings along.
const INCUS: [&str; 4] = ["dnsmasq-base", "incus-base", "incus-client", "lxcfs"];

/// Where Debian's packages are signed from, on Debian and on its derivatives with `debian-archive-keyring`.
pub(super) const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where Debian's own sources are configured.
const DEBIAN_SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// The packages that setup installs.
pub(super) struct Packages;

impl Packages {
    fn wanted() -> Vec<&'static str> {
        let mut wanted = TOOLS.map(|(package, _)| package).to_vec();
        if Release::of_machine().is_ok_and(|release| release.id != "debian") {
            wanted.push("debian-archive-keyring");
        }
        // An Incus that comes from elsewhere (its makers' packages, a build of one's own) must not get a rival.
        let from_here = missing(&["incus-base"]).is_ok_and(|missing| missing.is_empty());
        if from_here || !(host::is_installed() || incus::answers()) {
            wanted.extend(INCUS);
        }
        wanted
    }

    /// What is missing, by the names of Debian's packages.
    fn missing() -> Result<Vec<&'static str>, SetupError> {
        if on_path("dpkg-query") {
            return missing(&Self::wanted());
        }
        let tools = TOOLS.iter().filter(|(_, program)| !program.is_empty() && !on_path(program));
        let incus = (!host::is_installed()).then_some("incus");
        Ok(tools.map(|(package, _)| *package).chain(incus).collect())
    }
}

impl Item for Packages {
    fn name(&self) -> &'static str {
        "packages"
    }

    fn system(&self) -> bool {
        true
    }

    fn by_hand(&self) -> String {
        let packages = Self::missing().unwrap_or_else(|_| Self::wanted());
        format!("apt-get update && apt-get install --no-install-recommends {}", packages.join(" "))
    }

    fn look(&self) -> Result<Found, SetupError> {
        let missing = Self::missing()?;
        Ok(if missing.is_empty() {
            Found::Present("all installed".into())
        } else {
            Found::Missing(missing.join(" "))
        })
    }

    fn make(&self, step: &Step) -> Result<String, SetupError> {
        let missing = Self::missing()?;
        if !on_path("apt-get") {
            return Err(SetupError::NoApt { packages: missing.join(" ") });
        }
        if missing.contains(&"incus-base") {
            add_backports(step)?;
            host::note_installed()?;
        }
        make_dir(Path::new(STATE))?;
        let log = Path::new(STATE).join("apt.log");
        step.say("updating apt's package lists");
        apt_get().arg("update").limit(Duration::from_secs(300)).logged(&log)?;
        step.say(format!("installing {}", missing.join(" ")));
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing)
            .limit(Duration::from_secs(1200))
            .logged(&log)?;
        Ok(missing.join(" "))
    }
}

/// `apt-get`, quiet, asking nothing, and waiting for another one to finish.
pub(super) fn apt_get() -> Cmd {
    Cmd::new("apt-get").args(["-q", "-o", "DPkg::Lock::Timeout=300"]).env("DEBIAN_FRONTEND", "noninteractive")
}

/// Those of the packages that are not installed.
fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>, SetupError> {
    // About all that there are: asked for one that it does not know, dpkg-query exits with an error.
    let known = Cmd::new("dpkg-query").args(["-W", "-f=${Package} ${db:Status-Status}\\n"]).output()?;
    let installed: std::collections::HashSet<&str> =
        known.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// Configures Debian 12's backports, unless they are, from the mirror that the machine uses already.
fn add_backports(step: &Step) -> Result<(), SetupError> {
    const SUITE: &str = "bookworm-backports";
    if Release::of_machine()?.codename != "bookworm" {
        return Ok(());
    }
    if Source::of_machine().iter().any(|source| source.suites.iter().any(|suite| suite == SUITE)) {
        return Ok(());
    }
    let sources = Source::of_debian();
    let Some(mirror) = mirror_of(&sources, "bookworm") else {
        return Err(SetupError::Unavailable {
            what: "Incus is in Debian 12's backports, and apt has no source for `bookworm` to take the mirror from; \
                   add a source for bookworm-backports below /etc/apt/sources.list.d"
                .into(),
        });
    };
    let path = Path::new("/etc/apt/sources.list.d/bookworm-backports.sources");
    step.say(format!("adding {}", path.display()));
    let text = format!(
        "# Added by COI's `cargo xtask setup` for Incus.\n\
         Types: deb\nURIs: {}\nSuites: {SUITE}\nComponents: main\nSigned-By: {DEBIAN_KEYRING}\n",
        mirror.uri
    );
    std::fs::write(path, text).map_err(io_error(path, "write this file"))
}

/// What /etc/os-release says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Release {
    /// `debian`, `ubuntu`, ...
    pub(super) id: String,
    /// `bookworm`, ...; empty where there is none.
    pub(super) codename: String,
}

impl Release {
    pub(super) fn of_machine() -> Result<Self, SetupError> {
        let path = "/etc/os-release";
        Ok(Self::parse(&std::fs::read_to_string(path).map_err(io_error(path, "read this file"))?))
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        Self { id: value("ID"), codename: value("VERSION_CODENAME") }
    }
}

/// A source of binary packages that apt is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The mirror.
    pub(super) uri: String,
    /// Suites on that mirror.
    pub(super) suites: Vec<String>,
}

impl Source {
    /// Every source of this machine.
    pub(super) fn of_machine() -> Vec<Self> {
        let dir = std::fs::read_dir("/etc/apt/sources.list.d");
        let parts = dir.into_iter().flatten().flatten().map(|entry| entry.path());
        Self::in_files(parts.chain(["/etc/apt/sources.list".into()]))
    }

    /// The sources of Debian itself: other vendors' files name Debian's suites as well.
    pub(super) fn of_debian() -> Vec<Self> {
        Self::in_files(DEBIAN_SOURCES.map(PathBuf::from))
    }

    /// Files that cannot be read or have another extension count as absent, as they do for apt.
    fn in_files(files: impl IntoIterator<Item = PathBuf>) -> Vec<Self> {
        let sources = files.into_iter().filter_map(|file| {
            let text = std::fs::read_to_string(&file).ok()?;
            match file.extension()?.to_str()? {
                "list" => Some(Self::parse_list(&text)),
                "sources" => Some(Self::parse_deb822(&text)),
                _ => None,
            }
        });
        sources.flatten().collect()
    }

    /// Reads the one-line form: `deb [options] uri suite component...`.
    fn parse_list(text: &str) -> Vec<Self> {
        text.lines()
            .filter_map(|line| {
                let line = line.split('#').next()?.trim().strip_prefix("deb")?;
                if !line.starts_with(char::is_whitespace) {
                    return None; // deb-src
                }
                let line = line.trim_start();
                let rest = match line.strip_prefix('[') {
                    Some(options) => options.split_once(']')?.1,
                    None => line,
                };
                let mut words = rest.split_whitespace().map(str::to_owned);
                Some(Self { uri: words.next()?, suites: vec![words.next()?] })
            })
            .collect()
    }

    /// Reads the form of stanzas with fields.
    fn parse_deb822(text: &str) -> Vec<Self> {
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines
            .split(|line| line.trim().is_empty())
            .flat_map(|stanza| {
                let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
                let mut last = String::new();
                for line in stanza {
                    let (key, values) = match line.split_once(':') {
                        Some((key, values)) if !line.starts_with(char::is_whitespace) => {
                            last = key.to_ascii_lowercase();
                            (&last, values)
                        }
                        _ => (&last, *line),
                    };
                    fields
                        .entry(key.clone())
                        .or_default()
                        .extend(values.split_whitespace().map(str::to_owned));
                }
                let mut take = |key: &str| fields.remove(key).unwrap_or_default();
                let enabled = take("enabled").first().is_none_or(|value| value != "no");
                let binary = take("types").iter().any(|kind| kind == "deb");
                let (uris, suites) = (take("uris"), take("suites"));
                uris.into_iter()
                    .filter(move |_| enabled && binary)
                    .map(move |uri| Self { uri, suites: suites.clone() })
            })
            .collect()
    }
}

/// The first source that has the suite.
pub(super) fn mirror_of<'a>(sources: &'a [Source], suite: &str) -> Option<&'a Source> {
    sources.iter().find(|source| source.suites.iter().any(|have| have == suite))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suites: &[&str]) -> Source {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Source { uri: uri.to_owned(), suites: owned(suites) }
    }

    #[test]
    fn stanzas() {
        let text = "Types: deb deb-src\n# a snapshot\nURIs: http://mirror.test/debian\n http://other.test/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\n\
                    Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n\n\
                    Enabled: no\nTypes: deb\nURIs: http://off.test\nSuites: s\nComponents: main\n\n\
                    Types: deb-src\nURIs: http://src.test\nSuites: s\nComponents: main\n";
        assert_eq!(
            Source::parse_deb822(text),
            [
                source("http://mirror.test/debian", &["bookworm", "bookworm-updates"]),
                source("http://other.test/debian", &["bookworm", "bookworm-updates"]),
                source("http://mirror.test/security", &["bookworm-security"]),
            ]
        );
    }

    #[test]
    fn lines() {
        let text = "# deb http://no.test x main\ndeb http://mirror.test/debian bookworm main contrib # why\n\
                    deb-src http://mirror.test/debian bookworm main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://other.test stable main\ndeb broken\n";
        assert_eq!(
            Source::parse_list(text),
            [source("http://mirror.test/debian", &["bookworm"]), source("http://other.test", &["stable"]),]
        );
    }

    #[test]
    fn the_mirror_is_that_of_the_suite() {
        let sources = [source("http://a.test", &["other"]), source("http://b.test", &["x", "bookworm"])];
        assert_eq!(mirror_of(&sources, "bookworm").unwrap().uri, "http://b.test");
        assert_eq!(mirror_of(&sources, "trixie"), None);
    }

    #[test]
    fn os_release() {
        let text = "NAME=\"x\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(Release::parse(text), Release { id: "debian".into(), codename: "bookworm".into() });
        assert_eq!(Release::parse("ID=\"arch\"\n"), Release { id: "arch".into(), codename: String::new() });
    }
}
