//! Edits the file system in a raw file in place: `xfs-edit FILE COMMAND…`, each command one argument of words.
//!
//! `create PATH SIZE`, `replace PATH SIZE`, `mkdir PATH`, `unlink PATH`, `uuid HEX`.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use ocne_disk::RawDevice;
use ocne_xfs::{EditOptions, Editor, Label, NewInode, Timestamp, Volume};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: xfs-edit FILE COMMAND…")?;
    let volume = Volume::open(RawDevice::open(path.as_ref())?)?;
    let started = Instant::now();
    let now = Timestamp { seconds: 1_800_000_000, nanoseconds: 0 };
    let mut editor = Editor::new(&volume, EditOptions { now, seed: 1 })?;
    let new = NewInode { mode: 0o644, uid: 0, gid: 0, label: Label::Inherit };
    for command in args {
        let words: Vec<&str> = command.split_whitespace().collect();
        let target = words.get(1).copied().unwrap_or_default();
        let (parent, name) = target.rsplit_once('/').unwrap_or(("", target));
        let content = |n: &str| -> Result<Vec<u8>, std::num::ParseIntError> {
            Ok((0u8..251).cycle().take(n.parse()?).collect())
        };
        let dir = || volume.resolve(parent.as_bytes());
        match words[..] {
            ["create", _, size] => {
                editor.create_file(dir()?, name.as_bytes(), &content(size)?, &new)?;
            }
            ["replace", _, size] => {
                editor.replace_file(volume.resolve(target.as_bytes())?, &content(size)?)?;
            }
            ["mkdir", _] => {
                editor.create_dir(dir()?, name.as_bytes(), &NewInode { mode: 0o755, ..new.clone() })?;
            }
            ["unlink", _] => editor.unlink(dir()?, name.as_bytes())?,
            ["uuid", hex] => {
                editor.set_uuid(u128::from_str_radix(&hex.replace('-', ""), 16)?.to_be_bytes())?;
            }
            _ => return Err(format!("not a command: {command}").into()),
        }
    }
    let changes = editor.finish()?;
    let bytes: usize = changes.values().map(Vec::len).sum();
    println!("{} ranges, {bytes} bytes, {:?}", changes.len(), started.elapsed());
    let file = fs_err::OpenOptions::new().write(true).open(&path)?;
    for (at, bytes) in changes {
        file.file().write_all_at(&bytes, at)?;
    }
    Ok(())
}
