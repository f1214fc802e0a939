//! The same images through three implementations: what one wrote, the others read.
//!
//! Each is used only where it is known to be right: imago 0.2.6 knows no zstd, and qcow2-rs 0.1.6 gives back one host
//! cluster too many for some compressed ranges and hangs with clusters of 512 bytes.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use imago::file::File;
use imago::{FormatAccess, FormatDriverBuilder as _, PermissiveImplicitOpenGate};
use ocne_disk::{BlockDevice as _, BlockWrite as _, CompressOptions, Qcow2, RawDevice, write_compressed};
use qcow2_rs::dev::Qcow2DevParams;
use qcow2_rs::helpers::Qcow2IoBuf;
use qcow2_rs::qcow2_default_params;
use qcow2_rs::utils::qcow2_setup_dev_sync;

const SIZE: usize = 6 << 20;

fn have_qemu_img(test: &str) -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        let _ = std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("SKIPPED {test}: qemu-img is not installed\n"),
        );
    }
    there
}

fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    assert!(output.status.success(), "qemu-img {args:?}: {output:?}");
}

fn path(p: &Path) -> &str {
    p.to_str().unwrap()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    /// Zeros, text, noise of 4 bits, noise.
    fn content(&mut self, len: usize) -> Vec<u8> {
        let kind = self.below(4);
        (0..len)
            .map(|i| match kind {
                0 => 0,
                1 => b"some text; "[i % 11],
                2 => u8::try_from(self.below(16)).unwrap(),
                _ => u8::try_from(self.below(256)).unwrap(),
            })
            .collect()
    }

    fn disk(&mut self) -> Vec<u8> {
        let mut disk = Vec::new();
        while disk.len() < SIZE {
            let len = (1 + self.below(200_000)).min(SIZE - disk.len());
            disk.extend(self.content(len));
        }
        disk
    }
}

fn with_ours(image: &Path) -> Vec<u8> {
    let qcow2 = Qcow2::open(image).unwrap();
    assert!(qcow2.check().unwrap().is_clean());
    let mut content = vec![0; SIZE];
    qcow2.read_at(0, &mut content).unwrap();
    content
}

fn with_imago(image: &Path) -> Vec<u8> {
    let qcow2 =
        imago::qcow2::Qcow2::<File>::builder_path(image).open(PermissiveImplicitOpenGate::default()).unwrap();
    let mut content = vec![0; SIZE];
    FormatAccess::new(qcow2).read(content.as_mut_slice(), 0).unwrap();
    content
}

fn with_qcow2_rs(image: &Path) -> Vec<u8> {
    let device = qcow2_setup_dev_sync(image, &qcow2_default_params!(true, false)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut content = Qcow2IoBuf::<u8>::new(SIZE);
    runtime.block_on(async {
        device.qcow2_prep_io().await.unwrap();
        device.read_at(&mut content, 0).await.unwrap();
    });
    content.to_vec()
}

fn assert_all_read(image: &Path, model: &[u8], what: &str) {
    qemu_img(&["check", "-q", path(image)]);
    assert!(with_ours(image) == model, "{what}: ours");
    assert!(with_imago(image) == model, "{what}: imago");
    assert!(with_qcow2_rs(image) == model, "{what}: qcow2-rs");
}

/// Random writes, 512-byte aligned if asked for.
fn writes(random: &mut Random, model: &mut [u8], align: usize) -> Vec<(usize, Vec<u8>)> {
    (0..40)
        .map(|_| {
            let len = (1 + random.below(100_000)).next_multiple_of(align);
            let at = random.below(SIZE - len) / align * align;
            let bytes = random.content(len);
            model[at..at + len].copy_from_slice(&bytes);
            (at, bytes)
        })
        .collect()
}

#[test]
fn all_read_what_each_wrote() {
    if !have_qemu_img("all_read_what_each_wrote") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    let mut random = Random(42);
    for options in ["cluster_size=4k", "cluster_size=64k", "cluster_size=64k,compat=0.10", "cluster_size=1M"]
    {
        for compressed in [true, false] {
            let disk = random.disk();
            fs_err::write(&raw, &disk).unwrap();
            let convert = || {
                let how: &[&str] = if compressed { &["convert", "-c"] } else { &["convert"] };
                qemu_img(
                    &[how, &["-O", "qcow2", "-f", "raw", "-o", options, path(&raw), path(&image)]].concat(),
                );
            };
            let what = format!("{options}, compressed: {compressed}");
            convert();
            assert_all_read(&image, &disk, &what);

            let mut model = disk.clone();
            let mut qcow2 = Qcow2::open(&image).unwrap();
            for (at, bytes) in writes(&mut random, &mut model, 1) {
                qcow2.write_at(at as u64, &bytes).unwrap();
            }
            let plan = qcow2.plan_commit().unwrap();
            plan.apply(&fs_err::OpenOptions::new().write(true).open(&image).unwrap()).unwrap();
            assert_all_read(&image, &model, &format!("{what}, written by us"));

            convert();
            let mut model = disk.clone();
            let qcow2 = imago::qcow2::Qcow2::<File>::builder_path(&image)
                .write(true)
                .open(PermissiveImplicitOpenGate::default())
                .unwrap();
            let access = FormatAccess::new(qcow2);
            for (at, bytes) in writes(&mut random, &mut model, 1) {
                access.write(bytes.as_slice(), at as u64).unwrap();
            }
            access.flush().unwrap();
            drop(access);
            assert_all_read(&image, &model, &format!("{what}, written by imago"));

            if compressed {
                continue; // see the top
            }
            convert();
            let mut model = disk.clone();
            let device = qcow2_setup_dev_sync(&image, &qcow2_default_params!(false, false)).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                device.qcow2_prep_io().await.unwrap();
                for (at, bytes) in writes(&mut random, &mut model, 512) {
                    let mut buffer = Qcow2IoBuf::<u8>::new(bytes.len());
                    buffer.copy_from_slice(&bytes);
                    device.write_at(&buffer, at as u64).await.unwrap();
                }
                device.flush_meta().await.unwrap();
            });
            drop(device);
            assert_all_read(&image, &model, &format!("{what}, written by qcow2-rs"));
        }
    }
}

#[test]
fn all_read_our_compressed_images() {
    if !have_qemu_img("all_read_our_compressed_images") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    let mut random = Random(43);
    for cluster_size_bytes in [4096, 1 << 16, 1 << 20] {
        let disk = random.disk();
        fs_err::write(&raw, &disk).unwrap();
        let options = CompressOptions { cluster_size_bytes, ..CompressOptions::default() };
        let file = fs_err::File::create(&image).unwrap();
        let device = RawDevice::open(&raw).unwrap();
        write_compressed(&device, &file, &options, &|_| ControlFlow::Continue(())).unwrap();
        drop(file);
        assert_all_read(&image, &disk, &format!("{options:?}"));
    }
}
