//! The log of a build: a file of the user's, and the last lines for errors and progress.
//!
//! What is logged is said by packages and scripts: any bytes. It promises that the file and what is kept of it are
//! bounded, and that lines that are shown are plain.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

use super::network::Trouble;
use super::{Error, Progress, Result};
use crate::launch::Caller;
use crate::places::Place;
use crate::ui::plain;

/// How large a log becomes.
const LARGEST: u64 = 64 << 20;
/// How many lines an error shows.
const SHOWN: usize = 15;
/// How many lines are looked at for the reason of a failure.
const KEPT: usize = 100;
/// How much of a line is looked at.
const WIDEST: usize = 400;

/// A log that is being written.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    /// Where it is.
    pub(super) path: PathBuf,
    written: u64,
    line: Vec<u8>,
    last: VecDeque<String>,
}

impl Log {
    /// Begins a new log of the caller's, `~/.coi/logs/build-IMAGE.log`.
    pub(super) fn begin(image: &str) -> Result<Self> {
        let caller = Caller::find()?;
        let owner = caller.owner();
        let home = caller.home().ok_or(Error::NoHome)?;
        // An alias may have slashes in it.
        let name =
            format!("build-{}.log", image.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_"));
        let logs = Place::open(home)?.make(".coi", owner)?.make("logs", owner)?;
        let file = logs.create(&name, owner)?;
        let path = PathBuf::from(logs.path_of(&name));
        Ok(Self { file, path, written: 0, line: Vec::new(), last: VecDeque::new() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the head of a step, and forgets what was last said.
    pub(super) fn head(&mut self, step: &str) {
        self.end_line();
        self.last.clear();
        self.write(format!("\n== {}\n", plain(step)).as_bytes());
    }

    /// Takes what a step says.
    pub(super) fn take(&mut self, said: &[u8], progress: &mut dyn Progress) {
        self.write(said);
        for &byte in said {
            match byte {
                b'\n' | b'\r' => {
                    if self.end_line()
                        && let Some(line) = self.last.back()
                    {
                        progress.line(line);
                    }
                }
                byte if self.line.len() < WIDEST => self.line.push(byte),
                _ => {}
            }
        }
    }

    /// The last lines that were said, for looking at.
    pub(super) fn text(&self) -> String {
        self.last.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The failure of a step.
    pub(super) fn failed(&mut self, step: &str, trouble: Option<Trouble>, how: String) -> Error {
        self.end_line();
        let from = self.last.len().saturating_sub(SHOWN);
        Error::Step {
            step: plain(step).into_owned(),
            how,
            trouble,
            log: self.path.clone(),
            last: self.last.iter().skip(from).cloned().collect(),
        }
    }

    fn write(&mut self, said: &[u8]) {
        if self.written > LARGEST {
            return;
        }
        self.written += said.len() as u64;
        // A log that cannot be written is no reason to fail; what was last said is known all the same.
        let _ = self.file.write_all(said);
        if self.written > LARGEST {
            let _ = self.file.write_all(b"\n== the rest is left out: the log is too long\n");
        }
    }

    /// Whether there was something on it.
    fn end_line(&mut self) -> bool {
        let line = String::from_utf8_lossy(&self.line);
        // Without its escape sequences, of which `plain` leaves the ends, it reads better.
        let line = plain(&without_sequences(&line)).trim().to_owned();
        self.line.clear();
        if line.is_empty() {
            return false;
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
        true
    }
}

/// A text without the sequences that set colours and move the cursor.
fn without_sequences(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                if chars.next() == Some('[') {
                    chars.by_ref().find(|c| ('@'..='~').contains(c));
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// What a command in the container writes to.
pub(super) struct Sink<'a> {
    pub(super) log: &'a mut Log,
    pub(super) progress: &'a mut dyn Progress,
}

impl AsyncWrite for Sink<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        said: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let Self { log, progress } = &mut *self;
        log.take(said, *progress);
        Poll::Ready(Ok(said.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lines(Vec<String>);

    impl Progress for Lines {
        fn begins(&mut self, _: usize, _: usize, _: &str) {}
        fn line(&mut self, line: &str) {
            self.0.push(line.to_owned());
        }
        fn ends(&mut self, _: &str, _: std::time::Duration) {}
        fn note(&mut self, _: &str) {}
    }

    fn log(directory: &Path) -> Log {
        let path = directory.join("log");
        Log { file: File::create(&path).unwrap(), path, written: 0, line: Vec::new(), last: VecDeque::new() }
    }

    #[test]
    fn lines_are_plain_and_few() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, mut lines) = (log(directory.path()), Lines(Vec::new()));
        log.head("a step");
        for said in
            [&b"one\x1b[31m red\x1b[0m\n\n"[..], b"half ", b"a line\r\x1b]0;title\x07x\n\xff\n", b"the end"]
        {
            log.take(said, &mut lines);
        }
        assert_eq!(lines.0, ["one red", "half a line", "0;titlex", "\u{fffd}"]);
        for number in 0..1000 {
            log.take(format!("{number}\n").as_bytes(), &mut lines);
        }
        assert_eq!(log.last.len(), KEPT);
        log.take(&[b'x'; 10_000], &mut lines);
        let Error::Step { last, .. } = log.failed("a step", None, "exit code 1".into()) else { panic!() };
        assert_eq!(last.len(), SHOWN);
        assert!(last[SHOWN - 1].len() == WIDEST, "{last:?}");
    }

    proptest::proptest! {
        #[test]
        fn never_a_control_character(said: Vec<u8>) {
            let directory = tempfile::tempdir().unwrap();
            let (mut log, mut lines) = (log(directory.path()), Lines(Vec::new()));
            log.take(&said, &mut lines);
            proptest::prop_assert!(!lines.0.concat().contains(char::is_control));
        }
    }
}
