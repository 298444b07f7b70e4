//! What a session sees of the world, and what the engine sees of a session.
//!
//! This crate is the seam of the whole house: a protocol is written against [`Flow`], [`Event`] and [`Step`], the engine drives
//! any [`Session`], the side path answers an [`Ask`]. Nothing in here opens a socket, reads a clock or knows a protocol.
//!
//! Reading order: [`flow`] (bytes), [`session`] (the contract), [`record`] (what a session reports), [`access`] (who may open
//! what), [`link`] (questions to the side path), [`budget`] (what an identity has used up), [`limits`] (every bound), [`drive`] (a session without sockets, for tests).
#![forbid(unsafe_code)]

pub mod access;
pub mod budget;
pub mod drive;
pub mod flow;
pub mod limits;
pub mod link;
pub mod record;
pub mod session;

pub use crate::flow::{Flow, Out, Side};
pub use crate::link::{Answer, Ask, Desk, Reply};
pub use crate::record::Recorder;
pub use crate::session::{
    Acceptor, DialError, Event, Fault, Now, Peer, Phase, Service, Session, Step, TlsFacts,
};
