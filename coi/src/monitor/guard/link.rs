//! The daemon's side: the connection to the guard, and a new guard where there is none.
//!
//! It promises that what [`Guard::watch`] has answered is known to a guard; that the end of a guard is noticed at once:
//! another one is started and told everything, and [`News`] says so; and that a sign of life is passed on only when the
//! pipeline has given one. A thread of its own does it, so that neither the pipeline nor a watch waits for it.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::Ordering, mpsc as std_mpsc},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
    unistd::setsid,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    GuardError, Heard, PROTOCOL, SIGN, SOCKET, Say, Welcome,
    socket::{Packets, listening},
};
use crate::monitor::{cgroup::Cgroup, pipeline::Pulse};

/// How long a guard may take to start and answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long until it is tried again to start one.
const RETRY: Duration = Duration::from_secs(1);

/// Something that is watched.
#[derive(Clone, Debug)]
pub struct Ward {
    /// The path at which its next cgroup will be made; `None` if there will be none.
    pub next: Option<String>,
    /// The cgroup that is there.
    pub cgroup: Option<Arc<Cgroup>>,
    /// It is to be frozen without a monitor.
    pub freeze: bool,
}

/// What happens to the guard, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It had taken this daemon for dead, and hears it again; see its note.
    Heard,
    /// It has ended, and another one is in its place.
    Replaced {
        /// The one that has ended.
        was: u32,
        /// The one that there is.
        is: u32,
    },
    /// It has ended, and no other could be started; it is tried again.
    Missing {
        /// The one that has ended.
        was: u32,
        /// Why not.
        why: String,
    },
}

enum Order {
    Watch(String, Ward, oneshot::Sender<()>),
    Forget(String),
    Settled(Option<u64>),
    Leaving(Duration, oneshot::Sender<()>),
}

/// The way to the guard, or to none.
#[derive(Clone, Debug)]
pub struct Guard(Option<Way>);

#[derive(Clone, Debug)]
struct Way {
    orders: std_mpsc::Sender<Order>,
    wake: Arc<EventFd>,
}

impl Guard {
    /// Connects to the guard of this runtime directory; starts one if there is none. `news` is told what happens.
    pub fn connect(
        directory: &Path,
        pulse: Pulse,
        news: mpsc::UnboundedSender<News>,
    ) -> Result<Self, GuardError> {
        let path = directory.join(SOCKET);
        let failed = |source| GuardError::Socket { path: path.clone(), source };
        let connected = Connected::to_any(&path).map_err(failed)?;
        let (orders, inbox) = std_mpsc::channel();
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake = Arc::new(EventFd::from_flags(flags).map_err(|error| failed(error.into()))?);
        let keeper = Keeper {
            path: path.clone(),
            connected: Some(connected),
            wards: BTreeMap::new(),
            settled: None,
            pulse,
            told: Told { pulse: 0, at: Instant::now() },
            news,
        };
        let woken = Arc::clone(&wake);
        let thread = std::thread::Builder::new().name("coi-guard".into());
        thread.spawn(move || keeper.run(&inbox, &woken)).map_err(failed)?;
        Ok(Self(Some(Way { orders, wake })))
    }

    /// None: nobody is told anything, for a daemon that monitors nothing.
    pub const fn absent() -> Self {
        Self(None)
    }

    fn order(&self, order: Order) {
        let Some(Way { orders, wake }) = &self.0 else { return };
        // The thread ends with the last of these handles only.
        if orders.send(order).is_ok() {
            let _ = wake.write(1);
        }
    }

    /// Has something guarded, or guarded otherwise; ends when the guard has been told.
    pub async fn watch(&self, key: &str, ward: Ward) {
        let (told, is_told) = oneshot::channel();
        self.order(Order::Watch(key.to_owned(), ward, told));
        let _ = is_told.await;
    }

    /// The same, without waiting.
    pub fn change(&self, key: &str, ward: Ward) {
        let (told, _) = oneshot::channel();
        self.order(Order::Watch(key.to_owned(), ward, told));
    }

    /// Has something guarded no longer.
    pub fn forget(&self, key: &str) {
        self.order(Order::Forget(key.to_owned()));
    }

    /// All that is watched has been told, and what the note of this time says is dealt with.
    pub fn settled(&self, note: Option<u64>) {
        self.order(Order::Settled(note));
    }

    /// This daemon is about to end, and another one will come within this time.
    pub async fn leaving(&self, grace: Duration) {
        let (told, is_told) = oneshot::channel();
        self.order(Order::Leaving(grace, told));
        let _ = is_told.await;
    }
}

/// The thread's own.
struct Keeper {
    path: PathBuf,
    connected: Option<Connected>,
    wards: BTreeMap<String, Ward>,
    /// With which note all is dealt with, once it is.
    settled: Option<Option<u64>>,
    pulse: Pulse,
    told: Told,
    news: mpsc::UnboundedSender<News>,
}

/// The last sign of life that was passed on.
struct Told {
    pulse: u64,
    at: Instant,
}

/// A guard that has answered.
#[derive(Debug)]
struct Connected {
    packets: Packets,
    pid: u32,
    /// It is this process's own child.
    child: Option<Child>,
}

impl Keeper {
    fn run(mut self, inbox: &std_mpsc::Receiver<Order>, wake: &EventFd) {
        loop {
            let mut ready = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
            let timeout = match &self.connected {
                Some(connected) => {
                    ready.push(PollFd::new(connected.packets.as_fd(), PollFlags::POLLIN));
                    SIGN
                }
                None => RETRY,
            };
            // An interrupted wait is one that has ended.
            let _ = poll(&mut ready, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
            if ready.get(1).and_then(PollFd::any).unwrap_or(false) {
                self.listen();
            }
            if self.connected.is_none() {
                self.replace();
            }
            self.pass_on();
            // Empty if nobody called.
            let _ = wake.read();
            loop {
                match inbox.try_recv() {
                    Ok(order) => self.obey(order),
                    Err(std_mpsc::TryRecvError::Empty) => break,
                    Err(std_mpsc::TryRecvError::Disconnected) => return,
                }
            }
        }
    }

    /// The guard says something, or has ended.
    fn listen(&mut self) {
        let Some(connected) = &self.connected else { return };
        match connected.packets.receive() {
            Ok(Some((Heard {}, _))) => drop(self.news.send(News::Heard)),
            Ok(None) | Err(_) => self.replace(),
        }
    }

    /// Tells of the pipeline's sign of life, if there was one since the last.
    fn pass_on(&mut self) {
        let pulse = self.pulse.load(Ordering::Relaxed);
        if pulse != self.told.pulse && self.told.at.elapsed() >= SIGN {
            self.told = Told { pulse, at: Instant::now() };
            self.say(&Say::Alive, None);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Watch(key, ward, told) => {
                self.say(&watch(&key, &ward), ward.cgroup.as_deref());
                self.wards.insert(key, ward);
                let _ = told.send(());
            }
            Order::Forget(key) => {
                self.wards.remove(&key);
                self.say(&Say::Forget { key }, None);
            }
            Order::Settled(note) => {
                self.settled = Some(note);
                self.say(&Say::Settled { note }, None);
            }
            Order::Leaving(grace, told) => {
                let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
                self.say(&Say::Leaving { grace_ms }, None);
                let _ = told.send(());
            }
        }
    }

    fn say(&mut self, say: &Say, cgroup: Option<&Cgroup>) {
        let Some(connected) = &self.connected else { return };
        let with = cgroup.map(|cgroup| cgroup.descriptor().as_raw_fd());
        if let Err(error) = connected.packets.send(say, with) {
            // It is told everything when it, or another one, answers.
            tracing::error!(%error, "the guard cannot be told something");
            self.replace();
        }
    }

    /// The guard has ended: another one takes its place, and is told everything.
    fn replace(&mut self) {
        let was = self.connected.take();
        let was = was.map(|mut connected| {
            if let Some(child) = &mut connected.child {
                let _ = child.try_wait();
            }
            connected.pid
        });
        match self.try_replace() {
            Ok(is) => {
                tracing::warn!(?was, is, "a new guard is in the place of one that has ended");
                let _ = self.news.send(News::Replaced { was: was.unwrap_or(0), is });
            }
            Err(error) => {
                if let Some(was) = was {
                    tracing::error!(%error, "the guard has ended and no other can be started; it is tried again");
                    let _ = self.news.send(News::Missing { was, why: error.to_string() });
                }
            }
        }
    }

    fn try_replace(&mut self) -> io::Result<u32> {
        let connected = Connected::to_any(&self.path)?;
        for (key, ward) in &self.wards {
            let with = ward.cgroup.as_ref().map(|cgroup| cgroup.descriptor().as_raw_fd());
            connected.packets.send(&watch(key, ward), with)?;
        }
        if let Some(note) = self.settled {
            connected.packets.send(&Say::Settled { note }, None)?;
        }
        let pid = connected.pid;
        self.connected = Some(connected);
        Ok(pid)
    }
}

fn watch(key: &str, ward: &Ward) -> Say {
    let path = ward.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()).unwrap_or_default();
    Say::Watch { key: key.to_owned(), next: ward.next.clone(), path, freeze: ward.freeze }
}

impl Connected {
    /// To the guard that listens there, or to one that is started now.
    fn to_any(path: &Path) -> io::Result<Self> {
        if let Ok(packets) = Packets::connect(path) {
            match Self::greet(packets, None) {
                Ok(connected) => return Ok(connected),
                Err(error) => tracing::warn!(%error, "the guard that there was is left to itself"),
            }
        }
        let child = start(path)?;
        Self::greet(Packets::connect(path)?, Some(child))
    }

    fn greet(packets: Packets, child: Option<Child>) -> io::Result<Self> {
        packets.send_within(ANSWER)?;
        packets.send(&Say::Hello { protocol: PROTOCOL }, None)?;
        let timeout = PollTimeout::try_from(ANSWER).unwrap_or(PollTimeout::MAX);
        if poll(&mut [PollFd::new(packets.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (Welcome { protocol, pid }, _) =
            packets.receive()?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        if protocol != PROTOCOL {
            packets.send(&Say::End, None)?;
            return Err(io::Error::other(format!("it speaks version {protocol}, and this is {PROTOCOL}")));
        }
        Ok(Self { packets, pid, child })
    }
}

/// Starts a guard in a session of its own. It is given its socket, so that it can be connected to from now on.
fn start(path: &Path) -> io::Result<Child> {
    let listener: OwnedFd = listening(path)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    // Also where an upgrade has replaced the file since.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("coi")
        .args(["guard", "--listen-fd", &listener.as_raw_fd().to_string(), "--directory"])
        .arg(directory)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let inherited = listener.as_raw_fd();
    // SAFETY: between fork and exec only setsid(2) and fcntl(2) are called, both async-signal-safe, and the descriptor
    // is open: `listener` lives until after the spawn.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            let inherited = std::os::fd::BorrowedFd::borrow_raw(inherited);
            fcntl(inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    command.spawn()
}
