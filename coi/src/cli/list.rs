//! `coi list`

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use super::{Code, Failure, Format, Result};
use crate::incus::{self, Status};
use crate::launch;
use crate::monitor::service::api::{Tally, Watch, WatchState};
use crate::monitor::service::client;
use crate::session::store::Session;
use crate::ui::{self, plain};

/// List COI's containers, and whether they are watched.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi list\n  coi list --all\n  coi list --format json")]
pub(super) struct List {
    /// Saved sessions, too.
    #[arg(short, long)]
    all: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What is listed.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Entry {
    Container(Row),
    Session(Session),
}

/// A container, as it is listed.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    name: String,
    status: String,
    /// `None` when nobody knows: no daemon answers.
    watched: Option<bool>,
    /// What happens in it is seen; `None` when nobody knows.
    monitored: Option<bool>,
    /// A rule has cut its network; `None` when nobody knows.
    network_cut: Option<bool>,
    /// What became of its events, by kind; empty if it is not watched.
    events: BTreeMap<String, Tally>,
    workspace: String,
    slot: Option<u8>,
    image: String,
    tool: Option<String>,
    session: Option<String>,
    created_at: String,
    /// It goes when it stops.
    ephemeral: bool,
}

impl List {
    pub(super) async fn execute(self) -> Result {
        let rows = rows().await?;
        let sessions = if self.all { launch::sessions()? } else { Vec::new() };
        let is_empty = rows.is_empty() && sessions.is_empty();
        let text = match self.format {
            Format::Json => {
                let sessions = sessions.into_iter().map(Entry::Session);
                let all: Vec<_> = rows.into_iter().map(Entry::Container).chain(sessions).collect();
                serde_json::to_string_pretty(&all).unwrap_or_default() + "\n"
            }
            Format::Text => [table(&rows), session_table(&sessions)]
                .into_iter()
                .filter(|table| !table.is_empty())
                .collect::<Vec<_>>()
                .join("\n"),
        };
        ui::out(&text).map_err(Failure::system("standard output"))?;
        if is_empty && self.format == Format::Text {
            ui::err("coi: there are no containers. `coi shell` starts one");
        }
        Ok(Code::OK)
    }
}

/// All containers of COI's.
pub(super) async fn rows() -> Result<Vec<Row>> {
    let containers = launch::mine(&incus::Client::from_env()).await?;
    let watches = match client::Client::from_env().watches().await {
        Ok(watches) => Some(watches),
        // Without a daemon nothing is watched; without permission to ask it, nobody knows.
        Err(error) if error.is_absent() => Some(Vec::new()),
        Err(_) => None,
    };
    Ok(containers.into_iter().map(|c| row(c, watches.as_deref())).collect())
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
        status: status.to_owned(),
        watched: watch.map(|w| w.is_some()),
        monitored: watch.map(|w| w.is_some_and(|w| w.monitored)),
        network_cut: watch.map(|w| w.is_some_and(|w| w.network_cut)),
        events: watch.flatten().map(|w| w.events.clone()).unwrap_or_default(),
        workspace: container.workspace,
        slot: launch::slot_of(&instance.name),
        image: container.image,
        tool: container.tool,
        session: container.session,
        created_at: instance.created_at,
        ephemeral: !container.persistent,
        name: instance.name,
    }
}

impl Row {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// All that is known of it, for people.
    pub(super) fn described(&self) -> String {
        let lines = [
            ("container", self.name.clone()),
            ("status", self.status.clone()),
            ("watched", self.watched().to_owned()),
            ("workspace", self.workspace.clone()),
            ("image", self.image.clone()),
            ("tool", self.tool.clone().unwrap_or_else(|| "none".to_owned())),
            ("session", self.session.clone().unwrap_or_else(|| "none".to_owned())),
            ("stays", if self.ephemeral { "no: it is deleted when it stops" } else { "yes" }.to_owned()),
            ("created", self.created_at.clone()),
        ];
        lines.iter().map(|(key, value)| format!("{key:<10} {}\n", plain(value))).collect()
    }

    fn watched(&self) -> &'static str {
        match (self.watched, self.monitored, self.network_cut) {
            (Some(true), Some(false), _) => "no monitor",
            (Some(true), _, Some(true)) => "yes, network cut",
            (Some(true), ..) => "yes",
            (Some(false), ..) => "no",
            (None, ..) => "?",
        }
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    // A name is as long as a slot makes it; only some answers take more room than the head.
    let wide = rows.iter().map(|row| row.watched().len()).max().unwrap_or(0).max(8);
    let line = |cells: [&str; 6]| {
        let [name, status, watched, tool, image, workspace] = cells;
        format!("{name:<16} {status:<8} {watched:<wide$} {tool:<8} {image:<16} {workspace}\n")
    };
    let mut text = line(["NAME", "STATUS", "WATCHED", "TOOL", "IMAGE", "WORKSPACE"]);
    for row in rows {
        let tool = row.tool.as_deref().unwrap_or("-");
        let cells =
            [&row.name, &row.status, row.watched(), &plain(tool), &plain(&row.image), &plain(&row.workspace)];
        text += &line(cells);
    }
    text
}

fn session_table(sessions: &[Session]) -> String {
    if sessions.is_empty() {
        return String::new();
    }
    let line = |cells: [&str; 4]| {
        let [id, tool, saved, workspace] = cells;
        format!("{id:<36} {tool:<8} {saved:<24} {workspace}\n")
    };
    let mut text = line(["SAVED SESSION", "TOOL", "SAVED", "WORKSPACE"]);
    for Session { metadata, .. } in sessions {
        let [tool, saved, workspace] =
            [&metadata.tool, &metadata.saved_at, &metadata.workspace].map(|t| plain(t));
        text += &line([&metadata.session_id, &tool, &saved, &workspace]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::example;

    fn row(slot: u8, watched: Option<bool>) -> Row {
        Row {
            name: format!("coi-1a2b3c4d-{slot}"),
            status: "running".into(),
            watched,
            monitored: watched,
            network_cut: watched.map(|_| false),
            events: BTreeMap::new(),
            workspace: "/home/ann/app".into(),
            slot: Some(slot),
            image: "coi-default".into(),
            tool: (slot == 1).then(|| "claude".into()),
            session: None,
            created_at: "2026-11-20T12:00:01Z".into(),
            ephemeral: true,
        }
    }

    #[test]
    fn text() {
        insta::assert_snapshot!(table(&[row(1, Some(true)), row(2, Some(false)), row(10, None)]));
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn what_is_not_as_usual_is_seen() {
        let cut = Row { network_cut: Some(true), ..row(1, Some(true)) };
        let unseen = Row { monitored: Some(false), ..row(3, Some(true)) };
        insta::assert_snapshot!(format!(
            "{}\n{}",
            table(&[cut, row(2, Some(true)), unseen]),
            row(1, None).described()
        ));
    }

    #[test]
    fn sessions() {
        let mut metadata = example().metadata;
        metadata.saved_at = "2026-11-21T10:00:00.123Z".into();
        let session = Session { metadata, directory: "/home/ann/.coi/sessions-claude/x".into() };
        insta::assert_snapshot!(session_table(&[session]));
        assert_eq!(session_table(&[]), "");
    }
}
