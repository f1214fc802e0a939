#![no_main]
//! Manifests, indexes, configurations and the list of images in an archive.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| ocne_container::fuzzing::manifest(json));
