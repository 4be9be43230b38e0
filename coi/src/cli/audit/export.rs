//! `coi audit export`

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{Code, Failure, Name, Result, show};
use crate::monitor::audit::export;
use crate::ui;

/// Print an audit log in a form that others read.
///
/// A copy to work with: the hash chain stays in the log.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coi audit export coi-1a2b3c4d-1 --to ecs > alerts.ndjson
  coi audit export coi-1a2b3c4d-1 --to ocsf --since 24h
  coi audit export coi-1a2b3c4d-1 --to csv --record alert > alerts.csv")]
pub(super) struct Export {
    #[command(flatten)]
    name: Name,
    #[command(flatten)]
    wanted: show::Wanted,
    /// The form.
    #[arg(long, value_enum)]
    to: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Elastic Common Schema, a JSON object per line: the records without COI's own fields.
    Ecs,
    /// Open Cybersecurity Schema Framework 1.4, a Detection Finding per line; alerts only.
    Ocsf,
    /// Comma-separated values, with a line of names.
    Csv,
}

impl Export {
    pub(super) async fn execute(self) -> Result {
        let (form, filter) = (self.to, self.wanted.filter());
        let print = |line: String| ui::out(&(line + "\n")).map_err(Failure::system("standard output"));
        if form == Form::Csv {
            print(export::csv_header())?;
        }
        show::each(self.name, &filter, |_, record| match form {
            Form::Ecs => print(json(&export::ecs(record))),
            Form::Ocsf => export::ocsf(record).map_or(Ok(()), |finding| print(json(&finding))),
            Form::Csv => print(export::csv(record)),
        })
        .await?;
        Ok(Code::OK)
    }
}

/// On a line, in which no character steers a terminal.
fn json(value: &Value) -> String {
    crate::monitor::audit::visible(value.to_string())
}
