//! New compressed images: what QEMU says about them, and that they are the same every time.

mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

use ocne_disk::{
    BlockDevice as _, BlockWrite as _, CompressOptions, CompressSummary, Compression, MemoryDevice, Qcow2,
    Qcow2Error, write_compressed,
};
use support::{Random, assert_clean, assert_same, have, path, qemu_img};

fn device(random: &mut Random, len: usize) -> MemoryDevice {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let n = usize::try_from(random.below(300_000)).unwrap().min(len - bytes.len());
        bytes.extend(random.content(n));
    }
    MemoryDevice { bytes }
}

fn write(device: &MemoryDevice, to: &Path, options: CompressOptions) -> CompressSummary {
    let file = fs_err::File::create(to).unwrap();
    write_compressed(device, &file, &options, &|_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn qemu_reads_every_geometry() {
    if !have("qemu_reads_every_geometry", &["qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("qcow2"));
    let mut random = Random::from_env();
    for bits in 9..=21 {
        for compression in [Compression::Zlib, Compression::Zstd] {
            let len = 512 * usize::try_from(1 + random.below(9000)).unwrap();
            let device = device(&mut random, len);
            fs_err::write(&raw, &device.bytes).unwrap();
            let options =
                CompressOptions { compression, cluster_size_bytes: 1 << bits, ..CompressOptions::default() };
            let summary = write(&device, &image, options);
            let clusters = summary.compressed_clusters + summary.plain_clusters + summary.zero_clusters;
            assert_eq!(clusters, (len as u64).div_ceil(1 << bits), "{options:?}");
            assert_eq!(summary.file_size_bytes, fs_err::metadata(&image).unwrap().len());
            assert_clean(&image);
            assert_same(&raw, &image);
            let ours = Qcow2::open(&image).unwrap();
            assert!(
                ours.check().unwrap().is_clean() && ours.check_content().unwrap().is_empty(),
                "{options:?}"
            );
            let mut content = vec![1; len];
            ours.read_at(0, &mut content).unwrap();
            assert!(content == device.bytes, "{options:?}");
        }
    }
}

#[test]
fn the_file_is_the_same_with_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let device = device(&mut Random(3), 9 << 20);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for threads in [1, 2, 3, 8, 0] {
        let to = dir.path().join(threads.to_string());
        write(&device, &to, CompressOptions { threads, ..CompressOptions::default() });
        seen.push(fs_err::read(to).unwrap());
    }
    assert!(seen.windows(2).all(|w| w[0] == w[1]));
}

#[test]
fn levels_count_and_bad_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let device = device(&mut Random(4), 4 << 20);
    let size = |compression, level| {
        let options = CompressOptions { compression, level, ..CompressOptions::default() };
        write(&device, &dir.path().join("x"), options).file_size_bytes
    };
    assert!(size(Compression::Zlib, Some(12)) <= size(Compression::Zlib, Some(1)));
    assert_eq!(size(Compression::Zlib, None), size(Compression::Zlib, Some(1)));
    assert!(size(Compression::Zstd, Some(19)) <= size(Compression::Zstd, Some(1)));
    for (compression, level) in [(Compression::Zlib, 13), (Compression::Zlib, 0), (Compression::Zstd, 20)] {
        let options = CompressOptions { compression, level: Some(level), ..CompressOptions::default() };
        assert!(options.validate().unwrap_err().to_string().contains("level"));
    }
    let options = CompressOptions { cluster_size_bytes: 3000, ..CompressOptions::default() };
    assert!(options.validate().unwrap_err().to_string().contains("cluster size"));
}

#[test]
fn zeros_take_no_space_and_an_empty_disk_is_an_image() {
    if !have("zeros_take_no_space_and_an_empty_disk_is_an_image", &["qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for len in [0, 512, 20 << 20] {
        let summary = write(&MemoryDevice { bytes: vec![0; len] }, &image, CompressOptions::default());
        assert_eq!(summary.compressed_clusters + summary.plain_clusters, 0);
        assert!(summary.file_size_bytes <= 4 << 16, "{summary:?}");
        assert_clean(&image);
    }
}

#[test]
fn staged_writes_are_in_the_new_image() {
    if !have("staged_writes_are_in_the_new_image", &["qemu-img"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (raw, image, new) = (dir.path().join("raw"), dir.path().join("image"), dir.path().join("new"));
    let mut random = Random(5);
    // A hole of 8 MiB in the middle, and a write into it.
    let mut bytes = device(&mut random, 3 << 20).bytes;
    bytes.resize(11 << 20, 0);
    fs_err::write(&raw, &bytes).unwrap();
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", path(&raw), path(&image)]);
    let mut qcow2 = Qcow2::open(&image).unwrap();
    for at in [5, 100_000, 7 << 20] {
        qcow2.write_at(at, b"staged").unwrap();
        bytes[usize::try_from(at).unwrap()..][..6].copy_from_slice(b"staged");
    }
    let file = fs_err::File::create(&new).unwrap();
    write_compressed(&qcow2, &file, &CompressOptions::default(), &|_| ControlFlow::Continue(())).unwrap();
    fs_err::write(&raw, &bytes).unwrap();
    assert_clean(&new);
    assert_same(&raw, &new);
}

#[test]
fn progress_goes_up_and_can_stop_it() {
    let dir = tempfile::tempdir().unwrap();
    let device = device(&mut Random(6), 5 << 20);
    let file = fs_err::File::create(dir.path().join("x")).unwrap();
    let seen = Mutex::new(Vec::new());
    let stop = |done| {
        seen.lock().unwrap().push(done);
        if done >= 3 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let e = write_compressed(&device, &file, &CompressOptions::default(), &stop).unwrap_err();
    assert!(matches!(e, Qcow2Error::Interrupted));
    assert_eq!(*seen.lock().unwrap(), [1 << 20, 2 << 20, 3 << 20]);
    assert!(Qcow2::open(&dir.path().join("x")).is_err(), "what was stopped is no image");
}
