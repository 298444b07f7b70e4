//! TLS made ready: certificates and keys for listeners, roots and verification for targets. rustls with ring, nothing else.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use flow::access::{ClientTls, ServerTls};
use ring::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::FromDer;
use x509_parser::signature_algorithm::SignatureAlgorithm;

use crate::secret;
use crate::upstream::SslMode;

/// The application protocol PostgreSQL registered; direct TLS demands it.
const ALPN: &[u8] = b"postgresql";

fn provider() -> Arc<CryptoProvider> {
    static RING: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    RING.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())).clone()
}

/// TLS of a listener. The second value is something the operator should know.
pub(crate) fn server(cert: &Path, key: &Path) -> Result<(ServerTls, Option<String>), String> {
    let chain = certificates(cert)?;
    let shown = key.display();
    let facts = std::fs::metadata(key).map_err(|e| format!("cannot open {shown}: {e}"))?;
    secret::private(key, &facts)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("no private key in {shown}: {e}"))?;
    let (endpoint, note) =
        endpoint(chain.first().ok_or("no certificate")?).map_err(|e| format!("{}: {e}", cert.display()))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|e| format!("{} and {shown}: {e}", cert.display()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Pools reconnect all day: a ticket saves them the certificate and us the signature.
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|e| e.to_string())?;
    // Each resumption brings the next one; a second would be sealed and sent for nobody.
    config.send_tls13_tickets = 1;
    Ok((ServerTls { config: Arc::new(config), endpoint }, note))
}

/// TLS towards a target. `root`: a PEM file; `None`: what this system trusts.
pub(crate) fn client(mode: SslMode, host: &str, root: Option<&Path>) -> Result<Option<ClientTls>, String> {
    let builder = || {
        rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())
    };
    let verifier: Arc<dyn ServerCertVerifier> = match mode {
        SslMode::Disable => return Ok(None),
        SslMode::Require if root.is_none() => Arc::new(Anybody(provider())),
        // As libpq: with a root certificate at hand, `require` checks the chain.
        SslMode::Require | SslMode::VerifyCa => Arc::new(AnyName(web_pki(root)?)),
        SslMode::VerifyFull => web_pki(root)?,
    };
    let mut config = builder()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("`{host}` cannot be the name in a certificate"))?;
    Ok(Some(ClientTls { config: Arc::new(config), name }))
}

fn web_pki(root: Option<&Path>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut store = RootCertStore::empty();
    match root {
        Some(path) => {
            for cert in certificates(path)? {
                store.add(cert).map_err(|e| format!("{}: {e}", path.display()))?;
            }
        }
        None => {
            // rustls-native-certs over the platform verifier: on Linux that one reads the same files, through more crates.
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                let why =
                    found.errors.first().map(ToString::to_string).unwrap_or_else(|| "none found".into());
                return Err(format!(
                    "this system has no root certificates ({why}): name a file with sslrootcert="
                ));
            }
        }
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|e| e.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| format!("cannot read certificates from {shown}: {e}"))?;
    if chain.is_empty() {
        return Err(format!("no certificate in {shown}"));
    }
    Ok(chain)
}

/// `tls-server-end-point` (RFC 5929 §4.1): the certificate hashed by its signature's own hash, SHA-256 in place of MD5 and SHA-1.
/// Empty where the RFC defines none (Ed25519): then there is no channel to bind to.
fn endpoint(cert: &CertificateDer<'_>) -> Result<(Vec<u8>, Option<String>), String> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(cert)
        .map_err(|e| format!("not a certificate: {e}"))?;
    let oid = match SignatureAlgorithm::try_from(&parsed.signature_algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => parameters.hash_algorithm_oid().to_id_string(),
        _ => parsed.signature_algorithm.algorithm.to_id_string(),
    };
    let algorithm = match oid.as_str() {
        // MD5 and SHA-1 (with RSA, with ECDSA, in PSS); SHA-256 itself.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.3.14.3.2.26" => {
            &digest::SHA256
        }
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.2.1" => &digest::SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => &digest::SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => &digest::SHA512,
        _ => {
            let note = "the certificate's signature has no channel binding hash (RFC 5929): SCRAM-SHA-256-PLUS is not offered";
            return Ok((Vec::new(), Some(note.to_owned())));
        }
    };
    Ok((digest::digest(algorithm, cert).as_ref().to_vec(), None))
}

/// `sslmode=require`: the line is encrypted, to whoever answers. Signatures are still checked, so that at least one party with
/// the certificate's key is on the line.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// `sslmode=verify-ca`: the chain is checked, the name is not. rustls checks the name last, so a complaint about it means that
/// everything before was in order.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        cert: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(cert, chain, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    struct Files {
        dir: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Files {
            Files { dir: tempfile::tempdir().unwrap() }
        }
        fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    fn ca() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(ca: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, ca).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    /// A whole handshake in memory: the client's and the server's end of it.
    fn shake(
        server: &ServerTls,
        client: &ClientTls,
    ) -> Result<(rustls::ClientConnection, rustls::ServerConnection), rustls::Error> {
        let mut c = rustls::ClientConnection::new(client.config.clone(), client.name.clone())?;
        let mut s = rustls::ServerConnection::new(server.config.clone())?;
        while c.is_handshaking() || s.is_handshaking() {
            let mut wire = Vec::new();
            c.write_tls(&mut wire).unwrap();
            s.read_tls(&mut wire.as_slice()).unwrap();
            let at_server = s.process_new_packets();
            let mut wire = Vec::new();
            s.write_tls(&mut wire).unwrap();
            c.read_tls(&mut wire.as_slice()).unwrap();
            c.process_new_packets()?;
            at_server?;
        }
        Ok((c, s))
    }

    #[test]
    fn one_ticket_a_handshake_is_enough_to_resume_every_time() {
        let files = Files::new();
        let ca = ca();
        let roots = files.write("ca.crt", &ca.pem(), 0o644);
        let (cert, key) = leaf(&ca, "db.internal");
        let (server, _) =
            server(&files.write("s.crt", &cert, 0o644), &files.write("s.key", &key, 0o600)).unwrap();
        let client = client(SslMode::VerifyFull, "db.internal", Some(&roots)).unwrap().unwrap();
        use rustls::HandshakeKind::{Full, Resumed};
        for expected in [Full, Resumed, Resumed, Resumed] {
            let (client, _) = shake(&server, &client).unwrap();
            assert_eq!((client.handshake_kind(), client.tls13_tickets_received()), (Some(expected), 1));
        }
    }

    #[test]
    fn each_sslmode_checks_what_it_says() {
        let files = Files::new();
        let (good, evil) = (ca(), ca());
        let roots = files.write("ca.crt", &good.pem(), 0o644);
        let make = |ca, name: &str| {
            let (cert, key) = leaf(ca, name);
            let cert = files.write("s.crt", &cert, 0o644);
            let key = files.write("s.key", &key, 0o600);
            server(&cert, &key).unwrap().0
        };
        let right = make(&good, "db.internal");
        let misnamed = make(&good, "other.internal");
        let unknown = make(&evil, "db.internal");
        for (mode, root, results) in [
            (SslMode::VerifyFull, Some(roots.as_path()), [true, false, false]),
            (SslMode::VerifyCa, Some(roots.as_path()), [true, true, false]),
            (SslMode::Require, Some(roots.as_path()), [true, true, false]),
            (SslMode::Require, None, [true, true, true]),
        ] {
            let client = client(mode, "db.internal", root).unwrap().unwrap();
            for (server, fine) in [&right, &misnamed, &unknown].into_iter().zip(results) {
                let shaken = shake(server, &client).map(|(_, s)| s.alpn_protocol().map(<[u8]>::to_vec));
                assert_eq!(shaken.is_ok(), fine, "{mode:?} {shaken:?}");
                if let Ok(alpn) = shaken {
                    assert_eq!(alpn.as_deref(), Some(ALPN));
                }
            }
        }
        assert!(client(SslMode::Disable, "db", None).unwrap().is_none());
    }

    #[test]
    fn endpoint_is_hashed_by_the_signatures_hash() {
        let files = Files::new();
        for (algorithm, length) in [
            (&rcgen::PKCS_ECDSA_P256_SHA256, 32),
            (&rcgen::PKCS_ECDSA_P384_SHA384, 48),
            (&rcgen::PKCS_ED25519, 0),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let cert = CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&key).unwrap();
            let cert_path = files.write("e.crt", &cert.pem(), 0o644);
            let key_path = files.write("e.key", &key.serialize_pem(), 0o600);
            let (tls, note) = server(&cert_path, &key_path).unwrap();
            assert_eq!((tls.endpoint.len(), note.is_some()), (length, length == 0));
            if length == 32 {
                assert_eq!(tls.endpoint, digest::digest(&digest::SHA256, cert.der()).as_ref());
            }
        }
    }

    #[test]
    fn bad_files_are_named() {
        let files = Files::new();
        let (cert, key) = leaf(&ca(), "a");
        let (_, other_key) = leaf(&ca(), "a");
        let cert = files.write("c.crt", &cert, 0o644);
        let key = files.write("c.key", &key, 0o600);
        let open = files.write("open.key", &other_key, 0o644);
        let other = files.write("other.key", &other_key, 0o600);
        let empty = files.write("empty", "", 0o600);
        let why = |c: &Path, k: &Path| server(c, k).err().unwrap();
        assert!(server(&cert, &key).is_ok());
        assert!(why(&cert, &open).contains("chmod 600"), "{}", why(&cert, &open));
        assert!(why(&cert, &other).contains("other.key"), "{}", why(&cert, &other));
        assert!(why(&empty, &key).contains("no certificate in"));
        assert!(why(&cert, &empty).contains("no private key in"));
        assert!(why(Path::new("/nonexistent"), &key).contains("cannot read"));
    }
}
