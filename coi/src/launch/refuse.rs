//! What COI does not start a container with.

use std::collections::BTreeMap;

use super::{Error, Result};
use crate::incus::{self, Instance};

/// The oldest Incus and kernel.
const INCUS: (u32, u32) = (6, 0);
const KERNEL: (u32, u32) = (5, 15);

/// Whether this machine's Incus and kernel will do.
pub(super) async fn machine(incus: &incus::Client) -> Result<()> {
    let version = incus.server().await?.environment.server_version;
    if is_older(&version, INCUS) {
        return Err(Error::OldIncus { version });
    }
    let kernel = nix::sys::utsname::uname()
        .map_err(|error| Error::Host { what: "/proc/version".into(), source: error.into() })?;
    let version = kernel.release().to_string_lossy().into_owned();
    if is_older(&version, KERNEL) { Err(Error::OldKernel { version }) } else { Ok(()) }
}

/// Whether a profile is one that COI may use.
pub(super) async fn profile(incus: &incus::Client, name: &str) -> Result<()> {
    let config = incus.profile(name).await?.config;
    if is_privileged(&config) {
        Err(Error::Privileged { what: format!("the profile {name}") })
    } else {
        Ok(())
    }
}

/// Whether an instance is one that COI may start, or enter.
pub(super) fn instance(instance: &Instance) -> Result<()> {
    match is_privileged(&instance.expanded_config) {
        true => Err(Error::Privileged { what: format!("the instance {}", instance.name) }),
        false => Ok(()),
    }
}

fn is_privileged(config: &BTreeMap<String, String>) -> bool {
    // As Incus itself reads it.
    config
        .get("security.privileged")
        .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
}

/// What is no version is not known to be too old.
fn is_older(version: &str, than: (u32, u32)) -> bool {
    let number = |text: Option<&str>| {
        let text = text.unwrap_or_default();
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    let mut parts = version.split('.');
    match (number(parts.next()), number(parts.next())) {
        (Some(major), minor) => (major, minor.unwrap_or(0)) < than,
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for old in ["5.0.1", "5.21", "4", "0.7"] {
            assert!(is_older(old, INCUS), "{old}");
        }
        for new in ["6.0.4", "6.0", "6", "6.18", "10.1", "", "git"] {
            assert!(!is_older(new, INCUS), "{new}");
        }
        assert!(is_older("5.10.0-28-amd64", KERNEL));
        assert!(is_older("5.4-custom", KERNEL));
        assert!(!is_older("5.15.0-91-generic", KERNEL));
        assert!(!is_older("6.1.0-18-amd64", KERNEL));
    }

    /// An Incus that says this, and nothing else.
    async fn incus(target: &'static str, says: serde_json::Value) -> (tempfile::TempDir, incus::Client) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("incus.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let answer = axum::Json(serde_json::json!({ "metadata": says }));
        let router = axum::Router::new().route(target, axum::routing::get(async || answer));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (directory, incus::Client::at(socket))
    }

    #[tokio::test]
    async fn an_old_incus_is_refused() {
        let server = |version: &str| serde_json::json!({ "auth": "trusted", "environment": { "server_version": version } });
        let (_old, client) = incus("/1.0", server("5.21.2")).await;
        assert!(matches!(machine(&client).await, Err(Error::OldIncus { version }) if version == "5.21.2"));
        let (_new, client) = incus("/1.0", server("6.0.0")).await;
        assert!(machine(&client).await.is_ok());
    }

    #[tokio::test]
    async fn a_privileged_profile_is_refused() {
        let says = |value: &str| serde_json::json!({ "config": { "security.privileged": value } });
        let (_one, client) = incus("/1.0/profiles/coi", says("true")).await;
        let refused = profile(&client, "coi").await.unwrap_err().to_string();
        assert!(refused.starts_with("the profile coi has security.privileged=true"), "{refused}");
        let (_other, client) = incus("/1.0/profiles/coi", says("false")).await;
        assert!(profile(&client, "coi").await.is_ok());
    }

    #[test]
    fn what_is_privileged() {
        let config = |value: &str| BTreeMap::from([("security.privileged".to_owned(), value.to_owned())]);
        for value in ["true", "1", "yes", "on", "True", "ON"] {
            assert!(is_privileged(&config(value)), "{value}");
        }
        assert!(!is_privileged(&config("false")));
        assert!(!is_privileged(&BTreeMap::new()));
    }
}
