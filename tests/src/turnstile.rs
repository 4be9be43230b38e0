//! A socket before Incus's at which one request of `coi` waits until its test lets it pass: a stage of a launch, reached
//! for certain.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use crate::{DEADLINE, incus};

/// The socket. One request waits, all others pass.
#[derive(Debug)]
pub struct Turnstile {
    dir: TempDir,
    reached: Receiver<()>,
    open: Mutex<Sender<()>>,
}

/// The request that waits.
struct Held {
    /// How it begins.
    begins: String,
    /// So many such requests pass before it.
    pass: Mutex<usize>,
    reached: Sender<()>,
    opened: Mutex<Receiver<()>>,
}

impl Turnstile {
    /// One at which the request waits that begins so, after so many of its like have passed.
    pub fn before(begins: &str, pass: usize) -> Self {
        let dir = tempfile::Builder::new().prefix("coi-e2e-turnstile-").tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("unix.socket")).unwrap();
        let (to_test, reached) = channel();
        let (open, opened) = channel();
        let held = Arc::new(Held {
            begins: begins.to_owned(),
            pass: Mutex::new(pass),
            reached: to_test,
            opened: Mutex::new(opened),
        });
        thread::spawn(move || {
            for caller in listener.incoming() {
                let (caller, held) = (caller.unwrap(), Arc::clone(&held));
                thread::spawn(move || serve(caller, &held));
            }
        });
        Self { dir, reached, open: Mutex::new(open) }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("unix.socket")
    }

    /// Waits until the request waits.
    #[track_caller]
    pub fn reached(&self) {
        self.reached.recv_timeout(DEADLINE).expect("the request did not come");
    }

    /// Lets it pass.
    pub fn open(&self) {
        // Who asked may have gone.
        let _ = self.open.lock().unwrap().send(());
    }
}

fn serve(mut caller: UnixStream, held: &Held) {
    let mut head = Vec::new();
    let mut bytes = [0; 4096];
    while !head.contains(&b'\n') {
        match caller.read(&mut bytes) {
            Ok(length @ 1..) => head.extend(&bytes[..length]),
            _ => return,
        }
    }
    if head.starts_with(held.begins.as_bytes()) {
        let waits = {
            let mut pass = held.pass.lock().unwrap();
            let waits = *pass == 0;
            *pass = pass.checked_sub(1).unwrap_or(usize::MAX);
            waits
        };
        if waits {
            let _ = held.reached.send(());
            let _ = held.opened.lock().unwrap().recv_timeout(DEADLINE);
        }
    }
    let mut real = UnixStream::connect(incus::socket()).unwrap();
    if real.write_all(&head).is_err() {
        return;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(&caller, &real));
        copy(&real, &caller);
    });
}

fn copy(mut from: &UnixStream, mut to: &UnixStream) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
