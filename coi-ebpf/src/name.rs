//! What a caller calls a file: a text, and the directory it is relative to.

use aya_ebpf::helpers::generated::bpf_probe_read_user_str;
use coi_common::{FLAG_PATH_TRUNCATED, FLAG_PATH_UNREADABLE, PATH_KEPT};

use crate::{
    exec::bounded,
    path::{self, PATH_MASK, PATH_SPACE},
    stream,
};

/// In place of a directory's descriptor: the working directory.
pub const AT_FDCWD: i32 = -100;
/// In place of a directory's descriptor: the text is relative to nothing.
pub const NOWHERE: i32 = i32::MIN;

/// Room for a name.
pub const NAME_ROOM: usize = 2 * PATH_SPACE;
/// Bounds the length of what is in [`NAME_ROOM`].
pub const NAME_MASK: u64 = NAME_ROOM as u64 - 1;

/// A name as it is passed to a system call.
#[derive(Clone, Copy)]
pub struct Name {
    /// A directory's descriptor, [`AT_FDCWD`] or [`NOWHERE`]; an open file's where there is no text.
    pub directory: i32,
    /// Where the text is in the caller's memory, or 0.
    pub text: u64,
}

/// The lengths of what was written, and `FLAG_PATH_*`.
#[derive(Clone, Copy)]
pub struct Written {
    /// Of the place, at most [`PATH_SPACE`]: the parts of its path, last first.
    pub place: u64,
    /// Of the text, at most [`PATH_KEPT`], its NUL included.
    pub text: u64,
    /// Bits named `FLAG_PATH_*`.
    pub flags: u32,
}

/// Writes the place, which is the kernel's own, and behind it the text, which is what lies in the caller's memory now.
///
/// `to` has room for [`NAME_ROOM`] bytes.
#[inline(always)]
pub fn write(name: Name, to: *mut u8) -> Written {
    let place = if name.directory == AT_FDCWD {
        path::working_directory()
    } else if name.directory < 0 {
        None
    } else {
        stream::file(name.directory as u64).map(path::of_file)
    };
    let (place, flags) = match place {
        Some(place) => path::write(place, to),
        None => (0, 0),
    };
    let place = bounded(place, PATH_MASK);
    if name.text == 0 {
        return Written { place, text: 0, flags };
    }
    // SAFETY: behind `place` there is room for PATH_KEPT bytes.
    let (text, text_flags) = write_text(name.text, unsafe { to.add(bounded(place, PATH_MASK) as usize) });
    Written { place, text, flags: flags | text_flags }
}

/// Writes a text of the caller's memory; gives its length, at most [`PATH_KEPT`], and `FLAG_PATH_*`.
///
/// `to` has room for [`PATH_KEPT`] bytes.
#[inline(always)]
pub fn write_text(text: u64, to: *mut u8) -> (u64, u32) {
    // SAFETY: there is room for PATH_KEPT bytes; the helper checks the address itself.
    let read = unsafe { bpf_probe_read_user_str(to.cast(), PATH_KEPT as u32, text as *const _) };
    if read <= 0 {
        return (0, FLAG_PATH_UNREADABLE);
    }
    let flags = if read == PATH_KEPT as i64 { FLAG_PATH_TRUNCATED } else { 0 };
    (bounded(read as u64, PATH_MASK), flags)
}
