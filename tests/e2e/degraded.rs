//! A kernel without some of the hooks: what is not seen without them is said, and all else is seen as ever.

use coi_tests::Daemon;
use coi_tests::routes::{Owner, Route, Taken};
use serde_json::json;

/// Does an event of this kind have the route's path, port or size?
fn is_seen(route: &Route<'_>, action: &str) -> bool {
    route.events(action).any(|event| match action {
        "open" | "change" => event["file"]["path"] == *route.fact("path"),
        "accept" => event["source"]["port"] == *route.fact("port"),
        "read" => event["coi"]["io"]["bytes"] == *route.fact("bytes"),
        _ => event["coi"]["syscall"]["name"] == *route.fact("syscall"),
    })
}

#[test]
fn what_is_not_seen_without_a_hook_is_said() {
    // One that is missing, and one beside it that is there.
    let routes = [
        ("openat2", "openat", "open"),
        ("pread64", "read", "read"),
        ("accept4", "accept", "accept"),
        ("renameat2", "rename", "change"),
        ("unshare-mount", "setns", "syscall"),
    ];
    let tracepoints = ["openat2", "pread64", "accept4", "renameat2", "unshare"];
    let tracepoints = tracepoints.map(|call| format!("syscalls/sys_exit_{call}"));
    let tracepoints = tracepoints.each_ref().map(String::as_str);
    let all: Vec<_> = routes.iter().flat_map(|(missing, there, _)| [*missing, *there]).collect();
    let taken = Taken::take_with(Owner::Coi, &all, &tracepoints, "");
    let told: Vec<_> = routes
        .iter()
        .flat_map(|(missing, there, action)| [(taken.route(missing), action), (taken.route(there), action)])
        .map(|(route, action)| json!([route.name(), is_seen(&route, action), route.is_hole()]))
        .collect();
    let wanted: Vec<_> = routes
        .iter()
        .flat_map(|(missing, there, _)| [json!([missing, false, true]), json!([there, true, false])])
        .collect();
    assert_eq!(told, wanted, "route, seen, said to be a hole");
}

#[test]
fn without_what_is_needed_there_is_no_monitoring() {
    let said = Daemon::refuse_without(&["syscalls/sys_exit_execve"]);
    assert!(said.contains("sys_exit_execve"), "{said}");
}
