//! temporary
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flow::access::ScramVerifier;
use ring::rand::SecureRandom;

pub(crate) fn parse(text: &str) -> Option<ScramVerifier> {
    let rest = text.strip_prefix("SCRAM-SHA-256$")?;
    let (head, keys) = rest.split_once('$')?;
    let (iterations, salt) = head.split_once(':')?;
    let (stored, server) = keys.split_once(':')?;
    let key = |t: &str| STANDARD.decode(t).ok()?.try_into().ok();
    Some(ScramVerifier {
        iterations: iterations.parse().ok().filter(|i| *i > 0)?,
        salt: STANDARD.decode(salt).ok()?,
        stored_key: key(stored)?,
        server_key: key(server)?,
    })
}

pub(crate) fn derive(password: &str) -> Result<ScramVerifier, String> {
    use ring::{digest, hmac, pbkdf2};
    let mut salt = vec![0; 16];
    ring::rand::SystemRandom::new().fill(&mut salt).map_err(|_| "no random numbers".to_owned())?;
    let iterations = 4096;
    let mut salted = [0_u8; 32];
    let n = std::num::NonZeroU32::new(iterations).ok_or("iterations")?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, n, &salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = hmac::sign(&key, b"Client Key");
    let server = hmac::sign(&key, b"Server Key");
    Ok(ScramVerifier {
        iterations,
        salt,
        stored_key: digest::digest(&digest::SHA256, client.as_ref())
            .as_ref()
            .try_into()
            .map_err(|_| "size")?,
        server_key: server.as_ref().try_into().map_err(|_| "size")?,
    })
}
