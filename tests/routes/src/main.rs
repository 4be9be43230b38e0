//! Every way into the kernel that COI has to see, one subcommand each.
//!
//! `routes NAME` takes one route once and prints one line of JSON: what it really did, by whom (`pid`, in its own PID
//! namespace), to what (`path`, `ip`, `port`, ...), or why not (`errno`; 38 where the entry is closed). `routes list`
//! prints the names, one per line; `routes flood KIND` does one thing until its standard input ends, and prints how
//! often. README.md says which event each must give.
//!
//! The act itself is a system call made by hand, through one of three entries (`sys`, `uring`); what only prepares it
//! uses the standard library. Linked statically, it runs in a container that has nothing else. It leaves its files in
//! the working directory and connects only to addresses of the namespace that it runs in.

#![expect(clippy::unwrap_used, reason = "a route that cannot even be tried fails its test")]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod change;
mod connect;
mod evade;
mod exec;
mod flip;
mod flood;
mod net;
mod open;
mod rare;
mod read;
mod redirect;
mod report;
mod send;
mod serve;
mod sys;
mod udp;
mod unix;
mod uring;

use std::env;
use std::process::ExitCode;

use report::Report;

/// A name and what is done under it; it is told its name.
type Route = (&'static str, fn(&str) -> Report);

const FAMILIES: &[&[Route]] = &[
    exec::ROUTES,
    connect::ROUTES,
    udp::ROUTES,
    serve::ROUTES,
    open::ROUTES,
    read::ROUTES,
    redirect::ROUTES,
    unix::ROUTES,
    change::ROUTES,
    rare::ROUTES,
    send::ROUTES,
    flip::ROUTES,
    evade::ROUTES,
];

fn main() -> ExitCode {
    let wanted = env::args().nth(1).unwrap_or_default();
    let mut routes = FAMILIES.iter().copied().flatten();
    if wanted == "list" {
        routes.for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if wanted == "flood" {
        let Some(done) = flood::flood(&env::args().nth(2).unwrap_or_default()) else {
            eprintln!("usage: routes flood open|fork|exec|send");
            return ExitCode::from(2);
        };
        println!("{done}");
        return ExitCode::SUCCESS;
    }
    if wanted == flip::DECOY {
        return ExitCode::from(flip::DECOY_CODE);
    }
    let Some((name, act)) = routes.find(|(name, _)| *name == wanted) else {
        eprintln!("no such route: {wanted:?}; `routes list` names them");
        return ExitCode::from(2);
    };
    println!("{}", act(name).json(name));
    ExitCode::SUCCESS
}
