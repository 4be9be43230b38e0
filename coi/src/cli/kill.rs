//! `coi kill`

use clap::Args;

use super::run::tell_end;
use super::several::{Several, told};
use super::{Code, Result};
use crate::launch::{self, How};
use crate::monitor::service::api::Wish;
use crate::monitor::service::client;
use crate::{incus, ui};

/// End containers of COI's at once, and delete them, persistent ones, too. The workspace stays.
///
/// Their sessions are saved. With --force one whose session cannot be saved is deleted as well.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  coi kill coi-1a2b3c4d-1\n  coi kill --all --force")]
pub(super) struct Kill {
    #[command(flatten)]
    which: Several,
}

impl Kill {
    pub(super) async fn execute(self) -> Result {
        let (incus, daemon) = (incus::Client::from_env(), client::Client::from_env());
        let wish = if self.which.force { Wish::GiveUp } else { Wish::Delete };
        let mut failures = Vec::new();
        for owned in self.which.find(&incus, "Kill").await? {
            let name = owned.instance.name.clone();
            match launch::end(&incus, &daemon, &owned, How::Kill, wish).await {
                Ok(ended) => {
                    ui::err(&format!("coi: {name} is gone"));
                    tell_end(&name, &ended);
                }
                Err(error) => failures.push((name, error)),
            }
        }
        told(failures)?;
        Ok(Code::OK)
    }
}
