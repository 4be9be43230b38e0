//! What waits for its turn, of each container by itself, so that nobody's waits for another's flood.
//!
//! In order within a container. Nothing is kept of one that has nothing waiting: containers come and go for months.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

/// What waits, by the cgroup's id.
pub(super) struct Turns<T> {
    waiting: HashMap<u64, VecDeque<T>, RandomState>,
    len: usize,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { waiting: HashMap::default(), len: 0 }
    }
}

impl<T> Turns<T> {
    /// How much waits.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Behind all else of the same container.
    pub(super) fn push(&mut self, scope: u64, what: T) {
        self.waiting.entry(scope).or_default().push_back(what);
        self.len += 1;
    }

    /// Who has anything waiting, those first who have least.
    pub(super) fn order(&self) -> Vec<u64> {
        let mut order: Vec<_> = self.waiting.iter().map(|(scope, queue)| (queue.len(), *scope)).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, scope)| scope).collect()
    }

    /// What has waited longest of a container's.
    pub(super) fn pop(&mut self, scope: u64) -> Option<T> {
        let queue = self.waiting.get_mut(&scope)?;
        let what = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&scope);
        }
        self.len -= usize::from(what.is_some());
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_goes_first_and_each_in_its_order() {
        let mut turns = Turns::default();
        for what in 0..3 {
            turns.push(1, what);
        }
        turns.push(2, 10);
        assert_eq!(turns.order(), [2, 1]);
        assert_eq!([turns.pop(1), turns.pop(2), turns.pop(2)], [Some(0), Some(10), None]);
        assert_eq!([turns.pop(1), turns.pop(1), turns.pop(1)], [Some(1), Some(2), None]);
        assert_eq!(turns.len(), 0);
    }

    /// The queue of every container that had ever been watched stayed, with the room that it had once needed.
    #[test]
    fn who_has_ended_leaves_no_queue() {
        let mut turns = Turns::default();
        for scope in 0..1000 {
            turns.push(scope, ());
            turns.pop(scope);
        }
        assert!(turns.waiting.is_empty());
        assert!(turns.order().is_empty());
    }
}
