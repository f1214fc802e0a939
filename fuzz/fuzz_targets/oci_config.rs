#![no_main]
//! `~/.oci/config`.

use libfuzzer_sys::fuzz_target;
use ocne_oracle::ConfigFile;

fuzz_target!(|text: &str| {
    if let Ok(file) = ConfigFile::parse(text) {
        let names: Vec<String> = file.profiles().map(str::to_owned).collect();
        for name in names {
            assert!(file.has(&name));
            let _ = file.get(&name, "key_file");
        }
    }
});
