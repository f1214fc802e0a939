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

/// The most files of an image.
const ENTRIES_MAX: usize = 10_000;

/// Where a file of an image is in its archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub offset_bytes: u64,
    pub size_bytes: u64,
}

fn differs(reason: String) -> OstreeError {
    OstreeError::NotAsWritten { reason }
}

/// Goes through a file of an image: every blob has the digest that its name says.
pub(crate) fn blobs(file: File, cancel: &AtomicBool) -> Result<BTreeMap<String, Place>, OstreeError> {
    let unreadable = |e: TarError| match e {
        TarError::Io(source) => OstreeError::Output { action: "read the image back", source },
        e => differs(e.to_string()),
    };
    let file = fs_err::File::from_parts(file, "the image");
    let mut tar = TarReader::new(BufReader::with_capacity(1 << 20, file));
    let mut found = BTreeMap::new();
    while let Some(entry) = tar.next_entry().map_err(unreadable)? {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let place = Place { offset_bytes: tar.position_bytes(), size_bytes: entry.size_bytes };
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
        found.insert(name, place);
        if found.len() > ENTRIES_MAX {
            return Err(differs(format!("it has more than {ENTRIES_MAX} files")));
        }
    }
    Ok(found)
}

/// The same, and these blobs are there.
pub(crate) fn verify(file: File, wanted: &[Blob], cancel: &AtomicBool) -> Result<(), OstreeError> {
    let found = blobs(file, cancel)?;
    for blob in wanted {
        let name = blob_name(blob.checksum);
        if found.get(&name).is_none_or(|place| place.size_bytes != blob.size_bytes) {
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
