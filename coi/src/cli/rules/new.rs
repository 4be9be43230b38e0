//! `coi rules new`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::{Code, Failure, Result, out};
use crate::monitor::event::EventKind;
use crate::monitor::rules::template;
use crate::ui;

/// Write a rule to begin with: commented, with a test that must fire and one that must stay quiet.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi rules new no-netcat > rules/no-netcat.toml\n  \
                        coi rules new key-read --event open --output rules/key-read.toml")]
pub(super) struct New {
    /// The rule's id.
    id: String,
    /// The kind of event that it looks at.
    #[arg(long, default_value = "exec", value_parser = kind)]
    event: EventKind,
    /// A file to write it to; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn kind(name: &str) -> std::result::Result<EventKind, String> {
    let names = || EventKind::ALL.map(EventKind::name).join(", ");
    EventKind::from_name(name).ok_or_else(|| format!("there are {}", names()))
}

impl New {
    pub(super) fn execute(self) -> Result {
        let text = template(&self.id, self.event).ok_or_else(|| {
            Failure::Usage("a rule's id is made of a-z, 0-9, - _ and ., and begins with a letter".into())
        })?;
        let Some(path) = self.output else { return out(&text).map(|()| Code::OK) };
        let failed = |source| Failure::System { what: path.display().to_string(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        ui::err(&format!(
            "coi: now edit {0}, and try it: coi rules test {1} --rules {0}",
            path.display(),
            self.id
        ));
        Ok(Code::OK)
    }
}
