//! What all watches have come to since the daemon began: in numbers, and the last alerts.
//!
//! It promises that a watch that is over still counts, and that its size has an end: of rules only so many are told apart,
//! and old alerts make room for new ones. Every record of every watch goes through it, so what is counted is what the audit
//! logs have, whoever wrote it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::api::Tally;
use crate::monitor::{audit::Record, rules::Counters};

/// How many alerts are remembered, and how many bytes they may have.
const ALERTS: usize = 1000;
const ALERT_BYTES: usize = 4 << 20;
/// How many rules are counted by themselves; users and workspaces bring their own.
const RULES: usize = 1000;
/// Where those are counted that are too many.
const OTHERS: &str = "(others)";

/// The ledger.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Book>);

/// What is in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    /// Alerts by severity and rule.
    pub(super) alerts: BTreeMap<(String, String), u64>,
    /// Actions by name and result.
    pub(super) actions: BTreeMap<(String, String), u64>,
    /// From the event to the end of the action, by the action's name.
    pub(super) latencies: BTreeMap<String, Histogram>,
    /// Records by kind.
    pub(super) records: BTreeMap<&'static str, u64>,
    /// Alerts that were not repeated.
    pub(super) suppressed: u64,
    /// What the rules' state had no room for.
    pub(super) evicted: u64,
    /// What became of the events of watches that are forgotten, by kind.
    pub(super) past: BTreeMap<String, Tally>,
    recent: Recent,
}

#[derive(Clone, Debug, Default)]
struct Recent {
    alerts: VecDeque<Alert>,
    bytes: usize,
}

/// An alert that is remembered.
#[derive(Clone, Debug)]
pub(super) struct Alert {
    /// Whose container it is about.
    pub(super) owner: u32,
    /// The container.
    pub(super) watch: Arc<str>,
    /// The record, as a viewer is shown it.
    pub(super) line: Arc<str>,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        // Each entry is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a record of a watch.
    pub(super) fn enter(&self, owner: u32, watch: &str, record: &Record) {
        let mut book = self.book();
        *book.records.entry(record.kind().name()).or_default() += 1;
        let Some(brief) = record.brief() else { return };
        let action = brief.action.name().to_owned();
        let result = if brief.failed { "failure" } else { "success" };
        *book.actions.entry((action.clone(), result.to_owned())).or_default() += 1;
        if let Some(latency) = brief.latency {
            book.latencies.entry(action).or_default().add(latency);
        }
        if let Some((severity, rule)) = &brief.rule {
            let mut key = (severity.name().to_owned(), rule.clone());
            if book.alerts.len() >= RULES && !book.alerts.contains_key(&key) {
                OTHERS.clone_into(&mut key.1);
            }
            *book.alerts.entry(key).or_default() += 1;
            book.recent.push(Alert { owner, watch: watch.into(), line: record.line() });
        }
    }

    /// Counts what rules did not say aloud.
    pub(super) fn unsaid(&self, counters: Counters) {
        let mut book = self.book();
        book.suppressed += counters.suppressed;
        book.evicted += counters.evicted;
    }

    /// Keeps what became of the events of a watch that is forgotten.
    pub(super) fn keep(&self, events: &BTreeMap<String, Tally>) {
        add(&mut self.book().past, events);
    }

    /// All of it but the alerts themselves.
    pub(super) fn read(&self) -> Book {
        let book = self.book();
        // Only the numbers are wanted, and are copied.
        Book {
            alerts: book.alerts.clone(),
            actions: book.actions.clone(),
            latencies: book.latencies.clone(),
            records: book.records.clone(),
            suppressed: book.suppressed,
            evicted: book.evicted,
            past: book.past.clone(),
            recent: Recent::default(),
        }
    }

    /// The last alerts that are wanted, oldest first, at most so many.
    pub(super) fn alerts(&self, most: usize, is_wanted: impl Fn(&Alert) -> bool) -> Vec<Alert> {
        let book = self.book();
        let mut alerts: Vec<_> =
            book.recent.alerts.iter().rev().filter(|alert| is_wanted(alert)).take(most).cloned().collect();
        alerts.reverse();
        alerts
    }
}

/// Adds up.
pub(super) fn add(all: &mut BTreeMap<String, Tally>, more: &BTreeMap<String, Tally>) {
    for (kind, tally) in more {
        let sum = all.entry(kind.clone()).or_default();
        sum.delivered += tally.delivered;
        sum.lost += tally.lost;
        sum.throttled += tally.throttled;
    }
}

impl Recent {
    fn push(&mut self, alert: Alert) {
        self.bytes += alert.line.len();
        self.alerts.push_back(alert);
        while self.alerts.len() > ALERTS || self.bytes > ALERT_BYTES {
            let Some(old) = self.alerts.pop_front() else { return };
            self.bytes -= old.line.len();
        }
    }
}

/// How often something took how long.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    counts: [u64; Self::BOUNDS.len()],
    /// Of those beyond the last bound, too.
    pub(super) count: u64,
    pub(super) sum: Duration,
}

impl Histogram {
    /// Microseconds.
    const BOUNDS: [u64; 14] = [
        50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 3_000_000,
        10_000_000,
    ];

    fn add(&mut self, value: Duration) {
        let bound = Self::BOUNDS.iter().position(|bound| value <= Duration::from_micros(*bound));
        if let Some(bound) = bound {
            self.counts[bound] += 1;
        }
        self.count += 1;
        self.sum += value;
    }

    /// How many took no longer than each bound.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut sum = 0;
        Self::BOUNDS.iter().zip(self.counts).map(move |(bound, count)| {
            sum += count;
            (Duration::from_micros(*bound), sum)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(owner: u32, bytes: usize) -> Alert {
        Alert { owner, watch: "c".into(), line: "x".repeat(bytes).into() }
    }

    #[test]
    fn the_last_alerts_are_kept_and_no_more() {
        let ledger = Ledger::default();
        for n in 0..3 * ALERTS {
            ledger.book().recent.push(alert(u32::try_from(n % 2).unwrap(), n));
        }
        let all = ledger.alerts(usize::MAX, |_| true);
        assert!(
            all.len() <= ALERTS && all.iter().map(|alert| alert.line.len()).sum::<usize>() <= ALERT_BYTES
        );
        assert_eq!(all.last().unwrap().line.len(), 3 * ALERTS - 1);
        let own = ledger.alerts(2, |alert| alert.owner == 0);
        assert_eq!(
            own.iter().map(|alert| alert.line.len()).collect::<Vec<_>>(),
            [3 * ALERTS - 4, 3 * ALERTS - 2]
        );
        ledger.book().recent.push(alert(0, ALERT_BYTES + 1));
        assert!(ledger.alerts(usize::MAX, |_| true).is_empty());
        assert_eq!(ledger.book().recent.bytes, 0);
    }

    #[test]
    fn a_histogram_is_cumulative() {
        let mut histogram = Histogram::default();
        for micros in [10, 50, 51, 700, 60_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let told: Vec<_> = histogram.cumulative().map(|(_, count)| count).collect();
        assert_eq!((&told[..5], told[13], histogram.count), (&[2, 3, 3, 3, 4][..], 4, 5));
    }
}
