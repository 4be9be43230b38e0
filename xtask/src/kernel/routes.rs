//! Routes into the kernel that another kernel shows at functions which all of them pass: each is shown once, as what
//! it was, and is no hole.

use serde_json::Value;

use super::{Said, guest};
use crate::coi::{Coi, Signals};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The program that takes them.
const PROGRAM: &str = "/usr/bin/routes";
/// An address of the guest's own.
const ADDRESS: &str = "127.0.0.1";
/// What the kernels that are booted take.
const HOOKS: [&str; 6] = [
    "fexit/do_filp_open",
    "fexit/unix_stream_connect",
    "fexit/unix_dgram_connect",
    "fexit/unix_dgram_sendmsg",
    "fexit/security_socket_connect",
    "fexit/security_sock_graft",
];
/// By which event a route shows, and the routes.
const FAMILIES: [(&str, &[&str]); 3] = [
    (
        "open",
        &[
            "open",
            "creat",
            "openat",
            "openat-dirfd",
            "openat-symlink",
            "openat2",
            "openat-refused",
            "open-int80",
            "creat-int80",
            "openat-int80",
            "openat2-int80",
            "openat-refused-int80",
            "open-io-uring",
            "open-io-uring-async",
            "open-io-uring-sqpoll",
            "openat2-io-uring",
        ],
    ),
    (
        "connect",
        &[
            "unix-stream",
            "unix-stream-relative",
            "unix-stream-abstract",
            "unix-stream-int80",
            "unix-stream-io-uring",
            "unix-datagram",
            "unix-datagram-sendto",
            "unix-datagram-sendto-abstract",
            "unix-datagram-sendmsg-int80",
            "unix-datagram-sendmsg",
            "unix-datagram-sendmsg-io-uring",
            "unix-datagram-sendmmsg",
        ],
    ),
    (
        "accept",
        &[
            "accept",
            "accept4",
            "accept-mptcp",
            "accept-int80",
            "accept-int80-socketcall",
            "accept-io-uring",
            "stdin-accept",
        ],
    ),
];

/// Takes some of them in a cgroup of their own, and says of each how it was shown.
pub(super) async fn taken(coi: &Coi, signals: &mut Signals) -> Result<()> {
    let status = coi.ask("GET", "/v1/status", None, signals).await?;
    let has =
        |hook: &&str| status["programs"].as_array().is_some_and(|hooks| hooks.iter().any(|it| it == hook));
    let missing: Vec<_> = HOOKS.iter().filter(|hook| !has(hook)).collect();
    say(
        "routes: programs at functions are taken",
        if missing.is_empty() { Ok(()) } else { Err(format!("not at {missing:?}")) },
    );

    let routes =
        FAMILIES.iter().flat_map(|(action, routes)| routes.iter().map(move |route| (*action, *route)));
    let routes: Vec<_> = routes.collect();
    let commands: Vec<_> = routes.iter().map(|(_, route)| [PROGRAM, route, ADDRESS]).collect();
    let commands: Vec<_> = commands.iter().map(|words| &words[..]).collect();
    let (said, events) = guest::shown(coi, "routes", &commands, signals).await?;
    let holes = status["holes"].as_array().into_iter().flatten();
    let holes: Vec<_> = holes.filter_map(|hole| hole["routes"].as_array()).flatten().collect();
    for ((action, route), said) in routes.into_iter().zip(said) {
        let hole = holes.iter().any(|hole| **hole == route);
        say(
            &format!("routes: {route}"),
            if hole { Err("a hole".to_owned()) } else { judge(action, &said, &events) },
        );
    }
    Ok(())
}

fn say(what: &str, outcome: std::result::Result<(), String>) {
    match outcome {
        Ok(()) => Said::Pass(what.to_owned()),
        Err(why) => Said::Fail(format!("{what}: {why}")),
    }
    .say();
}

/// What is wrong with how a route was shown, of which this is what it really did.
fn judge(action: &str, said: &str, events: &[Value]) -> std::result::Result<(), String> {
    let report: Value = serde_json::from_str(said).map_err(|_| format!("it said {said:?}"))?;
    let refused = report["refused"] == "true";
    if report["done"] != true && !refused {
        return Err(format!("could not be taken: {report}"));
    }
    let of_route = |event: &&Value| {
        let process = &event["process"];
        event["event"]["action"] == *action
            && process["vpid"] == report["pid"]
            && process["args"].as_array().is_some_and(|words| words.contains(&report["route"]))
    };
    // A program opens its own libraries too.
    let about = |event: &&Value| action != "open" || event["file"]["path"] == report["path"];
    let shown: Vec<_> = events.iter().filter(of_route).filter(about).collect();
    let [event] = shown[..] else { return Err(format!("shown {} times: {report} {shown:?}", shown.len())) };
    let is_right = match action {
        "open" => (event["event"]["outcome"] == "failure") == refused,
        "connect" => {
            let path = &event["coi"]["socket"]["path"];
            event["network"]["transport"] == "unix" && (*path == report["path"] || *path == report["passed"])
        }
        _ => {
            let is_peer = |end: &Value| end["ip"] == report["ip"] && end["port"] == report["port"];
            // Where it becomes a standard stream, that is to be shown too.
            is_peer(&event["source"])
                && (report["fd"].is_null() || is_peer(&event["coi"]["process"]["stdin"]))
        }
    };
    if is_right { Ok(()) } else { Err(format!("{report} is shown as {event}")) }
}
