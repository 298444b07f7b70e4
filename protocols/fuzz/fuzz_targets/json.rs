//! `policy::mask::fuzz_json`: any bytes as JSON, masked at some places and by every detector.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| policy::mask::fuzz_json(bytes));
