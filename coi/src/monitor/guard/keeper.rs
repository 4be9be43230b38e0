//! The guard's own process: `coi guard`, started by the daemon.
//!
//! It is one thread that waits for its one connection. That the daemon has gone it learns from the connection's end, or
//! from the kernel's word that the process is ending, whichever comes first: a process that holds kernel programs can take
//! seconds to end.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    Frozen, GuardError, Heard, Loss, PROTOCOL, SILENCE, SOCKET, Say, Welcome,
    socket::{Packets, listening},
};
use crate::monitor::{
    cgroup::{Cgroup, Mounts},
    private::Private,
    sensor::boottime,
    vacated::Vacated,
};

/// How often it is looked whether the daemon is ending, and, without one, what has been made.
const LOOK: Duration = Duration::from_millis(200);
/// How long the daemon that has started it may take to say so.
const FIRST: Duration = Duration::from_secs(10);
/// A process that is ending: `PF_EXITING` of `include/linux/sched.h`.
const EXITING: u64 = 4;

/// Guards until there is neither a daemon nor anything to guard. `listener` is the socket in the runtime directory that
/// the daemon has made for it.
pub fn run(directory: &Path, listener: Option<OwnedFd>) -> Result<(), GuardError> {
    let failed = |source| GuardError::Socket { path: directory.join(SOCKET), source };
    let private = Private::open(directory)?;
    let listener = match listener {
        Some(listener) => listener,
        None => listening(&directory.join(SOCKET)).map_err(failed)?,
    };
    prefer();
    let mounts = Mounts::find().map_err(|error| failed(io::Error::other(error)))?;
    let mut keeper = Keeper {
        mounts,
        expects: Instant::now() + FIRST,
        private,
        caller: None,
        wards: BTreeMap::new(),
        loss: None,
        daemon: None,
        freezes: None,
        still: Vec::new(),
    };
    keeper.run(&listener).map_err(failed)
}

/// Descriptors for as many cgroups as may be, and the last to go when memory is short.
fn prefer() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer, containers beyond them are still found by their paths.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::debug!(%error, "the guard may be ended when memory is short");
    }
}

/// What is watched.
struct Ward {
    next: Option<String>,
    cgroup: Option<Arc<Cgroup>>,
    freeze: bool,
    /// The daemon that is there now watches it.
    is_told: bool,
}

/// A daemon.
struct Daemon {
    packets: Packets,
    pid: u32,
    leaving: Option<Duration>,
    /// So long there was no sign of life, as far as this process was awake itself.
    silence: Duration,
    looked: Instant,
    /// It is taken for dead.
    is_doubted: bool,
}

impl Daemon {
    fn new(packets: Packets, pid: u32) -> Self {
        let (silence, looked) = (Duration::ZERO, Instant::now());
        Self { packets, pid, leaving: None, silence, looked, is_doubted: false }
    }

    /// Counts the time since the last look. Has it become too silent?
    fn falls_silent(&mut self) -> bool {
        self.silence += std::mem::replace(&mut self.looked, Instant::now()).elapsed().min(2 * LOOK);
        // One that is about to end need not get on; it has to end.
        !self.is_doubted && self.silence >= SILENCE + self.leaving.unwrap_or_default()
    }
}

struct Keeper {
    /// Where cgroups are.
    mounts: Mounts,
    /// Until then somebody is expected.
    expects: Instant,
    private: Private,
    /// Who has connected and not yet said what it is.
    caller: Option<(Packets, u32)>,
    wards: BTreeMap<String, Ward>,
    /// The note, as long as a daemon is missing or has not dealt with it.
    loss: Option<Loss>,
    daemon: Option<Daemon>,
    /// From when on what has no monitor is frozen.
    freezes: Option<Instant>,
    /// What this process has frozen and nobody has let go yet.
    still: Vec<Still>,
}

/// What this process has frozen.
struct Still {
    cgroup: Arc<Cgroup>,
    /// Version 1's freezer knows of it, where it has a part in it.
    is_told: bool,
    /// It may have ended, if it is a container.
    vacated: Option<Vacated>,
}

impl Keeper {
    fn run(&mut self, listener: &OwnedFd) -> io::Result<()> {
        loop {
            let connections = [
                self.daemon.as_ref().map(|daemon| &daemon.packets),
                self.caller.as_ref().map(|(packets, _)| packets),
            ];
            let mut ready = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            ready.extend(
                connections.iter().flatten().map(|packets| PollFd::new(packets.as_fd(), PollFlags::POLLIN)),
            );
            let timeout = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
            // An interrupted wait is one that has ended.
            let _ = poll(&mut ready, timeout);
            let mut ready = ready.iter().map(|fd| fd.any().unwrap_or(false));
            let mut is_ready = |is_there: bool| is_there && ready.next().unwrap_or(false);
            let comes = is_ready(true);
            let (speaks, calls) = (is_ready(connections[0].is_some()), is_ready(connections[1].is_some()));
            if speaks && !self.listen() {
                return Ok(());
            }
            if self.daemon.as_ref().is_some_and(|daemon| is_ending(daemon.pid)) {
                // Its last words may be that another one will come.
                while self.is_speaking() {
                    if !self.listen() {
                        return Ok(());
                    }
                }
                self.lost();
            }
            if self.daemon.as_mut().is_some_and(Daemon::falls_silent) {
                self.doubt();
            }
            if calls {
                self.greet();
            }
            if comes {
                self.accept(listener);
            }
            if self.freezes.is_some_and(|at| Instant::now() >= at) {
                self.freeze();
            }
            self.look_after();
            let is_expecting = self.caller.is_some() || Instant::now() < self.expects;
            if self.daemon.is_none() && !is_expecting && !self.wards.values().any(Ward::needs_a_guard) {
                return Ok(());
            }
        }
    }

    /// Has the daemon said something that was not taken yet?
    fn is_speaking(&self) -> bool {
        let Some(daemon) = &self.daemon else { return false };
        let mut ready = [PollFd::new(daemon.packets.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Takes what the daemon says. Is this process to go on?
    fn listen(&mut self) -> bool {
        let Some(daemon) = &mut self.daemon else { return true };
        let (say, with) = match daemon.packets.receive::<Say>() {
            Ok(Some(said)) => said,
            Ok(None) => {
                self.lost();
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(%error, "the daemon says something that means nothing");
                return true;
            }
            Err(error) => {
                tracing::error!(%error, "the connection to the daemon is broken");
                self.lost();
                return true;
            }
        };
        match say {
            // It has been said.
            Say::Hello { .. } => {}
            Say::Watch { key, next, path, freeze } => {
                let cgroup = with.and_then(|directory| Cgroup::of_directory(&path, directory.into()).ok());
                let ward = Ward { next, cgroup: cgroup.map(Arc::new), freeze, is_told: true };
                self.wards.insert(key, ward);
            }
            Say::Forget { key } => {
                self.wards.remove(&key);
            }
            Say::Alive => {
                daemon.silence = Duration::ZERO;
                if std::mem::take(&mut daemon.is_doubted) {
                    self.freezes = None;
                    if let Err(error) = daemon.packets.send(&Heard {}, None) {
                        tracing::error!(%error, "the daemon does not hear that it was taken for dead");
                    }
                }
            }
            // About an earlier note: it has been taken for dead again since.
            Say::Settled { note } if self.loss.as_ref().is_some_and(|loss| note != Some(loss.since)) => {}
            Say::Settled { .. } => {
                self.wards.retain(|_, ward| ward.is_told);
                self.freezes = None;
                self.loss = None;
                if let Err(error) = Loss::remove(&self.private) {
                    tracing::error!(%error, "the note of a daemon's end stays, and may be told twice");
                }
            }
            Say::Leaving { grace_ms } => daemon.leaving = Some(Duration::from_millis(grace_ms)),
            Say::End => return false,
        }
        true
    }

    /// Somebody has connected.
    fn accept(&mut self, listener: &OwnedFd) {
        let accepted = Packets::accept(listener).and_then(|packets| Ok((packets.peer()?, packets)));
        match accepted {
            Ok(((pid, uid), packets)) if uid == nix::unistd::geteuid().as_raw() => {
                self.caller = Some((packets, pid));
            }
            Ok(((pid, uid), _)) => tracing::warn!(pid, uid, "somebody else than a daemon was refused"),
            Err(error) => tracing::error!(%error, "a daemon could not connect"),
        }
    }

    /// Who has connected says what it is: a daemon takes the place of the one that there was.
    fn greet(&mut self) {
        let Some((packets, pid)) = self.caller.take() else { return };
        let Ok(Some((Say::Hello { .. }, _))) = packets.receive() else { return };
        let welcome = Welcome { protocol: PROTOCOL, pid: std::process::id() };
        if let Err(error) = packets.send(&welcome, None) {
            return tracing::error!(%error, "the daemon does not take an answer");
        }
        self.wards.values_mut().for_each(|ward| ward.is_told = false);
        self.expects = Instant::now();
        self.daemon = Some(Daemon::new(packets, pid));
    }

    /// The daemon has gone.
    fn lost(&mut self) {
        let Some(Daemon { leaving, .. }) = self.daemon.take() else { return };
        if self.wards.is_empty() {
            return;
        }
        // A daemon that has gone before it was settled leaves the note of the one before.
        let read = || Loss::read(&self.private);
        self.loss = self.loss.take().or_else(read).or_else(|| Some(Loss::now(leaving.is_some(), false)));
        self.note();
        // It is not put off by a second daemon that comes to nothing.
        let at = Instant::now() + leaving.unwrap_or_default();
        self.freezes = Some(self.freezes.map_or(at, |before| before.min(at)));
    }

    /// The daemon is there and gives no sign of life.
    fn doubt(&mut self) {
        let Some(daemon) = self.daemon.as_mut().filter(|_| !self.wards.is_empty()) else { return };
        daemon.is_doubted = true;
        let mut loss = Loss::now(false, true);
        loss.since = loss.since.saturating_sub(u64::try_from(daemon.silence.as_nanos()).unwrap_or(u64::MAX));
        // What an earlier note tells of may stand still yet, and is to be thawed with the rest.
        let stands = |frozen: &Frozen| {
            let cgroup =
                Cgroup::open_below(&frozen.path, &self.mounts.unified, self.mounts.freezer.as_deref());
            cgroup.is_ok_and(|cgroup| cgroup.id() == frozen.cgroup && cgroup.is_held())
        };
        loss.frozen = self.loss.take().map(|before| before.frozen).unwrap_or_default();
        loss.frozen.retain(stands);
        self.loss = Some(loss);
        self.note();
        self.freezes = Some(Instant::now());
    }

    fn note(&self) {
        if let Some(loss) = &self.loss
            && let Err(error) = loss.write(&self.private)
        {
            tracing::error!(%error, "the next daemon will not know what was frozen");
        }
    }

    /// Freezes what no daemon watches, each once: who thaws it then has a reason.
    fn freeze(&mut self) {
        let Some(loss) = &mut self.loss else { return };
        let known: BTreeSet<u64> = loss.frozen.iter().map(|frozen| frozen.cgroup).collect();
        let mut now_frozen = Vec::new();
        for (key, ward) in self.wards.iter().filter(|(_, ward)| ward.freeze && !ward.is_watched(&self.daemon))
        {
            let made = ward
                .next
                .as_deref()
                .and_then(|path| {
                    Cgroup::open_below(path, &self.mounts.unified, self.mounts.freezer.as_deref()).ok()
                })
                .map(Arc::new);
            let mut both: Vec<Arc<Cgroup>> = ward.cgroup.iter().cloned().chain(made).collect();
            both.dedup_by_key(|cgroup| cgroup.id());
            // What stands still already does so for another reason.
            both.retain(|cgroup| !known.contains(&cgroup.id()) && cgroup.exists() && !cgroup.is_held());
            for cgroup in both {
                let (key, path, at) = (key.clone(), cgroup.path().to_owned(), boottime());
                now_frozen.push((cgroup.clone(), Frozen { key, cgroup: cgroup.id(), path, at, error: None }));
            }
        }
        if now_frozen.is_empty() {
            return;
        }
        let before = loss.frozen.len();
        loss.frozen.extend(now_frozen.iter().map(|(_, frozen)| frozen.clone()));
        // Whoever comes next knows of it, also if this process is killed in between.
        self.note();
        let mut is_refused = false;
        for (at, (cgroup, _)) in now_frozen.iter().enumerate() {
            if let Err(error) = cgroup.freeze()
                && let Some(loss) = &mut self.loss
            {
                tracing::error!(%error, "it runs without a monitor");
                loss.frozen[before + at].error = Some(error.to_string());
                is_refused = true;
            }
        }
        if is_refused {
            self.note();
        }
        self.still.extend(now_frozen.into_iter().map(|(cgroup, _)| Still {
            is_told: !cgroup.has_freezer(),
            vacated: Vacated::of(&cgroup),
            cgroup,
        }));
    }

    /// Has version 1's freezer know of what stands still by now, and looks after containers that have ended.
    fn look_after(&mut self) {
        self.still.retain_mut(|Still { cgroup, is_told, vacated }| {
            if let Some(vacated) = vacated {
                if let Err(error) = vacated.look() {
                    tracing::error!(%error, "whoever stops it may wait for ever");
                }
                if vacated.is_empty() {
                    return cgroup.exists();
                }
            }
            if !cgroup.is_held() {
                return false;
            }
            if !*is_told && cgroup.wait_frozen(Duration::ZERO).is_ok() {
                *is_told = true;
                // A daemon that has come may have let it go in between.
                if !cgroup.is_held()
                    && let Err(error) = cgroup.let_end()
                {
                    tracing::error!(%error, "it stands still in version 1's hierarchy");
                }
            }
            true
        });
    }
}

impl Ward {
    fn is_watched(&self, daemon: &Option<Daemon>) -> bool {
        daemon.as_ref().is_some_and(|daemon| !daemon.is_doubted) && self.is_told
    }

    /// It runs, or may run again, and is to be frozen then.
    fn needs_a_guard(&self) -> bool {
        self.freeze && (self.next.is_some() || self.cgroup.as_ref().is_some_and(|cgroup| cgroup.exists()))
    }
}

/// Is this process about to end, or has it?
fn is_ending(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    // The name in parentheses may hold anything; what follows the last one does not.
    let Some((_, rest)) = stat.rsplit_once(')') else { return true };
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next();
    let flags: Option<u64> = fields.nth(5).and_then(|flags| flags.parse().ok());
    matches!(state, Some("Z" | "X")) || flags.is_none_or(|flags| flags & EXITING != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_ended_is_known() {
        assert!(!is_ending(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        // It is a zombie until it is waited for.
        let ended = nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(child.id().try_into().unwrap())),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        );
        ended.unwrap();
        assert!(is_ending(child.id()));
        child.wait().unwrap();
        assert!(is_ending(child.id()));
    }
}
