//! Where a process's standard input and output lead.
//!
//! Suspicion is not the question here, only linkage: do both streams lead to an internet socket? There are four
//! ways, from plain to faint:
//!
//! - *socket*: they are it.
//! - *ancestor*: they are pipes, a terminal or a socket pair, and an ancestor's own input and output are the
//!   socket. It can only be passing on.
//! - *pipes*: they are pipes, and following who writes into the one and who reads from the other by *their*
//!   standard streams (and named pipes they opened) ends at a program with a connection.
//! - *held*: they were made by the parent, and the parent has a connection. That is `socat EXEC`, and every
//!   coding agent too; a rule must know the parent by name to make anything of it.

use std::net::IpAddr;

use coi_common::{Stream, StreamKind};

use super::{Changed, Lineage, Node, kind, proc};
use crate::monitor::{
    event::{LinkDetail, ProcessKey},
    sensor::decode::address,
};

/// How many programs may stand between a process and the one with the connection.
const HOPS: u32 = 4;
/// How many ancestors are looked at.
const GENERATIONS: u32 = 4;

/// A program with a connection.
struct Relay {
    key: ProcessKey,
    remote: (IpAddr, u16),
}

impl Lineage {
    /// The links that have come to be by what happened to `key`; each is told once per program.
    pub(super) fn new_links(&mut self, key: ProcessKey, changed: Changed) -> Vec<(ProcessKey, LinkDetail)> {
        if changed == Changed::Nothing {
            return Vec::new();
        }
        let Some(node) = self.nodes.get(&key) else { return Vec::new() };
        let (scope, piped) = (node.scope, node.is_piped());
        let living = || self.living.get(&scope).into_iter().flatten().copied();
        let mut suspects = vec![key];
        // Whichever part of a chain of pipes falls into place last may complete it for any other.
        if piped && living().any(|key| self.nodes.get(&key).is_some_and(|node| node.may_relay())) {
            suspects.extend(living());
            self.refresh_inherited(scope);
        } else {
            suspects.extend(
                living().filter(|child| self.nodes.get(child).is_some_and(|node| node.parent == Some(key))),
            );
        }
        let mut links = Vec::new();
        for suspect in suspects {
            if self.nodes.get(&suspect).is_none_or(|node| node.linked) {
                continue;
            }
            if let Some(link) = self.link(suspect) {
                if let Some(node) = self.nodes.get_mut(&suspect) {
                    node.linked = true;
                }
                links.push((suspect, link));
            }
        }
        links
    }

    /// Subshells redirect their streams without an exec, and a dup2 of a pipe is not an event: ask /proc where
    /// it matters.
    fn refresh_inherited(&mut self, scope: u64) {
        for key in self.living.get(&scope).into_iter().flatten() {
            if let Some(node) = self.nodes.get_mut(key)
                && node.stdio_inherited
                && let Some(stdio) = proc::stdio(key.pid)
            {
                // /proc does not tell which sockets are internet sockets; the kernel's word stands.
                for (old, new) in node.stdio.iter_mut().zip(stdio) {
                    if old.inode != new.inode {
                        *old = new;
                    }
                }
            }
        }
    }

    fn link(&mut self, key: ProcessKey) -> Option<LinkDetail> {
        let node = self.nodes.get(&key)?;
        let stdio = node.stdio;
        let [input, output, _] = &stdio;
        if kind(input) == StreamKind::Inet && kind(output) == StreamKind::Inet && input.peer.port != 0 {
            let remote = (address(&input.peer), input.peer.port);
            return Some(LinkDetail { kind: "socket", stdio, same_relay: true, relay: None, remote });
        }
        let passes = |stream: &Stream| {
            matches!(kind(stream), StreamKind::Pipe | StreamKind::Fifo | StreamKind::Unix | StreamKind::Pty)
        };
        if !passes(input) || !passes(output) {
            return None;
        }
        let (kind, same_relay, relay) = if let Some(relay) = self.through_ancestor(key) {
            ("ancestor", true, relay)
        } else if let Some((relay, same)) = self.through_pipes(key, input, output) {
            ("pipes", same, relay)
        } else {
            ("held", true, self.held(key, input, output)?)
        };
        let process = self.nodes.get(&relay.key).map(|node| node.process.clone());
        Some(LinkDetail { kind, stdio, same_relay, relay: process, remote: relay.remote })
    }

    /// An ancestor whose own input and output are an internet socket, now.
    fn through_ancestor(&mut self, key: ProcessKey) -> Option<Relay> {
        let mut at = self.nodes.get(&key)?.parent?;
        for _ in 0..GENERATIONS {
            let node = self.nodes.get_mut(&at)?;
            let [input, output, _] = node.stdio;
            if kind(&input) == StreamKind::Inet && kind(&output) == StreamKind::Inet && input.peer.port != 0 {
                // Only redirections onto sockets are told; it may have moved on to /dev/null, as sshd does.
                match proc::stdio(at.pid) {
                    Some(now) if now[0].inode != input.inode || now[1].inode != output.inode => {
                        node.stdio = now;
                    }
                    _ => return Some(Relay { key: at, remote: (address(&input.peer), input.peer.port) }),
                }
            }
            at = node.parent?;
        }
        None
    }

    /// The program at the other end of the input's pipe, and whether it is also at the output's.
    fn through_pipes(&self, key: ProcessKey, input: &Stream, output: &Stream) -> Option<(Relay, bool)> {
        let scope = self.nodes.get(&key)?.scope;
        let upstream = self.follow(key, scope, input.inode, Direction::Up, HOPS)?;
        let downstream = self.follow(key, scope, output.inode, Direction::Down, HOPS)?;
        let same = upstream.key == downstream.key;
        Some((upstream, same))
    }

    fn follow(&self, from: ProcessKey, scope: u64, inode: u64, way: Direction, hops: u32) -> Option<Relay> {
        let others = self.living.get(&scope)?.iter().filter(|key| **key != from);
        for key in others {
            let Some(node) = self.nodes.get(key) else { continue };
            if !node.holds(inode, way) {
                continue;
            }
            if let Some(remote) = node.connection {
                return Some(Relay { key: *key, remote });
            }
            if hops == 0 {
                continue;
            }
            for next in node.pipes(way) {
                if next != inode
                    && let Some(relay) = self.follow(*key, scope, next, way, hops - 1)
                {
                    return Some(relay);
                }
            }
        }
        None
    }

    /// The parent, if it has a connection and made the streams itself.
    fn held(&self, key: ProcessKey, input: &Stream, output: &Stream) -> Option<Relay> {
        let parent = self.nodes.get(&key)?.parent?;
        let node = self.nodes.get(&parent)?;
        let same = |a: &Stream, b: &Stream| a.kind == b.kind && a.inode == b.inode && a.device == b.device;
        if kind(input) != kind(output) || same(input, &node.stdio[0]) || same(output, &node.stdio[1]) {
            return None;
        }
        Some(Relay { key: parent, remote: node.connection? })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// To who writes what is read.
    Up,
    /// To who reads what is written.
    Down,
}

impl Node {
    /// Is a pipe among its standard streams, or has it opened a named one?
    fn is_piped(&self) -> bool {
        self.far_ends(Direction::Up).chain(self.far_ends(Direction::Down)).next().is_some()
    }

    /// Could it stand between pipes and a socket?
    fn may_relay(&self) -> bool {
        self.connection.is_some() && self.is_piped()
    }

    /// Does it hold the far end of this pipe as a standard stream, or as a named pipe that it opened?
    fn holds(&self, inode: u64, way: Direction) -> bool {
        self.far_ends(way).any(|end| end == inode)
    }

    /// The pipes at which a walk that has come to this process goes on.
    fn pipes(&self, way: Direction) -> Vec<u64> {
        let opposite = if way == Direction::Up { Direction::Down } else { Direction::Up };
        self.far_ends(opposite).collect()
    }

    /// The pipes it writes into (up) or reads from (down).
    fn far_ends(&self, way: Direction) -> impl Iterator<Item = u64> {
        let (streams, access) = match way {
            Direction::Up => (&self.stdio[1..], 2),
            Direction::Down => (&self.stdio[..1], 1),
        };
        let of_stdio = streams
            .iter()
            .filter(move |stream| {
                stream.access & access != 0 && matches!(kind(stream), StreamKind::Pipe | StreamKind::Fifo)
            })
            .map(|stream| stream.inode);
        let write = way == Direction::Up;
        of_stdio.chain(
            self.fifos.iter().filter(move |(_, for_write)| *for_write == write).map(|(inode, _)| *inode),
        )
    }
}
