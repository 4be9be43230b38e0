//! Other kernels, and the machine to run them on: only for `cargo xtask test --kernel`.
//!
//! Promises: the kernels are Debian's own, unpacked below the state directory and never installed, so that nothing is
//! booted from them but QEMU; of each package only the kernel itself is kept. Backports are an extra: where apt has none,
//! there is one kernel less.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::apt::{self, Release, Source};
use super::rust::madison;
use super::{Found, Item, Kernel, STATE, SetupError, io_error, make_dir};
use crate::run::{Cmd, Step, on_path};

/// What depends on the current kernel of each suite.
const CURRENT: &str = "linux-image-amd64";
/// What the names of its packages begin with; the kernel's release follows.
const IMAGE: &str = "linux-image-";
/// What the file's name begins with; the kernel's release follows.
const FILE: &str = "vmlinuz-";
/// What is in every version that was made for an older release.
const BACKPORT: &str = "~bpo";

/// The emulator.
pub(super) struct Qemu;

impl Qemu {
    /// Where the machine has backports, its other packages of QEMU may be of there, and they do not mix.
    fn suite() -> Option<String> {
        let suite = format!("{}-backports", Release::of_machine().ok()?.codename);
        Source::of_machine().iter().any(|source| source.suites.contains(&suite)).then_some(suite)
    }

    fn arguments() -> Vec<String> {
        let suite = Self::suite().map(|suite| vec!["-t".to_owned(), suite]).unwrap_or_default();
        let install = ["install", "--yes", "--no-install-recommends"].map(str::to_owned);
        [install.to_vec(), suite, vec!["qemu-system-x86".to_owned()]].concat()
    }
}

impl Item for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn system(&self) -> bool {
        true
    }

    fn by_hand(&self) -> String {
        format!("apt-get {}", Self::arguments().join(" "))
    }

    fn look(&self) -> Result<Found, SetupError> {
        let there = on_path("qemu-system-x86_64");
        Ok(if there { Found::Present("installed".into()) } else { Found::Missing("qemu-system-x86".into()) })
    }

    fn make(&self, step: &Step) -> Result<String, SetupError> {
        need_apt("qemu-system-x86")?;
        let log = Path::new(STATE).join("apt.log");
        update(step, &log)?;
        step.say("installing qemu-system-x86");
        apt::apt_get().args(Self::arguments()).limit(Duration::from_secs(1200)).logged(&log)?;
        Ok("qemu-system-x86".into())
    }
}

/// The current kernel of a suite.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Image {
    /// The one that the release comes with.
    Stock,
    /// A later release's.
    Backports,
}

impl Image {
    fn dir(self) -> PathBuf {
        let name = match self {
            Self::Stock => "stock",
            Self::Backports => "backports",
        };
        Path::new(STATE).join("kernels").join(name)
    }

    /// The kernel, if it is there.
    pub(super) fn kernel(self) -> Option<Kernel> {
        let entries = fs::read_dir(self.dir()).ok()?.flatten();
        entries.map(|entry| entry.path()).find_map(|path| {
            let version = path.file_name()?.to_str()?.strip_prefix(FILE)?.to_owned();
            Some(Kernel { version, image: path })
        })
    }

    /// The version of [`CURRENT`], of which apt lists the latest first.
    fn version(self) -> Result<Option<String>, SetupError> {
        let wanted = |version: &String| version.contains(BACKPORT) == (self == Self::Backports);
        Ok(versions(CURRENT)?.into_iter().find(wanted))
    }
}

impl Item for Image {
    fn name(&self) -> &'static str {
        match self {
            Self::Stock => "stock kernel",
            Self::Backports => "backports kernel",
        }
    }

    fn system(&self) -> bool {
        true
    }

    fn by_hand(&self) -> String {
        format!(
            "apt-get download the package that {CURRENT} depends on, unpack it with dpkg -x, and put its vmlinuz into \
             {} as {FILE}RELEASE",
            self.dir().display()
        )
    }

    fn look(&self) -> Result<Found, SetupError> {
        if let Some(kernel) = self.kernel() {
            return Ok(Found::Present(kernel.version));
        }
        if *self == Self::Backports && (!on_path("apt-cache") || self.version()?.is_none()) {
            return Ok(Found::Present("none to be had; done without".into()));
        }
        Ok(Found::Missing(format!("no kernel in {}", self.dir().display())))
    }

    fn make(&self, step: &Step) -> Result<String, SetupError> {
        need_apt(CURRENT)?;
        update(step, &Path::new(STATE).join("apt.log"))?;
        let unavailable = |what: String| SetupError::Unavailable { what };
        let version = self.version()?.ok_or_else(|| unavailable(format!("apt knows no {CURRENT}")))?;
        let current = format!("{CURRENT}={version}");
        let shown = Cmd::new("apt-cache").args(["show", "--no-all-versions", &current]).output()?;
        let package =
            depends(&shown).ok_or_else(|| unavailable(format!("{current} depends on no kernel")))?;
        let release = package.trim_start_matches(IMAGE);
        // In later releases of Debian that package only names the one that holds the kernel.
        let binary = format!("linux-binary-{release}");
        let package = if versions(&binary)?.is_empty() { package } else { &binary };
        step.say(format!("downloading {package}"));
        let work = tempfile::tempdir_in(STATE).map_err(io_error(STATE, "create a directory in it"))?;
        let download = apt::apt_get().args(["-oAPT::Sandbox::User=root", "download", package]);
        download.dir(work.path()).limit(Duration::from_secs(600)).output()?;
        step.say(format!("unpacking {package}"));
        let mut entries = fs::read_dir(work.path()).map_err(io_error(work.path(), "read this directory"))?;
        let file = entries.find_map(|entry| Some(entry.ok()?.path()));
        let file = file.ok_or_else(|| unavailable(format!("apt-get downloaded no {package}")))?;
        let unpacked = work.path().join("unpacked");
        Cmd::new("dpkg").arg("-x").arg(&file).arg(&unpacked).limit(Duration::from_secs(300)).output()?;
        let places = [format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")];
        let image = places.map(|place| unpacked.join(place)).into_iter().find(|image| image.is_file());
        let image = image.ok_or_else(|| unavailable(format!("{package} holds no kernel")))?;
        make_dir(&self.dir())?;
        let target = self.dir().join(format!("{FILE}{release}"));
        fs::rename(&image, &target).map_err(io_error(&target, "move the kernel here"))?;
        Ok(format!("{package} {version}"))
    }
}

/// The kernels that there are.
pub(super) fn kernels() -> Vec<Kernel> {
    [Image::Stock, Image::Backports].into_iter().filter_map(Image::kernel).collect()
}

/// The package that is named first in `Depends: linux-image-6.1.0-1-amd64 (= 6.1.1-1)`.
fn depends(shown: &str) -> Option<&str> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends.split([' ', ',']).find(|word| word.starts_with(IMAGE))
}

/// The versions of a package that apt knows.
fn versions(package: &str) -> Result<Vec<String>, SetupError> {
    Ok(madison(&Cmd::new("apt-cache").args(["madison", package]).output()?))
}

fn need_apt(packages: &str) -> Result<(), SetupError> {
    let there = on_path("apt-get") && on_path("dpkg");
    there.then_some(()).ok_or_else(|| SetupError::NoApt { packages: packages.to_owned() })
}

/// Old lists name packages that are on no mirror any more.
fn update(step: &Step, log: &Path) -> Result<(), SetupError> {
    step.say("updating apt's package lists");
    Ok(apt::apt_get().arg("update").limit(Duration::from_secs(300)).logged(log)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_that_is_depended_on() {
        let shown =
            "Package: linux-image-amd64\nVersion: 6.1.2-1\nDepends: linux-image-6.1.0-1-amd64 (= 6.1.2-1)\n";
        assert_eq!(depends(shown), Some("linux-image-6.1.0-1-amd64"));
        assert_eq!(depends("Package: x\n"), None);
    }
}
