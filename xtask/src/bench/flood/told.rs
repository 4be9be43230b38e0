//! What a viewer is told, counted.
//!
//! The lines are not parsed as JSON, of which there may be hundreds of thousands a second: the daemon's serialisation of
//! an event has its kind, its executable and its nature as fixed text.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;

use crate::coi::{CoiError, io_error};

/// What the daemon says in place of the lines that a viewer was too slow for.
const MISSED: &str = "has missed ";

/// Someone who looks on and counts.
pub(super) struct Told {
    stream: UnixStream,
    counting: JoinHandle<io::Result<Counts>>,
}

/// What was told.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counts {
    /// By the event's kind and the name of the process's program.
    events: HashMap<(String, String), u64>,
    /// The lines that the viewer was too slow for.
    pub(super) missed: u64,
}

impl Told {
    /// Begins to look at a watch.
    pub(super) fn listen(socket: &Path, watch: &str) -> Result<Self, CoiError> {
        let failed = || io_error(format!("looking at {watch}"));
        let mut stream = UnixStream::connect(socket).map_err(failed())?;
        write!(stream, "GET /v1/events?watch={watch} HTTP/1.0\r\nHost: coi\r\n\r\n").map_err(failed())?;
        let mut lines = BufReader::with_capacity(1 << 20, stream.try_clone().map_err(failed())?);
        // The first line of the body is the watch's state: from there on nothing escapes.
        let mut line = String::new();
        while !line.starts_with('{') {
            line.clear();
            if lines.read_line(&mut line).map_err(failed())? == 0 {
                return Err(failed()(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let counting = std::thread::spawn(move || Counts::of(lines));
        Ok(Self { stream, counting })
    }

    /// Looks no longer.
    pub(super) fn end(self) -> Result<Counts, CoiError> {
        let failed = || io_error("the viewer's stream");
        self.stream.shutdown(Shutdown::Both).map_err(failed())?;
        let counted = self.counting.join().map_err(|_| io::Error::other("its reader has panicked"));
        counted.and_then(|counted| counted).map_err(failed())
    }
}

impl Counts {
    fn of(lines: impl io::BufRead) -> io::Result<Self> {
        let mut counts = Self::default();
        for line in lines.lines() {
            counts.add(&line?);
        }
        Ok(counts)
    }

    fn add(&mut self, line: &str) {
        let after = |key: &str| line.split_once(key)?.1.split('"').next();
        if let Some((_, missed)) = line.split_once(MISSED) {
            self.missed += missed.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
        } else if line.contains("\"kind\":\"event\"")
            && let (Some(action), Some(executable)) = (after("\"action\":\""), after("\"executable\":\""))
        {
            let name = executable.rsplit('/').next().unwrap_or(executable);
            *self.events.entry((action.to_owned(), name.to_owned())).or_default() += 1;
        }
    }

    /// How many events of a kind a program stood behind.
    pub(super) fn of_kind(&self, kind: &str, program: &str) -> u64 {
        self.events.get(&(kind.to_owned(), program.to_owned())).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted() {
        let text = concat!(
            r#"{"event":{"kind":"event","action":"exec"},"process":{"executable":"/w/true","parent":{"executable":"/w/flood"}}}"#,
            "\n",
            r#"{"event":{"kind":"alert","action":"exec"},"process":{"executable":"/w/true"}}"#,
            "\n",
            r#"{"event":{"kind":"state"},"coi":{"message":"this viewer was too slow and has missed 17 lines; the"}}"#,
            "\n",
        );
        let counts = Counts::of(text.as_bytes()).unwrap();
        assert_eq!((counts.of_kind("exec", "true"), counts.missed), (1, 17));
        assert_eq!(counts.of_kind("exec", "flood"), 0);
    }
}
