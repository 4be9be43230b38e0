//! Incus: finding the one that runs, or starting one; and COI's own profile in it.
//!
//! Promises: an Incus that answers is used as it is. One that setup started, or whose package it installed, is given a
//! storage pool, a bridge and a default profile if it has none. The only thing put into any other is the profile `coi`
//! (and the images, see [`super::image`]). Every call has a deadline and goes to the local socket, whatever remote the
//! user's client has chosen.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::{Found, Item, SetupError, host};
use crate::run::{Cmd, Step};

/// The profile that COI's containers use; it needs nothing of the default profile's to be as it was.
const PROFILE: &str = "coi";
const POOL: &str = "default";
const BRIDGE: &str = "incusbr0";

/// Incus's API socket: where `INCUS_SOCKET` or `INCUS_DIR` say, as for Incus's own client.
pub(super) fn socket() -> PathBuf {
    set("INCUS_SOCKET").unwrap_or_else(|| directory().join("unix.socket"))
}

/// Where Incus keeps what it knows and has.
pub(super) fn directory() -> PathBuf {
    set("INCUS_DIR").unwrap_or_else(|| "/var/lib/incus".into())
}

fn set(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Whether an Incus answers on the socket.
pub(super) fn answers() -> bool {
    ask(&socket()).is_ok()
}

/// Asks for `/1.0`, with no need for Incus's client.
fn ask(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /1.0 HTTP/1.0\r\nHost: incus\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status.ends_with(b" 200") { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A request to the local Incus, answered with its metadata.
pub(super) fn query(method: &str, path: &str, body: Option<&Value>) -> Result<Value, SetupError> {
    let mut command =
        Cmd::new("incus").args(["query", "--wait", "-X", method]).limit(Duration::from_secs(90));
    if let Some(body) = body {
        command = command.arg("-d").arg(body.to_string());
    }
    let printed = command.arg(format!("local:{path}")).output()?;
    if printed.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&printed).map_err(|error| not_understood(path, &error.to_string()))
}

pub(super) fn get(path: &str) -> Result<Value, SetupError> {
    query("GET", path, None)
}

pub(super) fn not_understood(request: &str, why: &str) -> SetupError {
    SetupError::Answer { request: request.to_owned(), why: why.to_owned() }
}

/// The objects of a collection.
pub(super) fn list(path: &str) -> Result<Vec<Value>, SetupError> {
    match get(path)? {
        Value::Array(objects) => Ok(objects),
        Value::Null => Ok(Vec::new()),
        other => Err(not_understood(path, &format!("it is no list but {other}"))),
    }
}

/// A running Incus with somewhere to put containers.
pub(super) struct Daemon;

impl Item for Daemon {
    fn name(&self) -> &'static str {
        "incus"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["packages"]
    }

    fn system(&self) -> bool {
        true
    }

    fn by_hand(&self) -> String {
        "start Incus with your service manager, then `incus admin init --minimal`".into()
    }

    fn look(&self) -> Result<Found, SetupError> {
        let socket = socket();
        match ask(&socket) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(SetupError::Incus(format!(
                    "no permission on {}; run this as root, or join the group: sudo adduser $USER incus-admin \
                     (membership equals root on this machine)",
                    socket.display()
                )));
            }
            Err(error) => {
                return Ok(Found::Missing(format!("no Incus answers on {} ({error})", socket.display())));
            }
        }
        let has_pool = !list("/1.0/storage-pools?recursion=1")?.is_empty();
        let whose = if host::is_ours() { "started by setup" } else { "not started by setup" };
        if has_pool {
            let server = get("/1.0")?;
            let version =
                server["environment"]["server_version"].as_str().unwrap_or("of unknown version").to_owned();
            Ok(Found::Present(format!("{version} on {}, {whose}", socket.display())))
        } else if host::may_configure() {
            Ok(Found::Missing("Incus runs but has no storage pool".into()))
        } else {
            Err(SetupError::Incus(format!(
                "the Incus on {} has no storage pool, and was neither installed nor started by setup, which leaves it \
                 alone; run `incus admin init --minimal`",
                socket.display()
            )))
        }
    }

    fn make(&self, step: &Step) -> Result<String, SetupError> {
        if !answers() {
            step.say("starting Incus");
            host::start(&socket())?;
        }
        if !list("/1.0/storage-pools?recursion=1")?.is_empty() {
            return Ok(format!("started on {}", socket().display()));
        }
        let before = default_routes()?;
        let address = bridge_address()?;
        step.say(format!("creating pool {POOL} and bridge {BRIDGE} with {address}"));
        preseed(&address)?;
        let after = default_routes()?;
        if before != after {
            return Err(SetupError::Incus(format!(
                "making the bridge {BRIDGE} changed this machine's default route from {before} to {after}; \
                 restore it with `ip route`"
            )));
        }
        Ok(format!("pool {POOL}, bridge {BRIDGE} {address}"))
    }
}

fn preseed(address: &Ipv4Net) -> Result<(), SetupError> {
    let answers = json!({
        "networks": [{
            "name": BRIDGE,
            "type": "bridge",
            "config": { "ipv4.address": address.to_string(), "ipv4.nat": "true", "ipv6.address": "none" },
        }],
        "storage_pools": [{ "name": POOL, "driver": "dir" }],
        "profiles": [{ "name": "default", "devices": devices(POOL, BRIDGE) }],
    });
    Cmd::new("incus")
        .args(["admin", "init", "--preseed"])
        .input(answers.to_string())
        .limit(Duration::from_secs(60))
        .output()?;
    Ok(())
}

/// A root disk and a network card.
fn devices(pool: &str, network: &str) -> Value {
    json!({
        "root": { "type": "disk", "path": "/", "pool": pool },
        "eth0": { "type": "nic", "name": "eth0", "network": network },
    })
}

fn default_routes() -> Result<String, SetupError> {
    Ok(Cmd::new("ip").args(["-4", "route", "show", "default"]).output()?.trim().replace('\n', ", "))
}

/// An address for a bridge whose network nothing on this machine uses.
fn bridge_address() -> Result<Ipv4Net, SetupError> {
    let taken = Cmd::new("ip").args(["-j", "-4", "route", "show", "table", "all"]).output()?;
    free_subnet(&destinations(&taken)?).ok_or_else(|| {
        SetupError::Incus(
            "every network 10.x.77.0/24 is routed already on this machine; \
             create a bridge by hand with `incus network create incusbr0 ipv4.address=ADDRESS/24 ipv4.nat=true`"
                .into(),
        )
    })
}

/// The destinations in what `ip -j route` prints; the default route is none.
fn destinations(json: &str) -> Result<Vec<Ipv4Net>, SetupError> {
    let routes: Vec<Value> =
        serde_json::from_str(json).map_err(|error| not_understood("ip -j route", &error.to_string()))?;
    Ok(routes
        .iter()
        .filter_map(|route| route["dst"].as_str())
        .filter_map(|dst| dst.parse().ok().or_else(|| Some(Ipv4Net::from(dst.parse::<Ipv4Addr>().ok()?))))
        .collect())
}

/// The first address of the first 10.x.77.0/24 that overlaps none of the networks.
fn free_subnet(taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    // Not from the low end, where private networks usually begin.
    (99..=255).chain(1..99).find_map(|x| {
        let address = Ipv4Net::new(Ipv4Addr::new(10, x, 77, 1), 24).ok()?;
        let free = !taken.iter().any(|net| net.contains(&address.trunc()) || address.trunc().contains(net));
        free.then_some(address)
    })
}

/// COI's own profile.
pub(super) struct Profile;

impl Item for Profile {
    fn name(&self) -> &'static str {
        "profile coi"
    }

    fn needs(&self) -> &'static [&'static str] {
        &["incus"]
    }

    fn system(&self) -> bool {
        true
    }

    fn by_hand(&self) -> String {
        "incus profile copy default coi".into()
    }

    fn look(&self) -> Result<Found, SetupError> {
        if !answers() {
            return Ok(Found::Missing("needs a running Incus".into()));
        }
        let profiles = list("/1.0/profiles?recursion=1")?;
        Ok(match profiles.iter().find(|profile| profile["name"] == PROFILE) {
            Some(profile) => match root_and_nic(profile) {
                (Some(pool), Some(network)) => Found::Present(format!("pool {pool}, network {network}")),
                _ => {
                    return Err(SetupError::Incus(format!(
                        "the profile {PROFILE} lacks a root disk with a pool or a card with a network; \
                         remove it with `incus profile delete {PROFILE}` and run this again"
                    )));
                }
            },
            None => Found::Missing(format!("a profile {PROFILE} in Incus")),
        })
    }

    fn make(&self, _step: &Step) -> Result<String, SetupError> {
        let default = get("/1.0/profiles/default")?;
        let (pool, network) = root_and_nic(&default);
        let pool = some_or(
            pool,
            "/1.0/storage-pools?recursion=1",
            |_| true,
            "storage pool",
            "incus storage create",
        )?;
        let network = some_or(
            network,
            "/1.0/networks?recursion=1",
            |network| network["managed"] == true && network["type"] == "bridge",
            "managed bridge",
            "incus network create",
        )?;
        let profile = json!({
            "name": PROFILE,
            "description": "COI's containers",
            "devices": devices(&pool, &network),
        });
        query("POST", "/1.0/profiles", Some(&profile))?;
        Ok(format!("pool {pool}, network {network}"))
    }
}

/// The given name, or that of the first object of its kind.
fn some_or(
    name: Option<String>,
    path: &str,
    fits: impl Fn(&Value) -> bool,
    what: &str,
    remedy: &str,
) -> Result<String, SetupError> {
    if let Some(name) = name {
        return Ok(name);
    }
    let objects = list(path)?;
    let first = objects.iter().find(|object| fits(object)).and_then(|object| object["name"].as_str());
    first
        .map(str::to_owned)
        .ok_or_else(|| SetupError::Incus(format!("Incus has no {what}; make one with `{remedy}`")))
}

/// The pool of a profile's root disk, and the managed network of its network card.
fn root_and_nic(profile: &Value) -> (Option<String>, Option<String>) {
    let device = |fits: &dyn Fn(&Value) -> bool, key: &str| {
        let device = profile["devices"].as_object()?.values().find(|device| fits(device))?;
        device[key].as_str().map(str::to_owned)
    };
    (
        device(&|device| device["type"] == "disk" && device["path"] == "/", "pool"),
        // A card outside Incus's networks names the bridge that it is plugged into, and no network.
        device(&|device| device["type"] == "nic", "network"),
    )
}

/// This machine's own address on the network of COI's profile.
pub(super) fn host_address() -> Result<IpAddr, SetupError> {
    let (_, network) = root_and_nic(&get(&format!("/1.0/profiles/{PROFILE}"))?);
    let network = network.unwrap_or_else(|| BRIDGE.to_owned());
    let state = get(&format!("/1.0/networks/{network}/state"))?;
    let addresses = state["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
    addresses
        .iter()
        .filter(|address| address["scope"] == "global")
        .find_map(|address| address["address"].as_str()?.parse().ok())
        .ok_or_else(|| SetupError::Incus(format!("Incus's network {network} has no address on this machine")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(nets: &[&str]) -> Vec<Ipv4Net> {
        nets.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_free_subnet() {
        assert_eq!(free_subnet(&[]).unwrap().to_string(), "10.99.77.1/24");
        assert_eq!(
            free_subnet(&nets(&["10.99.0.0/16", "10.100.77.128/25"])).unwrap().to_string(),
            "10.101.77.1/24"
        );
        assert_eq!(free_subnet(&nets(&["10.99.77.5/32"])).unwrap().to_string(), "10.100.77.1/24");
        assert_eq!(free_subnet(&nets(&["10.0.0.0/8"])), None);
    }

    #[test]
    fn routes() {
        let json = r#"[{"dst":"default","gateway":"192.0.2.1"},{"dst":"192.0.2.0/24"},{"type":"local","dst":"10.1.2.3"}]"#;
        assert_eq!(destinations(json).unwrap(), nets(&["192.0.2.0/24", "10.1.2.3/32"]));
        assert!(destinations("no").is_err());
    }

    #[test]
    fn devices_of_a_profile() {
        let profile = json!({ "devices": devices("p", "n") });
        assert_eq!(root_and_nic(&profile), (Some("p".into()), Some("n".into())));
        let other = json!({ "devices": { "home": { "type": "disk", "path": "/home" }, "e": { "type": "nic", "parent": "br0" } } });
        assert_eq!(root_and_nic(&other), (None, None));
        assert_eq!(root_and_nic(&json!({})), (None, None));
    }
}
