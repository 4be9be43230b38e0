//! What is said about many measurements of one thing.

use serde::Serialize;

/// Of some measurements, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) p99: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Summary {
    /// Of nanoseconds; `None` of nothing. Each number is one that was measured (nearest rank), none is made up between.
    pub(super) fn of(mut nanoseconds: Vec<u64>) -> Option<Self> {
        nanoseconds.sort_unstable();
        let rank = |percent: usize| {
            let rank = (nanoseconds.len() * percent).div_ceil(100).max(1);
            nanoseconds.get(rank - 1).map(|nanoseconds| *nanoseconds as f64 / 1000.0)
        };
        Some(Self { median: rank(50)?, p99: rank(99)?, min: rank(0)?, max: rank(100)? })
    }
}

/// The middle one, or the mean of the middle two; `None` of nothing.
pub(super) fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn nearest_ranks() {
        let of = |most: u64| Summary::of((1..=most).rev().map(|n| n * 1000).collect()).unwrap();
        assert_eq!(of(100), Summary { median: 50.0, p99: 99.0, min: 1.0, max: 100.0 });
        assert_eq!(of(50), Summary { median: 25.0, p99: 50.0, min: 1.0, max: 50.0 });
        assert_eq!(of(1), Summary { median: 1.0, p99: 1.0, min: 1.0, max: 1.0 });
        assert_eq!(Summary::of(vec![]), None);
    }
}
