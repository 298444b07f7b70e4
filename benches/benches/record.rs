//! Criterion over the loops of `src/record.rs`; the bodies are there, so that tests and instruction counts run the same.

fn main() {
    benches::criterion("record");
}
