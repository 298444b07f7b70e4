//! Any bytes as a client's first: start-up packets, requests for TLS, cancels, passwords.
#![no_main]

use flow::Side;
use fuzz::{fresh, play};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let script = [(Side::Client, bytes.to_vec())];
    let whole = play(fresh(), &script, usize::MAX);
    for cut in [1, 3] {
        assert_eq!(play(fresh(), &script, cut), whole, "cut into {cut}");
    }
});
