//! Any bytes as a statement, judged under masks and blocks. SANITIZER=address is worth it here: the grammar is C.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| policy::judge::fuzz_statement(bytes));
