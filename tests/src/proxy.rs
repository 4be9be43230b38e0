//! An Incus that hangs, refuses, goes away and comes back, for one daemon or command: a socket before the real one.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use serde_json::json;
use tempfile::TempDir;

use crate::incus;

/// Why something is refused.
const REFUSAL: &str = "Failed to retrieve PID of executing child process";

/// How long a request may be waited for that is to be refused.
const REFUSED: Duration = Duration::from_secs(30);

/// The socket. What it does can be changed at any time, also for connections that there are.
#[derive(Debug)]
pub struct Proxy {
    dir: TempDir,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    /// Connections are taken, and nothing is answered.
    hangs: bool,
    /// Nobody listens.
    is_closed: bool,
    /// How requests begin that are refused.
    refused: Option<String>,
    /// One was.
    has_refused: bool,
    /// The real one's ends of all connections.
    real: Vec<UnixStream>,
}

impl Proxy {
    /// One that passes everything on.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("coi-e2e-incus-").tempdir().unwrap();
        let proxy = Self { dir, state: Arc::default() };
        proxy.listen();
        proxy
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("unix.socket")
    }

    fn listen(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let state = Arc::clone(&self.state);
        thread::spawn(move || {
            for caller in listener.incoming() {
                if state.0.lock().unwrap().is_closed {
                    return;
                }
                let (caller, state) = (caller.unwrap(), Arc::clone(&state));
                thread::spawn(move || serve(&state, &caller));
            }
        });
    }

    /// From now on nothing is answered, nor on connections that there are; or everything again, on new ones. The real
    /// one, which others use, too, is let go meanwhile.
    pub fn hang(&self, hangs: bool) {
        let mut state = self.state.0.lock().unwrap();
        state.hangs = hangs;
        state.cut();
        self.state.1.notify_all();
    }

    /// From now on requests that begin so, such as `POST /1.0/instances/NAME/exec`, are refused, if they are the first on
    /// their connection.
    pub fn refuse(&self, requests: String) {
        let mut state = self.state.0.lock().unwrap();
        state.refused = Some(requests);
        state.has_refused = false;
    }

    /// Waits until one has been refused.
    pub fn until_refused(&self) {
        let waits = self.state.0.lock().unwrap();
        let waited = self.state.1.wait_timeout_while(waits, REFUSED, |state| !state.has_refused).unwrap();
        assert!(!waited.1.timed_out(), "nothing was refused within {REFUSED:?}");
    }

    /// As when Incus ends: nobody listens, and every connection is cut.
    pub fn close(&self) {
        let mut state = self.state.0.lock().unwrap();
        state.is_closed = true;
        state.cut();
        // The listener wakes to see it.
        drop(UnixStream::connect(self.socket()).unwrap());
        fs::remove_file(self.socket()).unwrap();
    }

    /// As when Incus is back.
    pub fn reopen(&self) {
        self.state.0.lock().unwrap().is_closed = false;
        self.listen();
    }
}

impl State {
    fn cut(&mut self) {
        for real in self.real.drain(..) {
            let _ = real.shutdown(Shutdown::Both);
        }
    }
}

/// Serves one connection, to its end.
fn serve(state: &(Mutex<State>, Condvar), mut caller: &UnixStream) {
    let refused = state.0.lock().unwrap().refused.clone();
    if refused.is_some_and(|refused| begins(caller, &refused)) {
        let body = json!({ "type": "error", "error_code": 500, "error": REFUSAL }).to_string();
        let length = body.len();
        let head =
            "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close";
        let _ = write!(caller, "{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        state.0.lock().unwrap().has_refused = true;
        state.1.notify_all();
        return;
    }
    let real = {
        let mut state = state.0.lock().unwrap();
        let real = (!state.hangs).then(|| UnixStream::connect(incus::socket()).unwrap());
        state.real.extend(real.as_ref().map(|real| real.try_clone().unwrap()));
        real
    };
    let answered_no_more = || {
        let waits = state.0.lock().unwrap();
        drop(state.1.wait_while(waits, |state| state.hangs).unwrap());
        let _ = caller.shutdown(Shutdown::Both);
    };
    let Some(real) = real else { return answered_no_more() };
    thread::scope(|scope| {
        scope.spawn(|| {
            copy(caller, &real);
            let _ = real.shutdown(Shutdown::Both);
        });
        copy(&real, caller);
        answered_no_more();
    });
}

/// Whether the first that a caller says begins so; nothing of it is taken.
fn begins(caller: &UnixStream, request: &str) -> bool {
    let mut said = vec![0; request.len()];
    let length = recv(caller.as_raw_fd(), &mut said, MsgFlags::MSG_PEEK).unwrap();
    said[..length] == *request.as_bytes()
}

fn copy(mut from: &UnixStream, mut to: &UnixStream) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
}
