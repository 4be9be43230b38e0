//! Is a log what the daemon wrote?
//!
//! It promises to find any change, removal, addition and move of a line, any file that is missing, and an end that is
//! missing, as long as the daemon's note of it ([`super::head`]) is there; and to name the first record that is wrong. It
//! reads the note before the log, so that a log that is being written is whole up to there.
//!
//! What stands behind the note is held by the chain alone: some records of a crash, or of the last second. What was
//! removed by the limits of the configuration leaves an anchor, in the note and in a retention record: the number and the
//! hash of the last record that was removed, which the first one that is left has to follow.

use std::{
    collections::HashMap,
    fs::File,
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    chain::{Hash, Link},
    files::{self, Place},
    head::Head,
    key::{self, PublicKey},
    read::{Chained, Line, Lines, Torn},
};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's newest file.
    pub log: PathBuf,
    /// Is it what the daemon wrote?
    pub whole: bool,
    /// How many files there are.
    pub files: usize,
    /// How many records.
    pub records: u64,
    /// The number of the first record that there is.
    pub first: Option<u64>,
    /// The number of the last one.
    pub last: Option<u64>,
    /// The last record of which the daemon has noted that it is the last; `None` if there is no note to be read.
    pub noted: Option<u64>,
    /// Checkpoints whose signature is right.
    pub checkpoints: u64,
    /// The last record that a right signature covers.
    pub signed: Option<u64>,
    /// The public key that they were held against; `None` if there is none to be read.
    pub key: Option<PathBuf>,
    /// What the first record follows, where it is not the first of all: the last one that was removed.
    pub anchor: Option<Link>,
    /// Gaps that the log itself tells of.
    pub gaps: Vec<GapSeen>,
    /// How many bytes of an unfinished record stand at the end: one is being written, or the daemon was killed.
    pub unfinished: u64,
    /// The first that is wrong.
    pub broken: Option<Broken>,
}

/// A gap that a log tells of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapSeen {
    /// The record that tells of it.
    pub sequence: u64,
    /// When it was written.
    pub time: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Option<String>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// The first record that is not as it was written, or not there.
    pub sequence: u64,
    /// Where, as far as it is anywhere.
    pub file: PathBuf,
    /// The line in that file, from 1 on.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

/// Holds a log against its chain, against the daemon's note and against the key. `key` stands in for the machine's own.
pub fn verify(place: &Place, key: Option<&Path>) -> io::Result<Report> {
    let key = key.map_or_else(|| key::public_path(&place.state), Path::to_owned);
    let public = match PublicKey::read(&key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        public => Some(public?),
    };
    let head = match Head::read(&place.head()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
        head => head?,
    };
    let mut walk = Walk {
        place,
        report: Report {
            log: place.active(),
            noted: head.as_ref().map(|head| head.sequence),
            key: public.is_some().then_some(key),
            ..Report::default()
        },
        public,
        head,
        before: None,
        at: None,
        torn: Vec::new(),
        removed: HashMap::new(),
        doubt: None,
    };
    if let Err(broken) = walk.all()? {
        walk.report.broken = Some(broken);
    }
    walk.report.whole = walk.report.broken.is_none();
    Ok(walk.report)
}

/// On the way through a log.
struct Walk<'a> {
    place: &'a Place,
    public: Option<PublicKey>,
    head: Option<Head>,
    report: Report,
    /// The record before.
    before: Option<Link>,
    /// Where that is.
    at: Option<(PathBuf, u64)>,
    /// What stands behind the last records of files, and no record has told of yet.
    torn: Vec<(PathBuf, u64, Torn)>,
    /// What retention records tell of.
    removed: HashMap<u64, Hash>,
    /// The record before is not what this one follows: which of the two is wrong is seen at the next.
    doubt: Option<Doubt>,
}

struct Doubt {
    earlier: Broken,
    later: Broken,
}

type Found = Result<(), Broken>;

impl Walk<'_> {
    fn all(&mut self) -> io::Result<Found> {
        let pieces = self.place.open()?;
        self.report.files = pieces.len();
        for (piece, file) in pieces {
            if let Err(broken) = self.piece(&piece.path, file)? {
                return Ok(Err(broken));
            }
        }
        Ok(self.end())
    }

    fn piece(&mut self, path: &Path, file: File) -> io::Result<Found> {
        let mut torn = Sha256::new();
        let (mut torn_at, mut torn_bytes) = (0, 0);
        let mut number = 0;
        for line in Lines::of(file) {
            let Line { bytes, is_whole } = line?;
            number += 1;
            let Some(record) = Chained::read(&bytes).filter(|_| is_whole) else {
                if torn_bytes == 0 {
                    torn_at = number;
                }
                torn.update(&bytes);
                torn_bytes += bytes.len() as u64;
                if is_whole {
                    torn.update(b"\n");
                    torn_bytes += 1;
                }
                continue;
            };
            let found = if torn_bytes > 0 {
                Err(self.broken(self.next(), path, torn_at, "the line is no record"))
            } else {
                self.record(&record, &bytes, path, number)
            };
            if found.is_err() {
                return Ok(found);
            }
        }
        if torn_bytes > 0 {
            self.torn.push((path.to_owned(), torn_at, Torn { bytes: torn_bytes, sha256: Hash::from(torn) }));
        }
        Ok(Ok(()))
    }

    fn record(&mut self, record: &Chained, bytes: &[u8], path: &Path, line: u64) -> Found {
        let here = Link::of(record.sequence(), bytes);
        if let Some(doubt) = self.doubt.take() {
            // Who follows rightly on the later one shows that it is as it was written.
            let is_right = self.before == Some(record.previous());
            return Err(if is_right { doubt.earlier } else { doubt.later });
        }
        if files::file_name(record.id()) != self.place.id() {
            let why = format!("it is a record of another log, that of {}", record.id());
            return Err(self.broken(self.next(), path, line, &why));
        }
        if let Some((file, line, _)) = self.torn.first() {
            let told = record
                .coi
                .gap
                .as_ref()
                .is_some_and(|gap| gap.torn.iter().eq(self.torn.iter().map(|(_, _, torn)| torn)));
            if !told {
                let why = "the line is no record, and the record after it does not tell of an unfinished one";
                return Err(self.broken(self.next(), file, *line, why));
            }
            self.torn.clear();
        }
        let expected = match self.before {
            Some(before) => before,
            None if record.sequence() == 1 => Link::genesis(self.owner(record), self.place.id()),
            None => record.previous(),
        };
        if record.sequence() != expected.next() {
            let (is, next) = (record.sequence(), expected.next());
            let why = match &record.coi.gap {
                Some(gap) if gap.reason == "cut" => {
                    format!("records {next} to {} were written, and are gone", is - 1)
                }
                _ if is > next => {
                    format!("record {is} follows on {}: {} missing", next - 1, records(is - next))
                }
                _ => format!("record {is} stands where {next} should be"),
            };
            return Err(self.broken(next, path, line, &why));
        }
        if record.previous() != expected {
            let later = self.broken(record.sequence(), path, line, "it is not as it was written");
            let Some((file, at)) = &self.at else { return Err(later) };
            let earlier = self.broken(expected.sequence, file, *at, "it is not as it was written");
            (self.doubt, self.before, self.at) =
                (Some(Doubt { earlier, later }), Some(here), Some((path.to_owned(), line)));
            return Ok(());
        }
        if self.head.as_ref().is_some_and(|head| head.sequence == here.sequence && head.hash != here.hash) {
            let why = "it is not what the daemon has noted as the last record";
            return Err(self.broken(here.sequence, path, line, why));
        }
        if let (Some(checkpoint), Some(public)) = (&record.coi.checkpoint, &self.public) {
            let owner = self.owner(record);
            let said = key::statement(owner, self.place.id(), &record.time, expected);
            if checkpoint.key != public.id().to_string() {
                let why = format!("it is signed with another key, {}", checkpoint.key);
                return Err(self.broken(here.sequence, path, line, &why));
            }
            if !public.has_signed(&said, &checkpoint.signature) {
                return Err(self.broken(here.sequence, path, line, "its signature is wrong"));
            }
            self.report.checkpoints += 1;
            self.report.signed = Some(here.sequence);
        }
        if let Some(retention) = &record.coi.retention {
            self.removed.insert(retention.last, retention.hash);
        }
        if let Some(gap) = &record.coi.gap {
            self.report.gaps.push(GapSeen {
                sequence: here.sequence,
                time: record.time.clone(),
                reason: gap.reason.clone(),
                since: gap.since.clone(),
            });
        }
        if self.report.first.is_none() {
            self.report.first = Some(here.sequence);
            self.report.anchor = (here.sequence > 1).then_some(expected);
        }
        self.report.records += 1;
        self.report.last = Some(here.sequence);
        self.before = Some(here);
        self.at = Some((path.to_owned(), line));
        Ok(())
    }

    fn end(&mut self) -> Found {
        let (path, line) = self.at.clone().unwrap_or_else(|| (self.place.active(), 0));
        if let Some(doubt) = self.doubt.take() {
            let is_right = self.head.as_ref().is_some_and(|head| Some(head.link()) == self.before);
            return Err(if is_right { doubt.earlier } else { doubt.later });
        }
        if let Some(anchor) = self.report.anchor {
            let is_noted = self.head.as_ref().and_then(|head| head.pruned) == Some(anchor);
            let is_told = self.removed.get(&anchor.sequence) == Some(&anchor.hash);
            if !is_noted && !is_told {
                let why = format!(
                    "the log begins with record {}, and nothing tells that those before it were removed in order",
                    anchor.next()
                );
                return Err(self.broken(1, &self.place.active(), 0, &why));
            }
        }
        let is_ended = self.head.as_ref().is_some_and(|head| head.ended);
        let last = self.before.map_or(0, |before| before.sequence);
        if let Some(head) = &self.head {
            // All of it was removed in order.
            let is_pruned = last == 0 && head.pruned == Some(head.link());
            if last < head.sequence && !is_pruned {
                let why = format!(
                    "the end is missing: records {} to {} were written, and are gone",
                    last + 1,
                    head.sequence
                );
                return Err(self.broken(last + 1, &path, line + 1, &why));
            }
            // A daemon may have gone on with it since the note was read.
            let goes_on = || {
                Head::read(&self.place.head())
                    .is_ok_and(|now| now.is_some_and(|now| !now.ended || now.sequence >= last))
            };
            if is_ended && last > head.sequence && !goes_on() {
                let why = format!("it was added after the log was ended with record {}", head.sequence);
                return Err(self.broken(head.sequence + 1, &path, line, &why));
            }
        }
        if let Some((file, at, torn)) = self.torn.pop() {
            // Only the newest file can be in the middle of something.
            let may_be = !is_ended && self.torn.is_empty() && file == self.place.active();
            if !may_be {
                return Err(self.broken(last + 1, &file, at, "the line is no record"));
            }
            self.report.unfinished = torn.bytes;
        }
        Ok(())
    }

    /// Whose log it is: its directory says so, and in a copy its first record.
    fn owner(&self, record: &Chained) -> u32 {
        let in_record = || record.coi.watch.as_ref()?.owner.parse().ok();
        if self.place.owner == 0 { in_record().unwrap_or(0) } else { self.place.owner }
    }

    fn next(&self) -> u64 {
        self.before.map_or(1, Link::next)
    }

    fn broken(&self, sequence: u64, file: &Path, line: u64, why: &str) -> Broken {
        Broken { sequence, file: file.to_owned(), line, why: why.to_owned() }
    }
}

fn records(count: u64) -> String {
    if count == 1 { "one record is".to_owned() } else { format!("{count} records are") }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use proptest::prelude::*;

    use super::*;
    use crate::monitor::audit::{
        key::Key,
        options::Options,
        record::{Record, tests::container},
        retire::retire,
        schema::tests::assert_valid,
        store::Store,
    };

    /// A log in a directory of its own, of so many notes in files of three or four.
    fn log(records: usize) -> (tempfile::TempDir, Place) {
        let directory = tempfile::tempdir().unwrap();
        let place = write(directory.path(), records, Options { max_file_size: 1800, ..options() });
        (directory, place)
    }

    fn options() -> Options {
        Options { checkpoint_records: 5, min_file_age: std::time::Duration::ZERO, ..Options::default() }
    }

    fn open(directory: &Path, options: Options) -> (Store, Place) {
        let key = Arc::new(Key::of_machine(directory).unwrap());
        let about = container();
        let place = Place::new(&directory.join("log"), directory, 0, files::stem(&about.name, &about.id));
        (Store::open(place.clone(), about, Arc::new(options), key).unwrap(), place)
    }

    fn write(directory: &Path, records: usize, options: Options) -> Place {
        let (mut store, place) = open(directory, options);
        for n in 0..records {
            if store.wants_rotation() {
                store.rotate().unwrap();
            }
            store.push(&Record::note(&container(), &format!("note {n} of --password hunter2")));
        }
        store.end().unwrap();
        place
    }

    /// Its lines in all files.
    fn lines(place: &Place) -> Vec<(PathBuf, usize, String)> {
        let texts = place.pieces().unwrap().into_iter().map(|piece| {
            let text = fs::read_to_string(&piece.path).unwrap();
            (piece.path, text)
        });
        texts
            .flat_map(|(path, text)| {
                let lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.into_iter().enumerate().map(move |(at, line)| (path.clone(), at, line))
            })
            .collect()
    }

    /// Does something to the lines of a file.
    fn change(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
        let text = fs::read_to_string(path).unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    }

    #[track_caller]
    fn whole(place: &Place) -> Report {
        let report = verify(place, None).unwrap();
        assert_eq!(report.broken, None);
        report
    }

    #[track_caller]
    fn broken(place: &Place) -> Broken {
        verify(place, None).unwrap().broken.expect("it is found")
    }

    #[test]
    fn a_log_is_whole_across_files_and_its_records_are_valid() {
        let (_directory, place) = log(20);
        let report = whole(&place);
        assert!(report.files > 3 && report.checkpoints > 3, "{report:?}");
        assert_eq!(
            (report.first, report.last, report.noted),
            (Some(1), Some(report.records), Some(report.records))
        );
        assert_eq!((report.signed, report.anchor, report.unfinished), (Some(report.records), None, 0));
        for (.., line) in lines(&place) {
            assert_valid(&line);
            assert!(!line.contains("hunter2"));
        }
    }

    #[test]
    fn the_first_wrong_record_is_named() {
        let (_directory, place) = log(20);
        let all = lines(&place);
        for (at, (path, line, text)) in all.iter().enumerate() {
            let sequence = at as u64 + 1;
            let original = fs::read(path).unwrap();
            change(path, |lines| lines[*line] = text.replacen("2026", "2025", 1).replacen("c1", "c2", 1));
            let found = broken(&place);
            assert_eq!(
                (found.sequence, found.line, &found.file),
                (sequence, *line as u64 + 1, path),
                "{found:?}"
            );
            fs::write(path, &original).unwrap();
            change(path, |lines| drop(lines.remove(*line)));
            assert_eq!(broken(&place).sequence, sequence);
            fs::write(path, &original).unwrap();
        }
        for piece in place.pieces().unwrap() {
            let away = piece.path.with_extension("away");
            fs::rename(&piece.path, &away).unwrap();
            broken(&place);
            fs::rename(&away, &piece.path).unwrap();
        }
        whole(&place);
    }

    #[test]
    fn a_cut_end_is_found_and_stays_found() {
        let (directory, place) = log(20);
        let last = whole(&place).last.unwrap();
        change(&place.active(), |lines| drop(lines.pop()));
        let found = broken(&place);
        assert_eq!(found.sequence, last);
        assert!(found.why.contains("the end is missing"), "{found:?}");
        // A daemon that goes on does not hide it.
        write(directory.path(), 3, options());
        let found = broken(&place);
        assert_eq!(found.sequence, last);
        assert!(found.why.contains("were written, and are gone"), "{found:?}");

        let (_directory, place) = log(20);
        for piece in place.pieces().unwrap() {
            fs::remove_file(piece.path).unwrap();
        }
        assert_eq!(broken(&place).sequence, 1);
    }

    #[test]
    fn what_a_crash_left_is_told_and_kept() {
        let (directory, place) = log(7);
        let (mut store, _) = open(directory.path(), options());
        store.push(&Record::note(&container(), "the last"));
        store.commit().unwrap();
        drop(store);
        let torn = b"{\"@timestamp\":\"2026-1";
        let mut active = fs::read(place.active()).unwrap();
        active.extend(torn);
        fs::write(place.active(), &active).unwrap();
        assert_eq!(whole(&place).unfinished, torn.len() as u64);

        write(directory.path(), 1, options());
        let report = whole(&place);
        let reasons: Vec<_> = report.gaps.iter().map(|gap| gap.reason.as_str()).collect();
        assert_eq!(reasons, ["stopped", "crashed"]);
        // It stands where it stood, and nobody may change it there.
        let piece = place.pieces().unwrap().into_iter().rev().nth(1).unwrap();
        assert_eq!(fs::read(&piece.path).unwrap(), active);
        fs::write(&piece.path, &active[..active.len() - 1]).unwrap();
        broken(&place);
        fs::write(&piece.path, &active).unwrap();

        // Again, before anything whole is in the new file, twice.
        for _ in 0..2 {
            let rotated = place.rotated(u64::MAX / 1_000_000);
            drop(open(directory.path(), options()));
            assert!(!rotated.exists());
            fs::write(place.active(), torn).unwrap();
        }
        write(directory.path(), 1, options());
        for (.., line) in lines(&place).iter().filter(|(.., line)| line.ends_with('}')) {
            assert_valid(line);
        }
    }

    #[test]
    fn what_was_removed_in_order_leaves_an_anchor() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Options { max_file_size: 1800, keep_files: 2, ..options() };
        let place = write(directory.path(), 40, limits);
        let report = whole(&place);
        assert_eq!(report.files, 3);
        let anchor = report.anchor.unwrap();
        assert_eq!(report.first, Some(anchor.next()));
        // Without the daemon's note the log itself tells of it, if the record is still there.
        let note = fs::read(place.head()).unwrap();
        fs::remove_file(place.head()).unwrap();
        assert_eq!(whole(&place).noted, None);
        fs::write(place.head(), note).unwrap();
        // One more is one too many.
        fs::remove_file(&place.pieces().unwrap()[0].path).unwrap();
        assert_eq!(broken(&place).sequence, 1);
    }

    #[test]
    fn what_nobody_writes_any_more_goes_when_it_is_old() {
        let (_directory, place) = log(20);
        let old = whole(&place);
        retire(&place, std::time::Duration::from_secs(3600)).unwrap();
        assert_eq!(whole(&place), old, "nothing of it is so old");
        // Of another boot, and by the machine's clock the first two files are of another year.
        let pieces = place.pieces().unwrap();
        for piece in &pieces[..3] {
            let text = fs::read_to_string(&piece.path).unwrap();
            let boot = crate::monitor::standing::boot_id();
            fs::write(
                &piece.path,
                text.replace(&boot, "another").replace("\"@timestamp\":\"20", "\"@timestamp\":\"19"),
            )
            .unwrap();
        }
        let anchor = crate::monitor::audit::store::first_of(&pieces[2].path).unwrap();
        retire(&place, std::time::Duration::from_secs(3600)).unwrap();
        assert_eq!(place.pieces().unwrap(), pieces[2..], "the third ended today");
        assert_eq!(Head::read(&place.head()).unwrap().unwrap().pruned, anchor);

        let (_directory, place) = log(20);
        let last = whole(&place).last;
        retire(&place, std::time::Duration::from_nanos(1)).unwrap();
        assert_eq!(place.pieces().unwrap(), []);
        let report = whole(&place);
        assert_eq!((report.records, report.noted), (0, last));
        retire(&place, std::time::Duration::from_nanos(1)).unwrap();
        assert!(!place.head().exists());
    }

    #[test]
    fn a_clock_that_is_set_removes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let limits =
            || Options { max_file_size: 1800, keep_age: std::time::Duration::from_secs(3600), ..options() };
        let place = write(directory.path(), 20, limits());
        let files = place.pieces().unwrap();
        // As if the machine had thought then that it was 1970.
        for piece in &files {
            let then = std::time::SystemTime::UNIX_EPOCH;
            File::open(&piece.path).unwrap().set_modified(then).unwrap();
        }
        write(directory.path(), 10, limits());
        assert_eq!(whole(&place).first, Some(1));
    }

    #[test]
    fn a_log_that_is_being_written_is_whole() {
        let (directory, place) = log(5);
        let path = directory.path().to_owned();
        let writer = std::thread::spawn(move || {
            let (mut store, _) = open(&path, Options { max_file_size: 1800, ..options() });
            for n in 0..300 {
                if store.wants_rotation() {
                    store.rotate().unwrap();
                }
                store.push(&Record::note(&container(), &format!("note {n}")));
                store.commit().unwrap();
            }
        });
        while !writer.is_finished() {
            whole(&place);
        }
        writer.join().unwrap();
        assert!(whole(&place).records > 300);
    }

    #[test]
    fn another_log_or_key_is_no_substitute() {
        let (directory, place) = log(8);
        let (_other, foreign) = log(8);
        let found = verify(&place, Some(&key::public_path(&foreign.state))).unwrap().broken.unwrap();
        assert!(found.why.contains("another key"), "{found:?}");
        let elsewhere = Place { stem: "c1.other".into(), ..place.clone() };
        for piece in place.pieces().unwrap() {
            let name =
                piece.path.file_name().unwrap().to_str().unwrap().replace(&place.stem, &elsewhere.stem);
            fs::copy(&piece.path, piece.path.with_file_name(name)).unwrap();
        }
        assert!(broken(&elsewhere).why.contains("another log"));
        let moved = Place { owner: 7, directory: directory.path().join("log/7"), ..place.clone() };
        fs::create_dir(&moved.directory).unwrap();
        for piece in place.pieces().unwrap() {
            fs::copy(&piece.path, moved.directory.join(piece.path.file_name().unwrap())).unwrap();
        }
        assert_eq!(broken(&moved).sequence, 1);
    }

    /// What somebody may do to a log, once.
    #[derive(Clone, Debug)]
    enum Mutation {
        Byte(prop::sample::Index, u8),
        Remove(prop::sample::Index),
        Swap(prop::sample::Index, prop::sample::Index),
        Repeat(prop::sample::Index, prop::sample::Index),
        Insert(prop::sample::Index, String),
        Truncate(prop::sample::Index),
        Append(Vec<u8>),
    }

    fn mutation() -> impl Strategy<Value = Mutation> {
        let index = any::<prop::sample::Index>;
        prop_oneof![
            (index(), 1..=255u8).prop_map(|(at, flip)| Mutation::Byte(at, flip)),
            index().prop_map(Mutation::Remove),
            (index(), index()).prop_map(|(a, b)| Mutation::Swap(a, b)),
            (index(), index()).prop_map(|(a, b)| Mutation::Repeat(a, b)),
            (index(), ".{0,20}").prop_map(|(at, text)| Mutation::Insert(at, text)),
            index().prop_map(Mutation::Truncate),
            prop::collection::vec(any::<u8>(), 1..40).prop_map(Mutation::Append),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn any_single_mutation_is_found(file in any::<prop::sample::Index>(), mutation in mutation()) {
            thread_local!(static LOG: (tempfile::TempDir, Place) = log(20));
            LOG.with(|(_directory, place)| {
                let pieces = place.pieces().unwrap();
                let path = &pieces[file.index(pieces.len())].path;
                let original = fs::read(path).unwrap();
                let mut bytes = original.clone();
                let mut lines: Vec<Vec<u8>> =
                    original.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
                let count = lines.len();
                match mutation {
                    Mutation::Byte(at, flip) => {
                        let at = at.index(bytes.len());
                        bytes[at] ^= flip;
                    }
                    Mutation::Truncate(at) => bytes.truncate(at.index(bytes.len())),
                    Mutation::Append(more) => bytes.extend(more),
                    Mutation::Remove(at) => {
                        lines.remove(at.index(count));
                        bytes = lines.concat();
                    }
                    Mutation::Swap(a, b) => {
                        lines.swap(a.index(count), b.index(count));
                        bytes = lines.concat();
                    }
                    Mutation::Repeat(from, to) => {
                        let line = lines[from.index(count)].clone();
                        lines.insert(to.index(count), line);
                        bytes = lines.concat();
                    }
                    Mutation::Insert(at, text) => {
                        lines.insert(at.index(count), format!("{text}\n").into_bytes());
                        bytes = lines.concat();
                    }
                }
                fs::write(path, &bytes).unwrap();
                let found = verify(place, None).unwrap().broken;
                fs::write(path, &original).unwrap();
                prop_assert_eq!(found.is_some(), bytes != original, "{:?}", found);
                Ok(())
            })?;
        }
    }
}
