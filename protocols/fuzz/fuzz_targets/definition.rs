//! `policy::mask::fuzz_definition`: any bytes as the text of a definition.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| policy::mask::fuzz_definition(bytes));
