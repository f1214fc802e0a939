//! Reading an image again after it was written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::atomic::{AtomicBool, Ordering};

use ocne_tar::{TarError, TarReader};
use sha2::{Digest as _, Sha256};

use crate::archive::{Blob, blob_name};
use crate::checksum::Checksum;
use crate::error::OstreeError;

/// Goes through a file of an image: every blob has the digest that its name says, and these are there.
pub(crate) fn verify(file: File, wanted: &[Blob], cancel: &AtomicBool) -> Result<(), OstreeError> {
    let differs = |reason: String| OstreeError::NotAsWritten { reason };
    let unreadable = |e: TarError| match e {
        TarError::Io(source) => OstreeError::Output { action: "read the image back", source },
        e => differs(e.to_string()),
    };
    let file = fs_err::File::from_parts(file, "the image");
    let mut tar = TarReader::new(BufReader::with_capacity(1 << 20, file));
    let mut found = BTreeMap::new();
    while let Some(entry) = tar.next_entry().map_err(unreadable)? {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let mut hasher = Sha256::new();
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(OstreeError::Interrupted);
            }
            let content = tar.content().map_err(unreadable)?;
            let count = content.len();
            if count == 0 {
                break;
            }
            hasher.update(content);
            tar.consume(count);
        }
        if name.starts_with("blobs/sha256/") && !name.ends_with('/') {
            let actual = blob_name(Checksum::finish(hasher));
            if name != actual {
                return Err(differs(format!("the content of `{name}` belongs to `{actual}`")));
            }
        }
        found.insert(name, entry.size_bytes);
    }
    for blob in wanted {
        let name = blob_name(blob.checksum);
        if found.get(&name) != Some(&blob.size_bytes) {
            return Err(differs(format!("`{name}` is missing, or not as large as it was")));
        }
    }
    for name in ["oci-layout", "index.json"] {
        if !found.contains_key(name) {
            return Err(differs(format!("`{name}` is missing")));
        }
    }
    Ok(())
}
