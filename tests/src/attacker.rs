//! Who waits at the other end of a reverse shell.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use tempfile::TempDir;

use crate::process::{end, lines};
use crate::{DEADLINE, incus};

/// Only a shell turns this into [`MARKER`].
const QUESTION: &[u8] = b"echo marker-$((6*7))\n";
const MARKER: &str = "marker-42";

/// Those of the ports that the kernel gives out about which rules/network.toml warns.
const SUSPECT: [u16; 2] = [45560, 45700];

/// Listens, asks whoever connects for a sign that it is a shell, and hears what comes back.
#[derive(Debug)]
pub struct Attacker {
    /// Where.
    pub address: SocketAddrV4,
    heard: Receiver<Vec<u8>>,
    _tls: Option<TlsServer>,
}

impl Attacker {
    /// On the bridge that containers are on.
    pub fn on_bridge() -> Self {
        Self::listen(incus::bridge())
    }

    /// On an address of this machine.
    pub fn listen(ip: Ipv4Addr) -> Self {
        let (to, heard) = channel();
        let address = serve(ip, move |peer| converse(peer, &to));
        Self { address, heard, _tls: None }
    }

    /// On the bridge, speaking TLS.
    pub fn with_tls() -> Self {
        let mut tls = TlsServer::start(incus::bridge(), &[]);
        // Passed on as soon as there is somebody to pass it on to.
        tls.server.stdin.as_mut().unwrap().write_all(QUESTION).unwrap();
        let said = tls.said.take().unwrap();
        let (to, heard) = channel();
        thread::spawn(move || said.into_iter().try_for_each(|line| to.send(line.into_bytes())));
        Self { address: tls.address, heard, _tls: Some(tls) }
    }

    /// A payload, in which `HOST` and `PORT` stand for where it listens.
    pub fn fill(&self, payload: &str) -> String {
        fill(self.address, payload)
    }

    /// Waits for the sign that a shell is at the other end.
    #[track_caller]
    pub fn await_shell(&self) {
        let deadline = Instant::now() + DEADLINE;
        let mut text = String::new();
        while !text.contains(MARKER) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok(bytes) => text += &String::from_utf8_lossy(&bytes),
                Err(error) => panic!("no shell came ({error}), only: {text:?}"),
            }
        }
    }
}

/// A script, in which `HOST` and `PORT` stand for an address.
pub fn fill(address: SocketAddrV4, script: &str) -> String {
    script.replace("HOST", &address.ip().to_string()).replace("PORT", &address.port().to_string())
}

/// Serves each who connects in a thread of its own. The threads end with the test's process: nothing depends on it.
pub fn serve(ip: Ipv4Addr, conversation: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddrV4 {
    let (listener, port) = loop {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if !SUSPECT.contains(&port) {
            break (listener, port);
        }
    };
    thread::spawn(move || {
        while let Ok((peer, _)) = listener.accept() {
            let conversation = conversation.clone();
            thread::spawn(move || conversation(peer));
        }
    });
    SocketAddrV4::new(ip, port)
}

/// Takes whatever is sent.
pub fn swallow(mut peer: TcpStream) {
    let _ = io::copy(&mut peer, &mut io::sink());
}

fn converse(mut peer: TcpStream, to: &Sender<Vec<u8>>) {
    if peer.write_all(QUESTION).is_err() {
        return;
    }
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = peer.read(&mut bytes) {
        if to.send(bytes[..count].to_vec()).is_err() {
            return;
        }
    }
}

/// A server that speaks TLS: openssl's, with a certificate of its own. It ends when this does.
#[derive(Debug)]
pub struct TlsServer {
    /// Where it listens.
    pub address: SocketAddrV4,
    server: Child,
    said: Option<Receiver<String>>,
    _dir: TempDir,
}

impl TlsServer {
    /// Starts `openssl s_server` with these arguments, on a port of its choice.
    pub fn start(ip: Ipv4Addr, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (key, certificate) = (dir.path().join("key"), dir.path().join("certificate"));
        let mut request = Command::new("openssl");
        request.args(["req", "-x509", "-nodes", "-subj", "/CN=e2e", "-newkey", "ec"]);
        request.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        end(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).expect(0);
        let log = File::create(dir.path().join("log")).unwrap();
        let mut server = Command::new("openssl");
        server.args(["s_server", "-accept", &format!("{ip}:0")]).args(arguments);
        server.arg("-key").arg(&key).arg("-cert").arg(&certificate);
        let mut server = server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let said = lines(server.stdout.take().unwrap());
        let address = loop {
            let line = said.recv_timeout(DEADLINE).expect("openssl s_server does not listen");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.trim().parse::<SocketAddrV4>().unwrap();
            }
        };
        let tls = Self { address, server, said: Some(said), _dir: dir };
        if SUSPECT.contains(&tls.address.port()) { Self::start(ip, arguments) } else { tls }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
