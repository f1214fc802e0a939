//! Archives that are cut off, changed or made to hurt: an error or the right disk, and nothing left behind.

mod image;

use std::io::Write as _;
use std::path::Path;

use image::{DISK, Item, LayerFile, Layout, disk, entry, fetch, gzip, leftovers};
use ocne_container::{Cache, Digest, FetchError, LayerError};

/// A small archive and its disk.
fn archive(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    let content = disk(9000, 20);
    let layout = Layout::single(dir.join("layout"), &[LayerFile::with_disk(&content)]);
    let path = dir.join("whole.tar");
    layout.archive(&path, false);
    (fs_err::read(path).unwrap(), content)
}

/// Fetches from these bytes as an archive: an error, or the right disk.
fn attempt(dir: &Path, bytes: &[u8], content: &[u8], what: &str) -> bool {
    let path = dir.join("damaged.tar");
    fs_err::write(&path, bytes).unwrap();
    let cache = dir.join("cache");
    let result = fetch(&cache, &format!("oci-archive:{}", path.display()), "amd64");
    let entries = Cache::new(&cache).list().unwrap();
    match result {
        Ok(found) => {
            assert!(fs_err::read(found.path).unwrap() == content, "{what}");
            Cache::new(&cache).prune(None).unwrap();
            true
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(entries, [], "{what}");
            false
        }
    }
}

#[test]
fn archives_that_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, content) = archive(dir.path());
    let mut lengths: Vec<usize> = (0..whole.len()).step_by(509).collect();
    lengths.extend((0..whole.len()).step_by(512));
    // Without the blocks of zeros at the end it is still whole: other programs leave them out too.
    let needed = whole.len() - 1024;
    for len in lengths {
        let right = attempt(dir.path(), &whole[..len], &content, &format!("cut to {len} bytes"));
        assert!(!right || len >= needed, "cut to {len} of {needed} bytes");
    }
    assert!(attempt(dir.path(), &whole[..needed], &content, "without its end"));
}

#[test]
fn archives_with_a_wrong_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, content) = archive(dir.path());
    let mut bytes = whole.clone();
    for at in (0..whole.len()).step_by(61) {
        let bit = 1 << (at % 8);
        bytes[at] ^= bit;
        attempt(dir.path(), &bytes, &content, &format!("bit {bit} of byte {at}"));
        bytes[at] ^= bit;
    }
    assert!(attempt(dir.path(), &bytes, &content, "none"));
}

#[test]
fn a_changed_layer_is_named_with_both_digests() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&disk(400_000, 21))]);
    let blobs = layout.path.join("blobs/sha256");
    let large = fs_err::read_dir(&blobs).unwrap().map(|e| e.unwrap().path());
    let layer = large.max_by_key(|p| fs_err::metadata(p).unwrap().len()).unwrap();
    let whole = fs_err::read(&layer).unwrap();
    for at in [0, 9, 100, 200_000, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs_err::write(&layer, &bytes).unwrap();
        let error = fetch(&dir.path().join("cache"), &layout.reference(), "amd64").unwrap_err();
        assert!(
            matches!(&error, FetchError::DigestMismatch { expected, found, .. } if expected != found),
            "{error:?}"
        );
        assert!(error.to_string().contains(&layer.file_name().unwrap().display().to_string()));
        assert!(error.hint().is_some());
    }
    for len in [0, whole.len() - 1] {
        fs_err::write(&layer, &whole[..len]).unwrap();
        let error = fetch(&dir.path().join("cache"), &layout.reference(), "amd64").unwrap_err();
        assert!(matches!(error, FetchError::SizeMismatch { .. }), "{error:?}");
    }
}

/// Fetches a layer of which the tar file has these bytes.
fn fetch_tar(plain: Vec<u8>) -> FetchError {
    let dir = tempfile::tempdir().unwrap();
    let mut layer = LayerFile::gzip(&[]);
    layer.blob = gzip(&plain);
    layer.plain = plain;
    let layout = Layout::single(dir.path().join("layout"), &[layer]);
    fetch(&dir.path().join("cache"), &layout.reference(), "amd64").unwrap_err()
}

#[test]
fn layers_that_are_right_by_digest_and_wrong_inside() {
    let damaged = |error: &FetchError| matches!(error, FetchError::Layer { source: LayerError::Tar(_), .. });
    let whole = image::tar_file(&[Item::File(DISK, &disk(9000, 22))]);
    for plain in [
        Vec::new(),
        whole[..100].to_vec(),
        whole[..3000].to_vec(),
        vec![1; 4096],
        [&whole[..], &[7; 700]].concat()[..512].to_vec(),
    ] {
        let error = fetch_tar(plain);
        assert!(damaged(&error), "{error:?}");
    }
    // Sizes that no file can have, in both ways of writing them.
    for size in
        [&b"77777777777\0"[..], &[0xFF; 12], &[0x80, 0, 0, 0, 0x7F, 255, 255, 255, 255, 255, 255, 255]]
    {
        let mut plain = whole.clone();
        plain[124..136].copy_from_slice(size);
        plain[148..156].fill(b' ');
        let sum: u32 = plain[..512].iter().map(|&b| u32::from(b)).sum();
        plain[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let error = fetch_tar(plain);
        assert!(damaged(&error) || matches!(error, FetchError::NoSpace { .. }), "{error:?}");
    }
    // A name of 2 MB, and attributes that are none.
    let mut long = Vec::new();
    entry(&mut long, "././@LongLink", b'L', "", &vec![b'a'; 2 << 20]);
    assert!(damaged(&fetch_tar(long)));
    for record in ["10 path=a", "99 path=a\n", "x", "0 path=\n", "18446744073709551616 a=b\n"] {
        let mut pax = Vec::new();
        entry(&mut pax, "PaxHeaders", b'x', "", record.as_bytes());
        pax.extend_from_slice(&whole);
        assert!(damaged(&fetch_tar(pax)), "{record:?}");
    }
}

#[test]
fn a_bomb_is_refused_early() {
    let dir = tempfile::tempdir().unwrap();
    // 400 MB of zeros, which become 400 KB.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    let mut head = image::tar_file(&[Item::File("zeros", b"")]);
    head.truncate(512);
    head[124..135].copy_from_slice(format!("{:011o}", 400_u64 << 20).as_bytes());
    head[148..156].fill(b' ');
    let sum: u32 = head.iter().map(|&b| u32::from(b)).sum();
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    encoder.write_all(&head).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..400 {
        encoder.write_all(&zeros).unwrap();
    }
    let mut layer = LayerFile::gzip(&[]);
    layer.blob = encoder.finish().unwrap();
    let layout = Layout::single(dir.path().join("layout"), &[layer]);
    let error = fetch(&dir.path().join("cache"), &layout.reference(), "amd64").unwrap_err();
    assert!(matches!(error, FetchError::Layer { source: LayerError::Bomb { .. }, .. }), "{error:?}");
}

/// What `docker save` writes has layers of which only the content's digest is known; they may be compressed.
#[test]
fn layers_of_docker_archives_are_verified_by_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let mut layer = LayerFile::with_disk(&disk(9000, 23));
    for (compressed, changed) in [(false, false), (true, false), (false, true), (true, true)] {
        let config = serde_json::json!({ "os": "linux", "architecture": "amd64",
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer.plain).to_string()] } })
        .to_string();
        layer.plain[4000] ^= u8::from(changed);
        let blob = if compressed { gzip(&layer.plain) } else { layer.plain.clone() };
        let list = r#"[{"Config":"config.json","RepoTags":null,"Layers":["layer.tar"]}]"#;
        let path = dir.path().join(format!("{compressed}-{changed}.tar"));
        let items = [
            Item::File("layer.tar", &blob),
            Item::File("config.json", config.as_bytes()),
            Item::File("manifest.json", list.as_bytes()),
        ];
        fs_err::write(&path, image::tar_file(&items)).unwrap();
        let cache = dir.path().join(format!("cache-{compressed}-{changed}"));
        match fetch(&cache, &format!("docker-archive:{}", path.display()), "amd64") {
            Ok(_) => assert!(!changed),
            Err(error) => assert!(changed && error.to_string().contains("uncompressed"), "{error}"),
        }
    }
    assert!(leftovers(dir.path()).is_empty());
}
