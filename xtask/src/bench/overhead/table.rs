//! What is measured, how much it may cost, and how it is told.

use serde_json::{Value, json};

use super::super::stats;
use super::State;

/// One thing that is measured.
pub(super) struct Measure {
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    outside: Option<Limit>,
    inside: Option<Limit>,
    emitted: Option<Limit>,
}

/// How much more than with nothing loaded it may be.
#[derive(Clone, Copy)]
struct Limit {
    goal: f64,
    /// What is never to be exceeded.
    ceiling: Option<f64>,
}

const fn goal(goal: f64) -> Option<Limit> {
    Some(Limit { goal, ceiling: None })
}

const fn below(ceiling: f64, goal: f64) -> Option<Limit> {
    Some(Limit { goal, ceiling: Some(ceiling) })
}

const fn call(name: &'static str, title: &'static str, limits: [Option<Limit>; 3]) -> Measure {
    let [outside, inside, emitted] = limits;
    Measure { name, title, unit: "ns", outside, inside, emitted }
}

const fn work(name: &'static str, title: &'static str, inside: Option<Limit>) -> Measure {
    Measure { name, title, unit: "ms", outside: goal(1.02), inside, emitted: None }
}

/// The loops of one system call, as they name themselves: the first of [`MEASURES`].
pub(super) const LOOPS: [&str; 5] = ["getppid", "read", "open", "connect", "exec"];

/// Everything that is measured, in the table's order: the loops, then the works.
pub(super) const MEASURES: [Measure; 9] = [
    call("getppid", "getppid", [goal(1.12), None, None]),
    call("read", "read 1 byte", [goal(1.40), below(1.7, 1.5), None]),
    call("open", "openat + close", [below(1.2, 1.15), below(1.8, 1.5), goal(2.2)]),
    call("connect", "connect, port closed", [None, below(1.2, 1.15), None]),
    call("exec", "fork + exec", [None, goal(1.05), None]),
    work("build", "C build, make -j2", goal(1.03)),
    work("git", "git grep + git status", below(1.3, 1.12)),
    work("cat", "cat of 20,000 files", below(1.3, 1.12)),
    work("true", "2,000 x /bin/true", goal(1.03)),
];

/// One measurement.
pub(super) struct Sample {
    /// In the measure's unit.
    pub(super) value: f64,
    /// All CPU time of real work, the daemon's included, in milliseconds.
    pub(super) cpu: Option<f64>,
}

/// One measure's samples, by state and round.
pub(super) struct Measured {
    measure: &'static Measure,
    samples: [Vec<Sample>; State::ALL.len()],
}

/// What is said of one measure in one state.
struct Row {
    median: f64,
    ratio: f64,
    /// The least and the greatest ratio within a round.
    spread: [f64; 2],
    cpu_ratio: Option<f64>,
    limit: Option<Limit>,
}

impl Measured {
    pub(super) fn new(measure: &'static Measure) -> Self {
        Self { measure, samples: Default::default() }
    }

    pub(super) fn add(&mut self, state: State, sample: Sample) {
        self.samples[state as usize].push(sample);
    }

    fn row(&self, state: State) -> Option<Row> {
        let (base, samples) = (&self.samples[State::Nothing as usize], &self.samples[state as usize]);
        let median =
            |samples: &[Sample]| stats::median(&samples.iter().map(|it| it.value).collect::<Vec<_>>());
        let cpu =
            |samples: &[Sample]| stats::median(&samples.iter().filter_map(|it| it.cpu).collect::<Vec<_>>());
        let ratios = samples.iter().zip(base).map(|(sample, base)| sample.value / base.value);
        let spread = ratios.fold([f64::MAX, f64::MIN], |[least, most], it| [least.min(it), most.max(it)]);
        Some(Row {
            median: median(samples)?,
            ratio: median(samples)? / median(base)?,
            spread,
            cpu_ratio: cpu(samples).and_then(|samples| Some(samples / cpu(base)?)),
            limit: match state {
                State::Nothing => None,
                State::Outside => self.measure.outside,
                State::Inside => self.measure.inside,
                State::Emitted => self.measure.emitted,
            },
        })
    }

    pub(super) fn json(&self) -> Value {
        let Measure { name, unit, .. } = self.measure;
        let states = State::ALL.into_iter().filter_map(|state| {
            let row = self.row(state)?;
            let samples = &self.samples[state as usize];
            Some(json!({
                "state": state,
                "median": row.median,
                "ratio": row.ratio,
                "ratio_min": row.spread[0],
                "ratio_max": row.spread[1],
                "cpu_ratio": row.cpu_ratio,
                "goal": row.limit.map(|limit| limit.goal),
                "ceiling": row.limit.and_then(|limit| limit.ceiling),
                "verdict": row.verdict(),
                "samples": samples.iter().map(|sample| sample.value).collect::<Vec<_>>(),
                "cpu_ms": samples.iter().map(|sample| sample.cpu).collect::<Vec<_>>(),
            }))
        });
        json!({ "name": name, "unit": unit, "states": states.collect::<Vec<_>>() })
    }
}

impl Row {
    /// Whether the ratio, as it is printed, reaches the goal, or keeps below the ceiling at least.
    fn verdict(&self) -> Option<&'static str> {
        let Limit { goal, ceiling } = self.limit?;
        let ratio = (self.ratio * 100.0).round() / 100.0;
        Some(if ratio <= goal {
            "goal"
        } else if ceiling.is_some_and(|ceiling| ratio <= ceiling) {
            "ceiling"
        } else {
            "over"
        })
    }
}

/// Prints the table for people.
pub(super) fn print(measured: &[Measured]) {
    anstream::println!(
        "{:<22} {:<20} {:>11} {:>7}  {:<14} {:>6} {:>6} {:>8}  verdict",
        "",
        "",
        "median",
        "ratio",
        "in a round",
        "CPU",
        "goal",
        "ceiling"
    );
    for measured in measured {
        let mut title = measured.measure.title;
        for state in State::ALL {
            let Some(row) = measured.row(state) else { continue };
            let number =
                |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.2}"));
            let name = format!("{title:<22} {:<20}", state.title());
            let median = format!("{:>8.1} {}", row.median, measured.measure.unit);
            if state == State::Nothing {
                anstream::println!("{name} {median}");
            } else {
                let spread = format!("{:.2} to {:.2}", row.spread[0], row.spread[1]);
                anstream::println!(
                    "{name} {median} {:>7.2}  {spread:<14} {:>6} {:>6} {:>8}  {}",
                    row.ratio,
                    number(row.cpu_ratio),
                    number(row.limit.map(|limit| limit.goal)),
                    number(row.limit.and_then(|limit| limit.ceiling)),
                    row.verdict().unwrap_or_default(),
                );
            }
            title = "";
        }
    }
    anstream::println!(
        "calls: CPU time per call; work: time that passes, and CPU: the ratio of its and the daemon's CPU time together"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(base: &[f64], inside: &[f64]) -> Measured {
        let mut measured = Measured::new(&MEASURES[1]);
        for (state, values) in [(State::Nothing, base), (State::Inside, inside)] {
            values.iter().for_each(|value| measured.add(state, Sample { value: *value, cpu: None }));
        }
        measured
    }

    #[test]
    fn ratios_are_of_medians_and_spreads_of_rounds() {
        let row = measured(&[100.0, 110.0, 90.0], &[150.0, 132.0, 180.0]).row(State::Inside).unwrap();
        assert_eq!((row.median, row.ratio, row.spread), (150.0, 1.5, [1.2, 2.0]));
        assert_eq!(row.verdict(), Some("goal"));
        assert!(measured(&[1.0], &[]).row(State::Outside).is_none());
    }

    #[test]
    fn verdicts() {
        let verdict = |value| measured(&[100.0], &[value]).row(State::Inside).unwrap().verdict();
        assert_eq!(
            [150.4, 150.6, 170.0, 171.0].map(verdict),
            ["goal", "ceiling", "ceiling", "over"].map(Some)
        );
    }

    #[test]
    fn loops_come_first() {
        assert_eq!(LOOPS, [0, 1, 2, 3, 4].map(|n| MEASURES[n].name));
        assert_eq!(super::super::WORKS.len() + LOOPS.len(), MEASURES.len());
    }
}
