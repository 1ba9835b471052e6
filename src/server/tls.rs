//! Certificates: given ones, or one that the server makes for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::error::ServerError;
use crate::sys::files;

/// A ready configuration and the SHA-256 fingerprint of the certificate, in pairs of hexadecimal digits.
pub struct Ready {
    /// For the listener.
    pub config: Arc<ServerConfig>,
    /// For people to compare.
    pub fingerprint: String,
}

fn bad(path: &Path, why: impl std::fmt::Display) -> ServerError {
    ServerError::Certificate { path: path.to_owned(), message: why.to_string() }
}

/// Reads a chain and its key, both PEM.
///
/// # Errors
/// [`ServerError::Certificate`] naming the file.
pub fn load(cert: &Path, key: &Path) -> Result<Ready, ServerError> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| bad(cert, error))?;
    let first = chain.first().ok_or_else(|| bad(cert, "no certificate in it"))?;
    let fingerprint = fingerprint(first);
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(cert, error))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| bad(cert, error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Ready { config: Arc::new(config), fingerprint })
}

/// The certificate that the server made for itself in `data`, made now when there is none. It names `host`, localhost
/// and the loopback addresses.
///
/// # Errors
/// [`ServerError::Certificate`], [`ServerError::Data`].
pub fn self_signed(data: &Path, host: &str) -> Result<Ready, ServerError> {
    let (cert, key) = (data.join("tls-cert.pem"), data.join("tls-key.pem"));
    if !cert.exists() || !key.exists() {
        let mut names: Vec<String> = vec!["localhost".into(), "127.0.0.1".into(), "::1".into()];
        if !names.iter().any(|name| name == host) {
            names.push(host.to_owned());
        }
        let made = rcgen::generate_simple_self_signed(names).map_err(|error| bad(&cert, error))?;
        let store = |path: &PathBuf, text: String, mode| {
            files::write_atomic(path, text.as_bytes(), mode)
                .map_err(|source| ServerError::Data { path: path.clone(), source })
        };
        store(&key, made.signing_key.serialize_pem(), 0o600)?;
        store(&cert, made.cert.pem(), 0o644)?;
    }
    load(&cert, &key)
}

fn fingerprint(cert: &CertificateDer<'_>) -> String {
    // The hash of a TLS 1.3 suite that has SHA-256, so that the provider's implementation is the only one.
    let suite = provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;
    let digest = suite.tls13().map(|suite| suite.common.hash_provider.hash(cert));
    let pairs: Vec<String> = digest.iter().flat_map(|d| d.as_ref().iter().map(|byte| format!("{byte:02X}"))).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = self_signed(dir.path(), "kegd.example").unwrap();
        assert_eq!(first.fingerprint.len(), 32 * 3 - 1);
        assert_eq!(self_signed(dir.path(), "kegd.example").unwrap().fingerprint, first.fingerprint);
        let key = dir.path().join("tls-key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&key).unwrap().contains("PRIVATE KEY"));
        fs::write(dir.path().join("tls-cert.pem"), "not a certificate").unwrap();
        let error = self_signed(dir.path(), "x").err().unwrap().to_string();
        assert!(error.contains("tls-cert.pem"), "{error}");
    }
}
