//! The slow half: recording, catalogues, key derivation. What may wait waits here, so that workers never do.
//!
//! Not an engine and not a protocol: it sees neither sockets of clients nor bytes of a session. Invariant: when this half stalls
//! or dies, workers fail closed; nothing they decide gets looser.
//!
//! Reading order: [`record`] (what happened), [`ids`] (what things are called).
#![deny(unsafe_code)]

pub mod ids;
pub mod record;
