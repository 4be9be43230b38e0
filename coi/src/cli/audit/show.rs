//! `coi audit show`, and what it has in common with `tail` and `export`.

use clap::Args;
use globset::Glob;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::Value;

use super::{Code, Failure, Format, Name, Result};
use crate::monitor::audit::{
    Kind,
    filter::{Filter, Process},
    read::Lines,
};
use crate::monitor::rules::Severity;
use crate::monitor::service::stream::Line;
use crate::ui;

/// Show what an audit log has, oldest first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coi audit show coi-1a2b3c4d-1
  coi audit show coi-1a2b3c4d-1 --severity high --since 2h
  coi audit show coi-1a2b3c4d-1 --process curl --format json | jq .destination")]
pub(super) struct Show {
    #[command(flatten)]
    name: Name,
    #[command(flatten)]
    wanted: Wanted,
    /// As lines for people, or as the records are.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Which records.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// Not before: a time such as 2026-11-20T12:00:00Z, or how long ago, such as 90m.
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Not after.
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Alerts at least so grave: info, warning, high or critical.
    #[arg(long, value_name = "SEVERITY", value_parser = severity)]
    severity: Option<Severity>,
    /// Alerts of this rule; may be given several times.
    #[arg(long, value_name = "ID")]
    rule: Vec<String>,
    /// About this process: its id on the host, or its program's name or path, in which * and ? are wild.
    #[arg(long, value_name = "PROCESS", value_parser = process)]
    process: Option<Process>,
    /// Records of this kind, such as alert, state or gap; may be given several times.
    #[arg(long, value_name = "KIND", value_parser = kind)]
    record: Vec<Kind>,
}

impl Wanted {
    pub(super) fn filter(self) -> Filter {
        let Self { since, until, severity, rule, process, record } = self;
        Filter { since, until, severity, rules: rule, process, kinds: record }
    }
}

impl Show {
    pub(super) async fn execute(self) -> Result {
        let (format, filter) = (self.format, self.wanted.filter());
        let zone = TimeZone::system();
        each(self.name, &filter, |text, record| print(format, &zone, text, record)).await?;
        Ok(Code::OK)
    }
}

/// Prints a record; as JSON it is printed as it stands in the log, where it has been made safe to print.
pub(super) fn print(format: Format, zone: &TimeZone, text: &[u8], record: &Value) -> Result<()> {
    let line = match format {
        Format::Json => String::from_utf8_lossy(text).into_owned(),
        Format::Text => ui::event(&Line::read(record), zone),
    };
    if line.is_empty() {
        return Ok(());
    }
    ui::out(&(line + "\n")).map_err(Failure::system("standard output"))
}

/// Does something with each record of a log that is wanted: its line, and what that says.
pub(super) async fn each(
    name: Name,
    filter: &Filter,
    mut what: impl FnMut(&[u8], &Value) -> Result<()>,
) -> Result<()> {
    let place = name.place().await?;
    let failed =
        |source| Failure::System { what: format!("the audit log {}", place.active().display()), source };
    for (_, file) in place.open().map_err(failed)? {
        for line in Lines::of(file) {
            let line = line.map_err(failed)?;
            // What is no record is `coi audit verify`'s to tell.
            let Ok(record) = serde_json::from_slice::<Value>(&line.bytes) else { continue };
            if filter.admits(&record) {
                what(&line.bytes, &record)?;
            }
        }
    }
    Ok(())
}

fn time(text: &str) -> std::result::Result<Timestamp, String> {
    if let Ok(ago) = text.parse::<SignedDuration>() {
        return Timestamp::now().checked_sub(ago.abs()).map_err(|error| error.to_string());
    }
    let local = || text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(TimeZone::system()).ok();
    text.parse()
        .ok()
        .or_else(|| Some(local()?.timestamp()))
        .ok_or_else(|| "neither a time such as 2026-11-20T12:00:00Z nor how long ago, such as 90m".to_owned())
}

fn severity(text: &str) -> std::result::Result<Severity, String> {
    Severity::from_name(text).ok_or_else(|| "it is info, warning, high or critical".to_owned())
}

fn kind(text: &str) -> std::result::Result<Kind, String> {
    let all = || Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    Kind::from_name(text).ok_or_else(|| format!("there is no such kind; there are {}", all()))
}

fn process(text: &str) -> std::result::Result<Process, String> {
    if let Ok(pid) = text.parse() {
        return Ok(Process::Pid(pid));
    }
    let glob = Glob::new(text).map_err(|error| error.to_string())?;
    Ok(Process::Program(glob.compile_matcher()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time("2026-11-20T12:00:00Z").unwrap().to_string(), "2026-11-20T12:00:00Z");
        let ago = Timestamp::now().duration_since(time("90m").unwrap());
        assert!((5390..=5400).contains(&ago.as_secs()), "{ago}");
        assert!(time("2026-11-20").is_ok() && time("2026-11-20T12:00").is_ok());
        assert!(
            time("soon").is_err() && severity("bad").is_err() && kind("x").is_err() && process("[").is_err()
        );
    }
}
