//! `coi persist`

use clap::Args;

use super::several::{Several, told};
use super::{Code, Result};
use crate::monitor::service::client;
use crate::{incus, launch, ui};

/// Have containers of COI's stay when they stop.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi persist coi-1a2b3c4d-1\n  coi persist --all --force")]
pub(super) struct Persist {
    #[command(flatten)]
    which: Several,
}

impl Persist {
    pub(super) async fn execute(self) -> Result {
        let (incus, daemon) = (incus::Client::from_env(), client::Client::from_env());
        let mut failures = Vec::new();
        for owned in self.which.find(&incus, "Keep").await? {
            let name = owned.instance.name.clone();
            match launch::persist(&incus, &daemon, &owned).await {
                Ok(()) => ui::err(&format!(
                    "coi: {name} stays when it stops. `coi shell` starts it again, `coi kill {name}` deletes it"
                )),
                Err(error) => failures.push((name, error)),
            }
        }
        told(failures)?;
        Ok(Code::OK)
    }
}
