#![no_main]
//! The header `WWW-Authenticate` of registries.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| ocne_container::fuzzing::challenges(text));
