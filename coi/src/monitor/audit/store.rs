//! One log's files, as its writer keeps them.
//!
//! It promises:
//! - files are only ever appended to, renamed and removed whole. A record that the disk took half of is finished when it
//!   takes the rest; one that a crash left unfinished stays where it is, at the end of a file that is rotated, and the
//!   next file begins with a gap record that has its length and hash;
//! - the daemon's note ([`super::head`]) is never ahead of what is on the disk;
//! - a file is rotated between records, so that who reads the old one to its end and then the new one misses nothing.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    chain::Link,
    files::{self, Piece, Place},
    head::{Head, HeadFile},
    key::Key,
    options::Options,
    read::{Chained, Lines, Scan},
    record::{About, Gap, Record, Torn},
    stamp::Stamp,
};
use crate::monitor::sensor::boottime;

/// How long a record that is not urgent may wait for the disk.
const LAZY: Duration = Duration::from_secs(1);

/// The files of a log that is being written.
pub(super) struct Store {
    place: Place,
    about: About,
    options: Arc<Options>,
    key: Arc<Key>,
    head: HeadFile,
    /// `None` between a rotation and the first record after it.
    file: Option<File>,
    /// How long the file is with all that waits.
    size: u64,
    /// How old its first record was when it was opened.
    aged: Duration,
    /// When it was made or opened.
    opened: u64,
    /// The last record, written or waiting.
    last: Link,
    /// Lines that wait to be written, and how much of them has been.
    waiting: Vec<u8>,
    written: usize,
    /// Since when something is written that is not synced.
    unsynced: Option<Instant>,
    /// It must be synced before anything else is waited for.
    urgent: bool,
    /// Records since the last checkpoint, and when that was.
    unsigned: u64,
    signed: Instant,
    pruned: Option<Link>,
}

impl Store {
    /// Opens a log, or goes on with it; in that case a gap record waits to be written.
    pub(super) fn open(place: Place, about: About, options: Arc<Options>, key: Arc<Key>) -> io::Result<Self> {
        files::make_directory(&place.directory, place.owner)?;
        let note = Head::read(&place.head()).unwrap_or_else(|error| {
            tracing::error!(%error, "the note of a log's end cannot be read; it goes on from what is in its files");
            None
        });
        let pieces = place.pieces()?;
        let mut active = Scan::default();
        let mut last = None;
        let mut torn = Vec::new();
        // The newest files may have nothing in them yet but what crashes have left.
        for piece in pieces.iter().rev() {
            let scan = Scan::of(&piece.path)?;
            torn.extend(scan.torn.clone().map(|torn| Torn { bytes: torn.bytes, sha256: torn.sha256 }));
            last.clone_from(&scan.last);
            if piece.first.is_none() {
                active = scan;
            }
            if last.is_some() {
                break;
            }
        }
        torn.reverse();
        let genesis = Link::genesis(place.owner, place.id());
        let in_files = last.as_ref().map_or(genesis, |(link, _)| *link);
        let noted = note.as_ref().map_or(genesis, Head::link);
        let aged = begun(&place.active()).map(|begun| begun.age()).unwrap_or_default();
        let mut store = Self {
            head: HeadFile::open(&place.head(), place.owner)?,
            place,
            about,
            options,
            key,
            file: None,
            size: active.bytes,
            aged,
            opened: boottime(),
            // What was changed or cut off is found by who verifies: the chain goes on from what was written.
            last: if in_files.sequence > noted.sequence { in_files } else { noted },
            waiting: Vec::new(),
            written: 0,
            unsynced: None,
            urgent: false,
            unsigned: 0,
            signed: Instant::now(),
            pruned: note.as_ref().and_then(|note| note.pruned),
        };
        if active.torn.is_some() {
            store.set_aside(active.first)?;
        }
        store.ensure_file()?;
        if let Some(note) = note.as_ref().filter(|note| note.ended) {
            // Before anything is added: what stands behind a log that has ended is somebody else's.
            store.head.write(&Head { ended: false, ..note.clone() })?;
        }
        if store.last.sequence > 0 {
            let is_cut = in_files.sequence < noted.sequence;
            let reason = match &note {
                _ if is_cut => "cut",
                Some(note) if note.ended => "stopped",
                _ => "crashed",
            };
            store.push(&Record::gap(
                &store.about,
                &Gap {
                    reason,
                    since: note.map(|note| note.written.told()).or_else(|| last.map(|(_, time)| time)),
                    first: is_cut.then(|| in_files.next()),
                    last: is_cut.then_some(noted.sequence),
                    torn,
                    ..Gap::default()
                },
            ));
        }
        Ok(store)
    }

    /// The file of the newest records.
    pub(super) fn path(&self) -> std::path::PathBuf {
        self.place.active()
    }

    /// What it is about.
    pub(super) fn about(&self) -> &About {
        &self.about
    }

    /// What waits is to be on the disk at the next [`Store::commit`].
    pub(super) fn hurry(&mut self) {
        self.urgent |= self.unsynced.is_some() || self.waiting() > 0;
    }

    /// Puts a record behind the others; [`Store::commit`] writes it.
    pub(super) fn push(&mut self, record: &Record) {
        self.urgent |= record.kind().is_urgent();
        self.unsigned += 1;
        let line = record.sealed(self.last);
        self.last = Link::of(self.last.next(), line.as_bytes());
        self.waiting.extend(line.as_bytes());
        self.waiting.push(b'\n');
        self.size += line.len() as u64 + 1;
        if self.unsigned >= self.options.checkpoint_records {
            self.sign();
        }
    }

    /// How much waits to be written.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len() - self.written
    }

    /// Should the next record be in another file?
    pub(super) fn wants_rotation(&self) -> bool {
        let open = Duration::from_nanos(boottime().saturating_sub(self.opened));
        let is_old = self.aged + open >= self.options.max_file_age;
        let is_due = self.size >= self.options.max_file_size || is_old;
        self.size > 0 && is_due && open >= self.options.min_file_age
    }

    /// Writes what waits. What an error interrupts goes on from there when it is called again.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        self.ensure_file()?;
        let Some(file) = &mut self.file else { return Ok(()) };
        while self.written < self.waiting.len() {
            match file.write(&self.waiting[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.unsynced.get_or_insert_with(Instant::now);
        }
        if self.urgent || self.unsynced.is_some_and(|since| since.elapsed() >= LAZY) {
            self.sync(false)?;
        }
        self.waiting.clear();
        self.waiting.shrink_to(1 << 16);
        self.written = 0;
        Ok(())
    }

    /// Has the disk take what was written, and notes it.
    fn sync(&mut self, ended: bool) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.sync_data()?;
        }
        self.head.write(&Head {
            sequence: self.last.sequence,
            hash: self.last.hash,
            written: Stamp::now(),
            ended,
            pruned: self.pruned,
        })?;
        self.urgent = false;
        self.unsynced = None;
        Ok(())
    }

    /// Does what is due by the clock, and says when something will be.
    pub(super) fn tick(&mut self) -> io::Result<Duration> {
        let since_signed = self.signed.elapsed();
        if self.unsigned > 0 && since_signed >= self.options.checkpoint_interval {
            self.sign();
        }
        self.commit()?;
        let lazy = self.unsynced.map(|since| LAZY.saturating_sub(since.elapsed()));
        let sign = self.options.checkpoint_interval.saturating_sub(self.signed.elapsed());
        Ok(lazy.unwrap_or(sign).min(sign).max(Duration::from_millis(10)))
    }

    /// Ends the log in order.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.unsigned > 0 {
            self.sign();
        }
        self.commit()?;
        self.sync(true)
    }

    /// Signs the chain so far.
    fn sign(&mut self) {
        let (about, place, last) = (Arc::clone(&self.about), self.place.clone(), self.last);
        let checkpoint = Record::checkpoint(&about, &self.key, place.owner, place.id(), last);
        // It is a record like any other, and begins the count anew.
        self.unsigned = 0;
        self.push(&checkpoint);
        self.unsigned = 0;
        self.signed = Instant::now();
    }

    /// Ends the file, begins another, and removes what is too old.
    pub(super) fn rotate(&mut self) -> io::Result<()> {
        if self.unsigned > 0 {
            self.sign();
        }
        self.urgent = true;
        self.commit()?;
        if self.file.is_some() && self.size > 0 {
            let first = first_line(&self.path())?.and_then(|line| Chained::read(&line));
            self.set_aside(first.map(|record| record.sequence()))?;
        }
        self.ensure_file()?;
        self.prune()
    }

    /// Renames the newest file, after its first record if there is one.
    fn set_aside(&mut self, first: Option<u64>) -> io::Result<()> {
        let mut path = self.place.rotated(first.unwrap_or_else(|| self.last.next()));
        while first.is_none() && (path.extension().is_none_or(|last| last != "torn") || path.exists()) {
            path.as_mut_os_string().push(".torn");
        }
        fs::rename(self.path(), path)?;
        self.file = None;
        self.size = 0;
        Ok(())
    }

    fn ensure_file(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let file = File::options()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(self.path())?;
        files::grant(&file, self.place.owner)?;
        File::open(&self.place.directory)?.sync_all()?;
        if self.size == 0 {
            self.aged = Duration::ZERO;
            self.opened = boottime();
        }
        self.file = Some(file);
        Ok(())
    }

    /// Removes the oldest files beyond what may be kept. It is in the log before it is done.
    pub(super) fn prune(&mut self) -> io::Result<()> {
        let pieces = self.place.pieces()?;
        let Some(newest) = pieces.iter().position(|piece| piece.first.is_none()) else { return Ok(()) };
        let (old, rest) = pieces.split_at(newest);
        let gone = self.too_many(old);
        if gone == 0 {
            return Ok(());
        }
        let next = old.get(gone).or_else(|| rest.first()).map(|piece| first_of(&piece.path));
        // What is not in the next file is the last record of all.
        let anchor = next.transpose()?.flatten().unwrap_or(self.last);
        let names: Vec<String> = old[..gone]
            .iter()
            .filter_map(|piece| Some(piece.path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        self.pruned = Some(anchor);
        self.push(&Record::retention(&self.about, &names, anchor));
        self.commit()?;
        for piece in &old[..gone] {
            fs::remove_file(&piece.path)?;
        }
        Ok(())
    }

    /// How many of these files have to go, from the oldest on.
    fn too_many(&self, old: &[Piece]) -> usize {
        let mut bytes = 0;
        // A file has ended when the next one began.
        let mut next = self.path();
        let keep = old.iter().rev().take(self.options.keep_files).take_while(|piece| {
            let Ok(metadata) = fs::metadata(&piece.path) else { return false };
            bytes += metadata.len();
            let ended = begun(&std::mem::replace(&mut next, piece.path.clone()));
            bytes <= self.options.keep_size && ended.is_none_or(|ended| ended.age() < self.options.keep_age)
        });
        old.len() - keep.count()
    }
}

/// A file's first line.
fn first_line(path: &Path) -> io::Result<Option<Vec<u8>>> {
    Ok(Lines::open(path)?.next().transpose()?.map(|line| line.bytes))
}

/// The place in the chain before a file's first record.
pub(super) fn first_of(path: &Path) -> io::Result<Option<Link>> {
    Ok(first_line(path)?.and_then(|line| Chained::read(&line)).map(|record| record.previous()))
}

/// When a file's first record was written.
pub(super) fn begun(path: &Path) -> Option<Stamp> {
    first_line(path).ok().flatten().and_then(|line| Stamp::of_record(&line))
}
