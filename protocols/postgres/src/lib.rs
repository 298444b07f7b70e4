//! PostgreSQL's frontend/backend protocol, version 3, as a sans-IO [`flow::Session`].
//!
//! What it is not: it opens no socket, reads no clock and waits for nothing; time and bytes come in, bytes and steps go out.
//! Source of every format: PostgreSQL documentation, chapter "Frontend/Backend Protocol"; behaviour where the chapter is silent:
//! `src/backend/tcop/postgres.c`, `src/backend/libpq/auth.c`, `src/interfaces/libpq`.
//!
//! Reading order: [`session`] (the states), [`startup`], [`login`] with [`scram`], [`target`] (our own login at the server), then
//! the long-lived part: [`ready`], [`client`] (what the client says), [`server`] (what the server answers), with [`owed`] (replies
//! still owed, in order), [`prepared`] (statements and portals as the *server* has them), [`row`] and [`copy`] (masking),
//! [`refuse`] (our own words), [`cancel`].
#![forbid(unsafe_code)]

mod cancel;
mod client;
mod copy;
mod frame;
mod login;
mod message;
mod name;
mod owed;
mod prepared;
mod ready;
mod refuse;
mod row;
mod scram;
mod server;
mod session;
mod startup;
mod target;

pub use session::Gate;
