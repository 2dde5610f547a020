//! The caller's end of a connection.
//!
//! Many clients close their sending side after the request and still read the response (`nc -N`, some SDKs). Others close the
//! whole socket. Both look the same here, an end of file, until something is sent: a closed socket answers with a reset. So
//! hyper serves half-closed connections, and a stream watches its [`Peer`] for the end of file and for the reset.

use std::{
    io,
    net::{IpAddr, Shutdown},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

/// How often to look whether something that was sent has been read.
const UNREAD: Duration = Duration::from_millis(100);

/// The first byte of a TLS connection: the type of a record with a handshake (RFC 8446, 5.1). No HTTP request begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// The caller's end of a request's connection. The server adds it to the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    stream: Arc<TcpStream>,
    encryption: Encryption,
}

/// Whether what a caller sends is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// It is plain HTTP.
    None,
    /// TLS.
    Tls,
}

impl Peer {
    /// The local address that the caller has connected to.
    #[must_use]
    pub fn reached_at(&self) -> Option<IpAddr> {
        self.stream.local_addr().ok().map(|address| address.ip().to_canonical())
    }

    /// The address that the caller has connected from.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.stream.peer_addr().ok().map(|address| address.ip().to_canonical())
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn encryption(&self) -> Encryption {
        self.encryption
    }

    /// The same connection, after a handshake.
    pub(crate) fn encrypted(self) -> Self {
        Self { encryption: Encryption::Tls, ..self }
    }

    /// Whether the caller is on this machine, so that nobody else sees what it sends.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let (from, to) = (self.address(), self.reached_at());
        from.is_some_and(|from| from.is_loopback() || Some(from) == to)
    }

    /// Waits for the first byte, which says whether the caller speaks TLS.
    pub(crate) async fn speaks_tls(&self) -> io::Result<bool> {
        speaks_tls(&self.stream).await
    }

    /// Waits until the caller has closed its sending side or the whole connection. Only a write can tell which.
    pub(crate) async fn closes_its_side(&self) {
        if self.encryption == Encryption::Tls {
            return self.ends().await;
        }
        // This takes nothing from hyper, which reads nothing while it writes a response.
        match self.stream.peek(&mut [0]).await {
            Ok(0) | Err(_) => {}
            // The caller has sent its next request already, so it still wants this response.
            Ok(_) => std::future::pending().await,
        }
    }

    /// Waits until the caller has closed its sending side or the whole connection, also while it still sends its request. For
    /// callers that keep both sides open as long as they wait for a response, and speak plain HTTP.
    pub async fn disconnects(&self) {
        loop {
            match self.stream.peek(&mut [0]).await {
                Ok(0) | Err(_) => return,
                // What has not been read yet hides the end behind it.
                Ok(_) => tokio::time::sleep(UNREAD).await,
            }
        }
    }

    /// Waits for the end of file, whatever has not been read before it. TLS sends an alert before it closes the connection,
    /// which nobody reads while a response is written.
    async fn ends(&self) {
        // It includes the end of file, and nothing else that callers send makes a socket of tokio ready for it.
        #[cfg(target_os = "linux")]
        // This fails only when the runtime ends.
        let _ = self.stream.ready(Interest::PRIORITY).await;
        #[cfg(not(target_os = "linux"))]
        while self.stream.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed())
        {
            // What has not been read yet makes it ready at once.
            tokio::time::sleep(UNREAD).await;
        }
    }

    /// Waits until the connection is reset.
    pub(crate) async fn resets(&self) {
        // This fails only when the runtime ends.
        let _ = self.stream.ready(Interest::ERROR).await;
    }
}

/// Waits for the first byte of a connection, which says whether the caller speaks TLS, and leaves it unread.
pub(crate) async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first == [TLS_HANDSHAKE])
}

/// The server's end of the connection.
#[derive(Debug)]
pub(crate) struct Connection(Arc<TcpStream>);

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> (Self, Peer) {
        let stream = Arc::new(stream);
        (Self(Arc::clone(&stream)), Peer { stream, encryption: Encryption::None })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Connection {
    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match write(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&*self.0).shutdown(Shutdown::Write) {
            // The caller has closed it already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut),
        }
    }
}
