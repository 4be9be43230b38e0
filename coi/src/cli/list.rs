//! `coi list`

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{Code, Failure, Format, Result};
use crate::incus::{self, Status};
use crate::launch;
use crate::monitor::service::api::{Tally, Watch, WatchState};
use crate::monitor::service::client;
use crate::ui::{self, plain};

/// List COI's containers, and whether they are watched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi list\n  coi list --format json")]
pub(super) struct List {
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A container, as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    status: String,
    /// `None` when nobody knows: no daemon answers.
    watched: Option<bool>,
    /// What became of its events, by kind; empty if it is not watched.
    events: BTreeMap<String, Tally>,
    workspace: String,
    image: String,
    created_at: String,
    ephemeral: bool,
}

impl List {
    pub(super) async fn execute(self) -> Result {
        let containers = launch::mine(&incus::Client::from_env()).await?;
        let watches = match client::Client::from_env().watches().await {
            Ok(watches) => Some(watches),
            // Without a daemon nothing is watched; without permission to ask it, nobody knows.
            Err(error) if error.is_absent() => Some(Vec::new()),
            Err(_) => None,
        };
        let rows = containers.into_iter().map(|c| row(c, watches.as_deref())).collect::<Vec<_>>();
        let text = match self.format {
            Format::Json => serde_json::to_string_pretty(&rows).unwrap_or_default() + "\n",
            Format::Text => table(&rows),
        };
        ui::out(&text).map_err(Failure::system("standard output"))?;
        if rows.is_empty() && self.format == Format::Text {
            ui::err("coi: there are no containers. `coi shell` starts one");
        }
        Ok(Code::OK)
    }
}

fn row(container: launch::Owned, watches: Option<&[Watch]>) -> Row {
    let instance = container.instance;
    let watch = watches.map(|all| all.iter().find(|w| w.name == instance.name));
    // A container frozen by a rule is still running for Incus until Incus has been told.
    let frozen = matches!(watch, Some(Some(w)) if w.state == WatchState::Frozen);
    let status = match instance.status {
        Status::Running if frozen => "frozen",
        Status::Running => "running",
        Status::Stopped => "stopped",
        Status::Frozen => "frozen",
        Status::Error | Status::Other => "unknown",
    };
    Row {
        name: instance.name,
        status: status.to_owned(),
        watched: watch.map(|w| w.is_some()),
        events: watch.flatten().map(|w| w.events.clone()).unwrap_or_default(),
        workspace: container.workspace,
        image: container.image,
        created_at: instance.created_at,
        ephemeral: instance.ephemeral,
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let watched = |row: &Row| match row.watched {
        Some(true) => "yes",
        Some(false) => "no",
        None => "?",
    };
    let line = |cells: [&str; 5]| {
        let [name, status, watched, image, workspace] = cells;
        format!("{name:<16} {status:<8} {watched:<8} {image:<16} {workspace}\n")
    };
    let mut text = line(["NAME", "STATUS", "WATCHED", "IMAGE", "WORKSPACE"]);
    for row in rows {
        text += &line([&row.name, &row.status, watched(row), &plain(&row.image), &plain(&row.workspace)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let row = |slot: u8, watched| Row {
            name: format!("coi-1a2b3c4d-{slot}"),
            status: "running".into(),
            watched,
            events: BTreeMap::new(),
            workspace: "/home/ann/app".into(),
            image: "coi-default".into(),
            created_at: "2026-11-20T12:00:01Z".into(),
            ephemeral: true,
        };
        insta::assert_snapshot!(table(&[row(1, Some(true)), row(2, Some(false)), row(10, None)]));
        assert_eq!(table(&[]), "");
    }
}
