//! Keeping a workspace's protected paths as long as its container runs.
//!
//! It promises that a protected path which the host replaces, removes or makes is looked at while the container stands
//! still, that it goes on only when all that is protected is so again wherever the container sees it, and that each change is
//! in the log. Where the change came from inside, where what is changed is open for writing there, or where it
//! cannot be protected any more, the container stays frozen until a person has looked.
//!
//! Between the change and the freeze there is a moment, well below a millisecond on an idle machine. What is done inside in
//! that moment is noticed, and not prevented. What is put right during a session can be taken away again by root in the
//! container: that is noticed too, within [`LOOK`], and answered in the same way.

use std::{
    collections::BTreeMap,
    fs,
    os::{
        fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd},
        unix::fs::MetadataExt as _,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Instant, timeout_at},
};

use super::{
    restore::Absence,
    trees::{Lasting, Tree, Trees},
    watch::Watching,
    watches::Service,
};
use crate::{
    incus::{self, Status},
    monitor::{
        audit::{Protection, Record},
        cgroup::Cgroup,
        lineage,
    },
    mount::{
        Entry, How, Inner,
        call::Identity,
        heed::{Happening, Heed},
        inside::{self, Seen},
        tree::{self, Done},
    },
};

/// How often it is looked whether a container that is starting has its own copy of the tree by now.
const STARTING: Duration = Duration::from_millis(20);
/// How often it is looked whether what was put right is still there, where root in the container could take it away.
const LOOK: Duration = Duration::from_millis(100);
/// How long a change that is seen may take to be told of, and by whom it was. The kernel tells at the end of the call that
/// makes the change, and another process may have the processor in between.
const TOLD: Duration = Duration::from_millis(500);

/// Who has done something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Outside,
    Unknown,
    Inside,
}

impl By {
    const fn name(self) -> &'static str {
        match self {
            Self::Outside => "outside",
            Self::Unknown => "unknown",
            Self::Inside => "inside",
        }
    }
}

/// A change of one path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    entry: Entry,
    change: &'static str,
    by: By,
    pid: Option<u32>,
}

/// What is known of the paths: which file is there.
type Known = BTreeMap<Inner, Option<Identity>>;

impl Service {
    /// Keeps the tree of a watch, which may be of the daemon before.
    pub(super) async fn begin_protection(
        &self,
        watching: &Arc<Watching>,
        lasting: Lasting,
        absence: Option<&Absence>,
    ) {
        let name = &watching.watched.container.name;
        let tree = match (absence, self.trees.get(lasting.id())) {
            (None, Some(tree)) => Ok(tree),
            _ => self.trees.restore(lasting, name, self.incus.clone()).await,
        };
        match tree {
            Ok(tree) => self.protect(watching, &tree, absence.is_some()),
            Err(refusal) => {
                let why =
                    format!("what is protected in its workspace is not kept: {}", refusal.error.message);
                tracing::error!(name, "{why}");
                watching.record(Record::note(&watching.watched.container, &why));
                let watching = Arc::clone(watching);
                tokio::spawn(async move {
                    // What runs in it is not known before the watch's task has been told.
                    watching.began().await;
                    watching.still(async |_| Err(why)).await;
                });
            }
        }
    }

    /// Keeps the tree of a watch from now on.
    fn protect(&self, watching: &Arc<Watching>, tree: &Arc<Tree>, was_absent: bool) {
        let keeper = Keeper {
            watching: Arc::clone(watching),
            trees: Arc::clone(&self.trees),
            incus: self.incus.clone(),
            is_weak: AtomicBool::new(false),
            was_absent: was_absent.into(),
        };
        let task = tokio::spawn(keeper.keep(Arc::clone(tree)));
        tree.keep_by(task.abort_handle());
    }
}

struct Keeper {
    watching: Arc<Watching>,
    trees: Arc<Trees>,
    incus: incus::Client,
    /// Something was put right in the running container: root there could take it away.
    is_weak: AtomicBool,
    /// There was no daemon for a while, and nobody knows what has happened meanwhile.
    was_absent: AtomicBool,
}

/// What was found when everything was held.
struct Looked {
    /// The workspace is where it was.
    is_there: bool,
    seen: Vec<Seen>,
    /// A process that has a file open for writing that was put in a protected one's place.
    writer: Option<u32>,
}

/// A descriptor that tokio waits for.
struct Readable(Heed);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Keeper {
    async fn keep(self, mut tree: Arc<Tree>) {
        while !self.watching.is_over() {
            self.keep_one(&tree).await;
            match self.trees.get(tree.id()) {
                Some(next) => tree = next,
                None => return,
            }
        }
    }

    /// Keeps one tree, until another one has its place.
    async fn keep_one(&self, tree: &Arc<Tree>) {
        let mut known = known(tree);
        let mut released = Vec::new();
        // Without it, only the start is looked after; it was said.
        let mut heed = tree.take_heed().and_then(|heed| {
            // SAFETY: the descriptor is the heed's own, and is open for as long as that is there.
            unsafe { AsyncFd::register_with_interest(Readable(heed), Interest::READABLE) }.ok()
        });
        // After an absence of the daemon everything may have changed.
        let mut is_settled = false;
        loop {
            let is_running = self.watching.cgroup().is_some();
            let wait = match (is_running, is_settled, self.is_weak.load(Ordering::Relaxed)) {
                (true, false, _) => STARTING,
                (true, true, true) => LOOK,
                // It may be started.
                _ => Duration::from_secs(3600),
            };
            let began = self.watching.began();
            tokio::select! {
                happened = happened(heed.as_ref()) => {
                    let concerned = |happening: &Happening| tree.entries.iter().any(|entry| happening.concerns(&entry.path));
                    if happened.iter().any(concerned)
                        && let Some(heed) = heed.as_mut()
                    {
                        self.answer(tree, heed, happened, &mut known, &mut released).await;
                    }
                }
                () = tree.replaced.notified() => return,
                () = began => is_settled = false,
                () = tokio::time::sleep(wait) => {
                    let Some(cgroup) = self.watching.cgroup() else { continue };
                    let is_suspect = if is_settled {
                        self.is_exposed(tree, &cgroup, &released).await
                    } else {
                        is_settled = self.settle(tree, &cgroup, &released).await
                            || self.stands_without(tree, &cgroup).await;
                        is_settled && self.was_absent.swap(false, Ordering::Relaxed)
                    };
                    match heed.as_mut() {
                        _ if !is_suspect => {}
                        // The host may have done it, and is told from others by what is heeded.
                        Some(heed) => {
                            self.answer(tree, heed, Vec::new(), &mut known, &mut released).await;
                        }
                        None => self.close(tree, &released).await,
                    }
                }
            }
        }
    }

    /// Stops it where its tree was gone when it started: somebody else has started it, or it has started itself anew. It would
    /// work in an empty directory, and nobody would see the work again. Does it stand still?
    async fn stands_without(&self, tree: &Arc<Tree>, cgroup: &Arc<Cgroup>) -> bool {
        if tree.is_staged() {
            return false;
        }
        let inside = tree.lasting.request.inside.clone();
        let (looked, keeps) = (Arc::clone(tree), Arc::clone(cgroup));
        let is_without = tokio::task::spawn_blocking(move || {
            let pids = lineage::members(&keeps.directory());
            inside::is_another_at(&pids, &looked.place, &looked.lasting.request.inside)
        });
        let name = &self.watching.watched.container.name;
        // What stands still while Incus starts it, Incus takes for broken.
        let starts = async || self.incus.instance(name).await.is_ok_and(|now| now.status != Status::Running);
        if !is_without.await.unwrap_or(true) || starts().await {
            return false;
        }
        let why = format!(
            "it was started without `coi`, and {inside} is not its workspace but an empty directory: `coi kill {name}`, \
             then start it with `coi`"
        );
        self.watching.still(async |_| Err(why)).await;
        true
    }

    /// Takes the tree away from Incus's namespace once the container has its own. Has it?
    async fn settle(&self, tree: &Arc<Tree>, cgroup: &Arc<Cgroup>, released: &[Inner]) -> bool {
        let (tree, directory, incus) = (Arc::clone(tree), cgroup.directory(), self.incus.clone());
        let released = released.to_vec();
        let (keeps, watching) = (Arc::clone(cgroup), Arc::clone(&self.watching));
        let was_absent = self.was_absent.load(Ordering::Relaxed);
        let settled = tokio::task::spawn_blocking(move || {
            let pids = lineage::members(&directory);
            drop(keeps);
            if !inside::is_at(&pids, &tree.place, &tree.lasting.request.inside) {
                return (false, false);
            }
            tree.take_down(&incus);
            if was_absent {
                return (true, true);
            }
            // The host may have changed something since Incus took it.
            let mut is_weak = false;
            for Seen { entry, done } in hold(&tree, &pids, &released) {
                let words = match done {
                    Ok(Done::Held) => {
                        format!("{} was changed on the host at the start; it is protected again", entry.path)
                    }
                    Ok(_) => continue,
                    Err(error) => error.to_string(),
                };
                is_weak = true;
                watching.record(Record::note(&watching.watched.container, &words));
            }
            (true, is_weak)
        });
        let (is_settled, is_weak) = settled.await.unwrap_or((false, false));
        self.is_weak.fetch_or(is_weak, Ordering::Relaxed);
        is_settled
    }

    /// Something has happened that concerns what is protected.
    async fn answer(
        &self,
        tree: &Arc<Tree>,
        heed: &mut AsyncFd<Readable>,
        mut happened: Vec<Happening>,
        known: &mut Known,
        released: &mut Vec<Inner>,
    ) {
        if self.watching.cgroup().is_none() {
            // Nothing runs; what is to be started is to be whole.
            self.mark(tree, heed.get_mut());
            *known = self::known(tree);
            let (staged, incus) = (Arc::clone(tree), self.incus.clone());
            let restaged = tokio::task::spawn_blocking(move || staged.restage(&incus)).await;
            if let Ok(Err(refusal)) = restaged {
                // It does not start without it.
                self.note(&refusal.error.message);
                let (tree, incus) = (Arc::clone(tree), self.incus.clone());
                let _ = tokio::task::spawn_blocking(move || tree.take_down(&incus)).await;
            }
            return;
        }
        let answered = async |cgroup: &Arc<Cgroup>| {
            let (mut who, mut held) = (Vec::new(), Vec::new());
            let told_by = Instant::now() + TOLD;
            let (mut changes, looked) = loop {
                happened.extend(pending(heed.get_ref()));
                for happening in &happened[who.len()..] {
                    who.push(self.by(happening, cgroup).await);
                }
                self.mark(tree, heed.get_mut());
                let now = self::known(tree);
                let changes = changes(&tree.entries, known, &now, &happened, &who);
                release(tree, &changes, released);
                let files =
                    changes.iter().filter_map(|change| now.get(&change.entry.path).copied().flatten());
                let Some(looked) = self.look(tree, cgroup, released, files.collect()).await else {
                    return Err("what is protected could not be looked at".to_owned());
                };
                held.extend(held_now(&looked.seen));
                // The kernel tells of a change when it is there to be seen, and not before; and what cannot be held may be
                // about to be replaced once more.
                let is_untold = |entry: &Entry| {
                    let is_changed =
                        held.contains(&entry.path) || known.get(&entry.path) != now.get(&entry.path);
                    is_changed && !happened.iter().any(|happening| happening.concerns(&entry.path))
                };
                let is_open =
                    tree.entries.iter().any(is_untold) || looked.seen.iter().any(|one| one.done.is_err());
                if is_open
                    && Instant::now() < told_by
                    && let Ok(more) = timeout_at(told_by, self::happened(Some(heed))).await
                {
                    happened.extend(more);
                    continue;
                }
                learn(known, now, &happened);
                break (changes, looked);
            };
            if !held.is_empty() {
                self.is_weak.store(true, Ordering::Relaxed);
            }
            // A file that has taken the place of another one can have its number.
            for entry in &tree.entries {
                let is_told = changes.iter().any(|change| change.entry == *entry);
                if !is_told && held.contains(&entry.path) {
                    changes.extend(blamed(entry, "replaced", &happened, &who));
                }
            }
            self.judge(&changes, &looked.seen, &held, released, known, looked.writer)?;
            if looked.is_there || changes.is_empty() {
                return Ok(());
            }
            let inside = &tree.lasting.request.inside;
            Err(format!(
                "{} was {} on the host, and {inside} in the container is not the workspace any more: whoever keeps a way to it \
                 there could write to what is protected",
                changes[0].entry.path, changes[0].change
            ))
        };
        self.watching.still(answered).await;
    }

    /// Holds everything, and looks who could write to what has changed. `None` if that has failed altogether.
    async fn look(
        &self,
        tree: &Arc<Tree>,
        cgroup: &Arc<Cgroup>,
        released: &[Inner],
        files: Vec<Identity>,
    ) -> Option<Looked> {
        let (tree, keeps, released) = (Arc::clone(tree), Arc::clone(cgroup), released.to_vec());
        let looked = tokio::task::spawn_blocking(move || {
            let pids = lineage::members(&keeps.directory());
            Looked {
                is_there: inside::is_at(&pids, &tree.place, &tree.lasting.request.inside),
                seen: hold(&tree, &pids, &released),
                writer: writer(&pids, &files),
            }
        });
        looked.await.ok()
    }

    /// Writes down what has changed; says why the container should not go on.
    fn judge(
        &self,
        changes: &[Change],
        seen: &[Seen],
        held: &[Inner],
        released: &[Inner],
        known: &Known,
        writer: Option<u32>,
    ) -> Result<(), String> {
        let mut why = None;
        let mut tell = |entry: &Entry, change: &'static str, by: By, pid: Option<u32>| {
            let path = &entry.path;
            let error =
                seen.iter().filter(|seen| seen.entry.path == *path).find_map(|seen| seen.done.as_ref().err());
            let now = match (known.get(path).copied().flatten(), released.contains(path)) {
                (_, true) => "released",
                (Some(_), _) => "held",
                (None, _) => "nothing",
            };
            let error = error.map(ToString::to_string);
            let told = Protection { path: path.to_string(), change, by: by.name(), pid, now, error };
            let is_bad = told.error.is_some() || by != By::Outside && now != "released";
            if is_bad && why.is_none() {
                why = Some(told.words());
            }
            self.watching.record(Record::protection(&self.watching.watched.container, &told));
        };
        for Change { entry, change, by, pid } in changes {
            tell(entry, change, *by, *pid);
        }
        for one in seen {
            let is_told = changes.iter().any(|change| change.entry.path == one.entry.path);
            if !is_told && (one.done.is_err() || held.contains(&one.entry.path)) {
                // It was held when it was last looked at.
                tell(&one.entry, "exposed", By::Unknown, None);
            }
        }
        match (why, writer) {
            (Some(why), _) => Err(why),
            (None, Some(pid)) => Err(format!(
                "a process of the container (pid {pid}) has a protected file open for writing that was put in its place"
            )),
            (None, None) => Ok(()),
        }
    }

    /// Who has done it?
    async fn by(&self, happening: &Happening, cgroup: &Arc<Cgroup>) -> By {
        let Happening::Done { pid, alive, .. } = happening else { return By::Unknown };
        if *pid == 0 {
            return By::Unknown;
        }
        if let Some(alive) = alive {
            let holds = cgroup.holds(*pid);
            if !has_ended(alive.as_fd()) {
                return if holds { By::Inside } else { By::Outside };
            }
        }
        // All that has happened so far is known then, each process of the container among it.
        match self.watching.pipeline.knows(Arc::clone(&self.watching.watched), *pid).await {
            Ok(Some(true)) => By::Inside,
            Ok(Some(false)) => By::Outside,
            Ok(None) | Err(_) => By::Unknown,
        }
    }

    fn mark(&self, tree: &Arc<Tree>, heed: &mut Readable) {
        if let Err(error) = heed.0.mark(tree.truth.as_fd(), &tree.entries) {
            self.note(&format!("not all changes of protected paths are noticed: {error}"));
        }
    }

    fn note(&self, what: &str) {
        self.watching.record(Record::note(&self.watching.watched.container, what));
    }

    /// Could something that is protected be written to, where the container's first processes see it?
    async fn is_exposed(&self, tree: &Arc<Tree>, cgroup: &Arc<Cgroup>, released: &[Inner]) -> bool {
        let (tree, directory, keeps) = (Arc::clone(tree), cgroup.directory(), Arc::clone(cgroup));
        let released = released.to_vec();
        let looked = tokio::task::spawn_blocking(move || {
            let pids = lineage::members(&directory);
            drop(keeps);
            let entries: Vec<_> = wanted(&tree, &released);
            inside::is_exposed(&pids, &tree.place, &tree.lasting.request.inside, tree.truth.as_fd(), &entries)
        });
        looked.await.unwrap_or(false)
    }

    /// What is not protected any more, and nobody is told of changes: it is put right, and the container stands still.
    async fn close(&self, tree: &Arc<Tree>, released: &[Inner]) {
        let closed = async |cgroup: &Arc<Cgroup>| {
            let Some(looked) = self.look(tree, cgroup, released, Vec::new()).await else {
                return Err("what is protected could not be looked at".to_owned());
            };
            let held: Vec<_> = held_now(&looked.seen).collect();
            self.judge(&[], &looked.seen, &held, released, &known(tree), None)
        };
        self.watching.still(closed).await;
    }
}

/// The next that has happened; never, if nothing is heeded.
async fn happened(heed: Option<&AsyncFd<Readable>>) -> Vec<Happening> {
    let Some(heed) = heed else { return std::future::pending().await };
    loop {
        let Ok(mut ready) = heed.readable().await else { return std::future::pending().await };
        match heed.get_ref().0.read() {
            Ok(happened) if happened.is_empty() => ready.clear_ready(),
            Ok(happened) => return happened,
            Err(_) => return vec![Happening::Missed],
        }
    }
}

/// What is there to be read already.
fn pending(heed: &Readable) -> Vec<Happening> {
    let mut all = Vec::new();
    loop {
        match heed.0.read() {
            Ok(more) if more.is_empty() => return all,
            Ok(more) => all.extend(more),
            Err(_) => {
                all.push(Happening::Missed);
                return all;
            }
        }
    }
}

/// What had to be held anew.
fn held_now(seen: &[Seen]) -> impl Iterator<Item = Inner> {
    seen.iter().filter(|one| matches!(one.done, Ok(Done::Held))).map(|one| one.entry.path.clone())
}

/// A repository that was made inside is finished there; what is secret was none of the host's.
fn release(tree: &Tree, changes: &[Change], released: &mut Vec<Inner>) {
    for change in changes {
        let is_new_git = !tree.had_git && change.entry.path.below(".git").is_some();
        let is_own = change.entry.how == How::Masked || is_new_git;
        if change.by == By::Inside && is_own && !released.contains(&change.entry.path) {
            released.push(change.entry.path.clone());
        }
    }
    if !tree.had_git && released.iter().any(|path| path.below(".git").is_some()) {
        let rest = tree.entries.iter().filter(|entry| entry.path.below(".git").is_some());
        let rest: Vec<_> =
            rest.map(|entry| entry.path.clone()).filter(|path| !released.contains(path)).collect();
        released.extend(rest);
    }
}

/// Which files are at the paths now. What cannot be looked at is none; holding it says why.
fn known(tree: &Tree) -> Known {
    let look = |entry: &Entry| tree::look(tree.truth.as_fd(), &entry.path).ok().flatten();
    tree.entries.iter().map(|entry| (entry.path.clone(), look(entry))).collect()
}

/// What is held.
fn wanted(tree: &Tree, released: &[Inner]) -> Vec<Entry> {
    tree.entries.iter().filter(|entry| !released.contains(&entry.path)).cloned().collect()
}

/// Holds everything wherever these processes see it.
fn hold(tree: &Tree, pids: &[u32], released: &[Inner]) -> Vec<Seen> {
    let entries = wanted(tree, released);
    match inside::hold(pids, &tree.place, tree.truth.as_fd(), &entries, || tree.supply()) {
        Ok(seen) => seen,
        Err(source) => {
            let failed = |entry: Entry| {
                let path = entry.path.to_string();
                let what = "the container's mount namespaces cannot be entered";
                let source = std::io::Error::new(source.kind(), source.to_string());
                Seen { entry, done: Err(tree::TreeError::Failed { path, what, source }) }
            };
            entries.into_iter().map(failed).collect()
        }
    }
}

/// Has a process ended, by the descriptor of it?
fn has_ended(process: BorrowedFd<'_>) -> bool {
    poll(&mut [PollFd::new(process, PollFlags::POLLIN)], PollTimeout::ZERO) != Ok(0)
}

/// One of these processes that has one of these files open for writing.
fn writer(pids: &[u32], files: &[Identity]) -> Option<u32> {
    if files.is_empty() {
        return None;
    }
    let is_one = |path: &str| {
        fs::metadata(path).is_ok_and(|found| files.iter().any(|file| file.is(found.dev(), found.ino())))
    };
    let writes = |pid: u32, fd: &str| {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).is_some_and(|flags| flags & 3 != 0)
    };
    pids.iter().copied().find(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| entry.file_name().into_string().ok())
            .any(|fd| is_one(&format!("/proc/{pid}/fd/{fd}")) && writes(*pid, &fd))
    })
}

/// Takes over what was found, but where something has changed that is not told yet: it is looked at again when it is.
fn learn(known: &mut Known, now: Known, happened: &[Happening]) {
    let told = now.into_iter().filter(|(path, _)| happened.iter().any(|happening| happening.concerns(path)));
    known.extend(told);
}

/// What has changed, and by whom.
fn changes(
    entries: &[Entry],
    before: &Known,
    now: &Known,
    happened: &[Happening],
    who: &[By],
) -> Vec<Change> {
    let of = |known: &Known, entry: &Entry| known.get(&entry.path).copied().flatten();
    let change = |entry: &Entry| {
        let change = match (of(before, entry), of(now, entry)) {
            (None, None) => return None,
            (None, Some(_)) => "made",
            (Some(_), None) => "removed",
            (Some(before), Some(now)) if before != now => "replaced",
            _ => "written",
        };
        let blamed = blamed(entry, change, happened, who)?;
        // What is as it was, is the host's own work on it; or nobody knows whose.
        (change != "written" || blamed.by == By::Inside).then_some(blamed)
    };
    entries.iter().filter_map(change).collect()
}

/// A change, with who has done it: the worst of those who could have.
fn blamed(entry: &Entry, change: &'static str, happened: &[Happening], who: &[By]) -> Option<Change> {
    let concerning = || happened.iter().zip(who).filter(|(happening, _)| happening.concerns(&entry.path));
    let worst = concerning().map(|(_, by)| *by).max()?;
    let pid = concerning().find_map(|(happening, by)| match happening {
        Happening::Done { pid, .. } if *by == worst => Some(*pid),
        _ => None,
    });
    Some(Change { entry: entry.clone(), change, by: worst, pid })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn entry(path: &str) -> Entry {
        Entry { path: Inner::try_from(path).unwrap(), how: How::ReadOnly }
    }

    fn done(directory: &str, name: &str, is_content: bool) -> Happening {
        let (directory, name) = (Some(directory.to_owned()), name.to_owned());
        Happening::Done { directory, name, is_content, pid: 7, alive: None }
    }

    /// The host had moved its hooks away just as a change of its configuration was answered: nobody was told.
    #[test]
    fn what_is_found_before_it_is_told_is_told_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let there = Some(Identity::of(File::open(directory.path()).unwrap()).unwrap());
        let entries = [entry(".git/config"), entry(".git/hooks")];
        let [config, hooks] = entries.each_ref().map(|entry| entry.path.clone());
        let mut known = Known::from([(config.clone(), None), (hooks.clone(), there)]);
        let now = Known::from([(config, there), (hooks.clone(), None)]);
        for (told, change) in [("config", "made"), ("hooks", "removed")] {
            let happened = [done(".git", told, false)];
            let changes = changes(&entries, &known, &now, &happened, &[By::Outside]);
            let changes: Vec<_> = changes.iter().map(|c| (c.entry.path.to_string(), c.change)).collect();
            assert_eq!(changes, [(format!(".git/{told}"), change)]);
            learn(&mut known, now.clone(), &happened);
        }
        assert_eq!(known.get(&hooks), Some(&None));
    }

    #[test]
    fn who_changed_what() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = directory.path().join(name);
            fs::write(&path, "").unwrap();
            Some(Identity::of(File::open(path).unwrap()).unwrap())
        };
        let (one, other) = (file("one"), file("other"));
        let path = |text: &str| Inner::try_from(text).unwrap();
        let entries = [entry(".git/config"), entry(".git/hooks"), entry(".husky")];
        let known = |config, hooks, husky| {
            Known::from([(path(".git/config"), config), (path(".git/hooks"), hooks), (path(".husky"), husky)])
        };
        let found = |before: &Known, now: &Known, happened: &[Happening], who: &[By]| {
            let changes = changes(&entries, before, now, happened, who);
            changes.into_iter().map(|c| (c.entry.path.to_string(), c.change, c.by)).collect::<Vec<_>>()
        };
        let before = known(one, one, None);
        // git config.
        let replaced = known(other, one, None);
        let told = found(&before, &replaced, &[done(".git", "config", false)], &[By::Outside]);
        assert_eq!(told, [(".git/config".to_owned(), "replaced", By::Outside)]);
        // Two at once: the worst counts.
        let both = [done(".git", "config", false), done(".git", "config", false)];
        let told = found(&before, &replaced, &both, &[By::Inside, By::Outside]);
        assert_eq!(told, [(".git/config".to_owned(), "replaced", By::Inside)]);
        // The host edits a hook; somebody inside does.
        let edited = [done(".git/hooks", "pre-commit", true)];
        assert_eq!(found(&before, &before, &edited, &[By::Outside]), []);
        let told = found(&before, &before, &edited, &[By::Inside]);
        assert_eq!(told, [(".git/hooks".to_owned(), "written", By::Inside)]);
        // It comes with the directory above it.
        let told = found(&known(None, None, None), &before, &[done("", ".git", false)], &[By::Outside]);
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|(_, change, by)| (*change, *by) == ("made", By::Outside)));
        // What was missed is nobody's, and what is as it was is no change.
        let told = found(&before, &known(one, None, None), &[Happening::Missed], &[By::Unknown]);
        assert_eq!(told, [(".git/hooks".to_owned(), "removed", By::Unknown)]);
    }

    #[test]
    fn who_has_it_open_for_writing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let written = File::create(&path).unwrap();
        let identity = Identity::of(&written).unwrap();
        let me = std::process::id();
        assert_eq!(writer(&[me], &[identity]), Some(me));
        drop(written);
        let _read = File::open(&path).unwrap();
        assert_eq!(writer(&[me], &[identity]), None);
    }
}
