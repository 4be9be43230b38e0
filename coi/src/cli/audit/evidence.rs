//! `coi audit evidence`

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use super::{Code, Failure, Format, Name, Result};
use crate::monitor::audit::evidence;
use crate::ui::{out, plain};

/// Show what was kept of a container before it was killed: its processes, open files, sockets and last events.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coi audit evidence coi-1a2b3c4d-1
  coi audit evidence coi-1a2b3c4d-1 81234567890 | jq '.found.processes[].args'")]
pub(super) struct Evidence {
    #[command(flatten)]
    name: Name,
    /// Which: the alert's `coi.clock`. Without it those that there are, oldest first.
    id: Option<String>,
    /// How to list them.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Evidence {
    pub(super) async fn execute(self) -> Result {
        let name = self.name.name.clone();
        let pieces = evidence::list(&self.name.place().await?);
        let read = |piece: &evidence::Piece| {
            evidence::read(&piece.path).map_err(Failure::system(piece.path.display().to_string()))
        };
        if let Some(id) = self.id {
            let Some(piece) = pieces.iter().find(|piece| piece.id == id) else {
                return Err(Failure::NoEvidence { name, id });
            };
            out(&read(piece)?).map_err(Failure::system("standard output"))?;
            return Ok(Code::OK);
        }
        let mut rows = Vec::new();
        for piece in &pieces {
            // What was damaged is listed all the same.
            let said: Value = serde_json::from_str(&read(piece)?).unwrap_or_default();
            rows.push((piece, said));
        }
        let text = match self.format {
            Format::Json => {
                let rows = rows.iter().map(|(piece, said)| {
                    serde_json::json!({
                        "id": piece.id, "file": piece.path, "@timestamp": said["@timestamp"], "rule": said["rule"],
                        "message": said["coi"]["message"], "complete": said["found"]["complete"],
                    })
                });
                format!("{:#}\n", rows.collect::<Value>())
            }
            Format::Text => rows.iter().map(|(piece, said)| line(piece, said)).collect(),
        };
        out(&text).map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }
}

fn line(piece: &evidence::Piece, said: &Value) -> String {
    let text = |value: &Value| plain(value.as_str().unwrap_or("?")).into_owned();
    let time = text(&said["@timestamp"]);
    let time = time
        .parse::<Timestamp>()
        .map_or(time, |time| time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string());
    let processes = said["found"]["processes"].as_array().map_or(0, Vec::len);
    let part = if said["found"]["complete"] == true { "" } else { ", not all of them" };
    let (rule, message) = (text(&said["rule"]["id"]), text(&said["coi"]["message"]));
    format!("{time} {} {rule}: {message} ({processes} processes{part})\n", piece.id)
}
