//! What is watched without being asked for, and what happens to containers: Incus is followed.
//!
//! It promises that a container of a project in `[monitor] projects`, and one with `user.coi.monitor=true`, is watched
//! from when Incus says that it was made, or configured so, and of those that are there already from when the daemon
//! answers or Incus does; that a watch follows its container to a new name, and ends with it. While Incus does not answer
//! nothing of this is known, and everything that is watched stays watched; when it answers again all of it is looked at
//! anew.
//!
//! Who may set `user.coi.monitor` may become root on the machine. A watch that began so is not ended by taking it back;
//! that is a person's to say: `DELETE /v1/watches/NAME`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use super::{
    api::{Subject, WatchRequest, WatchState},
    watch::Watching,
    watches::Service,
};
use crate::{
    incus::{self, DEFAULT_PROJECT, LifecycleEvent},
    monitor::audit::Record,
};

/// What says that a container is to be watched.
const KEY: &str = "user.coi.monitor";
/// What the containers have that COI launches: who launches one has it watched, as its owner and with the workspace's rules.
const LAUNCHED: &str = "user.coi.workspace";
/// How long until Incus is tried again. Nothing tells when it answers: its socket may be systemd's, which is there all the
/// time, or be left by one that was killed. It is tried as long as there is a daemon.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows Incus as long as there is a daemon.
pub(super) async fn follow(service: Weak<Service>) {
    let mut is_told = false;
    loop {
        let Some(incus) = service.upgrade().map(|service| service.incus.clone()) else { return };
        match incus.lifecycle().await {
            Ok(mut events) => {
                is_told = false;
                // What happens from here on is told; what was before is looked at.
                let Some(looks) = service.upgrade() else { return };
                if let Err(error) = looks.look_at_all().await {
                    tracing::warn!(%error, "what Incus has is not known; it is asked again");
                }
                drop(looks);
                loop {
                    match events.next().await {
                        Ok(event) => {
                            let Some(service) = service.upgrade() else { return };
                            // Nothing waits for another container's Incus calls, and no event is missed meanwhile.
                            tokio::spawn(service.heed_incus(event));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "Incus is not followed any more; it is tried again");
                            break;
                        }
                    }
                }
            }
            Err(error) if !is_told => {
                tracing::warn!(%error, "Incus cannot be followed; it is tried again");
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl Service {
    /// Is this container to be watched without being asked for?
    fn is_wanted(&self, project: &str, config: &BTreeMap<String, String>) -> bool {
        let asks = config.get(KEY).is_some_and(|value| matches!(value.as_str(), "true" | "1" | "yes" | "on"));
        !config.contains_key(LAUNCHED) && (asks || self.monitor.projects.iter().any(|name| name == project))
    }

    /// Looks at all that Incus has, and at all that is watched.
    async fn look_at_all(self: &Arc<Self>) -> Result<(), incus::Error> {
        for instance in self.incus.instances_of_all_projects().await? {
            let project = if instance.project.is_empty() { DEFAULT_PROJECT } else { &instance.project };
            if project == DEFAULT_PROJECT {
                self.heed_stopped(&instance);
            }
            if instance.kind != "virtual-machine" && self.is_wanted(project, &instance.expanded_config) {
                let project = (project != DEFAULT_PROJECT).then(|| project.to_owned());
                self.begin_by_policy(Subject::Container { name: instance.name, project }).await;
            }
        }
        for watching in self.live() {
            if !matches!(watching.subject, Subject::Container { .. }) {
                continue;
            }
            if watching.state() == WatchState::Frozen {
                tokio::spawn(tell_frozen(Arc::clone(&watching)));
            }
            tokio::spawn(Arc::clone(self).confirm(watching, "it was deleted"));
        }
        Ok(())
    }

    /// Watches a container that nobody has asked for, if it is not watched already.
    async fn begin_by_policy(self: &Arc<Self>, subject: Subject) {
        let name = subject.watch_name();
        // Another container may have had its name.
        let before = self.named(&name).filter(|watching| !watching.is_over());
        if let Some(before) = before
            && self.is_still(&before).await
        {
            return;
        }
        let request = WatchRequest { respond: true, owner: Some(0), ..WatchRequest::new(subject) };
        match self.watch_for(request, 0, None, None).await {
            Ok(watch) => tracing::info!(name = watch.name, "watched, as the configuration asks for"),
            Err(refusal) => {
                tracing::error!(name, error = refusal.error.message, "it is to be watched, and cannot be");
            }
        }
    }

    async fn is_still(&self, watching: &Watching) -> bool {
        let Subject::Container { name, project } = &watching.subject else { return true };
        let instance = self.incus.in_project(project.as_deref()).instance(name).await;
        instance.is_ok_and(|instance| instance.uuid() == Some(&watching.watched.container.id))
    }

    /// Something has happened to a container.
    async fn heed_incus(self: Arc<Self>, event: LifecycleEvent) {
        let LifecycleEvent { action, project, instance: name, old_name } = event;
        let subject = Subject::Container { name: name.clone(), project: project.clone() };
        match action.as_str() {
            "instance-created" | "instance-updated" | "instance-started" | "instance-copied" => {
                let incus = self.incus.in_project(project.as_deref());
                let Ok(instance) = incus.instance(&name).await else { return };
                let project = project.as_deref().unwrap_or(DEFAULT_PROJECT);
                if instance.kind != "virtual-machine" && self.is_wanted(project, &instance.expanded_config) {
                    self.begin_by_policy(subject).await;
                }
            }
            "instance-stopped" | "instance-shutdown" => self.heed_stop(subject).await,
            "instance-deleted" => {
                if let Some(watching) = self.named(&subject.watch_name())
                    && !watching.is_over()
                {
                    // Another one may have its name by now, and be watched.
                    self.confirm(watching, "it was deleted").await;
                }
            }
            "instance-renamed" => {
                let Some(old_name) = old_name else { return };
                let old = Subject::Container { name: old_name, project };
                let Some(watching) = self.named(&old.watch_name()) else { return };
                if !watching.is_over() {
                    self.rename(&watching, subject).await;
                }
            }
            _ => {}
        }
    }

    /// A watched container has another name now. Its log goes on under the name it had: it is the same container.
    async fn rename(self: &Arc<Self>, watching: &Arc<Watching>, subject: Subject) {
        let (old, new) = (&watching.watched.container.name, subject.watch_name());
        let request = WatchRequest { subject, ..watching.request() };
        watching.enter(WatchState::Gone, &format!("it is called {new} now, and watched under that name"));
        self.trees.unclaim(old);
        if let Err(refusal) = self.end(watching).await {
            tracing::error!(name = old, error = refusal.error.message, "a watch could not be ended");
        }
        if let Err(refusal) = self.watch_for(request, watching.by(), Some(watching.opener()), None).await {
            tracing::error!(name = new, error = refusal.error.message, "a renamed container is not watched");
        }
    }
}

/// Incus may not have answered when it was frozen.
async fn tell_frozen(watching: Arc<Watching>) {
    if let Err(error) = watching.responder.announce().await {
        let words = format!("frozen, but Incus could not be told: {error}");
        watching.record(Record::note(&watching.watched.container, &words));
    }
}
