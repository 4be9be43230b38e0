//! What became of floods and attacks, and how it is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::stats::Summary;

/// What became of it.
#[derive(Debug, Serialize)]
pub(super) struct Flooded {
    pub(super) flood: &'static str,
    pub(super) viewer: bool,
    pub(super) done: u64,
    /// The kind of event that it consists of.
    pub(super) event: Option<&'static str>,
    pub(super) in_a: Tallies,
    pub(super) in_b: Tallies,
    pub(super) attacks: Vec<Attacks>,
}

/// What became of events of one kind, by the daemon's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) throttled: u64,
}

impl Tally {
    fn all(self) -> u64 {
        self.delivered + self.lost + self.throttled
    }

    fn since(self, before: Self) -> Self {
        Self {
            delivered: self.delivered - before.delivered,
            lost: self.lost - before.lost,
            throttled: self.throttled - before.throttled,
        }
    }
}

/// By the event's kind.
pub(super) type Tallies = BTreeMap<String, Tally>;

/// What came to be since then.
pub(super) fn since(now: &Tallies, before: &Tallies) -> Tallies {
    let past = |kind| before.get(kind).copied().unwrap_or_default();
    now.iter().map(|(kind, tally)| (kind.clone(), tally.since(past(kind)))).collect()
}

/// The attacks in one place during one flood.
#[derive(Debug, Serialize)]
pub(super) struct Attacks {
    pub(super) place: &'static str,
    pub(super) count: usize,
    pub(super) missed: usize,
    /// By the attacker's and the watcher's clocks.
    pub(super) observed_us: Option<Summary>,
    /// By the daemon's records, from the shell's exec to when all stood still.
    pub(super) recorded_us: Option<Summary>,
    /// The same, to when the freeze was written.
    pub(super) decided_us: Option<Summary>,
}

impl Attacks {
    pub(super) fn of(
        place: &'static str,
        latencies: Vec<Option<u64>>,
        records: &[Value],
        rule: &str,
    ) -> Self {
        let times = |name: &str| {
            let actions = records.iter().filter(|record| record["rule"]["id"] == rule);
            let times = actions.filter_map(|record| Some(record["coi"]["action"][name].as_u64()? * 1000));
            Summary::of(times.collect())
        };
        let count = latencies.len();
        let observed: Vec<u64> = latencies.into_iter().flatten().collect();
        Self {
            place,
            count,
            missed: count - observed.len(),
            observed_us: Summary::of(observed),
            recorded_us: times("latency_us"),
            decided_us: times("decided_us"),
        }
    }
}

/// Prints the tables for people.
pub(super) fn print(floods: &[Flooded]) {
    anstream::println!(
        "{:<9} {:<6} {:>10} {:>10} {:>10} {:>10} {:>8}  lost in B",
        "flood",
        "viewer",
        "done",
        "delivered",
        "lost",
        "throttled",
        "besides"
    );
    for flood in floods {
        let Some(kind) = flood.event else { continue };
        let tally = flood.in_a.get(kind).copied().unwrap_or_default();
        let besides = i128::from(tally.all()) - i128::from(flood.done);
        anstream::println!(
            "{:<9} {:<6} {:>10} {:>10} {:>10} {:>10} {besides:>8}  {}",
            flood.flood,
            if flood.viewer { "yes" } else { "no" },
            flood.done,
            tally.delivered,
            tally.lost,
            tally.throttled,
            flood.in_b.values().map(|tally| tally.lost + tally.throttled).sum::<u64>(),
        );
        for (other, Tally { lost, throttled, .. }) in &flood.in_a {
            if other != kind && lost + throttled > 0 {
                anstream::println!("{:<16} A: {lost} {other} lost, {throttled} throttled", "");
            }
        }
    }
    anstream::println!("besides: what the attacks and the producers' start add to what was done");
    anstream::println!();
    anstream::println!(
        "{:<9} {:<6} {:<3} {:>7} {:>6}  {:^26}  {:^26}  {:^26}",
        "",
        "",
        "",
        "",
        "",
        "decided",
        "still",
        "observed still",
    );
    anstream::print!("{:<9} {:<6} {:<3} {:>7} {:>6}", "flood", "viewer", "in", "attacks", "missed");
    anstream::println!("{}", format!("  {:>8} {:>8} {:>8}", "median", "p99", "max").repeat(3));
    for flood in floods {
        for Attacks { place, count, missed, observed_us, recorded_us, decided_us } in &flood.attacks {
            let viewer = if flood.viewer { "yes" } else { "no" };
            anstream::print!("{:<9} {viewer:<6} {place:<3} {count:>7} {missed:>6}", flood.flood);
            for summary in [decided_us, recorded_us, observed_us] {
                let [median, p99, max] = summary.map_or(["-", "-", "-"].map(str::to_owned), |summary| {
                    [summary.median, summary.p99, summary.max].map(|us| format!("{:.3}", us / 1000.0))
                });
                anstream::print!("  {median:>8} {p99:>8} {max:>8}");
            }
            anstream::println!();
        }
    }
    anstream::println!(
        "milliseconds, by the audit log from the shell's exec to when the freeze was written (goal: p99 <= 10) and to \
         when all stood still; observed: from connect(2)"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_to_be() {
        let tally = |delivered, lost, throttled| Tally { delivered, lost, throttled };
        let before = Tallies::from([("fork".to_owned(), tally(1, 2, 3))]);
        let now = Tallies::from([("fork".to_owned(), tally(5, 7, 9)), ("open".to_owned(), tally(1, 0, 0))]);
        let wanted =
            Tallies::from([("fork".to_owned(), tally(4, 5, 6)), ("open".to_owned(), tally(1, 0, 0))]);
        assert_eq!(since(&now, &before), wanted);
        assert_eq!(tally(4, 5, 6).all(), 15);
    }
}
