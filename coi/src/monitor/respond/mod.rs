//! What is done about an alert.
//!
//! It promises that a freeze or a kill is tried on the cgroup itself first, within microseconds and without
//! waiting for anybody, that whatever else has to follow has a deadline, and that what came of it is said. It
//! knows no rules: what one asks for comes in, what was done goes out.

mod cgroup;
mod copies;
pub mod evidence;
mod incus;
mod ladder;
mod network;
pub mod process;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use serde::Deserialize;

pub use self::{
    cgroup::CgroupResponder,
    copies::{CopyError, Original},
    incus::IncusResponder,
    ladder::{Acts, Attempt, Limits, climb},
    network::{Network, NetworkError},
    process::ProcessError,
};
use super::{
    audit,
    cgroup::{Cgroup, CgroupError},
    pipeline::Ended,
    rules,
    service::api::ActionName,
};

/// `[respond]` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The evidence of so many kills of one container is kept; none is taken with 0.
    pub keep_evidence: usize,
    /// So many stopped copies of killed containers are kept of each owner and workspace; none is made with 0.
    pub keep_copies: usize,
    /// How long a copy may take. The container stands still meanwhile, and is killed afterwards.
    #[serde(deserialize_with = "audit::duration")]
    pub copy_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep_evidence: 16, keep_copies: 0, copy_within: Duration::from_secs(60) }
    }
}

/// How long the kernel may take to stop or end processes. It takes well below a millisecond; a process in an
/// uninterruptible wait can hold it up.
const KERNEL_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take to stop them before it is told once more to.
const FREEZE_DEADLINE: Duration = Duration::from_secs(2);

/// Why an action did not work.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
    /// The cgroup did not do it.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Incus did not do it.
    #[error(transparent)]
    Incus(#[from] crate::incus::Error),
    /// The network cannot be cut.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A process lives on.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The event names no process.
    #[error("which process it was is not known")]
    NoProcess,
    /// What was to be refused has happened.
    #[error(
        "the kernel has let the connection through; was its socket made elsewhere, or before the rule held?"
    )]
    LetThrough,
    /// There is no monitor any more.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// It was done, but Incus does not know.
    #[error(
        "Incus has not taken in within {within:?} that {name} is frozen; it is told again when it answers"
    )]
    Untold {
        /// Its name.
        name: String,
        /// How long it was tried.
        within: Duration,
    },
    /// Nothing of it runs, but Incus does not answer.
    #[error("Incus has not cleaned up after it within {within:?}; it does when it answers again")]
    Unburied {
        /// How long it was waited for.
        within: Duration,
    },
    /// It was done, but the container is still there.
    #[error("the container {name} is still there after {within:?}; delete it: incus delete --force {name}")]
    StillThere {
        /// Its name.
        name: String,
        /// How long it was waited for.
        within: Duration,
    },
}

impl RespondError {
    /// Whether trying again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NoProcess | Self::LetThrough | Self::Ended(_))
    }
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
    /// Before a kill, when it stands still: makes a copy that does not run; gives its name.
    fn copy<'a>(&'a self, original: Original<'a>, within: Duration) -> Copying<'a, String>;
    /// Removes the oldest copies that are more than `most`.
    fn forget_copies<'a>(&'a self, original: Original<'a>, most: usize) -> Copying<'a, ()>;
}

/// A copy on its way.
pub type Copying<'a, T> = Pin<Box<dyn Future<Output = Result<T, CopyError>> + Send + 'a>>;

/// What the responder does for what a rule asks for.
pub fn action_for(asked: rules::Action) -> ActionName {
    match asked {
        rules::Action::Log | rules::Action::Notify => ActionName::Log,
        rules::Action::Deny => ActionName::Deny,
        rules::Action::KillProcess => ActionName::KillProcess,
        rules::Action::CutNetwork => ActionName::CutNetwork,
        rules::Action::Freeze => ActionName::Freeze,
        rules::Action::Kill => ActionName::Kill,
    }
}

/// Runs something that waits for the kernel on a thread that may.
pub async fn blocking<E: Send + 'static>(
    cgroup: Arc<Cgroup>,
    act: impl FnOnce(&Arc<Cgroup>) -> Result<(), E> + Send + 'static,
) -> Result<(), RespondError>
where
    RespondError: From<E>,
{
    match tokio::task::spawn_blocking(move || act(&cgroup)).await {
        Ok(result) => Ok(result?),
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

async fn freeze_cgroup(cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
    blocking(cgroup, |cgroup| match cgroup.freeze() {
        Ok(()) => cgroup.wait_frozen(FREEZE_DEADLINE),
        // What is gone runs no more.
        Err(_) if !cgroup.exists() => Ok(()),
        Err(error) => Err(error),
    })
    .await
}

async fn thaw_cgroup(cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
    blocking(cgroup, |cgroup| cgroup.thaw()).await
}

/// Frozen processes cannot fork, so nothing slips through; the kill reaches them all the same.
async fn kill_cgroup(cgroup: Arc<Cgroup>) -> Result<(), RespondError> {
    blocking(cgroup, |cgroup| {
        let frozen = cgroup.freeze();
        match cgroup.kill().or(frozen) {
            Err(_) if !cgroup.exists() => return Ok(()),
            done => done?,
        }
        cgroup.wait_empty(KERNEL_DEADLINE)
    })
    .await
}
