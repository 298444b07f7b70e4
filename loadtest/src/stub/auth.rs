//! How the stub asks for a password: not at all, in clear, as md5, or by SCRAM-SHA-256.
//!
//! Not a place for secrets: one password for everybody, given on the command line of a test tool.
//! Invariant: whoever does not know the password is not let in.
//! Source: RFC 5802, RFC 7677; PostgreSQL documentation, "SASL Authentication".

use std::num::NonZeroU32;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use postgres_protocol::authentication::md5_hash;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use crate::wire::{cstr, frame};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Method {
    Trust,
    Password,
    Md5,
    Scram,
}

const ITERATIONS: u32 = 4096;

pub(crate) struct Auth {
    method: Method,
    password: String,
    salt: [u8; 16],
    stored_key: Vec<u8>,
    server_key: hmac::Key,
    random: SystemRandom,
}

/// What the client's next message must answer.
pub(crate) enum Asked {
    Password,
    Md5([u8; 4]),
    ScramFirst,
    ScramFinal { first_bare: String, server_first: String, nonce: String },
}

/// What becomes of a login.
pub(crate) enum Step {
    In,
    Ask(Asked),
}

impl Auth {
    pub(crate) fn new(method: Method, password: String) -> Result<Auth> {
        let random = SystemRandom::new();
        let mut salt = [0; 16];
        random.fill(&mut salt).ok().context("no random numbers")?;
        let mut salted = [0; 32];
        let iterations = NonZeroU32::new(ITERATIONS).context("iterations")?;
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client_key = hmac::sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref()).as_ref().to_vec();
        let server_key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&salted, b"Server Key").as_ref());
        Ok(Auth { method, password, salt, stored_key, server_key, random })
    }

    pub(crate) fn begin(&self, out: &mut Vec<u8>) -> Result<Step> {
        let asked = match self.method {
            Method::Trust => {
                request(out, 0, b"");
                return Ok(Step::In);
            }
            Method::Password => {
                request(out, 3, b"");
                Asked::Password
            }
            Method::Md5 => {
                let mut salt = [0; 4];
                self.random.fill(&mut salt).ok().context("no random numbers")?;
                request(out, 5, &salt);
                Asked::Md5(salt)
            }
            Method::Scram => {
                request(out, 10, b"SCRAM-SHA-256\0\0");
                Asked::ScramFirst
            }
        };
        Ok(Step::Ask(asked))
    }

    /// `body` of the client's `p` message.
    pub(crate) fn answer(&self, asked: Asked, user: &str, body: &[u8], out: &mut Vec<u8>) -> Result<Step> {
        match asked {
            Asked::Password => {
                ensure!(body.strip_suffix(b"\0") == Some(self.password.as_bytes()), "wrong password")
            }
            Asked::Md5(salt) => {
                let expected = md5_hash(user.as_bytes(), self.password.as_bytes(), salt);
                ensure!(body.strip_suffix(b"\0") == Some(expected.as_bytes()), "wrong password");
            }
            Asked::ScramFirst => return self.scram_first(body, out).map(Step::Ask),
            Asked::ScramFinal { first_bare, server_first, nonce } => {
                self.scram_final(body, &first_bare, &server_first, &nonce, out)?;
            }
        }
        request(out, 0, b"");
        Ok(Step::In)
    }

    fn scram_first(&self, body: &[u8], out: &mut Vec<u8>) -> Result<Asked> {
        let data = body.strip_prefix(b"SCRAM-SHA-256\0").and_then(|rest| rest.get(4..));
        let text = std::str::from_utf8(data.context("another SASL mechanism")?)?;
        // GS2 header: no channel binding, no other identity.
        let bare = text.strip_prefix("n,,").or_else(|| text.strip_prefix("y,,")).context("GS2 header")?;
        let theirs =
            bare.split(',').find_map(|part| part.strip_prefix("r=")).context("SCRAM without nonce")?;
        let mut ours = [0; 18];
        self.random.fill(&mut ours).ok().context("no random numbers")?;
        let nonce = format!("{theirs}{}", BASE64.encode(ours));
        let server_first = format!("r={nonce},s={},i={ITERATIONS}", BASE64.encode(self.salt));
        request(out, 11, server_first.as_bytes());
        Ok(Asked::ScramFinal { first_bare: bare.to_owned(), server_first, nonce })
    }

    fn scram_final(
        &self,
        body: &[u8],
        first_bare: &str,
        server_first: &str,
        nonce: &str,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let text = std::str::from_utf8(body)?;
        let (without_proof, proof) = text.rsplit_once(",p=").context("SCRAM without proof")?;
        ensure!(without_proof.split(',').any(|part| part.strip_prefix("r=") == Some(nonce)), "another nonce");
        let said = format!("{first_bare},{server_first},{without_proof}");
        let stored = hmac::Key::new(hmac::HMAC_SHA256, &self.stored_key);
        let signature = hmac::sign(&stored, said.as_bytes());
        let proof = BASE64.decode(proof).context("SCRAM proof")?;
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let hashed = digest::digest(&digest::SHA256, &client_key);
        ensure!(hashed.as_ref() == self.stored_key, "wrong password");
        let verifier = BASE64.encode(hmac::sign(&self.server_key, said.as_bytes()));
        request(out, 12, format!("v={verifier}").as_bytes());
        Ok(())
    }
}

fn request(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    frame(out, b'R', |b| {
        b.extend_from_slice(&kind.to_be_bytes());
        b.extend_from_slice(body);
    });
}

/// FATAL, as PostgreSQL refuses a login.
pub(crate) fn refusal(out: &mut Vec<u8>, text: &str) {
    frame(out, b'E', |b| {
        for field in ["SFATAL", "VFATAL", "C28P01", &format!("M{text}")] {
            cstr(b, field.as_bytes());
        }
        b.push(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

    /// Plays the client's half with another implementation.
    fn scram(password: &str) -> Result<()> {
        let auth = Auth::new(Method::Scram, "right".to_owned())?;
        let mut out = Vec::new();
        let Step::Ask(asked) = auth.begin(&mut out)? else { panic!("asks") };
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let mut body = b"SCRAM-SHA-256\0".to_vec();
        body.extend_from_slice(&(client.message().len() as u32).to_be_bytes());
        body.extend_from_slice(client.message());
        out.clear();
        let Step::Ask(asked) = auth.answer(asked, "u", &body, &mut out)? else { panic!("asks on") };
        client.update(&out[9..])?;
        out.clear();
        let Step::In = auth.answer(asked, "u", client.message(), &mut out)? else { panic!("in") };
        let end = 1 + u32::from_be_bytes(out[1..5].try_into()?) as usize;
        client.finish(&out[9..end])?;
        assert_eq!(out[end..], *b"R\0\0\0\x08\0\0\0\0");
        Ok(())
    }

    #[test]
    fn scram_lets_in_who_knows_the_password() {
        scram("right").expect("let in");
        assert!(scram("wrong").is_err());
    }

    #[test]
    fn clear_and_md5_are_compared_whole() {
        let mut out = Vec::new();
        let clear = Auth::new(Method::Password, "right".to_owned()).expect("random numbers");
        assert!(clear.answer(Asked::Password, "u", b"right\0", &mut out).is_ok());
        assert!(clear.answer(Asked::Password, "u", b"righ\0", &mut out).is_err());
        let hash = md5_hash(b"u", b"right", [1, 2, 3, 4]) + "\0";
        assert!(clear.answer(Asked::Md5([1, 2, 3, 4]), "u", hash.as_bytes(), &mut out).is_ok());
        assert!(clear.answer(Asked::Md5([1, 2, 3, 5]), "u", hash.as_bytes(), &mut out).is_err());
    }
}
