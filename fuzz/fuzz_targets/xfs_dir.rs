#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocne_xfs::fuzzing::dir(data));
