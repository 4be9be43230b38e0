//! `coi rules bench`

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{Code, Failure, Format, From, Result, out, recording};
use crate::monitor::rulefiles;
use crate::monitor::rules::bench::{events, generated, measure, usual_work};

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
    /// Measure so often, a second each; what is printed is the median.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Bench {
    pub(super) fn execute(self) -> Result {
        let made_up = (self.generate > 0).then(|| generated(self.generate));
        let rules = rulefiles::load_with(self.from.rules.as_deref(), self.from.config.as_deref(), made_up);
        let rules = Arc::new(rules.map_err(Failure::Rules)?);
        let samples = match &self.file {
            Some(path) => {
                let mut entries = Vec::new();
                recording(path, |entry| {
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
        let mut rates: Vec<f64> =
            (0..self.rounds).map(|_| measure(&rules, &samples, Duration::from_secs(1))).collect();
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
