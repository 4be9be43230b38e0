//! Acting on a plain cgroup.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use super::{
    Action, Cgroup, CopyError, Copying, Original, Owner, Responder, freeze_cgroup, kill_cgroup, thaw_cgroup,
};

/// Acts through the cgroup's own files and nothing else.
#[derive(Debug)]
pub struct CgroupResponder;

impl Responder for CgroupResponder {
    fn owner<'a>(&'a self, _cgroup: &'a Cgroup) -> Pin<Box<dyn Future<Output = Owner> + Send + 'a>> {
        Box::pin(async { Owner::Same })
    }

    fn freeze(&self, cgroup: Arc<Cgroup>) -> Action<'_> {
        Box::pin(freeze_cgroup(cgroup))
    }

    fn thaw(&self, cgroup: Arc<Cgroup>) -> Action<'_> {
        Box::pin(thaw_cgroup(cgroup))
    }

    fn kill(&self, cgroup: Arc<Cgroup>) -> Action<'_> {
        Box::pin(kill_cgroup(cgroup))
    }

    /// Nobody else manages it.
    fn announce(&self) -> Action<'_> {
        Box::pin(async { Ok(()) })
    }

    /// Whoever made the cgroup removes it.
    fn bury(&self) -> Action<'_> {
        Box::pin(async { Ok(()) })
    }

    fn copy<'a>(&'a self, _original: Original<'a>, _within: Duration) -> Copying<'a, String> {
        Box::pin(async { Err(CopyError::NoContainer) })
    }

    fn forget_copies<'a>(&'a self, _original: Original<'a>, _most: usize) -> Copying<'a, ()> {
        Box::pin(async { Ok(()) })
    }
}
