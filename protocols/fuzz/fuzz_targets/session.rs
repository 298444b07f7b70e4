//! Any messages from both sides of a session that is logged in and under rules.
#![no_main]

use fuzz::{play, ready, script};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let script = script(bytes);
    let whole = play(ready(), &script, usize::MAX);
    for cut in [1, 7] {
        assert_eq!(play(ready(), &script, cut), whole, "cut into {cut}");
    }
});
