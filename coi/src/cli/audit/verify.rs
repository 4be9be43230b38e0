//! `coi audit verify`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Code, Failure, Format, Name, Result};
use crate::monitor::audit::{
    files, key,
    verify::{self, Report},
};
use crate::ui;

/// Find out whether an audit log is what the daemon wrote.
///
/// Every record carries the SHA-256 of the line before it, checkpoints are signed, and the daemon notes apart from the log
/// which record was the last. Exit code 0: all of that is right. 7: it is not, and the first wrong record is named. What
/// was removed by the limits of the configuration is no fault: the number and hash of the last record that was removed
/// are the anchor of those that are left. A log from elsewhere is named by its file, and `--key` is what it is held against.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  coi audit verify coi-1a2b3c4d-1
  coi audit verify                    # all logs that you may read
  coi audit verify copy/c1.0d5b5e0e-0000-4000-8000-000000000001.jsonl --key host-a.pub")]
pub(super) struct Verify {
    /// The container, its uuid, the cgroup's path without its leading slash, or a log's file; without it, all logs.
    name: Option<String>,
    /// The public key, instead of this machine's own.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// For people, or for programs.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Verify {
    pub(super) async fn execute(self) -> Result {
        let places = match self.name {
            Some(name) => vec![Name { name }.place().await?],
            None => files::places(&files::directory(), &files::state_directory()),
        };
        let mut reports = Vec::new();
        for place in &places {
            let what = || format!("the audit log {}", place.active().display());
            let report = verify::verify(place, self.key.as_deref())
                .map_err(|source| Failure::System { what: what(), source })?;
            if self.format == Format::Text {
                print(&text(&report))?;
            }
            reports.push(report);
        }
        if self.format == Format::Json {
            print(&format!("{}\n", json!(reports)))?;
        } else {
            let state = files::state_directory();
            print(&format!(
                "key: {} (public: {}); keep a copy of the public half elsewhere\n",
                key::private_path(&state).display(),
                self.key.unwrap_or_else(|| key::public_path(&state)).display(),
            ))?;
        }
        let whole = reports.iter().all(|report| report.whole);
        Ok(if whole { Code::OK } else { Code::ALTERED })
    }
}

fn print(text: &str) -> Result<()> {
    ui::out(text).map_err(Failure::system("standard output"))
}

/// A report for people.
fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    let name = ui::plain(&report.log.to_string_lossy()).into_owned();
    match &report.broken {
        Some(broken) => lines.push(format!(
            "BROKEN {name}\n  record {}, {} line {}: {}",
            broken.sequence,
            ui::plain(&broken.file.to_string_lossy()),
            broken.line,
            ui::plain(&broken.why)
        )),
        None => lines.push(format!("whole  {name}")),
    }
    lines.push(match (report.first, report.last) {
        (Some(first), Some(last)) => format!("  records {first} to {last} in {} files", report.files),
        _ => "  no records".to_owned(),
    });
    if let Some(anchor) = report.anchor {
        lines.push(format!(
            "  those up to {} were removed in order; anchor: SHA-256 {}",
            anchor.sequence, anchor.hash
        ));
    }
    lines.push(match (&report.key, report.signed) {
        (None, _) => "  checkpoints were not looked at: there is no public key to be read".to_owned(),
        (Some(_), None) => "  no checkpoint yet".to_owned(),
        (Some(_), Some(signed)) => {
            format!("  {} checkpoints, the last is record {signed}", report.checkpoints)
        }
    });
    match (report.noted, report.last) {
        (None, _) => lines.push(
            "  there is no note of the daemon's to be read: an end that is missing would not be found".to_owned(),
        ),
        (Some(noted), Some(last)) if last > noted => lines.push(format!(
            "  records {} to {last} are held by the chain alone: the daemon has not noted them yet, or was killed before",
            noted + 1
        )),
        (Some(noted), _) => lines.push(format!("  the daemon's note of the end is record {noted}")),
    }
    if report.unfinished > 0 {
        lines.push(format!("  {} bytes of an unfinished record stand at the end", report.unfinished));
    }
    for gap in &report.gaps {
        let since =
            gap.since.as_deref().map(|since| format!(" since {}", ui::plain(since))).unwrap_or_default();
        lines.push(format!("  gap told by record {}: {}{since}", gap.sequence, ui::plain(&gap.reason)));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::audit::{
        chain::{Hash, Link},
        verify::{Broken, GapSeen},
    };

    #[test]
    fn reports() {
        let whole = Report {
            log: "/var/log/coi/1000/c1.u1.jsonl".into(),
            whole: true,
            files: 2,
            records: 90,
            first: Some(11),
            last: Some(100),
            noted: Some(99),
            checkpoints: 3,
            signed: Some(98),
            key: Some("/k".into()),
            anchor: Some(Link { sequence: 10, hash: Hash::of(b"") }),
            gaps: vec![GapSeen {
                sequence: 50,
                time: "t".into(),
                reason: "crashed".into(),
                since: Some("2026-11-20T12:00:00Z".into()),
            }],
            unfinished: 7,
            broken: None,
        };
        let broken = Report {
            whole: false,
            key: None,
            noted: None,
            gaps: vec![],
            unfinished: 0,
            anchor: None,
            broken: Some(Broken {
                sequence: 12,
                file: "/var/log/coi/1000/c1.u1.jsonl.000000000011".into(),
                line: 2,
                why: "it is not as it was written".into(),
            }),
            ..whole.clone()
        };
        insta::assert_snapshot!([whole, broken, Report::default()].map(|report| text(&report)).join("\n"));
    }
}
