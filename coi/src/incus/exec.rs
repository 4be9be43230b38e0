//! Running a command in an instance, without a terminal: its input, output and errors are three streams.
//!
//! Incus carries each stream on a websocket of its own: data as binary messages, an empty text message as
//! its end. A fourth one carries signals to the command; Incus kills the command when that one breaks.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Client, Job};
use super::socket::WebSocket;
use super::{Error, Result};
use crate::http::segment;

/// How long Incus may take to say how a command ended, once its output has.
const END: Duration = Duration::from_secs(30);

/// What Incus answers, as shells do, for a command that is there and cannot be run, or is not there.
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// A command to be run in an instance.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Exec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its environment, beside what Incus sets when it is missing: PATH, HOME, USER, LANG.
    pub environment: BTreeMap<String, String>,
    /// The user it runs as.
    pub user: u32,
    /// The group it runs as.
    pub group: u32,
    /// The directory it runs in.
    pub cwd: String,
}

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; 128 and the signal's number if one ended it.
    pub code: i32,
    /// Its output.
    pub stdout: Vec<u8>,
    /// Its errors.
    pub stderr: Vec<u8>,
}

/// A command that runs in an instance.
#[derive(Debug)]
pub struct Process {
    client: Client,
    operation: String,
    what: String,
    stdin: WebSocket,
    stdout: WebSocket,
    stderr: WebSocket,
    control: WebSocket,
}

impl Client {
    /// Starts a command.
    pub async fn exec(&self, name: &str, exec: &Exec) -> Result<Process> {
        let program = exec.command.first().map_or("", String::as_str);
        let what = format!("run {program} in {name}");
        let mut body = json!({ "wait-for-websocket": true, "interactive": false });
        if let (Value::Object(body), Ok(Value::Object(rest))) = (&mut body, serde_json::to_value(exec)) {
            body.extend(rest);
        }
        let target = format!("/1.0/instances/{}/exec", segment(name));
        let job = self.begin(Method::POST, &target, Some(&body), &what).await?;
        // Incus begins when the three streams are connected; signals must not come too late for that.
        let control = self.stream(&job, "control", &what).await?;
        let stdin = self.stream(&job, "0", &what).await?;
        let stdout = self.stream(&job, "1", &what).await?;
        let stderr = self.stream(&job, "2", &what).await?;
        Ok(Process { client: self.clone(), operation: job.path, what, stdin, stdout, stderr, control })
    }

    /// Runs a command without input to its end, or for as long as it is given.
    pub async fn output(&self, name: &str, exec: &Exec, within: Duration) -> Result<Output> {
        let process = self.exec(name, exec).await?;
        let what = process.what.clone();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (_quiet, signals) = mpsc::channel(1);
        let run = process.run(tokio::io::empty(), &mut stdout, &mut stderr, signals);
        let code =
            tokio::time::timeout(within, run).await.map_err(|_| Error::Unfinished { what, within })??;
        Ok(Output { code, stdout, stderr })
    }

    async fn stream(&self, job: &Job, fd: &str, what: &str) -> Result<WebSocket> {
        let secret = job.metadata["fds"][fd].as_str().ok_or_else(|| Error::Broken {
            what: what.to_owned(),
            why: format!("Incus offers no stream {fd}"),
        })?;
        self.websocket(&format!("{}/websocket?secret={}", job.path, segment(secret)), what).await
    }
}

impl Process {
    /// Moves bytes and signals until the command has ended; answers its exit code.
    ///
    /// When `stdout` or `stderr` can no longer be written, the command gets SIGPIPE, as it would on a
    /// pipe of its own. Dropping the future makes Incus kill the command.
    pub async fn run(
        mut self,
        stdin: impl AsyncRead + Unpin,
        stdout: impl AsyncWrite + Unpin,
        stderr: impl AsyncWrite + Unpin,
        mut signals: mpsc::Receiver<i32>,
    ) -> Result<i32> {
        let (pipe, mut broken_pipes) = mpsc::channel(2);
        let mut input = Some(Box::pin(feed(self.stdin, stdin)));
        let mut output = Box::pin(async {
            tokio::join!(drain(self.stdout, stdout, pipe.clone()), drain(self.stderr, stderr, pipe.clone()))
        });
        let (mut more_signals, mut more_control) = (true, true);
        loop {
            let signal = tokio::select! {
                _ = &mut output => break,
                // Input that has ended, or that the command does not want, says nothing about its end.
                () = async { match &mut input { Some(i) => i.await, None => std::future::pending().await } } => {
                    input = None;
                    continue;
                }
                message = self.control.next(), if more_control => {
                    more_control = matches!(message, Some(Ok(_)));
                    continue;
                }
                signal = signals.recv(), if more_signals => {
                    more_signals = signal.is_some();
                    signal
                }
                Some(signal) = broken_pipes.recv() => Some(signal),
            };
            if let Some(signal) = signal {
                let message = json!({ "command": "signal", "signal": signal }).to_string();
                // If this fails the command has ended, or Incus has: the output tells.
                let _ = self.control.send(Message::text(message)).await;
            }
        }
        drop(output);
        let end = self.client.wait(&self.operation, &self.what, END).await?;
        let code = end.metadata["return"].as_i64().and_then(|code| i32::try_from(code).ok());
        match code {
            Some(code) if code >= 0 && end.err.is_empty() => Ok(code),
            Some(code @ (NOT_EXECUTABLE | NOT_FOUND)) => {
                Err(Error::NotStarted { what: self.what, why: end.err, code })
            }
            _ => Err(Error::Refused { what: self.what, why: end.err }),
        }
    }
}

/// Sends what `from` has to say, and that it has ended.
async fn feed(socket: WebSocket, mut from: impl AsyncRead + Unpin) {
    let (mut to, mut back) = socket.split();
    let forward = async {
        let mut buffer = vec![0; 32 << 10];
        loop {
            // Input that cannot be read is input that has ended.
            let n = from.read(&mut buffer).await.unwrap_or(0);
            let message = match n {
                0 => Message::text(""),
                n => Message::binary(Bytes::copy_from_slice(&buffer[..n])),
            };
            if to.send(message).await.is_err() || n == 0 {
                return;
            }
        }
    };
    // Reading answers Incus's pings, and goes on after the end of input: the socket stays open.
    let answer = async { while let Some(Ok(_)) = back.next().await {} };
    tokio::join!(forward, answer);
}

/// Writes what comes until its end. When it cannot be written any more, says so with SIGPIPE and goes on
/// reading, for the command must not hang on a full pipe.
async fn drain(mut socket: WebSocket, mut to: impl AsyncWrite + Unpin, broken: mpsc::Sender<i32>) {
    let mut open = true;
    while let Some(Ok(message)) = socket.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Text(_) | Message::Close(_) => break,
            _ => continue,
        };
        if open && (to.write_all(&data).await.is_err() || to.flush().await.is_err()) {
            open = false;
            let _ = broken.try_send(nix::libc::SIGPIPE);
        }
    }
}
