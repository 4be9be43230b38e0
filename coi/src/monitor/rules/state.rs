//! What is remembered between events: how much was measured, how far a sequence has come, what was said.
//!
//! All of it is bounded. Amounts are kept in slices of a 64th of the rule's time, so an event may leave a
//! window by that much too early, never too late. Distinct values are kept as hashes, at most as many as the
//! threshold asks for and the same again. Keys are capped per rule and container, so that no container can push out what is
//! known about another; when there are too many, the ones that were touched longest ago go, and are counted.

use std::collections::{HashMap, VecDeque};

use super::{
    engine::Standing,
    model::{Measure, Pattern, Step, Threshold},
    quantity,
};
use crate::monitor::event::{EventKind, Field};

/// The largest number of distinct values that a threshold may ask for.
pub(super) const MAX_DISTINCT: u64 = 10_000;
/// Into how many slices a rule's time is cut.
const SLICES: u64 = 64;
/// How many numbers one rule may keep about one container.
const CELLS: usize = 1 << 18;
/// The bounds of the number of keys, whatever each of them takes.
const KEYS: (usize, usize) = (16, 4096);

/// Values by key, only so many.
#[derive(Debug)]
pub(super) struct Keyed<T> {
    entries: HashMap<u64, (u64, T)>,
}

impl<T> Default for Keyed<T> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<T> Keyed<T> {
    /// The value of this key, made if there is none. Returns how many others had to go for it, too.
    pub(super) fn entry(
        &mut self,
        key: u64,
        now: u64,
        cap: usize,
        make: impl FnOnce() -> T,
    ) -> (&mut T, u64) {
        let mut evicted = 0;
        if self.entries.len() >= cap && !self.entries.contains_key(&key) {
            evicted = self.evict();
        }
        let (touched, value) = self.entries.entry(key).or_insert_with(|| (now, make()));
        *touched = now;
        (value, evicted)
    }

    /// Drops the quarter that was touched longest ago: seldom, so that a flood of keys costs little for each.
    fn evict(&mut self) -> u64 {
        let before = self.entries.len();
        let mut times: Vec<u64> = self.entries.values().map(|(touched, _)| *touched).collect();
        let (_, limit, _) = times.select_nth_unstable(before / 4);
        let limit = *limit;
        // Many may have been touched at the very same time: no more than a quarter and one go.
        let mut left = before / 4 + 1;
        self.entries.retain(|_, (touched, _)| {
            let goes = *touched <= limit && left > 0;
            left -= usize::from(goes);
            !goes
        });
        (before - self.entries.len()) as u64
    }

    pub(super) fn get(&self, key: u64) -> Option<&T> {
        self.entries.get(&key).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, key: u64) {
        self.entries.remove(&key);
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// How many keys a rule with these steps may have in one container.
pub(super) fn key_cap(steps: &[Step]) -> usize {
    let cells: usize = steps
        .iter()
        .flat_map(|step| &step.thresholds)
        .map(|threshold| match threshold.measure {
            Measure::Distinct(_) => threshold.at_least.saturating_mul(2) as usize,
            _ => SLICES as usize,
        })
        .sum();
    (CELLS / cells.max(1)).clamp(KEYS.0, KEYS.1)
}

/// How many subjects of alerts are remembered per rule and container.
pub(super) const SUBJECTS: usize = KEYS.1;

/// When something happened, and since when it counts: in an ordered sequence that is when the steps before it
/// began, since all of it must lie within the rule's time.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: u64,
    since: u64,
}

/// How much there was in a time that moves along.
#[derive(Debug)]
enum Meter {
    /// Amounts by slices of time, oldest first, and their sum.
    Sum { slices: VecDeque<(Moment, u64)>, total: u64 },
    /// The hashes of distinct values, each with when it was last there.
    Distinct { seen: HashMap<u64, Moment>, oldest: u64 },
}

impl Meter {
    fn new(measure: Measure) -> Self {
        match measure {
            Measure::Distinct(_) => Self::Distinct { seen: HashMap::new(), oldest: u64::MAX },
            Measure::Count | Measure::Sum(_) => Self::Sum { slices: VecDeque::new(), total: 0 },
        }
    }

    /// Adds an amount, or a hash.
    fn add(&mut self, moment: Moment, amount: u64, within: u64, at_least: u64) {
        match self {
            Self::Sum { slices, total } => {
                *total = total.saturating_add(amount);
                match slices.back_mut() {
                    Some((slice, sum)) if moment.since.saturating_sub(slice.since) <= within / SLICES => {
                        *sum = sum.saturating_add(amount);
                    }
                    _ => slices.push_back((moment, amount)),
                }
            }
            Self::Distinct { seen, oldest } => {
                if seen.len() as u64 >= at_least.saturating_mul(2) && !seen.contains_key(&amount) {
                    *oldest = keep_latest(seen, at_least);
                }
                seen.insert(amount, moment);
                *oldest = (*oldest).min(moment.since);
            }
        }
    }

    /// Forgets what counts from before `start`.
    fn expire(&mut self, start: u64) {
        match self {
            Self::Sum { slices, total } => {
                while slices.front().is_some_and(|(slice, _)| slice.since < start) {
                    if let Some((_, amount)) = slices.pop_front() {
                        *total = total.saturating_sub(amount);
                    }
                }
            }
            Self::Distinct { seen, oldest } => {
                if *oldest < start {
                    seen.retain(|_, moment| moment.since >= start);
                    *oldest = seen.values().map(|moment| moment.since).min().unwrap_or(u64::MAX);
                }
            }
        }
    }

    fn level(&self) -> u64 {
        match self {
            Self::Sum { total, .. } => *total,
            Self::Distinct { seen, .. } => seen.len() as u64,
        }
    }

    /// When the first of what it holds happened.
    fn first(&self) -> Option<u64> {
        match self {
            Self::Sum { slices, .. } => slices.front().map(|(slice, _)| slice.at),
            Self::Distinct { seen, .. } => seen.values().map(|moment| moment.at).min(),
        }
    }

    /// The latest time since when the threshold is reached, if it is.
    fn reached_since(&self, at_least: u64) -> Option<u64> {
        match self {
            Self::Sum { slices, .. } => {
                let mut sum = 0u64;
                slices.iter().rev().find_map(|(slice, amount)| {
                    sum = sum.saturating_add(*amount);
                    (sum >= at_least).then_some(slice.since)
                })
            }
            Self::Distinct { seen, .. } => nth_latest(seen, at_least),
        }
    }
}

/// Since when the `n`th counts, from the latest.
fn nth_latest(seen: &HashMap<u64, Moment>, n: u64) -> Option<u64> {
    let nth = usize::try_from(n).ok()?.checked_sub(1).filter(|nth| *nth < seen.len())?;
    let mut times: Vec<u64> = seen.values().map(|moment| moment.since).collect();
    let (_, time, _) = times.select_nth_unstable_by(nth, |a, b| b.cmp(a));
    Some(*time)
}

/// Keeps the latest `n`: more than enough was seen, so that the older make room. Returns since when the oldest
/// of them counts.
fn keep_latest(seen: &mut HashMap<u64, Moment>, n: u64) -> u64 {
    let Some(limit) = nth_latest(seen, n) else { return u64::MAX };
    // Many may be of the same time as the last that is kept; as many of them stay as there is room.
    let mut room = n - seen.values().filter(|moment| moment.since > limit).count() as u64;
    seen.retain(|_, moment| {
        let tie = moment.since == limit && room > 0;
        room -= u64::from(tie);
        moment.since > limit || tie
    });
    limit
}

/// How far one step has come.
#[derive(Debug)]
struct StepState {
    /// One for each of its thresholds.
    meters: Vec<Meter>,
    /// When its latest event was, its kind, and for a step of one event what it was.
    last: Option<(u64, EventKind, String)>,
}

/// How far all steps of a rule have come, for one key.
#[derive(Debug)]
pub(super) struct Progress {
    steps: Vec<StepState>,
}

/// What a step contributed to an alert.
#[derive(Debug)]
pub(super) struct Contribution<'a> {
    /// The kind of its latest event.
    pub(super) kind: EventKind,
    /// When it began.
    pub(super) since: u64,
    /// When it was last added to.
    pub(super) until: u64,
    /// The threshold that was reached and by how much, or what the step's one event was.
    pub(super) what: What<'a>,
}

/// How a step was complete.
#[derive(Debug)]
pub(super) enum What<'a> {
    Level(&'a Threshold, u64),
    Event(&'a str),
}

impl Progress {
    pub(super) fn new(steps: &[Step]) -> Self {
        let steps = steps
            .iter()
            .map(|step| StepState {
                meters: step.thresholds.iter().map(|threshold| Meter::new(threshold.measure)).collect(),
                last: None,
            })
            .collect();
        Self { steps }
    }

    /// Adds an event to step `at`, and says whether all that the rule looks for is now there.
    ///
    /// In an ordered sequence a step counts only what comes while the step before it is complete, and what it
    /// counts is as old as the beginning of that: so whatever an alert rests on lies within the rule's time
    /// and in the rule's order.
    pub(super) fn add(
        &mut self,
        pattern: &Pattern,
        steps: &[Step],
        at: usize,
        (now, kind): (u64, EventKind),
        amount: impl Fn(Measure) -> Option<u64>,
        describe: impl FnOnce() -> String,
    ) -> bool {
        let start = now.saturating_sub(pattern.within);
        for state in &mut self.steps {
            state.meters.iter_mut().for_each(|meter| meter.expire(start));
        }
        let since = if pattern.ordered && at > 0 {
            match self.complete_since(steps, at - 1) {
                Some(since) => since,
                None => return false,
            }
        } else {
            now
        };
        let (Some(step), Some(state)) = (steps.get(at), self.steps.get_mut(at)) else { return false };
        for (threshold, meter) in step.thresholds.iter().zip(&mut state.meters) {
            if let Some(amount) = amount(threshold.measure) {
                meter.add(Moment { at: now, since }, amount, pattern.within, threshold.at_least);
            }
        }
        let text = if step.is_single() { describe() } else { String::new() };
        state.last = Some((now, kind, text));
        if pattern.ordered {
            at + 1 == steps.len() && self.is_complete(steps, at)
        } else {
            (0..steps.len()).all(|at| self.is_complete(steps, at))
        }
    }

    fn is_complete(&self, steps: &[Step], at: usize) -> bool {
        let (Some(step), Some(state)) = (steps.get(at), self.steps.get(at)) else { return false };
        let mut thresholds = step.thresholds.iter().zip(&state.meters);
        thresholds.any(|(threshold, meter)| meter.level() >= threshold.at_least)
    }

    /// Since when the step is complete, if it is: the latest of what its thresholds say.
    fn complete_since(&self, steps: &[Step], at: usize) -> Option<u64> {
        let (step, state) = (steps.get(at)?, self.steps.get(at)?);
        let since = step.thresholds.iter().zip(&state.meters);
        since.filter_map(|(threshold, meter)| meter.reached_since(threshold.at_least)).max()
    }

    /// How far each step has come.
    pub(super) fn standing<'a>(&'a self, steps: &'a [Step]) -> impl Iterator<Item = Standing> + 'a {
        steps.iter().zip(&self.steps).enumerate().map(|(at, (step, state))| {
            let levels = step.thresholds.iter().zip(&state.meters).map(|(threshold, meter)| {
                let show = |amount| match threshold.measure {
                    Measure::Sum(Field::IoBytes) => quantity::show_size(amount),
                    _ => amount.to_string(),
                };
                format!("{} of {}", show(meter.level()), show(threshold.at_least))
            });
            Standing {
                step: step.name.clone(),
                reached: levels.collect::<Vec<_>>().join(", or "),
                complete: self.is_complete(steps, at),
            }
        })
    }

    /// What each step has to show.
    pub(super) fn contributions<'a>(&'a self, steps: &'a [Step]) -> impl Iterator<Item = Contribution<'a>> {
        steps.iter().zip(&self.steps).filter_map(|(step, state)| {
            let (until, kind, text) = state.last.as_ref()?;
            let mut reached = step.thresholds.iter().zip(&state.meters);
            let (threshold, meter) =
                reached.find(|(threshold, meter)| meter.level() >= threshold.at_least)?;
            let what =
                if step.is_single() { What::Event(text) } else { What::Level(threshold, meter.level()) };
            let since = if step.is_single() { *until } else { meter.first()? };
            Some(Contribution { kind: *kind, since, until: *until, what })
        })
    }
}

impl Step {
    /// Whether one event is enough for the step.
    fn is_single(&self) -> bool {
        matches!(self.thresholds.as_slice(), [Threshold { name: None, .. }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_keys_push_out_the_oldest_and_are_counted() {
        let mut keyed = Keyed::default();
        let mut evicted = 0;
        for key in 0..10_000 {
            evicted += keyed.entry(key, key, 100, || key).1;
            assert!(keyed.len() <= 100);
        }
        assert_eq!(evicted + keyed.len() as u64, 10_000);
        assert!(keyed.entries.contains_key(&9_999));
        assert!(!keyed.entries.contains_key(&0));
    }

    #[test]
    fn keys_touched_at_one_time_do_not_all_go() {
        let mut keyed = Keyed::default();
        for key in 0..101 {
            keyed.entry(key, 7, 100, || ());
        }
        assert_eq!(keyed.len(), 75);
    }

    #[test]
    fn a_sum_keeps_few_slices_however_many_events_there_are() {
        let mut meter = Meter::new(Measure::Count);
        for time in 0..100_000 {
            meter.add(Moment { at: time, since: time }, 1, 6_400, 1);
            meter.expire(time.saturating_sub(6_400));
        }
        let Meter::Sum { slices, total } = &meter else { panic!() };
        assert!(slices.len() <= SLICES as usize + 1, "{}", slices.len());
        assert!((6_300..=6_401).contains(total), "{total}");
    }

    #[test]
    fn distinct_values_are_no_more_than_asked_for() {
        let mut meter = Meter::new(Measure::Distinct(crate::monitor::event::Field::FilePath));
        for hash in 0..100 {
            meter.add(Moment { at: hash, since: hash }, hash, 1_000, 10);
        }
        assert!((10..=20).contains(&meter.level()), "{}", meter.level());
        assert_eq!(meter.reached_since(10), Some(90));
        meter.expire(95);
        assert_eq!(meter.level(), 5);
        assert_eq!(meter.reached_since(10), None);
    }

    #[test]
    fn distinct_values_of_one_time_do_not_all_go() {
        let mut meter = Meter::new(Measure::Distinct(crate::monitor::event::Field::FilePath));
        for hash in 0..1_000 {
            meter.add(Moment { at: 7, since: 7 }, hash, 1_000, 10);
            assert!(meter.level() >= 10.min(hash + 1));
        }
    }
}
