//! What the micro-benchmarks share: inputs and loop bodies of every hot loop, each run once by `cargo test` on tiny inputs.
//!
//! Not a test of behaviour, and nothing here is linked into the gateway. Invariant: a loop reaches the crates through the same
//! public doors as the engine does; nothing is made public for a bench.
#![forbid(unsafe_code)]
