//! `coi clean`

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::run::tell_end;
use super::several::told;
use super::{Code, Failure, Result, ask};
use crate::launch::{self, Caller, How, Owned, Workspace};
use crate::monitor::service::api::Wish;
use crate::monitor::service::client;
use crate::session::store::Session;
use crate::{image, incus, ui};

/// Remove what nobody needs any more: with neither --orphans nor --sessions what was left over.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coi clean --dry-run\n  coi clean --orphans --force\n  coi clean --sessions --workspace ~/src/app"
)]
pub(super) struct Clean {
    /// Containers that nobody launches, uses or keeps any more, sessions that were not saved to the end, and what builds of
    /// images have left.
    #[arg(long)]
    orphans: bool,
    /// Saved sessions.
    #[arg(long)]
    sessions: bool,
    /// Only of this workspace.
    #[arg(short, long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// Only say what would be removed.
    #[arg(long)]
    dry_run: bool,
    /// Ask nothing.
    #[arg(short, long)]
    force: bool,
}

impl Clean {
    pub(super) async fn execute(self) -> Result {
        let incus = incus::Client::from_env();
        let wants_orphans = self.orphans || !self.sessions;
        let (orphans, unfinished) = match wants_orphans {
            true => (self.orphans_here(launch::orphans(&incus).await?), self.unfinished()?),
            false => Default::default(),
        };
        let mut builds = if wants_orphans { image::left_over(&incus).await? } else { Vec::new() };
        builds.retain(|(_, workspace)| self.is_meant(workspace));
        // Of what workspace an image is nobody knows.
        let images = match wants_orphans && self.workspace.is_none() {
            true => image::unnamed(&incus).await?,
            false => Vec::new(),
        };
        let sessions = if self.sessions { self.chosen()? } else { Vec::new() };
        let mut text: String = described(&orphans, &unfinished, &sessions);
        text.extend(builds.iter().map(|(instance, workspace)| {
            format!("build container {} of {}\n", instance.name, ui::plain(workspace))
        }));
        text.extend(images.iter().map(|image| format!("image {}, unfinished\n", image.fingerprint)));
        if text.is_empty() {
            ui::err("coi: there is nothing to be removed");
            return Ok(Code::OK);
        }
        ui::out(&text).map_err(Failure::system("standard output"))?;
        if self.dry_run || !ask::confirmed("Remove these?", self.force)? {
            return Ok(Code::OK);
        }
        let daemon = client::Client::from_env();
        let mut failures = Vec::new();
        for owned in orphans {
            let name = owned.instance.name.clone();
            match launch::end(&incus, &daemon, &owned, How::Kill, Wish::AsPlanned).await {
                Ok(ended) => {
                    ui::err(&format!("coi: {name} is gone"));
                    tell_end(&name, &ended);
                }
                Err(error) => failures.push((name, error)),
            }
        }
        for (instance, _) in builds {
            image::remove_left_over(&incus, &instance).await?;
            ui::err(&format!("coi: {} is gone", instance.name));
        }
        for image in images {
            incus.delete_image(&image.fingerprint).await?;
            ui::err(&format!("coi: the image {} is gone", image.fingerprint));
        }
        let directories = sessions.into_iter().map(|session| session.directory).chain(unfinished);
        for directory in directories {
            remove(&directory)?;
            ui::err(&format!("coi: {} is gone", directory.display()));
        }
        told(failures)?;
        Ok(Code::OK)
    }

    /// The sessions that are meant.
    fn chosen(&self) -> Result<Vec<Session>> {
        let mut sessions = launch::sessions()?;
        sessions.retain(|session| self.is_meant(&session.metadata.workspace));
        Ok(sessions)
    }

    fn orphans_here(&self, mut orphans: Vec<Owned>) -> Vec<Owned> {
        orphans.retain(|owned| self.is_meant(&owned.workspace));
        orphans
    }

    /// Of what workspace an unfinished session is nobody knows.
    fn unfinished(&self) -> Result<Vec<PathBuf>> {
        Ok(if self.workspace.is_none() { launch::unfinished_sessions()? } else { Vec::new() })
    }

    fn is_meant(&self, workspace: &str) -> bool {
        let Some(meant) = &self.workspace else { return true };
        // It need not exist any more.
        let path = Workspace::open(meant).map_or_else(|_| meant.clone(), |meant| meant.path);
        Path::new(workspace) == path
    }
}

/// Removes a session, with the rights of whose it is.
fn remove(directory: &Path) -> Result<()> {
    // This follows no links.
    let removed = Caller::find()?.act(|_| fs::remove_dir_all(directory))?;
    removed.map_err(Failure::system(directory.display().to_string()))
}

fn described(orphans: &[Owned], unfinished: &[PathBuf], sessions: &[Session]) -> String {
    let orphans = orphans
        .iter()
        .map(|owned| format!("container {} of {}\n", owned.instance.name, ui::plain(&owned.workspace)));
    let unfinished = unfinished.iter().map(|path| format!("unfinished session {}\n", path.display()));
    let sessions = sessions.iter().map(|session| {
        let metadata = &session.metadata;
        format!(
            "{} session {} of {}, saved {}\n",
            ui::plain(&metadata.tool),
            metadata.session_id,
            ui::plain(&metadata.workspace),
            ui::plain(&metadata.saved_at)
        )
    });
    orphans.chain(unfinished).chain(sessions).collect()
}
