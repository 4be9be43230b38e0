//! Who looks on at a watch, and what they are shown.
//!
//! It promises that showing something waits for nobody, and that a viewer who is too slow is told how much it has
//! missed, at the place where that is missing. Room is taken by what waits to be read, not by what might.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{
    audit,
    event::Event,
    rules::recording::{self, Mark},
};

/// How many events may wait for a viewer. What is not an event, an alert or a state, finds as much room again: no flood
/// of events keeps it away.
const EVENTS: usize = 8192;

/// What a viewer is shown. Events become text where the viewer is served, not in the pipeline.
#[derive(Clone)]
pub enum Shown {
    /// An event, and the watched cgroup that it is of.
    Event(u64, Arc<Event>),
    /// A line of JSON.
    Line(Arc<str>),
    /// What the engine was told of a cgroup beside events, and when.
    Mark(u64, Mark, u64),
    /// So many of the above are missing here.
    Missed(u64),
}

impl Shown {
    /// As a line of JSON, if it says something to people.
    pub fn into_line(self) -> Option<String> {
        match self {
            Self::Event(_, event) => Some(audit::Record::event(&*event).line().to_string()),
            Self::Line(line) => Some(line.to_string()),
            Self::Mark(..) | Self::Missed(_) => None,
        }
    }

    /// As a line of a recording, if the engine was told of it.
    pub fn into_recording(self) -> Option<String> {
        match self {
            Self::Event(cgroup, event) => Some(recording::event(cgroup, &*event) + "\n"),
            Self::Mark(cgroup, mark, time) => Some(recording::mark(cgroup, mark, time) + "\n"),
            Self::Missed(missed) => Some(recording::gap(missed, recording::Gap::Slow) + "\n"),
            Self::Line(_) => None,
        }
    }
}

/// All that look on at one watch.
#[derive(Default)]
pub struct Viewers(Mutex<Vec<Viewer>>);

struct Viewer {
    /// It wants events, too.
    events: bool,
    to: mpsc::Sender<Shown>,
    missed: Arc<AtomicU64>,
}

impl Viewers {
    /// Begins to look on; with `events` at those, too, and not at alerts and states alone.
    pub fn join(&self, events: bool) -> View {
        let (to, from) = mpsc::channel(2 * EVENTS);
        let missed = Arc::new(AtomicU64::new(0));
        self.all().push(Viewer { events, to, missed: Arc::clone(&missed) });
        View { from, missed }
    }

    /// Shows something to all whom it concerns.
    pub fn show(&self, shown: &Shown) {
        self.all().retain(|viewer| viewer.show(shown));
    }

    fn all(&self) -> MutexGuard<'_, Vec<Viewer>> {
        // Viewers are only put in and taken out whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Viewer {
    /// Is it still there?
    fn show(&self, shown: &Shown) -> bool {
        let is_event = matches!(shown, Shown::Event(..));
        if is_event && !self.events {
            return !self.to.is_closed();
        }
        let has_room = !is_event || self.to.capacity() > EVENTS;
        match self.to.try_reserve() {
            Ok(place) if has_room => {
                // Who reads may be just about to say so itself.
                let missed = self.missed.swap(0, Ordering::Relaxed);
                if missed == 0 {
                    place.send(shown.clone());
                    return true;
                }
                place.send(Shown::Missed(missed));
                if self.to.try_send(shown.clone()).is_err() {
                    self.missed.fetch_add(1, Ordering::Relaxed);
                }
                true
            }
            Ok(_) | Err(TrySendError::Full(())) => {
                self.missed.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(TrySendError::Closed(())) => false,
        }
    }
}

/// What one viewer is shown.
pub struct View {
    from: mpsc::Receiver<Shown>,
    missed: Arc<AtomicU64>,
}

impl View {
    /// The next; `None` when there will be nothing more.
    pub async fn next(&mut self) -> Option<Shown> {
        if let Ok(shown) = self.from.try_recv() {
            return Some(shown);
        }
        // Nothing waits, so what was missed is missing here.
        match self.missed.swap(0, Ordering::Relaxed) {
            0 => self.from.recv().await,
            missed => Some(Shown::Missed(missed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::event::{Actor, Container, Detail, EventKind};

    fn event() -> Shown {
        Shown::Event(
            7,
            Arc::new(Event {
                kind: EventKind::Fork,
                time: 1,
                setup: false,
                container: Arc::new(Container { name: "c".into(), id: "1".into() }),
                actor: Actor::default(),
                process: None,
                parent: None,
                capabilities: Arc::from([]),
                detail: Detail::None,
            }),
        )
    }

    fn line(text: &str) -> Shown {
        Shown::Line(text.into())
    }

    #[tokio::test]
    async fn what_a_slow_viewer_misses_is_told_where_it_is_missing() {
        let viewers = Viewers::default();
        let mut view = viewers.join(true);
        for _ in 0..EVENTS + 5 {
            viewers.show(&event());
        }
        viewers.show(&line("an alert"));
        for _ in 0..EVENTS {
            assert!(matches!(view.next().await, Some(Shown::Event(..))));
        }
        assert!(matches!(view.next().await, Some(Shown::Missed(5))));
        assert!(matches!(view.next().await, Some(Shown::Line(_))));
        viewers.show(&event());
        assert!(matches!(view.next().await, Some(Shown::Event(..))));
        drop(viewers);
        assert!(view.next().await.is_none());
    }

    #[tokio::test]
    async fn what_is_missed_last_is_told_without_anything_after_it() {
        let viewers = Viewers::default();
        let mut view = viewers.join(true);
        for _ in 0..EVENTS + 1 {
            viewers.show(&event());
        }
        for _ in 0..EVENTS {
            assert!(matches!(view.next().await, Some(Shown::Event(..))));
        }
        assert!(matches!(view.next().await, Some(Shown::Missed(1))));
    }

    #[tokio::test]
    async fn who_wants_alerts_alone_gets_no_events_and_misses_none() {
        let viewers = Viewers::default();
        let mut view = viewers.join(false);
        for _ in 0..3 * EVENTS {
            viewers.show(&event());
        }
        viewers.show(&line("an alert"));
        assert!(matches!(view.next().await, Some(Shown::Line(_))));
    }

    #[test]
    fn who_has_left_is_forgotten() {
        let viewers = Viewers::default();
        drop(viewers.join(false));
        viewers.show(&event());
        assert!(viewers.all().is_empty());
    }
}
