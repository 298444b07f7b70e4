//! Our own login at the target: TLS first when the target's address says so, then the credential only the gateway holds.
//!
//! The target is not trusted: it cannot make us send the password in clear outside TLS, cannot stuff bytes before the handshake,
//! and must prove that it knows the password too (SCRAM).

use std::sync::Arc;

use flow::access::{Address, Connection};
use flow::{Answer, Ask, Fault, Flow, Side, Step};
use policy::Pass;
use ring::rand::SecureRandom;

use crate::frame::{self, Header};
use crate::message::{Reader, error_field, put_string, write};
use crate::scram::Proof;
use crate::startup::Refusal;

/// SSLRequest.
pub(crate) fn ssl_request(flow: &mut Flow<'_>) {
    flow.send(Side::Server, &[0, 0, 0, 8, 4, 210, 22, 47]);
}

/// The login at a target, from dialled to ReadyForQuery.
pub(crate) struct TargetLogin {
    connection: Arc<Connection>,
    parameters: Vec<(String, String)>,
    encrypted: bool,
    stage: Stage,
    /// Backend number and cancel key, once given.
    pub(crate) key: Option<([u8; 4], Box<[u8]>)>,
    /// What the target reported and the session must know.
    pub(crate) settings: Settings,
}

/// Server settings that change what a statement means; the server reports each change (GUC_REPORT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) standard_strings: bool,
    /// A backslash had another meaning before, and has it again after RESET, COMMIT or ROLLBACK: what is pipelined behind these is read
    /// before the server says so.
    pub(crate) strings_were_other: bool,
    /// The client speaks UTF-8 (or SQL_ASCII: bytes as they are).
    pub(crate) utf8: bool,
    /// The server's own encoding is another: bytes as they are would not be UTF-8.
    server_other: bool,
    /// The client takes bytes as they are.
    bytes: bool,
    /// The client speaks, or spoke, an encoding in which a byte that looks like ASCII may be half of another character. That it spoke it
    /// counts because RESET, DISCARD and ROLLBACK return to it, and what is pipelined behind them is read before the server says so.
    pub(crate) embeds_ascii: bool,
    /// It speaks, or spoke, an encoding the server has to convert to (a value that cannot be converted is an error, which tells it), or
    /// bytes that are not UTF-8.
    pub(crate) converts: bool,
}

impl Default for Settings {
    /// What a server is taken to have that says nothing.
    fn default() -> Settings {
        Settings {
            standard_strings: true,
            strings_were_other: false,
            utf8: true,
            server_other: false,
            bytes: false,
            embeds_ascii: false,
            converts: false,
        }
    }
}

impl Settings {
    /// Texts, and COPY data, can be read byte by byte with the rules we know; and, with `masks`, no value is looked at on its way here.
    pub(crate) fn readable(self, masks: bool) -> bool {
        self.standard_strings && !self.embeds_ascii && !(masks && self.converts)
    }

    /// Takes note of a ParameterStatus message.
    pub(crate) fn note(&mut self, body: &[u8]) {
        let mut r = Reader::new(body, Side::Server);
        let (Ok(name), Ok(value)) = (r.string("name"), r.string("value")) else { return };
        match name {
            b"standard_conforming_strings" => {
                self.standard_strings = value == b"on";
                self.strings_were_other |= !self.standard_strings;
            }
            b"client_encoding" => {
                self.utf8 =
                    [&b"UTF8"[..], b"UNICODE", b"SQL_ASCII"].iter().any(|e| value.eq_ignore_ascii_case(e));
                self.bytes = value == b"SQL_ASCII";
                self.converts |= !self.utf8 || (self.bytes && self.server_other);
                self.embeds_ascii |= !self.utf8 && embeds_ascii(value);
            }
            b"server_encoding" => {
                self.server_other = value != b"UTF8" && value != b"SQL_ASCII";
                self.converts |= self.bytes && self.server_other;
            }
            _ => {}
        }
    }
}

/// All but the encodings a server may have itself (`src/include/mb/pg_wchar.h`: `PG_ENCODING_IS_CLIENT_ONLY`, which leaves SJIS, BIG5,
/// GBK, UHC, GB18030, JOHAB and SHIFT_JIS_2004), as the server names them.
fn embeds_ascii(encoding: &[u8]) -> bool {
    let begins = [&b"EUC_"[..], b"LATIN", b"WIN", b"ISO_8859_", b"KOI8", b"MULE_INTERNAL"];
    !begins.iter().any(|b| encoding.starts_with(b))
}

enum Stage {
    AwaitTls,
    Authenticating,
    Sasl { proof: Proof, salt: Vec<u8>, iterations: u32 },
    SaslDone,
    Authenticated,
}

/// What the target's bytes led to.
pub(crate) enum Progress {
    Step(Step),
    /// ReadyForQuery arrived and is still in the flow.
    Ready,
    /// The client must be told; the reason is for the record.
    Failed(Refusal, String),
}

fn failed(sqlstate: &'static str, message: &str, reason: impl Into<String>) -> Progress {
    Progress::Failed(Refusal(sqlstate, message.to_owned(), ""), reason.into())
}

impl TargetLogin {
    pub(crate) fn new(connection: Arc<Connection>, parameters: Vec<(String, String)>) -> TargetLogin {
        TargetLogin {
            connection,
            parameters,
            encrypted: false,
            stage: Stage::Authenticating,
            key: None,
            settings: Settings::default(),
        }
    }

    pub(crate) fn dialled(&mut self, flow: &mut Flow<'_>, database: &str) -> Step {
        if self.connection.target.tls.is_some() {
            ssl_request(flow);
            self.stage = Stage::AwaitTls;
        } else {
            self.start(flow, database);
        }
        Step::READ
    }

    pub(crate) fn encrypted(&mut self, flow: &mut Flow<'_>, database: &str) -> Step {
        self.encrypted = true;
        self.stage = Stage::Authenticating;
        self.start(flow, database);
        Step::READ
    }

    /// Protocol 3.0 upstream: all that 3.2 adds is a longer cancel key, and that one the client never sees.
    fn start(&self, flow: &mut Flow<'_>, database: &str) {
        let out = flow.own(Side::Server);
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&0x30000_u32.to_be_bytes());
        let own = [("user", self.connection.user.as_str()), ("database", database)];
        let rest = self.parameters.iter().map(|(n, v)| (n.as_str(), v.as_str()));
        for (name, value) in own.into_iter().chain(rest) {
            put_string(out, name.as_bytes());
            put_string(out, value.as_bytes());
        }
        out.push(0);
        let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(room) = out.get_mut(at..at + 4) {
            room.copy_from_slice(&length);
        }
    }

    /// Takes what the target said so far. `welcome` is called before anything of it goes to the client.
    pub(crate) fn received(
        &mut self,
        flow: &mut Flow<'_>,
        random: &dyn SecureRandom,
        welcome: &mut dyn FnMut(&mut Flow<'_>),
    ) -> Result<Progress, Fault> {
        loop {
            let input = flow.input();
            if let Stage::AwaitTls = self.stage {
                return Ok(match input {
                    [] => Progress::Step(Step::READ),
                    b"S" => {
                        flow.discard(1);
                        Progress::Step(Step::StartTls(Side::Server))
                    }
                    [b'S', ..] => {
                        return Err(Fault::Protocol {
                            side: Side::Server,
                            what: "bytes before the TLS handshake",
                        });
                    }
                    _ => failed(
                        "08001",
                        "the target does not offer TLS, and this connection demands it",
                        "target without TLS",
                    ),
                });
            }
            let Some(header) = frame::header(input, Side::Server)? else {
                return Ok(Progress::Step(Step::READ));
            };
            if header.body > flow::limits::PASSWORD_BYTES_MAX {
                return Err(Fault::Limit { side: Side::Server, what: "message during login" });
            }
            let Some(body) = frame::body(input, header) else {
                return Ok(Progress::Step(Step::Read { need: header.total() }));
            };
            if let Some(progress) = self.message(flow, header, body, random, welcome)? {
                return Ok(progress);
            }
        }
    }

    fn message(
        &mut self,
        flow: &mut Flow<'_>,
        header: Header,
        body: &[u8],
        random: &dyn SecureRandom,
        welcome: &mut dyn FnMut(&mut Flow<'_>),
    ) -> Result<Option<Progress>, Fault> {
        let total = header.total();
        match (header.tag, &self.stage) {
            (b'R', Stage::Authenticated) => Err(unexpected("authentication after AuthenticationOk")),
            (b'R', _) => {
                flow.discard(total);
                self.authentication(flow, body, random)
            }
            (b'S' | b'N', Stage::Authenticated) => {
                if header.tag == b'S' {
                    self.settings.note(body);
                }
                welcome(flow);
                flow.forward(total, Pass::housekeeping());
                Ok(None)
            }
            (b'K', Stage::Authenticated) => {
                flow.discard(total);
                let mut r = Reader::new(body, Side::Server);
                let pid = r.array("BackendKeyData: process")?;
                if r.rest().len() > 256 {
                    return Err(unexpected("cancel key too long"));
                }
                self.key = Some((pid, r.rest().into()));
                Ok(None)
            }
            (b'Z', Stage::Authenticated) => Ok(Some(Progress::Ready)),
            (b'E', _) => {
                flow.discard(total);
                let text =
                    |code| String::from_utf8_lossy(error_field(body, code).unwrap_or_default()).into_owned();
                let (state, message) = (text(b'C'), text(b'M'));
                let reason = format!("target refused: {state} {message}");
                // What is about us (our role, our password, pg_hba) stays with the operator; what is about the database or its
                // state helps the client.
                Ok(Some(match state.as_str() {
                    "3D000" => failed("3D000", &message, reason),
                    "53300" => failed("53300", &message, reason),
                    "57P03" => failed("57P03", &message, reason),
                    s if s.starts_with("22") || s == "42704" => failed("22023", &message, reason),
                    _ => failed(
                        "08006",
                        "the gateway could not log in to the target; its record says why",
                        reason,
                    ),
                }))
            }
            (b'N', _) => {
                flow.discard(total);
                Ok(None)
            }
            _ => Err(unexpected("message during login")),
        }
    }

    fn authentication(
        &mut self,
        flow: &mut Flow<'_>,
        body: &[u8],
        random: &dyn SecureRandom,
    ) -> Result<Option<Progress>, Fault> {
        let mut r = Reader::new(body, Side::Server);
        let code = r.u32("authentication code")?;
        let local = matches!(self.connection.target.address, Address::Unix(_));
        let secret = self.connection.credential.secret();
        let refused = |what: &str| {
            Ok(Some(failed("08006", "the gateway could not log in to the target; its record says why", what)))
        };
        match (code, &mut self.stage) {
            (0, Stage::Authenticating | Stage::SaslDone) => {
                self.stage = Stage::Authenticated;
                Ok(None)
            }
            (_, Stage::Authenticating) if secret.is_empty() && code != 0 => {
                refused("the target asks for a password and the connection has none")
            }
            (3, Stage::Authenticating) if self.encrypted || local => {
                write(flow.own(Side::Server), b'p', |out| put_string(out, secret.as_bytes()));
                Ok(None)
            }
            (3, Stage::Authenticating) => refused("the target asks for a clear-text password outside TLS"),
            (5, Stage::Authenticating) => {
                let salt = r.array::<4>("md5 salt")?;
                let answer = md5::answer(&self.connection.user, secret, salt);
                write(flow.own(Side::Server), b'p', |out| put_string(out, answer.as_bytes()));
                Ok(None)
            }
            (10, Stage::Authenticating) => {
                let mut offered = r.rest().split(|b| *b == 0);
                if !offered.any(|m| m == b"SCRAM-SHA-256") {
                    return refused("the target offers no SASL mechanism we speak");
                }
                let mut nonce = [0; 18];
                random.fill(&mut nonce).map_err(|_| Fault::Bug("no randomness"))?;
                let proof = Proof::begin(&nonce);
                let first = proof.first();
                write(flow.own(Side::Server), b'p', |out| {
                    put_string(out, b"SCRAM-SHA-256");
                    out.extend_from_slice(&u32::try_from(first.len()).unwrap_or_default().to_be_bytes());
                    out.extend_from_slice(first.as_bytes());
                });
                self.stage = Stage::Sasl { proof, salt: Vec::new(), iterations: 0 };
                Ok(None)
            }
            (11, Stage::Sasl { proof, salt, iterations }) if *iterations == 0 => {
                let Ok(challenge) = proof.challenge(r.rest()) else {
                    return refused("malformed SCRAM challenge");
                };
                // A target could ask for hours of key derivation.
                if challenge.iterations > 1_000_000 {
                    return refused("the target asks for more than a million SCRAM iterations");
                }
                (*salt, *iterations) = (challenge.salt, challenge.iterations);
                Ok(self.prove(flow))
            }
            (12, Stage::Sasl { proof, salt, iterations }) => {
                let Some(keys) = self.connection.credential.keys(salt, *iterations) else {
                    return refused("SCRAM keys vanished");
                };
                if proof.verify(r.rest(), &keys).is_err() {
                    return refused("the target could not prove that it knows the password");
                }
                self.stage = Stage::SaslDone;
                Ok(None)
            }
            _ => refused("the target asks for an authentication method we do not speak"),
        }
    }

    /// Sends the SCRAM proof, or asks for the keys it takes.
    fn prove(&mut self, flow: &mut Flow<'_>) -> Option<Progress> {
        let Stage::Sasl { proof, salt, iterations } = &self.stage else { return None };
        match self.connection.credential.keys(salt, *iterations) {
            Some(keys) => {
                let last = proof.last(&keys);
                write(flow.own(Side::Server), b'p', |out| out.extend_from_slice(last.as_bytes()));
                None
            }
            None => Some(Progress::Step(Step::Ask(Ask::DeriveKeys {
                connection: self.connection.clone(),
                salt: salt.clone(),
                iterations: *iterations,
            }))),
        }
    }

    /// The side path answered.
    pub(crate) fn answered(&mut self, answer: &Answer, flow: &mut Flow<'_>) -> Progress {
        match answer {
            Answer::Done => match self.prove(flow) {
                // Asked once already: not deriving must not become a loop.
                Some(_) => failed(
                    "08006",
                    "the gateway could not log in to the target",
                    "no SCRAM keys after derivation",
                ),
                None => Progress::Step(Step::READ),
            },
            Answer::Failed(why) => failed("08006", "the gateway could not log in to the target", why.clone()),
        }
    }
}

fn unexpected(what: &'static str) -> Fault {
    Fault::Protocol { side: Side::Server, what }
}

/// The md5 password answer: `"md5" + md5(md5(password + user) + salt)`, each in hex. Deprecated in PostgreSQL 18 but in the field.
mod md5 {
    use md5::{Digest as _, Md5};

    pub(super) fn answer(user: &str, password: &str, salt: [u8; 4]) -> String {
        let inner = hex(&Md5::new().chain_update(password).chain_update(user).finalize());
        format!("md5{}", hex(&Md5::new().chain_update(inner).chain_update(salt).finalize()))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut s, b| {
            s.extend(char::from_digit(u32::from(b >> 4), 16));
            s.extend(char::from_digit(u32::from(b & 15), 16));
            s
        })
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn matches_postgresql() {
            // md5(md5("secret" || "bench") || "abcd"), by another implementation.
            assert_eq!(super::answer("bench", "secret", *b"abcd"), "md51665716d31d3f6fa86ee64ded0f48b82");
        }
    }
}
