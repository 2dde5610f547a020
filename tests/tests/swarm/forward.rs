//! A port that containers reach, in front of one that only this machine does.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::network::HERE;

/// Passes connections on until it is dropped.
#[derive(Debug)]
pub(crate) struct Forward {
    address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Forward {
    /// To `target`, which listens on loopback.
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((HERE, 0)).await.expect("the engine's network is there");
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                tokio::spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(target).await {
                        // An end of either side ends both.
                        let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { address, _task: AbortOnDropHandle::new(task) }
    }

    /// Its URL, without a slash at the end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
