//! What the kernel knows of a name in a directory: a `struct dentry`.

use aya_ebpf::macros::map;

use crate::{
    copied::{Copied, Room, room},
    kernel::offset,
};

#[map]
static ENTRY: Room = room();

/// An entry. Only the latest on each CPU is one.
#[derive(Clone, Copy)]
pub struct Dentry(Copied);

impl Dentry {
    /// The entry at this address, unless nothing is there.
    #[inline(always)]
    pub fn at(at: u64) -> Option<Self> {
        Copied::from(at, &ENTRY).map(Self)
    }

    /// The directory that it is in; itself where it is in none.
    #[inline(always)]
    pub fn parent(&self) -> u64 {
        self.0.member(offset!(dentry_parent))
    }

    /// Is it in no directory, but the top of them or a file without a name?
    #[inline(always)]
    pub fn is_root(&self) -> bool {
        self.parent() == self.0.address()
    }

    /// Where its `struct inode` is; 0 where there is no file of that name.
    #[inline(always)]
    pub fn inode(&self) -> u64 {
        self.0.member(offset!(dentry_inode))
    }

    /// What it is called.
    #[inline(always)]
    pub fn name(&self) -> Name {
        // `struct qstr`: the length is the upper half of the number before the pointer.
        let place = offset!(dentry_name);
        let (hash_len, at): (u64, u64) = (self.0.member(place - 8), self.0.member(place));
        Name { at, len: hash_len >> 32, entry: self.0 }
    }
}

/// A name, where the kernel has it: a short one in the entry itself.
#[derive(Clone, Copy)]
pub struct Name {
    /// Its address.
    pub at: u64,
    /// Its length.
    pub len: u64,
    entry: Copied,
}

impl Name {
    #[inline(always)]
    pub fn first(&self) -> u8 {
        self.entry.byte(self.at)
    }

    #[inline(always)]
    pub fn last(&self) -> u8 {
        self.entry.byte(self.at.wrapping_add(self.len).wrapping_sub(1))
    }
}
