//! Proving who the client is, before anything is dialled: stored SCRAM verifiers, tokens inside TLS, trust on loopback.
//!
//! An unknown user is led through the same exchange as a known one and fails at the same place with the same words.

use std::sync::Arc;

use flow::access::{Directory, Identity};
use flow::limits::PASSWORD_BYTES_MAX;
use flow::{Fault, Flow, Peer, Side};
use ring::digest;
use ring::rand::SecureRandom;
use subtle::ConstantTimeEq;

use crate::frame;
use crate::message::{Reader, put_string, write};
use crate::scram::{Exchange, mock_verifier};
use crate::startup::{Refusal, Startup};

/// A login under way. Consumed by its result.
pub(crate) struct Login {
    pub(crate) startup: Startup,
    pub(crate) directory: Arc<Directory>,
    pub(crate) welcome: Welcome,
    identity: Option<Arc<Identity>>,
    stage: Stage,
}

/// What a proven client is told first (AuthenticationOk, and with SCRAM our own proof before it). It asks nothing of the client, so
/// it is kept until there is more to say: a write less, and the client is woken once.
///
/// A refusal comes behind it all the same: libpq takes one before AuthenticationOk for a reason to try again without TLS
/// (`sslmode=prefer`, fe-connect.c).
#[derive(Default)]
pub(crate) struct Welcome {
    said: bool,
    proof: Option<String>,
}

impl Welcome {
    /// Says it, the first time.
    pub(crate) fn say(&mut self, startup: &mut Startup, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.said, true) {
            return;
        }
        startup.negotiate(out);
        if let Some(proof) = self.proof.take() {
            sasl(out, 12, &proof);
        }
        write(out, b'R', |out| out.extend_from_slice(&0_u32.to_be_bytes()));
    }
}

enum Stage {
    Password,
    SaslFirst,
    SaslLast(Box<Exchange>),
}

/// What one message of a login led to.
pub(crate) enum Progress {
    /// Wait for more bytes.
    Wait,
    /// The identity is proven. The client does not know yet: the login's welcome is to be said.
    Proven(Arc<Identity>),
    /// It is not; the words for the client, and the reason for the record.
    Failed(Refusal, &'static str),
}

fn wrong_password(user: &str) -> Refusal {
    Refusal("28P01", format!("password authentication failed for user \"{user}\""), "")
}

impl Login {
    /// Chooses the method and asks for it, or is done at once (trust).
    pub(crate) fn begin(
        mut startup: Startup,
        directory: Arc<Directory>,
        peer: &Peer,
        tls: bool,
        flow: &mut Flow<'_>,
    ) -> Result<(Login, Progress), Fault> {
        let identity = directory.identities.get(&startup.user).cloned();
        let known = identity.as_deref();
        let welcome = Welcome::default();
        if known.is_some_and(|i| i.trust) && peer.address.ip().is_loopback() {
            let proven = identity.clone().map_or(Progress::Wait, Progress::Proven);
            return Ok((Login { startup, directory, welcome, identity, stage: Stage::Password }, proven));
        }
        let out = flow.own(Side::Client);
        startup.negotiate(out);
        let sasl = match known {
            Some(identity) => identity.scram.is_some() || identity.tokens.is_empty(),
            None => directory.identities.values().any(|i| i.scram.is_some()) || !tls,
        };
        let stage = if sasl {
            write(out, b'R', |out| {
                out.extend_from_slice(&10_u32.to_be_bytes());
                if endpoint(peer, tls).is_some() {
                    put_string(out, b"SCRAM-SHA-256-PLUS");
                }
                put_string(out, b"SCRAM-SHA-256");
                out.push(0);
            });
            Stage::SaslFirst
        } else if tls {
            write(out, b'R', |out| out.extend_from_slice(&3_u32.to_be_bytes()));
            Stage::Password
        } else {
            let refusal = Refusal(
                "28000",
                format!(
                    "user \"{}\" signs in with a token, and a token is only taken inside TLS",
                    startup.user
                ),
                "connect with sslmode=require (or better)",
            );
            let login = Login { startup, directory, welcome, identity, stage: Stage::Password };
            return Ok((login, Progress::Failed(refusal, "token without TLS")));
        };
        Ok((Login { startup, directory, welcome, identity, stage }, Progress::Wait))
    }

    /// Reads the client's next message, when it is whole.
    pub(crate) fn received(
        &mut self,
        flow: &mut Flow<'_>,
        peer: &Peer,
        tls: bool,
        random: &dyn SecureRandom,
    ) -> Result<Progress, Fault> {
        let input = flow.input();
        let Some(header) = frame::header(input, Side::Client)? else { return Ok(Progress::Wait) };
        if header.tag != b'p' {
            return Err(Fault::Protocol { side: Side::Client, what: "expected a password message" });
        }
        if header.body > PASSWORD_BYTES_MAX {
            return Err(Fault::Limit { side: Side::Client, what: "password message" });
        }
        let Some(body) = frame::body(input, header) else { return Ok(Progress::Wait) };
        flow.discard(header.total());
        if !flow.input().is_empty() {
            // Nobody may speak before being let in.
            return Err(Fault::Protocol { side: Side::Client, what: "bytes after the password message" });
        }
        let user = self.startup.user.as_str();
        let failed = |reason| Ok(Progress::Failed(wrong_password(user), reason));
        match &mut self.stage {
            Stage::Password => {
                let mut r = Reader::new(body, Side::Client);
                let token = r.string("password")?;
                r.end("password: trailing bytes")?;
                let hash = digest::digest(&digest::SHA256, token);
                // Every token is compared, whichever matches.
                let tokens = self.identity.iter().flat_map(|i| &i.tokens);
                let good =
                    tokens.fold(subtle::Choice::from(0), |good, t| good | t.as_slice().ct_eq(hash.as_ref()));
                match &self.identity {
                    Some(identity) if bool::from(good) && !token.is_empty() => {
                        Ok(Progress::Proven(identity.clone()))
                    }
                    Some(_) => failed("wrong token"),
                    None => failed("unknown user"),
                }
            }
            Stage::SaslFirst => {
                let mut r = Reader::new(body, Side::Client);
                let mechanism = r.string("SASL mechanism")?;
                let endpoint = endpoint(peer, tls);
                let plus = match mechanism {
                    b"SCRAM-SHA-256" => false,
                    b"SCRAM-SHA-256-PLUS" if endpoint.is_some() => true,
                    _ => return failed("unknown SASL mechanism"),
                };
                let length = r.i32("SASL response length")?;
                let Ok(length) = usize::try_from(length) else {
                    return failed("SASL without a first message");
                };
                let message = r.take(length, "SASL response")?;
                r.end("SASL response: trailing bytes")?;
                let real = self.identity.as_deref().and_then(|i| i.scram.clone());
                let known = real.is_some();
                let verifier = real.unwrap_or_else(|| mock_verifier(&self.directory.mock_seed, user));
                let mut salt = [0; 18];
                random.fill(&mut salt).map_err(|_| Fault::Bug("no randomness"))?;
                match Exchange::begin(message, verifier, known, plus, endpoint, &salt) {
                    Ok(exchange) => {
                        sasl(flow.own(Side::Client), 11, exchange.server_first());
                        self.stage = Stage::SaslLast(Box::new(exchange));
                        Ok(Progress::Wait)
                    }
                    Err(_) => failed("malformed SCRAM message"),
                }
            }
            Stage::SaslLast(exchange) => match (exchange.finish(body), &self.identity) {
                (Ok(last), Some(identity)) => {
                    self.welcome.proof = Some(last);
                    Ok(Progress::Proven(identity.clone()))
                }
                (_, Some(_)) => failed("wrong password"),
                (_, None) => failed("unknown user"),
            },
        }
    }
}

/// What a client can bind its proof to: the hash of our certificate. Some certificates have none (Ed25519: RFC 5929 names no hash).
fn endpoint(peer: &Peer, tls: bool) -> Option<&[u8]> {
    peer.tls.as_deref().filter(|_| tls).map(|t| t.endpoint.as_slice()).filter(|e| !e.is_empty())
}

fn sasl(out: &mut Vec<u8>, code: u32, message: &str) {
    write(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(message.as_bytes());
    });
}
