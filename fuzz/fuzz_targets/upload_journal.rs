#![no_main]
//! Journals of uploads.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ocne_upload::fuzzing::journal(bytes));
