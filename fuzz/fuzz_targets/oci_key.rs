#![no_main]
//! Keys in PEM files. Without a pass phrase, as the work of opening an encrypted one is what the file asks for.

use libfuzzer_sys::fuzz_target;
use ocne_oracle::SigningKey;

fuzz_target!(|content: &[u8]| {
    let _ = SigningKey::from_pem(content, None);
});
