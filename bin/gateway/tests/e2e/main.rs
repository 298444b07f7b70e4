//! End to end: the real binary, real PostgreSQL servers, unmodified drivers, from outside.
//!
//! Not unit tests: nothing of ours is linked, only started. Everything a test needs (two servers, certificates, a Python and a
//! Node environment) is made once per run by [`servers`], and ends with this process, however it ends.
//! Invariant: whatever is compared was produced in the same run, once direct and once through the gateway.
#![forbid(unsafe_code)]
// `cfg(test)` is always true here; it tells clippy that these are tests, helpers and all.

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod cuts;
#[cfg(test)]
mod drivers;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod wire;
