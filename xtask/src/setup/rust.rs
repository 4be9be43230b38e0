//! What compiling eBPF with stable Rust needs: the sources of `core`, and the linker for BPF.
//!
//! Promises: the sources are those of exactly the installed rustc, since a neighbouring version does not compile; they
//! are in the toolchain or, where that has none, in `$XDG_CACHE_HOME/coi/rust-src-VERSION/library`, which is where
//! `coi/build.rs` looks too. apt's own configuration and state are not touched for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apt::{self, Release, Source};
use super::{Found, Item, SetupError, io_error, make_dir};
use crate::run::{Cmd, Step, on_path};

/// Opens rustc 1.95's LLVM; see the workspace's aya versions, which go with it.
const BPF_LINKER: &str = "0.10.4";

/// Suites of Debian that carry recent versions of Rust.
const DEBIAN_SUITES: [&str; 2] = ["trixie-backports", "unstable"];

/// The sources of Rust's `core` library.
pub(super) struct RustSrc;

impl Item for RustSrc {
    fn name(&self) -> &'static str {
        "rust-src"
    }

    fn system(&self) -> bool {
        false
    }

    fn by_hand(&self) -> String {
        "rustup component add rust-src".into()
    }

    fn look(&self) -> Result<Found, SetupError> {
        let version = rustc_version()?;
        let own = Some(sysroot_library()?).filter(|library| is_library(library));
        Ok(match own.or_else(cached_library) {
            Some(library) => Found::Present(format!("{version} in {}", library.display())),
            None => Found::Missing(format!("the sources of Rust {version}")),
        })
    }

    fn make(&self, step: &Step) -> Result<String, SetupError> {
        let version = rustc_version()?;
        step.say("asking rustup for the component rust-src");
        let by_rustup = rustup();
        if by_rustup.is_ok() && is_library(&sysroot_library()?) {
            return Ok(format!("{version} by rustup"));
        }
        let debian = from_debian(&version, step);
        match (debian, by_rustup) {
            (Ok(library), _) => Ok(format!("{version} from Debian in {}", library.display())),
            (Err(debian), Err(rustup)) => Err(SetupError::Unavailable {
                what: format!("not from rustup: {rustup}\nand not from Debian: {debian}"),
            }),
            (Err(debian), Ok(())) => Err(debian),
        }
    }
}

/// The linker that turns LLVM bitcode into BPF.
pub(super) struct BpfLinker;

impl Item for BpfLinker {
    fn name(&self) -> &'static str {
        "bpf-linker"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["packages"]
    }

    fn system(&self) -> bool {
        false
    }

    fn by_hand(&self) -> String {
        format!("cargo install bpf-linker --version {BPF_LINKER} --locked")
    }

    fn look(&self) -> Result<Found, SetupError> {
        let program = cargo_bin().map(|bin| bin.join("bpf-linker")).filter(|program| program.is_file());
        let program = program.unwrap_or_else(|| "bpf-linker".into());
        let version = Cmd::new(&program).arg("--version").output();
        Ok(match version.ok().as_deref().and_then(version_in) {
            Some(BPF_LINKER) => Found::Present(format!("{BPF_LINKER} in {}", program.display())),
            Some(other) => Found::Missing(format!("version {BPF_LINKER} (there is {other})")),
            None => Found::Missing(format!("version {BPF_LINKER}")),
        })
    }

    fn make(&self, step: &Step) -> Result<String, SetupError> {
        step.say(format!("compiling bpf-linker {BPF_LINKER}, about two minutes"));
        let log = cache_dir()?.join("bpf-linker.log");
        let target = cache_dir()?.join("bpf-linker-build");
        make_dir(&target)?;
        // A target directory of its own: that of the caller may be locked by a build that waits for this one.
        Cmd::new("cargo")
            .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"])
            .env("CARGO_TARGET_DIR", &target)
            .dir(&target)
            .limit(Duration::from_secs(1800))
            .logged(&log)?;
        std::fs::remove_dir_all(&target).map_err(io_error(&target, "remove this directory"))?;
        Ok(BPF_LINKER.into())
    }
}

/// The version of the rustc that builds this workspace.
fn rustc_version() -> Result<String, SetupError> {
    let printed = Cmd::new("rustc").arg("--version").output()?;
    version_in(&printed).map(str::to_owned).ok_or_else(|| SetupError::Unavailable {
        what: format!(
            "`rustc --version` printed no version but `{}`; reinstall the toolchain",
            printed.trim()
        ),
    })
}

/// The second word of `rustc 1.95.0 (hash date)` and the like, if it is a version.
fn version_in(printed: &str) -> Option<&str> {
    printed.split_whitespace().nth(1).filter(|word| word.starts_with(|first: char| first.is_ascii_digit()))
}

/// The sources in the cache, if they are needed: where the toolchain has its own, cargo finds them.
pub(super) fn cached_library() -> Option<PathBuf> {
    let cached = cache_dir().ok()?.join(format!("rust-src-{}/library", rustc_version().ok()?));
    (!is_library(&sysroot_library().ok()?) && is_library(&cached)).then_some(cached)
}

fn sysroot_library() -> Result<PathBuf, SetupError> {
    let sysroot = Cmd::new("rustc").args(["--print", "sysroot"]).output()?;
    Ok(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library"))
}

/// Whether a directory holds what `-Z build-std=core` reads.
fn is_library(library: &Path) -> bool {
    ["Cargo.lock", "core/src/lib.rs", "alloc/src/lib.rs"].iter().all(|file| library.join(file).is_file())
}

fn cache_dir() -> Result<PathBuf, SetupError> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME")
        .or_else(|| Some(set("HOME")?.join(".cache")))
        .map(|cache| cache.join("coi"))
        .ok_or_else(|| SetupError::Unavailable {
            what: "neither XDG_CACHE_HOME nor HOME is set; set one of them".into(),
        })
}

fn cargo_bin() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .map(|home| home.join("bin"))
}

fn rustup() -> Result<(), SetupError> {
    // rustup would retry an unreachable server for minutes.
    Cmd::new("rustup")
        .args(["component", "add", "rust-src"])
        .env("RUSTUP_MAX_RETRIES", "0")
        .limit(Duration::from_secs(60))
        .output()?;
    Ok(())
}

/// Unpacks Debian's package of exactly that version into the cache.
fn from_debian(version: &str, step: &Step) -> Result<PathBuf, SetupError> {
    if !(on_path("apt-get") && on_path("dpkg")) || Release::of_machine()?.id != "debian" {
        return Err(SetupError::Unavailable { what: "this machine is not a Debian".into() });
    }
    let sources = Source::of_debian();
    let codename = Release::of_machine()?.codename;
    let mirror = apt::mirror_of(&sources, &codename).ok_or_else(|| SetupError::Unavailable {
        what: format!("apt has no source for `{codename}` to take the mirror from"),
    })?;
    let cache = cache_dir()?;
    make_dir(&cache)?;
    let work = tempfile::tempdir_in(&cache).map_err(io_error(&cache, "create a directory in it"))?;
    let mut seen = Vec::new();
    for suite in DEBIAN_SUITES {
        step.say(format!("looking for rust-src {version} in Debian's {suite}"));
        let apt = PrivateApt::new(&work.path().join(suite), &mirror.uri, suite)?;
        let offered = apt.versions("rust-src")?;
        let Some(package) = offered.iter().find(|offered| upstream(offered) == version) else {
            seen.extend(offered.into_iter().map(|offered| format!("{offered} in {suite}")));
            continue;
        };
        step.say(format!("downloading rust-src {package}"));
        return unpack(
            &apt.download("rust-src", package)?,
            work.path(),
            &cache.join(format!("rust-src-{version}")),
        );
    }
    Err(SetupError::Unavailable {
        what: format!("Debian has no rust-src of exactly {version} (it has {})", seen.join(", ")),
    })
}

/// The upstream part of a Debian version such as `1.95.0+dfsg1-1~bpo13+1`.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    &version[..version.find(['+', '-']).unwrap_or(version.len())]
}

fn unpack(package: &Path, work: &Path, target: &Path) -> Result<PathBuf, SetupError> {
    let unpacked = work.join("unpacked");
    Cmd::new("dpkg").arg("-x").arg(package).arg(&unpacked).limit(Duration::from_secs(120)).output()?;
    let sources = unpacked.join("usr/src");
    let found = std::fs::read_dir(&sources)
        .map_err(io_error(&sources, "read this directory"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| is_library(&path.join("library")))
        .ok_or_else(|| SetupError::Unavailable {
            what: format!("{} holds no Rust library sources", package.display()),
        })?;
    // The compiler's own sources are ten times as large, and nobody reads them.
    let library = target.join("library");
    if library.exists() {
        std::fs::remove_dir_all(&library).map_err(io_error(&library, "remove this directory"))?;
    }
    make_dir(target)?;
    std::fs::rename(found.join("library"), &library).map_err(io_error(&library, "move the sources here"))?;
    Ok(library)
}

/// apt with directories of its own: nothing of the machine's configuration of sources is read or changed.
struct PrivateApt {
    dir: PathBuf,
}

impl PrivateApt {
    fn new(dir: &Path, mirror: &str, suite: &str) -> Result<Self, SetupError> {
        for part in ["state/lists/partial", "cache/archives/partial"] {
            make_dir(&dir.join(part))?;
        }
        let list = dir.join("sources.list");
        std::fs::write(&list, format!("deb [signed-by={}] {mirror} {suite} main\n", apt::DEBIAN_KEYRING))
            .map_err(io_error(&list, "write this file"))?;
        let apt = Self { dir: dir.to_owned() };
        apt.command("apt-get").arg("update").limit(Duration::from_secs(180)).output()?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Cmd {
        let dir = self.dir.display();
        Cmd::new(program).dir(&self.dir).args([
            "-q".to_owned(),
            format!("-oDir::Etc::sourcelist={dir}/sources.list"),
            "-oDir::Etc::sourceparts=-".to_owned(),
            format!("-oDir::State={dir}/state"),
            "-oDir::State::status=/var/lib/dpkg/status".to_owned(),
            format!("-oDir::Cache={dir}/cache"),
            // The downloader's own user cannot enter a cache below a private home directory.
            "-oAPT::Sandbox::User=root".to_owned(),
        ])
    }

    fn versions(&self, package: &str) -> Result<Vec<String>, SetupError> {
        let table = self.command("apt-cache").args(["madison", package]).output()?;
        Ok(madison(&table))
    }

    fn download(&self, package: &str, version: &str) -> Result<PathBuf, SetupError> {
        self.command("apt-get")
            .arg("download")
            .arg(format!("{package}={version}"))
            .limit(Duration::from_secs(600))
            .output()?;
        std::fs::read_dir(&self.dir)
            .map_err(io_error(&self.dir, "read this directory"))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .ok_or_else(|| SetupError::Unavailable {
                what: format!("apt-get did not download {package} {version}"),
            })
    }
}

/// The versions in what `apt-cache madison` prints: `package | version | source`.
pub(super) fn madison(table: &str) -> Vec<String> {
    table.lines().filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_programs() {
        assert_eq!(version_in("rustc 1.95.0 (59807616e 2026-04-14)\n"), Some("1.95.0"));
        assert_eq!(version_in("bpf-linker 0.10.4\n"), Some("0.10.4"));
        assert_eq!(version_in("command not found"), None);
        assert_eq!(version_in(""), None);
    }

    #[test]
    fn upstream_versions() {
        assert_eq!(upstream("1.95.0+dfsg1-1~bpo13+1"), "1.95.0");
        assert_eq!(upstream("1:1.95.0-2"), "1.95.0");
        assert_eq!(upstream("1.95.0~beta.2+dfsg1-1"), "1.95.0~beta.2", "a beta is another version");
        assert_eq!(upstream("1.95.0"), "1.95.0");
    }

    #[test]
    fn versions_of_packages() {
        let table =
            "  rust-src | 1.95.0+dfsg1-1~bpo13+1 | http://m.test trixie-backports/main amd64 Packages\n";
        assert_eq!(madison(table), ["1.95.0+dfsg1-1~bpo13+1"]);
        assert!(madison("").is_empty());
    }
}
