//! The entries into the kernel that COI closes in its own containers, since what goes through them cannot be seen as
//! it should be.
//!
//! It promises that what a container's configuration closes is told from it, and that native calls are not touched.
//! It does not know what Incus, LXC and libseccomp really made of a policy; the end-to-end tests of the routes do.

use std::collections::{BTreeMap, BTreeSet};

use super::i386::{self, Name};

/// The key of an Incus instance for calls that are denied, one on a line, in LXC's words.
pub const DENY: &str = "security.syscalls.deny";

/// The key for a policy that stands in place of that list.
const RAW: &str = "raw.seccomp";

/// An error, not a kill: libuv asks for io_uring and does without it, and a 32-bit program says what is the matter.
const ENOSYS: &str = "errno 38";

/// LXC adds every rule for all entries, whatever section it stands in; so a rule for one entry needs a condition
/// that holds there only. libseccomp compares 64 bits at the native entry and the lower half of them at the 32-bit
/// one (its `db.c` strips the rest), where this asks for nothing; natively it asks for an upper half of the first
/// argument that no address of a process has, nor any number.
const AT_THE_I386_ENTRY: &str = "[0,0x5c5c5c5c00000000,SCMP_CMP_MASKED_EQ,0xffffffff00000000]";

/// An entry beside the native system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// io_uring.
    IoUring,
    /// The 32-bit system calls, of int 0x80 and of 32-bit programs.
    I386,
}

impl Entry {
    /// All of them.
    const ALL: [Self; 2] = [Self::IoUring, Self::I386];

    /// The hole that there is where it is open.
    fn hole(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
            Self::I386 => "int80",
        }
    }

    /// The lines for [`DENY`] that close it.
    fn lines(self) -> Vec<String> {
        match self {
            Self::IoUring => vec![format!("io_uring_setup {ENOSYS}")],
            Self::I386 => i386_lines().into_iter().collect(),
        }
    }

    fn is_closed(self, config: &BTreeMap<String, String>) -> bool {
        let denied: BTreeSet<_> =
            config.get(DENY).map_or("", String::as_str).lines().map(str::trim).collect();
        !config.contains_key(RAW) && self.lines().iter().all(|line| denied.contains(line.as_str()))
    }
}

/// The holes that an instance's configuration closes, with that of its profiles.
pub fn closed_holes(config: &BTreeMap<String, String>) -> Vec<&'static str> {
    Entry::ALL.into_iter().filter(|entry| entry.is_closed(config)).map(Entry::hole).collect()
}

/// Socket calls are left but for socketcall(2): they have no names that LXC could deny.
fn i386_lines() -> BTreeSet<String> {
    let lines = i386::CALLS.iter().filter_map(|call| match call.name {
        // There is a line for every entry already.
        Name::Shared("io_uring_setup") | Name::None => None,
        Name::Shared(name) => Some(format!("{name} {ENOSYS} {AT_THE_I386_ENTRY}")),
        Name::Own(name) => Some(format!("{name} {ENOSYS}")),
    });
    lines.collect()
}

/// A value for [`DENY`] that closes all entries but those that shall stay `open`.
pub fn policy(open: &[Entry]) -> String {
    let closed = Entry::ALL.into_iter().filter(|entry| !open.contains(entry));
    closed.flat_map(Entry::lines).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(pairs: &[(&str, &str)]) -> Vec<Entry> {
        let config = pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        Entry::ALL.into_iter().filter(|entry| entry.is_closed(&config)).collect()
    }

    #[test]
    fn what_is_closed_is_read_from_the_configuration() {
        assert_eq!(closed(&[]), []);
        assert_eq!(closed(&[(DENY, &policy(&[]))]), Entry::ALL);
        assert_eq!(closed(&[(DENY, &policy(&[Entry::IoUring]))]), [Entry::I386]);
        assert_eq!(closed(&[(DENY, &policy(&[Entry::I386]))]), [Entry::IoUring]);
        assert_eq!(closed(&[(DENY, "bpf\nio_uring_setup errno 38")]), [Entry::IoUring]);
        assert_eq!(closed(&[(DENY, "io_uring_setup_not errno 38")]), []);
    }

    #[test]
    fn a_raw_policy_stands_in_place_of_the_list() {
        assert_eq!(closed(&[(DENY, &policy(&[])), (RAW, "2")]), []);
    }

    #[test]
    fn one_call_left_out_leaves_the_entry_open() {
        let all = policy(&[]);
        let most: Vec<_> = all.lines().filter(|line| !line.starts_with("preadv2 ")).collect();
        assert_eq!(closed(&[(DENY, &most.join("\n"))]), [Entry::IoUring]);
    }
}
