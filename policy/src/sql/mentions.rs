//! Words in a text that a session must be careful about, whatever the statement around them turns out to be.
//!
//! Not an analysis: conservative on purpose, the words anywhere in the text, in any case. What a text does without saying so is
//! [`crate::Decision::strangers`].

/// What a text may touch behind the protocol's back. Computed once per cached decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Prepared statements by name: SQL's PREPARE, DEALLOCATE, DISCARD.
    pub statements: bool,
    /// Cursors by name: DECLARE, CLOSE, DISCARD.
    pub portals: bool,
    /// The client's encoding, or what a backslash means.
    pub quoting: bool,
}

impl Mentions {
    pub(crate) fn of(text: &[u8]) -> Mentions {
        let says = |words: &[&[u8]]| words.iter().any(|w| contains(text, w));
        Mentions {
            statements: says(&[b"prepare", b"deallocate", b"discard"]),
            portals: says(&[b"declare", b"close", b"discard"]),
            quoting: says(&[b"encoding", b"names", b"conforming", b"set_config", b"reset", b"discard"]),
        }
    }
}

/// ASCII case-insensitive search; `word` is lower-case.
fn contains(text: &[u8], word: &[u8]) -> bool {
    let Some(first) = word.first() else { return true };
    let mut rest = text;
    while let Some(at) = memchr::memchr2(*first, first.to_ascii_uppercase(), rest) {
        let Some(here) = rest.get(at..) else { return false };
        if here.get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word)) {
            return true;
        }
        rest = here.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_any_case() {
        assert!(Mentions::of(b"select 1; PrePare x as select 2").statements);
        assert!(Mentions::of(b"CLOSE c").portals && !Mentions::of(b"CLOSE c").statements);
        assert_eq!(Mentions::of(b"select clos, prepar from t"), Mentions::default());
        assert!(Mentions::of(b"SET NAMES 'SJIS'").quoting);
    }
}
