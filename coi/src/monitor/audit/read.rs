//! Lines of a log, and what the chain needs to know of them.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::chain::{Hash, Link};

/// No record is longer; what is, is none.
const LONGEST: u64 = 1 << 20;

/// The lines of one file. Memory is bounded by the longest record there can be, whatever the file holds.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<File>,
}

/// What stands between two line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Without the end.
    pub bytes: Vec<u8>,
    /// There is an end.
    pub is_whole: bool,
}

impl Lines {
    /// Opens a file.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::of(File::open(path)?))
    }

    /// From where a file stands.
    pub fn of(file: File) -> Self {
        Self { reader: BufReader::with_capacity(64 << 10, file) }
    }

    /// The file.
    pub fn file(&self) -> &File {
        self.reader.get_ref()
    }
}

impl Iterator for Lines {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = Vec::new();
        match (&mut self.reader).take(LONGEST).read_until(b'\n', &mut bytes) {
            Ok(0) => None,
            Ok(_) => {
                let is_whole = bytes.pop_if(|last| *last == b'\n').is_some();
                Some(Ok(Line { bytes, is_whole }))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

/// What the chain needs to know of a record.
#[derive(Clone, Debug, Deserialize)]
pub struct Chained {
    /// When.
    #[serde(rename = "@timestamp")]
    pub time: String,
    event: Event,
    container: Container,
    /// COI's own part.
    pub coi: Coi,
}

#[derive(Clone, Debug, Deserialize)]
struct Event {
    sequence: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    id: String,
}

/// COI's own part of a record, as far as the chain is concerned.
#[derive(Clone, Debug, Deserialize)]
pub struct Coi {
    /// Its kind.
    pub record: String,
    chain: Chain,
    /// Of a checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// Of a retention.
    pub retention: Option<Retention>,
    /// Of a gap.
    pub gap: Option<Gap>,
    /// Of an attach.
    pub watch: Option<Watch>,
}

#[derive(Clone, Debug, Deserialize)]
struct Chain {
    previous: Hash,
}

/// A checkpoint.
#[derive(Clone, Debug, Deserialize)]
pub struct Checkpoint {
    /// The public key's name.
    pub key: String,
    /// In hexadecimal digits.
    pub signature: String,
}

/// A retention.
#[derive(Clone, Debug, Deserialize)]
pub struct Retention {
    /// The last record that was removed.
    pub last: u64,
    /// The hash of its line.
    pub hash: Hash,
}

/// A gap.
#[derive(Clone, Debug, Deserialize)]
pub struct Gap {
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Option<String>,
    /// What stands unfinished at the ends of the files before.
    #[serde(default)]
    pub torn: Vec<Torn>,
}

/// The beginning of a record that was never finished.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Torn {
    /// How many bytes.
    pub bytes: u64,
    /// Their hash.
    pub sha256: Hash,
}

/// A watch.
#[derive(Clone, Debug, Deserialize)]
pub struct Watch {
    /// Whose log it is.
    pub owner: String,
}

impl Chained {
    /// Reads a line.
    pub fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Its number.
    pub const fn sequence(&self) -> u64 {
        self.event.sequence
    }

    /// The place before it, as it says.
    pub const fn previous(&self) -> Link {
        Link { sequence: self.event.sequence.saturating_sub(1), hash: self.coi.chain.previous }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.container.id
    }
}

/// What a file holds, from far away.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The number of the first record.
    pub first: Option<u64>,
    /// The last whole record.
    pub last: Option<(Link, String)>,
    /// How many bytes the file has.
    pub bytes: u64,
    /// How many stand behind the last whole record, and their hash.
    pub torn: Option<Torn>,
}

impl Scan {
    /// Looks through a file.
    pub fn of(path: &Path) -> io::Result<Self> {
        let mut scan = Self::default();
        let mut torn = Sha256::new();
        let mut torn_bytes = 0;
        for line in Lines::open(path)? {
            let Line { bytes, is_whole } = line?;
            let length = bytes.len() as u64 + u64::from(is_whole);
            scan.bytes += length;
            match Chained::read(&bytes).filter(|_| is_whole) {
                Some(record) => {
                    scan.first.get_or_insert(record.sequence());
                    scan.last = Some((Link::of(record.sequence(), &bytes), record.time));
                    (torn, torn_bytes) = (Sha256::new(), 0);
                }
                None => {
                    torn.update(&bytes);
                    if is_whole {
                        torn.update(b"\n");
                    }
                    torn_bytes += length;
                }
            }
        }
        if torn_bytes > 0 {
            scan.torn = Some(Torn { bytes: torn_bytes, sha256: Hash::from(torn) });
        }
        Ok(scan)
    }
}
