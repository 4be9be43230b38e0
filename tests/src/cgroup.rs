//! A cgroup without a container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::eventually;
use crate::incus::cgroups;

/// A cgroup of the test's own, which goes with what is in it.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes one; the name tells it from the test's others.
    pub fn make(name: &str) -> Self {
        Self::named(&format!("e2e-{name}-{}", std::process::id()))
    }

    /// One that is called as LXC calls those in which all of a container is.
    pub fn payload(name: &str) -> Self {
        Self::named(&format!("lxc.payload.e2e-{name}-{}", std::process::id()))
    }

    fn named(name: &str) -> Self {
        let path = cgroups().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.0.file_name().unwrap().to_string_lossy().into_owned()
    }

    /// A command that puts itself in before it does anything else.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("echo $$ >'{}/cgroup.procs' && {line}", self.0.display())]);
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::write(self.0.join("cgroup.kill"), "1").unwrap();
        eventually("the cgroup can go", || fs::remove_dir(&self.0).is_ok());
    }
}
