//! Ways in for `fuzz/`, to what reads bytes from outside.

use std::io::Cursor;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::checksum::Checksum;
use crate::content::read_archived_header;
use crate::image::ImageOptions;
use crate::import::{Layers, import};
use crate::metadata::{Commit, check_dirmeta, check_xattrs, read_dirtree};
use crate::source::Encapsulated;

/// Reads metadata of every kind.
pub fn metadata(bytes: &[u8]) {
    let _ = Commit::parse(bytes);
    let _ = read_dirtree(bytes, &mut |_| {});
    let _ = check_dirmeta(bytes);
    let _ = check_xattrs(bytes);
    if let Ok(header) = read_archived_header(bytes) {
        assert!(header.header_bytes <= bytes.len());
    }
}

/// Goes through a layer with a repository, as one that another machine made.
pub fn repository(layer: &std::fs::File, size_bytes: u64) {
    let place = crate::verify::Place { offset_bytes: 0, size_bytes };
    let _ = crate::audit::repository(layer, place, "ock", &AtomicBool::new(false));
}

/// Reads a configuration, and layers: an image of one layer, given as it is transferred.
pub fn image(config: &[u8], layer: &[u8]) {
    let _ = Encapsulated::parse(config);
    let source = Encapsulated {
        diff_ids: vec![Checksum::of(layer).digest()],
        labels: std::collections::BTreeMap::new(),
        architecture: "amd64".to_owned(),
    };
    let layers = Layers {
        sizes_bytes: vec![layer.len() as u64],
        open: Box::new(move |_| Ok(Box::new(Cursor::new(layer.to_vec())))),
    };
    let options = ImageOptions {
        ref_name: "ock".to_owned(),
        image_name: String::new(),
        level: 1,
        workers: 1,
        source: None,
    };
    let (count, cancel) = (AtomicU64::new(0), AtomicBool::new(false));
    let _ = import(&source, layers, &options, &count, &cancel, &mut |_| Ok(()));
}
