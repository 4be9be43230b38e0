//! Recordings that the daemon writes of all that it watches: what the engine was told, from the arming on.
//!
//! Nobody need have thought of `coi monitor --record` in time: of each watch there is a file from which its alerts
//! can be had again. It promises that the pipeline never waits for the disk, that a recording is of one watch and
//! begins with it, and that what is missing is said in its place: what came faster than it could be written, and the
//! end of a recording that is as long as it may be. No event is sent by the kernel for its sake.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use super::{
    audit,
    event::Container,
    pipeline::Watched,
    rules::{
        OwnRules,
        recording::{self, Gap, Holds},
    },
    viewers::Shown,
};

/// How much may wait to be written, of all watches.
const QUEUE: usize = 65_536;
/// How many bytes a recording may have: what runs in a container must not fill the host's disk.
const MOST: u64 = 1 << 30;

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
#[error("cannot record to {path}: {source}; make room, or name another directory with --record")]
pub struct RecordError {
    /// The file or directory.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// The way to the thread that writes. When it is dropped, all is written.
pub struct Recorder {
    /// `None` once it is to end.
    queue: Option<SyncSender<(Arc<Watched>, Option<Shown>)>>,
    thread: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Begins to record into a directory, which is made if it is not there.
    pub fn start(directory: &Path) -> Result<Self, RecordError> {
        let failed = |source| RecordError { path: directory.to_owned(), source };
        // Recordings have command lines and paths.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let (queue, inbox) = sync_channel(QUEUE);
        let directory = directory.to_owned();
        let path = directory.clone();
        let thread = std::thread::Builder::new().name("coi-recorder".into());
        let thread =
            thread.spawn(move || write(&inbox, &directory)).map_err(|source| RecordError { path, source })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// There is a watch.
    pub(super) fn begin(&self, watched: &Arc<Watched>) {
        self.send(watched, None);
    }

    /// The engine was told something of it.
    pub(super) fn record(&self, watched: &Arc<Watched>, shown: Shown) {
        self.send(watched, Some(shown));
    }

    fn send(&self, watched: &Arc<Watched>, shown: Option<Shown>) {
        let sent =
            self.queue.as_ref().is_some_and(|queue| queue.try_send((Arc::clone(watched), shown)).is_ok());
        if !sent {
            watched.unrecorded.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the recorder's thread did not end in order; recordings may be cut off");
        }
    }
}

/// Writes what comes until nothing more can come.
fn write(inbox: &Receiver<(Arc<Watched>, Option<Shown>)>, directory: &Path) {
    // By address: as long as a watch is a key here, nothing else has its address.
    let mut files: HashMap<*const Watched, (Arc<Watched>, Option<Recording>)> = HashMap::new();
    while let Ok(first) = inbox.recv() {
        let mut next = Some(first);
        while let Some((watched, shown)) = next {
            if shown.is_none() {
                // Of those that are over nobody else knows any more.
                files.retain(|_, (watched, _)| Arc::strong_count(watched) > 1);
            }
            let (watched, recording) = files.entry(Arc::as_ptr(&watched)).or_insert_with(|| {
                let recording = Recording::create(directory, &watched.container, &watched.own);
                (Arc::clone(&watched), said(recording))
            });
            put(recording, |recording| recording.add(missed(watched), shown));
            next = inbox.try_recv().ok();
        }
        // What found no room came while there was something in the queue: this pass is after all of it.
        for (watched, recording) in files.values_mut() {
            put(recording, |recording| recording.add(missed(watched), None).and_then(|()| recording.flush()));
        }
    }
}

/// How much found no room since this was asked last.
fn missed(watched: &Watched) -> u64 {
    watched.unrecorded.swap(0, Ordering::Relaxed)
}

/// Writes to a recording that has not failed yet.
fn put(recording: &mut Option<Recording>, write: impl FnOnce(&mut Recording) -> Result<(), RecordError>) {
    let written = recording.as_mut().map(write);
    if written.is_some_and(|written| said(written).is_none()) {
        *recording = None;
    }
}

/// What worked; what did not is said.
fn said<T>(result: Result<T, RecordError>) -> Option<T> {
    result.inspect_err(|error| tracing::error!(%error, "nothing more is recorded of this watch")).ok()
}

/// One file.
struct Recording {
    path: PathBuf,
    file: BufWriter<File>,
    /// How many bytes it may still get.
    room: u64,
}

impl Recording {
    /// A new file: each watch has its own, also of a container that was watched before.
    fn create(directory: &Path, container: &Container, own: &OwnRules) -> Result<Self, RecordError> {
        let stem = audit::stem(&container.name, &container.id);
        let mut number = 1_u32;
        let (path, file) = loop {
            let path = directory.join(format!("{stem}.{number}.jsonl"));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(source) => return Err(RecordError { path, source }),
            }
        };
        let mut recording = Self { path, file: BufWriter::new(file), room: MOST };
        recording.line(&recording::header(&container.name, Holds::Judged, own))?;
        Ok(recording)
    }

    /// Writes what could not be recorded, if there is some, and what comes next.
    fn add(&mut self, missed: u64, shown: Option<Shown>) -> Result<(), RecordError> {
        if missed > 0 {
            self.line(&recording::gap(missed, Gap::Slow))?;
        }
        shown.and_then(Shown::into_recording).map_or(Ok(()), |line| self.line(line.trim_end()))
    }

    fn line(&mut self, line: &str) -> Result<(), RecordError> {
        if self.room == 0 {
            return Ok(());
        }
        let length = line.len() as u64 + 1;
        self.room = self.room.saturating_sub(length);
        let full;
        let line = if self.room == 0 {
            full = recording::gap(1, Gap::Full);
            &full
        } else {
            line
        };
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|source| self.failed(source))
    }

    fn flush(&mut self) -> Result<(), RecordError> {
        self.file.flush().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> RecordError {
        RecordError { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::rules::recording::Mark;

    fn container() -> Container {
        Container { name: "web".into(), id: "u1".into() }
    }

    fn text(recording: &mut Recording) -> String {
        recording.flush().unwrap();
        fs::read_to_string(&recording.path).unwrap()
    }

    #[test]
    fn each_watch_has_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let names = [(); 2].map(|()| {
            let recording = Recording::create(directory.path(), &container(), &OwnRules::default()).unwrap();
            recording.path.file_name().unwrap().to_owned()
        });
        assert_eq!(names, ["web.u1.1.jsonl", "web.u1.2.jsonl"]);
    }

    #[test]
    fn what_is_missing_is_said_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let mut recording = Recording::create(directory.path(), &container(), &OwnRules::default()).unwrap();
        recording.add(3, Some(Shown::Mark(7, Mark::Gone, 5))).unwrap();
        let error = recording::Reader::all(text(&mut recording).as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("line 2 of the recording says that 3 events"), "{error}");
        assert!(text(&mut recording).ends_with("\"mark\":\"gone\"}\n"));
    }

    #[test]
    fn it_ends_where_it_is_full_and_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let mut recording = Recording::create(directory.path(), &container(), &OwnRules::default()).unwrap();
        recording.room = 100;
        for time in 0..100 {
            recording.add(0, Some(Shown::Mark(7, Mark::Gone, time))).unwrap();
        }
        let text = text(&mut recording);
        let error = recording::Reader::all(text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("nothing more was recorded"), "{error}");
        assert!(text.lines().count() < 6, "{text}");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let file = BufWriter::with_capacity(0, OpenOptions::new().write(true).open("/dev/full").unwrap());
        let mut recording = Recording { path: "/dev/full".into(), file, room: MOST };
        let error = recording.line("{}").unwrap_err();
        assert!(error.to_string().contains("No space left"), "{error}");
    }
}
