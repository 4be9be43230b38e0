//! The last events of a container, for whoever asks what came before.
//!
//! It promises to keep so many and no more, and to allocate nothing once it is full. Only what is sent by the kernel is
//! there to be kept: what no rule looks at and nobody watches is not.

use std::collections::VecDeque;

use super::event::Event;

/// How many are kept.
const MOST: usize = 256;

/// The last events.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<Event>);

impl Recent {
    /// One more; the oldest goes.
    pub(super) fn push(&mut self, event: Event) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<Event> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::monitor::event::{Actor, Container, Detail, EventKind};

    #[test]
    fn so_many_and_no_more() {
        let container = Arc::new(Container { name: "c".into(), id: "i".into() });
        let event = |time| Event {
            kind: EventKind::Fork,
            time,
            setup: false,
            container: Arc::clone(&container),
            actor: Actor::default(),
            process: None,
            parent: None,
            capabilities: [].into(),
            detail: Detail::None,
        };
        let mut recent = Recent::default();
        (0..3 * MOST as u64).for_each(|time| recent.push(event(time)));
        let times: Vec<_> = recent.all().iter().map(|event| event.time).collect();
        assert_eq!(times, (2 * MOST as u64..3 * MOST as u64).collect::<Vec<_>>());
    }
}
