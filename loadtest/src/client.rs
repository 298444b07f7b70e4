//! One connection to a server: socket, TLS, login, and the bytes both ways. Never blocks.
//!
//! Not libpq: no certificate is checked (what `sslmode=require` means there too) and no cell is read.
//! Invariant: `sent <= out.len()`; a login that was not accepted, or a closed connection, is an error and never an answer.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use mio::event::{Event, Source};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use crate::target::{Address, Target};
use crate::wire::{self, Seen, Walker};

/// What all connections to one target share.
pub(crate) struct Dialer<'t> {
    target: &'t Target,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl<'t> Dialer<'t> {
    pub(crate) fn new(target: &'t Target) -> Result<Dialer<'t>> {
        let tls = if target.tls {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth();
            // Drivers (libpq) make a whole handshake every time.
            config.resumption = Resumption::disabled();
            let name = ServerName::try_from(target.host.clone()).context("host name for TLS")?;
            Some((Arc::new(config), name))
        } else {
            None
        };
        Ok(Dialer { target, tls })
    }

    /// Starts to connect.
    pub(crate) fn dial(&self, registry: &Registry, token: Token) -> io::Result<Client> {
        let mut socket = match &self.target.address {
            Address::Tcp(address) => Socket::Tcp(TcpStream::connect(*address)?),
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
        };
        socket.register(registry, token, Interest::READABLE | Interest::WRITABLE)?;
        let walker = Walker::default();
        let (out, sent, tls, stage) = (Vec::new(), 0, None, Stage::Connecting);
        Ok(Client { socket, tls, stage, out, sent, walker, failed: false, error: None, tee: None })
    }
}

/// Where the login is. What each stage waits for:
enum Stage {
    /// the socket
    Connecting,
    /// the one byte that answers an SSLRequest
    TlsAsked,
    /// the end of the handshake, after which the startup message is sent
    TlsHandshake,
    /// AuthenticationOk, or another authentication message
    Login(Option<ScramSha256>),
    /// ReadyForQuery, of the login or of a request
    In,
}

pub(crate) struct Client {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    stage: Stage,
    /// Bytes for the socket, of which `sent` are gone.
    out: Vec<u8>,
    sent: usize,
    pub(crate) walker: Walker,
    /// An error came since the last ReadyForQuery.
    failed: bool,
    /// The first error of a request.
    pub(crate) error: Option<String>,
    /// What the server said, if somebody wants to keep it.
    pub(crate) tee: Option<Vec<u8>>,
}

impl Client {
    /// Handles what the socket is ready for; `answered(failed)` is called at every ReadyForQuery. The first one ends the login.
    pub(crate) fn ready(
        &mut self,
        event: &Event,
        dialer: &Dialer<'_>,
        room: &mut Room,
        mut answered: impl FnMut(bool),
    ) -> Result<()> {
        if matches!(self.stage, Stage::Connecting) {
            if !event.is_writable() {
                return Ok(());
            }
            self.connected(dialer)?;
        }
        if event.is_writable() {
            self.flush()?;
        }
        if event.is_readable() || event.is_read_closed() {
            self.read(event.is_read_closed(), dialer, room, &mut answered)?;
        }
        Ok(())
    }

    /// Puts bytes on their way; `write` gets the buffer to append to.
    pub(crate) fn send(&mut self, plain: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        match &mut self.tls {
            None => write(&mut self.out),
            Some(tls) => {
                plain.clear();
                write(plain);
                tls.writer().write_all(plain)?;
                while tls.wants_write() {
                    tls.write_tls(&mut self.out)?;
                }
            }
        }
        self.flush()
    }

    /// Terminate, as a driver says it; dropping the client closes the socket.
    pub(crate) fn goodbye(&mut self, plain: &mut Vec<u8>) {
        let said = self.send(plain, wire::terminate);
        if let (Ok(()), Some(tls)) = (&said, &mut self.tls) {
            tls.send_close_notify();
        }
        // Whoever closed before us is as gone as we wanted.
        drop(said.and_then(|()| self.send(plain, |_| {})));
    }

    fn connected(&mut self, dialer: &Dialer<'_>) -> Result<()> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error).context("connect");
        }
        self.socket.no_delay()?;
        if dialer.tls.is_some() {
            wire::ssl_request(&mut self.out);
            self.stage = Stage::TlsAsked;
            return self.flush();
        }
        self.startup(dialer)
    }

    fn startup(&mut self, dialer: &Dialer<'_>) -> Result<()> {
        self.stage = Stage::Login(None);
        self.send(&mut Vec::new(), |out| wire::startup(out, &dialer.target.user, &dialer.target.database))
    }

    fn flush(&mut self) -> Result<()> {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(0) => bail!("the server takes no more bytes"),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("write"),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    fn read(
        &mut self,
        closing: bool,
        dialer: &Dialer<'_>,
        room: &mut Room,
        answered: &mut impl FnMut(bool),
    ) -> Result<()> {
        let Room { wire, plain } = room;
        loop {
            let n = match self.socket.read(wire) {
                Ok(0) => match &self.error {
                    Some(said) => bail!("the server closed the connection: {said}"),
                    None => bail!("the server closed the connection"),
                },
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e).context("read"),
            };
            let mut input = wire.get(..n).unwrap_or_default();
            if matches!(self.stage, Stage::TlsAsked) {
                self.tls_answered(&mut input, dialer)?;
            }
            match self.tls.is_some() {
                true => self.decrypt(input, dialer, plain, answered)?,
                false => self.walk(input, dialer, answered)?,
            }
            // Edge-triggered: a short read means the socket is empty, unless its end is still to be read.
            if n < wire.len() && !closing {
                return Ok(());
            }
        }
    }

    fn tls_answered(&mut self, input: &mut &[u8], dialer: &Dialer<'_>) -> Result<()> {
        let Some((answer, rest)) = input.split_first() else { return Ok(()) };
        ensure!(*answer == b'S', "the server offers no TLS");
        ensure!(rest.is_empty(), "the server sent bytes before the TLS handshake");
        *input = rest;
        let (config, name) = dialer.tls.as_ref().context("TLS was not asked for")?;
        let mut tls = ClientConnection::new(config.clone(), name.clone())?;
        // A request is as long as its statement.
        tls.set_buffer_limit(None);
        self.tls = Some(Box::new(tls));
        self.stage = Stage::TlsHandshake;
        Ok(())
    }

    fn decrypt(
        &mut self,
        mut input: &[u8],
        dialer: &Dialer<'_>,
        plain: &mut [u8],
        answered: &mut impl FnMut(bool),
    ) -> Result<()> {
        loop {
            let tls = self.tls.as_mut().context("TLS was not started")?;
            if !input.is_empty() {
                tls.read_tls(&mut input)?;
            }
            tls.process_new_packets().context("TLS")?;
            while tls.wants_write() {
                tls.write_tls(&mut self.out)?;
            }
            self.flush()?;
            if matches!(self.stage, Stage::TlsHandshake)
                && self.tls.as_ref().is_some_and(|tls| !tls.is_handshaking())
            {
                self.startup(dialer)?;
            }
            while let Some(tls) = &mut self.tls {
                match tls.reader().read(plain) {
                    Ok(0) => bail!("the server closed the connection"),
                    Ok(n) => self.walk(plain.get(..n).unwrap_or_default(), dialer, answered)?,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e).context("TLS"),
                }
            }
            if input.is_empty() {
                return Ok(());
            }
        }
    }

    fn walk(&mut self, mut input: &[u8], dialer: &Dialer<'_>, answered: &mut impl FnMut(bool)) -> Result<()> {
        if let Some(tee) = &mut self.tee {
            tee.extend_from_slice(input);
        }
        loop {
            match self.walker.next(&mut input).map_err(|m| anyhow::anyhow!(m.0))? {
                None => return Ok(()),
                Some(Seen::Ready) => {
                    answered(self.failed);
                    self.failed = false;
                }
                Some(Seen::Error(body)) => {
                    let text = wire::error_text(body);
                    ensure!(matches!(self.stage, Stage::In), "login refused: {text}");
                    self.failed = true;
                    self.error.get_or_insert(text);
                }
                Some(Seen::CopyIn) => bail!("COPY FROM STDIN has no rows to send here"),
                Some(Seen::Authentication(body)) => {
                    let body = body.to_vec();
                    self.login(&body, dialer.target)?;
                }
            }
        }
    }

    fn login(&mut self, body: &[u8], target: &Target) -> Result<()> {
        let (kind, rest) = body.split_first_chunk::<4>().context("authentication message without a kind")?;
        let password =
            || target.password.as_deref().context("the server asks for a password: none was given");
        let Stage::Login(scram) = &mut self.stage else { bail!("an authentication message after the login") };
        let mut answer = Vec::new();
        match u32::from_be_bytes(*kind) {
            0 => {
                self.stage = Stage::In;
                return Ok(());
            }
            3 => wire::cstr(&mut answer, password()?.as_bytes()),
            5 => {
                let salt = rest.first_chunk::<4>().context("md5 without salt")?;
                let hash = md5_hash(target.user.as_bytes(), password()?.as_bytes(), *salt);
                wire::cstr(&mut answer, hash.as_bytes());
            }
            10 => {
                ensure!(
                    rest.split(|b| *b == 0).any(|m| m == SCRAM_SHA_256.as_bytes()),
                    "the server offers no SASL mechanism we know"
                );
                let started = ScramSha256::new(password()?.as_bytes(), ChannelBinding::unsupported());
                wire::cstr(&mut answer, SCRAM_SHA_256.as_bytes());
                answer.extend_from_slice(&(started.message().len() as u32).to_be_bytes());
                answer.extend_from_slice(started.message());
                *scram = Some(started);
            }
            11 => {
                let scram = scram.as_mut().context("SASL went on without having begun")?;
                scram.update(rest).context("SCRAM")?;
                answer.extend_from_slice(scram.message());
            }
            12 => {
                let scram = scram.as_mut().context("SASL ended without having begun")?;
                return scram.finish(rest).context("SCRAM: the server does not know the password");
            }
            other => bail!("authentication method {other} is not known here"),
        }
        self.send(&mut Vec::new(), |out| wire::frame(out, b'p', |b| b.extend_from_slice(&answer)))
    }
}

/// Buffers a thread's connections take turns with.
pub(crate) struct Room {
    wire: Vec<u8>,
    plain: Vec<u8>,
}

impl Room {
    pub(crate) fn new() -> Room {
        Room { wire: vec![0; 256 * 1024], plain: vec![0; 64 * 1024] }
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s.register(registry, token, interest),
            Socket::Unix(s) => s.register(registry, token, interest),
        }
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Socket::Tcp(s) => s.take_error(),
            Socket::Unix(s) => s.take_error(),
        }
    }

    fn no_delay(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s.set_nodelay(true),
            Socket::Unix(_) => Ok(()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.read(into),
            Socket::Unix(s) => s.read(into),
        }
    }

    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => s.write(from),
            Socket::Unix(s) => s.write(from),
        }
    }
}

/// Accepts every certificate and still checks that its owner made the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
