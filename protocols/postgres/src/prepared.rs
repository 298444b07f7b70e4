//! Prepared statements and portals as the *server* has them: entries appear when it says ParseComplete or BindComplete, not when
//! the client asks, because a pipeline that fails leaves the old ones in force.

use std::collections::HashMap;
use std::sync::Arc;

use policy::Decision;

use crate::name::Name;

/// A prepared statement.
pub(crate) struct Prepared {
    /// The number of the record entry that holds its text.
    pub(crate) number: u64,
    /// `None`: no rule touched the session when it was prepared.
    pub(crate) decision: Option<Arc<Decision>>,
    pub(crate) disturbs: Disturbs,
    /// Its text, kept where a later policy may have to judge it again.
    pub(crate) text: Option<Arc<[u8]>>,
    /// Which judgement it was decided under.
    pub(crate) stamp: u64,
}

/// A portal made by Bind.
pub(crate) struct Portal {
    pub(crate) decision: Option<Arc<Decision>>,
    pub(crate) disturbs: Disturbs,
    pub(crate) number: u64,
}

/// Which names a statement may give to something else behind the protocol's back (SQL's PREPARE, DEALLOCATE, DECLARE, CLOSE, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disturbs {
    pub(crate) statements: bool,
    pub(crate) portals: bool,
}

impl Disturbs {
    pub(crate) const ALL: Disturbs = Disturbs { statements: true, portals: true };

    /// Conservative: the words anywhere in the text, or anything the text calls that is not known.
    pub(crate) fn of(text: &[u8], decision: Option<&Decision>) -> Disturbs {
        let Some(decision) = decision else { return Disturbs::ALL };
        let says = |words: &[&[u8]]| words.iter().any(|w| contains(text, w));
        Disturbs {
            statements: decision.strangers || says(&[b"prepare", b"deallocate", b"discard"]),
            portals: decision.strangers || says(&[b"declare", b"close", b"discard"]),
        }
    }

    pub(crate) fn any(self) -> bool {
        self.statements || self.portals
    }
}

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) statements: HashMap<Name, Prepared>,
    pub(crate) portals: HashMap<Name, Portal>,
}

impl Tables {
    /// A statement ran that may have made, replaced or dropped what names stand for: what we know of them is void, and a later use of
    /// such a name is one of something unknown. The record keeps the texts.
    pub(crate) fn void(&mut self, disturbs: Disturbs) {
        if disturbs.statements {
            self.statements.clear();
        }
        if disturbs.portals {
            self.portals.clear();
        }
    }
}

/// True when a text may change the client's encoding or the meaning of backslashes.
pub(crate) fn mentions_quoting(text: &[u8]) -> bool {
    [&b"encoding"[..], b"names", b"conforming", b"set_config", b"reset", b"discard"]
        .iter()
        .any(|w| contains(text, w))
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
        assert!(contains(b"select 1; PrePare x as select 2", b"prepare"));
        assert!(contains(b"CLOSE c", b"close"));
        assert!(!contains(b"select clos, prepar from t", b"close"));
        assert!(mentions_quoting(b"SET NAMES 'SJIS'"));
    }
}
