//! Disks out of folders and archives, and what the cache makes of them.

mod image;

use image::{DISK, Item, LayerFile, Layout, disk, fetch, has, skopeo, with_platform};
use ocne_container::{ErrorKind, FetchError, LayerError};

/// Fetches the only image of a layout with these layers.
fn fetch_layers(layers: &[LayerFile]) -> Result<Vec<u8>, FetchError> {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::single(dir.path().join("layout"), layers);
    let found = fetch(&dir.path().join("cache"), &layout.reference(), "amd64")?;
    Ok(fs_err::read(found.path).unwrap())
}

#[test]
fn every_transport_gives_the_same_disk_and_the_same_cache_entry() {
    if !has("skopeo", "every_transport_gives_the_same_disk_and_the_same_cache_entry") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let content = disk(3_000_001, 1);
    let layout = Layout::single(at("layout"), &[LayerFile::with_disk(&content)]);
    let from = layout.reference();
    skopeo(&["copy", &from, &format!("oci-archive:{}:ock:1", at("a.tar"))]);
    skopeo(&["copy", &from, &format!("docker-archive:{}:ock:1", at("d.tar"))]);
    skopeo(&["copy", &from, &format!("dir:{}", at("dir"))]);
    skopeo(&["copy", "--format", "v2s2", &from, &format!("dir:{}", at("dir2"))]);
    let references = [
        from,
        format!("oci-archive:{}", at("a.tar")),
        format!("oci-archive:{}:ock:1", at("a.tar")),
        format!("docker-archive:{}", at("d.tar")),
        format!("docker-archive:{}:ock:1", at("d.tar")),
        format!("docker-archive:{}:@0", at("d.tar")),
        format!("dir:{}", at("dir")),
        format!("dir:{}", at("dir2")),
    ];
    let shared = dir.path().join("shared");
    for (i, reference) in references.iter().enumerate() {
        let alone = fetch(&dir.path().join(format!("cache{i}")), reference, "amd64").unwrap();
        assert!(fs_err::read(&alone.path).unwrap() == content, "{reference}");
        assert!(alone.verified_now && !alone.from_cache);
        let again = fetch(&shared, reference, "amd64").unwrap();
        // The first one, and the first that has the layer without compression.
        assert_eq!(again.from_cache, !matches!(i, 0 | 3), "{reference}");
        assert_eq!(again.disk_blake3, alone.disk_blake3);
    }
}

#[test]
fn archives_with_the_index_first_or_last() {
    let dir = tempfile::tempdir().unwrap();
    let content = disk(70_000, 2);
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&content)]);
    for first in [true, false] {
        let path = dir.path().join(format!("{first}.tar"));
        layout.archive(&path, first);
        let cache = dir.path().join(format!("cache-{first}"));
        let found = fetch(&cache, &format!("oci-archive:{}", path.display()), "amd64").unwrap();
        assert!(fs_err::read(found.path).unwrap() == content);
    }
}

#[test]
fn compressions_and_long_names() {
    let content = disk(600_000, 3);
    let deep = format!("x/{}", "n".repeat(150));
    let items =
        [Item::File(&deep, b"other"), Item::Folder("./disk/"), Item::File("./disk/boot.qcow2", &content)];
    for layer in [LayerFile::gzip(&items), LayerFile::plain(&items), LayerFile::zstd(&items)] {
        assert!(fetch_layers(&[layer]).unwrap() == content);
    }
    // Two members, and a media type that says something else.
    let mut layer = LayerFile::plain(&items);
    layer.blob = [image::gzip(&layer.plain[..5000]), image::gzip(&layer.plain[5000..])].concat();
    assert!(fetch_layers(&[layer]).unwrap() == content);
}

#[test]
fn the_uppermost_layer_counts() {
    let (old, new) = (disk(5000, 4), disk(6000, 5));
    let lower = LayerFile::with_disk(&old);
    let other = LayerFile::gzip(&[Item::File("etc/motd", b"hello")]);
    assert!(fetch_layers(&[lower.clone(), other.clone()]).unwrap() == old);
    assert!(fetch_layers(&[lower.clone(), LayerFile::with_disk(&new), other]).unwrap() == new);
    let twice = LayerFile::gzip(&[Item::File(DISK, &old), Item::File(DISK, &new)]);
    assert!(fetch_layers(&[twice]).unwrap() == new);
    for hidden in [".wh.disk", "disk/.wh.boot.qcow2", "disk/.wh..wh..opq", ".wh..wh..opq"] {
        let upper = LayerFile::gzip(&[Item::File(hidden, b"")]);
        let error = fetch_layers(&[lower.clone(), upper]).unwrap_err();
        assert!(matches!(error, FetchError::NoDisk { .. }), "{hidden}: {error:?}");
        // What the same layer has is not hidden.
        let upper = LayerFile::gzip(&[Item::File(hidden, b""), Item::File(DISK, &new)]);
        assert!(fetch_layers(&[lower.clone(), upper]).unwrap() == new);
    }
    for unrelated in [".wh.boot.qcow2", "disk/.wh.boot", "disk/boot.qcow2/.wh..wh..opq", "etc/.wh..wh..opq"] {
        let upper = LayerFile::gzip(&[Item::File(unrelated, b"")]);
        assert!(fetch_layers(&[lower.clone(), upper]).unwrap() == old, "{unrelated}");
    }
    let file = LayerFile::gzip(&[Item::File("disk", b"a file")]);
    assert!(matches!(fetch_layers(&[lower, file]), Err(FetchError::NoDisk { .. })));
}

#[test]
fn links_are_followed_inside_the_tree_only() {
    let content = disk(5000, 6);
    let real = Item::File("images/1.30.qcow2", &content);
    for link in [
        Item::Link(DISK, "../images/1.30.qcow2"),
        Item::Link(DISK, "/images/1.30.qcow2"),
        Item::HardLink(DISK, "images/1.30.qcow2"),
    ] {
        assert!(fetch_layers(&[LayerFile::gzip(&[real.clone(), link.clone()])]).unwrap() == content);
        let (upper, lower) = (LayerFile::gzip(&[link]), LayerFile::gzip(std::slice::from_ref(&real)));
        assert!(fetch_layers(&[lower, upper]).unwrap() == content);
    }
    let folder = LayerFile::gzip(&[Item::Link("disk", "data"), Item::File("data/boot.qcow2", &content)]);
    assert!(fetch_layers(&[folder]).unwrap() == content);
    let around = LayerFile::gzip(&[Item::Link(DISK, "boot.qcow2")]);
    assert!(matches!(fetch_layers(&[around]), Err(FetchError::LinkLoop { .. })));
    for bad in [
        Item::Link(DISK, "../../etc/passwd"),
        Item::HardLink(DISK, "../etc/passwd"),
        Item::HardLink(DISK, "/etc/passwd"),
        Item::File("/disk/boot.qcow2", b"x"),
        Item::File("disk/x/../boot.qcow2", b"x"),
        Item::File("../disk/boot.qcow2", b"x"),
    ] {
        let error = fetch_layers(&[LayerFile::gzip(std::slice::from_ref(&bad))]).unwrap_err();
        let escapes = matches!(&error, FetchError::Layer { source: LayerError::Escapes { .. }, .. });
        assert!(escapes, "{bad:?}: {error:?}");
    }
    // What has nothing to do with the disk may be called as it likes.
    let other = LayerFile::gzip(&[Item::File("../../etc/passwd", b"x"), Item::File(DISK, &content)]);
    assert!(fetch_layers(&[other]).unwrap() == content);
}

#[test]
fn entries_that_are_no_files_are_refused_by_name() {
    for bad in [Item::Folder(DISK), Item::Special(DISK, b'3'), Item::Special(DISK, b'6')] {
        let error = fetch_layers(&[LayerFile::gzip(&[bad])]).unwrap_err();
        assert!(matches!(&error, FetchError::Layer { source: LayerError::NotAFile { .. }, .. }), "{error:?}");
    }
    let error = fetch_layers(&[LayerFile::gzip(&[Item::Special(DISK, b'S')])]).unwrap_err();
    assert!(matches!(error, FetchError::Layer { source: LayerError::Sparse { .. }, .. }));
    let mut sparse = LayerFile::plain(&[]);
    sparse.plain.clear();
    let record = format!("31 GNU.sparse.name={DISK}\n");
    let record = format!("{}{}", record.len(), &record[2..]);
    image::entry(&mut sparse.plain, "PaxHeaders", b'x', "", record.as_bytes());
    image::entry(&mut sparse.plain, "GNUSparseFile.0/boot.qcow2", b'0', "", b"");
    sparse.plain.resize(sparse.plain.len() + 1024, 0);
    sparse.blob.clone_from(&sparse.plain);
    let error = fetch_layers(&[sparse]).unwrap_err();
    assert!(matches!(error, FetchError::Layer { source: LayerError::Sparse { .. }, .. }), "{error:?}");
}

#[test]
fn an_index_gives_the_image_for_the_platform() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path().join("layout"));
    let (amd, arm) = (disk(5000, 7), disk(5000, 8));
    let amd_image = with_platform(layout.image("amd64", &[LayerFile::with_disk(&amd)]), "amd64", None);
    let arm_image = with_platform(layout.image("arm64", &[LayerFile::with_disk(&arm)]), "arm64", Some("v8"));
    let inner = layout.nested_index(&[arm_image]);
    let outer = layout.nested_index(&[amd_image, inner]);
    layout.list(outer, Some("both"));
    let cache = dir.path().join("cache");
    for (architecture, content) in [("amd64", &amd), ("arm64", &arm)] {
        let found = fetch(&cache, &layout.reference(), architecture).unwrap();
        assert!(fs_err::read(found.path).unwrap() == *content);
        assert_eq!(found.architecture, architecture);
    }
    let error = fetch(&cache, &layout.reference(), "riscv64").unwrap_err();
    assert!(error.to_string().ends_with("it has: linux/amd64, linux/arm64/v8"), "{error}");
    // A single image is what its configuration says.
    let single = Layout::single(dir.path().join("single"), &[LayerFile::with_disk(&amd)]);
    let error = fetch(&cache, &single.reference(), "arm64").unwrap_err();
    assert!(matches!(&error, FetchError::NoSuchPlatform { .. }), "{error:?}");
    assert!(error.to_string().contains("linux/amd64"));
    // Indexes in indexes end somewhere.
    let mut deep = Layout::new(dir.path().join("deep"));
    let mut descriptor = deep.image("amd64", &[LayerFile::with_disk(&amd)]);
    for _ in 0..10 {
        descriptor = deep.nested_index(&[descriptor]);
    }
    deep.list(descriptor, None);
    assert!(matches!(fetch(&cache, &deep.reference(), "amd64"), Err(FetchError::Manifest { .. })));
}

#[test]
fn images_of_a_layout_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(dir.path().join("layout"));
    let contents = [disk(5000, 9), disk(5000, 10)];
    let mut digests = Vec::new();
    for (content, name) in contents.iter().zip(["1.30", "1.31"]) {
        let image = layout.image("amd64", &[LayerFile::with_disk(content)]);
        digests.push(image["digest"].as_str().unwrap().to_owned());
        layout.list(image, Some(name));
    }
    let cache = dir.path().join("cache");
    let error = fetch(&cache, &layout.reference(), "amd64").unwrap_err();
    assert!(error.to_string().ends_with("1.30, 1.31"), "{error}");
    for (suffix, content) in [
        (":1.30".to_owned(), &contents[0]),
        (":1.31".to_owned(), &contents[1]),
        (format!("@{}", digests[1]), &contents[1]),
    ] {
        let found = fetch(&cache, &(layout.reference() + &suffix), "amd64").unwrap();
        assert!(fs_err::read(found.path).unwrap() == *content);
    }
    let error = fetch(&cache, &(layout.reference() + ":1.29"), "amd64").unwrap_err();
    assert!(matches!(error, FetchError::NoSuchImage { .. }));
    assert_eq!(error.kind(), ErrorKind::Failed);
}

#[test]
fn what_is_missing_or_impossible_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let error = fetch(&cache, "oci-archive:/nowhere/ock.tar", "amd64").unwrap_err();
    assert!(matches!(error, FetchError::Io { .. }), "{error:?}");
    let error = fetch(&cache, &format!("oci:{}", dir.path().display()), "amd64").unwrap_err();
    assert!(error.to_string().contains("has no `oci-layout`"), "{error}");
    let packed = dir.path().join("packed.tar.gz");
    fs_err::write(&packed, image::gzip(&image::tar_file(&[Item::File("manifest.json", &disk(4000, 11))])))
        .unwrap();
    let error = fetch(&cache, &format!("docker-archive:{}", packed.display()), "amd64").unwrap_err();
    assert!(error.hint().unwrap().contains("gunzip"), "{error:?}");
    let error = fetch(&cache, "containers-storage:x", "amd64").unwrap_err();
    // Who has no program that reads it hears that.
    let is_named = matches!(error, FetchError::Program { .. } | FetchError::NoStorageProgram);
    assert!(is_named, "{error:?}");
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::gzip(&[Item::File("a", b"b")])]);
    let error = fetch(&cache, &layout.reference(), "amd64").unwrap_err();
    assert!(error.to_string().ends_with("has no file `disk/boot.qcow2`"), "{error}");
}
