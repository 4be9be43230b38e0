//! What of a watch outlives the daemon: its entry in the registry, its ward at the guard, and what it is held for.

use std::sync::{
    Arc, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use super::{
    api::{Life, OnMonitorLoss},
    registry::{Registered, Registry},
};
use crate::monitor::{
    cgroup::Cgroup,
    guard::{Guard, Ward},
    private::{Private, PrivateError},
    standing::{Left, Standing},
};

/// Where it is kept.
#[derive(Clone, Debug)]
pub(super) struct Keeping {
    pub(super) guard: Guard,
    pub(super) registry: Registry,
    /// The directory of [`Standing`].
    pub(super) standing: Arc<Private>,
}

/// One watch's.
#[derive(Debug)]
pub(super) struct Kept {
    keeping: Keeping,
    key: String,
    /// Where its next cgroup will be made.
    next: Option<String>,
    registered: std::sync::Mutex<Registered>,
    freeze: AtomicBool,
}

impl Keeping {
    /// What a watch of this key stands for, and what the daemon before has left of it.
    pub(super) fn standing(&self, key: &str) -> Result<(Standing, Left), PrivateError> {
        Standing::open(&self.standing, key)
    }

    /// Keeps a watch. `next` is where its next cgroup will be made, if there will be one.
    pub(super) async fn keep(
        &self,
        registered: Registered,
        next: Option<String>,
        is_new: bool,
    ) -> Result<Kept, PrivateError> {
        if is_new {
            self.registry.put(registered.clone()).await?;
        }
        let freeze = registered.request.on_monitor_loss == Some(OnMonitorLoss::Freeze);
        // What has no monitor cannot lose it.
        let guard = if registered.request.monitored { self.guard.clone() } else { Guard::absent() };
        Ok(Kept {
            keeping: Self { guard, ..self.clone() },
            key: registered.key(),
            next,
            registered: registered.into(),
            freeze: freeze.into(),
        })
    }
}

impl Kept {
    fn ward(&self, cgroup: Option<Arc<Cgroup>>) -> Ward {
        Ward { next: self.next.clone(), cgroup, freeze: self.freeze.load(Ordering::Relaxed) }
    }

    /// The watch as it is kept.
    pub(super) fn registered(&self) -> Registered {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What becomes of it without a monitor.
    pub(super) fn on_monitor_loss(&self) -> OnMonitorLoss {
        match self.freeze.load(Ordering::Relaxed) {
            true => OnMonitorLoss::Freeze,
            false => OnMonitorLoss::Continue,
        }
    }

    /// Has it guarded; ends when the guard knows.
    pub(super) async fn guard(&self, cgroup: Option<Arc<Cgroup>>) {
        self.keeping.guard.watch(&self.key, self.ward(cgroup)).await;
    }

    /// Its cgroup has been made, or removed.
    pub(super) fn moved(&self, cgroup: Option<Arc<Cgroup>>) {
        self.keeping.guard.change(&self.key, self.ward(cgroup));
    }

    /// More is wanted of it than before; never less.
    pub(super) async fn tighten(
        &self,
        respond: bool,
        freeze: bool,
        cgroup: Option<Arc<Cgroup>>,
    ) -> Result<(), PrivateError> {
        let changed = {
            // It is changed whole.
            let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
            let request = &mut registered.request;
            let freezes = request.on_monitor_loss == Some(OnMonitorLoss::Freeze);
            if (!respond || request.respond) && (!freeze || freezes) {
                return Ok(());
            }
            request.respond |= respond;
            if freeze {
                request.on_monitor_loss = Some(OnMonitorLoss::Freeze);
            }
            registered.clone()
        };
        self.keeping.registry.put(changed).await?;
        self.freeze.fetch_or(freeze, Ordering::Relaxed);
        self.guard(cgroup).await;
        Ok(())
    }

    /// What becomes of it when it has stopped is something else than before.
    pub(super) async fn live(&self, life: Life) -> Result<(), PrivateError> {
        let changed = {
            // It is changed whole.
            let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
            registered.request.life = Some(life);
            registered.clone()
        };
        self.keeping.registry.put(changed).await
    }

    /// It is over: nothing of it is kept.
    pub(super) async fn forget(&self) {
        if let Err(error) = self.keeping.registry.remove(&self.key).await {
            tracing::error!(%error, "a watch that is over will be found by the next daemon");
        }
        self.keeping.guard.forget(&self.key);
        if let Err(error) = Standing::remove(&self.keeping.standing, &self.key) {
            tracing::warn!(%error, key = self.key, "what a watch was held for is still noted");
        }
    }
}
