//! The kernel's side of the monitor, as user space sees it: programs, maps, rings.
//!
//! It promises every record of a watched cgroup in the order of the kernel's clock as far as the records have
//! arrived, and a count of those that have not. It is told which cgroups are watched; it knows no containers,
//! no processes and no rules.

mod btf;
mod calls;
pub mod census;
pub mod decode;
pub mod fill;
mod holes;
mod programs;

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, HashMap as BpfHashMap, MapData, MapError, PerCpuHashMap, RingBuf},
};
pub use btf::BtfError;
use coi_common::{CGROUP_PATH, Entry, Flow, Header, Kind, LOST_BUDGET, LossKey, NameKey, Scope, Wanted};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
pub use programs::AttachError;

use self::{
    census::Counted,
    decode::{Body, RawEvent},
    fill::Fill,
};
use crate::monitor::service::api::Hole;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/coi-ebpf.o"));

/// How long bulk records may wait while nothing else happens.
pub const BULK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a file that was read does not count again.
const EPOCH_NS: u64 = 10_000_000_000;

/// Change what is there, add nothing: `BPF_EXIST` of `include/uapi/linux/bpf.h`.
const BPF_EXIST: u64 = 2;

/// Why the sensor cannot work.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// The kernel's types are not to be had.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel's types cannot be given to the verifier.
    #[error("the kernel's type information cannot be used: {0}; COI does not know this kernel")]
    Types(#[from] aya::BtfError),
    /// The object does not load.
    #[error(
        "the kernel does not take COI's programs and maps: {0}; the daemon must run as root (CAP_BPF, CAP_PERFMON)"
    )]
    Load(#[from] Box<EbpfError>),
    /// A program cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A map cannot be read or written.
    #[error("a map of the kernel programs cannot be used: {0}")]
    Map(#[from] Box<MapError>),
    /// Waiting for the rings failed.
    #[error("cannot wait for the kernel's rings: {0}")]
    Wait(#[from] io::Error),
    /// A cgroup's path is longer than the kernel side compares.
    #[error("the cgroup path {path} is longer than {} bytes and cannot be watched", CGROUP_PATH - 1)]
    PathTooLong {
        /// The path.
        path: String,
    },
}

impl From<EbpfError> for SensorError {
    fn from(error: EbpfError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<MapError> for SensorError {
    fn from(error: MapError) -> Self {
        Self::Map(Box::new(error))
    }
}

/// The loaded programs. They are gone when this is dropped.
pub struct Sensor {
    /// Holds the programs and their links.
    _ebpf: Ebpf,
    priority: RingBuf<MapData>,
    bulk: RingBuf<MapData>,
    scopes: BpfHashMap<MapData, u64, WireScope>,
    expected: BpfHashMap<MapData, [u8; CGROUP_PATH], WireScope>,
    levels: Array<MapData, u32>,
    sleeps: Array<MapData, u32>,
    epoch: Array<MapData, u32>,
    wanted: Array<MapData, WireWanted>,
    names: BpfHashMap<MapData, WireNameKey, u32>,
    sent: BpfHashMap<MapData, u64, WireFlow>,
    taken: BpfHashMap<MapData, u64, WireFlow>,
    /// What has been said in `taken`.
    settled: HashMap<u64, Flow>,
    looked: BpfHashMap<MapData, u64, u8>,
    /// What has been said in `looked`.
    looked_at: HashSet<u64>,
    /// The paths of which everything is wanted once they are there.
    looked_for: HashSet<String>,
    lost: PerCpuHashMap<MapData, WireLossKey, u64>,
    /// What has been told of the loss counters.
    told: HashMap<LossKey, u64>,
    counted: Vec<Counted>,
    programs: Vec<String>,
    holes: Vec<Hole>,
    undecodable: u64,
    /// What was taken from the rings before its turn.
    held: Vec<Arrived>,
    /// The time of the latest record of the priority ring.
    reached: u64,
}

/// A record on its way. Until it is given to [`Sensor::settle`] it counts against what its container may have on the way.
pub struct Arrived {
    /// What it says.
    pub event: RawEvent,
    /// Its bytes in the rings.
    pub flow: Flow,
}

/// Makes a type of the common crate one that maps may hold.
macro_rules! wire {
    ($($wire:ident($inner:ty);)*) => {$(
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $wire($inner);
        // SAFETY: repr(transparent) over a repr(C) structure of integers without padding.
        unsafe impl aya::Pod for $wire {}
    )*};
}

wire! {
    WireScope(Scope);
    WireLossKey(LossKey);
    WireOffsets(coi_common::Offsets);
    WireWanted(Wanted);
    WireNameKey(NameKey);
    WireFlow(Flow);
    WireEntries([Entry; 2]);
}

/// What to tell the kernel side of the events that anybody wants.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The kinds, and what the tests on names have in common.
    pub wanted: Wanted,
    /// The tests on the names of opened files.
    pub names: HashMap<NameKey, u32>,
}

impl Sensor {
    /// Loads the programs and attaches them. Nothing is watched yet.
    pub fn load() -> Result<Self, SensorError> {
        let offsets = WireOffsets(btf::Btf::of_this_kernel()?.offsets()?);
        let types = aya::Btf::from_sys_fs()?;
        let mut ebpf =
            EbpfLoader::new().btf(Some(&types)).override_global("OFFSETS", &offsets, true).load(OBJECT)?;
        let (programs, holes) = programs::attach(&mut ebpf, &types)?;
        let counted = Counted::of(&ebpf)?;
        Ok(Self {
            priority: RingBuf::try_from(take(&mut ebpf, "PRIORITY")?)?,
            bulk: RingBuf::try_from(take(&mut ebpf, "BULK")?)?,
            scopes: BpfHashMap::try_from(take(&mut ebpf, "SCOPES")?)?,
            expected: BpfHashMap::try_from(take(&mut ebpf, "EXPECTED")?)?,
            levels: Array::try_from(take(&mut ebpf, "LEVELS")?)?,
            sleeps: Array::try_from(take(&mut ebpf, "SLEEPS")?)?,
            epoch: Array::try_from(take(&mut ebpf, "EPOCH")?)?,
            wanted: Array::try_from(take(&mut ebpf, "WANTED")?)?,
            names: BpfHashMap::try_from(take(&mut ebpf, "NAMES")?)?,
            sent: BpfHashMap::try_from(take(&mut ebpf, "SENT")?)?,
            taken: BpfHashMap::try_from(take(&mut ebpf, "TAKEN")?)?,
            settled: HashMap::new(),
            looked: BpfHashMap::try_from(take(&mut ebpf, "LOOKED")?)?,
            looked_at: HashSet::new(),
            looked_for: HashSet::new(),
            lost: PerCpuHashMap::try_from(take(&mut ebpf, "LOST")?)?,
            told: HashMap::new(),
            counted,
            programs,
            holes,
            undecodable: 0,
            held: Vec::new(),
            reached: 0,
            _ebpf: ebpf,
        })
    }

    /// How full the rings are, by name; of which that cannot be said, it is not.
    pub fn fills(&self) -> Vec<(&'static str, Fill)> {
        let of = |(name, ring)| match Fill::of(ring) {
            Ok(fill) => Some((name, fill)),
            Err(error) => {
                tracing::warn!(%error, name, "how full a ring is will not be known");
                None
            }
        };
        [("priority", &self.priority), ("bulk", &self.bulk)].into_iter().filter_map(of).collect()
    }

    /// The maps whose entries can be counted. They are given away once, to whoever counts.
    pub fn counted(&mut self) -> Vec<Counted> {
        std::mem::take(&mut self.counted)
    }

    /// The names of what is attached.
    pub fn programs(&self) -> &[String] {
        &self.programs
    }

    /// What cannot be seen.
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// Becomes readable when a priority record has arrived.
    pub fn wakes(&self) -> BorrowedFd<'_> {
        self.priority.as_fd()
    }

    /// Watches the cgroup of this path from the moment it is made, each time it is made.
    pub fn expect(&mut self, path: &str, scope: Scope) -> Result<(), SensorError> {
        let key = path_key(path)?;
        self.allow_level(scope.level)?;
        // Before it can be made: from its first process on.
        if scope.everything != 0 {
            self.looked_for.insert(path.to_owned());
            self.say_everything()?;
        }
        self.expected.insert(key, WireScope(scope), 0)?;
        if scope.everything == 0 && self.looked_for.remove(path) {
            self.say_everything()?;
        }
        Ok(())
    }

    /// Takes back what [`Self::expect`] said.
    pub fn unexpect(&mut self, path: &str) -> Result<(), SensorError> {
        ignore_missing(self.expected.remove(&path_key(path)?))?;
        if self.looked_for.remove(path) { self.say_everything() } else { Ok(()) }
    }

    /// Watches a cgroup that exists.
    pub fn watch(&mut self, id: u64, scope: Scope) -> Result<(), SensorError> {
        self.allow_level(scope.level)?;
        self.sent.insert(id, WireFlow(Flow::default()), 0)?;
        self.taken.insert(id, WireFlow(Flow::default()), 0)?;
        self.settled.remove(&id);
        self.looked_at.remove(&id);
        self.scopes.insert(id, WireScope(scope), 0)?;
        Ok(())
    }

    /// Watches a cgroup no longer.
    pub fn unwatch(&mut self, id: u64) -> Result<(), SensorError> {
        ignore_missing(self.scopes.remove(&id))?;
        ignore_missing(self.sent.remove(&id))?;
        ignore_missing(self.taken.remove(&id))?;
        ignore_missing(self.looked.remove(&id))
    }

    /// A watched cgroup has been removed, or is watched no longer, and what was lost of it has been told.
    pub fn forget(&mut self, id: u64) {
        self.settled.remove(&id);
        self.looked_at.remove(&id);
        let _ = self.looked.remove(&id);
        // What cannot be removed takes room for nothing, and no more.
        for (key, _) in self.told.extract_if(|key, _| key.scope == id) {
            let _ = self.lost.remove(&WireLossKey(key));
        }
    }

    /// Says which events are wanted of all watched cgroups. What is wanted before and after is not missed meanwhile.
    pub fn want(&mut self, filter: &Filter) -> Result<(), SensorError> {
        let old: Vec<_> = self.names.keys().flatten().collect();
        for (key, tests) in &filter.names {
            self.names.insert(WireNameKey(*key), *tests, 0)?;
        }
        let wanted = Wanted { somewhere_everything: self.is_everything_wanted().into(), ..filter.wanted };
        self.wanted.set(0, WireWanted(wanted), 0)?;
        for WireNameKey(key) in old {
            if !filter.names.contains_key(&key) {
                ignore_missing(self.names.remove(&WireNameKey(key)))?;
            }
        }
        Ok(())
    }

    /// Says whether every event of a watched cgroup is wanted, whatever [`Self::want`] says.
    pub fn want_everything(&mut self, id: u64, everything: bool) -> Result<(), SensorError> {
        if everything {
            self.looked.insert(id, 1, 0)?;
            self.looked_at.insert(id);
        } else {
            ignore_missing(self.looked.remove(&id))?;
            self.looked_at.remove(&id);
        }
        self.say_everything()
    }

    /// Whether there is, or may come to be, a cgroup of which everything is wanted.
    fn is_everything_wanted(&self) -> bool {
        !self.looked_at.is_empty() || !self.looked_for.is_empty()
    }

    fn say_everything(&mut self) -> Result<(), SensorError> {
        let anywhere = self.is_everything_wanted();
        let WireWanted(wanted) = self.wanted.get(&0, 0)?;
        if (wanted.somewhere_everything != 0) != anywhere {
            let wanted = Wanted { somewhere_everything: anywhere.into(), ..wanted };
            self.wanted.set(0, WireWanted(wanted), 0)?;
        }
        Ok(())
    }

    /// The reader is about to sleep until [`Self::wakes`]. A record that is on its way just then may not wake it: the
    /// first sleep must be short.
    pub fn sleeps(&mut self) -> Result<(), SensorError> {
        Ok(self.sleeps.set(0, 1, 0)?)
    }

    /// The reader is awake and looks by itself.
    pub fn is_awake(&mut self) -> Result<(), SensorError> {
        Ok(self.sleeps.set(0, 0, 0)?)
    }

    /// Levels are only added: a level without a watched cgroup costs others one look-up, and a race between
    /// taking one away and the kernel's adding it would cost a container its watch.
    fn allow_level(&mut self, level: u32) -> Result<(), SensorError> {
        let levels = self.levels.get(&0, 0)?;
        if levels & 1 << level == 0 {
            self.levels.set(0, levels | 1 << level, 0)?;
        }
        Ok(())
    }

    /// Takes what has happened by now, ordered by the kernel's clock; what happened meanwhile is left for the next call.
    ///
    /// The bulk ring is emptied between two looks at the priority ring: so an open is neither judged after the
    /// connection that followed it, nor before the exec that it followed. A record that is not written to its end keeps
    /// those behind it in its ring: while the priority ring is kept so, what came later through the bulk ring waits.
    pub fn drain(&mut self, events: &mut Vec<Arrived>) {
        let now = boottime();
        for bulk in [false, true, false] {
            let ring = if bulk { &mut self.bulk } else { &mut self.priority };
            while let Some(record) = ring.next() {
                match decode::decode(&record) {
                    Ok(event) => {
                        let len = record.len() as u64;
                        let flow = if bulk {
                            Flow { bulk: len, priority: 0 }
                        } else {
                            Flow { bulk: 0, priority: len }
                        };
                        if !bulk {
                            self.reached = self.reached.max(event.header.time);
                        }
                        self.held.push(Arrived { event, flow });
                    }
                    Err(error) => {
                        self.undecodable += 1;
                        tracing::error!(%error, total = self.undecodable, "a kernel record was not understood");
                    }
                }
            }
        }
        if self.held.is_empty() {
            return;
        }
        let mut left = [PollFd::new(self.priority.as_fd(), PollFlags::POLLIN)];
        // If it cannot be asked, order matters less than that nothing waits for ever.
        let is_left = ppoll(&mut left, Some(TimeSpec::from_duration(Duration::ZERO)), None) == Ok(1);
        release(&mut self.held, if is_left { now.min(self.reached) } else { now }, events);
    }

    /// So much of a container's has been dealt with: it may send as much again.
    pub fn settle(&mut self, id: u64, flow: Flow) {
        let settled = self.settled.entry(id).or_default();
        settled.priority = settled.priority.wrapping_add(flow.priority);
        settled.bulk = settled.bulk.wrapping_add(flow.bulk);
        // A cgroup that is gone has no budget to be given back.
        if self.taken.insert(id, WireFlow(*settled), BPF_EXIST).is_err() {
            self.settled.remove(&id);
        }
    }

    /// Tells the kernel side how late it is; call it once a second or more often.
    pub fn tick(&mut self) -> Result<(), SensorError> {
        // 0 and 1 are marks there.
        let epoch = (boottime() / EPOCH_NS) as u32 + 2;
        if self.epoch.get(&0, 0)? != epoch {
            self.epoch.set(0, epoch, 0)?;
        }
        Ok(())
    }

    /// Appends one event for each kind of record of which more were lost since the last call.
    pub fn losses(&mut self, events: &mut Vec<Arrived>) {
        for entry in self.lost.iter() {
            let Ok((WireLossKey(key), per_cpu)) = entry else { continue };
            let total: u64 = per_cpu.iter().sum();
            let told = self.told.entry(key).or_default();
            if let Some(kind) = Kind::from_u32(key.kind)
                && total > *told
            {
                let count = total - *told;
                *told = total;
                let header =
                    Header { time: boottime(), scope: key.scope, kind: key.kind, ..Header::default() };
                let throttled = key.reason == LOST_BUDGET;
                let event = RawEvent { header, body: Body::Loss { kind, count, throttled } };
                events.push(Arrived { event, flow: Flow::default() });
            }
        }
    }
}

/// Moves what happened until then, in order.
fn release(held: &mut Vec<Arrived>, until: u64, to: &mut Vec<Arrived>) {
    held.sort_by_key(|arrived| arrived.event.header.time);
    let count = held.partition_point(|arrived| arrived.event.header.time <= until);
    to.extend(held.drain(..count));
}

/// CLOCK_BOOTTIME in nanoseconds, the clock of all events.
pub fn boottime() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, SensorError> {
    ebpf.take_map(name).ok_or(AttachError::Missing { program: name }.into())
}

fn path_key(path: &str) -> Result<[u8; CGROUP_PATH], SensorError> {
    let mut key = [0; CGROUP_PATH];
    // The last byte stays NUL.
    match key[..CGROUP_PATH - 1].get_mut(..path.len()) {
        Some(place) => place.copy_from_slice(path.as_bytes()),
        None => return Err(SensorError::PathTooLong { path: path.to_owned() }),
    }
    Ok(key)
}

fn ignore_missing(result: Result<(), MapError>) -> Result<(), SensorError> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        // What the kernel says for a missing key.
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u64) -> Arrived {
        let header = Header { time, ..Header::default() };
        Arrived { event: RawEvent { header, body: Body::Fork }, flow: Flow::default() }
    }

    #[test]
    fn what_happened_later_waits_and_all_is_in_order() {
        let mut held = vec![at(5), at(9), at(2)];
        let mut events = Vec::new();
        let times = |events: &[Arrived]| events.iter().map(|e| e.event.header.time).collect::<Vec<_>>();
        release(&mut held, 5, &mut events);
        assert_eq!((times(&events), times(&held)), (vec![2, 5], vec![9]));
        held.push(at(7));
        release(&mut held, 10, &mut events);
        assert_eq!(times(&events), [2, 5, 7, 9]);
        assert!(held.is_empty());
    }
}
