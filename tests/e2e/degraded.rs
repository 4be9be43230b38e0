//! A kernel without some of the hooks: what is not seen without them is said, and all else is seen as ever.

use coi_tests::routes::{Owner, Route, Taken};
use serde_json::json;

/// Does an event of this kind have the route's path, port or size?
fn is_seen(route: &Route<'_>, action: &str) -> bool {
    route.events(action).any(|event| match action {
        "open" | "change" => event["file"]["path"] == *route.fact("path"),
        "accept" => event["source"]["port"] == *route.fact("port"),
        _ => event["coi"]["io"]["bytes"] == *route.fact("bytes"),
    })
}

/// Asserts which of the routes, each with the kind of event that it is, are seen, and that the others are said to be holes.
#[track_caller]
fn assert_seen(missing: &[&str], routes: &[(&str, &str, bool)]) {
    let names: Vec<_> = routes.iter().map(|(route, ..)| *route).collect();
    let taken = Taken::take_with(Owner::Foreign, &names, missing, "");
    let told = routes.iter().map(|&(route, action, _)| (taken.route(route), action));
    let told: Vec<_> =
        told.map(|(route, action)| json!([route.name(), is_seen(&route, action), route.is_hole()])).collect();
    let wanted: Vec<_> = routes.iter().map(|&(route, _, seen)| json!([route, seen, !seen])).collect();
    assert_eq!(told, wanted, "route, seen, said to be a hole");
}

#[test]
fn without_tracepoints_of_sockets_and_rings() {
    let missing = ["sock_send_length", "io_uring_submit_req", "io_uring_complete"];
    assert_seen(
        &missing.map(|name| format!("btf_trace_{name}")).each_ref().map(String::as_str),
        &[
            ("send-write", "send", false),
            ("rename-io-uring", "change", false),
            ("rename", "change", true),
            ("read-io-uring", "read", false),
            ("read", "read", true),
        ],
    );
}

#[test]
fn without_the_functions_that_every_route_passes() {
    assert_seen(
        &[
            "do_filp_open",
            "security_sock_graft",
            "btf_trace_io_uring_submit_req",
            "btf_trace_io_uring_complete",
        ],
        &[
            ("open-io-uring", "open", false),
            ("openat", "open", true),
            ("open-int80", "open", true),
            ("accept-io-uring", "accept", false),
            ("accept4", "accept", true),
            ("accept-int80-socketcall", "accept", true),
        ],
    );
}
