//! A fake PostgreSQL: one thread, one epoll, answers that were encoded before anybody asked. So that the proxy in front of it is the
//! slowest of the three.
//!
//! Not a database: `answers.rs` says what it knows. Not a test double for correctness: it checks nothing a proxy may get wrong.
//! Invariant: a query allocates nothing once a connection's buffers have grown; answers leave in the order they were asked for.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::{ServerConfig, ServerConnection};

use crate::interrupt;
use crate::wire::{cstr, frame};

pub(crate) mod answers;
pub(crate) mod auth;

use answers::Answers;
use auth::{Asked, Auth, Step};

const LISTENER: Token = Token(usize::MAX);
/// Answers up to here are copied into the connection's buffer, longer ones are sent from where they are.
const COPIED_BYTES_MAX: usize = 16 * 1024;
/// Read or written at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// No client of a load test sends a longer message.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

pub(crate) struct Stub {
    pub(crate) answers: Answers,
    pub(crate) auth: Auth,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

impl Stub {
    /// Serves until interrupted; `listening` is told the address, whose port may have been 0.
    pub(crate) fn serve(&self, address: SocketAddr, listening: impl FnOnce(SocketAddr)) -> Result<()> {
        let mut poll = Poll::new()?;
        let mut listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        listening(listener.local_addr()?);
        let mut events = Events::with_capacity(256);
        let mut conns: Vec<Option<Conn>> = Vec::new();
        let mut free: Vec<usize> = Vec::new();
        let mut room = vec![0; CHUNK_BYTES];
        loop {
            match poll.poll(&mut events, None) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => other.context("epoll")?,
            }
            if interrupt::check().is_err() {
                // How a server ends.
                return Ok(());
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept(&listener, &poll, &mut conns, &mut free)?;
                    continue;
                }
                let number = event.token().0;
                let Some(place) = conns.get_mut(number) else { continue };
                let Some(conn) = place else { continue };
                // One client's mistake is its own end only.
                let goes_on = conn.ready(self, event.is_read_closed(), &mut room);
                if !matches!(goes_on, Ok(true)) {
                    *place = None;
                    free.push(number);
                }
            }
        }
    }

    fn accept(
        &self,
        listener: &TcpListener,
        poll: &Poll,
        conns: &mut Vec<Option<Conn>>,
        free: &mut Vec<usize>,
    ) -> Result<()> {
        loop {
            let mut socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The client gave up meanwhile.
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) =>
                {
                    continue;
                }
                Err(e) => return Err(e).context("accept"),
            };
            socket.set_nodelay(true)?;
            let number = free.pop().unwrap_or(conns.len());
            poll.registry().register(&mut socket, Token(number), Interest::READABLE | Interest::WRITABLE)?;
            if number == conns.len() {
                conns.push(None);
            }
            if let Some(place) = conns.get_mut(number) {
                *place = Some(Conn::new(socket, number as u32 + 1));
            }
        }
    }
}

enum Stage {
    Startup,
    Login(Asked),
    Ready,
}

/// A long answer on its way: the block of answer `number`, from byte `at`, `left` more times.
struct Pump {
    number: usize,
    left: u64,
    at: usize,
}

/// Invariant: `taken <= input.len()`; `sent` counts into `records` with TLS and into `out` without; while `pump` is under way no further message is taken.
struct Conn {
    socket: TcpStream,
    tls: Option<Box<ServerConnection>>,
    stage: Stage,
    number: u32,
    user: String,
    input: Vec<u8>,
    taken: usize,
    /// Messages for the client.
    out: Vec<u8>,
    /// The same as TLS records; unused without.
    records: Vec<u8>,
    /// How much of what the socket is to get is gone.
    sent: usize,
    pump: Option<Pump>,
    /// Said after the pump: the answer's tail, and whether a ReadyForQuery follows.
    after: Option<(usize, bool)>,
    /// Answers to prepared statements and portals by name; the unnamed ones have empty names.
    statements: Vec<(Vec<u8>, usize)>,
    portals: Vec<(Vec<u8>, usize)>,
    transaction: u8,
}

impl Conn {
    fn new(socket: TcpStream, number: u32) -> Conn {
        Conn {
            socket,
            tls: None,
            stage: Stage::Startup,
            number,
            user: String::new(),
            input: Vec::new(),
            taken: 0,
            out: Vec::new(),
            records: Vec::new(),
            sent: 0,
            pump: None,
            after: None,
            statements: Vec::new(),
            portals: Vec::new(),
            transaction: b'I',
        }
    }

    /// Reads what there is, answers, writes what the socket takes. False: the connection is over.
    fn ready(&mut self, stub: &Stub, closing: bool, room: &mut [u8]) -> Result<bool> {
        loop {
            // While a long answer is under way the client has nothing to say that we would hear.
            if self.pump.is_some() && !self.flush(stub)? {
                return Ok(true);
            }
            let n = match self.socket.read(room) {
                Ok(0) => return Ok(false),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            self.received(stub, room.get(..n).unwrap_or_default())?;
            if !self.handle_and_flush(stub)? {
                return Ok(false);
            }
            if n < room.len() && !closing {
                break;
            }
        }
        self.handle_and_flush(stub)
    }

    fn received(&mut self, stub: &Stub, mut bytes: &[u8]) -> Result<()> {
        // The first message asks for TLS before there is any.
        if self.tls.is_none() {
            self.input.extend_from_slice(bytes);
            return Ok(());
        }
        while let (Some(tls), false) = (&mut self.tls, bytes.is_empty()) {
            tls.read_tls(&mut bytes)?;
            let state = tls.process_new_packets()?;
            let at = self.input.len();
            self.input.resize(at + state.plaintext_bytes_to_read(), 0);
            if let Some(space) = self.input.get_mut(at..) {
                tls.reader().read_exact(space)?;
            }
        }
        self.flush(stub).map(drop)
    }

    fn handle_and_flush(&mut self, stub: &Stub) -> Result<bool> {
        loop {
            if !self.handle(stub)? {
                // Said goodbye; what we still owe is not waited for.
                return Ok(false);
            }
            let moved = self.taken > 0;
            self.input.drain(..self.taken);
            self.taken = 0;
            if !self.flush(stub)? || !moved {
                return Ok(true);
            }
        }
    }

    /// Takes whole messages until one starts a long answer. False: goodbye.
    fn handle(&mut self, stub: &Stub) -> Result<bool> {
        let input = std::mem::take(&mut self.input);
        let result = self.messages(stub, &input);
        self.input = input;
        result
    }

    fn messages(&mut self, stub: &Stub, input: &[u8]) -> Result<bool> {
        while self.pump.is_none() {
            let rest = input.get(self.taken..).unwrap_or_default();
            let (tag, header) = match self.stage {
                Stage::Startup => (None, rest),
                _ => match rest.split_first() {
                    Some((tag, after)) => (Some(*tag), after),
                    None => return Ok(true),
                },
            };
            let Some((length, _)) = header.split_first_chunk::<4>() else { return Ok(true) };
            let length = u32::from_be_bytes(*length) as usize;
            ensure!((4..=MESSAGE_BYTES_MAX).contains(&length), "a message of impossible length");
            let Some(body) = header.get(4..length) else { return Ok(true) };
            self.taken += length + usize::from(tag.is_some());
            match tag {
                None => self.startup(stub, body)?,
                Some(b'X') => return Ok(false),
                Some(tag) => self.message(stub, tag, body)?,
            }
        }
        Ok(true)
    }

    fn startup(&mut self, stub: &Stub, body: &[u8]) -> Result<()> {
        let (code, rest) = body.split_first_chunk::<4>().context("startup without a version")?;
        match u32::from_be_bytes(*code) {
            SSL_REQUEST if self.tls.is_none() => match &stub.tls {
                Some(config) => {
                    self.out.push(b'S');
                    self.write_out()?;
                    ensure!(self.out.is_empty(), "a socket that does not take one byte");
                    let mut tls = ServerConnection::new(config.clone())?;
                    // We stop taking messages ourselves when the socket is full.
                    tls.set_buffer_limit(None);
                    self.tls = Some(Box::new(tls));
                }
                None => self.out.push(b'N'),
            },
            GSS_REQUEST => self.out.push(b'N'),
            CANCEL_REQUEST => bail!("cancels are not for us"),
            version if version >> 16 == 3 => {
                if version & 0xffff > 0 {
                    // NegotiateProtocolVersion: 3.0 is all we speak, and no option was refused.
                    frame(&mut self.out, b'v', |b| b.extend_from_slice(&[0, 3, 0, 0, 0, 0, 0, 0]));
                }
                let mut fields = rest.split(|b| *b == 0);
                while let (Some(key), Some(value)) = (fields.next(), fields.next()) {
                    if key == b"user" {
                        self.user = String::from_utf8_lossy(value).into_owned();
                    }
                }
                let step = stub.auth.begin(&mut self.out)?;
                self.step(step);
            }
            _ => bail!("an unknown protocol"),
        }
        Ok(())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(asked) => self.stage = Stage::Login(asked),
            Step::In => {
                for (name, value) in PARAMETERS {
                    frame(&mut self.out, b'S', |b| {
                        cstr(b, name.as_bytes());
                        cstr(b, value.as_bytes());
                    });
                }
                frame(&mut self.out, b'K', |b| {
                    b.extend_from_slice(&self.number.to_be_bytes());
                    b.extend_from_slice(&self.number.wrapping_mul(2_654_435_761).to_be_bytes());
                });
                self.stage = Stage::Ready;
                self.ready_for_query();
            }
        }
    }

    fn message(&mut self, stub: &Stub, tag: u8, body: &[u8]) -> Result<()> {
        if !matches!(self.stage, Stage::Ready) {
            let Stage::Login(asked) = std::mem::replace(&mut self.stage, Stage::Startup) else {
                bail!("a message before the login")
            };
            ensure!(tag == b'p', "not a password");
            match stub.auth.answer(asked, &self.user, body, &mut self.out) {
                Ok(step) => self.step(step),
                Err(error) => {
                    auth::refusal(&mut self.out, &error.to_string());
                    self.flush(stub)?;
                    return Err(error);
                }
            }
            return Ok(());
        }
        match tag {
            b'Q' => {
                let number = stub.answers.find(body.strip_suffix(b"\0").unwrap_or(body));
                if let Some(answer) = stub.answers.get(number) {
                    self.out.extend_from_slice(&answer.columns);
                }
                self.execute(stub, number, true);
            }
            b'P' => {
                let (name, rest) = text(body)?;
                let (sql, _) = text(rest)?;
                keep(&mut self.statements, name, stub.answers.find(sql));
                frame(&mut self.out, b'1', |_| {});
            }
            b'B' => {
                let (portal, rest) = text(body)?;
                let (statement, _) = text(rest)?;
                let number = named(&self.statements, statement)?;
                keep(&mut self.portals, portal, number);
                frame(&mut self.out, b'2', |_| {});
            }
            b'D' => self.describe(stub, body)?,
            b'E' => {
                let (portal, _) = text(body)?;
                let number = named(&self.portals, portal)?;
                self.execute(stub, number, false);
            }
            b'C' => {
                let (kind, name) = body.split_first().context("Close without a kind")?;
                let (name, _) = text(name)?;
                let of = if *kind == b'S' { &mut self.statements } else { &mut self.portals };
                of.retain(|(known, _)| known != name);
                frame(&mut self.out, b'3', |_| {});
            }
            b'S' => self.ready_for_query(),
            b'H' => {}
            _ => bail!("a message the stub does not know"),
        }
        Ok(())
    }

    fn describe(&mut self, stub: &Stub, body: &[u8]) -> Result<()> {
        let (kind, name) = body.split_first().context("Describe without a kind")?;
        let (name, _) = text(name)?;
        let number = match kind {
            b'S' => {
                // Whatever the statement's parameters are: we do not count them.
                frame(&mut self.out, b't', |b| b.extend_from_slice(&[0, 0]));
                named(&self.statements, name)?
            }
            _ => named(&self.portals, name)?,
        };
        match stub.answers.get(number) {
            Some(answer) if !answer.columns.is_empty() => self.out.extend_from_slice(&answer.columns),
            _ => frame(&mut self.out, b'n', |_| {}),
        }
        Ok(())
    }

    /// Rows and CommandComplete; a simple query's ReadyForQuery too.
    fn execute(&mut self, stub: &Stub, number: usize, simple: bool) {
        let Some(answer) = stub.answers.get(number) else { return };
        self.transaction = answer.transaction.unwrap_or(self.transaction);
        self.out.extend_from_slice(&answer.copy);
        if answer.times > 1 || answer.block.len() > COPIED_BYTES_MAX {
            self.pump = Some(Pump { number, left: answer.times, at: 0 });
            self.after = Some((number, simple));
            return;
        }
        self.out.extend_from_slice(&answer.block);
        self.out.extend_from_slice(&answer.tail);
        if simple {
            self.ready_for_query();
        }
    }

    fn ready_for_query(&mut self) {
        self.out.extend_from_slice(&[b'Z', 0, 0, 0, 5, self.transaction]);
    }

    /// Writes what the socket takes. True: all is gone, and no long answer is under way.
    fn flush(&mut self, stub: &Stub) -> Result<bool> {
        loop {
            if let Some(tls) = &mut self.tls {
                tls.writer().write_all(&self.out)?;
                self.out.clear();
                while tls.wants_write() {
                    tls.write_tls(&mut self.records)?;
                }
            }
            if !self.write_out()? {
                return Ok(false);
            }
            let Some(pump) = &mut self.pump else { return Ok(true) };
            let block = stub.answers.get(pump.number).map(|a| a.block.as_slice()).unwrap_or_default();
            let rest = block.get(pump.at..).unwrap_or_default();
            let rest = rest.get(..CHUNK_BYTES).unwrap_or(rest);
            pump.at += match &mut self.tls {
                Some(tls) => tls.writer().write(rest)?,
                None => match self.socket.write(rest) {
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
                    Err(e) => return Err(e.into()),
                },
            };
            if pump.at < block.len() {
                continue;
            }
            pump.at = 0;
            pump.left -= 1;
            if pump.left == 0 {
                self.pump = None;
                self.end_of_pump(stub);
            }
        }
    }

    fn end_of_pump(&mut self, stub: &Stub) {
        let Some((number, simple)) = self.after.take() else { return };
        if let Some(answer) = stub.answers.get(number) {
            self.out.extend_from_slice(&answer.tail);
        }
        if simple {
            self.ready_for_query();
        }
    }

    /// What is meant for the socket: records with TLS, the messages themselves without. True: all of it is gone.
    fn write_out(&mut self) -> Result<bool> {
        let bytes = if self.tls.is_some() { &mut self.records } else { &mut self.out };
        while let Some(rest) = bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.socket.write(rest) {
                Ok(0) => bail!("the client takes no more bytes"),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        bytes.clear();
        self.sent = 0;
        Ok(true)
    }
}

/// A text up to its NUL, and what follows.
fn text(body: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = body.iter().position(|b| *b == 0).context("a text without end")?;
    let (text, rest) = body.split_at(end);
    Ok((text, rest.get(1..).unwrap_or_default()))
}

fn keep(names: &mut Vec<(Vec<u8>, usize)>, name: &[u8], number: usize) {
    match names.iter_mut().find(|(known, _)| known == name) {
        Some((_, kept)) => *kept = number,
        None => names.push((name.to_vec(), number)),
    }
}

fn named(names: &[(Vec<u8>, usize)], name: &[u8]) -> Result<usize> {
    let found = names.iter().find(|(known, _)| known == name);
    found.map(|(_, number)| *number).context("a statement or portal of that name was never made")
}

/// What PostgreSQL 15 reports after a login.
const PARAMETERS: [(&str, &str); 13] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_read_only", "off"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "off"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0 (loadtest stub)"),
    ("session_authorization", "bench"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "UTC"),
];
