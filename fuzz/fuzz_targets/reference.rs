#![no_main]
//! References: the full form of a reference means the same image.

use libfuzzer_sys::fuzz_target;
use ocne_container::ImageReference;

fuzz_target!(|text: &str| {
    if let Ok(reference) = ImageReference::parse(text) {
        let full = reference.to_string();
        let again = ImageReference::parse(&full).expect("the full form is a reference");
        assert_eq!(reference, again);
        assert_eq!(again.to_string(), full);
    }
});
