//! `coi daemon install` and `coi daemon uninstall`

use std::env;
use std::path::PathBuf;

use clap::Args;
use nix::unistd::geteuid;

use super::stop;
use crate::cli::{Code, Failure, Result};
use crate::monitor::service::client::Client;
use crate::monitor::service::install::Target;
use crate::ui;

/// Have systemd run the daemon: now, at each boot before Incus, and again when it dies.
///
/// Puts coi.service and coi.socket into /etc/systemd/system, enables and starts them. They start this very program, so
/// it has to be where only root can write.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sudo coi daemon install --dry-run\n  sudo coi daemon install")]
pub(super) struct Install {
    /// Print the units, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

/// Undo `coi daemon install`. Audit logs, their keys and /etc/coi stay.
///
/// Ends the daemon: what it watched is not watched any more.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sudo coi daemon uninstall --dry-run\n  sudo coi daemon uninstall")]
pub(super) struct Uninstall {
    /// Print what would be removed, and change nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// The root of another system, such as an image; nothing is started there.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl Install {
    pub(super) fn execute(self) -> Result {
        let program = env::current_exe().map_err(Failure::system("its own path"))?;
        let target = Target::new(self.place.root.as_deref())?;
        let units = target.units(&program)?;
        if self.dry_run {
            let texts = units.iter().map(|unit| format!("# {}\n{}", unit.path.display(), unit.text));
            say(&texts.collect::<Vec<_>>().join("\n"))?;
            return Ok(Code::OK);
        }
        need_root("installing the daemon", "coi daemon install")?;
        target.install(&units)?;
        for unit in &units {
            say(&format!("{}\n", unit.path.display()))?;
        }
        match &self.place.root {
            Some(root) => ui::err(&format!(
                "coi: enable it there: systemctl --root={} enable coi.socket coi.service",
                root.display()
            )),
            None => ui::err("coi: the daemon runs, and will at each boot; see `systemctl status coi`"),
        }
        Ok(Code::OK)
    }
}

impl Uninstall {
    pub(super) async fn execute(self) -> Result {
        let target = Target::new(self.place.root.as_deref())?;
        let gone = if self.dry_run {
            target.installed()?
        } else {
            need_root("removing the daemon", "coi daemon uninstall")?;
            let daemon = Client::from_env();
            // Else what it watches would be frozen, for want of a daemon that will not come.
            if self.place.root.is_none() && daemon.status().await.is_ok() {
                stop::let_go(&daemon).await?;
            }
            target.uninstall()?
        };
        for path in &gone {
            say(&format!("{}\n", path.display()))?;
        }
        if gone.is_empty() {
            ui::err("coi: there is nothing to remove");
        }
        Ok(Code::OK)
    }
}

fn need_root(what: &'static str, again: &str) -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::NotRoot { what, again: again.to_owned() })
}

fn say(text: &str) -> Result<()> {
    ui::out(text).map_err(Failure::system("standard output"))
}
