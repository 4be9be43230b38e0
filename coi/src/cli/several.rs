//! Several containers at once: by their names, or all of them.

use clap::Args;

use super::{Failure, Result, ask};
use crate::incus;
use crate::launch::{self, Owned};

/// Which containers.
#[derive(Debug, Args)]
pub(super) struct Several {
    /// The containers.
    #[arg(required_unless_present = "all", value_name = "NAME")]
    names: Vec<String>,
    /// All of COI's containers.
    #[arg(short, long, conflicts_with = "names")]
    all: bool,
    /// Ask nothing.
    #[arg(short, long)]
    pub(super) force: bool,
}

impl Several {
    /// Finds them. Who means all is asked first; nobody is meant by somebody who says no.
    pub(super) async fn find(&self, incus: &incus::Client, what: &str) -> Result<Vec<Owned>> {
        if !self.all {
            let mut found = Vec::new();
            for name in &self.names {
                found.push(launch::find(incus, name).await?);
            }
            return Ok(found);
        }
        let all = launch::mine(incus).await?;
        let names: Vec<_> = all.iter().map(|owned| owned.instance.name.as_str()).collect();
        let question = format!("{what} {}?", names.join(", "));
        if names.is_empty() || !ask::confirmed(&question, self.force)? {
            return Ok(Vec::new());
        }
        Ok(all)
    }
}

/// What went wrong with some of them: each has been told, the last decides the exit code.
pub(super) fn told(failures: Vec<(String, launch::Error)>) -> Result<()> {
    let mut last = None;
    for (name, error) in failures {
        if let Some((name, error)) = last.replace((name, error)) {
            crate::ui::err(&format!("coi: {name}: {error}"));
        }
    }
    last.map_or(Ok(()), |(_, error)| Err(Failure::Launch(error)))
}
