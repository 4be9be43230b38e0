//! How full a ring is, as the kernel and its reader have it.
//!
//! It promises to disturb neither: the two positions are in pages that are mapped here for reading only. What it says may be
//! old by the time it is read.

use std::{
    ffi::c_void,
    io,
    os::fd::{AsFd, AsRawFd as _},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, Ordering},
};

use nix::{
    libc,
    unistd::{SysconfVar, sysconf},
};

/// One ring's positions.
#[derive(Debug)]
pub struct Fill {
    /// Where its reader is.
    consumer: Page,
    /// Where the kernel writes next.
    producer: Page,
}

impl Fill {
    /// Of a map that is a ring buffer: its first page has the reader's position, the next the kernel's
    /// (`kernel/bpf/ringbuf.c`).
    pub(super) fn of(ring: impl AsFd) -> io::Result<Self> {
        let size = sysconf(SysconfVar::PAGE_SIZE)?.ok_or(io::ErrorKind::Unsupported)?;
        let page = |number| Page::map(&ring, size, number * size);
        Ok(Self { consumer: page(0)?, producer: page(1)? })
    }

    /// How many bytes wait in it.
    pub fn bytes(&self) -> u64 {
        // The reader's first: it never overtakes the kernel, so nothing is below zero.
        let consumer = self.consumer.position();
        self.producer.position().saturating_sub(consumer)
    }
}

/// A mapped page.
#[derive(Debug)]
struct Page {
    start: NonNull<c_void>,
    size: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; it is only ever read, atomically.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn map(ring: impl AsFd, size: i64, offset: i64) -> io::Result<Self> {
        let size = usize::try_from(size).map_err(io::Error::other)?;
        let ring = ring.as_fd().as_raw_fd();
        // SAFETY: a new mapping, at a place of the kernel's choice, replaces none; the descriptor is open.
        let start =
            unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, ring, offset) };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, size }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn position(&self) -> u64 {
        // SAFETY: the page is mapped for reading as long as `self` is there, it begins with the position as an aligned
        // 64-bit number, and whoever else writes that does so atomically.
        unsafe { self.start.cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this size, and nobody has a reference into it any more.
        let unmapped = unsafe { libc::munmap(self.start.as_ptr(), self.size) };
        if unmapped != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "a page of a ring stays mapped");
        }
    }
}
