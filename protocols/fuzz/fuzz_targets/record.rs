//! Bytes of a record entry, as a torn or tampered log would have them: never a panic, and what is read is what would be written.
#![no_main]

use flow::record::Entry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = Entry::decode(bytes) {
        let mut again = Vec::new();
        entry.encode(&mut again);
        assert_eq!(Entry::decode(&again).as_ref(), Ok(&entry), "reads differently after a round trip");
    }
});
