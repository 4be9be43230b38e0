//! Which events anybody wants: what no rule can match and nobody looks at is not sent.
//!
//! User space derives [`Wanted`] and the tests on names from the rules. A test may pass what no rule matches; it never
//! holds back what one does. Names are the kernel's own, of the file that was really opened.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use coi_common::{
    AFFIX, FORM_DIRECTORY, FORM_NAME, FORM_PREFIX, FORM_SUFFIX, Kind, NameKey, TEST_SPACE, Wanted, passing,
};

use crate::{
    dentry::{Dentry, Name},
    exec::bounded,
    memory,
    path::{self, Place},
    ring,
    scope::Watched,
};

/// What is wanted.
#[map]
static WANTED: Array<Wanted> = Array::with_max_entries(1, 0);
/// The tests on the names of opened files; values as [`passing`] describes them.
#[map]
static NAMES: HashMap<NameKey, u32> = HashMap::with_max_entries(8192, 0);
/// Room for a key: one for each form, so that what is written for one is not taken for another.
#[map]
static KEYS: PerCpuArray<NameKey> = PerCpuArray::with_max_entries(4, 0);

/// Are events of this kind wanted of this cgroup?
#[inline(always)]
pub fn kind(kind: Kind, watched: &Watched) -> bool {
    let Some(wanted) = WANTED.get(0) else { return true };
    wanted.kinds & kind.bit() != 0 || wanted.somewhere_everything != 0 && ring::everything(watched.id)
}

/// Is the opening of the file at this place wanted? `attributes` are `OPEN_*`; `in_workspace` is asked only if it matters.
#[inline(always)]
pub fn open(watched: &Watched, place: Place, attributes: u32, in_workspace: impl FnOnce() -> bool) -> bool {
    let Some(wanted) = WANTED.get_ptr(0) else { return true };
    // SAFETY: a pointer to a map's value stays valid while the program runs; user space replaces the value as a whole,
    // and a mixture of two would pass for one event.
    let wanted = unsafe { &*wanted };
    if wanted.somewhere_everything != 0 && ring::everything(watched.id) {
        return true;
    }
    if wanted.kinds & Kind::Open.bit() == 0 {
        return false;
    }
    let passes = passing(attributes);
    if wanted.any & passes != 0 {
        return true;
    }
    if wanted.workspace & passes != 0 && in_workspace() {
        return true;
    }
    let Some(entry) = Dentry::at(place.dentry) else { return true };
    last_part(wanted, entry.name(), passes)
        || wanted.directory_lengths != 0
            && path::any_directory(place, |name| {
                wanted.directory_lengths & bit(name.len) != 0
                    && has(&wanted.directory_first, name.first())
                    && passes_test(name, FORM_DIRECTORY, 0, name.len, passes)
            })
}

#[inline(always)]
fn last_part(wanted: &Wanted, name: Name, passes: u32) -> bool {
    let affix = AFFIX as u64;
    wanted.name_lengths & bit(name.len) != 0
        && has(&wanted.name_first, name.first())
        && passes_test(name, FORM_NAME, 0, name.len, passes)
        || name.len >= affix
            && (has(&wanted.prefix_first, name.first()) && passes_test(name, FORM_PREFIX, 0, affix, passes)
                || has(&wanted.suffix_last, name.last())
                    && passes_test(name, FORM_SUFFIX, name.len - affix, affix, passes))
}

/// The bit for a length in a set of lengths.
#[inline(always)]
fn bit(len: u64) -> u64 {
    if len > TEST_SPACE as u64 { 0 } else { 1 << (len & 63) }
}

#[inline(always)]
fn has(set: &[u64; 4], byte: u8) -> bool {
    set[usize::from(byte >> 6)] & 1 << (byte & 63) != 0
}

/// Is there a test of this form with these bytes of the name that passes?
#[inline(always)]
fn passes_test(name: Name, form: u8, from: u64, len: u64, passes: u32) -> bool {
    let Some(key) = KEYS.get_ptr_mut(u32::from(form)) else { return true };
    let len = bounded(len, TEST_SPACE as u64);
    // SAFETY: a per-CPU value, and programs do not move between CPUs; `len` is at most the text's size, and the
    // helper checks the address itself.
    let found = unsafe {
        memory::zero(key);
        (*key).form = form;
        if bpf_probe_read_kernel((&raw mut (*key).text).cast(), len as u32, (name.at + from) as *const _) != 0
        {
            return true;
        }
        // By reference: a copy would go over the stack.
        let key: &NameKey = &*key;
        NAMES.get(key).copied()
    };
    found.is_some_and(|tests| tests & passes != 0)
}
