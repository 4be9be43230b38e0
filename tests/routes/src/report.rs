//! What a route did, as one line of JSON, and where it did it.

use std::env;
use std::fmt::{Display, Write as _};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::sys::{Errno, Result};

/// What a route really did, whatever anybody saw of it.
#[derive(Debug)]
pub(crate) struct Report {
    errno: i32,
    pid: u32,
    facts: String,
}

impl Report {
    /// Of the call that is the act.
    pub(crate) fn of<T>(result: Result<T>) -> Self {
        let errno = result.err().map_or(0, |Errno(errno)| errno);
        Self { errno, pid: std::process::id(), facts: String::new() }
    }

    /// The process that acted, if it is not this one: its id in its own PID namespace.
    pub(crate) fn pid(mut self, pid: u32) -> Self {
        self.pid = pid;
        self
    }

    /// One more fact in words.
    pub(crate) fn text(mut self, key: &str, value: impl Display) -> Self {
        let _ = write!(self.facts, ",\"{key}\":\"{value}\"");
        self
    }

    /// One more number.
    pub(crate) fn number(mut self, key: &str, value: u64) -> Self {
        let _ = write!(self.facts, ",\"{key}\":{value}");
        self
    }

    /// A file of this name in the working directory.
    pub(crate) fn path(self, name: &str) -> Self {
        let path = absolute(name);
        self.text("path", path.display())
    }

    /// An address.
    pub(crate) fn address(self, address: SocketAddr) -> Self {
        self.text("ip", address.ip()).number("port", address.port().into())
    }

    /// The line. Names and paths have nothing in them that JSON would have to escape.
    pub(crate) fn json(&self, route: &str) -> String {
        let Self { errno, pid, facts } = self;
        let done = *errno == 0;
        format!("{{\"route\":\"{route}\",\"done\":{done},\"errno\":{errno},\"pid\":{pid}{facts}}}")
    }
}

/// A name in the working directory, as the kernel will know it.
pub(crate) fn absolute(name: &str) -> PathBuf {
    env::current_dir().unwrap().join(name)
}

/// A file for a route, in the working directory. It comes there by a rename, so that nobody has opened it under its
/// name before the route does.
pub(crate) fn file(name: &str, content: &[u8]) -> String {
    let (made, name) = (format!("new-{name}"), format!("at-{name}"));
    fs::write(&made, content).unwrap();
    fs::rename(made, &name).unwrap();
    name
}

/// A directory for a route.
pub(crate) fn directory(name: &str) -> String {
    let name = format!("in-{name}");
    fs::create_dir_all(&name).unwrap();
    name
}
