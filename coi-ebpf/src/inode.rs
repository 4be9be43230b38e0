//! What the kernel knows of a file: a `struct inode`, of which the beginning is copied at once. One call of the helper that
//! reads kernel memory costs more than the bytes do.

use aya_ebpf::{helpers::generated::bpf_probe_read_kernel, macros::map, maps::PerCpuArray};

use crate::kernel::{self, offset, pointer};

pub const S_IFMT: u16 = 0o170_000;
pub const S_IFSOCK: u16 = 0o140_000;
pub const S_IFREG: u16 = 0o100_000;
pub const S_IFDIR: u16 = 0o040_000;
pub const S_IFCHR: u16 = 0o020_000;
pub const S_IFIFO: u16 = 0o010_000;

/// How much is copied; what lies behind is read by itself.
const COPIED: usize = 128;

/// The copy: a program's stack is too small for it.
#[map]
static COPY: PerCpuArray<[u64; COPIED / 8]> = PerCpuArray::with_max_entries(1, 0);

/// A file. Only the latest on each CPU is one: the next takes its place.
#[derive(Clone, Copy)]
pub struct Inode {
    at: u64,
    copy: *const u8,
}

impl Inode {
    /// The inode at this address, unless nothing is there.
    #[inline(always)]
    pub fn at(at: u64) -> Option<Self> {
        let copy = COPY.get_ptr_mut(0)?;
        // SAFETY: there is room; the helper checks the other address itself.
        let read = unsafe { bpf_probe_read_kernel(copy.cast(), COPIED as u32, at as *const _) };
        (read == 0).then_some(Self { at, copy: copy.cast() })
    }

    /// Its number.
    #[inline(always)]
    pub fn number(&self) -> u64 {
        self.member(offset!(inode_ino))
    }

    /// Its type: one of `S_IF*`.
    #[inline(always)]
    pub fn kind(&self) -> u16 {
        self.mode() & S_IFMT
    }

    /// Its type and permissions.
    #[inline(always)]
    pub fn mode(&self) -> u16 {
        self.member(offset!(inode_mode))
    }

    /// Tells a file from the next one that gets its number.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.member(offset!(inode_generation))
    }

    /// Which device this is, if it is one.
    #[inline(always)]
    pub fn represents(&self) -> u32 {
        self.member(offset!(inode_rdev))
    }

    /// The address of its file system's `struct super_block`.
    #[inline(always)]
    pub fn file_system(&self) -> u64 {
        self.member(offset!(inode_sb))
    }

    /// The device number of its file system.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        kernel::read(self.file_system() + offset!(sb_dev)).unwrap_or(0)
    }

    #[inline(always)]
    fn member<T: Copy + Default>(&self, offset: u64) -> T {
        if offset as usize > COPIED - size_of::<T>() {
            return kernel::read(self.at + offset).unwrap_or_default();
        }
        // SAFETY: within the copy, a per-CPU value, and an aligned number; programs do not move between CPUs.
        unsafe { self.copy.add(offset as usize).cast::<T>().read() }
    }
}

/// The inode of an open file.
#[inline(always)]
pub fn of_file(file: u64) -> Option<Inode> {
    Inode::at(pointer(file + offset!(file_inode))?)
}
