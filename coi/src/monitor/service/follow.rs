//! The beginnings and ends of a container that runs without the monitor: what the pipeline tells of others.
//!
//! It promises that the watch's task is told within [`LOOK`] that something runs in the container, and that nothing does
//! any more. What begins and ends in between is not told. Nothing in the container is looked at but whether there is
//! something.

use std::{sync::Arc, time::Duration};

use tokio::io::Interest;

use crate::monitor::{
    cgroup::{Cgroup, Mounts},
    pipeline::{Note, Watched, paths},
};

/// How often it is looked. The kernel tells of no cgroup that is made but by way of its parent's directory, where the
/// notices of all containers may find no room; of one that becomes empty and is removed at once it may tell nothing.
const LOOK: Duration = Duration::from_millis(250);

/// Tells a watch's task, until that has ended.
pub(super) async fn follow(watched: Arc<Watched>) {
    let mut told: Option<Arc<Cgroup>> = None;
    loop {
        let is = running(&watched.path);
        if is.as_ref().map(Cgroup::id) != told.as_ref().map(|cgroup| cgroup.id()) {
            let is = is.map(Arc::new);
            let gone = told.take().map(|_| Note::Gone);
            told.clone_from(&is);
            for note in gone.into_iter().chain(is.map(Note::Made)) {
                // Nobody there means that the watch is over.
                let _ = watched.notes.send(note).await;
            }
        }
        tokio::select! {
            () = watched.notes.closed() => return,
            () = changed(told.as_deref()) => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The cgroup of this path in which something runs: after an unclean end LXC gives it a number.
pub(super) fn running(path: &str) -> Option<Cgroup> {
    let Mounts { unified, freezer } = Mounts::find().ok()?;
    let open = |path: String| Cgroup::open_below(&path, &unified, freezer.as_deref()).ok();
    paths(path).filter_map(open).find(Cgroup::is_populated)
}

/// Ends when the kernel tells of a change in a cgroup; it may never.
async fn changed(cgroup: Option<&Cgroup>) {
    match cgroup.map(Cgroup::notices) {
        Some(Ok(notices)) => drop(notices.ready(Interest::PRIORITY).await),
        _ => std::future::pending().await,
    }
}
