//! What is done about an alert.
//!
//! It promises that a freeze or a kill is tried on the cgroup itself first, within microseconds and without
//! waiting for anybody, that whatever else has to follow has a deadline, and that what came of it is said. It
//! knows no rules: what one asks for comes in, what was done goes out.

mod cgroup;
mod incus;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

pub use self::{cgroup::CgroupResponder, incus::IncusResponder};
use super::{
    cgroup::{Cgroup, CgroupError},
    rules,
    service::api::ActionName,
};

/// How long the kernel may take to stop or end processes. It takes well below a millisecond; a process in an
/// uninterruptible wait can hold it up.
const KERNEL_DEADLINE: Duration = Duration::from_secs(5);

/// Why an action did not work.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
    /// The cgroup did not do it.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Incus did not do it.
    #[error(transparent)]
    Incus(#[from] crate::incus::Error),
    /// It was done, but the container is still there.
    #[error("the container {name} is still there after {within:?}; delete it: incus delete --force {name}")]
    StillThere {
        /// Its name.
        name: String,
        /// How long it was waited for.
        within: Duration,
    },
}

/// An action on its way.
pub type Action<'a> = Pin<Box<dyn Future<Output = Result<(), RespondError>> + Send + 'a>>;

/// Whose a cgroup is that was made under an expected name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The watched container's.
    Same,
    /// Another container's, whose name only looks as if.
    Another,
    /// A new container's that has the watched one's name; that one is gone.
    Successor,
}

/// Acts on a container, or on a plain cgroup.
pub trait Responder: Send + Sync {
    /// Whose is this cgroup? Names prove nothing. Where nobody can tell, it is the watched one's: better to
    /// watch one too many.
    fn owner<'a>(&'a self, cgroup: &'a Cgroup) -> Pin<Box<dyn Future<Output = Owner> + Send + 'a>>;
    /// Stops all processes of the cgroup; ends when they stand still. It may have been frozen already.
    fn freeze(&self, cgroup: Arc<Cgroup>) -> Action<'_>;
    /// Lets them go on.
    fn thaw(&self, cgroup: Arc<Cgroup>) -> Action<'_>;
    /// Ends all processes; ends when none is left.
    fn kill(&self, cgroup: Arc<Cgroup>) -> Action<'_>;
    /// After a freeze: ends when whoever manages the container knows of it.
    fn announce(&self) -> Action<'_>;
    /// After a kill: ends when what held the processes is gone too.
    fn bury(&self) -> Action<'_>;
}

/// What the responder does for what a rule asks for.
pub fn action_for(asked: rules::Action) -> ActionName {
    match asked {
        rules::Action::Log | rules::Action::Notify => ActionName::Log,
        rules::Action::Freeze => ActionName::Freeze,
        rules::Action::Kill => ActionName::Kill,
    }
}

/// Runs something that waits for the kernel on a thread that may.
async fn blocking(
    cgroup: Arc<Cgroup>,
    act: impl FnOnce(&Cgroup) -> Result<(), CgroupError> + Send + 'static,
) -> Result<(), RespondError> {
    match tokio::task::spawn_blocking(move || act(&cgroup)).await {
        Ok(result) => Ok(result?),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

async fn freeze_cgroup(cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
    blocking(cgroup, |cgroup| {
        cgroup.freeze()?;
        cgroup.wait_frozen(KERNEL_DEADLINE)
    })
    .await
}

async fn thaw_cgroup(cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
    blocking(cgroup, Cgroup::thaw).await
}

/// Frozen processes cannot fork, so nothing slips through; the kill reaches them all the same.
async fn kill_cgroup(cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
    blocking(cgroup, |cgroup| {
        let frozen = cgroup.freeze();
        cgroup.kill().or(frozen)?;
        cgroup.wait_empty(KERNEL_DEADLINE)
    })
    .await
}
