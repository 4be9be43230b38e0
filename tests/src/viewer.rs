//! Who looks on: `coi monitor --attach NAME --format json`.

use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::process::{Ended, Running, lines};
use crate::{Coi, DEADLINE};

/// A viewer of one container's events.
#[derive(Debug)]
pub struct Viewer {
    child: Option<Child>,
    events: Receiver<String>,
    said: Receiver<String>,
}

impl Viewer {
    /// Begins to look on; what happens from now on is seen.
    #[track_caller]
    pub fn attach(coi: &Coi, name: &str) -> Self {
        Self::start(coi, &["monitor", "--attach", name, "--format", "json"])
    }

    /// `coi ARGUMENTS`, which must say `ready`.
    #[track_caller]
    pub fn start(coi: &Coi, arguments: &[&str]) -> Self {
        let mut command = coi.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let events = lines(child.stdout.take().unwrap());
        let said = lines(child.stderr.take().unwrap());
        let viewer = Self { child: Some(child), events, said };
        let first = viewer.said.recv_timeout(DEADLINE).unwrap_or_default();
        assert_eq!(first, "ready", "the viewer did not attach");
        viewer
    }

    /// The next event; `None` when there are no more.
    #[track_caller]
    pub fn next(&self) -> Option<Value> {
        match self.events.recv_timeout(DEADLINE) {
            Ok(line) => Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no event within {DEADLINE:?}"),
        }
    }

    /// All events up to one that is looked for, which is the last.
    #[track_caller]
    pub fn until(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next() {
            let found = is_it(&event);
            events.push(event);
            if found {
                return events;
            }
        }
        panic!("the stream ended without {what}; it ended with {:#?}", events.last());
    }

    /// All events up to the watch's coming to this state.
    #[track_caller]
    pub fn until_state(&self, state: &str) -> Vec<Value> {
        self.until(state, |event| event["coi"]["record"] == "state" && event["coi"]["state"] == state)
    }

    /// Stops looking, as Ctrl-C would.
    #[track_caller]
    pub fn leave(mut self) -> Ended {
        let viewer = Running::of("coi monitor", self.child.take().unwrap());
        viewer.signal(Signal::SIGINT);
        viewer.finish()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Is it the exec of the container's own init, by itself?
pub fn is_init(event: &Value) -> bool {
    event["event"]["action"] == "exec" && event["process"]["vpid"] == 1 && event["coi"]["phase"] != "setup"
}
