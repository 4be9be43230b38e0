//! A viewer that is shown every event, and reads as fast as it can.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;

use crate::coi::{CoiError, io_error};

/// Someone who looks on.
pub(super) struct Told {
    stream: UnixStream,
    reading: JoinHandle<io::Result<u64>>,
}

impl Told {
    /// Begins to look at a watch.
    pub(super) fn listen(socket: &Path, watch: &str) -> Result<Self, CoiError> {
        let failed = || io_error(format!("looking at {watch}"));
        let mut stream = UnixStream::connect(socket).map_err(failed())?;
        write!(stream, "GET /v1/events?watch={watch} HTTP/1.0\r\nHost: coi\r\n\r\n").map_err(failed())?;
        let mut lines = BufReader::with_capacity(1 << 20, stream.try_clone().map_err(failed())?);
        // The first line of the body is the watch's state: from there on it looks.
        let mut line = String::new();
        while !line.starts_with('{') {
            line.clear();
            if lines.read_line(&mut line).map_err(failed())? == 0 {
                return Err(failed()(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let reading = std::thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
        Ok(Self { stream, reading })
    }

    /// Looks no longer.
    pub(super) fn end(self) -> Result<(), CoiError> {
        let failed = || io_error("the viewer's stream");
        self.stream.shutdown(Shutdown::Both).map_err(failed())?;
        let read = self.reading.join().map_err(|_| io::Error::other("its reader has panicked"));
        read.and_then(|read| read).map(drop).map_err(failed())
    }
}
