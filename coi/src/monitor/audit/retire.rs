//! Old records of logs that nobody writes any more: the container is watched no longer.
//!
//! It promises that nothing younger than the limit is removed; that what is left of a log is whole to who verifies it,
//! since the daemon's note has the anchor before a file goes; and that the note stays as long again, so that it is known
//! that all of it was removed in order. A log without that note is left alone.

use std::{fs, io, time::Duration};

use super::{
    evidence,
    files::{self, Place},
    head::{Head, HeadFile},
    store::{begun, first_of},
};

/// Removes what is too old of a log that is not being written.
pub(super) fn retire(place: &Place, keep_age: Duration) -> io::Result<()> {
    let Some(note) = Head::read(&place.head())? else { return Ok(()) };
    let age = note.written.age();
    let pieces = place.pieces()?;
    if pieces.is_empty() {
        return if age >= keep_age * 2 { fs::remove_file(place.head()) } else { Ok(()) };
    }
    let is_old = age >= keep_age;
    let (gone, anchor) = if is_old {
        (pieces.len(), note.link())
    } else {
        // A file has ended when the next one began.
        let ended = |next: &files::Piece| begun(&next.path).is_some_and(|next| next.age() >= keep_age);
        let gone = pieces.iter().skip(1).take_while(|next| ended(next)).count();
        // What is torn begins with nothing to go on from: it goes with the file after it.
        match pieces.get(gone).filter(|_| gone > 0).map(|piece| first_of(&piece.path)).transpose()?.flatten()
        {
            Some(anchor) => (gone, anchor),
            None => return Ok(()),
        }
    };
    HeadFile::open(&place.head(), place.owner)?.write(&Head { pruned: Some(anchor), ..note })?;
    for piece in &pieces[..gone] {
        fs::remove_file(&piece.path)?;
    }
    if is_old {
        for piece in evidence::list(place) {
            fs::remove_file(piece.path)?;
        }
        tracing::info!(log = %place.active().display(), "an old log was removed");
    }
    Ok(())
}
