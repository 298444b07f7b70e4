//! What the engine's tests share: sessions from closures, targets from threads, a certificate authority.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Engine, Io, Listener, Settings, WorkerStats, Workers};
use flow::access::{
    Address, Banner, Catalogues, Connection, Credential, Limits, RecordLevel, ServerTls, Target,
};
use flow::{Acceptor, Answer, Ask, Desk, Event, Fault, Flow, Peer, Phase, Reply, Service, Session, Step};
use policy::Pass;

/// Runs each test once on io_uring and once on epoll.
macro_rules! on_both_drivers {
    ($($name:ident)*) => {
        mod uring { $( #[test] fn $name() { super::$name(engine::Io::Uring); } )* }
        mod epoll { $( #[test] fn $name() { super::$name(engine::Io::Epoll); } )* }
    };
}

pub(crate) type Made = Box<dyn Session>;

struct Closure<F>(Phase, F);

impl<F: FnMut(Event, &mut Flow<'_>) -> Result<Step, Fault>> Session for Closure<F> {
    fn on(&mut self, event: Event, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        (self.1)(event, flow)
    }

    fn phase(&self) -> Phase {
        self.0
    }
}

/// A session that is one closure and always in one phase.
pub(crate) fn session(
    phase: Phase,
    on: impl FnMut(Event, &mut Flow<'_>) -> Result<Step, Fault> + 'static,
) -> Made {
    Box::new(Closure(phase, on))
}

/// What sessions here do with events that a test is not about.
pub(crate) fn usual(event: &Event) -> Result<Step, Fault> {
    match event {
        Event::Opened | Event::Received | Event::Dialled(Ok(())) => Ok(Step::READ),
        Event::TlsStarted(..) | Event::Answered(_) | Event::Parted => Ok(Step::READ),
        Event::Dialled(Err(_)) | Event::Closed(_) | Event::Expired(_) | Event::Drain | Event::Kill => {
            Ok(Step::CLOSE)
        }
    }
}

pub(crate) fn forward_all(flow: &mut Flow<'_>) -> Result<Step, Fault> {
    flow.forward(usize::MAX, Pass::housekeeping());
    Ok(Step::READ)
}

/// Forwards everything both ways.
pub(crate) fn relay_to(target: Arc<Target>) -> Made {
    session(Phase::Busy, move |event, flow| match event {
        Event::Opened => Ok(Step::Dial(target.clone())),
        Event::Received => forward_all(flow),
        other => usual(&other),
    })
}

pub(crate) fn relay(target: Upstream) -> Made {
    relay_to(target.plain())
}

/// A target that runs in threads of the test.
#[derive(Clone, Copy)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
}

impl Upstream {
    pub(crate) fn plain(self) -> Arc<Target> {
        plain(self.address)
    }
}

pub(crate) fn plain(address: SocketAddr) -> Arc<Target> {
    let address = Address::Tcp { host: address.ip().to_string(), port: address.port() };
    Arc::new(Target { address, tls: None, dial_ms: 10_000 })
}

/// Serves each connection with `serve` on a thread of its own.
pub(crate) fn target(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            stream.set_nodelay(true).unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    Upstream { address }
}

pub(crate) fn echo() -> Upstream {
    target(|mut stream| echo_until_end(&mut stream))
}

pub(crate) fn echo_until_end(stream: &mut (impl Read + Write)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
}

struct MakeAll<F>(Arc<F>);
struct Make<F>(Arc<F>);

impl<F: Fn(Peer) -> Made + Send + Sync + 'static> Service for MakeAll<F> {
    fn worker(&self, _: usize) -> Box<dyn Acceptor> {
        Box::new(Make(self.0.clone()))
    }
}

impl<F: Fn(Peer) -> Made> Acceptor for Make<F> {
    fn accept(&mut self, peer: Peer) -> Made {
        (self.0)(peer)
    }
}

struct Nobody;
impl Desk for Nobody {
    fn ask(&self, _: Ask, reply: Reply) {
        reply(Answer::Failed("nobody is here".to_owned()));
    }
}

pub(crate) fn listener(address: SocketAddr, make: impl Fn(Peer) -> Made + Send + Sync + 'static) -> Listener {
    Listener { address, tls: Arc::default(), service: Arc::new(MakeAll(Arc::new(make))) }
}

pub(crate) fn settings() -> Settings {
    limits(60_000, 0, 100_000)
}

pub(crate) fn limits(login_ms: u64, idle_ms: u64, clients_max: usize) -> Settings {
    Settings {
        workers: Workers::Count(1),
        io: Io::Auto,
        listeners: Vec::new(),
        desk: Arc::new(Nobody),
        limits: Arc::new(move || Limits { login_ms, idle_ms, clients_max }),
    }
}

/// An engine with one listener.
pub(crate) struct Gate {
    pub(crate) engine: Engine,
}

impl Gate {
    pub(crate) fn start(io: Io, make: impl Fn(Peer) -> Made + Send + Sync + 'static) -> Gate {
        Gate::with(io, settings(), make)
    }

    pub(crate) fn with(
        io: Io,
        settings: Settings,
        make: impl Fn(Peer) -> Made + Send + Sync + 'static,
    ) -> Gate {
        let listeners = vec![listener("127.0.0.1:0".parse().unwrap(), make)];
        let engine = Engine::start(Settings { io, listeners, ..settings }).unwrap();
        assert_eq!(engine.driver().0, if io == Io::Epoll { "epoll" } else { "io_uring" });
        Gate { engine }
    }

    pub(crate) fn with_tls(
        io: Io,
        tls: Arc<ServerTls>,
        make: impl Fn(Peer) -> Made + Send + Sync + 'static,
    ) -> Gate {
        let listener = listener("127.0.0.1:0".parse().unwrap(), make);
        listener.tls.store(Some(tls));
        let engine = Engine::start(Settings { io, listeners: vec![listener], ..settings() }).unwrap();
        Gate { engine }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.engine.addresses()[0]
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Waits until the first worker's counters fulfil `condition`.
    pub(crate) fn eventually(&self, condition: impl Fn(&WorkerStats) -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !condition(&self.engine.stats()[0]) {
            assert!(Instant::now() < until, "never came true; now {:?}", self.engine.stats());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.engine.kill_all();
    }
}

/// Bytes that repeat nowhere near.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

pub(crate) fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

pub(crate) fn read_tls_to_end(stream: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).map(|_| all)
}

pub(crate) fn catalogue_question(newer_than: u64) -> Ask {
    let address = Address::Unix("/nowhere".into());
    let connection = Connection {
        name: "test".to_owned(),
        target: Arc::new(Target { address, tls: None, dial_ms: 1 }),
        user: String::new(),
        database: None,
        credential: Credential::new(String::new().into()),
        allow: Vec::new(),
        record: RecordLevel::Sessions,
        banner: Banner::Never,
        tag_application: false,
        catalogues: Catalogues::default(),
    };
    Ask::Catalogue { connection: Arc::new(connection), database: String::new(), newer_than }
}

/// A certificate authority for `localhost`, made for one test.
pub(crate) struct Authority {
    root: rustls::pki_types::CertificateDer<'static>,
    server: Arc<rustls::ServerConfig>,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        Authority { root: ca.der().clone(), server: Arc::new(server) }
    }

    pub(crate) fn server_tls(&self) -> Arc<ServerTls> {
        Arc::new(ServerTls { config: self.server.clone(), endpoint: Vec::new() })
    }

    pub(crate) fn client_config(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// A target that answers one byte with `s` and goes on inside TLS.
    pub(crate) fn tls_target(
        &self,
        serve: impl Fn(rustls::StreamOwned<rustls::ServerConnection, TcpStream>) + Send + Sync + 'static,
    ) -> SocketAddr {
        let config = self.server.clone();
        target(move |mut stream| {
            stream.read_exact(&mut [0]).unwrap();
            stream.write_all(b"s").unwrap();
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            serve(rustls::StreamOwned::new(connection, stream));
        })
        .address
    }

    /// A target that speaks TLS from the first byte, and expects nothing to come of it.
    pub(crate) fn tls_target_direct(&self) -> SocketAddr {
        let config = self.server.clone();
        target(move |stream| {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream);
            let refused = tls.read(&mut [0]);
            assert!(refused.is_err(), "{refused:?}");
        })
        .address
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
