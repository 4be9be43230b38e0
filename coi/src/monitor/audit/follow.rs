//! A log as it grows, across its files.
//!
//! It promises every whole line once and in order, however often the log is rotated meanwhile, and waits by inotify. What
//! is removed before it was read is told by a number that is missing.

use std::{
    collections::VecDeque,
    fs::{self, File, Metadata},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::files::{Piece, Place};

/// How much is read at once.
const CHUNK: usize = 64 << 10;

/// Somebody who reads along.
#[derive(Debug)]
pub struct Follow {
    place: Place,
    inotify: Inotify,
    /// The file that is read now.
    file: Option<File>,
    /// The number of the first record of the file that was read last, where its name says it.
    seen: u64,
    /// The beginning of a line.
    partial: Vec<u8>,
    lines: VecDeque<Vec<u8>>,
}

impl Follow {
    /// Begins with the file of so many lines before the end that these are in it and in those after it.
    pub fn from_end(place: Place, lines: usize) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        // From here on nothing is missed.
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MODIFY;
        inotify.add_watch(&place.directory, flags)?;
        let mut follow =
            Self { place, inotify, file: None, seen: 0, partial: Vec::new(), lines: VecDeque::new() };
        let mut have = 0;
        for (piece, mut file) in follow.place.open()?.into_iter().rev() {
            have += count_lines(&mut file)?;
            file.seek(SeekFrom::Start(0))?;
            follow.seen = piece.first.unwrap_or(follow.seen);
            follow.file = Some(file);
            if have >= lines {
                break;
            }
        }
        Ok(follow)
    }

    /// The next line that is there, without its end; `None` if there is none yet.
    pub fn try_next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            if self.read()? {
                continue;
            }
            let Some((next, file)) = self.next_file()? else { return Ok(None) };
            // It was renamed after its last record: what was written before that is read first.
            if self.read()? {
                continue;
            }
            // What is left of a line was never finished.
            self.partial.clear();
            self.seen = next.first.unwrap_or(self.seen);
            self.file = Some(file);
        }
    }

    /// The next line, without its end; waits for it.
    pub fn next_line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(line) = self.try_next()? {
                return Ok(line);
            }
            match self.inotify.read_events() {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads some of the file. Was there anything?
    fn read(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let mut chunk = vec![0; CHUNK];
        let length = file.read(&mut chunk)?;
        for part in chunk[..length].split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend(part);
            if self.partial.pop_if(|last| *last == b'\n').is_some() {
                self.lines.push_back(std::mem::take(&mut self.partial));
            }
        }
        Ok(length > 0)
    }

    /// The file after the one that is read.
    fn next_file(&self) -> io::Result<Option<(Piece, File)>> {
        let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        let Some(file) = &self.file else { return Ok(self.place.open()?.into_iter().next()) };
        let current = identity(&file.metadata()?);
        if fs::metadata(self.place.active()).is_ok_and(|newest| identity(&newest) == current) {
            return Ok(None);
        }
        // By name alone, one that is rotated at this moment would be taken for its successor.
        let pieces = self.place.open()?;
        let is_it =
            |(_, other): &(Piece, File)| other.metadata().is_ok_and(|other| identity(&other) == current);
        Ok(match pieces.iter().position(is_it) {
            Some(at) => pieces.into_iter().nth(at + 1),
            // It was removed; its number tells which come after it.
            None => pieces.into_iter().find(|(piece, _)| piece.first.is_none_or(|first| first > self.seen)),
        })
    }
}

fn count_lines(file: &mut File) -> io::Result<usize> {
    let mut chunk = vec![0; CHUNK];
    let mut lines = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(lines),
            length => lines += chunk[..length].iter().filter(|byte| **byte == b'\n').count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, thread};

    use super::*;

    #[test]
    fn every_line_once_across_rotations() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path(), directory.path(), 0, "c.1");
        fs::create_dir(&place.directory).unwrap();
        fs::write(place.active(), "1\n2\n3\n").unwrap();
        let mut follow = Follow::from_end(place.clone(), 2).unwrap();
        let writer = thread::spawn(move || {
            let mut first = 1;
            let mut file = File::options().append(true).open(place.active()).unwrap();
            for n in 4..=2000u64 {
                if n % 7 == 0 {
                    fs::rename(place.active(), place.rotated(first)).unwrap();
                    first = n;
                    file = File::options().append(true).create_new(true).open(place.active()).unwrap();
                }
                let line = format!("{n}\n");
                // In two pieces, as a disk that fills up may take it.
                let (a, b) = line.as_bytes().split_at(n as usize % line.len());
                file.write_all(a).unwrap();
                file.write_all(b).unwrap();
            }
        });
        for n in 1..=2000 {
            assert_eq!(String::from_utf8(follow.next_line().unwrap()).unwrap(), n.to_string());
        }
        writer.join().unwrap();
        assert_eq!(follow.try_next().unwrap(), None);
    }

    #[test]
    fn what_was_removed_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(directory.path(), directory.path(), 0, "c.1");
        fs::create_dir(&place.directory).unwrap();
        fs::write(place.rotated(1), "1\n2\n").unwrap();
        fs::write(place.rotated(3), "3\n4\n").unwrap();
        fs::write(place.active(), "5\n").unwrap();
        let mut follow = Follow::from_end(place.clone(), 5).unwrap();
        assert_eq!(follow.try_next().unwrap(), Some(b"1".to_vec()));
        fs::remove_file(place.rotated(1)).unwrap();
        fs::remove_file(place.rotated(3)).unwrap();
        assert_eq!(follow.try_next().unwrap(), Some(b"2".to_vec()));
        assert_eq!(follow.try_next().unwrap(), Some(b"5".to_vec()));
        assert_eq!(follow.try_next().unwrap(), None);
    }
}
