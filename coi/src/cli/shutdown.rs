//! `coi shutdown`

use std::time::Duration;

use clap::Args;

use super::run::tell_end;
use super::several::{Several, told};
use super::{Code, Result};
use crate::launch::{self, How};
use crate::monitor::service::api::Wish;
use crate::monitor::service::client;
use crate::{incus, ui};

/// Shut containers of COI's down: what runs in them is asked to end, their sessions are saved, and those that are not
/// persistent are deleted. The workspace stays.
///
/// A persistent container is stopped and kept. What has not ended in time is killed.
#[derive(Debug, Args)]
#[command(
    visible_alias = "close",
    after_help = "Examples:\n  coi shutdown coi-1a2b3c4d-1\n  coi shutdown --all --force --timeout 10"
)]
pub(super) struct Shutdown {
    #[command(flatten)]
    which: Several,
    /// How many seconds a container has to shut down by itself.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

impl Shutdown {
    pub(super) async fn execute(self) -> Result {
        let (incus, daemon) = (incus::Client::from_env(), client::Client::from_env());
        let how = How::ShutDown { within: Duration::from_secs(self.timeout) };
        let mut failures = Vec::new();
        for owned in self.which.find(&incus, "Shut down").await? {
            let name = owned.instance.name.clone();
            match launch::end(&incus, &daemon, &owned, how, Wish::AsPlanned).await {
                Ok(ended) => {
                    if ended.deleted {
                        ui::err(&format!("coi: {name} is shut down, and gone"));
                    }
                    tell_end(&name, &ended);
                }
                Err(error) => failures.push((name, error)),
            }
        }
        told(failures)?;
        Ok(Code::OK)
    }
}
