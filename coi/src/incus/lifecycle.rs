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
    /// The instance's project; `None` for the default one.
    pub project: Option<String>,
    /// The instance's name.
    pub instance: String,
    /// The name it had, if it was renamed.
    pub old_name: Option<String>,
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
    #[serde(default)]
    context: Option<Context>,
}

#[derive(Default, Deserialize)]
struct Context {
    #[serde(default)]
    old_name: Option<String>,
}

impl Client {
    /// Opens the stream of lifecycle events of all projects.
    pub async fn lifecycle(&self) -> Result<Lifecycle> {
        Ok(Lifecycle { socket: self.websocket("/1.0/events?type=lifecycle&all-projects=true", WHAT).await? })
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

/// The event in a message, if it is about an instance.
fn parse(text: &str) -> Option<LifecycleEvent> {
    let Metadata { action, source, context } = serde_json::from_str::<Envelope>(text).ok()?.metadata;
    // The project follows as a query, snapshots and backups as further segments.
    let (path, query) = source.split_once('?').unwrap_or((&source, ""));
    let instance = path.strip_prefix("/1.0/instances/")?;
    if instance.is_empty() || instance.contains('/') {
        return None;
    }
    let project = query.split('&').find_map(|pair| pair.strip_prefix("project="));
    let project = project.map(unescaped).filter(|project| project != super::DEFAULT_PROJECT);
    let old_name = context.and_then(|context| context.old_name);
    Some(LifecycleEvent { action, project, instance: instance.to_owned(), old_name })
}

/// A part of a URL without its escapes.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| std::str::from_utf8(behind.get(..2)?).ok()).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_instances() {
        let event = |source: &str| {
            parse(&format!(
                r#"{{"type":"lifecycle","metadata":{{"action":"instance-started","source":"{source}"}}}}"#
            ))
            .map(|event| (event.project, event.instance))
        };
        let of = |project: Option<&str>| Some((project.map(str::to_owned), "web".to_owned()));
        assert_eq!(event("/1.0/instances/web"), of(None));
        assert_eq!(event("/1.0/instances/web?project=default"), of(None));
        assert_eq!(event("/1.0/instances/web?project=other"), of(Some("other")));
        assert_eq!(event("/1.0/instances/web?x=1&project=a%26b"), of(Some("a&b")));
        assert_eq!(event("/1.0/instances/web/snapshots/one"), None);
        assert_eq!(event("/1.0/networks/incusbr0"), None);
        assert_eq!(parse("not json"), None);
    }

    #[test]
    fn a_renamed_one_had_another_name() {
        let text = r#"{"metadata":{"action":"instance-renamed","source":"/1.0/instances/new","context":{"old_name":"old"}}}"#;
        let event = parse(text).unwrap();
        assert_eq!((event.instance.as_str(), event.old_name.as_deref()), ("new", Some("old")));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_an_event_or_none(text in "\\PC{0,200}") {
            parse(&format!(r#"{{"metadata":{{"action":"x","source":"/1.0/instances/{text}"}}}}"#));
            unescaped(&text);
        }
    }
}
