//! The end of a container that COI has launched: its session is saved, then it is deleted, unless it is to stay.
//!
//! It promises that this happens whichever way the container stops, whether or not anybody's terminal is still there:
//! the daemon sees it by Incus's events, and looks when it begins and when Incus comes back. A container whose session
//! cannot be saved is not deleted. Nothing is written in a user's directory but by a process that is that user
//! ([`crate::session::save`]); the daemon reads the stopped container's files through Incus and hands them over.

use std::{
    io,
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use nix::unistd::{Uid, User};
use tokio::io::AsyncWriteExt as _;

use super::{
    api::{Ended, Life, Subject, WatchRequest, WatchState, Wish},
    refusal::Refusal,
    watch::Watching,
    watches::Service,
};
use crate::{
    incus::{self, FileKind, Files, Patience, Status},
    monitor::{audit::Record, cgroup::Cgroup, lineage, sensor::boottime},
    session::{MOST_BYTES, MOST_DEPTH, MOST_FILES, Plan, Saved, frame},
};

/// How long saving a session may take.
const SAVED_WITHIN: Duration = Duration::from_secs(180);
/// What says in Incus that an instance has run and stopped, and was not only made.
const LAST_STATE: &str = "volatile.last_state.power";

/// How long the record of a kill waits for what becomes of the container.
const RESTS_WITHIN: Duration = Duration::from_secs(10);

/// Why a container has not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndError {
    /// It is not at its end.
    #[error("{name} runs; stop it first: coi shutdown {name}")]
    Runs {
        /// Its name.
        name: String,
    },
    /// Its session is not saved.
    #[error(
        "the session of {name} could not be saved, so it is kept as it is, stopped: {why}. Try again: coi shutdown {name}; \
         give the session up: coi kill --force {name}"
    )]
    Unsaved {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
    },
    /// Incus would not.
    #[error(transparent)]
    Incus(#[from] incus::Error),
}

/// What is to be done when a container stops, and what has been done.
#[derive(Debug)]
pub(super) struct Ending {
    incus: incus::Client,
    name: String,
    uuid: String,
    owner: Mutex<u32>,
    life: Mutex<Life>,
    why: Mutex<Option<String>>,
    /// How often it has begun to run.
    run: AtomicU64,
    /// One at a time.
    done: tokio::sync::Mutex<Option<Done>>,
}

/// What came of an end.
#[derive(Debug)]
struct Done {
    /// Of which run.
    run: u64,
    ended: Ended,
}

impl Ending {
    /// That of the container of this name in the default project, as long as it has this volatile.uuid.
    pub(super) fn new(incus: incus::Client, name: &str, uuid: &str, life: Life) -> Self {
        Self {
            incus,
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            owner: Mutex::new(u32::MAX),
            life: Mutex::new(life),
            why: Mutex::default(),
            run: AtomicU64::new(0),
            done: tokio::sync::Mutex::default(),
        }
    }

    /// Whose sessions are saved.
    pub(super) fn belongs_to(&self, owner: u32) {
        *lock(&self.owner) = owner;
    }

    /// What is to be done.
    pub(super) fn life(&self) -> Life {
        lock(&self.life).clone()
    }

    /// Something else is to be done than before.
    pub(super) fn change(&self, change: impl FnOnce(&mut Life)) {
        change(&mut lock(&self.life));
    }

    /// It runs, perhaps again: its end is yet to come.
    pub(super) fn begins(&self) {
        self.run.fetch_add(1, Ordering::AcqRel);
        *lock(&self.why) = None;
    }

    /// Why the daemon stops it.
    pub(super) fn because(&self, why: &str) {
        *lock(&self.why) = Some(why.to_owned());
    }

    /// Does what is to be done, as soon as Incus knows that it has stopped: that takes a moment, and right after a kill
    /// Incus says now this and now that.
    pub(super) async fn finish_soon(&self) -> Result<Ended, EndError> {
        let mut patience = Patience::new();
        loop {
            let finished = self.finish(Wish::AsPlanned).await;
            let not_yet = matches!(
                &finished,
                Err(EndError::Runs { .. } | EndError::Incus(incus::Error::Refused { .. }))
            );
            if !(not_yet && patience.lasts().await) {
                return finished;
            }
        }
    }

    /// Does what is to be done once it has stopped.
    pub(super) async fn finish(&self, wish: Wish) -> Result<Ended, EndError> {
        let mut done = self.done.lock().await;
        let run = self.run.load(Ordering::Acquire);
        let before = done.as_ref().filter(|done| done.run == run).map(|done| done.ended.clone());
        if let Some(ended) = before.as_ref().filter(|ended| ended.deleted || wish == Wish::AsPlanned) {
            return Ok(ended.clone());
        }
        let life = self.life();
        let why = lock(&self.why).clone();
        let status = match self.incus.instance(&self.name).await {
            Ok(instance) if instance.uuid() == Some(&self.uuid) => instance.status,
            // It is gone without COI's doing, or by Incus's where it has nothing to save.
            Ok(_) | Err(incus::Error::NotFound { .. }) => {
                let ended = Ended { deleted: true, why, session: None };
                *done = Some(Done { run, ended: ended.clone() });
                return Ok(ended);
            }
            Err(error) => return Err(error.into()),
        };
        if status != Status::Stopped {
            return Err(EndError::Runs { name: self.name.clone() });
        }
        let mut ended = before.unwrap_or(Ended { why, ..Ended::default() });
        if let Some(plan) = life.session.as_ref().filter(|_| ended.session.is_none()) {
            let saving = tokio::time::timeout(SAVED_WITHIN, self.save(plan)).await;
            match saving.unwrap_or_else(|_| Err(format!("it took longer than {} s", SAVED_WITHIN.as_secs())))
            {
                Ok(saved) => ended.session = Some(saved),
                Err(_) if wish == Wish::GiveUp => {}
                Err(why) => return Err(EndError::Unsaved { name: self.name.clone(), why }),
            }
        }
        if life.delete || wish != Wish::AsPlanned {
            match self.incus.delete(&self.name, Some(&self.uuid)).await {
                Ok(()) | Err(incus::Error::NotFound { .. }) => ended.deleted = true,
                Err(error) => return Err(error.into()),
            }
        }
        *done = Some(Done { run, ended: ended.clone() });
        Ok(ended)
    }

    /// Saves its session, as its owner.
    async fn save(&self, plan: &Plan) -> Result<Saved, String> {
        let owner = *lock(&self.owner);
        let user = User::from_uid(Uid::from_raw(owner)).ok().flatten();
        let user = user.ok_or_else(|| format!("this machine has no user {owner}, whose session it is"))?;
        // Also where an upgrade has replaced the file since.
        let mut command = tokio::process::Command::new("/proc/self/exe");
        command.arg0("coi").args(["session", "save"]).env_clear().current_dir("/").kill_on_drop(true);
        if !Uid::effective().is_root() {
            return Err("the daemon is not root".to_owned());
        }
        // The standard library gives up root's other groups with its identity.
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("its process does not start: {e}"))?;
        let mut stdin = child.stdin.take().ok_or("its process has no input")?;
        let sent = async move {
            let line = serde_json::to_string(plan).unwrap_or_default() + "\n";
            stdin.write_all(line.as_bytes()).await?;
            let mut files = self.incus.files(&self.name).await?;
            send(&mut files, plan, &mut stdin).await
        };
        // It may have something to say while it is still being told.
        let (sent, output) = tokio::join!(sent, child.wait_with_output());
        let output = output.map_err(|e| e.to_string())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("coi: ");
            // Either it was told no more, or it takes no more: then it says why.
            return Err(match sent {
                Err(SendError::Incus(error)) => error.to_string(),
                _ => said.to_owned(),
            });
        }
        sent.map_err(|e| e.to_string())?;
        serde_json::from_slice(&output.stdout).map_err(|e| format!("its process says nothing sensible: {e}"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // It is only replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What can go wrong between the container and the process that writes.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Incus(#[from] incus::Error),
    #[error("its process takes no more: {0}")]
    Taken(#[from] io::Error),
}

/// Sends what is to be saved, the newest of a directory first, so that what is left out for its size is the oldest.
async fn send(
    files: &mut Files,
    plan: &Plan,
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> Result<(), SendError> {
    let home = plan.home.trim_end_matches('/').as_bytes();
    let inside = |path: &[u8]| [home, b"/", path].concat();
    let (mut bytes, mut items, mut left_out) = (0, 0, 0);
    // The last of it comes next.
    let mut ways = Vec::new();
    for path in plan.paths.iter().rev() {
        if let Some(attributes) = files.look(&inside(path.as_bytes())).await? {
            ways.push((path.as_bytes().to_vec(), attributes));
        }
    }
    while let Some((path, attributes)) = ways.pop() {
        let depth = path.iter().filter(|&&byte| byte == b'/').count();
        let fits = items < MOST_FILES && depth < MOST_DEPTH && frame::fits(&path);
        match attributes.kind {
            FileKind::File if fits && bytes + attributes.size <= MOST_BYTES => {
                let file = Some((attributes.size, attributes.modified));
                let handle = files.open(&inside(&path)).await?;
                to.write_all(&frame::Head { path, file }.to_bytes()).await?;
                let mut at = 0;
                while at < attributes.size {
                    let mut chunk = files.read(&handle, at).await?;
                    let left = usize::try_from(attributes.size - at).unwrap_or(usize::MAX);
                    chunk.truncate(left);
                    if chunk.is_empty() {
                        // Nothing changes what has stopped; if something does, nobody waits for it.
                        chunk = vec![0; left.min(32 << 10)];
                    }
                    to.write_all(&chunk).await?;
                    at += chunk.len() as u64;
                }
                files.close(handle).await?;
                (bytes, items) = (bytes + attributes.size, items + 1);
            }
            FileKind::Directory if fits => {
                let (mut entries, more) = files.list(&inside(&path), MOST_FILES).await?;
                to.write_all(&frame::Head { path: path.clone(), file: None }.to_bytes()).await?;
                items += 1;
                left_out += u64::from(more);
                entries.sort_by_key(|entry| entry.attributes.modified);
                ways.extend(
                    entries
                        .into_iter()
                        .map(|entry| ([&path[..], b"/", &entry.name].concat(), entry.attributes)),
                );
            }
            _ => left_out += 1,
        }
    }
    to.write_all(&frame::End { left_out }.to_bytes()).await?;
    to.shutdown().await?;
    Ok(())
}

impl From<EndError> for Refusal {
    fn from(error: EndError) -> Self {
        match error {
            EndError::Incus(error) => error.into(),
            EndError::Runs { .. } => Self::new(StatusCode::CONFLICT, "busy", error.to_string()),
            EndError::Unsaved { .. } => Self::internal(error.to_string()),
        }
    }
}

impl Watching {
    /// Writes down what came of a container's end.
    pub(super) fn tell_end(&self, done: &Result<Ended, EndError>) {
        let words = match done {
            Ok(Ended { session: Some(saved), .. }) => {
                let left_out = match saved.left_out {
                    0 => String::new(),
                    n => format!("; {n} entries were left out"),
                };
                format!(
                    "its session {} was saved: {} files, {} bytes{left_out}",
                    saved.session_id, saved.files, saved.bytes
                )
            }
            Err(error @ EndError::Unsaved { .. }) => error.to_string(),
            _ => return,
        };
        self.record(Record::note(&self.watched.container, &words));
    }

    /// After a kill: what of it is to be saved is saved, and it is deleted, if it is to be. What takes longer goes on by
    /// itself.
    pub(super) async fn lay_to_rest(self: &Arc<Self>) {
        let Some(ending) = self.ending.clone() else { return };
        let watching = Arc::clone(self);
        let rests = tokio::spawn(async move {
            let done = ending.finish_soon().await;
            watching.tell_end(&done);
            if let Err(error) = done {
                let name = &watching.watched.container.name;
                tracing::warn!(name, %error, "a container that was killed is not at its end");
            }
        });
        let _ = tokio::time::timeout(RESTS_WITHIN, rests).await;
    }

    /// Stops it when it has run for as long as it may.
    pub(super) fn start_clock(self: &Arc<Self>, cgroup: &Arc<Cgroup>) {
        let Some(most) = self.ending.as_ref().and_then(|ending| ending.life().max_seconds) else { return };
        let most = Duration::from_secs(most);
        let left = most.saturating_sub(age(cgroup));
        let (watching, id) = (Arc::downgrade(self), cgroup.id());
        tokio::spawn(async move {
            tokio::time::sleep(left).await;
            if let Some(watching) = watching.upgrade() {
                watching.time_is_up(id, most).await;
            }
        });
    }

    /// It has run for as long as it may, in the cgroup of this id.
    async fn time_is_up(&self, id: u64, most: Duration) {
        let here = || self.cgroup().filter(|cgroup| cgroup.id() == id && !self.is_over());
        let (Some(ending), Some(_)) = (&self.ending, here()) else { return };
        let words = format!("stopped: it has run for {} s, as long as it may (max_duration)", most.as_secs());
        self.record(Record::note(&self.watched.container, &words));
        ending.because(&words);
        self.shut_down(id).await;
    }

    /// Stops what runs in the cgroup of this id: it is asked to end, and killed if it does not.
    async fn shut_down(&self, id: u64) {
        let here = || self.cgroup().filter(|cgroup| cgroup.id() == id && !self.is_over());
        let Some(ending) = &self.ending else { return };
        // What stands still cannot end, and Incus would thaw it for that.
        if self.state() != WatchState::Frozen {
            let grace = Duration::from_secs(ending.life().grace_seconds);
            if !grace.is_zero()
                && let Err(error) = ending.incus.shut_down(&ending.name, grace).await
            {
                tracing::debug!(%error, name = ending.name, "it does not shut down by itself");
            }
        }
        if let Some(cgroup) = here() {
            let killed = self.responder.kill(cgroup).await;
            if let Err(error) = self.responder.bury().await.or(killed) {
                let words = format!("it was to be stopped, and could not be: {error}");
                self.record(Record::note(&self.watched.container, &words));
            }
        }
    }
}

/// How often it is looked whether a session goes on.
const LOOK: Duration = Duration::from_secs(2);
/// A session is over when nothing of it was there at so many looks in a row.
const LOOKS: u32 = 3;
/// So many looks it has to begin.
const BEGINS: u32 = 30;
/// Where LXC puts what is started in a container from outside, below the container's own cgroup.
const FROM_OUTSIDE: &str = ".lxc";

impl Watching {
    /// Ends it when its session is over, which nobody's terminal has to be there for: what was started in it from
    /// outside, the session and what that has started, runs no more. Where there is no such cgroup nothing is known, and
    /// it runs on.
    pub(super) fn attend(self: &Arc<Self>, cgroup: &Arc<Cgroup>) {
        let (watching, cgroup) = (Arc::downgrade(self), Arc::clone(cgroup));
        tokio::spawn(async move {
            let (mut empty, mut has_begun) = (0, false);
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(watching) = watching.upgrade() else { return };
                let is_here = watching.cgroup().is_some_and(|now| now.id() == cgroup.id());
                let Some(ending) = watching.ending.as_ref().filter(|_| is_here && !watching.is_over()) else {
                    return;
                };
                let outside = cgroup.directory().join(FROM_OUTSIDE);
                // What stands still is not over; nor is what has not begun.
                if !ending.life().has_session || watching.state() != WatchState::Running || !outside.exists()
                {
                    continue;
                }
                empty = if lineage::members(&outside).is_empty() { empty + 1 } else { 0 };
                has_begun |= empty == 0;
                if empty >= if has_begun { LOOKS } else { BEGINS } {
                    let words = "its session is over; it is stopped";
                    watching.record(Record::note(&watching.watched.container, words));
                    return watching.shut_down(cgroup.id()).await;
                }
            }
        });
    }
}

/// How long the first process of a cgroup has run.
fn age(cgroup: &Cgroup) -> Duration {
    let first = lineage::members(&cgroup.directory())
        .into_iter()
        .filter_map(lineage::place)
        .map(|place| place.start_ticks);
    let started = first.min().map_or_else(boottime, |ticks| ticks * lineage::TICK);
    Duration::from_nanos(boottime().saturating_sub(started))
}

impl Service {
    /// Brings a stopped container to its end, and writes that down.
    pub(super) async fn bring_to_end(
        self: &Arc<Self>,
        watching: &Arc<Watching>,
        wish: Wish,
    ) -> Result<Ended, Refusal> {
        let name = &watching.watched.container.name;
        let Some(ending) = &watching.ending else {
            return Err(Refusal::bad_request(format!(
                "nothing was said of what becomes of {name} when it has stopped"
            )));
        };
        let done = ending.finish(wish).await;
        watching.tell_end(&done);
        let ended = done?;
        if ended.deleted && !watching.is_over() {
            watching.enter(WatchState::Gone, "it has ended, and was deleted");
            self.end(watching).await?;
        }
        Ok(ended)
    }

    /// Something has stopped: if COI has launched it, it has come to its end.
    pub(super) async fn heed_stop(self: Arc<Self>, subject: Subject) {
        let Some(watching) = self.named(&subject.watch_name()).filter(|watching| !watching.is_over()) else {
            return;
        };
        // What a rule has just ended is seen to by whoever did that.
        watching.settled().await;
        let Some(ending) = watching.ending.clone().filter(|_| !watching.is_over()) else { return };
        let done = ending.finish_soon().await;
        watching.tell_end(&done);
        match done {
            Ok(ended) if ended.deleted && !watching.is_over() => {
                watching.enter(WatchState::Gone, "it has ended, and was deleted");
                if let Err(refusal) = self.end(&watching).await {
                    tracing::error!(error = refusal.error.message, "a watch could not be ended");
                }
            }
            Ok(_) => {}
            // It may have been started again, and ends another time.
            Err(error) => {
                tracing::warn!(name = watching.watched.container.name, %error, "a container is not at its end");
            }
        }
    }

    /// What has stopped while nobody looked.
    pub(super) fn heed_stopped(self: &Arc<Self>, instance: &incus::Instance) {
        let has_run = instance.config.get(LAST_STATE).is_some_and(|state| state == "STOPPED");
        if instance.status == Status::Stopped && has_run {
            tokio::spawn(Arc::clone(self).heed_stop(Subject::container(&instance.name)));
        }
    }

    /// A session begins in a launched container; what is to be saved of it, from now on.
    pub(super) async fn set_session(&self, watching: &Watching, plan: Option<Plan>) -> Result<(), Refusal> {
        plan.as_ref().map_or(Ok(()), Plan::check).map_err(Refusal::bad_request)?;
        self.change_life(watching, move |life| {
            life.has_session = true;
            life.session = plan;
        })
        .await
    }

    /// A launched container stays when it stops, from now on.
    pub(super) async fn keep(&self, watching: &Watching) -> Result<(), Refusal> {
        self.change_life(watching, |life| {
            life.delete = false;
            if let Some(plan) = &mut life.session {
                plan.metadata.persistent = true;
            }
        })
        .await
    }

    async fn change_life(&self, watching: &Watching, change: impl FnOnce(&mut Life)) -> Result<(), Refusal> {
        let Some(ending) = &watching.ending else {
            let name = &watching.watched.container.name;
            return Err(Refusal::bad_request(format!(
                "nothing was said of what becomes of {name} when it has stopped"
            )));
        };
        ending.change(change);
        Ok(watching.keep_life(ending.life()).await?)
    }
}

/// What is to be done with a container when it stops, if something is: only COI's own of the default project end so.
pub(super) fn ending(incus: &incus::Client, request: &WatchRequest, uuid: &str) -> Option<Arc<Ending>> {
    let life = request.life.clone()?;
    match &request.subject {
        Subject::Container { name, project: None } => {
            Some(Arc::new(Ending::new(incus.clone(), name, uuid, life)))
        }
        _ => None,
    }
}
