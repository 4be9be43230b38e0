//! How many entries the maps of the kernel programs have.
//!
//! It promises to disturb nobody: it walks over the keys of a map through a descriptor of its own, from whatever thread.
//! What comes and goes meanwhile may be counted or not. Of maps that forget the oldest by themselves, and of those that
//! always have all their entries, nothing is said.

use std::{
    ffi::{c_int, c_long},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    ptr,
};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError},
};
use nix::libc;

/// `include/uapi/linux/bpf.h`
const BPF_MAP_GET_NEXT_KEY: c_int = 4;

/// A map that grows and shrinks.
#[derive(Debug)]
pub struct Counted {
    name: String,
    descriptor: OwnedFd,
    key_size: usize,
    room: u32,
}

/// The part of `union bpf_attr` that [`BPF_MAP_GET_NEXT_KEY`] takes.
#[repr(C)]
struct NextKey {
    map: u32,
    _padding: u32,
    key: u64,
    next: u64,
    flags: u64,
}

impl Counted {
    /// All those of an object, by name.
    pub(super) fn of(ebpf: &Ebpf) -> Result<Vec<Self>, MapError> {
        let mut all = Vec::new();
        for (name, map) in ebpf.maps() {
            if let Map::HashMap(map) | Map::PerCpuHashMap(map) = map {
                all.push(Self::map(name, map)?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    fn map(name: &str, map: &MapData) -> Result<Self, MapError> {
        let info = map.info()?;
        let descriptor = map.fd().as_fd().try_clone_to_owned()?;
        Ok(Self {
            name: name.to_lowercase(),
            descriptor,
            key_size: info.key_size() as usize,
            room: info.max_entries(),
        })
    }

    /// Its name, in small letters.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many entries it can have.
    pub fn room(&self) -> u32 {
        self.room
    }

    /// How many it has; those that could be counted if the kernel says no.
    pub fn entries(&self) -> u32 {
        let mut key = vec![0; self.key_size];
        let mut next = vec![0; self.key_size];
        let mut count = 0;
        // After a key that has just been removed the walk begins anew; it is given up when it could have seen all.
        while count < self.room && self.next_key((count > 0).then_some(&key), &mut next).is_ok() {
            count += 1;
            std::mem::swap(&mut key, &mut next);
        }
        count
    }

    /// The key after this one, or the first; an error if there is none.
    fn next_key(&self, key: Option<&Vec<u8>>, next: &mut Vec<u8>) -> io::Result<()> {
        let attributes = NextKey {
            map: self.descriptor.as_raw_fd() as u32,
            _padding: 0,
            key: key.map_or(ptr::null(), Vec::as_ptr) as u64,
            next: next.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads the attributes and, behind `key`, and writes, behind `next`, as many bytes as the map's
        // keys have, which is how long both are; it keeps none of the addresses.
        let done: c_long = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_GET_NEXT_KEY,
                &raw const attributes,
                size_of::<NextKey>() as libc::c_uint,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
