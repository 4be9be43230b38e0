//! What cannot be seen, whatever is attached, and how it is said.

use coi_common::{TOLD_ACCEPTS, TOLD_OPENS, TOLD_UNIX_CONNECTS, TOLD_UNIX_DATAGRAMS};

use crate::monitor::service::api::Hole;

/// A part of what is not seen.
pub(super) struct Part {
    pub(super) what: &'static str,
    /// The [`Chokepoint`] that sees it where the kernel takes it, or 0.
    pub(super) told: u32,
    pub(super) routes: &'static [&'static str],
}

pub(super) const fn part(what: &'static str, told: u32, routes: &'static [&'static str]) -> Part {
    Part { what, told, routes }
}

/// A hole that is there with all that is needed attached.
pub(super) struct Known {
    id: &'static str,
    parts: &'static [Part],
    /// By which way.
    by: &'static str,
    why: &'static str,
}

impl Known {
    /// What is left of it where this is told at chokepoints.
    pub(super) fn left(&self, told: u32) -> Option<Hole> {
        let parts: Vec<_> = self.parts.iter().filter(|part| part.told & told == 0).collect();
        let what: Vec<_> = parts.iter().map(|part| part.what).collect();
        let routes = parts.iter().flat_map(|part| part.routes);
        (!parts.is_empty()).then(|| Hole {
            id: self.id.to_owned(),
            what: format!("{}{}", what.join(", "), self.by),
            why: self.why.to_owned(),
            routes: routes.map(ToString::to_string).collect(),
        })
    }
}

/// What cannot be seen with these programs on any kernel, as far as it is known. The list grows and shrinks
/// with the programs; the end-to-end test of the routes holds it against what they really do.
pub(super) const KNOWN_HOLES: &[Known] = &[
    Known {
        id: "io-uring",
        parts: &[
            part("what came of files opened", TOLD_OPENS, &[]),
            part("what came of files changed", 0, &[]),
            part("files read without a completion", 0, &[]),
            part("connections accepted without a completion", TOLD_ACCEPTS, &[]),
            part("connections over AF_UNIX without a completion", TOLD_UNIX_CONNECTS, &[]),
            part("datagrams over AF_UNIX of registered sockets", TOLD_UNIX_DATAGRAMS, &[]),
        ],
        by: " through io_uring",
        why: "a request's names are there when it is submitted, its result when it is completed; completions can be suppressed \
              or find no room. COI closes io_uring in its own containers",
    },
    Known {
        id: "mmap-bytes",
        parts: &[part("bytes read", 0, &["mmap-read"])],
        by: " by mmap",
        why: "a page fault passes no tracepoint that says which file; opening and mapping the file are seen",
    },
    Known {
        id: "private-relay",
        parts: &[part("a relay that holds both ends privately and is not known by name", 0, &[])],
        by: "",
        why: "a coding agent that runs shells over pipes looks the same; see the rule reverse-shell-relay",
    },
];
