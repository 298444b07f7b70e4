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
    pub(crate) disturbs: bool,
    /// Its text, kept where a later policy may have to judge it again.
    pub(crate) text: Option<Arc<[u8]>>,
    /// Which judgement it was decided under.
    pub(crate) stamp: u64,
}

/// A portal made by Bind.
pub(crate) struct Portal {
    pub(crate) decision: Option<Arc<Decision>>,
    pub(crate) disturbs: bool,
    pub(crate) number: u64,
}

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) statements: HashMap<Name, Prepared>,
    pub(crate) portals: HashMap<Name, Portal>,
}

impl Tables {
    /// A statement ran that may have made, replaced or dropped statements or portals by name: what we know of names is void.
    /// The texts stay known to the record; a later Bind to such a name is treated as unknown.
    pub(crate) fn void(&mut self) {
        self.statements.clear();
        self.portals.clear();
    }
}

/// True when a text may touch statements or cursors by name although it is otherwise harmless. Conservative: the words anywhere.
pub(crate) fn mentions_names(text: &[u8]) -> bool {
    [&b"prepare"[..], b"deallocate", b"discard", b"declare", b"close"].iter().any(|w| contains(text, w))
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
        assert!(mentions_names(b"select 1; PrePare x as select 2"));
        assert!(mentions_names(b"CLOSE c"));
        assert!(!mentions_names(b"select clos, prepar from t"));
        assert!(mentions_quoting(b"SET NAMES 'SJIS'"));
    }
}
