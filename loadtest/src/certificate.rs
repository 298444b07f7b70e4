//! A certificate of our own making, for a stub and proxies that nobody outside this machine will meet.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Certificate and key, PEM.
pub(crate) fn make() -> Result<(String, String)> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}

pub(crate) fn server_config(cert: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<Result<Vec<_>, _>>().context("certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("key")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).context("certificate and key")?))
}

pub(crate) fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let file = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    server_config(&file(cert)?, &file(key)?)
}
