//! Conversions of the small boot image of the repository, and of changed forms of it.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use ocne_bootimage::network_files::NETWORK_FILES;
use ocne_bootimage::{
    Architecture, ChangeKind, Conversion, ConvertError, ConvertEvent, ImageKind, Severity, Uuid, convert,
    inspect, verify_converted,
};
use ocne_disk::BlockDevice as _;
use support::{
    BOOT_UUID, Counting, Disk, ROOT_UUID, apply, edit, exists, open, options, remove, set, small_image, text,
};

const ENTRY: &str = "/loader/entries/ostree-1-ock.conf";

fn deployment(disk: &Disk) -> String {
    inspect(disk).unwrap().deployments[0].path.clone()
}

fn fstab(disk: &Disk) -> String {
    format!("{}/etc/fstab", deployment(disk))
}

fn converted(disk: &Disk) -> Conversion {
    convert(disk, &options(), &|_| ()).unwrap()
}

fn refused(disk: &Disk) -> ConvertError {
    convert(disk, &options(), &|_| ()).unwrap_err()
}

fn error_codes(error: &ConvertError) -> Vec<&str> {
    let ConvertError::NotBootable { findings } = error else { panic!("{error}") };
    findings.iter().filter(|f| f.severity == Severity::Error).map(|f| &*f.code).collect()
}

fn codes(conversion: &Conversion) -> Vec<&str> {
    conversion.findings.iter().map(|f| &*f.code).collect()
}

#[test]
fn the_whole_conversion() {
    let mut disk = small_image();
    let before = inspect(&disk).unwrap();
    let old_entry = text(&disk, "boot", ENTRY);
    let old_fstab = text(&disk, "root", &fstab(&disk));
    let deployment = deployment(&disk);
    let machine_id = format!("{deployment}/etc/machine-id");
    assert!(exists(&disk, "root", &machine_id));

    let events = std::cell::RefCell::new(Vec::new());
    let conversion = convert(&disk, &options(), &|e| events.borrow_mut().push(e)).unwrap();
    assert_eq!(events.borrow().first(), Some(&ConvertEvent::Checking { filesystem: "boot" }));
    assert_eq!(events.borrow().last(), Some(&ConvertEvent::Preflight));
    assert_eq!(conversion, converted(&disk), "equal input and options give equal changes");
    apply(&mut disk, &conversion);

    let old = [0, 1].map(|n| before.filesystems[n].uuid.to_string());
    let new = [BOOT_UUID, ROOT_UUID].map(|uuid| Uuid(uuid).to_string());
    let want = old_entry
        .replace("ignition.platform.id=qemu", "ignition.platform.id=oci")
        .replace(&old[1], &new[1])
        .replace("\nlinux ", " a.b=1 quiet\nlinux ");
    assert_eq!(text(&disk, "boot", ENTRY), want);
    let want = old_fstab.replace(&old[1], &new[1]).replace(&old[0], &new[0]);
    assert_ne!(want, old_fstab);
    assert_eq!(text(&disk, "root", &fstab(&disk)), want);
    assert!(!exists(&disk, "root", &machine_id));
    let added = format!("{deployment}/{}", NETWORK_FILES[0].path);
    assert_eq!(text(&disk, "root", &added).as_bytes(), NETWORK_FILES[0].content);

    assert_eq!(conversion.architecture, Architecture::Amd64);
    assert_eq!(conversion.filesystems[1].uuid_before, before.filesystems[1].uuid);
    assert_eq!(conversion.filesystems[1].uuid_after, Uuid(ROOT_UUID));
    assert!(conversion.entries[0].options_after.ends_with(" a.b=1 quiet"));
    let files: Vec<_> = conversion
        .files
        .iter()
        .map(|f| (&*f.filesystem, f.path.as_str(), f.change, f.mode.as_str()))
        .collect();
    assert_eq!(
        files,
        [
            ("boot", ENTRY, ChangeKind::Modified, "0644"),
            ("root", fstab(&disk).as_str(), ChangeKind::Modified, "0644"),
            ("root", &machine_id, ChangeKind::Removed, "0444"),
            ("root", &added, ChangeKind::Added, "0755"),
        ]
    );
    // the image has a boot loader, but none where firmware without boot variables looks
    assert_eq!(codes(&conversion), ["no-fallback-loader"]);

    for (label, uuid) in [("boot", BOOT_UUID), ("root", ROOT_UUID)] {
        let (_, volume) = open(&disk, label);
        assert_eq!(volume.superblock().uuid, uuid);
        assert!(volume.check().unwrap().is_clean());
    }
    let after = inspect(&disk).unwrap();
    assert_eq!(after.entries[0].ignition_provider.as_deref(), Some("oci"));
    assert_eq!(after.deployments, before.deployments);
    assert_eq!(after.deployments[0].booted_by, [ENTRY]);
    assert_eq!(after.deployments[0].os_release.get("ID"), Some("ol"));
    assert_eq!(after.deployments[0].kernels, ["5.15.0-300.163.18.el8uek.x86_64"]);
}

#[test]
fn a_conversion_of_a_conversion() {
    let mut disk = small_image();
    let first = converted(&disk);
    apply(&mut disk, &first);
    let mut again = options();
    (again.boot_uuid, again.root_uuid, again.kernel_args) = ([1; 16], [2; 16], None);
    let conversion = convert(&disk, &again, &|_| ()).unwrap();
    let files: Vec<_> = conversion.files.iter().map(|f| f.change).collect();
    assert_eq!(files, [ChangeKind::Modified; 2], "entry and fstab: {:?}", conversion.files);
    apply(&mut disk, &conversion);
    assert!(inspect(&disk).unwrap().entries[0].options.ends_with(" a.b=1 quiet"));
}

#[test]
fn somebody_elses_conversion_is_looked_at() {
    let disk = small_image();
    let good = convert(&disk, &options(), &|_| ()).unwrap().changes;
    verify_converted(&disk, &good, &options()).unwrap();
    // The partition table, the EFI partition, and the end of the disk are nobody's to change.
    let end = disk.size_bytes() - 512;
    for at in [0, 512, 1 << 20, end] {
        let mut bad = good.clone();
        bad.insert(at, vec![7; 512]);
        let error = verify_converted(&disk, &bad, &options()).unwrap_err();
        assert!(
            matches!(&error, ConvertError::ChangedElsewhere { offset_bytes } if *offset_bytes == at),
            "{error}"
        );
    }
    // Half of a conversion is none.
    let half = good.iter().take(good.len() / 2).map(|(&at, bytes)| (at, bytes.clone())).collect();
    verify_converted(&disk, &half, &options()).unwrap_err();
    verify_converted(&disk, &[].into(), &options()).unwrap_err();
}

#[test]
fn few_rounds() {
    let disk = Counting { device: small_image(), rounds: AtomicUsize::new(0) };
    convert(&disk, &options(), &|_| ()).unwrap();
    let rounds = disk.rounds.load(Ordering::Relaxed);
    assert!(rounds <= 40, "{rounds} rounds");
}

#[test]
fn for_olvm() {
    let mut disk = small_image();
    let mut options = options();
    options.kind = ImageKind::Olvm;
    options.ignition_provider = "openstack".to_owned();
    let conversion = convert(&disk, &options, &|_| ()).unwrap();
    assert!(conversion.files.iter().all(|f| f.change != ChangeKind::Added));
    apply(&mut disk, &conversion);
    let entry = text(&disk, "boot", ENTRY);
    assert!(
        entry.contains(" ignition.platform.id=openstack ") && entry.contains(" console=tty0 "),
        "{entry}"
    );
}

#[test]
fn text_that_cannot_be_in_a_command_line() {
    let disk = small_image();
    for (provider, arguments) in [("o ci", None), ("", None), ("oci", Some("a\nb")), ("oci", Some("a\0"))] {
        let mut options = options();
        options.ignition_provider = provider.to_owned();
        options.kernel_args = arguments.map(str::to_owned);
        let error = convert(&disk, &options, &|_| ()).unwrap_err();
        assert!(matches!(error, ConvertError::KernelArgument(_)), "{error}");
    }
}

#[test]
fn another_architecture() {
    let disk = small_image();
    let mut options = options();
    options.architecture = Some(Architecture::Arm64);
    let error = convert(&disk, &options, &|_| ()).unwrap_err();
    let ConvertError::WrongArchitecture { wanted: Architecture::Arm64, found: Architecture::Amd64, .. } =
        error
    else {
        panic!("{error}")
    };
}

#[test]
fn entries_of_other_forms() {
    let mut disk = small_image();
    set(&mut disk, "boot", ENTRY, |t| {
        t.replace(" ignition.platform.id=qemu", "").replace("console=ttyS0", "console=tty0")
    });
    let conversion = converted(&disk);
    assert_eq!(codes(&conversion), ["added-platform", "no-fallback-loader", "no-serial-console"]);
    assert!(conversion.entries[0].options_after.ends_with(" ignition.platform.id=oci a.b=1 quiet"));

    // a second entry that boots the same deployment, and one of something else
    let first = text(&disk, "boot", ENTRY);
    edit(&mut disk, "boot", |volume, editor| {
        let dir = volume.resolve(b"/loader/entries").unwrap();
        let new = ocne_xfs::NewInode { mode: 0o600, uid: 0, gid: 0, label: ocne_xfs::Label::Inherit };
        editor.create_file(dir, b"ostree-2-ock.conf", first.as_bytes(), &new).unwrap();
        editor.create_file(dir, b"notes.txt", b"options ignition.platform.id=qemu\n", &new).unwrap();
    });
    let conversion = converted(&disk);
    let paths: Vec<_> = conversion.entries.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, [ENTRY, "/loader/entries/ostree-2-ock.conf"]);
    assert_eq!(conversion.files.iter().filter(|f| f.change == ChangeKind::Added).count(), 1);
}

#[test]
fn entries_that_boot_nothing() {
    let disk = || small_image();
    let mut no_ostree = disk();
    set(&mut no_ostree, "boot", ENTRY, |t| t.replace("ostree=", "nothing="));
    assert!(matches!(refused(&no_ostree), ConvertError::NoEntries { .. }));
    let mut missing = disk();
    set(&mut missing, "boot", ENTRY, |t| t.replace("ostree=/ostree/", "ostree=/nowhere/"));
    assert!(matches!(refused(&missing), ConvertError::NoDeployment { .. }));
    let mut other = disk();
    set(&mut other, "boot", ENTRY, |t| t.replace("ostree=/", "ostree=/ostree/repo ostree.was=/"));
    assert!(matches!(refused(&other), ConvertError::NoDeployment { .. }));
    let mut none = disk();
    remove(&mut none, "boot", ENTRY);
    assert!(matches!(refused(&none), ConvertError::NoEntries { .. }));
}

#[test]
fn fstabs_of_other_forms() {
    let mut disk = small_image();
    let path = fstab(&disk);
    set(&mut disk, "root", &path, |_| "LABEL=root / xfs defaults 0 0\nLABEL=boot\t/boot xfs\n".to_owned());
    let conversion = converted(&disk);
    assert!(conversion.files.iter().all(|f| f.path != path), "{:?}", conversion.files);

    set(&mut disk, "root", &path, |_| "# nothing\n".to_owned());
    converted(&disk);

    remove(&mut disk, "root", &path);
    let error = refused(&disk);
    assert!(error.to_string().contains(&path), "{error}");
}

#[test]
fn images_that_would_not_boot() {
    let mut disk = small_image();
    let kernel = inspect(&disk).unwrap().entries[0].kernel.clone().unwrap();
    set(&mut disk, "boot", ENTRY, |t| t.replace("root=UUID=", "root=UUID=0"));
    assert_eq!(error_codes(&refused(&disk)), ["wrong-root"]);
    set(&mut disk, "boot", ENTRY, |t| t.replace("root=UUID=0", "root=UUID="));

    edit(&mut disk, "boot", |volume, editor| {
        editor.replace_file(volume.resolve(kernel.as_bytes()).unwrap(), b"").unwrap();
    });
    let error = refused(&disk);
    assert_eq!(error_codes(&error), ["empty-file"]);
    assert!(error.to_string().contains(&kernel) && error.hint().is_some(), "{error}");
    remove(&mut disk, "boot", &kernel);
    assert_eq!(error_codes(&refused(&disk)), ["missing-file"]);

    let mut nevertheless = options();
    nevertheless.preflight = false;
    assert!(convert(&disk, &nevertheless, &|_| ()).unwrap().findings.is_empty());
}

#[test]
fn added_file_that_is_there() {
    let mut disk = small_image();
    let path = format!("{}/{}", deployment(&disk), NETWORK_FILES[0].path);
    let (dir, name) = path.rsplit_once('/').unwrap();
    edit(&mut disk, "root", |volume, editor| {
        let dir = volume.resolve(dir.as_bytes()).unwrap();
        let new = ocne_xfs::NewInode { mode: 0o644, uid: 5, gid: 5, label: ocne_xfs::Label::None };
        editor.create_file(dir, name.as_bytes(), b"old", &new).unwrap();
    });
    let conversion = converted(&disk);
    let change = conversion.files.iter().find(|f| f.path == path).unwrap();
    assert_eq!((change.change, change.mode.as_str()), (ChangeKind::Modified, "0755"));
    apply(&mut disk, &conversion);
    let (_, volume) = open(&disk, "root");
    let inode = volume.inode(volume.resolve(path.as_bytes()).unwrap()).unwrap();
    assert_eq!((inode.mode & 0o7777, inode.uid, inode.gid), (0o755, 0, 0));
}

#[test]
fn file_systems_that_are_missing() {
    let disk = small_image();
    let part = ocne_disk::MemoryDevice { bytes: vec![0; 1 << 20] };
    let error = convert(&part, &options(), &|_| ()).unwrap_err();
    assert!(matches!(error, ConvertError::PartitionTable(_)), "{error}");
    // the label is what counts: give `boot` another one, then that of `root`
    for (label, want) in
        [(&b"beet\0"[..], "`boot`; found: partition 1"), (b"root\0", "`boot`; found: partition 1")]
    {
        let mut changed = small_image();
        let (start, _) = open(&disk, "boot");
        ocne_disk::BlockWrite::write_at(&mut changed, start + 108, label).unwrap();
        let error = convert(&changed, &options(), &|_| ()).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
    }
    let mut twice = small_image();
    let (start, _) = open(&disk, "root");
    ocne_disk::BlockWrite::write_at(&mut twice, start + 108, b"boot\0").unwrap();
    let error = convert(&twice, &options(), &|_| ()).unwrap_err();
    assert!(matches!(error, ConvertError::AmbiguousFilesystem { label: "boot", .. }), "{error}");
}

#[test]
fn damage_is_refused_by_the_check() {
    let mut disk = small_image();
    let (start, superblock) = {
        let (start, volume) = open(&disk, "root");
        (start, volume.superblock().clone())
    };
    // the free block count of the second allocation group's header
    let at = start + superblock.ag_offset_bytes(1) + u64::from(superblock.sector_size_bytes) + 52;
    ocne_disk::BlockWrite::write_at(&mut disk, at, &[0; 4]).unwrap();
    let error = refused(&disk);
    assert!(matches!(error, ConvertError::Edit { filesystem: "root", .. }), "{error}");
}
