//! `coi daemon stop`

use clap::Args;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::cli::{Code, Failure, Result};
use crate::monitor::service::api::WatchState;
use crate::monitor::service::client::Client;
use crate::ui;

/// Watch nothing any more, and end the daemon.
///
/// What it watched is let go first, each with a record in its log, and goes on without a monitor; what a rule has frozen
/// stays frozen. A daemon that is ended otherwise (SIGTERM, `systemctl stop coi`) comes back to all its watches: half a
/// minute after it has gone, what COI has launched is frozen until it does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sudo coi daemon stop")]
pub(super) struct Stop {}

impl Stop {
    pub(super) async fn execute(self) -> Result {
        if !geteuid().is_root() {
            return Err(Failure::NotRoot { what: "stopping the daemon", again: "coi daemon stop".into() });
        }
        let daemon = Client::from_env();
        let pid = match daemon.status().await {
            Ok(status) => status.pid,
            Err(error) if error.is_absent() => {
                ui::err("coi: no daemon runs; what one has watched is found again by the next");
                return Ok(Code::OK);
            }
            Err(error) => return Err(error.into()),
        };
        let_go(&daemon).await?;
        let pid = Pid::from_raw(i32::try_from(pid).unwrap_or_default());
        match kill(pid, Signal::SIGTERM) {
            Ok(()) | Err(Errno::ESRCH) => Ok(Code::OK),
            Err(error) => Err(Failure::system(format!("process {pid}"))(error.into())),
        }
    }
}

/// Ends all watches, and says so.
pub(super) async fn let_go(daemon: &Client) -> Result<()> {
    for watch in daemon.watches().await? {
        let name = ui::plain(&watch.name).into_owned();
        match daemon.forget(&watch.name).await {
            Ok(was) if was.state == WatchState::Frozen => {
                ui::err(&format!(
                    "coi: {name} is not watched any more, and still frozen; incus resume {name}"
                ));
            }
            Ok(_) => ui::err(&format!("coi: {name} is not watched any more")),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
