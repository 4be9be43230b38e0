//! What became of floods and attacks, and how it is told.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::super::stats::Summary;

/// The kinds of events in the large ring; all others are in the small one.
const BULK: [&str; 5] = ["open", "read", "send", "map", "change"];

/// What became of it.
#[derive(Debug, Serialize)]
pub(super) struct Flooded {
    pub(super) flood: &'static str,
    pub(super) viewer: bool,
    pub(super) done: u64,
    pub(super) shown: Option<Shown>,
    pub(super) lost_in_a: Vec<Loss>,
    pub(super) lost_in_b: Vec<Loss>,
    pub(super) attacks: Vec<Attacks>,
}

/// What the viewer was shown of it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// The producers' events.
    events: u64,
    /// The events of any kind that were ready for the viewer, but not waited for.
    missed: u64,
    /// Done, and neither shown, lost nor throttled, at least and at most: the missed may all be of this kind, or none.
    unaccounted: [i64; 2],
}

impl Shown {
    pub(super) fn new(done: u64, events: u64, missed: u64, lost: u64) -> Self {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let most = signed(done) - signed(events + lost);
        let least = most - signed(missed).min(most.max(0));
        Self { events, missed, unaccounted: [least, most] }
    }
}

/// Events that were not delivered.
#[derive(Debug, Serialize)]
pub(super) struct Loss {
    pub(super) kind: String,
    pub(super) ring: &'static str,
    /// `ring` if it was full, `budget` if they were throttled.
    pub(super) reason: String,
    pub(super) count: u64,
}

/// The attacks in one place during one flood.
#[derive(Debug, Serialize)]
pub(super) struct Attacks {
    pub(super) place: &'static str,
    pub(super) count: usize,
    pub(super) missed: usize,
    /// By the attacker's and the watcher's clocks.
    pub(super) observed_us: Option<Summary>,
    /// By the daemon's records: from the shell's exec on.
    pub(super) recorded_us: Option<Summary>,
}

impl Attacks {
    pub(super) fn of(
        place: &'static str,
        latencies: Vec<Option<u64>>,
        records: &[Value],
        rule: &str,
    ) -> Self {
        let recorded = records
            .iter()
            .filter(|record| record["rule"]["id"] == rule)
            .filter_map(|record| Some(record.pointer("/coi/action/latency_us")?.as_u64()? * 1000));
        let count = latencies.len();
        let observed: Vec<u64> = latencies.into_iter().flatten().collect();
        Self {
            place,
            count,
            missed: count - observed.len(),
            observed_us: Summary::of(observed),
            recorded_us: Summary::of(recorded.collect()),
        }
    }
}

/// The losses in records of an audit log, by kind and reason.
pub(super) fn lost(records: &[Value]) -> Vec<Loss> {
    let mut counts = BTreeMap::<(String, String), u64>::new();
    for record in records
        .iter()
        .filter(|record| record["event"]["action"] == "loss" && record["event"]["kind"] == "event")
    {
        let loss = &record["coi"]["loss"];
        let text = |value: &Value, otherwise: &str| value.as_str().unwrap_or(otherwise).to_owned();
        let key = (text(&loss["kind"], "unknown"), text(&loss["reason"], "ring"));
        *counts.entry(key).or_default() += loss["count"].as_u64().unwrap_or_default();
    }
    let loss = |((kind, reason), count): ((String, String), u64)| {
        let ring = if BULK.contains(&&*kind) { "bulk" } else { "priority" };
        Loss { kind, ring, reason, count }
    };
    counts.into_iter().map(loss).collect()
}

/// Prints the tables for people.
pub(super) fn print(floods: &[Flooded]) {
    anstream::println!(
        "{:<9} {:<6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>18}  lost in B",
        "flood",
        "viewer",
        "done",
        "shown",
        "missed",
        "lost",
        "throttled",
        "unaccounted"
    );
    for flood in floods.iter().filter(|flood| flood.done > 0) {
        let lost = |losses: &[Loss], budget: bool| {
            losses
                .iter()
                .filter(|loss| (loss.reason == "budget") == budget)
                .map(|loss| loss.count)
                .sum::<u64>()
        };
        let [shown, missed, unaccounted] = match &flood.shown {
            None => ["-", "-", "-"].map(str::to_owned),
            Some(Shown { events, missed, unaccounted: [least, most] }) => {
                let range = if least == most { least.to_string() } else { format!("{least} to {most}") };
                [events.to_string(), missed.to_string(), range]
            }
        };
        anstream::println!(
            "{:<9} {:<6} {:>10} {:>10} {:>10} {:>10} {:>10} {:>18}  {}",
            flood.flood,
            if flood.viewer { "yes" } else { "no" },
            flood.done,
            shown,
            missed,
            lost(&flood.lost_in_a, false),
            lost(&flood.lost_in_a, true),
            unaccounted,
            flood.lost_in_b.iter().map(|loss| loss.count).sum::<u64>(),
        );
        for (place, losses) in [("A", &flood.lost_in_a), ("B", &flood.lost_in_b)] {
            for Loss { kind, ring, reason, count } in losses {
                anstream::println!("{:<16} {place}: {count} {kind} ({ring} ring, {reason})", "");
            }
        }
    }
    anstream::println!();
    anstream::println!(
        "{:<9} {:<6} {:<3} {:>8} {:>7} {:>9} {:>9} {:>9} {:>16} {:>9} {:>9}",
        "flood",
        "viewer",
        "in",
        "attacks",
        "missed",
        "median",
        "p99",
        "max",
        "recorded median",
        "p99",
        "max"
    );
    for flood in floods {
        for Attacks { place, count, missed, observed_us, recorded_us } in &flood.attacks {
            let [observed, recorded] = [observed_us, recorded_us].map(|summary| {
                summary.map_or(["-".to_owned(), "-".to_owned(), "-".to_owned()], |summary| {
                    [summary.median, summary.p99, summary.max].map(|us| format!("{:.3}", us / 1000.0))
                })
            });
            anstream::println!(
                "{:<9} {:<6} {place:<3} {count:>8} {missed:>7} {:>9} {:>9} {:>9} {:>16} {:>9} {:>9}",
                flood.flood,
                if flood.viewer { "yes" } else { "no" },
                observed[0],
                observed[1],
                observed[2],
                recorded[0],
                recorded[1],
                recorded[2],
            );
        }
    }
    anstream::println!(
        "milliseconds from connect(2) to frozen; recorded: from the shell's exec, by the audit log"
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missed_may_be_of_any_kind() {
        assert_eq!(Shown::new(100, 60, 0, 40).unaccounted, [0, 0]);
        assert_eq!(Shown::new(100, 60, 30, 0).unaccounted, [10, 40]);
        assert_eq!(Shown::new(100, 60, 90, 0).unaccounted, [0, 40]);
        assert_eq!(Shown::new(100, 103, 5, 0).unaccounted, [-3, -3]);
    }

    #[test]
    fn losses_are_summed_by_kind_and_reason() {
        let record = |kind: &str, reason: Value, count: u64| json!({ "event": { "kind": "event", "action": "loss" }, "coi": { "loss": { "kind": kind, "reason": reason, "count": count } } });
        let mut records = vec![record("fork", "budget".into(), 2), record("fork", "budget".into(), 3)];
        records.push(record("open", Value::Null, 4));
        records.push(
            json!({ "event": { "kind": "alert", "action": "loss" }, "coi": { "loss": { "count": 9 } } }),
        );
        let found: Vec<_> =
            lost(&records).into_iter().map(|loss| (loss.kind, loss.ring, loss.reason, loss.count)).collect();
        let wanted = [("fork", "priority", "budget", 5), ("open", "bulk", "ring", 4)];
        assert_eq!(
            found,
            wanted.map(|(kind, ring, reason, count)| (kind.into(), ring, reason.into(), count))
        );
    }
}
