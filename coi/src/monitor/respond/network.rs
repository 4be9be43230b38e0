//! What a container may reach: connections that rules deny, and the network as a whole.
//!
//! It promises that what is to be refused is refused by the kernel in each cgroup that was entered, for its sockets and
//! those of all cgroups below it; that a cut holds for cgroups that are entered later, so that a restart does not end it;
//! and that other rules take the place of old ones without a gap. The programs are those of `coi-ebpf/src/deny.rs`, an
//! object of its own that is loaded for each cgroup where there is something to refuse, and nowhere else. They are gone
//! when this is dropped.
//!
//! What was connected before a rule denied it goes on; a cut ends that, too.

use std::{
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, LpmTrie, MapError, lpm_trie::Key},
    programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, ProgramError},
};

use crate::monitor::{cgroup::Cgroup, rules::Denied};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/coi-deny.o"));

/// The programs that judge addresses.
const ADDRESSES: [&str; 4] = ["deny_connect4", "deny_connect6", "deny_sendmsg4", "deny_sendmsg6"];
/// The program that drops packets.
const PACKETS: &str = "cut";
/// A link, which each becomes, stands beside whatever programs others have there.
const BESIDE: CgroupAttachMode = CgroupAttachMode::Single;

/// Why nothing can be refused.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The object does not load.
    #[error("the kernel does not take the programs that refuse connections: {0}")]
    Load(#[from] Box<EbpfError>),
    /// A map cannot be written.
    #[error("what is to be refused cannot be told to the kernel: {0}")]
    Map(#[from] Box<MapError>),
    /// A program cannot be loaded or attached.
    #[error("connections of the cgroup {path} cannot be refused: {source}")]
    Attach {
        /// The cgroup's path.
        path: String,
        /// Why not.
        source: Box<ProgramError>,
    },
    /// The cgroup's directory cannot be opened.
    #[error("the cgroup {path} cannot be opened to refuse its connections: {source}")]
    Open {
        /// Its path.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The object is not what it should be.
    #[error("COI's own object lacks the program or map {0}; install COI again")]
    Missing(&'static str),
}

impl From<EbpfError> for NetworkError {
    fn from(error: EbpfError) -> Self {
        Self::Load(Box::new(error))
    }
}

impl From<MapError> for NetworkError {
    fn from(error: MapError) -> Self {
        Self::Map(Box::new(error))
    }
}

/// What a container may reach.
#[derive(Default)]
pub struct Network(Mutex<State>);

#[derive(Default)]
struct State {
    denied: Arc<Denied>,
    is_cut: bool,
    /// One for each cgroup that is there.
    gates: Vec<Gate>,
}

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves gates that each hold by themselves.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.state().is_cut
    }

    /// Whether connections of this cgroup are judged.
    pub fn guards(&self, cgroup: &Cgroup) -> bool {
        self.state().gates.iter().any(|gate| gate.cgroup.id() == cgroup.id())
    }

    /// Has this refused from now on, in the cgroups that were entered and in those to come.
    pub fn deny(&self, denied: &Arc<Denied>) -> Result<(), NetworkError> {
        let mut state = self.state();
        if state.denied == *denied {
            return Ok(());
        }
        // The new ones hold before the old ones go.
        let entered = state.gates.iter().map(|gate| Arc::clone(&gate.cgroup));
        let is_cut = state.is_cut;
        let gates = entered.filter_map(|cgroup| Gate::make(&cgroup, denied, is_cut).transpose());
        let gates = gates.collect::<Result<_, _>>()?;
        state.denied = Arc::clone(denied);
        state.gates = gates;
        Ok(())
    }

    /// A cgroup of the container is there.
    pub fn enter(&self, cgroup: &Arc<Cgroup>) -> Result<(), NetworkError> {
        let mut state = self.state();
        state.gates.retain(|gate| gate.cgroup.exists());
        if state.gates.iter().any(|gate| gate.cgroup.id() == cgroup.id()) {
            return Ok(());
        }
        let gate = Gate::make(cgroup, &state.denied, state.is_cut)?;
        state.gates.extend(gate);
        Ok(())
    }

    /// Cuts it, for this cgroup and whatever follows it.
    pub fn cut(&self, cgroup: &Arc<Cgroup>) -> Result<(), NetworkError> {
        let mut state = self.state();
        state.is_cut = true;
        let denied = Arc::clone(&state.denied);
        match state.gates.iter_mut().find(|gate| gate.cgroup.id() == cgroup.id()) {
            Some(gate) => gate.cut(true),
            None => {
                let gate = Gate::make(cgroup, &denied, true)?;
                state.gates.extend(gate);
                Ok(())
            }
        }
    }

    /// The daemon before had cut it: what is entered from now on is.
    pub fn keep_cut(&self) {
        self.state().is_cut = true;
    }

    /// Ends the cut; gives whether there was one.
    pub fn restore(&self) -> Result<bool, NetworkError> {
        let mut state = self.state();
        state.gates.iter_mut().try_for_each(|gate| gate.cut(false))?;
        if state.denied.is_empty() {
            state.gates.clear();
        }
        Ok(std::mem::replace(&mut state.is_cut, false))
    }

    /// The watch is over, and with it all that is refused.
    pub fn leave(&self) {
        *self.state() = State::default();
    }
}

/// The programs at one cgroup.
struct Gate {
    ebpf: Ebpf,
    cgroup: Arc<Cgroup>,
    drops: bool,
}

impl Gate {
    /// Refuses this at a cgroup, if it is there and there is something to refuse.
    fn make(cgroup: &Arc<Cgroup>, denied: &Denied, is_cut: bool) -> Result<Option<Self>, NetworkError> {
        if denied.is_empty() && !is_cut || !cgroup.exists() {
            return Ok(None);
        }
        let ebpf = EbpfLoader::new().load(OBJECT)?;
        let mut gate = Self { ebpf, cgroup: Arc::clone(cgroup), drops: false };
        gate.fill(denied)?;
        let directory = gate.directory()?;
        for name in ADDRESSES {
            let attached = gate.program::<CgroupSockAddr>(name)?.and_attach(&directory);
            attached.map_err(|source| gate.refused(source))?;
        }
        if is_cut {
            gate.cut(true)?;
        }
        Ok(Some(gate))
    }

    fn fill(&mut self, denied: &Denied) -> Result<(), NetworkError> {
        let map = self.ebpf.map_mut("NETWORKS").ok_or(NetworkError::Missing("NETWORKS"))?;
        let mut networks = LpmTrie::<_, [u8; 16], u64>::try_from(map)?;
        for (network, classes) in &denied.networks {
            networks.insert(&Key::new(network.len.into(), network.bits.to_be_bytes()), classes, 0)?;
        }
        let map = self.ebpf.map_mut("PORTS").ok_or(NetworkError::Missing("PORTS"))?;
        let mut ports = LpmTrie::<_, [u8; 2], u32>::try_from(map)?;
        for (range, class) in &denied.ports {
            ports.insert(&Key::new(range.len.into(), range.bits.to_be_bytes()), class, 0)?;
        }
        Ok(())
    }

    fn cut(&mut self, is_cut: bool) -> Result<(), NetworkError> {
        let map = self.ebpf.map_mut("CUT").ok_or(NetworkError::Missing("CUT"))?;
        Array::<_, u32>::try_from(map)?.set(0, u32::from(is_cut), 0)?;
        if is_cut && !self.drops {
            let directory = self.directory()?;
            let attached = self.program::<CgroupSkb>(PACKETS)?.and_attach(&directory);
            attached.map_err(|source| self.refused(source))?;
            self.drops = true;
        } else if !is_cut && self.drops {
            // Each packet would be looked at for nothing.
            let unloaded = self.program::<CgroupSkb>(PACKETS)?.unload();
            unloaded.map_err(|source| self.refused(source))?;
            self.drops = false;
        }
        Ok(())
    }

    fn directory(&self) -> Result<File, NetworkError> {
        let path = || self.cgroup.path().to_owned();
        File::open(self.cgroup.directory()).map_err(|source| NetworkError::Open { path: path(), source })
    }

    fn program<'a, P>(&'a mut self, name: &'static str) -> Result<&'a mut P, NetworkError>
    where
        &'a mut P: TryFrom<&'a mut aya::programs::Program>,
    {
        let program = self.ebpf.program_mut(name).ok_or(NetworkError::Missing(name))?;
        program.try_into().map_err(|_| NetworkError::Missing(name))
    }

    fn refused(&self, source: ProgramError) -> NetworkError {
        NetworkError::Attach { path: self.cgroup.path().to_owned(), source: Box::new(source) }
    }
}

/// Loads a program and attaches it to a cgroup.
trait AndAttach {
    fn and_attach(&mut self, directory: &File) -> Result<(), ProgramError>;
}

impl AndAttach for CgroupSockAddr {
    fn and_attach(&mut self, directory: &File) -> Result<(), ProgramError> {
        self.load()?;
        self.attach(directory, BESIDE).map(drop)
    }
}

impl AndAttach for CgroupSkb {
    fn and_attach(&mut self, directory: &File) -> Result<(), ProgramError> {
        self.load()?;
        self.attach(directory, CgroupSkbAttachType::Egress, BESIDE)?;
        self.attach(directory, CgroupSkbAttachType::Ingress, BESIDE).map(drop)
    }
}
