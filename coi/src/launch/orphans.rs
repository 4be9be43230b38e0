//! What nobody needs any more: containers that nobody launches, uses or keeps, and sessions half saved.
//!
//! A container is left over when whoever launched it is gone, it is not to stay, and nothing goes on in it: it does not
//! run, or what it was made for is over. Whoever was killed while launching one leaves such a container, whatever the
//! stage.

use std::path::PathBuf;

use super::container::{Owned, mine};
use super::tmux::has_session;
use super::{Caller, Result};
use crate::incus::{self, Status};
use crate::session::store;

/// The containers that are left over.
pub async fn orphans(incus: &incus::Client) -> Result<Vec<Owned>> {
    let mut left = Vec::new();
    for owned in mine(incus).await? {
        if is_orphan(incus, &owned).await {
            left.push(owned);
        }
    }
    Ok(left)
}

async fn is_orphan(incus: &incus::Client, owned: &Owned) -> bool {
    if owned.persistent || owned.is_launching {
        return false;
    }
    match owned.instance.status {
        Status::Stopped => true,
        // A rule, or a person, wants it as it is.
        Status::Frozen => false,
        // What `coi run` runs ends with it; a session goes on without a terminal.
        // One that cannot be asked may have one.
        _ => owned.tool.is_none() || matches!(has_session(incus, owned).await, Ok(false)),
    }
}

/// What an attempt to save a session has left unfinished.
pub fn unfinished_sessions() -> Result<Vec<PathBuf>> {
    Caller::find()?.act(|home| home.map(store::unfinished).unwrap_or_default())
}
