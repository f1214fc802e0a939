#![no_main]
//! Loader entries: edits change what they are to change, and nothing else.

use libfuzzer_sys::fuzz_target;
use ocne_bootimage::Uuid;
use ocne_bootimage::kernel_args::{arguments, last_value};
use ocne_bootimage::loader_entry::LoaderEntry;

const OLD: Uuid = Uuid([0x11; 16]);
const NEW: Uuid = Uuid([0xab; 16]);

fuzz_target!(|text: &[u8]| {
    let entry = LoaderEntry::new(text.to_vec());
    let options = entry.options();
    let count = arguments(&options).count();
    let lines = entry.values("options").len();

    let mut same = entry.clone();
    same.replace_uuid(OLD, NEW);
    same.replace_uuid(NEW, OLD);
    assert!(
        same.text().eq_ignore_ascii_case(text)
            || text.to_ascii_lowercase().windows(36).any(|w| w == NEW.to_string().as_bytes())
    );

    let mut appended = entry.clone();
    appended.append("fuzz=1");
    assert_eq!(appended.text().len(), text.len() + lines * " fuzz=1".len());
    if lines > 0 && !options.contains(&b'"') {
        assert_eq!(last_value(&appended.options(), "fuzz"), Some(&b"1"[..]));
        assert_eq!(arguments(&appended.options()).count(), count + lines);
    }

    let mut platform = entry.clone();
    if platform.set_platform("oci") {
        let once = platform.text().to_vec();
        platform.set_platform("oci");
        assert_eq!(platform.text(), once);
    } else {
        assert_eq!(platform.text(), text);
    }
    let mut replaced = entry;
    replaced.replace_argument("console=ttyS0", "console=tty0");
});
