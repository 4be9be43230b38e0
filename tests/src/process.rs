//! Programs that are run to their end.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nix::libc::SIGKILL;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::DEADLINE;

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// What it was.
    pub command: String,
    /// Its exit code, or 128 + N if signal N ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub errors: Vec<u8>,
    /// The same as text.
    pub stderr: String,
}

impl Ended {
    fn new(command: String, output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        Self {
            command,
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(SIGKILL)),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            errors: output.stderr,
        }
    }

    /// Asserts its exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {}\n{}\n{}", self.command, self.text(), self.stderr);
        self
    }

    /// Asserts that its standard error says this.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{} did not say: {words}\n{}", self.command, self.stderr);
        self
    }

    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a program to its end.
#[track_caller]
pub fn end(command: &mut Command) -> Ended {
    Running::start(command).finish()
}

/// A program that runs, with its output kept for its end.
#[derive(Debug)]
pub struct Running {
    shown: String,
    pid: Pid,
    ended: Mutex<Receiver<io::Result<Output>>>,
}

impl Running {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let shown = shown(command);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self::of(&shown, child.unwrap_or_else(|error| panic!("{shown}: {error}")))
    }

    /// One that was started elsewhere.
    pub(crate) fn of(shown: &str, child: Child) -> Self {
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let (to, ended) = channel();
        thread::spawn(move || to.send(child.wait_with_output()));
        Self { shown: shown.to_owned(), pid, ended: Mutex::new(ended) }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap();
    }

    /// Waits for its end. Past the deadline it is killed, and the test fails.
    #[track_caller]
    pub fn finish(self) -> Ended {
        let (shown, ended) = (&self.shown, self.ended.lock().unwrap());
        let output = ended.recv_timeout(DEADLINE).unwrap_or_else(|_| {
            self.signal(Signal::SIGKILL);
            let said = Ended::new(shown.clone(), ended.recv().unwrap().unwrap());
            panic!("{shown}: no end within {DEADLINE:?}\n{said:#?}")
        });
        Ended::new(shown.clone(), output.unwrap())
    }
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What is read, line by line, as it comes; the channel ends with the stream.
pub(crate) fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (to, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    lines
}
