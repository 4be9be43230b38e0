//! A container's cgroup that stands still and has nothing in it any more is let go.
//!
//! Whoever stops a container has LXC kill what is in it, thaw it, and then wait, without an end, for the kernel to say that
//! it is thawed. A freeze that is written in between would keep it waiting for ever, and Incus with it.
//!
//! It promises that a container's cgroup in which something has run, and nothing runs any more, does not stay frozen,
//! whoever freezes it and how often. One in which nothing has run yet does: it may have been frozen before its init came.
//! It does not know whether something had run in one that was empty when it was looked at first.

use std::{io, sync::Arc};

use tokio::io::Interest;

use crate::monitor::cgroup::Cgroup;

/// Ends with the cgroup, at the latest when it is dropped.
pub(super) async fn let_go(cgroup: Arc<Cgroup>) {
    if let Err(error) = follow(&cgroup).await
        && cgroup.exists()
    {
        tracing::warn!(%error, cgroup = cgroup.path(), "if it is stopped while it stands still, Incus may wait for ever");
    }
}

async fn follow(cgroup: &Cgroup) -> io::Result<()> {
    let mut has_run = false;
    while cgroup.exists() {
        // Before it is looked at: what changes after that is told.
        let notices = cgroup.notices()?;
        let runs = cgroup.is_populated();
        has_run |= runs;
        if has_run && !runs && cgroup.is_held() {
            cgroup.thaw().map_err(io::Error::other)?;
        }
        drop(notices.ready(Interest::PRIORITY).await?);
    }
    Ok(())
}
