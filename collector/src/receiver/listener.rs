//! Where connections come from: a TCP port or a Unix socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// An address to listen on: `127.0.0.1:4317`, `[::1]:4317` or `unix:/run/culprit.sock`.
#[derive(Clone, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum ListenAddress {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A socket in the file system; who may connect is what its directory's permissions say.
    Unix(PathBuf),
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(ListenAddress::Unix(path.into())),
                false => Err("a Unix socket is written unix:/absolute/path".into()),
            };
        }
        let address = text.parse().map_err(
            |_| "an IP address and a port (127.0.0.1:4317, [::1]:4317) or unix:/path is expected",
        )?;
        Ok(ListenAddress::Tcp(address))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound listener. A Unix socket's file is removed when it is dropped.
#[derive(Debug)]
pub enum Listener {
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixSocket),
}

/// A listening Unix socket and its file.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Listener::Tcp(listener)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl UnixSocket {
    /// Listens on a path. What a process that has died left there is removed first.
    ///
    /// # Errors
    /// Somebody listens there (`AddrInUse`), something else than a socket is there, or what the
    /// system says.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        let is_socket = std::fs::symlink_metadata(path).map(|it| it.file_type().is_socket());
        if let Ok(true) = is_socket {
            match tokio::net::UnixStream::connect(path).await {
                Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(_) => std::fs::remove_file(path)?,
            }
        }
        Ok(Self {
            listener: UnixListener::bind(path)?,
            path: path.to_owned(),
        })
    }
}

/// A connection's bytes, wherever they come from.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Whom connections are counted for; all of a Unix socket's peers are one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Peer {
    Network(IpAddr),
    Machine,
}

impl Peer {
    /// An IPv6 host has a whole /64 to itself, so that counts as one.
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                Peer::Network(Ipv6Addr::from_bits(network).into())
            }
            address => Peer::Network(address),
        }
    }
}

impl Listener {
    /// The port's address, if it is one.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// What it listens on, as [`ListenAddress`] writes it.
    pub fn name(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|cause| cause.to_string(), |it| it.to_string()),
            Listener::Unix(socket) => format!("unix:{}", socket.path.display()),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Io>, Peer)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are small and must not wait for more.
                let _ = stream.set_nodelay(true);
                Ok((Box::new(stream), Peer::of(address.ip())))
            }
            Listener::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                Ok((Box::new(stream), Peer::Machine))
            }
        }
    }

    /// A Unix socket needs no encryption: its bytes do not leave the machine.
    pub(super) fn is_network(&self) -> bool {
        matches!(self, Listener::Tcp(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t9_addresses_are_ports_or_sockets() {
        for (text, shown) in [
            ("127.0.0.1:4317", "127.0.0.1:4317"),
            ("[::1]:4317", "[::1]:4317"),
            ("unix:/run/culprit.sock", "unix:/run/culprit.sock"),
            ("unix:///run/culprit.sock", "unix:/run/culprit.sock"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "4317",
            "localhost",
            "unix:",
            "unix:here",
            "http://127.0.0.1:1",
        ] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn s3_an_ipv6_network_is_one_peer() {
        let peer = |text: &str| Peer::of(text.parse().unwrap());
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
    }

    #[tokio::test]
    async fn t9_a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("otlp.sock");
        // What a killed process leaves: a socket file and nobody behind it.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = UnixSocket::bind(&path).await.unwrap();
        let second = UnixSocket::bind(&path).await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "a file of somebody's").unwrap();
        assert!(UnixSocket::bind(&path).await.is_err());
        assert!(path.exists());
    }
}
