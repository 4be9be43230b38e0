//! What a caller calls a file: a text, and the directory it is relative to.

use aya_ebpf::{
    helpers::generated::{
        bpf_probe_read_kernel, bpf_probe_read_kernel_str, bpf_probe_read_user, bpf_probe_read_user_str,
    },
    macros::map,
    maps::PerCpuArray,
};
use coi_common::{FLAG_PATH_TRUNCATED, FLAG_PATH_UNREADABLE, PATH_KEPT};

use crate::{
    exec::bounded,
    path::{self, PATH_MASK, PATH_SPACE, Place},
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
#[repr(C)]
pub struct Name {
    /// A directory's descriptor, [`AT_FDCWD`] or [`NOWHERE`]; an open file's where there is no text.
    pub directory: i32,
    /// The text.
    pub text: Passed,
}

impl Name {
    /// None.
    pub const NONE: Self = Self { directory: NOWHERE, text: Passed::NOTHING };
}

/// Where a text is that a caller passed. No enumeration: the verifier would follow each variant on its own.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Passed {
    /// 0 where none was.
    at: u64,
    /// It is the kernel's own copy, not the caller's memory, which changes as the caller likes.
    copied: bool,
}

impl Passed {
    /// None was.
    pub const NOTHING: Self = Self { at: 0, copied: false };

    /// In the caller's memory.
    #[inline(always)]
    pub fn by_caller(at: u64) -> Self {
        Self { at, copied: false }
    }

    /// In the kernel's memory.
    #[inline(always)]
    pub fn copied(at: u64) -> Self {
        Self { at, copied: true }
    }

    /// Was none passed?
    #[inline(always)]
    pub fn is_nothing(self) -> bool {
        self.at == 0
    }

    /// Reads `len` of its bytes, from one of them on; false where there is no memory.
    ///
    /// # Safety
    /// `to` has room for them.
    #[inline(always)]
    pub unsafe fn read(self, from: u64, to: *mut u8, len: u64) -> bool {
        let at = (self.at + from) as *const _;
        // SAFETY: the caller's promise; the helpers check the other address themselves.
        let read = unsafe {
            if self.copied {
                bpf_probe_read_kernel(to.cast(), len as u32, at)
            } else {
                bpf_probe_read_user(to.cast(), len as u32, at)
            }
        };
        read == 0
    }
}

/// The lengths of what was written, and `FLAG_PATH_*`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Written {
    /// Of the place, at most [`PATH_SPACE`]: the parts of its path, last first.
    pub place: u64,
    /// Of the text, at most [`PATH_KEPT`], its NUL included.
    pub text: u64,
    /// Bits named `FLAG_PATH_*`.
    pub flags: u32,
}

/// Writes the place, which is the kernel's own, and behind it the text.
///
/// `to` has room for [`NAME_ROOM`] bytes.
#[inline(always)]
pub fn write(name: Name, to: *mut u8) -> Written {
    let place = if name.directory == AT_FDCWD {
        Place::working_directory()
    } else if name.directory < 0 {
        None
    } else {
        stream::file(name.directory as u64).and_then(Place::of_file)
    };
    let (place, flags) = match place {
        // SAFETY: there is room for twice as much.
        Some(place) => unsafe { path::write(place, to) },
        None => (0, 0),
    };
    let place = bounded(place, PATH_MASK);
    let (mut text, mut text_flags) = (0, 0);
    if !name.text.is_nothing() {
        // SAFETY: behind `place` there is room for PATH_KEPT bytes.
        (text, text_flags) = write_text(name.text, unsafe { to.add(bounded(place, PATH_MASK) as usize) });
    }
    forgotten(Written { place, text, flags: flags | text_flags })
}

/// What was written. Read back from here it is unknown to the verifier, which then follows all names as one.
#[map]
static NAMED: PerCpuArray<Written> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn forgotten(written: Written) -> Written {
    let Some(place) = NAMED.get_ptr_mut(0) else { return written };
    // SAFETY: a per-CPU value, and programs do not move between CPUs.
    unsafe {
        core::ptr::write_volatile(place, written);
        core::ptr::read_volatile(place)
    }
}

/// Writes a text; gives its length, at most [`PATH_KEPT`], and `FLAG_PATH_*`.
///
/// `to` has room for [`PATH_KEPT`] bytes.
#[inline(always)]
pub fn write_text(text: Passed, to: *mut u8) -> (u64, u32) {
    // SAFETY: there is room for PATH_KEPT bytes; the helpers check the address themselves.
    let read = unsafe {
        if text.copied {
            bpf_probe_read_kernel_str(to.cast(), PATH_KEPT as u32, text.at as *const _)
        } else {
            bpf_probe_read_user_str(to.cast(), PATH_KEPT as u32, text.at as *const _)
        }
    };
    if read <= 0 {
        return (0, FLAG_PATH_UNREADABLE);
    }
    let flags = if read == PATH_KEPT as i64 { FLAG_PATH_TRUNCATED } else { 0 };
    (bounded(read as u64, PATH_MASK), flags)
}
