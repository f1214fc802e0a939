//! Images with random damage: refused, or safe to read and to write. The short form of the fuzz targets.

mod support;

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use ocne_disk::{BlockDevice as _, BlockWrite as _, Qcow2};
use support::{Random, have, path, qemu_img, run};

const ROUNDS: usize = 6_000;
const SIZE: usize = 96 << 10;

#[test]
fn random_damage_is_refused_or_harmless() {
    if !have("random_damage_is_refused_or_harmless", &["qemu-img", "qemu-io"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (raw, image) = (dir.path().join("raw"), dir.path().join("image"));
    let mut random = Random::from_env();
    let (mut opened, mut written) = (0, 0);
    for options in ["cluster_size=512,refcount_bits=8", "cluster_size=4096", "cluster_size=2048,compat=0.10"]
    {
        let text: Vec<u8> = b"text to compress; ".iter().copied().cycle().take(SIZE).collect();
        fs_err::write(&raw, &text).unwrap();
        let (from, to) = (path(&raw), path(&image));
        qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, from, to]);
        run(Command::new("qemu-io")
            .args(["-f", "qcow2", "-c", "write -P 7 8k 9k", "-c", "discard 40k 20k"])
            .arg(to));
        let good = fs_err::read(&image).unwrap();
        // Most of the file is data, where damage is of no interest: aim at what is not text.
        let tables: Vec<usize> =
            (0..good.len()).filter(|&i| i < 128 || good[i.saturating_sub(4)..][..4] != [7; 4]).collect();
        for _ in 0..ROUNDS / 3 {
            let mut bad = good.clone();
            for _ in 0..=random.below(2) {
                let at = if random.below(4) == 0 {
                    usize::try_from(random.below(128)).unwrap()
                } else {
                    random.pick(&tables)
                };
                bad[at] = match random.below(3) {
                    0 => bad[at] ^ (1 << random.below(8)),
                    1 => random.next().to_le_bytes()[0],
                    _ => random.pick(&good),
                };
            }
            if random.below(20) == 0 {
                bad.truncate(usize::try_from(random.below(good.len() as u64)).unwrap());
            }
            let Ok(mut qcow2) = Qcow2::from_file(file(&bad)) else { continue };
            opened += 1;
            let leaks = qcow2.check().unwrap().leaked_clusters;
            let size = qcow2.size_bytes().min(1 << 20);
            let mut model = vec![0; usize::try_from(size).unwrap()];
            let readable = qcow2.read_at(0, &mut model).is_ok();
            for _ in 0..3 {
                let at = random.below(size);
                let len = random.below(3000).min(size - at);
                let bytes = random.content(usize::try_from(len).unwrap());
                qcow2.write_at(at, &bytes).unwrap();
                model[usize::try_from(at).unwrap()..][..bytes.len()].copy_from_slice(&bytes);
            }
            let Ok(plan) = qcow2.plan_commit() else { continue };
            written += 1;
            assert!(plan.file_size_bytes < bad.len() as u64 + (1 << 20));
            let stopped = file(&bad);
            for w in plan.phases.iter().flatten().take(usize::try_from(random.below(12)).unwrap()) {
                stopped.file().write_all_at(&w.bytes, w.offset_bytes).unwrap();
            }
            Qcow2::from_file(stopped).unwrap();
            let done = file(&bad);
            for (at, bytes) in plan.patches() {
                done.file().write_all_at(&bytes, at).unwrap();
            }
            let after = Qcow2::from_file(done).unwrap();
            assert!(after.check().unwrap().leaked_clusters <= leaks);
            if readable {
                let mut found = vec![0; model.len()];
                after.read_at(0, &mut found).unwrap();
                assert!(found == model);
            }
        }
    }
    eprintln!("{ROUNDS} damaged images: {opened} opened, {written} written");
    assert!(opened > ROUNDS / 20 && opened < ROUNDS && written > ROUNDS / 40);
}

fn file(bytes: &[u8]) -> fs_err::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    fs_err::File::from_parts(file, "damaged")
}
