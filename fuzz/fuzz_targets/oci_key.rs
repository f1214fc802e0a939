#![no_main]
//! Keys in PEM files, plain and encrypted.

use libfuzzer_sys::fuzz_target;
use ocne_oracle::{Secret, SigningKey};

fuzz_target!(|content: &[u8]| {
    let _ = SigningKey::from_pem(content, None);
    // Deriving keys from pass phrases takes as long as the file asks for; those have limits of their own.
    let _ = SigningKey::from_pem(content, Some(&Secret::new("open sesame")));
});
