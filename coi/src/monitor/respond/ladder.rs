//! What is tried, how often, and what is tried next.
//!
//! It promises that an action is tried at once; that one which fails is tried again a few times and not for ever; that
//! one which has failed gives way to a graver one, up to the kill; and that each attempt is told with its result.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Action, RespondError};
use crate::monitor::service::api::ActionName;

/// Carries out actions.
pub trait Acts: Sync {
    /// Tries this one, once.
    fn act(&self, action: ActionName) -> Action<'_>;
}

/// How often and how long an action is tried.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How often.
    pub tries: u32,
    /// How long all tries together may take.
    pub within: Duration,
    /// How long is waited between two.
    pub pause: Duration,
}

impl Limits {
    /// For this action. A kill has nothing after it, so it is given more time.
    pub const fn of(action: ActionName) -> Self {
        let within = if matches!(action, ActionName::Kill) { 15 } else { 5 };
        Self { tries: 3, within: Duration::from_secs(within), pause: Duration::from_millis(20) }
    }
}

/// An action that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which.
    pub action: ActionName,
    /// How often.
    pub tries: u32,
    /// Why it did not work; `None` if it did.
    pub error: Option<String>,
    /// How long after the event it had worked, or was given up.
    pub latency: Duration,
}

/// What takes the place of an action that has failed.
pub(super) const fn after(action: ActionName) -> Option<ActionName> {
    match action {
        ActionName::Deny | ActionName::KillProcess | ActionName::CutNetwork => Some(ActionName::Freeze),
        ActionName::Freeze => Some(ActionName::Kill),
        ActionName::Log | ActionName::Kill | ActionName::Thaw | ActionName::RestoreNetwork => None,
    }
}

/// Tries this action, and what takes its place, until one has worked or there is none left. The last of the attempts
/// says what has come of it; there is at least one.
pub async fn climb(
    acts: &impl Acts,
    first: ActionName,
    limits: impl Fn(ActionName) -> Limits,
    since: impl Fn() -> Duration,
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut next = Some(first);
    while let Some(action) = next {
        let attempt = attempt(acts, action, limits(action), &since).await;
        next = attempt.error.as_ref().and_then(|_| after(action));
        if let Some(error) = &attempt.error {
            let next = next.map_or("nothing", ActionName::name);
            tracing::error!(%error, next, "could not {}", action.name());
        }
        attempts.push(attempt);
    }
    attempts
}

async fn attempt(
    acts: &impl Acts,
    action: ActionName,
    limits: Limits,
    since: &impl Fn() -> Duration,
) -> Attempt {
    let mut tries = 0;
    let mut last: Option<RespondError> = None;
    let trying = async {
        loop {
            tries += 1;
            match acts.act(action).await {
                Ok(()) => return true,
                Err(error) => {
                    let give_up = tries >= limits.tries || error.is_final();
                    last = Some(error);
                    if give_up {
                        return false;
                    }
                }
            }
            sleep(limits.pause).await;
        }
    };
    let worked = timeout(limits.within, trying).await;
    let error = match (worked, last) {
        (Ok(true), _) => None,
        (_, Some(error)) => Some(error.to_string()),
        (_, None) => Some(format!("it did not come to an end within {:?}", limits.within)),
    };
    Attempt { action, tries, error, latency: since() }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::pending, sync::Mutex};

    use super::*;
    use crate::monitor::cgroup::CgroupError;

    /// What is answered, action by action; what is not listed works.
    struct Scripted(Mutex<VecDeque<Answer>>, Mutex<Vec<ActionName>>);

    #[derive(Clone, Copy)]
    enum Answer {
        Works,
        Fails,
        IsFinal,
        Hangs,
    }

    use Answer::{Fails, Hangs, IsFinal, Works};

    impl Acts for Scripted {
        fn act(&self, action: ActionName) -> Action<'_> {
            self.1.lock().unwrap().push(action);
            let answer = self.0.lock().unwrap().pop_front().unwrap_or(Works);
            Box::pin(async move {
                match answer {
                    Works => Ok(()),
                    Fails => Err(CgroupError::NotMounted.into()),
                    IsFinal => Err(RespondError::LetThrough),
                    Hangs => pending().await,
                }
            })
        }
    }

    /// What is tried, and how each action ended: how often it was tried, and whether it worked.
    async fn climbed(
        first: ActionName,
        answers: &[Answer],
    ) -> (Vec<ActionName>, Vec<(ActionName, u32, bool)>) {
        let acts = Scripted(Mutex::new(answers.iter().copied().collect()), Mutex::default());
        let limits =
            |_| Limits { tries: 3, within: Duration::from_millis(50), pause: Duration::from_millis(1) };
        let attempts = climb(&acts, first, limits, || Duration::from_micros(7)).await;
        assert!(attempts.iter().all(|attempt| attempt.latency == Duration::from_micros(7)));
        let ends =
            attempts.into_iter().map(|attempt| (attempt.action, attempt.tries, attempt.error.is_none()));
        (acts.1.into_inner().unwrap(), ends.collect())
    }

    const FREEZE: ActionName = ActionName::Freeze;
    const KILL: ActionName = ActionName::Kill;

    #[tokio::test]
    async fn what_works_is_done_once() {
        for action in [FREEZE, KILL, ActionName::CutNetwork, ActionName::KillProcess, ActionName::Deny] {
            assert_eq!(climbed(action, &[]).await, (vec![action], vec![(action, 1, true)]));
        }
    }

    #[tokio::test]
    async fn what_fails_is_tried_again() {
        let (tried, ended) = climbed(FREEZE, &[Fails, Fails, Works]).await;
        assert_eq!((tried, ended), (vec![FREEZE; 3], vec![(FREEZE, 3, true)]));
    }

    #[tokio::test]
    async fn what_has_failed_gives_way() {
        let (_, ended) = climbed(FREEZE, &[Fails, Fails, Fails, Fails]).await;
        assert_eq!(ended, [(FREEZE, 3, false), (KILL, 2, true)]);
        for first in [ActionName::CutNetwork, ActionName::KillProcess] {
            let (_, ended) = climbed(first, &[Fails, Fails, Fails]).await;
            assert_eq!(ended, [(first, 3, false), (FREEZE, 1, true)]);
        }
        let (_, ended) = climbed(ActionName::KillProcess, &[Fails; 9]).await;
        assert_eq!(ended, [(ActionName::KillProcess, 3, false), (FREEZE, 3, false), (KILL, 3, false)]);
    }

    #[tokio::test]
    async fn what_cannot_be_made_good_is_not_tried_again() {
        let (_, ended) = climbed(ActionName::Deny, &[IsFinal]).await;
        assert_eq!(ended, [(ActionName::Deny, 1, false), (FREEZE, 1, true)]);
    }

    #[tokio::test]
    async fn what_hangs_is_given_up() {
        let (_, ended) = climbed(FREEZE, &[Hangs]).await;
        assert_eq!(ended, [(FREEZE, 1, false), (KILL, 1, true)]);
        let (_, ended) = climbed(KILL, &[Fails, Hangs]).await;
        assert_eq!(ended, [(KILL, 2, false)]);
    }
}
