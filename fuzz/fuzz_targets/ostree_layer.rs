#![no_main]
//! An encapsulated image of one layer, and its configuration: converted or refused, and always ended.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &[u8])| ocne_ostree::fuzzing::image(input.0, input.1));
