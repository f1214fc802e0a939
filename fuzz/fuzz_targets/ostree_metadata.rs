#![no_main]
//! Commits, folders, attributes and headers of files: anything is read or refused.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ocne_ostree::fuzzing::metadata(bytes));
