//! The trees of mounts that containers get: a workspace in which what is protected can only be read, and further mounts.
//!
//! It promises that what a user names is opened once, with that user's rights, and that a tree is whole when it is
//! answered; that nothing of it is left in Incus's namespace once the container has its own copy, or when nobody has
//! claimed it within [`UNCLAIMED`] and who has had it made is gone; and that a tree belongs to that user.
//!
//! A tree is made in Incus's mount namespace, from where the container gets it at its start. It is taken away there as
//! soon as the container runs: where Incus shares the host's namespace, the host's git could not replace a file
//! that something is mounted on. A container that starts once its tree is gone sees an empty directory in its place; who keeps
//! the tree has it stand still.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use nix::libc;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::AbortHandle};

use super::{
    admission::{Caller, admin_group},
    api::{self, ExtraMount, TreeRequest},
    as_user::{open_directory, open_mountable},
    refusal::Refusal,
    subject::incus_pid,
};
use crate::{
    incus,
    monitor::audit,
    mount::{
        Entry, How, Inner, TreeError,
        call::{self, Identity},
        heed::Heed,
        inside::Place,
        namespace, table,
        tree::{self, Masks},
    },
};

/// How long a tree that no watch has claimed is kept at least.
const UNCLAIMED: Duration = Duration::from_secs(60);
/// How many paths may be asked for, and how many further mounts.
const MOST_PATHS: usize = 256;
const MOST_MOUNTS: usize = 32;
/// How many modules or worktrees of a repository are held one by one.
const MOST_MODULES: usize = 64;
/// How deep below `.git/modules` a module may be: its name may have slashes in it.
const DEEPEST_MODULE: usize = 8;
/// Where `.env` files are looked for, and among how many names.
const DEEPEST_ENV: usize = 3;
const MOST_NAMES: usize = 20_000;
/// Directories in which nobody keeps secrets of a project.
const NO_ENV: [&str; 6] = [".git", "node_modules", "target", ".venv", "venv", "vendor"];
/// What holds an example, not a secret.
const EXAMPLES: [&str; 6] = [".example", ".sample", ".template", ".tmpl", ".dist", ".defaults"];
/// What a repository has that says which programs are run, below its own directory.
const OF_REPOSITORY: [&str; 5] = ["hooks", "config", "config.worktree", "commondir", "info/attributes"];

/// A tree as it is kept for the next daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Lasting {
    id: String,
    pub(super) request: TreeRequest,
    /// Whose it is, by uid, gid and other groups.
    by: (u32, u32, Vec<u32>),
}

impl Lasting {
    /// The tree's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn caller(&self) -> Caller {
        let (uid, gid, groups) = self.by.clone();
        Caller::new(uid, gid, groups, admin_group())
    }
}

/// A tree.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) lasting: Lasting,
    /// The workspace, opened once.
    pub(super) truth: File,
    pub(super) place: Place,
    /// What is held in it.
    pub(super) entries: Vec<Entry>,
    /// There was a repository when it was made.
    pub(super) had_git: bool,
    masks: Arc<Masks>,
    directory: PathBuf,
    /// It is in Incus's namespace.
    is_staged: AtomicBool,
    /// Another one has its id now.
    pub(super) replaced: Notify,
    /// Heeds what changes from the moment on when it was looked at. `None` once it was taken, or if the file system cannot.
    heed: Mutex<Option<Heed>>,
    /// Who keeps it.
    keeper: Mutex<Option<AbortHandle>>,
    /// The watch that has claimed it.
    claimed: Mutex<Option<String>>,
}

/// All trees there are.
#[derive(Debug)]
pub(super) struct Trees {
    directory: PathBuf,
    all: Mutex<HashMap<String, Arc<Tree>>>,
    masks: PathBuf,
}

/// Nobody leaves it half done.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trees {
    /// Those in this directory: none yet.
    pub(super) fn at(directory: PathBuf) -> Self {
        Self { directory, all: Mutex::default(), masks: audit::daemon_directory().join("masks") }
    }

    /// Makes one for this caller, in the namespace of the Incus that listens there.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        request: TreeRequest,
        caller: Caller,
        incus: incus::Client,
    ) -> Result<api::Tree, Refusal> {
        check(&request, &incus)?;
        let id = match &request.id {
            Some(id) => {
                check_id(id)?;
                id.clone()
            }
            None => uuid::Uuid::new_v4().to_string(),
        };
        let before = self.get(&id);
        if let Some(before) = &before
            && !before.is_of(&caller)
        {
            return Err(Refusal::denied(format!("the tree {id} belongs to somebody else")));
        }
        let by = (caller.uid, caller.gid, caller.groups.clone());
        let lasting = Lasting { id: id.clone(), request, by };
        let (trees, asks, maker) = (Arc::clone(self), incus.clone(), caller.clone());
        let made = tokio::task::spawn_blocking(move || {
            if let Some(before) = &before {
                before.take_down(&asks);
            }
            trees.stage(lasting, &caller, &asks)
        });
        let (tree, notes) = made.await.map_err(|error| Refusal::internal(error.to_string()))??;
        let (answer, tree) = (tree.describe(notes), Arc::new(tree));
        let before = locked(&self.all).insert(id.clone(), Arc::clone(&tree));
        if let Some(before) = before {
            // Its watch goes on with the new one.
            locked(&tree.claimed).clone_from(&locked(&before.claimed));
            before.replaced.notify_one();
        }
        // What is over by then is not kept for this.
        let (trees, tree) = (Arc::downgrade(self), Arc::downgrade(&tree));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UNCLAIMED).await;
                let (Some(trees), Some(tree)) = (trees.upgrade(), tree.upgrade()) else { return };
                if locked(&tree.claimed).is_some() {
                    return;
                }
                // Who has had it made may still wait for its container: an image is unpacked as fast as the disk allows.
                if !maker.is_there() {
                    return trees.remove(&id, &incus).await;
                }
            }
        });
        Ok(answer)
    }

    /// Makes a tree. Blocks.
    fn stage(
        &self,
        lasting: Lasting,
        caller: &Caller,
        incus: &incus::Client,
    ) -> Result<(Tree, Vec<String>), Refusal> {
        let directory = self.directory.join(&lasting.id);
        let failed = |what: &str, error: io::Error| {
            Refusal::internal(format!("the workspace's mounts cannot be made: {what}: {error}"))
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|e| failed("a directory", e))?;
        let spot = directory.join("workspace");
        fs::DirBuilder::new().recursive(true).create(&spot).map_err(|e| failed("a directory", e))?;
        let (tree, mut notes) = self.open(lasting, caller, incus)?;
        let own = File::open(&spot).and_then(Identity::of).map_err(|e| failed("a directory", e))?;
        let staged = tree
            .supply()
            .map_err(Refusal::from)
            .and_then(|supply| within_incus(incus, || tree.stage(&spot, own, caller, supply)));
        match staged {
            Ok(()) => tree.is_staged.store(true, Ordering::Release),
            Err(refusal) => {
                clear(&tree.directory, incus);
                return Err(refusal);
            }
        }
        if locked(&tree.heed).is_none() && !tree.entries.is_empty() {
            notes.push(
                "changes of protected paths by the host's programs cannot be noticed on the workspace's file system: what \
                 the host replaces while the container runs is no longer protected in it"
                    .to_owned(),
            );
        }
        Ok((tree, notes))
    }

    /// Opens a workspace, and finds what is to be held in it. Blocks.
    fn open(
        &self,
        lasting: Lasting,
        caller: &Caller,
        incus: &incus::Client,
    ) -> Result<(Tree, Vec<String>), Refusal> {
        let path = lasting.request.workspace.clone();
        let masks = Masks::open(&self.masks).map_err(|error| {
            Refusal::internal(format!("{} cannot be used: {error}", self.masks.display()))
        })?;
        let look = || {
            let unusable = |error: io::Error| {
                Refusal::bad_request(format!("the workspace {} cannot be used: {error}", path.display()))
            };
            let truth = open_directory(path.clone(), caller).map_err(unusable)?;
            let place = place_of(&truth).map_err(unusable)?;
            Ok((truth, place))
        };
        // What runs goes on without Incus, and is kept without it.
        let (truth, place) = if incus_pid(incus).is_some() { within_incus(incus, look)? } else { look()? };
        let (entries, notes) = find(&truth, &lasting.request)?;
        let git = Inner::try_from(".git").map_err(|error| Refusal::internal(error.to_string()))?;
        let had_git = tree::look(truth.as_fd(), &git)?.is_some();
        let heed = Heed::new().ok().and_then(|mut heed| {
            let marked = heed.mark(truth.as_fd(), &entries);
            marked.ok().map(|()| heed)
        });
        let directory = self.directory.join(&lasting.id);
        let tree = Tree {
            lasting,
            truth,
            place,
            entries,
            had_git,
            masks: Arc::new(masks),
            directory,
            is_staged: AtomicBool::new(false),
            replaced: Notify::new(),
            heed: Mutex::new(heed),
            keeper: Mutex::default(),
            claimed: Mutex::default(),
        };
        Ok((tree, notes))
    }

    /// The tree of the daemon before, for a watch of its.
    pub(super) async fn restore(
        self: &Arc<Self>,
        lasting: Lasting,
        watch: &str,
        incus: incus::Client,
    ) -> Result<Arc<Tree>, Refusal> {
        let (trees, caller) = (Arc::clone(self), lasting.caller());
        let opened = tokio::task::spawn_blocking(move || {
            let (tree, _) = trees.open(lasting, &caller, &incus)?;
            tree.is_staged.store(!mounted_in(&tree.directory, &incus)?.is_empty(), Ordering::Release);
            Ok::<_, Refusal>(tree)
        });
        let tree = opened.await.map_err(|error| Refusal::internal(error.to_string()))??;
        *locked(&tree.claimed) = Some(watch.to_owned());
        let tree = Arc::new(tree);
        locked(&self.all).insert(tree.lasting.id.clone(), Arc::clone(&tree));
        Ok(tree)
    }

    /// Takes away what a daemon before has left, and no watch claims any more.
    pub(super) async fn sweep(self: &Arc<Self>, incus: incus::Client) {
        let trees = Arc::clone(self);
        let swept = tokio::task::spawn_blocking(move || {
            for entry in fs::read_dir(&trees.directory).into_iter().flatten().flatten() {
                let is_known =
                    entry.file_name().to_str().is_some_and(|id| locked(&trees.all).contains_key(id));
                if !is_known {
                    clear(&entry.path(), &incus);
                }
            }
        });
        if swept.await.is_err() {
            tracing::error!("mounts of a daemon before may be left");
        }
    }

    /// The tree of this id, for the watch of this name.
    pub(super) fn claim(&self, id: &str, watch: &str, caller: Option<&Caller>) -> Result<Arc<Tree>, Refusal> {
        let is_theirs = |tree: &Arc<Tree>| caller.is_none_or(|caller| tree.is_of(caller));
        let Some(tree) = self.get(id).filter(is_theirs) else {
            return Err(Refusal::bad_request(format!(
                "there is no tree {id} of yours; it is kept for {} s without a watch",
                UNCLAIMED.as_secs()
            )));
        };
        *locked(&tree.claimed) = Some(watch.to_owned());
        Ok(tree)
    }

    /// A watch does not claim its tree any more, and another one will.
    pub(super) fn unclaim(&self, watch: &str) {
        for tree in self.of(watch) {
            *locked(&tree.claimed) = None;
            tree.dismiss();
        }
    }

    /// A watch is over, and with it its tree.
    pub(super) async fn release(&self, watch: &str, incus: &incus::Client) {
        for tree in self.of(watch) {
            self.remove(&tree.lasting.id, incus).await;
        }
    }

    fn of(&self, watch: &str) -> Vec<Arc<Tree>> {
        let all = locked(&self.all);
        all.values().filter(|tree| locked(&tree.claimed).as_deref() == Some(watch)).cloned().collect()
    }

    /// Is this the source of a device, as it is told to Incus?
    pub(super) fn has(&self, source: &Path) -> bool {
        source.starts_with(&self.directory)
    }

    /// The tree of this id.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Tree>> {
        locked(&self.all).get(id).cloned()
    }

    /// Takes away what this caller has had made. Of one that a watch has claimed the mounts alone: nothing starts with it until
    /// it is made anew.
    pub(super) async fn discard(
        &self,
        id: &str,
        caller: &Caller,
        incus: &incus::Client,
    ) -> Result<(), Refusal> {
        let tree = self.get(id).filter(|tree| tree.is_of(caller));
        let tree = tree.ok_or_else(|| Refusal::not_found(format!("there is no tree {id} of yours")))?;
        let is_claimed = locked(&tree.claimed).is_some();
        if is_claimed {
            let incus = incus.clone();
            let down = tokio::task::spawn_blocking(move || tree.take_down(&incus)).await;
            return down.map_err(|error| Refusal::internal(error.to_string()));
        }
        self.remove(id, incus).await;
        Ok(())
    }

    /// Takes a tree away.
    pub(super) async fn remove(&self, id: &str, incus: &incus::Client) {
        let Some(tree) = locked(&self.all).remove(id) else { return };
        tree.dismiss();
        let incus = incus.clone();
        if tokio::task::spawn_blocking(move || clear(&tree.directory, &incus)).await.is_err() {
            tracing::error!(id, "the mounts of a workspace may be left");
        }
    }
}

impl Tree {
    /// Its id.
    pub(super) fn id(&self) -> &str {
        &self.lasting.id
    }

    fn is_of(&self, caller: &Caller) -> bool {
        caller.is_root() || caller.uid == self.lasting.by.0
    }

    fn describe(&self, notes: Vec<String>) -> api::Tree {
        let mounts =
            (0..self.lasting.request.mounts.len()).map(|number| self.directory.join(number.to_string()));
        api::Tree {
            id: self.lasting.id.clone(),
            workspace: self.directory.join("workspace"),
            mounts: mounts.collect(),
            held: self
                .entries
                .iter()
                .filter(|entry| {
                    tree::look(self.truth.as_fd(), &entry.path).is_ok_and(|found| found.is_some())
                })
                .map(|entry| entry.path.to_string())
                .collect(),
            notes,
        }
    }

    /// Makes the mounts, in Incus's namespace. `own` is the directory for it as the daemon itself sees it.
    fn stage(
        &self,
        spot: &Path,
        own: Identity,
        caller: &Caller,
        mut supply: tree::Supply,
    ) -> Result<(), Refusal> {
        let failed = |what: &str, error: io::Error| {
            Refusal::internal(format!("the workspace's mounts cannot be made: {what}: {error}"))
        };
        // A daemon that was killed may have left something.
        while call::detach(&spot.to_string_lossy()).map_err(|error| failed("what was there before", error))? {
        }
        let on = File::open(spot).map_err(|error| failed("a directory", error))?;
        if Identity::of(&on).map_err(|error| failed("a directory", error))? != own {
            let words = format!("Incus runs where {} is another directory", spot.display());
            return Err(Refusal::internal(words));
        }
        let root = call::copy(&self.truth).map_err(|error| failed("of the workspace", error))?;
        call::attach(&root, &on).map_err(|error| failed("of the workspace", error))?;
        for entry in &self.entries {
            tree::hold(root.as_fd(), self.truth.as_fd(), entry, &mut supply)?;
        }
        for (number, mount) in self.lasting.request.mounts.iter().enumerate() {
            stage_mount(mount, &self.directory.join(number.to_string()), caller)?;
        }
        Ok(())
    }

    /// Makes it whole again in Incus's namespace, as long as it is there: the host may have changed it.
    pub(super) fn restage(&self, incus: &incus::Client) -> Result<(), Refusal> {
        if !self.is_staged() {
            return Ok(());
        }
        let spot = self.directory.join("workspace");
        let mut supply = self.supply()?;
        within_incus(incus, || {
            let root = File::open(&spot).map_err(|error| Refusal::internal(error.to_string()))?;
            for entry in &self.entries {
                tree::hold(root.as_fd(), self.truth.as_fd(), entry, &mut supply)?;
            }
            Ok(())
        })
    }

    /// Mounts for what is masked. They are made in the daemon's own namespace, where the masks were opened.
    pub(super) fn supply(&self) -> Result<tree::Supply, TreeError> {
        self.masks.supply(&self.truth, &self.entries)
    }

    /// Whether it is in Incus's namespace.
    pub(super) fn is_staged(&self) -> bool {
        self.is_staged.load(Ordering::Acquire)
    }

    /// What heeds it since it was made, once.
    pub(super) fn take_heed(&self) -> Option<Heed> {
        locked(&self.heed).take()
    }

    /// This task keeps it.
    pub(super) fn keep_by(&self, keeper: AbortHandle) {
        if let Some(before) = locked(&self.keeper).replace(keeper) {
            before.abort();
        }
    }

    fn dismiss(&self) {
        if let Some(keeper) = locked(&self.keeper).take() {
            keeper.abort();
        }
    }

    /// Takes its mounts away from Incus's namespace. What they were mounted on stays: Incus looks whether the sources of
    /// devices are there, also when it stops something. Blocks.
    pub(super) fn take_down(&self, incus: &incus::Client) {
        if let Err(refusal) = detach_below(&self.directory, incus) {
            tracing::warn!(error = refusal.error.message, directory = %self.directory.display(), "mounts are left");
        }
        self.is_staged.store(false, Ordering::Release);
    }
}

/// Where something is mounted in a directory in Incus's namespace, the last one on top. What is mounted below these goes with
/// them, and nobody's links are followed to it.
fn mounted_in(directory: &Path, incus: &incus::Client) -> Result<Vec<String>, Refusal> {
    let text = directory.to_string_lossy().into_owned();
    let is_ours = |point: &str| table::below(point, &text).is_some_and(|name| !name.contains('/'));
    within_incus(incus, || {
        let mounts = table::of_thread().map_err(|error| Refusal::internal(error.to_string()))?;
        Ok(mounts.into_iter().map(|mount| mount.point).filter(|point| is_ours(point)).collect())
    })
}

/// Takes away all that is mounted in a directory in Incus's namespace.
fn detach_below(directory: &Path, incus: &incus::Client) -> Result<(), Refusal> {
    let points = mounted_in(directory, incus)?;
    within_incus(incus, || {
        let mut down = points.iter().rev();
        down.try_for_each(|point| call::detach(point).map(drop))
            .map_err(|error| Refusal::internal(error.to_string()))
    })
}

/// Takes away a directory, with all that is mounted in it in Incus's namespace. Blocks.
fn clear(directory: &Path, incus: &incus::Client) {
    let text = directory.to_string_lossy().into_owned();
    if let Err(refusal) = detach_below(directory, incus) {
        tracing::warn!(error = refusal.error.message, directory = text, "mounts are left");
        return;
    }
    // Never more than what is empty: should something still be mounted there, it is the user's.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_directory { fs::remove_dir(entry.path()) } else { fs::remove_file(entry.path()) };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %entry.path().display(), "a directory is left");
        }
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, directory = text, "a directory is left");
        }
        _ => {}
    }
}

/// Does something in the mount namespace of the Incus that listens there. Blocks.
fn within_incus<T: Send>(
    incus: &incus::Client,
    act: impl FnOnce() -> Result<T, Refusal> + Send,
) -> Result<T, Refusal> {
    let pid = incus_pid(incus).ok_or_else(|| {
        let words = format!("Incus does not answer on {}", incus.socket().display());
        Refusal::new(StatusCode::BAD_GATEWAY, "incus", words)
    })?;
    let entered = namespace::of_process(pid).map_err(Denied::Enter);
    entered
        .and_then(|namespace| namespace::within(&namespace, || act().map_err(Denied::Act)))
        .map_err(Denied::refusal)
}

/// Why something was not done in another namespace.
enum Denied {
    Enter(io::Error),
    Act(Refusal),
}

impl From<io::Error> for Denied {
    fn from(error: io::Error) -> Self {
        Self::Enter(error)
    }
}

impl Denied {
    fn refusal(self) -> Refusal {
        match self {
            Self::Enter(error) => Refusal::internal(format!(
                "the daemon cannot enter Incus's mount namespace: {error}. It needs CAP_SYS_ADMIN and CAP_SYS_CHROOT"
            )),
            Self::Act(refusal) => refusal,
        }
    }
}

impl From<TreeError> for Refusal {
    fn from(error: TreeError) -> Self {
        let words = format!("the workspace cannot be protected: {error}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "workspace", words)
    }
}

/// Where an open directory is in its file system. In the namespace that it was opened in.
fn place_of(directory: &File) -> io::Result<Place> {
    let id = call::mount_id(directory)?;
    let mounts = table::of_thread()?;
    let unknown = || io::Error::other("its mount is not among those of Incus");
    let mount = mounts.iter().find(|mount| mount.id == id).ok_or_else(unknown)?;
    let path = fs::read_link(format!("/proc/thread-self/fd/{}", directory.as_raw_fd()))?;
    let path = path.to_str().ok_or_else(|| io::Error::other("its path is not UTF-8"))?;
    let below = table::below(path, &mount.point).ok_or_else(unknown)?;
    let root = match (mount.root.trim_end_matches('/'), below) {
        ("", "") => "/".to_owned(),
        (root, "") => root.to_owned(),
        (root, below) => format!("{root}/{below}"),
    };
    Ok(Place { device: mount.device.clone(), root })
}

/// Mounts something of the host's beside the workspace.
fn stage_mount(mount: &ExtraMount, spot: &Path, caller: &Caller) -> Result<(), Refusal> {
    let unusable = |why: String| {
        Refusal::bad_request(format!("{} cannot be mounted in the container: {why}", mount.host.display()))
    };
    let opened = open_mountable(mount.host.clone(), caller).map_err(|error| unusable(error.to_string()))?;
    let owner = call::owner(&opened).map_err(|error| unusable(error.to_string()))?;
    if owner != caller.uid && !caller.is_root() {
        return Err(unusable(format!(
            "it belongs to the user {owner}, whose rights on it root in the container would have; only root may do that"
        )));
    }
    let is_directory = Identity::of(&opened).map_err(|error| unusable(error.to_string()))?.is_directory();
    let made = match is_directory {
        true => fs::DirBuilder::new().recursive(true).create(spot),
        false => File::options().write(true).create(true).truncate(true).mode(0o600).open(spot).map(drop),
    };
    let attached = made.and_then(|()| {
        let copy = call::copy(&opened)?;
        if mount.readonly {
            call::make_read_only(&copy)?;
        }
        let on = File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(spot)?;
        call::attach(&copy, &on)
    });
    attached.map_err(|error| unusable(error.to_string()))
}

fn check_id(id: &str) -> Result<(), Refusal> {
    match uuid::Uuid::parse_str(id) {
        Ok(parsed) if parsed.to_string() == id => Ok(()),
        _ => Err(Refusal::bad_request(format!("{id:?} is no id of a tree"))),
    }
}

/// What is never right, whatever the files are.
fn check(request: &TreeRequest, incus: &incus::Client) -> Result<(), Refusal> {
    let refuse = |words: String| Err(Refusal::bad_request(words));
    if request.protected.len() + request.secret.len() > MOST_PATHS {
        return refuse(format!("more than {MOST_PATHS} paths are to be protected or masked"));
    }
    if request.mounts.len() > MOST_MOUNTS {
        return refuse(format!("more than {MOST_MOUNTS} mounts are asked for"));
    }
    for path in [Path::new(&request.inside), &request.workspace] {
        if !is_plain(path) {
            return refuse(format!("the workspace's path {} is not absolute and plain", path.display()));
        }
    }
    for mount in &request.mounts {
        let ExtraMount { host, container, readonly } = mount;
        let refuse =
            |why: &str| refuse(format!("{} cannot be mounted in the container: {why}", host.display()));
        if !is_plain(host) || host == Path::new("/") {
            return refuse("its path is not absolute and plain, or it is the whole machine");
        }
        if !is_plain(Path::new(container)) || container == "/" {
            return refuse(&format!("{container:?} is no absolute, plain path in the container"));
        }
        if Path::new(container).starts_with(&request.inside)
            || Path::new(&request.inside).starts_with(container)
        {
            return refuse(&format!(
                "in the container it would be at the workspace's own place, {container}"
            ));
        }
        let overlaps = host.starts_with(&request.workspace) || request.workspace.starts_with(host);
        if overlaps && !readonly {
            return refuse(
                "it and the workspace are parts of each other, and what is protected there would not be; make it readonly",
            );
        }
        if incus.socket().starts_with(host) {
            return refuse("Incus's socket is in it, and who has that is root on this machine");
        }
    }
    Ok(())
}

/// An absolute path that leads nowhere but where it says.
fn is_plain(path: &Path) -> bool {
    let normal = |part: std::path::Component<'_>| {
        matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_))
    };
    path.is_absolute() && path.to_str().is_some() && path.components().all(normal)
}

/// What is to be held in a workspace, and what should be said about it.
fn find(truth: &File, request: &TreeRequest) -> Result<(Vec<Entry>, Vec<String>), Refusal> {
    let mut notes = Vec::new();
    let mut read_only = request.protected.clone();
    let inner = |path: &str| Inner::try_from(path).map_err(|error| Refusal::internal(error.to_string()));
    let git = inner(".git")?;
    if request.protected.iter().any(|path| path.is_within(&git)) {
        match tree::open(truth.as_fd(), &git)? {
            Some(opened) if Identity::of(&opened).is_ok_and(Identity::is_directory) => {
                of_repository(truth, &request.protected, &mut read_only)?;
            }
            Some(_) => {
                read_only.push(git.clone());
                notes.push(elsewhere(truth, &git)?);
            }
            None => {}
        }
    }
    let mut masked = request.secret.clone();
    if request.mask_env {
        masked.push(inner(".env")?);
        let mut left = MOST_NAMES;
        env_files(truth, None, &mut left, &mut masked)?;
        if left == 0 {
            notes.push(format!(
                "only {MOST_NAMES} names were looked at for .env files; name others in security.secret_paths"
            ));
        }
    }
    for path in masked.iter().chain(&read_only) {
        // A symbolic link is refused before anything is made.
        tree::look(truth.as_fd(), path)?;
    }
    let entries = read_only.into_iter().map(|path| Entry { path, how: How::ReadOnly });
    let entries = entries.chain(masked.into_iter().map(|path| Entry { path, how: How::Masked })).collect();
    Ok((tree::in_order(entries), notes))
}

/// The worktrees and modules of a repository, as far as the same of the repository itself is asked for.
fn of_repository(truth: &File, asked: &[Inner], found: &mut Vec<Inner>) -> Result<(), Refusal> {
    let is_asked = |name: &str| asked.iter().any(|path| path.below(".git") == Some(name));
    let internal = |error: crate::mount::path::NotInner| Refusal::internal(error.to_string());
    let worktrees = Inner::try_from(".git/worktrees").map_err(internal)?;
    for name in directories(truth, &worktrees)?.into_iter().take(MOST_MODULES) {
        let worktree = worktrees.join(&name).map_err(internal)?;
        for name in OF_REPOSITORY.into_iter().filter(|name| *name != "hooks" && is_asked(name)) {
            found.push(worktree.join(name).map_err(internal)?);
        }
    }
    let modules = Inner::try_from(".git/modules").map_err(internal)?;
    let mut all = Vec::new();
    let mut open = vec![modules.clone()];
    while let Some(directory) = open.pop() {
        for name in directories(truth, &directory)? {
            let below = directory.join(&name).map_err(internal)?;
            let head = below.join("HEAD").map_err(internal)?;
            if tree::look(truth.as_fd(), &head)?.is_some() {
                // It may have modules of its own.
                open.push(below.join("modules").map_err(internal)?);
                all.push(below);
            } else if below.parts().count() < modules.parts().count() + DEEPEST_MODULE {
                open.push(below);
            }
        }
    }
    if all.len() > MOST_MODULES {
        found.push(modules);
        return Ok(());
    }
    for module in all {
        for name in OF_REPOSITORY.into_iter().filter(|name| is_asked(name)) {
            found.push(module.join(name).map_err(internal)?);
        }
    }
    Ok(())
}

/// The names of the directories in one of the workspace; none if it is not there.
fn directories(truth: &File, path: &Inner) -> Result<Vec<String>, Refusal> {
    let Some(opened) = tree::open(truth.as_fd(), path)? else { return Ok(Vec::new()) };
    if !Identity::of(&opened).is_ok_and(Identity::is_directory) {
        return Ok(Vec::new());
    }
    let names = tree::names(opened.as_fd())
        .map_err(|error| Refusal::bad_request(format!("{path} of the workspace cannot be read: {error}")))?;
    Ok(names.into_iter().filter(|(_, kind)| kind.is_dir()).map(|(name, _)| name).collect())
}

/// What should be said where `.git` is a file.
fn elsewhere(truth: &File, git: &Inner) -> Result<String, Refusal> {
    let mut text = String::new();
    if let Some(opened) = tree::open(truth.as_fd(), git)? {
        // What is open as a place is opened to be read by its name in /proc.
        let path = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let read = file.and_then(|file| file.take(4096).read_to_string(&mut text));
        if read.is_err() {
            text.clear();
        }
    }
    let line =
        text.lines().next().and_then(|line| line.strip_prefix("gitdir:")).unwrap_or("elsewhere").trim();
    Ok(format!(
        "the workspace's .git is a file, and its repository is {line}: git works in the container only if that is mounted \
         there too, and what is protected is the file alone"
    ))
}

/// Finds `.env` files.
fn env_files(
    truth: &File,
    directory: Option<&Inner>,
    left: &mut usize,
    found: &mut Vec<Inner>,
) -> Result<(), Refusal> {
    let opened = match directory {
        Some(path) => match tree::open(truth.as_fd(), path)? {
            Some(opened) => Some(opened),
            None => return Ok(()),
        },
        None => None,
    };
    let place = opened.as_ref().map_or(truth.as_fd(), |opened| opened.as_fd());
    // One that cannot be read any more has gone.
    for (name, kind) in tree::names(place).unwrap_or_default() {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return Ok(());
        }
        let path =
            directory.map_or_else(|| Inner::try_from(name.as_str()), |directory| directory.join(&name));
        let Ok(path) = path else { continue };
        if kind.is_file() && is_env(&name) {
            found.push(path);
        } else if kind.is_dir() && path.parts().count() < DEEPEST_ENV && !NO_ENV.contains(&name.as_str()) {
            // Something is mounted there, or it has just gone.
            match env_files(truth, Some(&path), left, found) {
                Ok(()) => {}
                Err(refusal) => {
                    tracing::debug!(error = refusal.error.message, "not looked at for .env files");
                }
            }
        }
    }
    Ok(())
}

/// Is it the name of a file with secrets of a project?
fn is_env(name: &str) -> bool {
    let is_named = name == ".env" || name.starts_with(".env.");
    is_named && !EXAMPLES.iter().any(|example| name.ends_with(example))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(mounts: Vec<ExtraMount>) -> TreeRequest {
        TreeRequest { mounts, ..TreeRequest::new("/home/ann/app".into()) }
    }

    #[test]
    fn what_is_never_mounted() {
        let mount = |host: &str, container: &str, readonly| ExtraMount {
            host: host.into(),
            container: container.to_owned(),
            readonly,
        };
        let refused = |mount: ExtraMount| {
            let incus = incus::Client::at("/var/lib/incus/unix.socket");
            check(&request(vec![mount]), &incus).map_err(|refusal| refusal.error.message)
        };
        let all = [
            mount("/", "/host", true),
            mount("cache", "/cache", false),
            mount("/home/ann/../bob", "/bob", false),
            mount("/home/ann/cache", "cache", false),
            mount("/home/ann/cache", "/workspace/cache", false),
            mount("/home/ann/cache", "/", false),
            mount("/home/ann", "/home/ann", false),
            mount("/home/ann/app/.git", "/git", false),
            mount("/var/lib", "/host", true),
        ];
        insta::assert_snapshot!(all.map(|mount| refused(mount).unwrap_err()).join("\n"));
        assert_eq!(refused(mount("/home/ann", "/home/ann", true)), Ok(()));
        assert_eq!(refused(mount("/home/ann/cache", "/cache", false)), Ok(()));
    }

    #[test]
    fn what_is_found_in_a_repository() {
        let workspace = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = workspace.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for path in [
            ".git/config",
            ".git/worktrees/fix/gitdir",
            ".git/modules/lib/HEAD",
            ".git/modules/group/other/HEAD",
            ".git/modules/lib/modules/deep/HEAD",
            ".env",
            ".env.local",
            ".env.example",
            "apps/web/.env",
            "node_modules/x/.env",
        ] {
            make(path);
        }
        let truth = File::open(workspace.path()).unwrap();
        let asked = TreeRequest { mask_env: true, ..TreeRequest::new(workspace.path().into()) };
        let (entries, notes) = find(&truth, &asked).unwrap();
        let text: Vec<_> = entries.iter().map(|entry| format!("{:?} {}", entry.how, entry.path)).collect();
        insta::assert_snapshot!(text.join("\n"));
        assert_eq!(notes, [""; 0]);
    }

    #[test]
    fn a_git_file_is_protected_itself() {
        let workspace = tempfile::tempdir().unwrap();
        fs::write(workspace.path().join(".git"), "gitdir: /home/ann/app/.git/worktrees/fix\n").unwrap();
        let truth = File::open(workspace.path()).unwrap();
        let (entries, notes) = find(&truth, &TreeRequest::new(workspace.path().into())).unwrap();
        assert!(entries.iter().any(|entry| entry.path.as_str() == ".git" && entry.how == How::ReadOnly));
        assert!(!entries.iter().any(|entry| entry.path.as_str().starts_with(".git/")));
        assert!(notes[0].contains("/home/ann/app/.git/worktrees/fix"), "{notes:?}");
    }

    #[test]
    fn a_symlinked_git_is_refused() {
        let workspace = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", workspace.path().join(".git")).unwrap();
        let truth = File::open(workspace.path()).unwrap();
        let refusal = find(&truth, &TreeRequest::new(workspace.path().into())).unwrap_err();
        assert!(refusal.error.message.contains(".git is a symbolic link"), "{}", refusal.error.message);
    }
}
