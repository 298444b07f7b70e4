//! Criterion over every loop; the bodies are in `src`, a file per hot loop, so that tests and instruction counts run the same ones.
//!
//! One target for all of them: each costs a link-time optimisation of everything that ships.

fn main() {
    benches::criterion();
}
