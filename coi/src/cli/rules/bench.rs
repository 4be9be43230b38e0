//! `coi rules bench`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::{Code, Failure, Format, From, Recording, Result, out};
use crate::monitor::config::Config;
use crate::monitor::event::Record;
use crate::monitor::rulefiles;
use crate::monitor::rules::bench::{Shifted, events, generated, usual_work};
use crate::monitor::rules::{Engine, RuleSet, Sample};

/// Measure how many events a second these rules judge, on one core.
///
/// The events are those of a recording, or else made up after usual work: a build, searches, a package manager.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coi rules bench session.jsonl\n  coi rules bench --generate 1000 --format json"
)]
pub(super) struct Bench {
    /// What `coi monitor --record` wrote.
    file: Option<PathBuf>,
    #[command(flatten)]
    from: From,
    /// Add so many rules that are made up.
    #[arg(long, value_name = "N", default_value_t = 0)]
    generate: usize,
    /// Measure so often, for a second of processor time each; what is printed is the median.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Bench {
    pub(super) fn execute(self) -> Result {
        let made_up = (self.generate > 0).then(|| generated(self.generate));
        let config = Config::read(self.from.config.as_deref());
        let rules = config
            .and_then(|config| rulefiles::load_with(self.from.rules.as_deref(), &config.rules, made_up));
        let rules = Arc::new(rules.map_err(Failure::Rules)?);
        let samples = match &self.file {
            Some(path) => {
                let mut entries = Vec::new();
                Recording::open(path)?.each(|entry| {
                    entries.push(entry);
                    Ok(())
                })?;
                events(entries)
            }
            None => usual_work(),
        };
        if samples.is_empty() {
            return Err(Failure::Usage("there are no events in the recording".into()));
        }
        let mut rates: Vec<f64> = (0..self.rounds)
            .map(|_| measure(&rules, &samples, Duration::from_secs(1)))
            .collect::<Result<_>>()?;
        rates.sort_by(f64::total_cmp);
        let median = rates[rates.len() / 2];
        let rules = rules.rules().iter().filter(|rule| rule.enabled).count();
        out(&match self.format {
            Format::Text => format!(
                "{median:.0} events/s (median of {}, {:.0} to {:.0}) with {rules} rules over {} events\n",
                rates.len(),
                rates[0],
                rates[rates.len() - 1],
                samples.len()
            ),
            Format::Json => format!(
                "{:#}\n",
                json!({ "rules": rules, "events": samples.len(), "median": median, "rates": rates })
            ),
        })?;
        Ok(Code::OK)
    }
}

/// Judges the events over and over for at least this much of this thread's processor time; says how many a second.
/// What else runs on the machine takes none of it.
fn measure(rules: &Arc<RuleSet>, events: &[Sample], at_least: Duration) -> Result<f64> {
    let used = || match clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID) {
        Ok(time) => Ok(Duration::from(time)),
        Err(errno) => Err(Failure::System { what: "the thread's clock".into(), source: errno.into() }),
    };
    let mut engine = Engine::new(Arc::clone(rules));
    let mut alerts = Vec::new();
    let span = events.last().map_or(0, Record::time) + 1;
    let began = used()?;
    let mut rounds = 0_u64;
    let took = loop {
        for sample in events {
            engine.evaluate(&Shifted { sample, by: rounds * span }, 1, &mut alerts);
            alerts.clear();
        }
        rounds += 1;
        let took = used()?.saturating_sub(began);
        if took >= at_least {
            break took;
        }
    };
    Ok((rounds * events.len() as u64) as f64 / took.as_secs_f64())
}
