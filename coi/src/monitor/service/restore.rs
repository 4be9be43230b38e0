//! After a daemon's end: every watch of the one before is found again.
//!
//! It promises that what was watched is armed before the daemon answers; that neither Incus nor a rule that has become
//! wrong keeps it from that; that each log tells since when nobody looked and what runs there now; that what was decided
//! and not recorded is made good and recorded; and that only what was frozen for want of a monitor is thawed.
//!
//! What happened in between nobody has seen, and the rules know nothing of what was before.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    api::{ActionName, Subject, WatchState},
    deed::let_go,
    ending::ending,
    follow::running,
    refusal::Refusal,
    registry::Registered,
    subject::Found,
    watch::Watching,
    watches::Service,
};
use crate::{
    incus,
    monitor::{
        audit::{Done, Gap, Record, timestamp},
        cgroup::Cgroup,
        guard::{self, Frozen, Loss},
        lineage,
        pipeline::Note,
        respond::{CgroupResponder, IncusResponder, Responder},
        rules::OwnRules,
        sensor::boottime,
        standing::{Held, HeldFor, Intent, Left},
    },
};

/// How often it is tried again to arm what could not be armed, and to ask an Incus that did not answer.
///
/// What keeps a watch from being armed is a full disk, a map without room, a workspace that is not mounted yet: nothing
/// tells of the end of any of these. It is tried until it works, since the guard holds what is not watched. An Incus that
/// can be followed (see [`super::policy`]) may still fail to answer about one container; it is asked until it does, or
/// until the watch is over.
const RETRY: Duration = Duration::from_secs(2);

/// The time without a daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Absence {
    /// The guard's note of it. There is none after a boot, or if the guard was killed, too.
    loss: Option<Loss>,
}

impl Service {
    /// Finds all watches again. What cannot be armed is tried until it is; until then it is the guard's.
    pub(super) async fn restore(self: &Arc<Self>) -> Result<(), crate::monitor::private::PrivateError> {
        let all = self.keeping.registry.all()?;
        let absence = Absence { loss: Loss::read(&self.runtime) };
        let mut failed = self.restore_all(all, &absence).await;
        if failed.is_empty() {
            self.settle(&absence).await;
            return Ok(());
        }
        let service = Arc::clone(self);
        tokio::spawn(async move {
            while !failed.is_empty() {
                tokio::time::sleep(RETRY).await;
                failed = service.restore_all(failed, &absence).await;
            }
            service.settle(&absence).await;
        });
        Ok(())
    }

    /// Gives those that could not be armed.
    async fn restore_all(self: &Arc<Self>, all: Vec<Registered>, absence: &Absence) -> Vec<Registered> {
        let mut failed = Vec::new();
        for registered in all {
            // Somebody may have asked for it meanwhile.
            if self.named(&registered.name).is_some_and(|watching| !watching.is_over()) {
                continue;
            }
            if let Err(refusal) = self.restore_one(registered.clone(), absence).await {
                let (name, error) = (&registered.name, &refusal.error.message);
                tracing::error!(name, error, "it is not watched again yet; it is tried again");
                failed.push(registered);
            }
        }
        failed
    }

    async fn restore_one(self: &Arc<Self>, registered: Registered, absence: &Absence) -> Result<(), Refusal> {
        let found = self.find_again(&registered);
        let is_gone =
            found.existing.is_none() && matches!(registered.request.subject, Subject::Cgroup { .. });
        let mut registered = registered;
        let mut misfit = None;
        {
            let base = self.base.read().await;
            if let Err(refusal) = self.rules_for(&base, registered.request.rules.clone()).await {
                registered.request.rules = OwnRules::default();
                misfit = Some(refusal.error.message);
            }
        }
        let _beginning = self.beginning.lock().await;
        let watching = self.begin(found, registered, Some(absence)).await?;
        if let Some(why) = misfit {
            let words = format!(
                "it is judged by the machine's rules alone, since its own do not go with them any more: {why}"
            );
            tracing::warn!(name = watching.watched.container.name, "{words}");
            watching.record(Record::note(&watching.watched.container, &words));
        }
        if is_gone {
            watching.enter(WatchState::Gone, "its cgroup was removed while nobody watched");
            self.end(&watching).await?;
        } else if matches!(watching.subject, Subject::Container { .. }) {
            tokio::spawn(Arc::clone(self).confirm(watching, "it was deleted while nobody watched"));
        }
        Ok(())
    }

    /// What a watch is about, without a word from Incus, which may not answer: it is asked afterwards.
    fn find_again(&self, registered: &Registered) -> Found {
        let Registered { name, id, path, request, inside, closed, .. } = registered.clone();
        let (existing, responder): (_, Box<dyn Responder>) = match &request.subject {
            Subject::Cgroup { .. } => {
                let same = Cgroup::open(&path).ok().filter(|cgroup| cgroup.id().to_string() == id);
                (same, Box::new(CgroupResponder))
            }
            Subject::Container { name, project } => {
                let project = project.as_deref();
                let incus = self.incus.in_project(project);
                (running(&path), Box::new(IncusResponder::new(incus, project, name, &id)))
            }
        };
        Found {
            existing: existing.map(Arc::new),
            inside,
            ending: ending(&self.incus, &request, &id),
            responder,
            ephemeral: request.ephemeral,
            workspace: request.workspace,
            name,
            id,
            path,
            closed,
        }
    }

    /// Makes sure that a container is still the one that was watched, as soon as Incus can say so.
    pub(super) async fn confirm(self: Arc<Self>, watching: Arc<Watching>, deleted: &'static str) {
        let container = &watching.watched.container;
        let Subject::Container { name, project } = &watching.subject else { return };
        let incus = self.incus.in_project(project.as_deref());
        while !watching.is_over() {
            let why = match incus.instance(name).await {
                Ok(instance) if instance.uuid() == Some(&container.id) => return,
                Ok(_) => "another container has its name now",
                Err(incus::Error::NotFound { .. }) => deleted,
                Err(error) => {
                    tracing::warn!(%error, name = container.name, "Incus cannot say whether it is still there");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            // Or a rule has just ended it: whoever does that says so.
            watching.settled().await;
            if watching.is_over() {
                return;
            }
            watching.enter(WatchState::Gone, why);
            if let Err(refusal) = self.end(&watching).await {
                tracing::error!(error = refusal.error.message, "a watch could not be ended");
            }
            return;
        }
    }

    /// What is watched is written down, as far as the disk takes it; the guard may forget what was before.
    async fn settle(&self, absence: &Absence) {
        for watching in self.live() {
            watching.settled().await;
        }
        self.keeping.guard.settled(absence.loss.as_ref().map(|loss| loss.since));
    }

    /// The guard had taken this daemon for dead: what it has frozen goes on, unless there is another reason by now.
    async fn come_back(&self) {
        let Some(loss) = Loss::read(&self.runtime).map(Arc::new) else { return };
        tracing::warn!(frozen = loss.frozen.len(), "the monitor had not got on, and does again");
        // What happened meanwhile, as far as the kernel has kept it, is judged first.
        if let Err(error) = self.pipeline.catch_up().await {
            return tracing::error!(%error, "what the guard has frozen stays frozen");
        }
        let live = self.monitored();
        let told = live.iter().map(async |watching| {
            let (done, is_done) = oneshot::channel();
            if watching.watched.notes.send(Note::Doubted(Arc::clone(&loss), done)).await.is_ok() {
                let _ = is_done.await;
            }
        });
        futures_util::future::join_all(told).await;
        self.settle(&Absence { loss: Some(Loss::clone(&loss)) }).await;
    }

    /// Deals with what the guard says, and writes down what becomes of it.
    pub(super) async fn mind_guard(
        self: Arc<Self>,
        mut news: tokio::sync::mpsc::UnboundedReceiver<guard::News>,
    ) {
        while let Some(news) = news.recv().await {
            let words = match news {
                guard::News::Heard => {
                    self.come_back().await;
                    continue;
                }
                guard::News::Replaced { was: 0, is } => {
                    format!("there is a guard again (pid {is}), which freezes it when the daemon is gone")
                }
                guard::News::Replaced { was, is } => format!(
                    "the guard (pid {was}), which freezes it when the daemon is gone, has ended; another one (pid {is}) is in its place"
                ),
                guard::News::Missing { was, why } => format!(
                    "the guard (pid {was}) has ended and no other could be started yet ({why}): nothing freezes it if the daemon goes, too"
                ),
            };
            for watching in self.monitored() {
                watching.record(Record::note(&watching.watched.container, &words));
            }
        }
    }
}

/// Those of these intents that are in a log already: the daemon ended before it could note so.
fn recorded(log: &Path, intents: &[Intent]) -> BTreeSet<u64> {
    let mut recorded = BTreeSet::new();
    if intents.is_empty() {
        return recorded;
    }
    // A file has at most some megabytes; one that was rotated just then is not looked at, and the record repeated.
    let text = fs::read_to_string(log).unwrap_or_default();
    for intent in intents {
        let clock = format!("\"clock\":{}", intent.clock);
        let is_about = |line: &str| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            record["rule"]["id"] == intent.rule_id.as_str()
                && record["coi"]["action"]["name"] == intent.action.name()
                && record["coi"]["clock"] == intent.clock
        };
        if text.lines().filter(|line| line.contains(&clock)).any(is_about) {
            recorded.insert(intent.id);
        }
    }
    recorded
}

impl Watching {
    /// The guard had taken this daemon for dead. What was decided before this was noted is done.
    pub(super) async fn doubted(&self, loss: &Loss) {
        let container = &self.watched.container;
        let gap = Gap {
            reason: "silent",
            since: Some(timestamp(loss.since)),
            until: Some(timestamp(boottime())),
            ..Gap::default()
        };
        self.record(Record::gap(container, &gap));
        let Some(cgroup) = self.cgroup() else { return };
        let Some(frozen) = loss.of(cgroup.id()) else { return };
        let why = why_frozen(loss, frozen);
        let done = Done { action: ActionName::Freeze, error: frozen.error.as_deref(), by: None, why: &why };
        self.record(Record::action(container, &done));
        if self.watched.stands.load(Ordering::Acquire) {
            return;
        }
        self.enter(WatchState::Frozen, &why);
        let why = "the monitor gets on again; nothing but that had frozen it";
        let thawed = let_go(&self.watched, cgroup).await;
        let error = thawed.err().map(|error| error.to_string());
        let done = Done { action: ActionName::Thaw, error: error.as_deref(), by: None, why };
        self.record(Record::action(container, &done));
        if error.is_none() {
            self.enter(WatchState::Running, why);
        }
    }

    /// Makes good what the daemon before has left undone, and says since when nobody looked. `existing` is armed by now.
    pub(super) async fn resume(&self, left: Left, absence: Option<&Absence>, existing: Option<&Arc<Cgroup>>) {
        let container = &self.watched.container;
        if let Some(absence) = absence.filter(|_| self.is_monitored()) {
            let processes = existing.map(|cgroup| lineage::running(&cgroup.directory()));
            let (processes, more) = processes.map_or((None, None), |(seen, more)| (Some(seen), Some(more)));
            self.record(Record::gap(
                container,
                &Gap {
                    reason: "unwatched",
                    since: absence.loss.as_ref().map(|loss| timestamp(loss.since)),
                    until: Some(timestamp(boottime())),
                    processes,
                    more_processes: more.filter(|more| *more > 0),
                    ..Gap::default()
                },
            ));
        }
        if left.is_cut {
            let why = "cut again: the daemon before had cut it";
            let done = Done { action: ActionName::CutNetwork, error: None, by: None, why };
            self.record(Record::action(container, &done));
        }
        let frozen = existing.and_then(|cgroup| absence?.loss.as_ref()?.of(cgroup.id()));
        if let (Some(frozen), Some(loss)) = (frozen, absence.and_then(|absence| absence.loss.as_ref())) {
            let why = why_frozen(loss, frozen);
            let done =
                Done { action: ActionName::Freeze, error: frozen.error.as_deref(), by: None, why: &why };
            self.record(Record::action(container, &done));
        }
        let mut held = left
            .held
            .filter(|(id, _)| existing.is_some_and(|cgroup| cgroup.id() == *id && cgroup.is_held()))
            .map(|(_, held)| held);
        let recorded = recorded(self.audit(), &left.intents);
        for intent in &left.intents {
            let (error, then, holds) = make_good(intent, existing, &*self.responder).await;
            if !recorded.contains(&intent.id) {
                self.record(Record::reconciled(container, intent, error.as_deref(), then));
            }
            if holds && held.is_none() {
                let why = format!("rule {}: {}", intent.rule_id, intent.message);
                held = Some(Held { held_for: HeldFor::Rule, why, action: None });
            }
            self.settle(Some(intent.id));
        }
        if let (None, Some(_), Some(cgroup)) = (&held, frozen, existing) {
            let why = "watched again; nothing but the daemon's absence had frozen it";
            let error = cgroup.thaw().err().map(|error| error.to_string());
            let done = Done { action: ActionName::Thaw, error: error.as_deref(), by: None, why };
            self.record(Record::action(container, &done));
        }
        self.hold(existing.map(|cgroup| cgroup.id()).zip(held));
    }
}

/// Why the guard has frozen something.
fn why_frozen(loss: &Loss, frozen: &Frozen) -> String {
    let (at, since) = (timestamp(frozen.at), timestamp(loss.since));
    let without = match (loss.planned, loss.silent) {
        (true, _) => format!("the daemon had gone at {since}, no other daemon had come in time"),
        (_, true) => format!("the daemon's monitor had given no sign of life after {since}"),
        _ => format!("the daemon had gone at {since}, without a word"),
    };
    format!("frozen at {at}, since {without}")
}

/// Does what was decided, if it was not done: what became of it, in words, and whether it stands still by that.
async fn make_good(
    intent: &Intent,
    existing: Option<&Arc<Cgroup>>,
    responder: &dyn Responder,
) -> (Option<String>, &'static str, bool) {
    let Some(cgroup) = existing else {
        return (None, "decided before the daemon was killed; nothing of it runs any more", false);
    };
    let was_held = cgroup.is_held();
    let (done, then) = match intent.action {
        ActionName::Freeze if was_held => {
            return (None, "frozen by the daemon before, which was killed before it could say so", true);
        }
        ActionName::Freeze => (
            responder.freeze(Arc::clone(cgroup)).await,
            "decided by the daemon before, which was killed first; frozen now",
        ),
        ActionName::Kill => (
            responder.kill(Arc::clone(cgroup)).await,
            "decided by the daemon before, which was killed first; killed now",
        ),
        // One that was stopped for a moment stands still: a person lets it go on.
        ActionName::KillProcess | ActionName::CutNetwork | ActionName::Deny if was_held => {
            return (None, "decided by the daemon before, which was killed meanwhile; it stands still", true);
        }
        ActionName::CutNetwork => {
            return (
                None,
                "decided by the daemon before, which was killed meanwhile; its network is cut",
                false,
            );
        }
        _ => {
            return (
                None,
                "decided by the daemon before, which was killed; whether it was done is not known",
                false,
            );
        }
    };
    let holds = done.is_ok() && intent.action == ActionName::Freeze;
    (done.err().map(|error| error.to_string()), then, holds)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::monitor::rules::Severity;

    fn intent(id: u64, action: ActionName) -> Intent {
        Intent {
            id,
            action,
            rule_id: "r".into(),
            severity: Severity::High,
            message: "m".into(),
            process_executable: "/bin/sh".into(),
            process_pid: 7,
            clock: 9000 + id,
        }
    }

    #[test]
    fn what_is_in_the_log_is_not_told_again() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("x.jsonl");
        let record = |rule: &str, action: &str, clock: u64| {
            format!(
                r#"{{"rule":{{"id":"{rule}"}},"coi":{{"action":{{"name":"{action}"}},"clock":{clock}}}}}"#
            )
        };
        let lines = [
            record("r", "freeze", 9001),
            record("other", "freeze", 9002),
            record("r", "log", 9003),
            "torn \"clock\":9004".into(),
        ];
        fs::write(&log, lines.join("\n")).unwrap();
        let intents: Vec<_> = (1..=4).map(|id| intent(id, ActionName::Freeze)).collect();
        assert_eq!(recorded(&log, &intents), BTreeSet::from([1]));
        assert_eq!(recorded(&directory.path().join("none"), &intents), BTreeSet::new());
    }

    /// A directory with the files that a cgroup has; what is written to them stays.
    fn cgroup(files: &[(&str, &str)]) -> (tempfile::TempDir, Arc<Cgroup>) {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let cgroup = Cgroup::of_directory("/x", File::open(directory.path()).unwrap()).unwrap();
        (directory, Arc::new(cgroup))
    }

    #[tokio::test]
    async fn what_was_decided_is_done_once() {
        let responder = CgroupResponder;
        // Killed between the note and the freeze.
        let events = ("cgroup.events", "frozen 1\npopulated 0\n");
        let (directory, running) = cgroup(&[("cgroup.freeze", "0"), events, ("cgroup.kill", "")]);
        let (error, then, holds) =
            make_good(&intent(1, ActionName::Freeze), Some(&running), &responder).await;
        assert_eq!((error, holds), (None, true));
        assert!(then.ends_with("frozen now") && running.is_held());
        // Killed between the freeze and its record.
        let (error, then, holds) =
            make_good(&intent(1, ActionName::Freeze), Some(&running), &responder).await;
        assert_eq!((error, holds), (None, true));
        assert!(then.starts_with("frozen by the daemon before"), "{then}");
        let (error, _, holds) = make_good(&intent(2, ActionName::Kill), Some(&running), &responder).await;
        assert_eq!((error, holds), (None, false));
        assert_eq!(fs::read_to_string(directory.path().join("cgroup.kill")).unwrap(), "1");
        // Nothing is left to be done anything about.
        let (error, then, holds) = make_good(&intent(3, ActionName::Kill), None, &responder).await;
        assert_eq!((error, holds), (None, false));
        assert!(then.ends_with("nothing of it runs any more"), "{then}");
        // It cannot be done.
        let (_directory, unstoppable) = cgroup(&[events]);
        let (error, _, holds) =
            make_good(&intent(4, ActionName::Freeze), Some(&unstoppable), &responder).await;
        assert!(error.is_some() && !holds);
    }
}
