//! `coi audit tail`

use std::collections::VecDeque;

use clap::Args;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::{Code, Failure, Format, Name, Result, show};
use crate::monitor::audit::follow::Follow;

/// Show the last records of an audit log, and those that come.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coi audit tail coi-1a2b3c4d-1
  coi audit tail -f coi-1a2b3c4d-1 --severity warning
  coi audit tail -f -n 0 coi-1a2b3c4d-1 --format json")]
pub(super) struct Tail {
    #[command(flatten)]
    name: Name,
    #[command(flatten)]
    wanted: show::Wanted,
    /// How many.
    #[arg(short = 'n', long, default_value_t = 10, value_name = "N")]
    lines: usize,
    /// Go on with what comes, across rotations, until it is interrupted.
    #[arg(short, long)]
    follow: bool,
    /// As lines for people, or as the records are.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Tail {
    pub(super) async fn execute(self) -> Result {
        let Self { name, wanted, lines, follow, format } = self;
        let place = name.place().await?;
        let what = format!("the audit log {}", place.active().display());
        let filter = wanted.filter();
        let zone = TimeZone::system();
        // It waits in read(2), where a signal ends it.
        let read = move || -> Result {
            let failed = |source| Failure::System { what: what.clone(), source };
            let mut reader = Follow::from_end(place, lines).map_err(failed)?;
            let mut last = VecDeque::new();
            while let Some(line) = reader.try_next().map_err(failed)? {
                last.push_back(line);
                if last.len() > lines {
                    last.pop_front();
                }
            }
            let show = |line: &[u8]| match serde_json::from_slice::<Value>(line) {
                Ok(record) if filter.admits(&record) => show::print(format, &zone, line, &record),
                _ => Ok(()),
            };
            last.iter().try_for_each(|line| show(line))?;
            if !follow {
                return Ok(Code::OK);
            }
            loop {
                show(&reader.next_line().map_err(failed)?)?;
            }
        };
        let done = tokio::task::spawn_blocking(read).await;
        done.unwrap_or_else(|error| Err(Failure::system("the reader")(std::io::Error::other(error))))
    }
}
