//! The daemon's numbers in Prometheus's text format.
//!
//! They are kept where they arise (the counts of a watch, the [`super::ledger`], the system) and only put together here when
//! somebody asks; the client libraries keep a second set of counters for that, so the format, which is a few lines, is
//! written by hand.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    fs,
};

use super::{api::WatchState, ledger, watches::Service};

/// The type of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text in the making.
#[derive(Default)]
struct Text(String);

impl Text {
    /// Begins a metric.
    fn metric(&mut self, name: &str, ty: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {ty}");
    }

    /// One of its samples.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, value)) in labels.iter().enumerate() {
            let before = if n == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A metric that is one number.
    fn single(&mut self, name: &str, ty: &str, help: &str, value: impl Display) {
        self.metric(name, ty, help);
        self.sample(name, &[], value);
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// All of it.
pub(super) fn text(service: &Service) -> String {
    let mut text = Text::default();
    text.metric("coi_build_info", "gauge", "The daemon's version.");
    text.sample("coi_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let live = service.live();
    watches(&mut text, live.iter().map(|watching| watching.state()));

    let book = service.ledger.read();
    let mut events = book.past.clone();
    for watching in service.all() {
        ledger::add(&mut events, &watching.watched.counts.by_kind());
    }
    text.metric("coi_events_total", "counter", "Kernel events by kind, and what became of them.");
    for (kind, tally) in &events {
        let results = [("delivered", tally.delivered), ("lost", tally.lost), ("throttled", tally.throttled)];
        for (result, value) in results {
            text.sample("coi_events_total", &[("kind", kind), ("result", result)], value);
        }
    }
    text.metric("coi_alerts_total", "counter", "Alerts by severity and rule.");
    for ((severity, rule), count) in &book.alerts {
        text.sample("coi_alerts_total", &[("severity", severity), ("rule", rule)], count);
    }
    text.metric(
        "coi_actions_total",
        "counter",
        "What was done about alerts, or by people and policies, and whether it worked.",
    );
    for ((action, result), count) in &book.actions {
        text.sample("coi_actions_total", &[("action", action), ("result", result)], count);
    }
    latencies(&mut text, &book.latencies);
    text.metric("coi_audit_records_total", "counter", "Records for the audit logs by kind.");
    for (kind, count) in &book.records {
        text.sample("coi_audit_records_total", &[("kind", kind)], count);
    }
    text.single(
        "coi_alerts_suppressed_total",
        "counter",
        "Alerts that were not repeated, of what is over or was thawed.",
        book.suppressed,
    );
    text.single(
        "coi_engine_evictions_total",
        "counter",
        "Subjects that the rules' state had no room for, of what is over or was thawed.",
        book.evicted,
    );
    text.single("coi_rules", "gauge", "The machine's rules in force.", service.rule_count());
    text.single(
        "coi_connections",
        "gauge",
        "Connections to the daemon that are open.",
        service.places.open(),
    );
    text.single(
        "coi_connections_refused_total",
        "counter",
        "Connections that found no place.",
        service.places.refused(),
    );
    text.metric("coi_ring_bytes", "gauge", "What waits in the kernel's rings to be judged.");
    for (ring, fill) in &service.rings {
        text.sample("coi_ring_bytes", &[("ring", ring)], fill.bytes());
    }
    text.metric("coi_map_entries", "gauge", "Entries of the kernel programs' maps.");
    for map in &service.maps {
        text.sample("coi_map_entries", &[("map", map.name())], map.entries());
    }
    text.metric("coi_map_max_entries", "gauge", "How many entries they can have.");
    for map in &service.maps {
        text.sample("coi_map_max_entries", &[("map", map.name())], map.room());
    }
    process(&mut text);
    text.0
}

fn watches(text: &mut Text, states: impl Iterator<Item = WatchState>) {
    const ALL: [(WatchState, &str); 5] = [
        (WatchState::Armed, "armed"),
        (WatchState::Running, "running"),
        (WatchState::Frozen, "frozen"),
        (WatchState::Killed, "killed"),
        (WatchState::Gone, "gone"),
    ];
    let states: Vec<_> = states.collect();
    text.metric("coi_watches", "gauge", "What is watched, by state.");
    for (state, name) in ALL {
        let count = states.iter().filter(|other| **other == state).count();
        text.sample("coi_watches", &[("state", name)], count);
    }
}

fn latencies(text: &mut Text, latencies: &BTreeMap<String, ledger::Histogram>) {
    const NAME: &str = "coi_action_latency_seconds";
    text.metric(NAME, "histogram", "From the event in the kernel to the end of the action.");
    for (action, histogram) in latencies {
        let bucket = format!("{NAME}_bucket");
        for (bound, count) in histogram.cumulative() {
            text.sample(&bucket, &[("action", action), ("le", &bound.as_secs_f64().to_string())], count);
        }
        text.sample(&bucket, &[("action", action), ("le", "+Inf")], histogram.count);
        text.sample(&format!("{NAME}_sum"), &[("action", action)], histogram.sum.as_secs_f64());
        text.sample(&format!("{NAME}_count"), &[("action", action)], histogram.count);
    }
}

/// What the process takes of the machine, as far as /proc says it.
fn process(text: &mut Text) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let kilobytes: Option<u64> = line("VmRSS:");
    if let Some(kilobytes) = kilobytes {
        text.single("process_resident_memory_bytes", "gauge", "Memory in use.", kilobytes * 1024);
    }
    let threads: Option<u64> = line("Threads:");
    if let Some(threads) = threads {
        text.single("process_threads", "gauge", "Threads.", threads);
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        // One of them is the listing's own.
        text.single("process_open_fds", "gauge", "Open descriptors.", descriptors.count().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_choose_stays_in_its_label() {
        let mut text = Text::default();
        text.metric("m", "counter", "Help.");
        text.sample("m", &[("a", "x\"} 9\nevil 1"), ("b", "\\")], 7);
        text.sample("m", &[], 0.5);
        assert_eq!(
            text.0,
            "# HELP m Help.\n# TYPE m counter\nm{a=\"x\\\"} 9\\nevil 1\",b=\"\\\\\"} 7\nm 0.5\n"
        );
    }
}
