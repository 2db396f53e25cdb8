//! A connection to a receiver: its name is resolved once, every address judged, and the very
//! address that was judged is connected to. A name that says something else a moment later gains
//! nothing.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::guard::{Target, Trust};

/// One of several addresses that does not answer must not use up the time of the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes a receiver may send over a connection. Answers are a few hundred; a receiver that sends
/// more is cut off.
const RECEIVED_BYTES_MAX: usize = 256 * 1024;

/// The addresses of a name, for a test.
#[cfg(test)]
pub type Lookup = Arc<dyn Fn(&str) -> Vec<IpAddr> + Send + Sync>;

/// Who knows the addresses of names.
#[derive(Clone)]
pub enum Names {
    /// The system.
    System,
    /// A test.
    #[cfg(test)]
    Fixed(Lookup),
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    async fn addresses(&self, target: Target<'_>) -> Result<Vec<IpAddr>, String> {
        let found: Vec<IpAddr> = match self {
            Names::System => tokio::net::lookup_host((target.host, target.port))
                .await
                .map_err(|error| format!("the name {} is not found: {error}", target.host))?
                .map(|it| it.ip())
                .collect(),
            #[cfg(test)]
            Names::Fixed(lookup) => lookup(target.host),
        };
        if found.is_empty() {
            return Err(format!("the name {} has no address", target.host));
        }
        Ok(found)
    }
}

/// Connects without encryption.
///
/// # Errors
/// The name is not known, one of its addresses may not be reached, or none answers.
pub async fn tcp(target: Target<'_>, trust: &Trust, names: &Names) -> Result<Capped, String> {
    trust.vet_target(target)?;
    let addresses = match target.host.parse() {
        Ok(address) => vec![address],
        Err(_) => names.addresses(target).await?,
    };
    for address in &addresses {
        trust.vet_address(target, *address)?;
    }
    let mut problem = String::new();
    for address in addresses {
        let peer = SocketAddr::new(address, target.port);
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(peer)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(Capped {
                    stream,
                    peer,
                    left: RECEIVED_BYTES_MAX,
                });
            }
            Ok(Err(error)) => problem = error.to_string(),
            Err(_) => problem = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        }
    }
    Err(format!(
        "cannot connect to {}:{}: {problem}",
        target.host, target.port
    ))
}

/// Encrypts a connection; the certificate has to be for `host`, whatever address was connected to.
///
/// # Errors
/// The handshake failed.
pub async fn tls(connection: Capped, host: &str) -> Result<TlsStream<Capped>, String> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| format!("{host} cannot be the name of a certificate: {error}"))?;
    TlsConnector::from(client_config())
        .connect(name, connection)
        .await
        .map_err(|error| format!("no TLS with {host}: {error}"))
}

/// Certificates are judged by the roots that Mozilla trusts, which are built in.
fn client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has the versions of TLS that rustls has")
            .with_root_certificates(roots())
            .with_no_client_auth();
        Arc::new(config)
    });
    config.clone()
}

fn roots() -> RootCertStore {
    let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    #[cfg(test)]
    let roots = super::receivers::with_authority(roots);
    roots
}

/// A TCP connection that may receive only so much.
#[derive(Debug)]
pub struct Capped {
    stream: TcpStream,
    peer: SocketAddr,
    left: usize,
}

impl Capped {
    /// Where it leads.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl AsyncRead for Capped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the receiver sends too much")));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let received = buffer.filled().len() - before;
        self.left = self.left.saturating_sub(received);
        polled
    }
}

impl AsyncWrite for Capped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
