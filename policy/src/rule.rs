//! Rules as people write them (`policy/*.yaml`), and the [`Policy`] compiled from them.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::judge::Judge;
use crate::subject::Subject;

/// A compiled, immutable policy: every file of a configuration together.
#[derive(Debug, Default)]
pub struct Policy {
    pub revision: String,
}

/// The rules that touch one subject on one connection.
#[derive(Debug, Default)]
pub struct Scope {}

impl Policy {
    /// The rules that touch `subject` on `connection`. Same rules, same `Arc`.
    pub fn scope(&self, _subject: &Subject, _connection: &str) -> Arc<Scope> {
        Arc::new(Scope {})
    }
}

impl Scope {
    /// No rule touches: bytes are forwarded untouched, no catalogue is needed.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// A mask rule is in force (enforced, not only observed).
    pub fn masks(&self) -> bool {
        false
    }

    /// How many rules, for the banner.
    pub fn rules(&self) -> usize {
        0
    }

    /// Resolves the rules' tables and columns against a catalogue.
    pub fn bind(self: &Arc<Scope>, catalog: Arc<Catalog>) -> Judge {
        Judge { scope: self.clone(), catalog }
    }
}
