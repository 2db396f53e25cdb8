//! TLS on the receiver's ports: rustls, TLS 1.2 and 1.3, HTTP/2 or HTTP/1.1 by ALPN, and clients
//! with certificates if an authority for them is named.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::watched::Watched;

/// Where certificates are; PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The server's certificate, then those between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities for clients; if given, a client without a certificate of theirs is turned
    /// away.
    pub client_authorities: Option<PathBuf>,
}

/// What connections are encrypted with; read again when the files change.
#[derive(Debug)]
pub struct Tls {
    config: Watched<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold what it should, or a key that does not fit.
    pub fn new(files: TlsFiles) -> anyhow::Result<Self> {
        let watched = [Some(&files.certificate), Some(&files.key)];
        let watched = watched
            .into_iter()
            .chain([files.client_authorities.as_ref()]);
        let watched = watched.flatten().cloned().collect();
        let config = Watched::new(watched, move || Ok(Arc::new(config(&files)?)))?;
        Ok(Self { config })
    }

    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&*self.config.get()))
    }

    #[cfg(test)]
    pub(super) fn looking_always(self) -> Self {
        Self {
            config: self.config.looking_always(),
        }
    }
}

fn config(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("{} holds no private key", files.key.display()))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &files.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots
                    .add(authority)
                    .with_context(|| format!("{} holds no authority", path.display()))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .context("certificate and key do not fit")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &PathBuf) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || {
        let found: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
        anyhow::ensure!(!found.is_empty(), "none is in there");
        Ok(found)
    };
    read().with_context(|| format!("no certificates in {}", path.display()))
}
