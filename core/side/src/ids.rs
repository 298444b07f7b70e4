//! Session and decision ids as text: the one place that knows how they look.
//!
//! A session id is a ULID: 16 bytes big-endian, 26 Crockford base-32 characters (<https://github.com/ulid/spec>). A decision id
//! is the last eight characters of its session's ULID in lower case, a dash, and the statement's number. Making session ids is
//! the protocols' business, not ours.

use flow::record::SessionId;
use ulid::Ulid;

/// `01JD9ZK4W3XR6T0V5N8Q2M7B1C`.
pub fn session_text(session: &SessionId) -> String {
    Ulid::from_bytes(*session).to_string()
}

/// Reads a whole ULID; lower case is accepted. `None`: not one.
pub fn parse_session(text: &str) -> Option<SessionId> {
    // The specification's largest: a first character above 7 would not fit 128 bits.
    if text.len() != SESSION_CHARS || text.as_bytes().first().is_none_or(|c| !(b'0'..=b'7').contains(c)) {
        return None;
    }
    Ulid::from_string(&text.to_ascii_uppercase()).ok().map(|u| u.to_bytes())
}

/// `n8q2m7b1-17`: statement 17 of the session whose id ends so.
pub fn decision(session: &SessionId, number: u64) -> String {
    format!("{}-{number}", tail(session))
}

/// Takes a decision id apart: the end of the session's id (upper case) and the statement's number.
pub fn parse_decision(text: &str) -> Option<(String, u64)> {
    let (tail, number) = text.rsplit_once('-')?;
    (!tail.is_empty() && tail.bytes().all(|b| b.is_ascii_alphanumeric()))
        .then(|| number.parse().ok().map(|n| (tail.to_ascii_uppercase(), n)))?
}

fn tail(session: &SessionId) -> String {
    let text = session_text(session);
    text.get(SESSION_CHARS - DECISION_CHARS..).unwrap_or_default().to_ascii_lowercase()
}

const SESSION_CHARS: usize = 26;
const DECISION_CHARS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_specifications_example_reads_both_ways() {
        let id = parse_session("01ARZ3NDEKTSV4RRFFQ69G5FAV").unwrap();
        assert_eq!(session_text(&id), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(parse_session("01arz3ndektsv4rrffq69g5fav"), Some(id));
        assert_eq!(decision(&id, 17), "q69g5fav-17");
        assert_eq!(parse_decision("q69g5fav-17"), Some(("Q69G5FAV".into(), 17)));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for text in [
            "",
            "01ARZ3",
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
            "é1ARZ3NDEKTSV4RRFFQ69G5FA",
        ] {
            assert_eq!(parse_session(text), None, "{text}");
        }
        for text in ["", "-", "q69g5fav", "q69g5fav-", "q69g5fav-x", "-3", "a b-3"] {
            assert_eq!(parse_decision(text), None, "{text}");
        }
    }
}
