//! The cache: several processes, damage, full disks, interruption, listing and pruning.

mod image;

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use image::{LayerFile, Layout, disk, fetch, fetch_with, leftovers};
use ocne_container::{Cache, ErrorKind, FetchError, FetchEvent, FetchOptions, Fetcher};

fn options(cache: &Path) -> FetchOptions {
    FetchOptions { cache_dir: cache.to_owned(), ..FetchOptions::default() }
}

/// Files of disks in a cache.
fn disks(cache: &Path) -> usize {
    let entries = fs_err::read_dir(cache.join("disks")).unwrap();
    entries.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "disk")).count()
}

#[test]
fn a_damaged_disk_is_noticed_discarded_and_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, content) = (dir.path().join("cache"), disk(50_000, 30));
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&content)]);
    let first = fetch(&cache, &layout.reference(), "amd64").unwrap();
    let fetcher = Fetcher::new(options(&cache)).unwrap();
    let cancel = Arc::default();
    assert!(fetcher.verify(&first, &cancel).unwrap());
    let mut bytes = content.clone();
    bytes[40_000] ^= 1;
    fs_err::write(&first.path, &bytes).unwrap();
    let second = fetch(&cache, &layout.reference(), "amd64").unwrap();
    assert!(second.from_cache && !second.verified_now);
    assert_eq!(second.disk_blake3, first.disk_blake3);
    assert!(!fetcher.verify(&second, &cancel).unwrap());
    fetcher.cache().discard(&second.path).unwrap();
    let third = fetch(&cache, &layout.reference(), "amd64").unwrap();
    assert!(third.verified_now && fs_err::read(&third.path).unwrap() == content);
    // One that is too short is not even offered.
    fs_err::write(&third.path, &bytes[..100]).unwrap();
    assert!(fetch(&cache, &layout.reference(), "amd64").unwrap().verified_now);
}

#[test]
fn records_are_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&disk(5000, 31))]);
    let first = fetch(&cache, &layout.reference(), "amd64").unwrap();
    let record = first.path.with_extension("json");
    let whole = fs_err::read(&record).unwrap();
    for len in 0..whole.len() - 2 {
        fs_err::write(&record, &whole[..len]).unwrap();
        assert!(Cache::new(&cache).list().unwrap().is_empty());
    }
    assert!(fetch(&cache, &layout.reference(), "amd64").unwrap().verified_now);
}

#[test]
fn several_at_once_fetch_once() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, content) = (dir.path().join("cache"), disk(8_000_000, 32));
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&content)]);
    let reference = layout.reference();
    let fresh = Mutex::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let found =
                    fetch_with(options(&cache), &reference, "amd64", &|_| {}, &Arc::default()).unwrap();
                assert!(fs_err::read(&found.path).unwrap() == content);
                *fresh.lock().unwrap() += u32::from(!found.from_cache);
            });
        }
    });
    assert_eq!(*fresh.lock().unwrap(), 1);
    assert!(leftovers(&cache).is_empty());
}

#[test]
fn an_interrupted_fetch_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&disk(30_000_000, 33))]);
    let cancel = Arc::new(AtomicBool::new(false));
    let since = Mutex::new(None);
    let events = |event| {
        if matches!(event, FetchEvent::LayerStart { .. }) {
            cancel.store(true, Ordering::Relaxed);
            *since.lock().unwrap() = Some(Instant::now());
        }
    };
    let error = fetch_with(options(&cache), &layout.reference(), "amd64", &events, &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(since.lock().unwrap().unwrap().elapsed() < Duration::from_secs(2));
    assert!(leftovers(&cache).is_empty());
    assert_eq!(disks(&cache), 0);
    assert!(fetch(&cache, &layout.reference(), "amd64").is_ok());
}

#[test]
fn what_a_killed_process_left_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&disk(5000, 34))]);
    fetch(&cache, &layout.reference(), "amd64").unwrap();
    for folder in ["disks", "documents", "references"] {
        fs_err::write(cache.join(folder).join("0.disk.0123456789abcdef.part"), "half").unwrap();
    }
    assert!(fetch(&cache, &layout.reference(), "amd64").unwrap().from_cache);
    assert!(leftovers(&cache).is_empty());
}

#[test]
fn a_full_disk_is_said_before_it_is_full() {
    let name = "a_full_disk_is_said_before_it_is_full";
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    fs_err::create_dir(&small).unwrap();
    let mount = |arguments: &[&str]| {
        Command::new("mount").args(arguments).arg(&small).output().is_ok_and(|o| o.status.success())
    };
    if !rustix::process::geteuid().is_root() || !mount(&["-t", "tmpfs", "-o", "size=2m", "tmpfs"]) {
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: a small file system needs root");
        return;
    }
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&disk(3_000_000, 35))]);
    let result = fetch(&small.join("cache"), &layout.reference(), "amd64");
    let empty = disks(&small.join("cache")) == 0;
    let unmounted = Command::new("umount").arg(&small).status().unwrap();
    let error = result.unwrap_err();
    assert!(matches!(&error, FetchError::NoSpace { needed_bytes: 3_000_000, .. }), "{error:?}");
    assert!(error.to_string().contains(&small.display().to_string()), "{error}");
    assert!(empty && unmounted.success());
}

#[test]
fn listing_and_pruning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let cache = Cache::new(&path);
    assert!(cache.list().unwrap().is_empty() && cache.prune(None).unwrap().removed.is_empty());
    let layouts = [36, 37].map(|seed| {
        let at = dir.path().join(format!("layout{seed}"));
        Layout::single(at, &[LayerFile::with_disk(&disk(5000, seed))])
    });
    for layout in &layouts {
        fetch(&path, &layout.reference(), "amd64").unwrap();
    }
    // The first one was used an hour ago.
    let old = fetch(&path, &layouts[0].reference(), "amd64").unwrap();
    let record = fs_err::OpenOptions::new().append(true).open(old.path.with_extension("json")).unwrap();
    let hour_ago = std::time::SystemTime::now() - Duration::from_hours(1);
    record.file().set_modified(hour_ago).unwrap();
    let list = cache.list().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[1].path, old.path);
    assert_eq!(list[1].record.reference, layouts[0].reference());
    assert_eq!((list[1].record.size_bytes, list[1].last_used), (5000, hour_ago));
    assert!(cache.prune(Some(Duration::from_hours(2))).unwrap().removed.is_empty());
    let pruned = cache.prune(Some(Duration::from_mins(30))).unwrap();
    assert_eq!((pruned.removed.len(), pruned.freed_bytes), (1, 5000));
    // Halves are of no use.
    let left = cache.list().unwrap();
    fs_err::remove_file(left[0].path.with_extension("json")).unwrap();
    cache.prune(Some(Duration::from_mins(30))).unwrap();
    assert_eq!(disks(&path), 0);
    assert_eq!(fs_err::read_dir(path.join("disks")).unwrap().count(), 0);
}

#[test]
fn events_tell_how_far_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&disk(400_000, 38))]);
    let events = Mutex::new(Vec::new());
    let tell = |event| events.lock().unwrap().push(event);
    fetch_with(options(&cache), &layout.reference(), "amd64", &tell, &Arc::default()).unwrap();
    let seen = std::mem::take(&mut *events.lock().unwrap());
    assert!(matches!(seen[0], FetchEvent::Resolving { .. }));
    assert!(matches!(seen[1], FetchEvent::Resolved { .. }));
    let FetchEvent::LayerStart { size_bytes, .. } = seen[2] else { panic!("{seen:?}") };
    let last = FetchEvent::Progress { done_bytes: size_bytes, total_bytes: size_bytes };
    assert_eq!(seen.last(), Some(&last));
    fetch_with(options(&cache), &layout.reference(), "amd64", &tell, &Arc::default()).unwrap();
    assert_eq!(events.lock().unwrap().last(), Some(&FetchEvent::CacheHit { size_bytes: 400_000 }));
}

/// What the next test runs in a process of its own.
#[test]
#[ignore = "another test runs it, to kill it"]
fn fetches_in_a_process() {
    let (Ok(cache), Ok(reference)) = (std::env::var("OCNE_TEST_CACHE"), std::env::var("OCNE_TEST_IMAGE"))
    else {
        return;
    };
    fetch_with(options(Path::new(&cache)), &reference, "amd64", &|_| {}, &Arc::default()).unwrap();
}

#[test]
fn a_killed_process_leaves_nothing_that_is_used_or_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, content) = (dir.path().join("cache"), disk(20_000_000, 39));
    let layout = Layout::single(dir.path().join("layout"), &[LayerFile::with_disk(&content)]);
    for round in 0..3_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fetches_in_a_process", "--ignored"])
            .env("OCNE_TEST_CACHE", &cache)
            .env("OCNE_TEST_IMAGE", layout.reference())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // At different moments of its writing, or after it if it was quick.
        let written = || {
            leftovers(&cache).iter().filter_map(|p| fs_err::metadata(p).ok()).map(|m| m.len()).sum::<u64>()
        };
        while written() < round * 8_000_000 + 1 && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = child.kill();
        child.wait().unwrap();
        let found = fetch(&cache, &layout.reference(), "amd64").unwrap();
        assert!(fs_err::read(&found.path).unwrap() == content);
        Cache::new(&cache).prune(None).unwrap();
    }
}
