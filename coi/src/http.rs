//! HTTP/1 over a unix socket, for Incus and for COI's own daemon.
//!
//! This module promises that no call waits for ever: a deadline covers connecting, writing the request,
//! the head of the answer and its body. Its errors tell apart what a person has to do something different
//! about: no socket, no permission on it, nobody behind it, nobody answering in time, nonsense answered.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// The largest answer that is read: far more than Incus says about thousands of instances.
const MAX_BODY: usize = 64 << 20;

/// How much of a file is sent at once.
const CHUNK: usize = 256 << 10;

/// The longest line of a streamed answer.
const MAX_LINE: usize = 4 << 20;

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket at this path.
    #[error("there is no socket at {}", path.display())]
    NoSocket {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The socket is there, and its permissions keep us out.
    #[error("no permission to use the socket {}", path.display())]
    NotPermitted {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is there, and no process listens on it.
    #[error("nothing listens on the socket {}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
    },
    /// No complete answer came in time.
    #[error("no answer to {call} on {} within {}", path.display(), seconds(*within))]
    Deadline {
        /// The socket.
        path: PathBuf,
        /// Method and path of the call.
        call: String,
        /// How long it had.
        within: Duration,
    },
    /// The connection broke, or what came back was not what the protocol says.
    #[error("the answer to {call} on {} cannot be used: {why}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// Method and path of the call.
        call: String,
        /// What was wrong.
        why: String,
    },
}

/// A duration as people write it.
fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

/// A complete answer.
#[derive(Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// Whoever listens on a unix socket.
///
/// Each call makes a connection of its own: that costs microseconds on a unix socket, and no call can then
/// be held up by another.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client of the socket at `path`. Nothing is connected yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A bare connection, for protocols that take over from HTTP.
    pub async fn connect(&self, within: Duration) -> Result<UnixStream, Error> {
        let call = Call { path: &self.path, name: "connect".to_owned(), within };
        self.connect_by(&call, Instant::now() + within).await
    }

    /// Sends a request and reads the whole answer, all within the time given.
    pub async fn request(
        &self,
        method: Method,
        target: &str,
        body: Option<Bytes>,
        within: Duration,
    ) -> Result<Reply, Error> {
        let deadline = Instant::now() + within;
        let call = Call { path: &self.path, name: format!("{method} {target}"), within };
        let (response, _connection) = self.send(&call, method, target, body, deadline).await?;
        call.whole(response, deadline).await
    }

    /// Posts what is in a file from where it stands on, `length` bytes, and reads the whole answer.
    pub async fn upload(
        &self,
        target: &str,
        file: File,
        length: u64,
        within: Duration,
    ) -> Result<Reply, Error> {
        let deadline = Instant::now() + within;
        let call = Call { path: &self.path, name: format!("POST {target}"), within };
        let chunks = stream::unfold(file, |mut file| async move {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            match file.read_buf(&mut chunk).await {
                Ok(0) => None,
                Ok(_) => Some((Ok(Frame::data(chunk.freeze())), file)),
                Err(error) => Some((Err(error), file)),
            }
        });
        let body = StreamBody::new(Box::pin(chunks));
        let request = Request::builder()
            .method(Method::POST)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length);
        let (response, _connection) = self.exchange(&call, request, target, body, deadline).await?;
        call.whole(response, deadline).await
    }

    /// Sends `body` as JSON, if there is one, and reads the whole answer.
    pub async fn request_json<B: Serialize + Sync + ?Sized>(
        &self,
        method: Method,
        target: &str,
        body: Option<&B>,
        within: Duration,
    ) -> Result<Reply, Error> {
        let body = match body {
            Some(body) => Some(Bytes::from(serde_json::to_vec(body).map_err(|e| {
                let call = Call { path: &self.path, name: format!("{method} {target}"), within };
                call.nonsense(&e)
            })?)),
            None => None,
        };
        self.request(method, target, body, within).await
    }

    /// Reads a JSON answer as `T`.
    pub fn decode<T: DeserializeOwned>(&self, call: &str, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|e| Error::Protocol {
            path: self.path.clone(),
            call: call.to_owned(),
            why: e.to_string(),
        })
    }

    /// Opens an answer that comes line by line. `within` covers everything up to the head of the answer,
    /// `idle`, if given, the time from one line to the next. An answer that is not a success is read whole
    /// and handed back as it is.
    pub async fn lines(
        &self,
        target: &str,
        within: Duration,
        idle: Option<Duration>,
    ) -> Result<Result<Lines, Reply>, Error> {
        let deadline = Instant::now() + within;
        let call = Call { path: &self.path, name: format!("GET {target}"), within };
        let (response, connection) = self.send(&call, Method::GET, target, None, deadline).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(Ok(Lines {
                path: self.path.clone(),
                call: call.name,
                idle,
                body: response.into_body(),
                buffer: BytesMut::new(),
                seen: 0,
                _connection: connection,
            }));
        }
        Ok(Err(call.whole(response, deadline).await?))
    }

    async fn connect_by(&self, call: &Call<'_>, deadline: Instant) -> Result<UnixStream, Error> {
        let connected = timeout_at(deadline, UnixStream::connect(&self.path)).await;
        connected.map_err(|_| call.too_late())?.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::NoSocket { path: self.path.clone() },
            io::ErrorKind::PermissionDenied => Error::NotPermitted { path: self.path.clone() },
            io::ErrorKind::ConnectionRefused => Error::Refused { path: self.path.clone() },
            _ => call.nonsense(&e),
        })
    }

    async fn send(
        &self,
        call: &Call<'_>,
        method: Method,
        target: &str,
        body: Option<Bytes>,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, Connection), Error> {
        let mut request = Request::builder().method(method);
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        self.exchange(call, request, target, Full::new(body.unwrap_or_default()), deadline).await
    }

    async fn exchange<B>(
        &self,
        call: &Call<'_>,
        request: Builder,
        target: &str,
        body: B,
        deadline: Instant,
    ) -> Result<(Response<Incoming>, Connection), Error>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.connect_by(call, deadline).await?;
        let exchange = async {
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|e| call.nonsense(&e))?;
            let connection = Connection(tokio::spawn(async move {
                // What goes wrong here is what `send_request` or the body report.
                let _ = connection.await;
            }));
            let request = request.uri(target).header(HOST, "localhost");
            let request = request.body(body).map_err(|e| call.nonsense(&e))?;
            let response = sender.send_request(request).await.map_err(|e| call.nonsense(&e))?;
            Ok((response, connection))
        };
        timeout_at(deadline, exchange).await.map_err(|_| call.too_late())?
    }
}

/// What an error says about the call it ended.
struct Call<'a> {
    path: &'a Path,
    name: String,
    within: Duration,
}

impl Call<'_> {
    /// The whole answer.
    async fn whole(&self, response: Response<Incoming>, deadline: Instant) -> Result<Reply, Error> {
        let status = response.status();
        let body = timeout_at(deadline, Limited::new(response.into_body(), MAX_BODY).collect())
            .await
            .map_err(|_| self.too_late())?
            .map_err(|e| self.nonsense(&e))?;
        Ok(Reply { status, body: body.to_bytes() })
    }

    fn too_late(&self) -> Error {
        Error::Deadline { path: self.path.to_owned(), call: self.name.clone(), within: self.within }
    }

    fn nonsense(&self, why: &dyn ToString) -> Error {
        Error::Protocol { path: self.path.to_owned(), call: self.name.clone(), why: why.to_string() }
    }
}

/// The task that moves a connection's bytes. It ends with the answer it serves.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    call: String,
    idle: Option<Duration>,
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    seen: usize,
    _connection: Connection,
}

impl Lines {
    /// The next line without its end; `None` when the answer is over. A last line without an end counts.
    ///
    /// Dropping the future loses nothing: what has come stays in the buffer.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(at) = self.buffer[self.seen..].iter().position(|&b| b == b'\n') {
                let mut line = self.buffer.split_to(self.seen + at + 1);
                self.seen = 0;
                line.truncate(line.len() - 1);
                return Ok(Some(line.freeze()));
            }
            self.seen = self.buffer.len();
            if self.seen > MAX_LINE {
                return Err(self.nonsense(format!("a line is longer than {MAX_LINE} bytes")));
            }
            let frame = match self.idle {
                Some(idle) => match tokio::time::timeout(idle, self.body.frame()).await {
                    Ok(frame) => frame,
                    Err(_) => {
                        return Err(Error::Deadline {
                            path: self.path.clone(),
                            call: self.call.clone(),
                            within: idle,
                        });
                    }
                },
                None => self.body.frame().await,
            };
            match frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(e)) => return Err(self.nonsense(e.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.seen = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }

    fn nonsense(&self, why: String) -> Error {
        Error::Protocol { path: self.path.clone(), call: self.call.clone(), why }
    }
}

/// `text` as one segment of a URL's path: whatever a person typed as a name, it stays one segment.
pub fn segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && text.len() > 2)
        {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    /// A server that reads one request and then does what it is told.
    fn server(answer: &'static [u8], then_hang: bool) -> (tempfile::TempDir, Client) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            stream.write_all(answer).await.unwrap();
            if then_hang {
                std::future::pending::<()>().await;
            }
        });
        (dir, Client::new(path))
    }

    async fn get(client: &Client) -> Result<Reply, Error> {
        client.request(Method::GET, "/1.0", None, SHORT).await
    }

    #[tokio::test]
    async fn no_socket() {
        let client = Client::new("/nonexistent/socket");
        assert!(matches!(get(&client).await, Err(Error::NoSocket { .. })));
    }

    #[tokio::test]
    async fn a_dead_servers_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(get(&Client::new(path)).await, Err(Error::Refused { .. })));
    }

    #[tokio::test]
    async fn a_server_that_never_answers() {
        let (_dir, client) = server(b"", true);
        let error = get(&client).await.unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }));
        assert!(error.to_string().contains("within 200 ms"), "{error}");
    }

    #[tokio::test]
    async fn a_body_that_never_ends() {
        let (_dir, client) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", true);
        assert!(matches!(get(&client).await, Err(Error::Deadline { .. })));
    }

    #[tokio::test]
    async fn nonsense() {
        let (_dir, client) = server(b"SSH-2.0-OpenSSH\r\n\r\n", false);
        assert!(matches!(get(&client).await, Err(Error::Protocol { .. })));
    }

    #[tokio::test]
    async fn an_answer() {
        let (_dir, client) = server(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}", true);
        let reply = get(&client).await.unwrap();
        assert_eq!((reply.status, &reply.body[..]), (StatusCode::NOT_FOUND, &b"{}"[..]));
    }

    #[tokio::test]
    async fn lines_split_anywhere() {
        let (_dir, client) = server(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{}\n\r\n4\r\n[1\n2\r\n2\r\n3]\r\n0\r\n\r\n",
            false,
        );
        let mut lines = client.lines("/e", SHORT, None).await.unwrap().unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        assert_eq!(all, ["{}", "[1", "23]"]);
    }

    #[tokio::test]
    async fn a_stream_gone_silent() {
        let (_dir, client) =
            server(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\na\n\r\n", true);
        let mut lines = client.lines("/e", SHORT, Some(SHORT)).await.unwrap().unwrap();
        assert_eq!(lines.next().await.unwrap().unwrap(), "a");
        assert!(matches!(lines.next().await, Err(Error::Deadline { .. })));
    }

    #[test]
    fn a_name_stays_one_segment() {
        assert_eq!(segment("coi-1a2b-1"), "coi-1a2b-1");
        assert_eq!(segment("a/../b?x#y z"), "a%2F..%2Fb%3Fx%23y%20z");
        assert_eq!(segment(".."), "%2E%2E");
    }
}
