#![no_main]
//! Files of credentials.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| ocne_container::fuzzing::auth_file(text));
