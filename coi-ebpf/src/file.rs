//! What the kernel knows of an open file: a `struct file`.

use aya_ebpf::macros::map;

use crate::{
    copied::{Copied, Room, room},
    inode::Inode,
    kernel::offset,
    path::Place,
};

/// `include/linux/fs.h`: this file may be written through.
pub const FMODE_WRITE: u32 = 1 << 1;
/// `include/linux/fs.h`: this open made the file.
pub const FMODE_CREATED: u32 = 1 << 20;

#[map]
static FILE: Room = room();

/// An open file. Only the latest on each CPU is one.
#[derive(Clone, Copy)]
pub struct File(Copied);

impl File {
    /// The open file at this address, unless nothing is there.
    #[inline(always)]
    pub fn at(at: u64) -> Option<Self> {
        Copied::from(at, &FILE).map(Self)
    }

    /// Its inode.
    #[inline(always)]
    pub fn inode(&self) -> Option<Inode> {
        Inode::at(self.0.member(offset!(file_inode)))
    }

    /// What it is called.
    #[inline(always)]
    pub fn place(&self) -> Place {
        let path = offset!(file_path);
        Place {
            mnt: self.0.member(path + offset!(path_mnt)),
            dentry: self.0.member(path + offset!(path_dentry)),
        }
    }

    /// Bits named `FMODE_*`.
    #[inline(always)]
    pub fn mode(&self) -> u32 {
        self.0.member(offset!(file_mode))
    }

    /// The flags of its open(2).
    #[inline(always)]
    pub fn flags(&self) -> u32 {
        self.0.member(offset!(file_flags))
    }
}
