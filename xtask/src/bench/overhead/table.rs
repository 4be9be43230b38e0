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

/// One measurement, in the measure's unit.
pub(super) struct Sample {
    /// As it passed.
    pub(super) time: f64,
    /// Of a call, its caller's; of work, its own and the daemon's.
    pub(super) cpu: f64,
}

/// One measure's samples, by state and round.
pub(super) struct Measured {
    measure: &'static Measure,
    samples: [Vec<Sample>; State::ALL.len()],
}

/// What is said of one measure in one state: of the time, and of the CPU time.
struct Row {
    time: Cost,
    cpu: Cost,
    limit: Option<Limit>,
}

/// How much it is, and how much more than with nothing loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    median: f64,
    ratio: f64,
    /// The least and the greatest ratio within a round.
    spread: [f64; 2],
}

impl Cost {
    /// `None` if nothing was measured.
    fn of(samples: &[f64], base: &[f64]) -> Option<Self> {
        let median = stats::median(samples)?;
        let ratios = samples.iter().zip(base).map(|(sample, base)| sample / base);
        let spread = ratios.fold([f64::MAX, f64::MIN], |[least, most], it| [least.min(it), most.max(it)]);
        Some(Self { median, ratio: median / stats::median(base)?, spread })
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "ratio": self.ratio, "ratio_min": self.spread[0], "ratio_max": self.spread[1] })
    }
}

impl Measured {
    pub(super) fn new(measure: &'static Measure) -> Self {
        Self { measure, samples: Default::default() }
    }

    pub(super) fn add(&mut self, state: State, sample: Sample) {
        self.samples[state as usize].push(sample);
    }

    fn samples(&self, state: State, of: fn(&Sample) -> f64) -> Vec<f64> {
        self.samples[state as usize].iter().map(of).collect()
    }

    fn row(&self, state: State) -> Option<Row> {
        let cost = |of| Cost::of(&self.samples(state, of), &self.samples(State::Nothing, of));
        Some(Row {
            time: cost(|sample| sample.time)?,
            cpu: cost(|sample| sample.cpu)?,
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
            Some(json!({
                "state": state,
                "time": row.time.json(),
                "cpu": row.cpu.json(),
                "goal": row.limit.map(|limit| limit.goal),
                "ceiling": row.limit.and_then(|limit| limit.ceiling),
                "verdict": row.limit.map(|limit| limit.verdict(row.time.ratio)),
                "cpu_verdict": row.limit.map(|limit| limit.verdict(row.cpu.ratio)),
                "times": self.samples(state, |sample| sample.time),
                "cpus": self.samples(state, |sample| sample.cpu),
            }))
        });
        json!({ "name": name, "unit": unit, "states": states.collect::<Vec<_>>() })
    }
}

impl Limit {
    /// Whether a ratio, as it is printed, reaches the goal, or keeps below the ceiling at least.
    fn verdict(self, ratio: f64) -> &'static str {
        let ratio = (ratio * 100.0).round() / 100.0;
        if ratio <= self.goal {
            "goal"
        } else if self.ceiling.is_some_and(|ceiling| ratio <= ceiling) {
            "ceiling"
        } else {
            "over"
        }
    }
}

/// Prints the table for people.
pub(super) fn print(measured: &[Measured]) {
    anstream::println!(
        "{:<43} {:>11} {:>7} {:<14} {:>7} {:<14} {:>6} {:>8}  verdict",
        "",
        "median",
        "time",
        "in a round",
        "CPU",
        "in a round",
        "goal",
        "ceiling"
    );
    for measured in measured {
        let Measure { mut title, unit, .. } = *measured.measure;
        for state in State::ALL {
            let Some(Row { time, cpu, limit }) = measured.row(state) else { continue };
            let name = format!("{title:<22} {:<20} {:>8.1} {unit}", state.title(), time.median);
            title = "";
            if state == State::Nothing {
                anstream::println!("{name}");
                continue;
            }
            let ratios = [time, cpu].map(|cost| {
                let [least, most] = cost.spread;
                format!("{:>7.2} {:<14}", cost.ratio, format!("{least:.2} to {most:.2}"))
            });
            let judged = limit.map(|limit| {
                let ceiling = limit.ceiling.map(|ceiling| format!("{ceiling:.2}")).unwrap_or_default();
                let [time, cpu] = [time, cpu].map(|cost| limit.verdict(cost.ratio));
                let verdict = if time == cpu { time.to_owned() } else { format!("{time}; CPU {cpu}") };
                format!(" {:>6.2} {ceiling:>8}  {verdict}", limit.goal)
            });
            anstream::println!("{name} {}{}", ratios.join(" "), judged.unwrap_or_default());
        }
    }
    anstream::println!(
        "ratios to nothing loaded; CPU: a call's is its caller's, that of work is its own and the daemon's together"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians_and_spreads_of_rounds() {
        let cost = Cost::of(&[150.0, 132.0, 180.0], &[100.0, 110.0, 90.0]);
        assert_eq!(cost, Some(Cost { median: 150.0, ratio: 1.5, spread: [1.2, 2.0] }));
        assert_eq!(Cost::of(&[], &[1.0]), None);
    }

    #[test]
    fn verdicts() {
        let limit = below(1.7, 1.5).unwrap();
        assert_eq!(
            [1.504, 1.506, 1.70, 1.71].map(|ratio| limit.verdict(ratio)),
            ["goal", "ceiling", "ceiling", "over"]
        );
        assert_eq!(goal(1.02).unwrap().verdict(1.03), "over");
    }

    #[test]
    fn loops_come_first() {
        assert_eq!(LOOPS, [0, 1, 2, 3, 4].map(|n| MEASURES[n].name));
        assert_eq!(super::super::WORKS.len() + LOOPS.len(), MEASURES.len());
    }
}
