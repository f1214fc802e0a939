//! Files in memory for targets that work on files.

use std::cell::RefCell;
use std::io::{Seek as _, Write as _};
use std::path::PathBuf;

/// A file with this content, read and written; the same one every time.
pub fn of(data: &[u8]) -> fs_err::File {
    thread_local!(static FILE: RefCell<Option<std::fs::File>> = const { RefCell::new(None) });
    FILE.with_borrow_mut(|slot| {
        let file = slot.get_or_insert_with(|| tempfile::tempfile_in(memory()).expect("a temporary file"));
        file.set_len(0).expect("empty it");
        file.rewind().expect("rewind it");
        file.write_all(data).expect("fill it");
        let again = file.try_clone().expect("another handle");
        fs_err::File::from_parts(again, PathBuf::from("input"))
    })
}

fn memory() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}
