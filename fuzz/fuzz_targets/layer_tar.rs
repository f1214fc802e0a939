#![no_main]
//! Layers: the same disk, whatever the size of the pieces in which the tar file arrives.

use libfuzzer_sys::fuzz_target;

fuzz_target!(|tar: &[u8]| {
    let whole = ocne_container::fuzzing::layer(tar, 1 << 16);
    let pieces = ocne_container::fuzzing::layer(tar, 7);
    assert_eq!(whole, pieces);
});
