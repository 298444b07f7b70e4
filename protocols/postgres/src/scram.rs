//! SCRAM-SHA-256, both ends, as PostgreSQL speaks it (RFC 5802, RFC 7677; `src/backend/libpq/auth-scram.c`,
//! `src/interfaces/libpq/fe-auth-scram.c`). Pure computation; PBKDF2 is never done here: clients are checked against stored
//! verifiers, targets are answered with keys the side path derived once.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flow::access::{ScramKeys, ScramVerifier};
use ring::{digest, hmac};
use subtle::ConstantTimeEq;

/// Why an exchange failed. The client is told no more than "password authentication failed".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Malformed(&'static str),
    Rejected,
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|p| context.update(p));
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

fn xor(mut a: [u8; 32], b: &[u8; 32]) -> [u8; 32] {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
    a
}

/// A nonce of 18 random bytes, base64.
fn nonce(random: &[u8; 18]) -> String {
    BASE64.encode(random)
}

/// What a client whose name we do not know is checked against: a verifier nothing matches, the same one every time it asks
/// (auth-scram.c `mock_scram_secret`).
pub(crate) fn mock_verifier(seed: &[u8; 32], user: &str) -> ScramVerifier {
    let salt = mac(seed, &[b"salt", user.as_bytes()]);
    ScramVerifier {
        iterations: 4096,
        salt: salt.iter().take(16).copied().collect(),
        stored_key: mac(seed, &[b"stored", user.as_bytes()]),
        server_key: mac(seed, &[b"server", user.as_bytes()]),
    }
}

/// Our half of a client's login, after its first message.
pub(crate) struct Exchange {
    verifier: ScramVerifier,
    /// False: whatever the proof, the answer is no.
    real: bool,
    client_first_bare: String,
    server_first: String,
    nonce: String,
    /// `c=` as it must come back, base64 of the gs2 header and channel binding data.
    binding: String,
}

impl Exchange {
    /// Reads client-first-message and writes server-first-message. `endpoint` is the channel binding data of our certificate when
    /// the connection is inside TLS; `plus`: the client chose SCRAM-SHA-256-PLUS.
    pub(crate) fn begin(
        message: &[u8],
        verifier: ScramVerifier,
        real: bool,
        plus: bool,
        endpoint: Option<&[u8]>,
        random: &[u8; 18],
    ) -> Result<Exchange, Failure> {
        let text = std::str::from_utf8(message).map_err(|_| Failure::Malformed("not UTF-8"))?;
        let (flag, rest) = text.split_once(',').ok_or(Failure::Malformed("gs2 header"))?;
        // An authorisation identity is not supported, as in PostgreSQL.
        let bare = rest.strip_prefix(',').ok_or(Failure::Malformed("authorisation identity"))?;
        let header = format!("{flag},,");
        let mut binding = header.clone().into_bytes();
        match (plus, flag) {
            (true, "p=tls-server-end-point") => binding.extend_from_slice(endpoint.ok_or(Failure::Rejected)?),
            (true, _) => return Err(Failure::Malformed("channel binding flag")),
            (false, "n") => {}
            // The client could bind but thinks we cannot: inside TLS we can, so somebody took our offer away.
            (false, "y") if endpoint.is_some() => return Err(Failure::Rejected),
            (false, "y") => {}
            (false, _) => return Err(Failure::Malformed("channel binding flag")),
        }
        let mut fields = bare.split(',');
        // The user name comes from the start-up packet; what stands here is ignored, as in PostgreSQL.
        fields.next().filter(|f| f.starts_with("n=")).ok_or(Failure::Malformed("user name"))?;
        let theirs =
            fields.next().and_then(|f| f.strip_prefix("r=")).ok_or(Failure::Malformed("client nonce"))?;
        if theirs.is_empty() || !theirs.bytes().all(|b| b.is_ascii_graphic() && b != b',') {
            return Err(Failure::Malformed("client nonce"));
        }
        let nonce = format!("{theirs}{}", nonce(random));
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let binding = BASE64.encode(binding);
        Ok(Exchange { verifier, real, client_first_bare: bare.to_owned(), server_first, nonce, binding })
    }

    pub(crate) fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks client-final-message; the result is server-final-message.
    pub(crate) fn finish(&self, message: &[u8]) -> Result<String, Failure> {
        let text = std::str::from_utf8(message).map_err(|_| Failure::Malformed("not UTF-8"))?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Failure::Malformed("proof"))?;
        let mut fields = without_proof.split(',');
        let binding =
            fields.next().and_then(|f| f.strip_prefix("c=")).ok_or(Failure::Malformed("channel binding"))?;
        let nonce = fields.next().and_then(|f| f.strip_prefix("r=")).ok_or(Failure::Malformed("nonce"))?;
        let proof: [u8; 32] =
            BASE64.decode(proof).ok().and_then(|p| p.try_into().ok()).ok_or(Failure::Malformed("proof"))?;
        let auth = [
            self.client_first_bare.as_bytes(),
            b",",
            self.server_first.as_bytes(),
            b",",
            without_proof.as_bytes(),
        ];
        let signature = mac(&self.verifier.stored_key, &auth);
        let stored = sha256(&xor(proof, &signature));
        let proved = stored.ct_eq(&self.verifier.stored_key);
        let bound = binding.as_bytes().ct_eq(self.binding.as_bytes());
        let fresh = nonce.as_bytes().ct_eq(self.nonce.as_bytes());
        if bool::from(proved & bound & fresh) && self.real {
            Ok(format!("v={}", BASE64.encode(mac(&self.verifier.server_key, &auth))))
        } else {
            Err(Failure::Rejected)
        }
    }
}

/// Our login at a target, as the client of the exchange.
pub(crate) struct Proof {
    first_bare: String,
    server_first: String,
    nonce: String,
}

/// What the target's first message asks of us.
pub(crate) struct Challenge {
    pub(crate) salt: Vec<u8>,
    pub(crate) iterations: u32,
}

impl Proof {
    pub(crate) fn begin(random: &[u8; 18]) -> Proof {
        let nonce = nonce(random);
        Proof { first_bare: format!("n=,r={nonce}"), server_first: String::new(), nonce }
    }

    /// client-first-message: no channel binding.
    pub(crate) fn first(&self) -> String {
        format!("n,,{}", self.first_bare)
    }

    pub(crate) fn challenge(&mut self, message: &[u8]) -> Result<Challenge, Failure> {
        let text = std::str::from_utf8(message).map_err(|_| Failure::Malformed("not UTF-8"))?;
        let mut fields = text.split(',');
        let mut field = |prefix: &str, name| {
            fields.next().and_then(|f| f.strip_prefix(prefix)).ok_or(Failure::Malformed(name))
        };
        let nonce = field("r=", "nonce")?;
        let salt = BASE64.decode(field("s=", "salt")?).map_err(|_| Failure::Malformed("salt"))?;
        let iterations = field("i=", "iterations")?.parse().map_err(|_| Failure::Malformed("iterations"))?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) || iterations == 0 {
            return Err(Failure::Malformed("nonce"));
        }
        self.nonce = nonce.to_owned();
        self.server_first = text.to_owned();
        Ok(Challenge { salt, iterations })
    }

    fn without_proof(&self) -> String {
        // biws = base64("n,,")
        format!("c=biws,r={}", self.nonce)
    }

    fn auth(&self) -> String {
        format!("{},{},{}", self.first_bare, self.server_first, self.without_proof())
    }

    /// client-final-message.
    pub(crate) fn last(&self, keys: &ScramKeys) -> String {
        let signature = mac(&sha256(&*keys.client_key), &[self.auth().as_bytes()]);
        let proof = xor(signature, &keys.client_key);
        format!("{},p={}", self.without_proof(), BASE64.encode(proof))
    }

    /// The target must know the password as well.
    pub(crate) fn verify(&self, message: &[u8], keys: &ScramKeys) -> Result<(), Failure> {
        let signature = message
            .strip_prefix(b"v=")
            .and_then(|v| BASE64.decode(v).ok())
            .ok_or(Failure::Malformed("server signature"))?;
        let expected = mac(&*keys.server_key, &[self.auth().as_bytes()]);
        if bool::from(signature.ct_eq(&expected)) { Ok(()) } else { Err(Failure::Rejected) }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::num::NonZeroU32;
    use zeroize::Zeroizing;

    pub(crate) fn keys(password: &str, salt: &[u8], iterations: u32) -> (ScramKeys, ScramVerifier) {
        let mut salted = [0; 32];
        ring::pbkdf2::derive(
            ring::pbkdf2::PBKDF2_HMAC_SHA256,
            NonZeroU32::new(iterations).unwrap(),
            salt,
            password.as_bytes(),
            &mut salted,
        );
        let (client, server) = (mac(&salted, &[b"Client Key"]), mac(&salted, &[b"Server Key"]));
        (
            ScramKeys {
                salt: salt.to_vec(),
                iterations,
                client_key: Zeroizing::new(client),
                server_key: Zeroizing::new(server),
            },
            ScramVerifier {
                iterations,
                salt: salt.to_vec(),
                stored_key: sha256(&client),
                server_key: server,
            },
        )
    }

    fn talk(password: &str, plus_tampered: bool) -> Result<(), Failure> {
        let (_, verifier) = keys("pencil", b"0123456789abcdef", 64);
        let mut proof = Proof::begin(&[1; 18]);
        let first = proof.first();
        let first = if plus_tampered { first.replacen("n,,", "y,,", 1) } else { first };
        let endpoint = plus_tampered.then_some(&b"hash"[..]);
        let ours = Exchange::begin(first.as_bytes(), verifier, true, false, endpoint, &[2; 18])?;
        let challenge = proof.challenge(ours.server_first().as_bytes())?;
        let (client_keys, _) = keys(password, &challenge.salt, challenge.iterations);
        let server_final = ours.finish(proof.last(&client_keys).as_bytes())?;
        proof.verify(server_final.as_bytes(), &client_keys)
    }

    #[test]
    fn both_ends_agree_on_the_right_password_only() {
        assert_eq!(talk("pencil", false), Ok(()));
        assert_eq!(talk("pencilx", false), Err(Failure::Rejected));
    }

    #[test]
    fn a_stripped_channel_binding_offer_is_noticed() {
        assert_eq!(talk("pencil", true), Err(Failure::Rejected));
    }

    #[test]
    fn a_mock_verifier_is_stable_and_refuses() {
        let a = mock_verifier(&[9; 32], "nobody");
        assert_eq!(a.salt, mock_verifier(&[9; 32], "nobody").salt);
        assert_ne!(a.salt, mock_verifier(&[9; 32], "somebody").salt);
    }

    /// RFC 7677 §3, the example exchange.
    #[test]
    fn rfc_7677_example() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let (keys, _) = keys("pencil", &salt, 4096);
        let server_first =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = Proof {
            first_bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".into(),
            server_first: server_first.into(),
            nonce: "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".into(),
        };
        assert!(proof.last(&keys).ends_with(",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
        assert_eq!(proof.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", &keys), Ok(()));
    }
}
