//! What the kernel knows of a file: a `struct inode`.

use aya_ebpf::macros::map;

use crate::{
    copied::{Copied, Room, room},
    kernel::{self, offset},
};

pub const S_IFMT: u16 = 0o170_000;
pub const S_IFSOCK: u16 = 0o140_000;
pub const S_IFREG: u16 = 0o100_000;
pub const S_IFDIR: u16 = 0o040_000;
pub const S_IFCHR: u16 = 0o020_000;
pub const S_IFIFO: u16 = 0o010_000;

#[map]
static INODE: Room = room();

/// A file. Only the latest on each CPU is one.
#[derive(Clone, Copy)]
pub struct Inode(Copied);

impl Inode {
    /// The inode at this address, unless nothing is there.
    #[inline(always)]
    pub fn at(at: u64) -> Option<Self> {
        Copied::from(at, &INODE).map(Self)
    }

    /// Its number.
    #[inline(always)]
    pub fn number(&self) -> u64 {
        self.0.member(offset!(inode_ino))
    }

    /// Its type: one of `S_IF*`.
    #[inline(always)]
    pub fn kind(&self) -> u16 {
        self.mode() & S_IFMT
    }

    /// Its type and permissions.
    #[inline(always)]
    pub fn mode(&self) -> u16 {
        self.0.member(offset!(inode_mode))
    }

    /// Tells a file from the next one that gets its number.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        self.0.member(offset!(inode_generation))
    }

    /// Which device this is, if it is one.
    #[inline(always)]
    pub fn represents(&self) -> u32 {
        self.0.member(offset!(inode_rdev))
    }

    /// The address of its file system's `struct super_block`.
    #[inline(always)]
    pub fn file_system(&self) -> u64 {
        self.0.member(offset!(inode_sb))
    }

    /// The device number of its file system.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        kernel::read(self.file_system() + offset!(sb_dev)).unwrap_or(0)
    }
}
