//! Whether a number stays where it is.
//!
//! A load that comes and goes makes every number go up and down; the median of a quarter of the time does not. What the
//! last quarter has beyond the second is growth. The first is for getting warm, and says nothing.

use serde::Serialize;

use super::sample::Sample;
use crate::bench::stats::median;

/// So much of what it was may be added, as a part of it.
const PART: f64 = 0.05;

/// What a number may grow by, if that is more than [`PART`], and whether nothing may be left of the load.
#[derive(Clone, Copy, Debug)]
struct Bound {
    unit: &'static str,
    least: f64,
    goes: bool,
}

impl Bound {
    /// By a number's name.
    fn of(name: &str) -> Self {
        // An allocator gives back what it likes, when it likes.
        if name.ends_with(" memory") {
            return Self { unit: "MiB", least: 2.0, goes: false };
        }
        let (unit, least) = match name {
            _ if name.ends_with(" descriptors") => ("", 8.0),
            _ if name.ends_with(" threads") => ("", 4.0),
            _ => ("", 16.0),
        };
        Self { unit, least, goes: true }
    }
}

/// What is said of one number.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    name: String,
    unit: &'static str,
    before: f64,
    /// The medians.
    quarters: [f64; 4],
    after: f64,
    growth: f64,
    bound: f64,
    flat: bool,
}

impl Verdict {
    fn of(name: &str, before: f64, during: &[f64], after: f64) -> Self {
        let Bound { unit, least, goes } = Bound::of(name);
        let quarter = |n: usize| {
            let part = &during[during.len() * n / 4..during.len() * (n + 1) / 4];
            median(part).unwrap_or(f64::NAN)
        };
        let quarters = [0, 1, 2, 3].map(quarter);
        let growth = quarters[3] - quarters[1];
        let bound = least.max(PART * quarters[1]);
        // Of nothing there is no median, and nothing is shown by it.
        let flat = growth <= bound && (!goes || after <= before + bound);
        Self { name: name.to_owned(), unit, before, quarters, after, growth, bound, flat }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_flat(&self) -> bool {
        self.flat
    }
}

/// Of each number there is.
pub(super) fn all(before: &Sample, during: &[Sample], after: &Sample) -> Vec<Verdict> {
    // A number that is missing at times is not one that is small.
    let number = |sample: &Sample, name: &str| sample.get(name).copied().unwrap_or(f64::NAN);
    let of = |name: &String| {
        let series: Vec<f64> = during.iter().map(|sample| number(sample, name)).collect();
        Verdict::of(name, number(before, name), &series, number(after, name))
    };
    before.keys().map(of).collect()
}

/// Prints them for people.
pub(super) fn print(verdicts: &[Verdict]) {
    anstream::println!(
        "{:<22} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>8} {:>8}",
        "",
        "before",
        "1st",
        "2nd",
        "3rd",
        "4th",
        "after",
        "growth",
        "bound"
    );
    for Verdict { name, unit, before, quarters, after, growth, bound, flat } in verdicts {
        let title = if unit.is_empty() { name.clone() } else { format!("{name}, {unit}") };
        let numbers: String =
            [before].into_iter().chain(quarters).chain([after]).map(|n| format!(" {n:>9.1}")).collect();
        let verdict = if *flat { "flat" } else { "GROWS" };
        anstream::println!("{title:<22}{numbers}  {growth:>+8.1} {bound:>8.1}  {verdict}");
    }
    anstream::println!(
        "quarters of the time, by their medians; growth: from the 2nd to the 4th; bound: {} % of the 2nd, or a few; of what \
         is no memory no more may be left afterwards",
        PART * 100.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(name: &str, during: &[f64], after: f64) -> bool {
        Verdict::of(name, 10.0, during, after).is_flat()
    }

    #[test]
    fn what_comes_and_goes_is_flat_and_what_grows_is_not() {
        let noise: Vec<f64> = (0..400).map(|n| 100.0 + f64::from(n * 37 % 50)).collect();
        assert!(flat("daemon descriptors", &noise, 10.0));
        let warm: Vec<f64> = (0..400).map(|n| 100.0_f64.min(f64::from(n))).collect();
        assert!(flat("daemon descriptors", &warm, 10.0), "it grows in the first quarter only");
        let leak: Vec<f64> = noise.iter().zip(0..).map(|(noise, n)| noise + f64::from(n) / 10.0).collect();
        assert!(!flat("daemon descriptors", &leak, 10.0));
        assert!(!flat("daemon memory", &leak, 10.0));
    }

    #[test]
    fn what_is_left_is_told() {
        let still = [100.0; 8];
        assert!(!flat("map scopes", &still, 90.0));
        assert!(flat("map scopes", &still, 12.0));
        assert!(flat("daemon memory", &still, 90.0), "an allocator may keep it");
    }

    #[test]
    fn what_was_not_seen_is_not_flat() {
        assert!(!flat("daemon memory", &[], 10.0));
        assert!(!flat("daemon memory", &[f64::NAN; 8], 10.0));
        assert!(!flat("map scopes", &[100.0; 8], f64::NAN));
    }
}
