//! What became of the events that a watch's processes gave rise to, in numbers.
//!
//! It promises that all that was wanted of a kind is in one of the three: delivered, lost for want of room in a ring, or
//! throttled because the container had too much on the way. What the kernel side was not asked for is in none.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use coi_common::Kind;

use super::{
    event::EventKind,
    sensor::decode::{Body, RawEvent},
    service::api::Tally,
};

/// By kind of record.
#[derive(Debug, Default)]
pub struct Counts([Count; Kind::COUNT as usize]);

#[derive(Debug, Default)]
struct Count {
    delivered: AtomicU64,
    lost: AtomicU64,
    throttled: AtomicU64,
}

impl Counts {
    /// Counts what has been delivered, or what has been told of losses.
    pub fn add(&self, event: &RawEvent) {
        let (kind, how_many) = match event.body {
            Body::Loss { kind, count, .. } => (kind as usize, count),
            _ => (event.header.kind as usize, 1),
        };
        let Some(count) = self.0.get(kind) else { return };
        let counter = match event.body {
            Body::Loss { throttled: true, .. } => &count.throttled,
            Body::Loss { throttled: false, .. } => &count.lost,
            _ => &count.delivered,
        };
        counter.fetch_add(how_many, Ordering::Relaxed);
    }

    /// The kinds of which there was anything.
    pub fn by_kind(&self) -> BTreeMap<String, Tally> {
        let told = |(number, count): (u32, &Count)| {
            let kind = EventKind::of_record(Kind::from_u32(number)?)?;
            let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let tally = Tally {
                delivered: value(&count.delivered),
                lost: value(&count.lost),
                throttled: value(&count.throttled),
            };
            (tally != Tally::default()).then(|| (kind.name().to_owned(), tally))
        };
        (0..).zip(&self.0).filter_map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use coi_common::Header;

    use super::*;

    #[test]
    fn each_event_is_in_one_of_three() {
        let counts = Counts::default();
        let event =
            |kind: Kind, body| RawEvent { header: Header { kind: kind as u32, ..Header::default() }, body };
        counts.add(&event(Kind::Fork, Body::Fork));
        counts.add(&event(Kind::Fork, Body::Fork));
        for (count, throttled) in [(3, true), (4, false), (5, true)] {
            counts.add(&event(Kind::Fork, Body::Loss { kind: Kind::Fork, count, throttled }));
        }
        let wanted = Tally { delivered: 2, lost: 4, throttled: 8 };
        assert_eq!(counts.by_kind(), BTreeMap::from([("fork".to_owned(), wanted)]));
    }
}
