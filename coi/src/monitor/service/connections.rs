//! Connections: how many there may be, and how long each may take its time.
//!
//! It promises that nobody who connects keeps others from being answered, or makes the daemon grow: there is a number of
//! places, of which one user can have a part and all users but root not all; a request that does not come, an answer that
//! is not taken and a connection that is not used end it.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::{Sleep, sleep, timeout},
};

use super::admission::Caller;

/// How many connections there may be.
const ALL: usize = 256;
/// How many of them users other than root may have together: root is always let in.
const USERS: usize = 192;
/// How many one of these users may have.
const EACH: usize = 64;
/// How long the head of a request may take, from the connection's begin or the last answer's end.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// How long an answer may wait for its reader to take any of it.
const STALL: Duration = Duration::from_secs(120);
/// How large a head may be, and how many lines it may have.
const HEAD_SIZE: usize = 16 << 10;
const HEAD_LINES: usize = 64;
/// How long to wait when there are no descriptors left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// What is said to who comes when all places are taken.
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
    content-length: 96\r\n\r\n{\"code\":\"busy\",\"message\":\"too many connections to COI's daemon are open; \
    close some, try again\"}";

/// How many of those for whom there is none are told so at once, and how long that may take.
const DOOR: usize = 32;
const DOOR_TIME: Duration = Duration::from_secs(1);

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    taken: Mutex<HashMap<u32, usize>>,
    door: Arc<Semaphore>,
    refused: AtomicU64,
}

impl Default for Places {
    fn default() -> Self {
        Self { taken: Mutex::default(), door: Arc::new(Semaphore::new(DOOR)), refused: AtomicU64::new(0) }
    }
}

impl Places {
    fn taken(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        // Each number is changed at once.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are taken.
    pub(super) fn open(&self) -> usize {
        self.taken().values().sum()
    }

    /// How often none was left.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A place for this user, if one is left.
    fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut taken = self.taken();
        let all: usize = taken.values().sum();
        let root = taken.get(&0).copied().unwrap_or(0);
        let own = taken.get(&uid).copied().unwrap_or(0);
        if all >= ALL || (uid != 0 && (all - root >= USERS || own >= EACH)) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        taken.insert(uid, own + 1);
        Some(Place { uid, places: Arc::clone(self) })
    }
}

/// One of the places.
struct Place {
    uid: u32,
    places: Arc<Places>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.uid);
            }
        }
    }
}

/// Answers whoever connects; ends only when nobody can.
pub(super) async fn answer(listener: UnixListener, router: Router, places: Arc<Places>) -> io::Result<()> {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) if is_exhaustion(&error) => {
                tracing::warn!(%error, "nobody can connect for the moment");
                sleep(EXHAUSTED).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        // Who has left already needs no answer.
        let Ok(peer) = stream.peer_cred() else { continue };
        match places.take(peer.uid()) {
            Some(place) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let _place = place;
                    match Caller::of(&stream).await {
                        Ok(caller) => serve(stream, router, caller).await,
                        Err(error) => {
                            tracing::warn!(%error, "who has connected is not known, and not answered");
                        }
                    }
                });
            }
            None => {
                // As far as these few places go; whoever floods is not owed an answer.
                if let Ok(place) = Arc::clone(&places.door).try_acquire_owned() {
                    tokio::spawn(async move {
                        let _place = place;
                        // Who does not wait for it does without.
                        let _ = timeout(DOOR_TIME, turn_away(stream)).await;
                    });
                }
            }
        }
    }
}

/// Says that there is no place, and lets the other end read it: closed with something unread, it would be lost.
async fn turn_away(mut stream: UnixStream) -> io::Result<()> {
    stream.write_all(BUSY.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(HEAD_SIZE as u64), &mut tokio::io::sink()).await.map(drop)
}

fn is_exhaustion(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

/// How the requests of a connection are read.
fn protocol() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEAD_LINES);
    builder
}

/// Answers the requests that come on one connection, one after the other.
pub(super) async fn serve(stream: UnixStream, router: Router, caller: Caller) {
    // Who has closed it has left: nothing is written to who might still listen, or a stream without lines would never end.
    serve_by(&protocol(), stream, router, caller).await;
}

/// The same, also when no more can come of them.
#[cfg(any(test, fuzzing))]
pub(super) async fn serve_to_the_end(stream: UnixStream, router: Router, caller: Caller) {
    serve_by(protocol().half_close(true), stream, router, caller).await;
}

async fn serve_by(protocol: &http1::Builder, stream: UnixStream, router: Router, caller: Caller) {
    let io = TokioIo::new(Patience { stream, stalled: None });
    let connection = protocol.serve_connection(io, TowerToHyperService::new(router.layer(Extension(caller))));
    // Whatever is wrong with it is wrong at the other end.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection broke");
    }
}

/// A connection whose other end must read now and then.
struct Patience {
    stream: UnixStream,
    /// Runs while something waits to be read there.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// What a write came to; an error if it waits for too long.
    fn heed(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(STALL)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patience {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patience {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.heed(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.heed(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_shared_out() {
        let places = Arc::new(Places::default());
        let of = |uid: u32, wanted: usize| (0..wanted).map_while(|_| places.take(uid)).collect::<Vec<_>>();
        let one = of(1000, ALL);
        assert_eq!(one.len(), EACH);
        let others: Vec<_> = (1001..1020).flat_map(|uid| of(uid, ALL)).collect();
        assert_eq!(one.len() + others.len(), USERS);
        let root = of(0, ALL);
        assert_eq!(root.len(), ALL - USERS);
        assert_eq!(places.open(), ALL);
        drop((one, root));
        assert_eq!(of(1000, 1).len(), 1);
        drop(others);
        assert_eq!(places.open(), 0);
        assert!(places.taken().is_empty());
        assert_eq!(of(0, 2 * ALL).len(), ALL);
    }

    #[test]
    fn who_is_turned_away_can_read_why() {
        let (head, body) = BUSY.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
        let error: super::super::api::ApiError = serde_json::from_str(body).unwrap();
        assert_eq!(error.code, "busy");
    }

    #[tokio::test]
    async fn who_has_sent_something_reads_it_all_the_same() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let turned = tokio::spawn(turn_away(there));
        let mut answer = String::new();
        here.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, BUSY);
        drop(here);
        turned.await.unwrap().unwrap();
    }

    /// A router that answers much, and one end of a connection to it.
    fn connected() -> UnixStream {
        let (here, there) = UnixStream::pair().unwrap();
        let much = axum::routing::get(|| async { vec![b'x'; 64 << 20] });
        let router = Router::new().route("/", axum::routing::get(|| async { "" })).route("/much", much);
        tokio::spawn(serve(there, router, Caller::new(1000, 1000, vec![], None)));
        here
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_come_ends_the_connection() {
        for begun in ["", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: x\r\n\r\nGET / HT"] {
            let mut stream = connected();
            stream.write_all(begun.as_bytes()).await.unwrap();
            let began = tokio::time::Instant::now();
            let mut answers = Vec::new();
            // The other end closes it.
            let _ = stream.read_to_end(&mut answers).await;
            assert!(began.elapsed() >= HEAD, "{begun}: {:?}", began.elapsed());
            assert_eq!(answers.starts_with(b"HTTP/1.1 200"), begun.contains("\r\n\r\n"), "{begun}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_ends_the_connection() {
        let mut stream = connected();
        stream.write_all(b"GET /much HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        sleep(2 * STALL).await;
        let mut taken = Vec::new();
        let _ = stream.read_to_end(&mut taken).await;
        assert!(!taken.is_empty() && taken.len() < 64 << 20, "{}", taken.len());
    }

    #[tokio::test]
    async fn heads_have_a_limit() {
        for junk in [
            vec![b'x'; 1 << 20],
            b"GET / HTTP/1.1\r\n".to_vec().into_iter().chain(b"a: b\r\n".repeat(65)).collect(),
        ] {
            let mut stream = connected();
            let _ = stream.write_all(&junk).await;
            let _ = stream.write_all(b"\r\n").await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
    }
}
