//! Who is who: processes, their parents and what their standard streams lead to.
//!
//! It promises that each event leaves it with the process that stood behind it as it was then, also when that
//! process was forked twice, reparented, or is older than the watch (one look at /proc after the watch began).
//! Processes are known by process id and start time. What it keeps is bounded; what it had to forget is
//! counted. It knows no rules: that a shell's streams lead to a socket is a fact here, and a reverse shell only
//! in a rule.

mod link;
mod proc;

pub use proc::{Place, TICK, members, place, running, uid_map, uid_map_of_cgroup};

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
};

use coi_common::{
    FLAG_ARGS_TRUNCATED, FLAG_ARGS_UNREADABLE, FLAG_EXEC_SECURE, FLAG_SETUP, Header, Stream, StreamKind,
};

use foldhash::fast::RandomState;

use super::{
    event::{
        Actor, Changed as Change, Container, Detail, Event, EventKind, FileDetail, Mismatch, Process,
        ProcessKey, Text, Texts, names,
    },
    sensor::decode::{Body, Connection, Open, Peer, RawEvent, tidy},
};

/// How many processes are kept at most.
const MOST: usize = 65_536;
/// How many ended processes are kept, for what is told of them late and for their children's sake.
const MOST_ENDED: usize = 4_096;
/// How many sets of capabilities are remembered by their names.
const MOST_SETS: usize = 1_024;
/// How many names that led elsewhere are remembered of each watched cgroup.
const MOST_PAIRS: usize = 16_384;
/// How many ancestors a process remembers.
const ANCESTORS: usize = 16;

/// What there is to know about the container of an event.
pub struct Context<'a> {
    /// The container itself.
    pub container: &'a Arc<Container>,
    /// The workspace as seen inside, without a slash at the end.
    pub workspace: Option<&'a str>,
    /// The user namespace: first id inside, first outside, how many. Empty: ids are the host's.
    pub uid_map: &'a [[u32; 3]],
}

impl Context<'_> {
    fn user(&self, uid: u32) -> Text {
        for [inside, outside, count] in self.uid_map {
            if let Some(offset) = uid.checked_sub(*outside).filter(|offset| offset < count) {
                return Text::of(format_args!("{}", inside + offset));
            }
        }
        if self.uid_map.is_empty() {
            Text::of(format_args!("{uid}"))
        } else {
            Text::of(format_args!("host:{uid}"))
        }
    }

    fn owns(&self, path: &str) -> bool {
        self.workspace
            .and_then(|workspace| path.strip_prefix(workspace))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// By what the kernel numbers, in the path of each event.
type Map<K, V> = HashMap<K, V, RandomState>;

/// All processes of all watched cgroups.
#[derive(Default)]
pub struct Lineage {
    /// Boxed: a map in which much comes and goes has room for several times what is there.
    nodes: Map<ProcessKey, Box<Node>>,
    by_pid: Map<u32, ProcessKey>,
    /// The living processes of each watched cgroup.
    living: Map<u64, HashSet<ProcessKey, RandomState>>,
    ended: VecDeque<ProcessKey>,
    forgotten: u64,
    /// The names of sets of capabilities: there are few.
    capabilities: Map<u64, Texts>,
    /// What was told of callers' names that led elsewhere, by watched cgroup: the name and where it led, as one hash.
    elsewhere: Map<u64, HashSet<u64>>,
}

struct Node {
    process: Arc<Process>,
    scope: u64,
    parent: Option<ProcessKey>,
    stdio: [Stream; 3],
    /// Its streams are its parent's as they were at the fork; nothing has been told of them since.
    stdio_inherited: bool,
    /// The other end of its latest connection, or of its parent's if it was forked off after that.
    connection: Option<(IpAddr, u16)>,
    /// Named pipes it has opened: inode and whether for writing.
    fifos: Vec<(u64, bool)>,
    /// Its link has been told; once per program.
    linked: bool,
    /// Its start time is only known in clock ticks.
    from_proc: bool,
    /// Its effective capabilities when it was last heard of.
    capabilities: Option<u64>,
}

impl Lineage {
    /// Learns the processes that are in a cgroup already. Call it once the cgroup is in scope, so that none
    /// can come between.
    pub fn snapshot(&mut self, scope: u64, cgroup: &Path) {
        let mut found: Vec<_> =
            proc::members(cgroup).into_iter().filter_map(|pid| Some((pid, proc::snapshot(pid)?))).collect();
        // Parents first, so that children find them.
        found.sort_by_key(|(_, snapshot)| snapshot.start_ticks);
        for (pid, snapshot) in found {
            if !self.by_pid.contains_key(&pid) {
                self.add_from_proc(pid, scope, snapshot);
            }
        }
    }

    fn add_from_proc(&mut self, pid: u32, scope: u64, snapshot: proc::Snapshot) -> ProcessKey {
        let key = ProcessKey { pid, start_time: snapshot.start_ticks * proc::TICK };
        let parent = self.by_pid.get(&snapshot.parent_pid).copied();
        let process = Process {
            key,
            entity_id: entity_id(key),
            executable: snapshot.executable.into(),
            command_line: snapshot.args.join(" ").into(),
            args: snapshot.args.into(),
            args_truncated: false,
            args_unreadable: false,
            ancestors: self.ancestors(parent),
        };
        let mut node = Node::new(Arc::new(process), scope, parent);
        node.stdio = proc::stdio(pid).unwrap_or_default();
        node.from_proc = true;
        self.insert(key, node);
        key
    }

    /// Forgets a watched cgroup.
    pub fn forget(&mut self, scope: u64) {
        self.elsewhere.remove(&scope);
        self.living.remove(&scope);
        self.nodes.retain(|_, node| node.scope != scope);
        self.by_pid.retain(|_, key| self.nodes.contains_key(key));
        self.ended.retain(|key| self.nodes.contains_key(key));
    }

    /// A process and all that it and its descendants have started, as far as they are remembered; those that have ended
    /// too.
    pub fn family(&self, scope: u64, of: ProcessKey) -> Vec<ProcessKey> {
        let mut children: Map<ProcessKey, Vec<ProcessKey>> = Map::default();
        for (key, node) in self.nodes.iter().filter(|(_, node)| node.scope == scope) {
            if let Some(parent) = node.parent {
                children.entry(parent).or_default().push(*key);
            }
        }
        let mut family = vec![of];
        let mut at = 0;
        while let Some(key) = family.get(at) {
            // Taken out, so that each is there once.
            family.extend(children.remove(key).unwrap_or_default());
            at += 1;
        }
        family
    }

    /// Is this the number of a process of a watched cgroup, as far as they are remembered?
    pub fn knows(&self, scope: u64, pid: u32) -> bool {
        let node = self.by_pid.get(&pid).and_then(|key| self.nodes.get(key));
        node.is_some_and(|node| node.scope == scope)
    }

    /// How many processes had to be forgotten while they lived.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Turns a kernel record into events: itself, and what follows from it.
    pub fn apply(&mut self, raw: RawEvent, context: &Context<'_>, events: &mut Vec<Event>) {
        let RawEvent { header, body } = raw;
        if let Body::Loss { kind, count, throttled } = body {
            let kind = EventKind::of_record(kind).map_or("cgroup", EventKind::name);
            events.push(Event {
                kind: EventKind::Loss,
                time: header.time,
                setup: false,
                container: Arc::clone(context.container),
                actor: Actor::default(),
                process: None,
                parent: None,
                capabilities: Arc::from([]),
                detail: Detail::Loss { kind, count, reason: if throttled { "budget" } else { "ring" } },
            });
            return;
        }
        let before = self.nodes.get(&key_of(&header)).and_then(|node| node.capabilities);
        let key = match &body {
            Body::Fork => self.forked(&header),
            Body::Exec { path, args, stdio } => self.executed(&header, &path.text, args, *stdio),
            _ => self.known(&header),
        };
        if let Some(node) = self.nodes.get_mut(&key) {
            node.capabilities = Some(header.capabilities);
        }
        let mut changed = Changed::Nothing;
        let mut mismatch = None;
        let (kind, detail) = match body {
            Body::Exec { stdio, path, .. } => {
                changed = Changed::Streams;
                // What it had before a setuid program may have been given up unseen.
                let had = if header.flags & FLAG_EXEC_SECURE != 0 { Some(0) } else { before };
                let gained = header.capabilities & !had.unwrap_or(header.capabilities);
                let memfd = path.nowhere && path.text.starts_with("/memfd:");
                (EventKind::Exec, Detail::Exec { stdio, gained: self.names(gained), memfd })
            }
            Body::Fork => (EventKind::Fork, Detail::None),
            Body::Exit { status } => (EventKind::Exit, Detail::Exit { code: exit_code(status) }),
            Body::Redirect { stdio } => {
                self.set_stdio(key, stdio);
                changed = Changed::Streams;
                (EventKind::Redirect, Detail::Stdio(stdio))
            }
            Body::Connect(connection) => {
                mismatch = other_address(&connection).map(Box::new);
                changed = self.connected(key, &connection);
                (
                    EventKind::Connect,
                    connection_detail(Connection { peer: meant(connection.peer), ..connection }),
                )
            }
            Body::Accept(connection) => {
                changed = self.connected(key, &connection);
                (EventKind::Accept, connection_detail(connection))
            }
            Body::Open(open) => {
                if open.fifo
                    && let Some(node) = self.nodes.get_mut(&key)
                    && node.fifos.len() < 16
                {
                    node.fifos.push((open.inode, open.write));
                    changed = Changed::Streams;
                }
                let passed = open.passed.clone();
                let file = file_detail(open, context);
                mismatch = self.leads_elsewhere(header.scope, passed, &file).map(Box::new);
                (EventKind::Open, Detail::File(Box::new(file)))
            }
            Body::Map(open) => (EventKind::Map, Detail::File(Box::new(file_detail(open, context)))),
            Body::ExecFailed { path, errno } => (
                EventKind::ExecFailed,
                Detail::File(Box::new(file_detail(nothing_opened(path, errno), context))),
            ),
            Body::Change(change) => {
                let Some(what) = names::change(change.syscall, change.argument2) else { return };
                let file = file_detail(nothing_opened(change.path, change.errno), context);
                (EventKind::Change, Detail::Change(Box::new(Change { what, file, source: change.other })))
            }
            Body::Bind(local) => (EventKind::Bind, local_detail(&local)),
            Body::Listen(local) => (EventKind::Listen, local_detail(&local)),
            Body::Syscall(call) => {
                let Some(name) = names::syscall(call.number) else { return };
                (EventKind::Syscall, Detail::Syscall { name, text: call.text, result: call.result })
            }
            Body::IoUring { opcode } => {
                (EventKind::IoUring, Detail::IoUring { request: names::io_uring_request(opcode) })
            }
            Body::Read(sum) => (EventKind::Read, Detail::Bytes { bytes: sum.bytes, files: Some(sum.files) }),
            Body::Send(sum) => (EventKind::Send, Detail::Bytes { bytes: sum.bytes, files: None }),
            // Told to the daemon, not to rules.
            Body::CgroupMade(_) | Body::CgroupGone(_) | Body::Loss { .. } => return,
        };
        events.push(self.event(kind, &header, key, context, detail));
        if let Some(mismatch) = mismatch {
            events.push(self.event(EventKind::Mismatch, &header, key, context, Detail::Mismatch(mismatch)));
        }
        for (key, link) in self.new_links(key, changed) {
            events.push(self.event(EventKind::Link, &header, key, context, Detail::Link(Box::new(link))));
        }
        if kind == EventKind::Exit {
            self.exited(key);
        }
    }

    /// The names of a set of capabilities.
    fn names(&mut self, set: u64) -> Texts {
        if self.capabilities.len() > MOST_SETS {
            self.capabilities.clear();
        }
        let names = || {
            let named = names::CAPABILITIES.iter().enumerate();
            named.filter(|(bit, _)| set >> bit & 1 == 1).map(|(_, name)| Arc::from(*name)).collect()
        };
        Arc::clone(self.capabilities.entry(set).or_insert_with(names))
    }

    /// Is a caller's name another than the opened file's? Told once for each pair.
    fn leads_elsewhere(&mut self, scope: u64, passed: Option<String>, file: &FileDetail) -> Option<Mismatch> {
        let passed = passed?;
        let same = if passed.starts_with('/') {
            tidy(&passed) == file.path
        } else {
            // What it is relative to is not known; `.` and `..` can lead to any name.
            let last = |path: &str| path.rsplit('/').next().map(str::to_owned);
            matches!(last(&passed).as_deref(), Some("" | "." | "..")) || last(&passed) == last(&file.path)
        };
        if same
            || file.truncated
            || file.unreadable
            || passed.starts_with("/proc/")
            || passed.starts_with("/dev/")
        {
            return None;
        }
        let told = self.elsewhere.entry(scope).or_default();
        if told.len() > MOST_PAIRS {
            told.clear();
        }
        let pair = std::hash::BuildHasher::hash_one(
            &std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default(),
            (&passed, &file.path),
        );
        told.insert(pair).then(|| Mismatch::Path { taken: file.clone(), passed })
    }

    fn event(
        &mut self,
        kind: EventKind,
        header: &Header,
        key: ProcessKey,
        context: &Context<'_>,
        detail: Detail,
    ) -> Event {
        // A link can be about another process than the one that acted.
        let capabilities =
            if key.pid == header.tgid { self.names(header.capabilities) } else { Arc::from([]) };
        let node = self.nodes.get(&key);
        let parent = node.and_then(|node| self.nodes.get(&node.parent?));
        // Its numbers are less well known then.
        let actor = if key.pid == header.tgid {
            Actor {
                pid: header.tgid,
                vpid: header.vpid,
                tid: header.tid,
                parent_pid: header.parent_tgid,
                group: header.pgid,
                session: header.sid,
                user: context.user(header.uid),
            }
        } else {
            Actor {
                pid: key.pid,
                tid: key.pid,
                parent_pid: parent.map_or(0, |parent| parent.process.key.pid),
                ..Actor::default()
            }
        };
        Event {
            kind,
            time: header.time,
            setup: header.flags & FLAG_SETUP != 0,
            container: Arc::clone(context.container),
            actor,
            process: node.map(|node| Arc::clone(&node.process)),
            parent: parent.map(|parent| Arc::clone(&parent.process)),
            capabilities,
            detail,
        }
    }

    fn forked(&mut self, header: &Header) -> ProcessKey {
        let key = key_of(header);
        if self.nodes.contains_key(&key) {
            return key;
        }
        // Who forks here is in the cgroup, but may have been moved there without anybody's saying so.
        let parent_key = ProcessKey { pid: header.parent_tgid, start_time: header.parent_start_time };
        let parent = self.found_or_made(parent_key, header.scope, None);
        let ancestors = self.ancestors(Some(parent));
        if let Some(parent_node) = self.nodes.get(&parent) {
            let process =
                Process { key, entity_id: entity_id(key), ancestors, ..Process::clone(&parent_node.process) };
            let node = Node {
                stdio: parent_node.stdio,
                stdio_inherited: true,
                connection: parent_node.connection,
                linked: parent_node.linked,
                capabilities: parent_node.capabilities,
                ..Node::new(Arc::new(process), header.scope, Some(parent))
            };
            self.insert(key, node);
        }
        key
    }

    fn executed(
        &mut self,
        header: &Header,
        executable: &str,
        args: &Arc<[Arc<str>]>,
        stdio: [Stream; 3],
    ) -> ProcessKey {
        let key = key_of(header);
        let old = self.find(key.pid, key.start_time).and_then(|old| self.nodes.remove(&old));
        let parent = match &old {
            Some(old) if !old.from_proc => old.parent,
            _ => self.find(header.parent_tgid, header.parent_start_time),
        };
        let ancestors = match &old {
            Some(old) if !old.from_proc => Arc::clone(&old.process.ancestors),
            _ => self.ancestors(parent),
        };
        let process = Process {
            key,
            entity_id: entity_id(key),
            executable: executable.into(),
            command_line: args.join(" ").into(),
            args: Arc::clone(args),
            args_truncated: header.flags & FLAG_ARGS_TRUNCATED != 0,
            args_unreadable: header.flags & FLAG_ARGS_UNREADABLE != 0,
            ancestors,
        };
        let node = Node { stdio, ..Node::new(Arc::new(process), header.scope, parent) };
        self.insert(key, node);
        key
    }

    /// The process of a record.
    fn known(&mut self, header: &Header) -> ProcessKey {
        let parent = self.find(header.parent_tgid, header.parent_start_time);
        self.found_or_made(key_of(header), header.scope, parent)
    }

    /// A process by its key, made up from /proc if it has not been seen before.
    fn found_or_made(&mut self, key: ProcessKey, scope: u64, parent: Option<ProcessKey>) -> ProcessKey {
        if let Some(key) = self.find(key.pid, key.start_time) {
            return key;
        }
        let ancestors = self.ancestors(parent);
        let snapshot =
            proc::snapshot(key.pid).filter(|found| found.start_ticks == key.start_time / proc::TICK);
        let process = match snapshot {
            Some(snapshot) => Process {
                executable: snapshot.executable.into(),
                command_line: snapshot.args.join(" ").into(),
                args: snapshot.args.into(),
                args_unreadable: false,
                ancestors,
                ..unknown(key)
            },
            None => Process { ancestors, ..unknown(key) },
        };
        let stdio = if process.executable.is_empty() { None } else { proc::stdio(key.pid) };
        let node = Node { stdio: stdio.unwrap_or_default(), ..Node::new(Arc::new(process), scope, parent) };
        self.insert(key, node);
        key
    }

    /// A process that is kept; one from /proc gets its exact start time here.
    fn find(&mut self, pid: u32, start_time: u64) -> Option<ProcessKey> {
        let exact = ProcessKey { pid, start_time };
        if self.nodes.contains_key(&exact) {
            return Some(exact);
        }
        let near = *self.by_pid.get(&pid)?;
        let node = self.nodes.get(&near)?;
        if !node.from_proc || near.start_time != start_time / proc::TICK * proc::TICK {
            return None;
        }
        let mut node = self.nodes.remove(&near)?;
        node.from_proc = false;
        node.process =
            Arc::new(Process { key: exact, entity_id: entity_id(exact), ..Process::clone(&node.process) });
        if let Some(living) = self.living.get_mut(&node.scope) {
            living.remove(&near);
        }
        self.insert(exact, *node);
        for other in self.nodes.values_mut().filter(|other| other.parent == Some(near)) {
            other.parent = Some(exact);
        }
        Some(exact)
    }

    fn insert(&mut self, key: ProcessKey, node: Node) {
        if self.nodes.len() >= MOST {
            self.forget_one();
        }
        self.by_pid.insert(key.pid, key);
        self.living.entry(node.scope).or_default().insert(key);
        self.nodes.insert(key, Box::new(node));
    }

    fn forget_one(&mut self) {
        let victim = self.ended.pop_front().or_else(|| {
            self.forgotten += 1;
            self.nodes.keys().next().copied()
        });
        if let Some(victim) = victim {
            self.remove(victim);
        }
    }

    fn remove(&mut self, key: ProcessKey) {
        if let Some(node) = self.nodes.remove(&key)
            && let Some(living) = self.living.get_mut(&node.scope)
        {
            living.remove(&key);
        }
        if self.by_pid.get(&key.pid) == Some(&key) {
            self.by_pid.remove(&key.pid);
        }
    }

    fn exited(&mut self, key: ProcessKey) {
        if let Some(node) = self.nodes.get(&key)
            && let Some(living) = self.living.get_mut(&node.scope)
        {
            living.remove(&key);
        }
        if self.ended.len() == MOST_ENDED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.remove(oldest);
        }
        self.ended.push_back(key);
    }

    fn set_stdio(&mut self, key: ProcessKey, stdio: [Stream; 3]) {
        if let Some(node) = self.nodes.get_mut(&key) {
            node.stdio = stdio;
            node.stdio_inherited = false;
        }
    }

    fn connected(&mut self, key: ProcessKey, connection: &Connection) -> Changed {
        // Datagrams come in storms; who has sent one before, with the same streams, has become no other's relay.
        let again = matches!(connection.peer, Peer::Udp(..))
            && self.nodes.get(&key).is_some_and(|node| {
                node.connection.is_some() && !node.stdio_inherited && node.stdio == connection.stdio
            });
        self.set_stdio(key, connection.stdio);
        let remote = match connection.peer {
            Peer::Tcp(ip, port) => (ip, port),
            // Asking for a name makes nobody a relay.
            Peer::Udp(ip, port) if port != 53 => (ip, port),
            _ => return Changed::Nothing,
        };
        if remote.1 == 0 {
            return Changed::Nothing;
        }
        if let Some(node) = self.nodes.get_mut(&key) {
            node.connection = Some(remote);
        }
        if again { Changed::Nothing } else { Changed::Connection }
    }

    fn ancestors(&self, parent: Option<ProcessKey>) -> Arc<[Arc<str>]> {
        let Some(parent) = parent.and_then(|parent| self.nodes.get(&parent)) else { return Arc::from([]) };
        std::iter::once(&parent.process.executable)
            .chain(parent.process.ancestors.iter())
            .take(ANCESTORS)
            .cloned()
            .collect()
    }
}

/// What a record changed about where streams lead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Changed {
    Nothing,
    /// The process's own streams.
    Streams,
    /// The process has a connection now.
    Connection,
}

impl Node {
    fn new(process: Arc<Process>, scope: u64, parent: Option<ProcessKey>) -> Self {
        Self {
            process,
            scope,
            parent,
            stdio: [Stream::default(); 3],
            stdio_inherited: false,
            connection: None,
            fifos: Vec::new(),
            linked: false,
            from_proc: false,
            capabilities: None,
        }
    }
}

fn key_of(header: &Header) -> ProcessKey {
    ProcessKey { pid: header.tgid, start_time: header.start_time }
}

fn entity_id(key: ProcessKey) -> Arc<str> {
    format!("{}-{:x}", key.pid, key.start_time).into()
}

fn unknown(key: ProcessKey) -> Process {
    Process {
        key,
        entity_id: entity_id(key),
        executable: Arc::from(""),
        args: Arc::from([]),
        command_line: Arc::from(""),
        args_truncated: false,
        args_unreadable: true,
        ancestors: Arc::from([]),
    }
}

fn exit_code(status: u32) -> i64 {
    let signal = status & 0x7f;
    i64::from(if signal == 0 { status >> 8 & 0xff } else { 128 + signal })
}

/// Where the kernel connects to: nowhere stands for this machine.
fn meant(peer: Peer) -> Peer {
    let here = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        _ => ip,
    };
    match peer {
        Peer::Tcp(ip, port) => Peer::Tcp(here(ip), port),
        Peer::Udp(ip, port) => Peer::Udp(here(ip), port),
        other => other,
    }
}

fn connection_detail(connection: Connection) -> Detail {
    let (remote, transport, path) = match connection.peer {
        Peer::Tcp(ip, port) => (Some((ip, port)), "tcp", None),
        Peer::Udp(ip, port) => (Some((ip, port)), "udp", None),
        Peer::Unix(path) => (None, "unix", Some(path)),
        Peer::Raw(ip) => (ip.map(|ip| (ip, 0)), "raw", None),
    };
    Detail::Connection {
        stdio: connection.stdio,
        remote,
        transport,
        path,
        result: connection.result,
        as_passed: connection.as_passed,
    }
}

fn local_detail(local: &Peer) -> Detail {
    match *local {
        Peer::Tcp(ip, port) => Detail::Local { local: (ip, port), transport: "tcp" },
        Peer::Udp(ip, port) => Detail::Local { local: (ip, port), transport: "udp" },
        Peer::Unix(_) | Peer::Raw(_) => Detail::None,
    }
}

/// Was the address in the caller's memory another one?
fn other_address(connection: &Connection) -> Option<Mismatch> {
    let (Peer::Tcp(ip, port) | Peer::Udp(ip, port)) = connection.peer else { return None };
    // Nowhere stands for this machine.
    let passed = connection.passed.filter(|(ip, _)| !ip.is_unspecified())?;
    (passed != (ip, port) && !connection.as_passed).then_some(Mismatch::Address { taken: (ip, port), passed })
}

/// A file of which there is no more than its name.
fn nothing_opened(path: super::sensor::decode::Path, errno: Option<i32>) -> Open {
    Open { path, inode: 0, device: 0, write: false, created: false, fifo: false, errno, passed: None }
}

fn file_detail(open: Open, context: &Context<'_>) -> FileDetail {
    let inode = if open.inode == 0 {
        Text::default()
    } else {
        Text::of(format_args!("{}:{}", open.device, open.inode))
    };
    FileDetail {
        workspace: context.owns(&open.path.text),
        as_passed: open.path.as_passed,
        path: open.path.text,
        inode,
        write: open.write,
        created: open.created,
        truncated: open.path.truncated,
        unreadable: open.path.unreadable,
        errno: open.errno,
    }
}

fn kind(stream: &Stream) -> StreamKind {
    StreamKind::from_u8(stream.kind)
}

#[cfg(test)]
mod tests;
