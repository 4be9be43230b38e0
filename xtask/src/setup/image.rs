//! Images, made from recipes.
//!
//! Promises: an image carries the hash of its recipe as a property, and what counts as being there is an image with the
//! current recipe's hash, whatever its alias says; it is built only if neither Incus nor the cache of tarballs has it;
//! an image that COI did not make is never touched. A recipe is data, so that its hash covers all that goes in: its
//! files and packages, and the host's extra certificate authorities.

use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::apt::{DEBIAN_KEYRING, Release, Source, mirror_of};
use super::{Found, Item, STATE, SetupError, incus, io_error, make_dir};
use crate::run::{Cmd, Step};

/// The property that holds the recipe's hash.
const RECIPE_KEY: &str = "coi.recipe";
/// Where Debian and its derivatives keep certificate authorities that the administrator added.
const EXTRA_CAS: &str = "/usr/local/share/ca-certificates";
/// How the directory of a build begins.
const BUILD_PREFIX: &str = "build-";
/// To be raised when the code below builds something else from the same recipe.
const BUILDER: u32 = 1;

/// How an image is made.
#[derive(Debug)]
pub(super) struct Recipe {
    /// Its alias in Incus.
    pub(super) alias: &'static str,
    /// One line on what it is.
    pub(super) description: &'static str,
    /// What everything else is put on.
    pub(super) base: Base,
    /// Files: path, mode, text.
    pub(super) files: &'static [(&'static str, u32, &'static str)],
    /// Directories: path, mode, owner.
    pub(super) dirs: &'static [(&'static str, u32, u32)],
    /// Symbolic links: path, target.
    pub(super) links: &'static [(&'static str, &'static str)],
    /// What is run in it at the end.
    pub(super) commands: &'static [&'static [&'static str]],
    /// What is removed at the end.
    pub(super) remove: &'static [&'static str],
}

/// The ground of an image.
#[derive(Debug)]
pub(super) enum Base {
    /// The host's static busybox, under the names of all its applets.
    Busybox {
        /// Files of the host's besides; what is a program comes with the libraries that it loads.
        files: &'static [&'static str],
    },
    /// A minimal Debian and packages.
    Debian {
        /// Debian's suite.
        suite: &'static str,
        /// Packages, without what they recommend.
        packages: &'static [&'static str],
    },
}

impl Recipe {
    /// What identifies the outcome.
    fn hash(&self, authorities: &[(String, Vec<u8>)]) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{BUILDER} {} {self:?}", std::env::consts::ARCH));
        if self.takes_authorities() {
            for (name, certificate) in authorities {
                hash.update(format!("\n{name} {}\n", certificate.len()));
                hash.update(certificate);
            }
        }
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    fn takes_authorities(&self) -> bool {
        matches!(self.base, Base::Debian { .. })
    }
}

/// An image made from a recipe.
pub(super) struct Image(pub(super) Recipe);

impl Image {
    fn hash(&self) -> String {
        self.0.hash(&authorities())
    }

    fn build(&self, hash: &str, tarball: &Path, step: &Step) -> Result<(), SetupError> {
        let images = images_dir();
        make_dir(&images)?;
        let work = tempfile::Builder::new()
            .prefix(BUILD_PREFIX)
            .tempdir_in(&images)
            .map_err(io_error(&images, "create a directory in it"))?;
        let build = Build { root: work.path().join("rootfs"), log: log_of(self.0.alias), step };
        make_dir(&build.root)?;
        match &self.0.base {
            Base::Busybox { files } => build.busybox(files)?,
            Base::Debian { suite, packages } => build.debian(suite, packages)?,
        }
        build.finish(&self.0)?;
        step.say("packing");
        self.describe(work.path(), hash)?;
        let partial = tarball.with_extension("partial");
        Cmd::new("tar")
            .arg("-C")
            .arg(work.path())
            .args(["--numeric-owner", "--sort=name", "--exclude=rootfs/dev/*", "-I", "zstd -q -T0 -3", "-cf"])
            .arg(&partial)
            .args(["metadata.yaml", "templates", "rootfs"])
            .limit(Duration::from_secs(600))
            .logged(&build.log)?;
        std::fs::rename(&partial, tarball).map_err(io_error(tarball, "move the image here"))?;
        work.close().map_err(io_error(&images, "remove the build's directory"))
    }

    /// Writes what Incus wants to know about an image beside its root.
    fn describe(&self, dir: &Path, hash: &str) -> Result<(), SetupError> {
        let recipe = &self.0;
        let (os, release) = match recipe.base {
            Base::Busybox { .. } => ("busybox", "1"),
            Base::Debian { suite, .. } => ("debian", suite),
        };
        let hostname = json!({ "when": ["create", "copy"], "template": "hostname.tpl" });
        let hosts = json!({ "when": ["create", "copy"], "template": "hosts.tpl" });
        let metadata = json!({
            "architecture": std::env::consts::ARCH,
            "creation_date": std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_secs()),
            "properties": {
                "architecture": std::env::consts::ARCH,
                "description": recipe.description,
                "os": os,
                "release": release,
                RECIPE_KEY: hash,
            },
            "templates": { "/etc/hostname": hostname, "/etc/hosts": hosts },
        });
        let templates = dir.join("templates");
        make_dir(&templates)?;
        // JSON is YAML.
        write(&dir.join("metadata.yaml"), 0o644, &metadata.to_string())?;
        write(&templates.join("hostname.tpl"), 0o644, "{{ container.name }}\n")?;
        write(
            &templates.join("hosts.tpl"),
            0o644,
            "127.0.0.1 localhost {{ container.name }}\n::1 localhost ip6-localhost ip6-loopback\n",
        )
    }
}

impl Item for Image {
    fn name(&self) -> &'static str {
        self.0.alias
    }

    fn needs(&self) -> &'static [&'static str] {
        &["packages", "incus"]
    }

    fn system(&self) -> bool {
        true
    }

    fn by_hand(&self) -> String {
        format!("see {}, then run this again", log_of(self.0.alias).display())
    }

    fn look(&self) -> Result<Found, SetupError> {
        if !incus::answers() {
            return Ok(Found::Missing("needs a running Incus".into()));
        }
        let hash = self.hash();
        let images = incus::list("/1.0/images?recursion=1")?;
        Ok(match holder(&images, self.0.alias) {
            Some(image) if recipe(image) == Some(&hash) => {
                let size = image["size"].as_f64().unwrap_or_default() / 1e6;
                Found::Present(format!("{size:.1} MB, recipe {}", &hash[..12]))
            }
            Some(image) if recipe(image).is_some() => {
                Found::Missing("an older recipe's image is there".into())
            }
            Some(_) => {
                return Err(SetupError::Incus(format!(
                    "the image with the alias {0} was not made by COI; rename the alias: \
                     incus image alias rename {0} NEW-NAME",
                    self.0.alias
                )));
            }
            None => Found::Missing(format!("an image {}", self.0.alias)),
        })
    }

    fn make(&self, step: &Step) -> Result<String, SetupError> {
        let (alias, hash) = (self.0.alias, self.hash());
        let tarball = images_dir().join(format!("{alias}-{hash}.tar.zst"));
        let images = incus::list("/1.0/images?recursion=1")?;
        let same = images.iter().find(|image| recipe(image) == Some(&hash));
        let fingerprint = match same.and_then(|image| image["fingerprint"].as_str()) {
            Some(fingerprint) => fingerprint.to_owned(),
            None => {
                if !tarball.exists() {
                    self.build(&hash, &tarball, step)?;
                }
                step.say("importing into Incus");
                import(&tarball)?;
                let images = incus::list("/1.0/images?recursion=1")?;
                let imported = images.iter().find(|image| recipe(image) == Some(&hash));
                imported.and_then(|image| image["fingerprint"].as_str()).map(str::to_owned).ok_or_else(
                    || incus::not_understood("/1.0/images", "the image just imported is not in it"),
                )?
            }
        };
        // Only an image of ours can hold the alias here: `look` refuses another.
        if let Some(old) = holder(&images, alias).and_then(|image| image["fingerprint"].as_str()) {
            incus::query("DELETE", &format!("/1.0/images/aliases/{alias}"), None)?;
            if old != fingerprint {
                incus::query("DELETE", &format!("/1.0/images/{old}"), None)?;
            }
        }
        let target = json!({ "name": alias, "target": fingerprint, "description": self.0.description });
        incus::query("POST", "/1.0/images/aliases", Some(&target))?;
        forget_others(alias, &tarball);
        Ok(format!("image {}, recipe {}", &fingerprint[..fingerprint.len().min(12)], &hash[..12]))
    }
}

/// The image that an alias stands for.
fn holder<'a>(images: &'a [Value], alias: &str) -> Option<&'a Value> {
    images
        .iter()
        .find(|image| image["aliases"].as_array().into_iter().flatten().any(|have| have["name"] == alias))
}

/// The hash of the recipe that an image was made from.
fn recipe(image: &Value) -> Option<&String> {
    match &image["properties"][RECIPE_KEY] {
        Value::String(hash) => Some(hash),
        _ => None,
    }
}

fn images_dir() -> PathBuf {
    Path::new(STATE).join("images")
}

fn log_of(alias: &str) -> PathBuf {
    images_dir().join(format!("{alias}.log"))
}

fn import(tarball: &Path) -> Result<(), SetupError> {
    Cmd::new("incus")
        // The user's client may be switched to another project.
        .args(["image", "import", "--quiet", "--project", "default"])
        .arg(tarball)
        .arg("local:")
        .limit(Duration::from_secs(300))
        .output()?;
    Ok(())
}

/// Removes the tarballs of earlier recipes, and what a build that was killed left.
fn forget_others(alias: &str, current: &Path) {
    let tarball = format!("{alias}-");
    for entry in std::fs::read_dir(images_dir()).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        // A file too many is no reason to fail.
        let _removed = if name.starts_with(BUILD_PREFIX) {
            std::fs::remove_dir_all(path)
        } else if name.starts_with(&tarball) && path != current {
            std::fs::remove_file(path)
        } else {
            Ok(())
        };
    }
}

/// The certificate authorities that were added to this machine, by name: behind a proxy that opens TLS, programs in a
/// container need them as well.
fn authorities() -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(EXTRA_CAS).into_iter().flatten().flatten();
    let mut found: Vec<_> = files
        .filter(|entry| entry.path().extension() == Some(OsStr::new("crt")))
        .filter_map(|entry| {
            Some((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).ok()?))
        })
        .collect();
    found.sort();
    found
}

/// An image's root under construction.
struct Build<'a> {
    root: PathBuf,
    log: PathBuf,
    step: &'a Step,
}

impl Build<'_> {
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn busybox(&self, files: &[&str]) -> Result<(), SetupError> {
        let bin = self.at("/bin");
        make_dir(&bin)?;
        let busybox = bin.join("busybox");
        std::fs::copy("/bin/busybox", &busybox).map_err(io_error("/bin/busybox", "copy this file"))?;
        for applet in Cmd::new(&busybox).arg("--list").output()?.lines().filter(|applet| *applet != "busybox")
        {
            let path = bin.join(applet);
            symlink("/bin/busybox", &path).map_err(io_error(path, "create this link"))?;
        }
        for file in files {
            self.copy(file.as_ref())?;
            if file.starts_with("/usr/bin/") {
                let loaded = Cmd::new("ldd").arg(file).output()?;
                libraries(&loaded).try_for_each(|library| self.copy(library.as_ref()))?;
            }
        }
        Ok(())
    }

    /// Brings a file of the host along, in the same place.
    fn copy(&self, from: &Path) -> Result<(), SetupError> {
        let to = self.at(&from.to_string_lossy());
        if let Some(dir) = to.parent() {
            make_dir(dir)?;
        }
        // In place of busybox's applet, if there is one: not through the link.
        if to.symlink_metadata().is_ok() {
            std::fs::remove_file(&to).map_err(io_error(&to, "replace this file"))?;
        }
        std::fs::copy(from, &to).map_err(io_error(from, "copy this file"))?;
        Ok(())
    }

    fn debian(&self, suite: &str, packages: &[&str]) -> Result<(), SetupError> {
        self.step.say(format!("debootstrap of Debian {suite}, about a minute"));
        let release = Release::of_machine()?;
        // Elsewhere than on Debian, debootstrap knows a mirror.
        let sources = if release.id == "debian" { Source::of_debian() } else { Vec::new() };
        let mirror = mirror_of(&sources, &release.codename).map(|source| source.uri.as_str());
        apart()
            .args(["debootstrap", "--variant=minbase", "--include=ca-certificates", suite])
            .arg(&self.root)
            .args(mirror)
            .limit(Duration::from_secs(900))
            .logged(&self.log)?;
        if let Some(text) = sources_for(suite, &sources, &release.codename) {
            let old = self.at("/etc/apt/sources.list");
            std::fs::remove_file(&old).map_err(io_error(old, "remove this file"))?;
            write(&self.at("/etc/apt/sources.list.d/debian.sources"), 0o644, &text)?;
        }
        for (name, certificate) in authorities() {
            let path = self.at(EXTRA_CAS).join(name);
            std::fs::write(&path, certificate).map_err(io_error(path, "write this file"))?;
        }
        // Nothing is to start in a chroot, and a root that is thrown away on failure needs no fsync.
        let policy = self.at("/usr/sbin/policy-rc.d");
        write(&policy, 0o755, "#!/bin/sh\nexit 101\n")?;
        let unsafe_io = self.at("/etc/dpkg/dpkg.cfg.d/coi-build");
        write(&unsafe_io, 0o644, "force-unsafe-io\n")?;
        write(&self.at("/etc/dpkg/dpkg.cfg.d/coi"), 0o644, LEAN)?;
        self.step.say(format!("installing {} packages and what they need", packages.len()));
        self.inside(&["apt-get", "-q", "update"])?;
        let mut install = vec!["apt-get", "-q", "install", "--yes", "--no-install-recommends"];
        install.extend(packages);
        self.inside(&install)?;
        self.inside(&["apt-get", "clean"])?;
        for path in [policy, unsafe_io] {
            std::fs::remove_file(&path).map_err(io_error(path, "remove this file"))?;
        }
        Ok(())
    }

    fn finish(&self, recipe: &Recipe) -> Result<(), SetupError> {
        for (path, mode, owner) in recipe.dirs {
            let path = self.at(path);
            make_dir(&path)?;
            std::fs::set_permissions(&path, Permissions::from_mode(*mode))
                .and_then(|()| chown(&path, Some(*owner), Some(*owner)))
                .map_err(io_error(path, "set its mode and owner"))?;
        }
        for (path, mode, text) in recipe.files {
            write(&self.at(path), *mode, text)?;
        }
        for (path, target) in recipe.links {
            let path = self.at(path);
            if let Some(dir) = path.parent() {
                make_dir(dir)?;
            }
            if path.symlink_metadata().is_ok() {
                std::fs::remove_file(&path).map_err(io_error(&path, "replace this file"))?;
            }
            symlink(target, &path).map_err(io_error(path, "create this link"))?;
        }
        for command in recipe.commands {
            self.inside(command)?;
        }
        for path in recipe.remove {
            let path = self.at(path);
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.map_err(io_error(path, "remove this"))?;
        }
        Ok(())
    }

    /// Runs a command in the root.
    fn inside(&self, command: &[&str]) -> Result<(), SetupError> {
        let mut proc = OsString::from("--mount-proc=");
        proc.push(self.at("/proc"));
        apart()
            .arg(proc)
            .arg("chroot")
            .arg(&self.root)
            .args(command)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .limit(Duration::from_secs(1200))
            .logged(&self.log)?;
        Ok(())
    }
}

/// The libraries that a program loads, its loader among them, as `ldd` says it. What the kernel brings along has no path.
fn libraries(said: &str) -> impl Iterator<Item = &str> {
    said.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

/// What runs the command that follows in namespaces of its own: whatever it leaves running or mounted ends with it.
fn apart() -> Cmd {
    Cmd::new("unshare").args(["--mount", "--pid", "--fork", "--kill-child"])
}

/// apt's sources for a suite of Debian and its updates, on the mirrors that this machine's own suite comes from.
fn sources_for(suite: &str, sources: &[Source], codename: &str) -> Option<String> {
    let stanzas: Vec<String> = sources
        .iter()
        .filter_map(|source| {
            let suites: Vec<String> = source
                .suites
                .iter()
                .filter_map(|have| have.strip_prefix(codename))
                .filter(|rest| ["", "-updates", "-security"].contains(rest))
                .map(|rest| format!("{suite}{rest}"))
                .collect();
            (!suites.is_empty()).then(|| {
                format!(
                    "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nSigned-By: {DEBIAN_KEYRING}\n",
                    source.uri,
                    suites.join(" ")
                )
            })
        })
        .collect();
    (!stanzas.is_empty()).then(|| stanzas.join("\n"))
}

/// Left out by dpkg, in the image too: nothing there can show them.
const LEAN: &str = "path-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n\
                    path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n";

fn write(path: &Path, mode: u32, text: &str) -> Result<(), SetupError> {
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    std::fs::write(path, text)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(mode)))
        .map_err(io_error(path, "write this file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_known_by_what_goes_in() {
        let (tiny, debian) = (super::super::image_tiny::RECIPE, super::super::image_debian::RECIPE);
        let one = [("a.crt".to_owned(), b"x".to_vec())];
        let two = [("a.crt".to_owned(), b"y".to_vec())];
        assert_eq!(debian.hash(&one), debian.hash(&one));
        assert_ne!(debian.hash(&one), debian.hash(&two));
        assert_ne!(debian.hash(&[]), tiny.hash(&[]));
        assert_eq!(tiny.hash(&one), tiny.hash(&two), "busybox takes no certificates");
        let other = Recipe { description: "another", ..super::super::image_tiny::RECIPE };
        assert_ne!(other.hash(&[]), tiny.hash(&[]));
        assert_eq!(tiny.hash(&[]).len(), 32);
    }

    #[test]
    fn an_image_gets_the_machines_mirrors() {
        let source = |uri: &str, suites: &[&str]| Source {
            uri: uri.into(),
            suites: suites.iter().map(|suite| (*suite).into()).collect(),
        };
        let sources = [
            source("http://m.test", &["trixie", "trixie-updates", "trixie-backports"]),
            source("http://other.test", &["stable"]),
            source("http://s.test", &["trixie-security"]),
        ];
        let text = sources_for("bookworm", &sources, "trixie").unwrap();
        assert!(text.contains("URIs: http://m.test\nSuites: bookworm bookworm-updates\n"), "{text}");
        assert!(text.contains("URIs: http://s.test\nSuites: bookworm-security\n"), "{text}");
        assert!(!text.contains("other"), "{text}");
        assert_eq!(sources_for("bookworm", &[], "trixie"), None);
    }

    #[test]
    fn a_programs_libraries_are_found() {
        let said = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\t/lib64/ld.so.2 (0x7f)\n";
        assert_eq!(libraries(said).collect::<Vec<_>>(), ["/lib/x/libc.so.6", "/lib64/ld.so.2"]);
    }

    #[test]
    fn images_are_told_apart() {
        let images = [
            json!({ "aliases": [{ "name": "other" }], "properties": null }),
            json!({ "aliases": [{ "name": "coi-tiny" }], "properties": { RECIPE_KEY: "h" } }),
        ];
        assert_eq!(holder(&images, "coi-tiny").and_then(recipe).unwrap(), "h");
        assert_eq!(holder(&images, "other").and_then(recipe), None);
        assert_eq!(holder(&images, "none"), None);
    }
}
