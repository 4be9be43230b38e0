//! A place where a script in the workspace waits for its test.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::{Coi, DEADLINE, USER};

/// A named pipe. The script that says `read x <NAME` goes on when the test has opened it.
#[derive(Debug)]
pub struct Gate(PathBuf);

/// A gate at which a script stands.
#[derive(Debug)]
pub struct Reached(File);

impl Gate {
    /// Makes one in the workspace.
    pub fn new(coi: &Coi, name: &str) -> Self {
        let path = coi.workspace().join(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        chown(&path, Some(USER), Some(USER)).unwrap();
        Self(path)
    }

    /// Waits until the script stands at it.
    #[track_caller]
    pub fn reached(self) -> Reached {
        let (to, opened) = channel();
        let path = self.0.clone();
        thread::spawn(move || to.send(OpenOptions::new().write(true).open(path).unwrap()));
        let Ok(file) = opened.recv_timeout(DEADLINE) else {
            panic!("nobody came to {} within {DEADLINE:?}", self.0.display());
        };
        Reached(file)
    }
}

impl Reached {
    /// Lets the script go on.
    pub fn open(mut self) {
        self.0.write_all(b"\n").unwrap();
    }
}
