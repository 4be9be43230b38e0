//! Links and lineage, on records as the kernel side sends them.

use std::{net::IpAddr, sync::Arc};

use coi_common::{Address, Header, Stream, StreamKind};

use super::*;
use crate::monitor::{
    event::{Field, Record as _, Value},
    sensor::decode::{Connection, Open, Path as RawPath},
};

/// Process ids beyond what /proc can have, so that no real process is looked at.
const FIRST: u32 = 1 << 24;

struct World {
    lineage: Lineage,
    container: Arc<Container>,
    time: u64,
    events: Vec<Event>,
}

impl World {
    fn new() -> Self {
        let container = Arc::new(Container { name: "c".into(), id: "u".into() });
        Self { lineage: Lineage::default(), container, time: 0, events: Vec::new() }
    }

    fn apply(&mut self, pid: u32, parent: u32, body: Body) -> Vec<Event> {
        self.time += 1;
        let header = Header {
            time: self.time,
            scope: 7,
            tgid: FIRST + pid,
            tid: FIRST + pid,
            start_time: u64::from(pid) * 1000,
            parent_tgid: FIRST + parent,
            parent_start_time: u64::from(parent) * 1000,
            ..Header::default()
        };
        let context =
            Context { container: &self.container, workspace: Some("/workspace"), uid_map: &[[0, 1000, 10]] };
        self.lineage.apply(RawEvent { header, body }, &context, &mut self.events);
        std::mem::take(&mut self.events)
    }

    fn fork(&mut self, child: u32, parent: u32) {
        self.apply(child, parent, Body::Fork);
    }

    fn exec(&mut self, pid: u32, parent: u32, program: &str, stdio: [Stream; 3]) -> Vec<Event> {
        let path = RawPath { text: program.into(), ..RawPath::default() };
        self.apply(pid, parent, Body::Exec { path, args: Arc::from([Arc::from(program)]), stdio })
    }

    fn connect(&mut self, pid: u32, stdio: [Stream; 3]) -> Vec<Event> {
        let peer = Peer::Tcp(IpAddr::from([192, 0, 2, 1]), 4444);
        let connection = Connection { stdio, inode: 99, peer, result: None, as_passed: false, passed: None };
        self.apply(pid, 0, Body::Connect(connection))
    }

    fn open_fifo(&mut self, pid: u32, inode: u64, write: bool) -> Vec<Event> {
        let path = RawPath { text: "/tmp/f".into(), ..RawPath::default() };
        self.apply(
            pid,
            0,
            Body::Open(Open {
                path,
                inode,
                device: 1,
                write,
                created: false,
                fifo: true,
                errno: Some(0),
                passed: None,
            }),
        )
    }
}

fn stream(kind: StreamKind, inode: u64, access: u8) -> Stream {
    Stream { kind: kind as u8, inode, access, ..Stream::default() }
}

fn null() -> Stream {
    stream(StreamKind::Device, 5, 3)
}

fn reads(inode: u64) -> Stream {
    stream(StreamKind::Pipe, inode, 1)
}

fn writes(inode: u64) -> Stream {
    stream(StreamKind::Pipe, inode, 2)
}

fn inet() -> Stream {
    let peer = Address { ip: [192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], family: 2, port: 4444 };
    Stream { peer, ..stream(StreamKind::Inet, 99, 3) }
}

/// The links among events: program, kind, relay's program and whether it is a loop.
fn links(events: &[Event]) -> Vec<(String, &'static str, Option<String>, bool)> {
    events
        .iter()
        .filter_map(|event| match &event.detail {
            Detail::Link(link) => Some((
                event.process.as_ref()?.executable.to_string(),
                link.kind,
                link.relay.as_ref().map(|relay| relay.executable.to_string()),
                link.same_relay,
            )),
            _ => None,
        })
        .collect()
}

#[test]
fn a_shell_on_a_socket_is_linked_once_per_program() {
    let mut world = World::new();
    let streams = [inet(), inet(), inet()];
    let first = world.exec(1, 0, "/bin/bash", streams);
    assert_eq!(links(&first), [("/bin/bash".into(), "socket", None, true)]);
    let event = first.iter().find(|event| event.kind == EventKind::Link).unwrap();
    assert_eq!(event.get(Field::DestinationPort), Some(Value::Integer(4444)));
    assert!(links(&world.apply(1, 0, Body::Redirect { stdio: streams })).is_empty());
    assert_eq!(links(&world.exec(1, 0, "/bin/sh", streams)), [("/bin/sh".into(), "socket", None, true)]);
}

#[test]
fn input_alone_is_no_link() {
    let mut world = World::new();
    assert!(links(&world.exec(1, 0, "/bin/bash", [inet(), null(), null()])).is_empty());
}

#[test]
fn a_shell_whose_ancestor_is_on_the_socket_is_linked_through_it() {
    let mut world = World::new();
    world.exec(1, 0, "/usr/bin/python3", [null(); 3]);
    world.apply(1, 0, Body::Redirect { stdio: [inet(), inet(), inet()] });
    world.fork(2, 1);
    let pty = stream(StreamKind::Pty, 3, 3);
    let events = world.exec(2, 1, "/bin/sh", [pty; 3]);
    assert_eq!(links(&events), [("/bin/sh".into(), "ancestor", Some("/usr/bin/python3".into()), true)]);
}

#[test]
fn netcat_between_pipes_links_whatever_comes_last() {
    // nc reads pipe 20 and writes fifo 30; cat reads the fifo and writes pipe 10; sh reads 10 and writes 20.
    type Step = fn(&mut World) -> Vec<Event>;
    let steps: [Step; 3] = [
        |world| world.exec(1, 0, "/bin/sh", [reads(10), writes(20), writes(20)]),
        |world| {
            let mut events = world.exec(2, 0, "/bin/cat", [null(), writes(10), null()]);
            events.extend(world.open_fifo(2, 30, false));
            events
        },
        |world| {
            let streams = [reads(20), stream(StreamKind::Fifo, 30, 2), null()];
            let mut events = world.exec(3, 0, "/bin/nc", streams);
            events.extend(world.connect(3, streams));
            events
        },
    ];
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut world = World::new();
        let events: Vec<_> = order.iter().flat_map(|step| steps[*step](&mut world)).collect();
        let found = links(&events);
        assert!(
            found.contains(&("/bin/sh".into(), "pipes", Some("/bin/nc".into()), true)),
            "{order:?}: {found:?}"
        );
    }
}

#[test]
fn two_relays_are_no_loop() {
    let mut world = World::new();
    world.exec(1, 0, "/usr/bin/ssh", [null(), writes(10), null()]);
    world.connect(1, [null(), writes(10), null()]);
    world.exec(2, 0, "/usr/bin/ssh", [reads(20), null(), null()]);
    world.connect(2, [reads(20), null(), null()]);
    let events = world.exec(3, 0, "/bin/sh", [reads(10), writes(20), null()]);
    assert_eq!(links(&events), [("/bin/sh".into(), "pipes", Some("/usr/bin/ssh".into()), false)]);
}

#[test]
fn git_over_ssh_is_no_link() {
    // git holds the far ends privately; sh and ssh share the near ones.
    let mut world = World::new();
    world.exec(1, 0, "/usr/bin/git", [null(); 3]);
    world.fork(2, 1);
    let streams = [reads(10), writes(20), null()];
    assert!(links(&world.exec(2, 1, "/bin/sh", streams)).is_empty());
    world.fork(3, 2);
    world.exec(3, 2, "/usr/bin/ssh", streams);
    assert!(links(&world.connect(3, streams)).is_empty());
}

#[test]
fn an_agent_with_a_connection_only_holds_its_shells() {
    let mut world = World::new();
    world.exec(1, 0, "/usr/bin/node", [null(); 3]);
    world.connect(1, [null(); 3]);
    for (pid, stdio) in [
        (2, [reads(10), writes(20), writes(30)]),
        (3, [stream(StreamKind::Unix, 40, 3), stream(StreamKind::Unix, 41, 3), null()]),
        (4, [stream(StreamKind::Pty, 3, 3); 3]),
    ] {
        world.fork(pid, 1);
        let events = world.exec(pid, 1, "/bin/bash", stdio);
        assert_eq!(links(&events), [("/bin/bash".into(), "held", Some("/usr/bin/node".into()), true)]);
    }
}

#[test]
fn a_name_look_up_makes_nobody_a_relay() {
    let mut world = World::new();
    world.exec(1, 0, "/usr/bin/node", [null(); 3]);
    let peer = Peer::Udp(IpAddr::from([192, 0, 2, 53]), 53);
    let connection =
        Connection { stdio: [null(); 3], inode: 9, peer, result: Some(0), as_passed: false, passed: None };
    world.apply(1, 0, Body::Connect(connection));
    world.fork(2, 1);
    assert!(links(&world.exec(2, 1, "/bin/bash", [reads(10), writes(20), null()])).is_empty());
}

#[test]
fn datagrams_again_are_looked_at_when_the_streams_have_changed() {
    let mut world = World::new();
    let send = |world: &mut World, stdio| {
        let peer = Peer::Udp(IpAddr::from([192, 0, 2, 1]), 9000);
        let connection =
            Connection { stdio, inode: 9, peer, result: Some(0), as_passed: false, passed: None };
        world.apply(2, 0, Body::Connect(connection))
    };
    world.exec(1, 0, "/bin/sh", [reads(10), writes(20), null()]);
    world.exec(2, 0, "/usr/bin/python3", [null(); 3]);
    for _ in 0..2 {
        assert!(links(&send(&mut world, [null(); 3])).is_empty());
    }
    // A dup2 of a pipe is no event.
    let linked = links(&send(&mut world, [reads(20), writes(10), null()]));
    assert!(
        linked.contains(&("/bin/sh".into(), "pipes", Some("/usr/bin/python3".into()), true)),
        "{linked:?}"
    );
}

#[test]
fn ancestry_survives_a_double_fork() {
    let mut world = World::new();
    world.exec(1, 0, "/usr/bin/npm", [null(); 3]);
    world.fork(2, 1);
    world.exec(2, 1, "/bin/sh", [null(); 3]);
    world.fork(3, 2);
    world.apply(2, 1, Body::Exit { status: 0x0100 });
    // Reparented: the kernel names process 1 as its parent now.
    let events = world.exec(3, 0, "/usr/bin/curl", [null(); 3]);
    let Some(Value::Keywords(ancestors)) = events[0].get(Field::Ancestors) else { panic!("no ancestors") };
    assert_eq!(ancestors.iter().map(|name| &**name).collect::<Vec<_>>(), ["/bin/sh", "/usr/bin/npm"]);
    assert_eq!(events[0].get(Field::ParentName), Some(Value::Keyword("sh")));
}

#[test]
fn a_fork_of_a_process_that_was_moved_in_is_known() {
    let mut world = World::new();
    let me = std::process::id();
    let header = Header {
        scope: 7,
        tgid: FIRST,
        start_time: 1,
        parent_tgid: me,
        parent_start_time: proc::snapshot(me).unwrap().start_ticks * proc::TICK + 5,
        ..Header::default()
    };
    let context = Context { container: &world.container, workspace: None, uid_map: &[] };
    let mut events = Vec::new();
    world.lineage.apply(RawEvent { header, body: Body::Fork }, &context, &mut events);
    let own = std::env::current_exe().unwrap();
    assert_eq!(events[0].get(Field::ProcessExecutable), Some(Value::Keyword(own.to_str().unwrap())));
    assert_eq!(events[0].get(Field::ParentExecutable), Some(Value::Keyword(own.to_str().unwrap())));
}

#[test]
fn an_exit_says_how() {
    let mut world = World::new();
    let code = |events: Vec<Event>| match events[0].get(Field::ExitCode) {
        Some(Value::Integer(code)) => code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code(world.apply(1, 0, Body::Exit { status: 0x0300 })), 3);
    assert_eq!(code(world.apply(2, 0, Body::Exit { status: 9 })), 137);
}

#[test]
fn the_workspace_is_a_whole_part_of_the_path() {
    let container = Arc::new(Container { name: String::new(), id: String::new() });
    let context = Context { container: &container, workspace: Some("/workspace"), uid_map: &[[0, 1000, 10]] };
    assert!(context.owns("/workspace/a") && context.owns("/workspace"));
    assert!(!context.owns("/workspace2/a") && !context.owns("/tmp/workspace/a"));
    assert_eq!(context.user(1003).as_str(), "3");
    assert_eq!(context.user(5).as_str(), "host:5");
}

#[test]
fn what_is_kept_is_bounded() {
    let mut world = World::new();
    for pid in 1..(MOST_ENDED as u32 + 100) {
        world.exec(pid, 0, "/bin/true", [null(); 3]);
        world.apply(pid, 0, Body::Exit { status: 0 });
    }
    assert_eq!(world.lineage.nodes.len(), MOST_ENDED);
    assert_eq!(world.lineage.forgotten(), 0);
    world.lineage.forget(7);
    assert!(world.lineage.nodes.is_empty() && world.lineage.by_pid.is_empty());
}

#[test]
fn tables_stay_small_however_many_come_and_go() {
    let mut world = World::new();
    for pid in 1..(20 * MOST_ENDED as u32) {
        world.exec(pid, 0, "/bin/true", [null(); 3]);
        world.apply(pid, 0, Body::Exit { status: 0 });
    }
    let room = world.lineage.nodes.capacity() * size_of::<(ProcessKey, Box<Node>)>();
    assert!(room < 512 << 10, "{room} bytes for {} processes", world.lineage.nodes.len());
    assert_eq!(world.lineage.ended.capacity(), MOST_ENDED);
}
