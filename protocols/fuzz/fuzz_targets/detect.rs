//! `policy::detect::fuzz_detect`: any bytes under every detector.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| policy::detect::fuzz_detect(bytes));
