//! A minimal Debian of the host's debootstrap, as a local image to build on.
//!
//! It promises that nothing of it stays on this machine but the image: the root is made on a tmpfs in mount and process
//! namespaces of its own, which are gone when this process is, however it ends, and the tarball has no name. debootstrap
//! needs real root: it makes device nodes, and runs the packages' scripts in a chroot. What it installs is Debian's,
//! checked against Debian's keys, and nothing else runs there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::libc;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::process::Command;

use super::base::base_alias;
use super::log::Log;
use super::{BARE_KEY, Error, PROXIES, Progress, RECIPE_KEY, Result, Steps, replace};
use crate::config::Compression;
use crate::incus;
use crate::launch::{LAUNCHER_KEY, launcher};

/// To be raised when the script below makes something else of the same words.
const BUILDER: u32 = 1;

/// What boots, has a network, and can install the rest.
const PACKAGES: &str = "ca-certificates,dbus,iproute2,systemd,systemd-resolved,systemd-sysv,udev";

/// Where Debian's packages are signed from, on Debian and on its derivatives with `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where Debian's own sources are configured: other vendors' files name Debian's suites as well.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// Runs in namespaces of its own. Its output is the tarball, what it says goes to its errors.
const SCRIPT: &str = r#"
exec 3>&1 1>&2
mount -t tmpfs -o mode=700,size=4g tmpfs "$DIRECTORY"
cd "$DIRECTORY"
debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" rootfs ${MIRROR:+"$MIRROR"}
if [ -n "$SOURCES" ]; then
    rm -f rootfs/etc/apt/sources.list
    printf '%s' "$SOURCES" >rootfs/etc/apt/sources.list.d/debian.sources
fi
printf '[Match]\nName=eth0\n\n[Network]\nDHCP=yes\nLinkLocalAddressing=ipv6\n' >rootfs/etc/systemd/network/eth0.network
mkdir -p rootfs/etc/systemd/system/service.d
printf '%s' "$SERVICES" >rootfs/etc/systemd/system/service.d/container.conf
chroot rootfs systemctl enable systemd-networkd systemd-resolved
ln -sf /run/systemd/resolve/resolv.conf rootfs/etc/resolv.conf
printf '%s' "$LEAN" >rootfs/etc/dpkg/dpkg.cfg.d/coi
: >rootfs/etc/machine-id
rm -f rootfs/etc/hostname rootfs/var/cache/apt/archives/*.deb
rm -rf rootfs/usr/share/man/* rootfs/usr/share/locale/*
find rootfs/var/lib/apt/lists rootfs/var/log -type f -delete
mkdir templates
printf '%s' "$METADATA" >metadata.yaml
printf '{{ container.name }}\n' >templates/hostname.tpl
printf '127.0.0.1 localhost {{ container.name }}\n::1 localhost ip6-localhost ip6-loopback\n' >templates/hosts.tpl
exec tar --numeric-owner --sort=name --exclude='rootfs/dev/*' $COMPRESS -cf - metadata.yaml templates rootfs >&3
"#;

/// Left out by dpkg from now on: nothing in an image can show them.
const LEAN: &str = "path-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n\
                    path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n";

/// systemd's sandboxing of services needs mounts that a container may not make on some hosts; the container is the
/// sandbox. The same settings as in the images of the Incus project.
const SERVICES: &str = "[Service]\nProcSubset=all\nProtectProc=default\nProtectControlGroups=no\n\
                        ProtectKernelTunables=no\nNoNewPrivileges=no\nLoadCredential=\nPrivateNetwork=no\n";

/// The image of this suite's minimal Debian, which is made if there is none of this recipe, or anew; its fingerprint.
pub(super) async fn ensure(
    incus: &incus::Client,
    suite: &str,
    compression: Compression,
    anew: bool,
    log: &mut Log,
    steps: &mut Steps,
    progress: &mut dyn Progress,
) -> Result<String> {
    let sources = sources_of(suite);
    let recipe = hash(suite, &sources);
    let alias = base_alias(suite);
    let there = incus.image_of(&alias).await?;
    if let Some(image) = &there {
        match image.property(RECIPE_KEY) {
            None => return Err(Error::NotOurs { alias }),
            Some(made) if made == recipe && !anew => return Ok(image.fingerprint.clone()),
            Some(_) => {}
        }
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot { suite: suite.to_owned() });
    }
    if !on_path("debootstrap") {
        return Err(Error::NoDebootstrap { suite: suite.to_owned() });
    }
    let step = format!("make a minimal Debian {suite}");
    log.head(&step);
    steps.begin(&step, progress);
    let tarball = make(suite, &sources, &recipe, compression, log, progress).await?;
    let length = tarball.metadata().await.map_err(Error::system("the tarball"))?.len();
    let fingerprint = incus.import(tarball, length).await?;
    replace(incus, &alias, &fingerprint, &description(suite), there).await?;
    steps.end(&step, progress);
    Ok(fingerprint)
}

fn description(suite: &str) -> String {
    format!("Debian {suite}, minimal, made by COI")
}

fn hash(suite: &str, sources: &str) -> String {
    let all = format!(
        "{BUILDER} {} {suite} {PACKAGES}\n{SCRIPT}\n{SERVICES}\n{LEAN}\n{sources}",
        std::env::consts::ARCH
    );
    Sha256::digest(all).iter().take(16).fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A directory that is there for something to be mounted on it, and is removed.
struct MountPoint(PathBuf);

impl MountPoint {
    fn make() -> Result<Self> {
        let template = std::env::temp_dir().join("coi-debootstrap-XXXXXX");
        let failed = Error::system(template.display().to_string());
        nix::unistd::mkdtemp(&template).map(Self).map_err(|errno| failed(errno.into()))
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        // It is empty here; one that is left is no harm.
        let _ = fs::remove_dir(&self.0);
    }
}

async fn make(
    suite: &str,
    sources: &str,
    recipe: &str,
    compression: Compression,
    log: &mut Log,
    progress: &mut dyn Progress,
) -> Result<tokio::fs::File> {
    let directory = MountPoint::make()?;
    let tarball = fs::File::options()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open("/var/tmp")
        .map_err(Error::system("/var/tmp"))?;
    let output = tarball.try_clone().map_err(Error::system("/var/tmp"))?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["/bin/sh", "-euc", SCRIPT])
        .env_clear()
        .envs(PROXIES.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .envs(BTreeMap::from([
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("LC_ALL", "C.UTF-8"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("SUITE", suite),
            ("PACKAGES", PACKAGES),
            ("MIRROR", mirror(sources)),
            ("SOURCES", sources),
            ("SERVICES", SERVICES),
            ("LEAN", LEAN),
            ("COMPRESS", flag(compression)),
        ]))
        .env("DIRECTORY", &directory.0)
        .env("METADATA", metadata(suite, recipe))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::piped())
        // A terminal's signals are ours to heed.
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: between fork and exec only async-signal-safe functions may be called; prctl is a bare system call.
    unsafe {
        command.pre_exec(|| {
            // Whatever becomes of us, it does not outlive us; with it goes all that it has started.
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(Error::system("unshare"))?;
    // What was given to the child must not stay open here.
    drop(command);
    let mut said = child.stderr.take();
    let mut buffer = vec![0; 8 << 10];
    while let Some(stream) = &mut said {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => said = None,
            Ok(n) => log.take(&buffer[..n], progress),
        }
    }
    let status = child.wait().await.map_err(Error::system("unshare"))?;
    if !status.success() {
        return Err(log.failed("debootstrap", None, status.to_string()));
    }
    let mut tarball = tokio::fs::File::from_std(tarball);
    tarball.rewind().await.map_err(Error::system("the tarball"))?;
    Ok(tarball)
}

fn flag(compression: Compression) -> &'static str {
    match compression {
        Compression::Zstd => "--zstd",
        Compression::Gzip => "--gzip",
        Compression::Xz => "--xz",
        Compression::None => "",
    }
}

/// What Incus wants to know about an image beside its root. JSON is YAML.
fn metadata(suite: &str, recipe: &str) -> String {
    let file = |template| json!({ "when": ["create", "copy"], "template": template });
    json!({
        "architecture": std::env::consts::ARCH,
        "creation_date": std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_secs()),
        "properties": {
            "architecture": std::env::consts::ARCH,
            "description": description(suite),
            "os": "debian",
            "release": suite,
            RECIPE_KEY: recipe,
            BARE_KEY: "true",
            LAUNCHER_KEY: launcher(),
        },
        "templates": { "/etc/hostname": file("hostname.tpl"), "/etc/hosts": file("hosts.tpl") },
    })
    .to_string()
}

/// Whether a program is there for root's usual search path.
fn on_path(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists())
}

/// apt's sources for a suite of Debian, on the mirrors of this machine if it is a Debian; else nothing, and debootstrap
/// knows a mirror.
fn sources_of(suite: &str) -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |key: &str| {
        let line = release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches('"').to_owned()).unwrap_or_default()
    };
    if value("ID") != "debian" {
        return String::new();
    }
    let texts = SOURCES.iter().filter_map(|path| Some((*path, fs::read_to_string(path).ok()?)));
    let sources = texts.flat_map(|(path, text)| match path.ends_with(".list") {
        true => parse_list(&text),
        false => parse_stanzas(&text),
    });
    sources_for(suite, &sources.collect::<Vec<_>>(), &value("VERSION_CODENAME"))
}

/// A source of binary packages: the mirror, and the suites on it.
type Source = (String, Vec<String>);

fn sources_for(suite: &str, sources: &[Source], codename: &str) -> String {
    let mut text = String::new();
    for (uri, suites) in sources {
        let suites: Vec<String> = suites
            .iter()
            .filter_map(|have| have.strip_prefix(codename))
            .filter(|rest| ["", "-updates", "-security"].contains(rest))
            .map(|rest| format!("{suite}{rest}"))
            .collect();
        if !suites.is_empty() && !codename.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "Types: deb\nURIs: {uri}\nSuites: {}\nComponents: main\nSigned-By: {KEYRING}\n",
                suites.join(" ")
            );
        }
    }
    text
}

/// The mirror of the suite itself: the first one.
fn mirror(sources: &str) -> &str {
    sources.lines().find_map(|line| line.strip_prefix("URIs: ")).unwrap_or_default()
}

/// Reads apt's one-line form: `deb [options] uri suite component...`.
fn parse_list(text: &str) -> Vec<Source> {
    let source = |line: &str| {
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
        Some((words.next()?, vec![words.next()?]))
    };
    text.lines().filter_map(source).collect()
}

/// Reads apt's form of stanzas with fields.
fn parse_stanzas(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanzas = lines.split(|line| line.trim().is_empty());
    stanzas
        .flat_map(|stanza| {
            let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
            let mut last = String::new();
            for line in stanza {
                let values = match line.split_once(':') {
                    Some((key, values)) if !line.starts_with(char::is_whitespace) => {
                        last = key.to_ascii_lowercase();
                        values
                    }
                    _ => line,
                };
                fields.entry(last.clone()).or_default().extend(values.split_whitespace().map(str::to_owned));
            }
            let mut take = |key: &str| fields.remove(key).unwrap_or_default();
            let enabled = take("enabled").first().is_none_or(|value| value != "no");
            let binary = take("types").iter().any(|kind| kind == "deb");
            let (uris, suites) = (take("uris"), take("suites"));
            uris.into_iter().filter(move |_| enabled && binary).map(move |uri| (uri, suites.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suites: &[&str]) -> Source {
        (uri.to_owned(), suites.iter().map(|&suite| suite.to_owned()).collect())
    }

    #[test]
    fn both_forms_of_sources_are_read() {
        let stanzas = "Types: deb deb-src\n# a snapshot\nURIs: http://mirror.test/debian\n http://other.test/debian\n\
                       Suites: trixie trixie-updates\nComponents: main\n\nEnabled: no\nTypes: deb\n\
                       URIs: http://off.test\nSuites: s\n\nTypes: deb-src\nURIs: http://src.test\nSuites: s\n";
        let both = ["trixie", "trixie-updates"];
        assert_eq!(
            parse_stanzas(stanzas),
            [source("http://mirror.test/debian", &both), source("http://other.test/debian", &both)]
        );
        let lines = "# deb http://no.test x main\ndeb http://mirror.test trixie main # why\ndeb-src http://s.test x main\n\
                     deb [arch=amd64 signed-by=/k.gpg] http://other.test stable main\ndeb broken\n";
        assert_eq!(
            parse_list(lines),
            [source("http://mirror.test", &["trixie"]), source("http://other.test", &["stable"])]
        );
    }

    #[test]
    fn the_mirrors_are_the_machines_own() {
        let sources = [
            source("http://m.test", &["trixie", "trixie-updates", "trixie-backports"]),
            source("http://other.test", &["stable"]),
            source("http://s.test", &["trixie-security"]),
        ];
        let text = sources_for("bookworm", &sources, "trixie");
        insta::assert_snapshot!(text);
        assert_eq!(mirror(&text), "http://m.test");
        assert_eq!(sources_for("bookworm", &sources, ""), "");
        assert_eq!(mirror(""), "");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_sources_or_none(text: String) {
            parse_list(&text);
            parse_stanzas(&text);
        }
    }
}
