//! What happens to instances, as it happens.

use futures_util::StreamExt;
use serde::Deserialize;
use tokio_tungstenite::tungstenite::Message;

use super::client::Client;
use super::socket::WebSocket;
use super::{Error, Result};

const WHAT: &str = "report what happens to instances";

/// The stream of Incus's lifecycle events, from the moment it was opened.
#[derive(Debug)]
pub struct Lifecycle {
    socket: WebSocket,
}

/// Something happened to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LifecycleEvent {
    /// Such as `instance-started`, `instance-stopped`, `instance-paused`, `instance-resumed`,
    /// `instance-deleted`.
    pub action: String,
    /// The instance's name.
    pub instance: String,
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    action: String,
    #[serde(default)]
    source: String,
}

impl Client {
    /// Opens the stream of lifecycle events.
    pub async fn lifecycle(&self) -> Result<Lifecycle> {
        Ok(Lifecycle { socket: self.websocket("/1.0/events?type=lifecycle", WHAT).await? })
    }
}

impl Lifecycle {
    /// The next event about an instance. It ends with an error only: an Incus that goes away is one.
    pub async fn next(&mut self) -> Result<LifecycleEvent> {
        loop {
            let broken = |why: String| Error::Broken { what: WHAT.to_owned(), why };
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    if let Some(event) = parse(&text) {
                        return Ok(event);
                    }
                }
                Some(Ok(Message::Close(_))) | None => return Err(broken("Incus closed it".to_owned())),
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(broken(e.to_string())),
            }
        }
    }
}

/// The event in a message, if it is about an instance of the default project.
fn parse(text: &str) -> Option<LifecycleEvent> {
    let Metadata { action, source } = serde_json::from_str::<Envelope>(text).ok()?.metadata;
    let name = source.strip_prefix("/1.0/instances/")?;
    // Other projects follow as a query, snapshots and backups as further segments.
    let instance = (!name.is_empty() && !name.contains(['/', '?'])).then(|| name.to_owned())?;
    Some(LifecycleEvent { action, instance })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_instances_of_the_default_project() {
        let event = |source: &str| {
            parse(&format!(
                r#"{{"type":"lifecycle","metadata":{{"action":"instance-started","source":"{source}"}}}}"#
            ))
            .map(|e| e.instance)
        };
        assert_eq!(event("/1.0/instances/web").as_deref(), Some("web"));
        assert_eq!(event("/1.0/instances/web?project=other"), None);
        assert_eq!(event("/1.0/instances/web/snapshots/one"), None);
        assert_eq!(event("/1.0/networks/incusbr0"), None);
        assert_eq!(parse("not json"), None);
    }
}
