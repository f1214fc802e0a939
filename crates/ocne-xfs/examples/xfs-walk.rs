//! Lists every file of a file system in a raw file: type, size, CRC-32C of the content, attributes, path.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::error::Error;

use ocne_disk::RawDevice;
use ocne_xfs::{FileType, Volume};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: xfs-walk FILE")?;
    let volume = Volume::open(RawDevice::open(path.as_ref())?)?;
    let mut todo = vec![(String::new(), volume.superblock().root_inode)];
    while let Some((dir, ino)) = todo.pop() {
        for e in volume.read_dir(ino)? {
            let path = format!("{dir}/{}", String::from_utf8_lossy(&e.name));
            let content = match e.file_type {
                FileType::Regular => volume.read_file(e.ino, 1 << 30)?,
                FileType::Symlink => volume.read_link(e.ino)?,
                _ => Vec::new(),
            };
            let attrs: Vec<String> = volume
                .xattrs(e.ino)?
                .into_iter()
                .map(|a| {
                    format!(
                        "{}{}={:08x}",
                        a.namespace.prefix(),
                        String::from_utf8_lossy(&a.name),
                        crc32c::crc32c(&a.value)
                    )
                })
                .collect();
            let inode = volume.inode(e.ino)?;
            println!(
                "{:o} {} {} {:08x} {path} {}",
                inode.mode,
                inode.nlink,
                if e.file_type == FileType::Directory { 0 } else { inode.size_bytes },
                crc32c::crc32c(&content),
                attrs.join(" ")
            );
            if e.file_type == FileType::Directory {
                todo.push((path, e.ino));
            }
        }
    }
    Ok(())
}
