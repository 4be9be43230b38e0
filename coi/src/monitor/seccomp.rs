//! The entries into the kernel that COI closes in its own containers, since what goes through them cannot be seen as
//! it should be.
//!
//! It promises that what a container's configuration closes is told from it. It does not know what Incus, LXC and libseccomp
//! really made of a policy; the end-to-end tests of the routes do.

use std::collections::{BTreeMap, BTreeSet};

/// The key of an Incus instance for calls that are denied, one on a line, in LXC's words.
pub const DENY: &str = "security.syscalls.deny";

/// The key for a policy that stands in place of that list.
const RAW: &str = "raw.seccomp";

/// An entry beside the system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    /// io_uring.
    IoUring,
}

impl Entry {
    /// All of them.
    const ALL: [Self; 1] = [Self::IoUring];

    /// The hole that there is where it is open.
    const fn hole(self) -> &'static str {
        match self {
            Self::IoUring => "io-uring",
        }
    }

    /// The line for [`DENY`] that closes it. An error, not a kill: libuv asks for io_uring and does without it. 38 is ENOSYS.
    const fn line(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring_setup errno 38",
        }
    }

    fn is_closed(self, config: &BTreeMap<String, String>) -> bool {
        let denied: BTreeSet<_> =
            config.get(DENY).map_or("", String::as_str).lines().map(str::trim).collect();
        !config.contains_key(RAW) && denied.contains(self.line())
    }
}

/// The holes that an instance's configuration closes, with that of its profiles.
pub fn closed_holes(config: &BTreeMap<String, String>) -> Vec<&'static str> {
    Entry::ALL.into_iter().filter(|entry| entry.is_closed(config)).map(Entry::hole).collect()
}

/// A value for [`DENY`] that closes all entries but those that shall stay `open`.
pub fn policy(open: &[Entry]) -> String {
    let closed = Entry::ALL.into_iter().filter(|entry| !open.contains(entry));
    closed.map(Entry::line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(pairs: &[(&str, &str)]) -> Vec<&'static str> {
        closed_holes(&pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn what_is_closed_is_read_from_the_configuration() {
        assert_eq!(closed(&[]), [""; 0]);
        assert_eq!(closed(&[(DENY, &policy(&[]))]), ["io-uring"]);
        assert_eq!(closed(&[(DENY, &policy(&[Entry::IoUring]))]), [""; 0]);
        assert_eq!(closed(&[(DENY, "bpf\n io_uring_setup errno 38")]), ["io-uring"]);
        assert_eq!(closed(&[(DENY, "io_uring_setup_not errno 38")]), [""; 0]);
    }

    #[test]
    fn a_raw_policy_stands_in_place_of_the_list() {
        assert_eq!(closed(&[(DENY, &policy(&[])), (RAW, "2")]), [""; 0]);
    }
}
