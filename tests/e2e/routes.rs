//! Every route into the kernel, taken in a container of COI's and in one of somebody else's: each is closed, or seen as
//! what it really was, or a hole that the coverage report names; see tests/routes/README.md.

#![expect(clippy::unwrap_used, reason = "what fails here is a test")]

use std::collections::BTreeSet;
use std::process::Command;

use coi_tests::routes::{PROGRAM, Route, Taken, is_coverage};
use coi_tests::{end, in_containers};
use serde_json::{Value, json};

/// Says of a route that was taken whether the events show it as what it was.
type Seen = fn(&Route<'_>) -> bool;

macro_rules! families {
    ($($family:ident: $seen:expr, $routes:literal;)*) => {
        /// The families: what it is to be seen, and the routes.
        const FAMILIES: &[(&str, Seen, &str)] = &[$((stringify!($family), $seen, $routes)),*];

        /// One test for each family, and those of all of them.
        mod tests {
            use super::*;

            $(
                pub(super) fn $family(taken: &Taken) {
                    prove(taken, stringify!($family));
                }
            )*

            pub(super) use super::{coverage_is_told_and_recorded, holes_are_few, rings_are_seen};
        }

        in_containers! { |owner| Taken::take(owner, &super::all()), tests: $($family)* coverage_is_told_and_recorded holes_are_few rings_are_seen }
    };
}

families! {
    executed: executed,
        "exec exec-execveat exec-execveat-dirfd exec-proc-fd exec-memfd exec-memfd-proc-fd exec-int80
         exec-execveat-int80 exec-thread exec-relative exec-symlink exec-script exec-deleted";
    became_root: |route| executed(route) && route.events("exec").any(is_of_new_root), "exec-setuid";
    connected: |route| connected(route, "tcp"),
        "connect connect-ipv6 connect-mapped connect-mptcp connect-int80 connect-int80-socketcall connect-io-uring
         connect-io-uring-async connect-io-uring-sqpoll connect-fastopen connect-deferred";
    datagrams_sent: |route| connected(route, "udp"),
        "udp-connect udp-connect-send udp-sendto udp-sendto-elsewhere udp-sendto-ipv6 udp-sendto-mapped
         udp-connect-mapped udp-sendmsg udp-sendmmsg
         udp-sendto-int80-socketcall udp-sendmsg-int80 udp-sendmsg-io-uring";
    sent_by_hand: |route| any(route, "connect", |event| {
        event["network"]["transport"] == "raw" && event["destination"]["ip"] == *route.fact("ip")
    }), "raw-sendto raw-sendmsg raw-sendmmsg raw-connect packet-sendto";
    bound: |route| served(route, "bind"), "bind bind-udp bind-ipv6 bind-int80 bind-io-uring";
    listened: |route| served(route, "listen"), "listen listen-unbound listen-int80 listen-io-uring";
    accepted: accepted, "accept accept4 accept-mptcp accept-int80 accept-int80-socketcall accept-io-uring";
    opened: opened,
        "open creat openat openat-absolute openat-dirfd openat-dot-dot openat-symlink openat-proc-root
         openat-proc-cwd openat-proc-fd openat2 open-int80 creat-int80 openat-int80 openat2-int80 open-io-uring
         open-io-uring-async open-io-uring-sqpoll openat2-io-uring";
    open_refused: |route| any(route, "open", |event| {
        event["file"]["path"] == *route.fact("path") && event["event"]["outcome"] == "failure"
    }), "openat-refused openat-refused-int80";
    read: |route| summed(route, "read"),
        "read pread64 readv preadv preadv2 read-int80 pread64-int80 readv-int80 read-io-uring readv-io-uring
         sendfile sendfile-int80 splice splice-io-uring copy-file-range mmap-read";
    mapped: |route| any(route, "map", |event| event["file"]["path"] == *route.fact("path")), "mmap mmap-int80";
    redirected: |route| any(route, "redirect", |event| stream_is_socket(route, event)),
        "dup dup2 dup3 dup2-int80 fcntl-dupfd fcntl-dupfd-cloexec fcntl-dupfd-int80";
    connected_as_standard_input: |route| {
        connected(route, "tcp") && any(route, "connect", |event| stream(route, event)["kind"] == "inet")
    }, "stdin-connect";
    accepted_as_standard_input: |route| {
        accepted(route) && any(route, "accept", |event| stream_is_socket(route, event))
    }, "stdin-accept";
    inherited_as_standard_input: |route| {
        executed(route) && route.events("exec").any(|event| stream_is_socket(route, event))
    }, "stdin-pidfd-getfd stdin-scm-rights";
    connected_by_path: connected_by_path,
        "unix-stream unix-stream-relative unix-stream-abstract unix-stream-int80 unix-stream-io-uring
         unix-datagram unix-datagram-sendto unix-datagram-sendmsg-int80 unix-datagram-sendmsg-io-uring
         unix-datagram-sendto-abstract unix-datagram-sendmsg unix-datagram-sendmmsg";
    changed: changed,
        "rename renameat renameat2 renameat-dirfd rename-int80 rename-io-uring link linkat link-int80
         link-io-uring symlink symlinkat symlink-int80 symlink-io-uring unlink unlinkat unlink-int80
         unlink-io-uring rmdir unlinkat-directory mkdir mkdirat mkdir-io-uring chmod fchmod fchmodat fchmodat2
         chmod-int80 chown lchown fchown fchownat truncate ftruncate";
    rarely_called: called,
        "mount mount-int80 umount2 pivot-root chroot unshare-user unshare-mount unshare-int80 setns setns-int80
         clone-user clone3-user ptrace ptrace-int80 process-vm-readv process-vm-writev bpf userfaultfd
         perf-event-open keyctl add-key request-key init-module finit-module delete-module kexec-load
         kexec-file-load open-by-handle-at memfd-create memfd-create-int80 pidfd-getfd io-uring-setup fsopen
         fsmount move-mount open-tree mount-setattr";
    sent: |route| summed(route, "send"),
        "send-write send-sendto send-writev send-sendfile send-int80 send-io-uring";
}

fn all() -> Vec<&'static str> {
    FAMILIES.iter().flat_map(|(_, _, routes)| routes.split_whitespace()).collect()
}

/// Asserts of each of a family's routes that it is closed, seen, or a hole, and not two of them.
#[track_caller]
fn prove(taken: &Taken, family: &str) {
    let (_, seen, routes) = FAMILIES.iter().find(|(name, ..)| *name == family).unwrap();
    let routes = routes.split_whitespace().map(|route| taken.route(route));
    let wrong: Vec<_> = routes.filter_map(|route| judge(&route, *seen)).collect();
    assert!(wrong.is_empty(), "{} of the routes:\n{}", wrong.len(), wrong.join("\n"));
}

/// What is wrong with a route.
fn judge(route: &Route<'_>, seen: Seen) -> Option<String> {
    // What is rare is often refused, which is to be seen as well.
    let is_taken =
        route.fact("done") == true || route.fact("refused") == "true" || !route.fact("syscall").is_null();
    let wrong = match (route.is_closed(), seen(route), route.is_hole()) {
        (false, ..) if !is_taken => "could not be taken",
        (true, _, false) | (false, true, false) | (false, false, true) => return None,
        (true, _, true) => "is closed, but said to be a hole",
        (false, true, true) => "is seen, but said to be a hole",
        (false, false, false) => "is neither seen nor said to be a hole",
    };
    let events: Vec<_> = route.all_events().map(|event| format!("    {event}\n")).collect();
    Some(format!("{} {wrong}: {}\n{}", route.name(), route.report, events.concat()))
}

/// What can and cannot be seen is the first that is told, and the audit log has the same.
fn coverage_is_told_and_recorded(taken: &Taken) {
    let told: Vec<_> = taken.told().iter().filter(|event| is_coverage(event)).collect();
    let [coverage] = told[..] else { panic!("{} coverage reports", told.len()) };
    assert_eq!(taken.told().first(), Some(coverage));
    assert!(
        coverage["coi"]["programs"].as_array().is_some_and(|programs| !programs.is_empty()),
        "{coverage}"
    );
    for hole in coverage["coi"]["holes"].as_array().unwrap() {
        let texts = ["id", "what", "why"].map(|key| hole[key].as_str().unwrap_or_default());
        assert!(texts.iter().all(|text| !text.is_empty()), "{hole}");
    }
    let recorded = taken.recorded_coverage();
    let [recorded] = recorded[..] else { panic!("{} in the audit log", recorded.len()) };
    assert_eq!(recorded["coi"]["holes"], coverage["coi"]["holes"]);
}

/// Asserts that what the coverage report says to be unseen is what may be.
fn holes_are_few(taken: &Taken) {
    let known = all();
    // A page fault tells nobody which file.
    let may_be = |hole: &str| hole == "mmap-read";
    let wrong: Vec<_> =
        taken.holes().into_iter().filter(|hole| !known.contains(hole) || !may_be(hole)).collect();
    assert!(wrong.is_empty(), "the coverage report has these holes: {wrong:?}");
}

/// Where the path of what went through a ring is a hole, that it went through is not.
fn rings_are_seen(taken: &Taken) {
    let opcode = |route: &str| {
        let first = route.split('-').next().unwrap();
        Some(
            match (first, route.contains("-io-uring")) {
                (_, false) => return None,
                ("open", _) => "OPENAT",
                ("openat2", _) => "OPENAT2",
                ("udp", _) => "SENDMSG",
                ("unix", _) if route.contains("-sendmsg-") => "SENDMSG",
                ("unix", _) => "CONNECT",
                ("rename", _) => "RENAMEAT",
                ("unlink", _) => "UNLINKAT",
                ("mkdir", _) => "MKDIRAT",
                ("symlink", _) => "SYMLINKAT",
                ("link", _) => "LINKAT",
                (first, _) => return Some(first.to_uppercase()),
            }
            .to_owned(),
        )
    };
    let wrong: Vec<_> = all()
        .into_iter()
        .filter_map(|name| Some((taken.route(name), opcode(name)?)))
        .filter(|(route, _)| !route.is_closed())
        .filter(|(route, opcode)| {
            !any(route, "io_uring", |event| event["coi"]["io_uring"]["opcode"] == **opcode)
        })
        .map(|(route, opcode)| format!("{}: {opcode}", route.name()))
        .collect();
    assert!(wrong.is_empty(), "not seen:\n{}", wrong.join("\n"));
}

#[test]
fn every_route_that_the_program_knows_is_taken_by_a_test() {
    let list = end(Command::new(PROGRAM).arg("list")).expect(0).text();
    let elsewhere =
        |route: &&str| ["flip-", "swap-", "evade-"].iter().any(|family| route.starts_with(family));
    let known: BTreeSet<_> = list.lines().filter(|route| !elsewhere(route)).collect();
    assert_eq!(known, all().into_iter().collect());
}

/// Is there an event of this kind, by the route's own process, for which this holds?
fn any(route: &Route<'_>, action: &str, holds: impl Fn(&Value) -> bool) -> bool {
    route.events(action).any(|event| event["process"]["executable"] == "/workspace/routes" && holds(event))
}

fn executed(route: &Route<'_>) -> bool {
    let path = route.fact("path");
    let memfd = path.as_str().unwrap().starts_with("/memfd:");
    route.events("exec").any(|event| {
        event["process"]["executable"] == *path
            && event["coi"]["process"]["memfd"].as_bool().unwrap_or(false) == memfd
    })
}

/// Has somebody become root by an exec?
fn is_of_new_root(exec: &Value) -> bool {
    let gained = exec["coi"]["process"]["capabilities_gained"].as_array();
    exec["process"]["user"]["id"] == "0"
        && gained.is_some_and(|gained| gained.contains(&json!("CAP_SYS_ADMIN")))
}

fn connected(route: &Route<'_>, transport: &str) -> bool {
    any(route, "connect", |event| {
        event["network"]["transport"] == transport && is_at(route, &event["destination"])
    })
}

fn served(route: &Route<'_>, action: &str) -> bool {
    let transport = if route.name() == "bind-udp" { "udp" } else { "tcp" };
    any(route, action, |event| event["network"]["transport"] == transport && is_at(route, &event["server"]))
}

fn accepted(route: &Route<'_>) -> bool {
    any(route, "accept", |event| is_at(route, &event["source"]))
}

/// Is this end of a connection the address that the route has?
fn is_at(route: &Route<'_>, end: &Value) -> bool {
    end["ip"] == *route.fact("ip") && end["port"] == *route.fact("port")
}

fn opened(route: &Route<'_>) -> bool {
    any(route, "open", |event| {
        let outcome = if route.name().contains("-io-uring") { "unknown" } else { "success" };
        event["file"]["path"] == *route.fact("path") && event["event"]["outcome"] == outcome
    })
}

/// All that was done, to the byte.
fn summed(route: &Route<'_>, action: &str) -> bool {
    let bytes = route.events(action).filter_map(|event| event["coi"]["io"]["bytes"].as_u64());
    json!(bytes.sum::<u64>()) == *route.fact("bytes")
}

/// The standard stream that the route has put on a socket, as the event has it.
fn stream<'a>(route: &Route<'_>, event: &'a Value) -> &'a Value {
    let names = ["stdin", "stdout", "stderr"];
    &event["coi"]["process"][names[route.fact("fd").as_u64().unwrap() as usize]]
}

fn stream_is_socket(route: &Route<'_>, event: &Value) -> bool {
    let stream = stream(route, event);
    stream["kind"] == "inet" && is_at(route, stream)
}

fn connected_by_path(route: &Route<'_>) -> bool {
    any(route, "connect", |event| {
        let path = &event["coi"]["socket"]["path"];
        event["network"]["transport"] == "unix"
            && (*path == *route.fact("path") || *path == *route.fact("passed"))
    })
}

fn changed(route: &Route<'_>) -> bool {
    any(route, "change", |event| {
        let change = &event["coi"]["file"];
        change["change"] == *route.fact("change")
            && event["file"]["path"] == *route.fact("path")
            && change["source"] == *route.fact("source")
    })
}

fn called(route: &Route<'_>) -> bool {
    let outcome = if route.fact("done") == true { "success" } else { "failure" };
    any(route, "syscall", |event| {
        let (call, path) = (&event["coi"]["syscall"], route.fact("path"));
        call["name"] == *route.fact("syscall")
            && event["event"]["outcome"] == outcome
            && (outcome == "success" || event["coi"]["errno"] == *route.fact("errno"))
            && (call["path"].is_null() || call["path"] == *path)
    })
}
