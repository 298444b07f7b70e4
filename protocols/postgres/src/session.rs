//! The states of one connection, and the service that makes sessions. This file only dispatches: each state is its own file.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use flow::access::{Banner, Connection, Directory, Identity, Published};
use flow::budget::Budgets;
use flow::record::What;
use flow::{
    Acceptor, Answer, Ask, DialError, Event, Fault, Flow, Peer, Phase, Recorder, Service, Session, Side, Step,
};
use policy::Scope;
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

use crate::cancel::{Cancel, Cancels, Courier, Key};
use crate::frame;
use crate::login::{self, Login, Welcome};
use crate::message::write;
use crate::owed::Queue;
use crate::prepared::Tables;
use crate::ready::{ClientBody, Current, Ready, ServerBody, Shared};
use crate::refuse::{self, Words};
use crate::startup::{self, First, Refusal, Startup};
use crate::target::{self, TargetLogin};

type MakeRecorder = dyn Fn(usize) -> Box<dyn Recorder + Send> + Send + Sync;

/// PostgreSQL behind a listener.
pub struct Gate {
    published: Published,
    recorder: Box<MakeRecorder>,
    cancels: Arc<Cancels>,
    budgets: Arc<Budgets>,
}

impl Gate {
    /// `recorder` is called once per worker and makes that worker's way into the record.
    pub fn new(
        published: Published,
        recorder: impl Fn(usize) -> Box<dyn Recorder + Send> + Send + Sync + 'static,
    ) -> Gate {
        Gate { published, recorder: Box::new(recorder), cancels: Arc::default(), budgets: Arc::default() }
    }
}

impl Service for Gate {
    fn worker(&self, worker: usize) -> Box<dyn Acceptor> {
        let recorder = (self.recorder)(worker);
        Box::new(Worker(Rc::new(Shared::new(
            self.published.clone(),
            recorder,
            self.cancels.clone(),
            self.budgets.clone(),
        ))))
    }
}

struct Worker(Rc<Shared>);

impl Acceptor for Worker {
    fn accept(&mut self, peer: Peer) -> Box<dyn Session> {
        Box::new(PostgresSession::new(self.0.clone(), peer))
    }
}

struct PostgresSession {
    shared: Rc<Shared>,
    peer: Peer,
    /// The client's leg is inside TLS.
    tls: bool,
    state: State,
}

enum State {
    /// Waiting for the first packet; which requests were answered already.
    First {
        asked_tls: bool,
        asked_gss: bool,
        direct: bool,
    },
    Login(Box<Login>),
    /// Waiting for the catalogue an identity under rules needs before anything is dialled.
    Catalogue(Box<Admitted>),
    Target(Box<Admitted>, Box<TargetLogin>),
    Ready(Box<Ready>),
    Cancel(Box<Courier>),
    Over,
}

/// A client that proved who it is and may open what it asked for.
struct Admitted {
    startup: Startup,
    welcome: Welcome,
    directory: Arc<Directory>,
    identity: Arc<Identity>,
    connection: Arc<Connection>,
    scope: Arc<Scope>,
    database: String,
    /// What it calls itself.
    application: String,
}

impl Admitted {
    /// Before anything else the client is told.
    fn welcome(&mut self, flow: &mut Flow<'_>) {
        self.welcome.say(&mut self.startup, flow.own(Side::Client));
    }
}

impl PostgresSession {
    fn new(shared: Rc<Shared>, peer: Peer) -> PostgresSession {
        let state = State::First { asked_tls: false, asked_gss: false, direct: false };
        PostgresSession { shared, peer, tls: false, state }
    }

    fn over(&mut self) -> Step {
        self.state = State::Over;
        Step::CLOSE
    }

    /// Tells a client that is not in yet why it does not get in, and records it.
    fn turn_away(
        &mut self,
        flow: &mut Flow<'_>,
        who: (&str, &str),
        refusal: &Refusal,
        reason: &str,
    ) -> Result<Step, Fault> {
        let Refusal(sqlstate, message, hint) = refusal;
        refuse::fatal(flow.own(Side::Client), sqlstate, message, hint);
        let client = self.peer.address.to_string();
        let (identity, connection) = who;
        let what = What::Refused { identity, connection, client: &client, sqlstate, reason };
        self.shared.record([0; 16], flow.now(), what)?;
        Ok(self.over())
    }

    fn first(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        loop {
            let State::First { asked_tls, asked_gss, direct } = &mut self.state else {
                return Err(Fault::Bug("first packet in another state"));
            };
            let input = flow.input();
            // A TLS ClientHello instead of a start-up packet: direct TLS (PostgreSQL 17).
            if input.first() == Some(&0x16) && !self.tls && !*asked_tls {
                if self.peer.tls.is_none() {
                    return Ok(self.over());
                }
                (*asked_tls, *direct) = (true, true);
                return Ok(Step::StartTls(Side::Client));
            }
            let Some(length) = startup::length(input)? else { return Ok(Step::READ) };
            let Some(packet) = input.get(..length) else { return Ok(Step::Read { need: length }) };
            let first = startup::read(packet)?;
            flow.discard(length);
            match first {
                Ok(First::Ssl) if *asked_tls || self.tls => {
                    return Err(Fault::Protocol { side: Side::Client, what: "TLS asked for twice" });
                }
                Ok(First::Ssl) => {
                    *asked_tls = true;
                    if self.peer.tls.is_none() {
                        flow.send(Side::Client, b"N");
                        continue;
                    }
                    if !flow.input().is_empty() {
                        // Somebody put bytes in front of the handshake (CVE-2021-23214). They are never read.
                        let refusal =
                            Refusal("08P01", "received unencrypted data after SSL request".into(), "");
                        return self.turn_away(flow, ("", ""), &refusal, "bytes before the TLS handshake");
                    }
                    flow.send(Side::Client, b"S");
                    return Ok(Step::StartTls(Side::Client));
                }
                Ok(First::Gss) if *asked_gss || self.tls => {
                    return Err(Fault::Protocol {
                        side: Side::Client,
                        what: "GSS encryption asked for twice",
                    });
                }
                Ok(First::Gss) => {
                    *asked_gss = true;
                    flow.send(Side::Client, b"N");
                }
                Ok(First::Cancel { pid, key }) => {
                    return Ok(match Key::read(&key).and_then(|key| self.shared.cancels.find(pid, &key)) {
                        Some(cancel) => {
                            let target = cancel.target.clone();
                            self.state = State::Cancel(Box::new(Courier::new(cancel)));
                            Step::Dial(target)
                        }
                        // Like PostgreSQL: a wrong key is answered by nothing.
                        None => self.over(),
                    });
                }
                Ok(First::Startup(startup)) => return self.startup(flow, startup),
                Err(refusal) => return self.turn_away(flow, ("", ""), &refusal, "start-up refused"),
            }
        }
    }

    fn startup(&mut self, flow: &mut Flow<'_>, mut startup: Startup) -> Result<Step, Fault> {
        let directory = self.shared.directory();
        // `ana#shop`: the spelling of people who come from other gateways.
        if let Some((user, connection)) = startup.user.split_once('#')
            && !directory.identities.contains_key(&startup.user)
        {
            (startup.database, startup.user) = (connection.to_owned(), user.to_owned());
        }
        let (login, progress) = Login::begin(startup, directory, &self.peer, self.tls, flow)?;
        if !flow.input().is_empty() {
            return Err(Fault::Protocol { side: Side::Client, what: "bytes after the start-up packet" });
        }
        if let login::Progress::Proven(identity) = progress {
            return self.admit(flow, login, identity);
        }
        self.state = State::Login(Box::new(login));
        self.login_progress(flow, progress)
    }

    fn login_progress(&mut self, flow: &mut Flow<'_>, progress: login::Progress) -> Result<Step, Fault> {
        match progress {
            login::Progress::Wait => Ok(Step::READ),
            login::Progress::Proven(identity) => match std::mem::replace(&mut self.state, State::Over) {
                State::Login(login) => self.admit(flow, *login, identity),
                _ => Err(Fault::Bug("login in another state")),
            },
            login::Progress::Failed(refusal, reason) => {
                let State::Login(login) = std::mem::replace(&mut self.state, State::Over) else {
                    return Err(Fault::Bug("login in another state"));
                };
                let who = (login.startup.user.as_str(), login.startup.database.as_str());
                self.turn_away(flow, who, &refusal, reason)
            }
        }
    }

    /// The client is who it says; may it open this?
    fn admit(&mut self, flow: &mut Flow<'_>, login: Login, identity: Arc<Identity>) -> Result<Step, Fault> {
        let Login { mut startup, mut welcome, directory, .. } = login;
        let Some(connection) = directory.connection(&startup.database, &identity).cloned() else {
            let mut granted: Vec<&str> = directory
                .connections
                .values()
                .filter(|c| c.allows(&identity))
                .map(|c| c.name.as_str())
                .collect();
            granted.sort_unstable();
            let refusal = Refusal(
                if directory.connections.contains_key(&startup.database) { "42501" } else { "3D000" },
                format!(
                    "no connection \"{}\" for {}; known connections: {}",
                    startup.database,
                    startup.user,
                    if granted.is_empty() { "none".to_owned() } else { granted.join(", ") }
                ),
                "name one of them as the database, or ask the operator of the gateway for access",
            );
            welcome.say(&mut startup, flow.own(Side::Client));
            let who = (startup.user.as_str(), startup.database.as_str());
            return self.turn_away(flow, who, &refusal, "no such connection for this identity");
        };
        let database = connection.database.clone().unwrap_or_else(|| startup.database.clone());
        let scope = self.shared.scope(&directory, &identity, &connection);
        let needs_catalogue = !scope.is_empty() && connection.catalogues.get(&database).is_none();
        let application = String::new();
        let admitted =
            Admitted { startup, welcome, directory, identity, connection, scope, database, application };
        let admitted = Box::new(admitted);
        if needs_catalogue {
            let ask = Ask::Catalogue {
                connection: admitted.connection.clone(),
                database: admitted.database.clone(),
                newer_than: 0,
            };
            self.state = State::Catalogue(admitted);
            return Ok(Step::Ask(ask));
        }
        self.dial(flow, admitted)
    }

    /// The same for one who proved who it is.
    fn turn_back(
        &mut self,
        flow: &mut Flow<'_>,
        admitted: &mut Admitted,
        refusal: &Refusal,
        reason: &str,
    ) -> Result<Step, Fault> {
        admitted.welcome(flow);
        let who = (admitted.startup.user.as_str(), admitted.startup.database.as_str());
        self.turn_away(flow, who, refusal, reason)
    }

    fn dial(&mut self, flow: &mut Flow<'_>, mut admitted: Box<Admitted>) -> Result<Step, Fault> {
        let strict = !admitted.scope.is_empty();
        let given = std::mem::take(&mut admitted.startup.parameters);
        let application = given.iter().find(|(n, _)| n == "application_name");
        admitted.application = application.map(|(_, v)| v.clone()).unwrap_or_default();
        let parameters = startup::parameters(given, strict).map(|mut parameters| {
            if admitted.connection.tag_application {
                let tag = format!("lg/{}", admitted.identity.subject.identity);
                match parameters.iter_mut().find(|(n, _)| n == "application_name") {
                    Some((_, value)) => *value = format!("{tag}/{value}"),
                    None => parameters.push(("application_name".into(), tag)),
                }
            }
            parameters
        });
        match parameters {
            Ok(parameters) => {
                let target = admitted.connection.target.clone();
                let login = TargetLogin::new(admitted.connection.clone(), parameters);
                self.state = State::Target(admitted, Box::new(login));
                Ok(Step::Dial(target))
            }
            Err(refusal) => self.turn_back(flow, &mut admitted, &refusal, "start-up parameter refused"),
        }
    }

    fn target_progress(&mut self, flow: &mut Flow<'_>, progress: target::Progress) -> Result<Step, Fault> {
        match progress {
            target::Progress::Step(step) => Ok(step),
            target::Progress::Failed(refusal, reason) => {
                match std::mem::replace(&mut self.state, State::Over) {
                    State::Target(mut admitted, _) => self.turn_back(flow, &mut admitted, &refusal, &reason),
                    _ => Err(Fault::Bug("target login in another state")),
                }
            }
            target::Progress::Ready => self.open(flow),
        }
    }

    /// The target is ready (its ReadyForQuery is next in the flow): the session begins.
    fn open(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        let State::Target(mut admitted, login) = std::mem::replace(&mut self.state, State::Over) else {
            return Err(Fault::Bug("opened in another state"));
        };
        admitted.welcome(flow);
        let Admitted { startup, directory, identity, connection, scope, database, application, .. } =
            *admitted;
        let now = flow.now();
        // One system call for both.
        let mut drawn = Zeroizing::new([0; 16 + 32]);
        self.shared.random.fill(&mut *drawn).map_err(|_| Fault::Bug("no randomness"))?;
        let (mut id, secret) = drawn.split_first_chunk::<16>().map_or(([0; 16], &[][..]), |(i, s)| (*i, s));
        let key = secret.get(..if startup.minor >= 2 { 32 } else { 4 }).and_then(Key::read);
        let key = key.ok_or(Fault::Bug("a key longer than what was drawn for it"))?;
        if let (Some(room), Some(millis)) =
            (id.get_mut(..6), (now.unix_ns / 1_000_000).to_be_bytes().get(2..))
        {
            room.copy_from_slice(millis);
        }
        // A target without cancel keys (a pooler may be one) still gives its clients a number of ours.
        let (pid, secret) = match login.key {
            Some((pid, secret)) => (pid, Some(secret)),
            None => ([id[12], id[13], id[14], id[15]], None),
        };
        write(flow.own(Side::Client), b'K', |out| {
            out.extend_from_slice(&pid);
            out.extend_from_slice(&key);
        });
        if let Some(secret) = secret {
            let cancel = Cancel { target: connection.target.clone(), pid, key: secret };
            self.shared.cancels.register(u32::from_be_bytes(pid), key.clone(), cancel);
        }
        let pid = u32::from_be_bytes(pid);
        let ready = Box::new(Ready {
            shared: self.shared.clone(),
            id,
            directory,
            identity,
            connection,
            opened: startup.database.into(),
            database: database.into(),
            scope,
            judge: None,
            stamp: 1,
            mixed: false,
            outlived: false,
            catalogues_seen: 0,
            catalogue_after: 0,
            changed_catalogue: false,
            made: None,
            strangers: Box::default(),
            asked_newer_than: None,
            renewing: false,
            blind: false,
            settings: login.settings,
            quoting_at_risk: false,
            estranged: false,
            echoes: false,
            owed: Queue::default(),
            tables: Tables::default(),
            current: Current::default(),
            client_body: ClientBody::None,
            server_body: ServerBody::None,
            transaction: b'I',
            number: 0,
            waited: 0,
            from_client: 0,
            to_client: 0,
            draining: false,
            leaving: false,
            cut: None,
            errand: None,
            probing: Box::default(),
            ended: Cell::new(false),
            target_fatal: false,
            pid,
            key,
        });
        let client = self.peer.address.to_string();
        let groups: Vec<&str> = ready.identity.subject.groups.iter().map(|g| &**g).collect();
        let what = What::Opened {
            identity: &ready.identity.subject.identity,
            groups: &groups.join(","),
            connection: &ready.connection.name,
            database: &ready.database,
            protocol: if startup.minor >= 2 { "postgres 3.2" } else { "postgres 3.0" },
            client: &client,
            application: &application,
            tls: self.tls,
            policy: &ready.directory.policy.revision,
        };
        self.shared.record(ready.id, now, what)?;
        let person = application.starts_with("psql") || application.starts_with("pgcli");
        if ready.connection.banner == Banner::Auto && person && !ready.scope.is_empty() {
            let message = format!(
                "lockgate: session {} as {} on {}; {} {} active",
                crate::ready::short_id(&ready.id),
                ready.identity.subject.identity,
                ready.connection.name,
                ready.scope.rules(),
                if ready.scope.rules() == 1 { "rule" } else { "rules" },
            );
            let words =
                Words { severity: "NOTICE", sqlstate: "00000", message: &message, detail: "", hint: "" };
            words.notice(flow.own(Side::Client));
        }
        // The ReadyForQuery that ends the login answers no message of the client's.
        let Some(header) = frame::header(flow.input(), Side::Server)? else {
            return Err(Fault::Bug("ready without Z"));
        };
        flow.forward(header.total(), policy::Pass::housekeeping());
        self.state = State::Ready(ready);
        if flow.input().is_empty() { Ok(Step::READ) } else { self.ready_received(flow) }
    }

    fn ready_received(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        let State::Ready(ready) = &mut self.state else { return Err(Fault::Bug("not ready")) };
        match flow.speaker() {
            Side::Client => ready.client_received(flow),
            Side::Server => ready.server_received(flow),
        }
    }

    fn received(&mut self, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        let (peer, tls) = (&self.peer, self.tls);
        match (&mut self.state, flow.speaker()) {
            (State::First { .. }, Side::Client) => self.first(flow),
            (State::Login(login), Side::Client) => {
                let progress = login.received(flow, peer, tls, &self.shared.random)?;
                self.login_progress(flow, progress)
            }
            (State::Target(admitted, login), Side::Server) => {
                let mut welcome = |flow: &mut Flow<'_>| admitted.welcome(flow);
                let progress = login.received(flow, &self.shared.random, &mut welcome)?;
                self.target_progress(flow, progress)
            }
            (State::Ready(_), _) => self.ready_received(flow),
            (State::Cancel(courier), _) => courier.on(Event::Received, flow),
            // Nobody may speak before ReadyForQuery.
            (State::Catalogue(_) | State::Target(..), Side::Client) if flow.input().is_empty() => {
                Ok(Step::READ)
            }
            (State::Over, _) => {
                flow.discard(flow.input().len());
                Ok(Step::CLOSE)
            }
            (_, side) => Err(Fault::Protocol { side, what: "spoke out of turn" }),
        }
    }

    fn dialled(&mut self, flow: &mut Flow<'_>, result: Result<(), DialError>) -> Result<Step, Fault> {
        match (&mut self.state, result) {
            (State::Target(admitted, login), Ok(())) => Ok(login.dialled(flow, &admitted.database)),
            (State::Target(..), Err(error)) => self.target_progress(
                flow,
                target::Progress::Failed(
                    Refusal(
                        "08001",
                        "the gateway could not reach the target of this connection".into(),
                        "try again; when it stays so, ask the operator of the gateway: its record names the reason",
                    ),
                    format!("target unreachable: {error}"),
                ),
            ),
            (State::Cancel(courier), result) => courier.on(Event::Dialled(result), flow),
            (State::Over, _) => Ok(Step::CLOSE),
            _ => Err(Fault::Bug("dialled in another state")),
        }
    }

    fn answered(&mut self, flow: &mut Flow<'_>, answer: Answer) -> Result<Step, Fault> {
        match (&mut self.state, answer) {
            (State::Catalogue(_), answer) => {
                let State::Catalogue(mut admitted) = std::mem::replace(&mut self.state, State::Over) else {
                    return Err(Fault::Bug("catalogue in another state"));
                };
                match answer {
                    Answer::Done => self.dial(flow, admitted),
                    Answer::Failed(why) => {
                        let refusal = Refusal(
                            "08001",
                            "the catalogue of the target could not be read, and rules about it apply to you"
                                .into(),
                            "try again; when it stays so, ask the operator of the gateway: its record names the reason",
                        );
                        self.turn_back(flow, &mut admitted, &refusal, &why)
                    }
                }
            }
            (State::Target(_, login), answer) => {
                let progress = login.answered(&answer, flow);
                match progress {
                    target::Progress::Step(Step::Read { .. }) => self.received(flow),
                    other => self.target_progress(flow, other),
                }
            }
            // It waited for room in the record, and looks again.
            (State::Ready(ready), _) if ready.waited > 0 && flow.speaker() == Side::Client => {
                self.ready_received(flow)
            }
            (State::Ready(ready), answer) => {
                ready.answered(answer.clone());
                if flow.speaker() == Side::Server {
                    ready.server_answered();
                } else if let (Answer::Failed(_), true) =
                    (&answer, ready.connection.catalogues.get(&ready.database).is_none())
                {
                    // A rule came into force and there is no catalogue to apply it with.
                    let why =
                        "the catalogue of the target could not be read, and rules about it apply to you";
                    ready.record_end(flow.now(), why)?;
                    return Ok(ready.goodbye(flow, "08006", why, "reconnect later"));
                }
                self.ready_received(flow)
            }
            (State::Over, _) => Ok(Step::CLOSE),
            _ => Err(Fault::Bug("answered in another state")),
        }
    }

    fn tls_started(&mut self, flow: &mut Flow<'_>, side: Side, alpn: Option<&[u8]>) -> Result<Step, Fault> {
        match (&mut self.state, side) {
            (State::First { direct, .. }, Side::Client) => {
                // Direct TLS must agree on the protocol, or a client of another one could be led here (backend_startup.c).
                if *direct && alpn != Some(b"postgresql") {
                    return Err(Fault::Protocol { side, what: "direct TLS without ALPN \"postgresql\"" });
                }
                self.tls = true;
                if flow.input().is_empty() { Ok(Step::READ) } else { self.first(flow) }
            }
            (State::Target(admitted, login), Side::Server) => Ok(login.encrypted(flow, &admitted.database)),
            (State::Cancel(courier), _) => {
                courier.on(Event::TlsStarted(side, flow::TlsFacts::default()), flow)
            }
            (State::Over, _) => Ok(Step::CLOSE),
            _ => Err(Fault::Bug("TLS in another state")),
        }
    }

    fn closed(&mut self, flow: &mut Flow<'_>, side: Side) -> Result<Step, Fault> {
        match (&mut self.state, side) {
            (State::Ready(ready), Side::Server) => {
                let step = ready.server_closed(flow)?;
                self.state = State::Over;
                Ok(step)
            }
            (State::Ready(ready), Side::Client) if ready.leaving => Ok(Step::READ),
            (State::Ready(ready), Side::Client) => {
                ready.record_end(flow.now(), "client vanished")?;
                let step = ready.leave(flow);
                self.state = State::Over;
                Ok(step)
            }
            (State::Target(..), Side::Server) => self.target_progress(
                flow,
                target::Progress::Failed(
                    Refusal("08006", "the target closed the connection during login".into(), "try again"),
                    "target closed during login".into(),
                ),
            ),
            (State::Cancel(courier), side) => courier.on(Event::Closed(side), flow),
            _ => Ok(self.over()),
        }
    }

    /// Ended from outside: by a deadline, a drain or an operator.
    fn ended(&mut self, flow: &mut Flow<'_>, event: &Event) -> Result<Step, Fault> {
        match (&mut self.state, event) {
            (State::Ready(ready), Event::Drain) => {
                ready.draining = true;
                if !ready.quiet() || ready.transaction != b'I' {
                    return Ok(Step::READ);
                }
                ready.record_end(flow.now(), "gateway shut down")?;
                let step = ready.goodbye(flow, "57P01", "the gateway is shutting down", "reconnect");
                self.state = State::Over;
                Ok(step)
            }
            (State::Ready(ready), Event::Kill) => {
                ready.record_end(flow.now(), "killed")?;
                let step = ready.goodbye(
                    flow,
                    "57P01",
                    "this session was ended by the operator of the gateway",
                    "a statement that was running may or may not have taken effect",
                );
                self.state = State::Over;
                Ok(step)
            }
            (State::Ready(ready), _) => {
                let step = ready.expired(flow)?;
                self.state = State::Over;
                Ok(step)
            }
            (State::Target(admitted, _) | State::Catalogue(admitted), Event::Expired(_)) => {
                admitted.welcome(flow);
                refuse::fatal(flow.own(Side::Client), "08006", "login took too long", "");
                Ok(self.over())
            }
            (State::Login(_), Event::Expired(_)) => {
                refuse::fatal(flow.own(Side::Client), "08006", "login took too long", "");
                Ok(self.over())
            }
            _ => Ok(self.over()),
        }
    }
}

impl Session for PostgresSession {
    fn on(&mut self, event: Event, flow: &mut Flow<'_>) -> Result<Step, Fault> {
        let step = match event {
            Event::Opened => Ok(Step::READ),
            Event::Received => self.received(flow),
            Event::Dialled(result) => self.dialled(flow, result),
            Event::TlsStarted(side, facts) => self.tls_started(flow, side, facts.alpn.as_deref()),
            Event::Answered(answer) => self.answered(flow, answer),
            Event::Parted => Ok(match &mut self.state {
                State::Ready(ready) => ready.parted(),
                _ => Step::READ,
            }),
            Event::Closed(side) => self.closed(flow, side),
            Event::Expired(_) | Event::Drain | Event::Kill => self.ended(flow, &event),
        };
        match step {
            Ok(step) => Ok(step),
            // The target misbehaved before the session began: the client did nothing wrong and is told.
            Err(
                fault
                @ (Fault::Protocol { side: Side::Server, .. } | Fault::Limit { side: Side::Server, .. }),
            ) if matches!(self.state, State::Target(..)) => {
                let refusal = Refusal(
                    "08001",
                    "the target of this connection broke the protocol while the gateway logged in".into(),
                    "ask the operator of the gateway: its record names the reason",
                );
                self.target_progress(flow, target::Progress::Failed(refusal, fault.to_string()))
            }
            Err(fault) => {
                // What a fault leaves behind: the end of the session in the record, and nothing that could go on.
                if let State::Ready(ready) = &mut self.state
                    && !matches!(fault, Fault::Unrecorded)
                {
                    ready.record_end(flow.now(), &fault.to_string())?;
                }
                self.state = State::Over;
                Err(fault)
            }
        }
    }

    fn phase(&self) -> Phase {
        match &self.state {
            State::First { .. }
            | State::Login(_)
            | State::Catalogue(_)
            | State::Target(..)
            | State::Cancel(_) => Phase::Login,
            State::Ready(ready) => ready.phase(),
            State::Over => Phase::Over,
        }
    }
}

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arc_swap::ArcSwap;
    use flow::access::{Credential, ScramVerifier};
    use flow::record::Entry;
    use flow::{Now, Out};

    use super::support::{directory, encode};
    use super::*;
    use crate::message::Reader;
    use crate::scram::{Exchange, Proof, tests::keys};

    struct Nowhere;

    impl Recorder for Nowhere {
        fn append(&mut self, _entry: &Entry<'_>) -> Result<(), Fault> {
            Ok(())
        }
    }

    /// A login, and how many writes it took to each side.
    struct Wire {
        session: Box<dyn Session>,
        to_client: Vec<Vec<u8>>,
        to_target: Vec<Vec<u8>>,
    }

    impl Wire {
        fn event(&mut self, side: Side, event: Event, input: &[u8]) -> Step {
            let (mut back, mut on) = (Out::default(), Out::default());
            let mut flow = Flow::new(side, input, &mut back, &mut on, Now::default());
            let step = self.session.on(event, &mut flow).unwrap();
            assert_eq!(flow.taken(), input.len());
            let (client, server) = if side == Side::Client { (&back, &on) } else { (&on, &back) };
            for (out, writes) in [(client, &mut self.to_client), (server, &mut self.to_target)] {
                if !out.is_empty() {
                    writes.push(out.bytes(input).to_vec());
                }
            }
            step
        }

        fn say(&mut self, side: Side, said: &str) -> Step {
            let bytes: Vec<u8> = said.split(" | ").flat_map(encode).collect();
            self.event(side, Event::Received, &bytes)
        }

        fn say_message(&mut self, side: Side, tag: u8, parts: &[&[u8]]) -> Step {
            let mut bytes = Vec::new();
            write(&mut bytes, tag, |out| parts.iter().for_each(|p| out.extend_from_slice(p)));
            self.event(side, Event::Received, &bytes)
        }

        fn writes(&self) -> (usize, usize) {
            (self.to_client.len(), self.to_target.len())
        }
    }

    /// Tags of the messages in a write.
    fn tags(mut bytes: &[u8]) -> String {
        let mut tags = String::new();
        while let Some(header) = frame::header(bytes, Side::Server).unwrap() {
            tags.push(char::from(header.tag));
            bytes = &bytes[header.total()..];
        }
        tags
    }

    fn worker(directory: Directory) -> Box<dyn Acceptor> {
        Gate::new(Arc::new(ArcSwap::from_pointee(directory)), |_| Box::new(Nowhere)).worker(0)
    }

    fn connect(worker: &mut dyn Acceptor) -> Wire {
        let loopback = [127, 0, 0, 1];
        let peer = Peer { address: (loopback, 999).into(), listener: (loopback, 7432).into(), tls: None };
        let mut wire = Wire { session: worker.accept(peer), to_client: Vec::new(), to_target: Vec::new() };
        wire.event(Side::Client, Event::Opened, &[]);
        wire
    }

    const START: &str = r#"start i16:3 i16:0 "user" "ana" "database" "shop" b:00"#;
    const LET_IN: &str = r#"R u32:0 | S "client_encoding" "UTF8" | K u32:7 u32:8 | Z s:I"#;

    #[test]
    fn a_trust_login_is_one_write_to_each_side_and_so_is_its_end() {
        let mut worker = worker(directory(r#"{"rules":[]}"#));
        let mut wire = connect(&mut *worker);
        assert!(matches!(wire.say(Side::Client, START), Step::Dial(_)));
        assert_eq!(wire.writes(), (0, 0), "nothing is said before the target has answered");
        wire.event(Side::Client, Event::Dialled(Ok(())), &[]);
        wire.say(Side::Server, LET_IN);
        assert_eq!((wire.writes(), tags(&wire.to_client[0]).as_str()), ((1, 1), "RSKZ"));
        assert!(matches!(wire.say(Side::Client, "X"), Step::Close { then: None }));
        assert_eq!((wire.writes(), wire.to_target[1].as_slice()), ((1, 2), &b"X\0\0\0\x04"[..]));
    }

    #[test]
    fn a_client_is_welcomed_once_before_its_refusal() {
        let unreachable = || Event::Dialled(Err(DialError::TimedOut(1)));
        let expired = || Event::Expired(flow::session::Deadline::Login);
        for event in [unreachable(), expired(), Event::Closed(Side::Server)] {
            let mut worker = worker(directory(r#"{"rules":[]}"#));
            let mut wire = connect(&mut *worker);
            // A newer protocol: what we speak is said first.
            wire.say(Side::Client, &START.replace("i16:0", "i16:9"));
            if !matches!(event, Event::Dialled(_)) {
                wire.event(Side::Client, Event::Dialled(Ok(())), &[]);
            }
            let side = if matches!(event, Event::Closed(_)) { Side::Server } else { Side::Client };
            assert_eq!(wire.session.phase(), Phase::Login);
            assert!(matches!(wire.event(side, event, &[]), Step::Close { .. }));
            assert_eq!((wire.to_client.len(), tags(&wire.to_client[0]).as_str()), (1, "vRE"));
        }
        // The target's answers in pieces: the welcome comes with the first of them for the client.
        let mut worker = worker(directory(r#"{"rules":[]}"#));
        let mut wire = connect(&mut *worker);
        wire.say(Side::Client, START);
        wire.event(Side::Client, Event::Dialled(Ok(())), &[]);
        let said: Vec<_> = LET_IN
            .split(" | ")
            .map(|m| {
                wire.say(Side::Server, m);
                wire.to_client.last().map(|w| tags(w))
            })
            .collect();
        assert_eq!(said, [None, Some("RS".into()), Some("RS".into()), Some("KZ".into())]);
        // Refused by the target behind its AuthenticationOk.
        let mut wire = connect(&mut *worker);
        wire.say(Side::Client, START);
        wire.event(Side::Client, Event::Dialled(Ok(())), &[]);
        wire.say(Side::Server, r#"R u32:0 | E s:C "3D000" s:M "no such database" b:00"#);
        assert_eq!((wire.to_client.len(), tags(&wire.to_client[0]).as_str()), (1, "RE"));
    }

    /// SCRAM on both sides, with the salt the target has for us. Whether keys had to be derived, and the writes.
    fn scram(worker: &mut dyn Acceptor, connection: &Connection, salt: &[u8]) -> (bool, (usize, usize)) {
        let (client_keys, _) = keys("pencil", b"of the client", 64);
        let (target_keys, verifier) = keys("secret", salt, 64);
        let mut wire = connect(worker);
        wire.say(Side::Client, START);
        let mut proof = Proof::begin(&[1; 18]);
        let first = proof.first();
        let length = u32::try_from(first.len()).unwrap().to_be_bytes();
        wire.say_message(Side::Client, b'p', &[b"SCRAM-SHA-256\0", &length, first.as_bytes()]);
        proof.challenge(&wire.to_client[1][9..]).unwrap();
        let step = wire.say_message(Side::Client, b'p', &[proof.last(&client_keys).as_bytes()]);
        assert!(matches!(step, Step::Dial(_)), "{step:?}");
        wire.event(Side::Client, Event::Dialled(Ok(())), &[]);
        wire.say_message(Side::Server, b'R', &[&10_u32.to_be_bytes(), b"SCRAM-SHA-256\0\0"]);
        let mut r = Reader::new(&wire.to_target[1][5..], Side::Client);
        r.string("mechanism").and_then(|_| r.u32("length")).unwrap();
        let exchange = Exchange::begin(r.rest(), verifier, true, false, None, &[2; 18]).unwrap();
        let challenge = exchange.server_first();
        let step = wire.say_message(Side::Server, b'R', &[&11_u32.to_be_bytes(), challenge.as_bytes()]);
        let asked = matches!(step, Step::Ask(Ask::DeriveKeys { .. }));
        if asked {
            connection.credential.keep(target_keys);
            wire.event(Side::Server, Event::Answered(Answer::Done), &[]);
        }
        let last = exchange.finish(&wire.to_target[2][5..]).unwrap();
        wire.say_message(Side::Server, b'R', &[&12_u32.to_be_bytes(), last.as_bytes()]);
        assert_eq!(wire.to_client.len(), 2, "our proof waits for the target");
        wire.say(Side::Server, LET_IN);
        assert_eq!(wire.session.phase(), Phase::Idle);
        assert_eq!(tags(&wire.to_client[2]), "RRSKZ");
        let signature = &wire.to_client[2][9..][..46];
        assert_eq!(proof.verify(signature, &client_keys), Ok(()));
        (asked, wire.writes())
    }

    #[test]
    fn a_scram_login_is_three_writes_to_each_side_and_keys_are_derived_once_for_a_salt() {
        let mut directory = directory(r#"{"rules":[]}"#);
        let verifier: ScramVerifier = keys("pencil", b"of the client", 64).1;
        let old = directory.identities.remove("ana").and_then(Arc::into_inner).unwrap();
        let identity = Identity { scram: Some(verifier), trust: false, ..old };
        directory.identities = HashMap::from([("ana".into(), Arc::new(identity))]);
        let old = directory.connections.remove("shop").and_then(Arc::into_inner).unwrap();
        let credential = Credential::new("secret".to_owned().into());
        let connection = Arc::new(Connection { credential, ..old });
        directory.connections.insert("shop".into(), connection.clone());
        let mut worker = worker(directory);
        let mut log_in = |salt: &[u8]| scram(&mut *worker, &connection, salt);
        assert_eq!(log_in(b"of the target"), (true, (3, 3)));
        assert_eq!(log_in(b"of the target"), (false, (3, 3)), "known");
        assert_eq!(log_in(b"of another"), (true, (3, 3)), "the password was set anew");
        assert_eq!(log_in(b"of the target"), (false, (3, 3)), "both are kept");
    }
}
