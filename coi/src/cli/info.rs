//! `coi info`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::list::{self, Row};
use super::{Code, Failure, Format, Result};
use crate::launch::{self, Workspace};
use crate::session::store::{self, Session};
use crate::ui::{self, plain};

/// Tell all that is known of a container or of a saved session.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi info\n  coi info coi-1a2b3c4d-1\n  coi info 0d5b5e0e --format json")]
pub(super) struct Info {
    /// The container, or the beginning of the session's name; the newest session of the workspace if left out.
    name: Option<String>,
    /// The workspace whose newest session is meant.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    workspace: PathBuf,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What is told.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum About {
    Container(Row),
    Session {
        #[serde(flatten)]
        session: Session,
        files: usize,
        bytes: usize,
    },
}

impl Info {
    pub(super) async fn execute(self) -> Result {
        let about = self.find().await?;
        let text = match (self.format, &about) {
            (Format::Json, about) => serde_json::to_string_pretty(about).unwrap_or_default() + "\n",
            (Format::Text, About::Container(row)) => row.described(),
            (Format::Text, About::Session { session, files, bytes }) => described(session, *files, *bytes),
        };
        ui::out(&text).map_err(Failure::system("standard output"))?;
        Ok(Code::OK)
    }

    async fn find(&self) -> Result<About> {
        let Some(name) = &self.name else {
            return about(launch::resumable(&Workspace::open(&self.workspace)?, None, None)?);
        };
        if launch::slot_of(name).is_some() {
            let row = list::rows().await?.into_iter().find(|row| row.name() == name);
            let row = row.ok_or_else(|| launch::Error::NoContainer { name: name.clone() })?;
            return Ok(About::Container(row));
        }
        let mut fitting: Vec<_> = launch::sessions()?
            .into_iter()
            .filter(|session| session.metadata.session_id.starts_with(name.as_str()))
            .collect();
        match fitting.len() {
            0 => Err(Failure::Unknown { name: plain(name).into_owned() }),
            1 => about(fitting.remove(0)),
            _ => {
                let ids = fitting.into_iter().map(|session| session.metadata.session_id).collect();
                Err(launch::Error::WhichSession { ids }.into())
            }
        }
    }
}

fn about(session: Session) -> Result<About> {
    let kept = launch::Caller::find()?.act(|_| store::files(&session))?;
    let kept = kept.map_err(Failure::system(session.directory.display().to_string()))?;
    let contents: Vec<_> = kept.iter().filter_map(|kept| kept.file.as_ref()).collect();
    let bytes = contents.iter().map(|(content, _)| content.len()).sum();
    Ok(About::Session { files: contents.len(), bytes, session })
}

fn described(session: &Session, files: usize, bytes: usize) -> String {
    let metadata = &session.metadata;
    let lines = [
        ("session", metadata.session_id.clone()),
        ("tool", metadata.tool.clone()),
        ("workspace", metadata.workspace.clone()),
        ("container", metadata.container.clone()),
        ("image", metadata.image.clone()),
        ("saved", metadata.saved_at.clone()),
        ("files", format!("{files}, {bytes} bytes")),
        ("directory", session.directory.display().to_string()),
        ("go on", format!("coi shell --resume={}", metadata.session_id)),
    ];
    lines.iter().map(|(key, value)| format!("{key:<10} {}\n", plain(value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::example;

    #[test]
    fn text() {
        let session =
            Session { metadata: example().metadata, directory: "/home/ann/.coi/sessions-claude/x".into() };
        insta::assert_snapshot!(described(&session, 3, 48_213));
    }
}
