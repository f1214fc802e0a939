#![no_main]
//! fstab: only first fields of lines for the two mount points change.

use libfuzzer_sys::fuzz_target;
use ocne_bootimage::Uuid;
use ocne_bootimage::fstab::{MountUuid, mounts, with_new_uuids};

fuzz_target!(|text: &[u8]| {
    let changes = [
        MountUuid { target: "/", old: Uuid([0x11; 16]), new: Uuid([0xaa; 16]) },
        MountUuid { target: "/boot", old: Uuid([0x22; 16]), new: Uuid([0xbb; 16]) },
    ];
    let edited = with_new_uuids(text, &changes);
    let (before, after) = (mounts(text), mounts(&edited));
    assert_eq!(before.len(), after.len());
    for (old, new) in before.iter().zip(&after) {
        assert_eq!((old.target, old.options, old.line), (new.target, new.options, new.line));
        match changes.iter().find(|c| c.target.as_bytes() == old.target) {
            Some(change) if old.source.starts_with(b"UUID=") => assert_eq!(new.uuid(), Some(change.new)),
            Some(change) if old.uuid() == Some(change.old) => assert!(new.uuid() == Some(change.new)),
            _ => assert_eq!(old.source, new.source),
        }
    }
    assert_eq!(with_new_uuids(&edited, &changes), edited);
});
