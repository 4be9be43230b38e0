//! Who waits at the other end of a reverse shell.

use std::fs;
use std::io::{Read, Write};
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

/// Listens, asks whoever connects for a sign that it is a shell, and hears what comes back.
#[derive(Debug)]
pub struct Attacker {
    /// Where.
    pub address: SocketAddrV4,
    heard: Receiver<Vec<u8>>,
    tls: Option<(Child, TempDir)>,
}

impl Attacker {
    /// On the bridge that containers are on.
    pub fn on_bridge() -> Self {
        Self::listen(incus::bridge())
    }

    /// On an address of this machine.
    pub fn listen(ip: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, heard) = channel();
        // These threads end with the test's process: a peer that says nothing more needs no handling.
        thread::spawn(move || {
            while let Ok((peer, _)) = listener.accept() {
                let to = to.clone();
                thread::spawn(move || converse(peer, &to));
            }
        });
        Self { address: SocketAddrV4::new(ip, port), heard, tls: None }
    }

    /// On the bridge, speaking TLS.
    pub fn with_tls() -> Self {
        let ip = incus::bridge();
        let (mut server, dir) = tls_server(ip, &[]);
        let stdout = server.stdout.take().unwrap();
        let said = lines(stdout);
        let address = tls_address(&said);
        // Passed on as soon as there is somebody to pass it on to.
        server.stdin.as_mut().unwrap().write_all(QUESTION).unwrap();
        let (to, heard) = channel();
        thread::spawn(move || said.into_iter().try_for_each(|line| to.send(line.into_bytes())));
        Self { address, heard, tls: Some((server, dir)) }
    }

    /// Its address's two halves, as payloads want them.
    pub fn place(&self) -> (String, String) {
        (self.address.ip().to_string(), self.address.port().to_string())
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

impl Drop for Attacker {
    fn drop(&mut self) {
        if let Some((server, _)) = &mut self.tls {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
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

/// Starts `openssl s_server` on a port of its choice, with a certificate of its own.
pub(crate) fn tls_server(ip: Ipv4Addr, arguments: &[&str]) -> (Child, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (key, certificate) = (dir.path().join("key"), dir.path().join("certificate"));
    let mut request = Command::new("openssl");
    request.args(["req", "-x509", "-nodes", "-subj", "/CN=e2e", "-newkey", "ec"]);
    request.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    end(request.arg("-keyout").arg(&key).arg("-out").arg(&certificate)).expect(0);
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut server = Command::new("openssl");
    server.args(["s_server", "-accept", &format!("{ip}:0")]).args(arguments);
    server.arg("-key").arg(&key).arg("-cert").arg(&certificate);
    server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    (server.spawn().unwrap(), dir)
}

/// Where it listens, in its own words.
pub(crate) fn tls_address(said: &Receiver<String>) -> SocketAddrV4 {
    loop {
        let line = said.recv_timeout(DEADLINE).expect("openssl s_server does not listen");
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            return address.trim().parse().unwrap();
        }
    }
}
