//! The front desk: what workers ask is taken here and answered from threads that may wait. And SCRAM's slow arithmetic.
//!
//! Not a queue that grows: at most [`ASKS_MAX`] questions are open, the next one is answered at once that it cannot be. Every
//! question is answered exactly once, also when this side stops or a task panics (the answer is owed by a value that pays when
//! dropped).
//!
//! SCRAM-SHA-256: RFC 5802, RFC 7677; PostgreSQL's scram-common.c and pg_saslprep (src/common/saslprep.c).

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flow::access::{Connection, ScramKeys, ScramVerifier};
use flow::{Answer, Ask, Desk, Reply};
use ring::{digest, hmac, pbkdf2};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

use crate::catalogue::Keeper;

pub(crate) struct FrontDesk {
    keeper: Arc<Keeper>,
    handle: Handle,
    open: Arc<Semaphore>,
    /// Derivations at once: each takes a processor for milliseconds.
    derivations: Arc<Semaphore>,
}

impl FrontDesk {
    pub(crate) fn new(keeper: Arc<Keeper>, handle: Handle) -> FrontDesk {
        FrontDesk {
            keeper,
            handle,
            open: Arc::new(Semaphore::new(ASKS_MAX)),
            derivations: Arc::new(Semaphore::new(DERIVATIONS_MAX)),
        }
    }
}

impl Desk for FrontDesk {
    fn ask(&self, ask: Ask, reply: Reply) {
        let Ok(permit) = self.open.clone().try_acquire_owned() else {
            return reply(Answer::Failed(format!("the side path has {ASKS_MAX} questions open")));
        };
        let owed = Owed { reply: Some(reply), _permit: permit };
        match ask {
            Ask::DeriveKeys { connection, salt, iterations } => {
                let derivations = self.derivations.clone();
                self.handle.spawn(async move {
                    let answer = derive_keys(&derivations, connection, salt, iterations).await;
                    owed.pay(answer);
                });
            }
            Ask::Pause { ms } => {
                self.handle.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    owed.pay(Answer::Done);
                });
            }
            Ask::Catalogue { connection, database, newer_than } => {
                self.keeper.ask(connection, database, newer_than, Box::new(move |answer| owed.pay(answer)));
            }
        }
    }
}

/// An answer that somebody waits for.
struct Owed {
    reply: Option<Reply>,
    _permit: OwnedSemaphorePermit,
}

impl Owed {
    fn pay(mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            reply(answer);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply(Answer::Failed("the side path has stopped".to_owned()));
        }
    }
}

async fn derive_keys(
    derivations: &Semaphore,
    connection: Arc<Connection>,
    salt: Vec<u8>,
    iterations: u32,
) -> Answer {
    let Some(count) = NonZeroU32::new(iterations).filter(|n| n.get() <= ITERATIONS_MAX) else {
        // A target names the count; what it names must not keep our processors for hours.
        return Answer::Failed(format!(
            "the target asks for {iterations} iterations; at most {ITERATIONS_MAX} are done"
        ));
    };
    let Ok(_permit) = derivations.acquire().await else {
        return Answer::Failed("the side path has stopped".to_owned());
    };
    // A hundred sessions that start at once ask for the same keys.
    if connection.credential.keys(&salt, iterations).is_some() {
        return Answer::Done;
    }
    let derived = tokio::task::spawn_blocking(move || {
        let salted = salted_password(connection.credential.secret(), &salt, count);
        let client_key = Zeroizing::new(hmac_sha256(&*salted, b"Client Key"));
        let server_key = Zeroizing::new(hmac_sha256(&*salted, b"Server Key"));
        connection.credential.keep(ScramKeys { salt, iterations, client_key, server_key });
    });
    match derived.await {
        Ok(()) => Answer::Done,
        Err(e) => Answer::Failed(format!("deriving keys: {e}")),
    }
}

/// What a gateway or a server keeps instead of a password. Takes milliseconds.
pub fn derive_verifier(password: &str, salt: &[u8], iterations: u32) -> ScramVerifier {
    let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
    let salted = salted_password(password, salt, iterations);
    let client_key = Zeroizing::new(hmac_sha256(&*salted, b"Client Key"));
    ScramVerifier {
        iterations: iterations.get(),
        salt: salt.to_owned(),
        stored_key: bytes(digest::digest(&digest::SHA256, &*client_key).as_ref()),
        server_key: hmac_sha256(&*salted, b"Server Key"),
    }
}

/// `SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid.rolpassword`.
pub fn verifier_to_text(verifier: &ScramVerifier) -> String {
    format!(
        "{SCHEME}{}:{}${}:{}",
        verifier.iterations,
        BASE64_STANDARD.encode(&verifier.salt),
        BASE64_STANDARD.encode(verifier.stored_key),
        BASE64_STANDARD.encode(verifier.server_key)
    )
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a SCRAM-SHA-256 verifier: {0}")]
pub struct NotAVerifier(&'static str);

/// Reads what [`verifier_to_text`] or PostgreSQL wrote.
///
/// # Errors
/// [`NotAVerifier`] names the part; it never repeats the text.
pub fn verifier_from_text(text: &str) -> Result<ScramVerifier, NotAVerifier> {
    let rest = text.strip_prefix(SCHEME).ok_or(NotAVerifier("it does not begin with SCRAM-SHA-256$"))?;
    let (first, keys) = rest.split_once('$').ok_or(NotAVerifier("the keys are missing"))?;
    let (iterations, salt) = first.split_once(':').ok_or(NotAVerifier("the salt is missing"))?;
    let (stored, server) = keys.split_once(':').ok_or(NotAVerifier("the server key is missing"))?;
    let iterations = iterations
        .parse()
        .ok()
        .filter(|n| (1..=ITERATIONS_MAX).contains(n))
        .ok_or(NotAVerifier("the iteration count"))?;
    let salt = BASE64_STANDARD.decode(salt).ok().filter(|s| !s.is_empty()).ok_or(NotAVerifier("the salt"))?;
    let key = |text: &str, part| {
        BASE64_STANDARD.decode(text).ok().and_then(|k| <[u8; 32]>::try_from(k).ok()).ok_or(NotAVerifier(part))
    };
    let stored_key = key(stored, "the stored key")?;
    let server_key = key(server, "the server key")?;
    Ok(ScramVerifier { iterations, salt, stored_key, server_key })
}

fn salted_password(password: &str, salt: &[u8], iterations: NonZeroU32) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    let prepared = prepare(password);
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, prepared.as_bytes(), &mut *out);
    out
}

/// SASLprep (RFC 4013); what cannot be prepared is used as it is, as PostgreSQL does on both sides.
fn prepare(password: &str) -> Zeroizing<String> {
    let prepared = match stringprep::saslprep(password) {
        // Mapped to nothing: PostgreSQL calls that prohibited.
        Ok(prepared) if !prepared.is_empty() => prepared,
        _ => Cow::Borrowed(password),
    };
    Zeroizing::new(prepared.into_owned())
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    bytes(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref())
}

/// The 32 bytes of a SHA-256 in an array.
fn bytes(from: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    out
}

const SCHEME: &str = "SCRAM-SHA-256$";
/// Questions open at once. Each belongs to a session that waits for it.
const ASKS_MAX: usize = 4096;
const DERIVATIONS_MAX: usize = 2;
/// About half a second of one processor; PostgreSQL's default is 4,096.
const ITERATIONS_MAX: u32 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677() {
        // RFC 7677 §3: user "user", password "pencil".
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let first = "n=user,r=rOprNGfwEbeRWgbNEkqO";
        let server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let last = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let message = format!("{first},{server},{last}");
        let verifier = derive_verifier("pencil", &salt, 4096);
        let signature = hmac_sha256(&verifier.server_key, message.as_bytes());
        assert_eq!(BASE64_STANDARD.encode(signature), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
        // The client's proof, xored with the signature of the stored key, is the client key.
        let proof = BASE64_STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let signature = hmac_sha256(&verifier.stored_key, message.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(digest::digest(&digest::SHA256, &client_key).as_ref(), verifier.stored_key);
    }

    #[test]
    fn a_verifier_reads_what_it_writes_and_nothing_else() {
        let verifier = derive_verifier("sécret", b"0123456789abcdef", 4096);
        let text = verifier_to_text(&verifier);
        let again = verifier_from_text(&text).unwrap();
        assert_eq!(verifier_to_text(&again), text);
        for bad in [
            "",
            "md5abc",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$4096:AAAA",
            "SCRAM-SHA-256$0:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA",
            "SCRAM-SHA-256$99999999:AAAA$AAAA:AAAA",
        ] {
            assert!(verifier_from_text(bad).is_err(), "{bad}");
        }
        for cut in 0..text.len() {
            assert!(verifier_from_text(text.get(..cut).unwrap_or_default()).is_err(), "{cut}");
        }
    }

    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        // RFC 4013 §3, and saslprep.c: non-ASCII space, soft hyphen, compatibility forms.
        assert_eq!(*prepare("I\u{ad}X"), "IX");
        assert_eq!(*prepare("\u{2168}"), "IX");
        assert_eq!(*prepare("a\u{a0}b"), "a b");
        // Prohibited, bidirectional nonsense, nothing left: as they are.
        assert_eq!(*prepare("\u{7}"), "\u{7}");
        assert_eq!(*prepare("\u{627}1"), "\u{627}1");
        assert_eq!(*prepare("\u{ad}"), "\u{ad}");
    }
}
