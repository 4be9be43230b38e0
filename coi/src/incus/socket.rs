//! The connection under a websocket of Incus.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// A websocket of Incus.
pub(super) type WebSocket = tokio_tungstenite::WebSocketStream<Connection>;

/// A connection on which writing to somebody who has left is no error.
///
/// Incus pings, says what it has to say, and closes. A websocket answers the ping before it reads on, and
/// when that fails it gives up reading: what a short command said would be lost. That the other side has
/// left is seen by reading, after the last byte.
#[derive(Debug)]
pub(super) struct Connection(pub(super) UnixStream);

fn unless_left<T>(result: io::Result<T>, done: T) -> io::Result<T> {
    match result {
        Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(done),
        other => other,
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A connection closed over an unanswered pong is reset, after its last byte.
        Pin::new(&mut self.0).poll_read(cx, buf).map(|read| unless_left(read, ()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.0).poll_write(cx, buf));
        Poll::Ready(unless_left(written, buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;

    use super::*;

    /// What is read of a connection whose other side pings, speaks and leaves before anything is read.
    async fn read_late(stream: impl Fn(UnixStream) -> Connection) -> Vec<Message> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = tokio::spawn(async move {
            let mut socket = tokio_tungstenite::accept_async(theirs).await.unwrap();
            for message in [Message::Ping("keepalive".into()), Message::binary("said"), Message::text("")] {
                socket.send(message).await.unwrap();
            }
        });
        let (mut socket, _) = tokio_tungstenite::client_async("ws://incus/", stream(ours)).await.unwrap();
        server.await.unwrap();
        let mut all = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            all.push(message);
        }
        all
    }

    #[tokio::test]
    async fn what_was_said_before_leaving_is_heard() {
        let all = read_late(Connection).await;
        assert!(all.contains(&Message::binary("said")), "{all:?}");
    }
}
