//! The small boot image of the repository, and changes to it.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use ocne_bootimage::{ConvertOptions, ImageKind};
use ocne_disk::{BlockDevice, BlockWrite, Overlay, Qcow2, Slice, gpt};
use ocne_xfs::{EditOptions, Editor, Timestamp, Volume};

/// A disk with changes.
pub type Disk = Overlay<Qcow2>;
/// A file system on such a disk.
pub type FileSystem<'a> = Volume<Slice<&'a Disk>>;

/// UUIDs that converted images get here.
pub const BOOT_UUID: [u8; 16] = [0xb0; 16];
pub const ROOT_UUID: [u8; 16] = [0x40; 16];

/// The boot image in `tests/fixtures/ock-small.oci-archive`: an oci-archive with one gzip layer.
pub fn small_image() -> Disk {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/ock-small.oci-archive");
    let file = fs_err::File::open(archive).unwrap();
    let mut tar = tar::Archive::new(file);
    for entry in tar.entries().unwrap() {
        let mut blob = Vec::new();
        entry.unwrap().read_to_end(&mut blob).unwrap();
        if !blob.starts_with(&[0x1f, 0x8b]) {
            continue;
        }
        let mut layer = tar::Archive::new(GzDecoder::new(blob.as_slice()));
        for file in layer.entries().unwrap() {
            let mut file = file.unwrap();
            if file.path().unwrap().as_ref() == Path::new("disk/boot.qcow2") {
                let mut out = tempfile::NamedTempFile::new().unwrap();
                std::io::copy(&mut file, &mut out).unwrap();
                // the open file is all that is needed
                return Overlay::new(Qcow2::open(out.path()).unwrap());
            }
        }
    }
    panic!("no layer with disk/boot.qcow2");
}

/// The options of most tests.
pub fn options() -> ConvertOptions {
    ConvertOptions {
        kind: ImageKind::Oci,
        ignition_provider: "oci".to_owned(),
        kernel_args: Some("a.b=1 quiet".to_owned()),
        boot_uuid: BOOT_UUID,
        root_uuid: ROOT_UUID,
        now: Timestamp { seconds: 1_800_000_000, nanoseconds: 5 },
        seed: 7,
        architecture: None,
        preflight: true,
    }
}

/// Opens the file system with a label.
pub fn open<'a>(disk: &'a Disk, label: &str) -> (u64, FileSystem<'a>) {
    let table = gpt::read(disk).unwrap();
    let partition = table.partitions.iter().find(|p| p.name == label).unwrap();
    let part = Slice::new(disk, partition.start_bytes, partition.size_bytes).unwrap();
    (partition.start_bytes, Volume::open(part).unwrap())
}

/// Edits the file system with a label.
pub fn edit<F>(disk: &mut Disk, label: &str, change: F)
where
    F: for<'a> FnOnce(&FileSystem<'a>, &mut Editor<'_, Slice<&'a Disk>>),
{
    let (start, changes) = {
        let (start, volume) = open(disk, label);
        let now = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };
        let mut editor = Editor::new(&volume, EditOptions { now, seed: 3 }).unwrap();
        change(&volume, &mut editor);
        (start, editor.finish().unwrap())
    };
    for (at, bytes) in changes {
        disk.write_at(start + at, &bytes).unwrap();
    }
}

/// Gives a file other content.
pub fn set(disk: &mut Disk, label: &str, path: &str, content: impl FnOnce(String) -> String) {
    edit(disk, label, |volume, editor| {
        let ino = volume.resolve(path.as_bytes()).unwrap();
        let old = String::from_utf8(volume.read_file(ino, 1 << 20).unwrap()).unwrap();
        editor.replace_file(ino, content(old).as_bytes()).unwrap();
    });
}

/// Removes a file.
pub fn remove(disk: &mut Disk, label: &str, path: &str) {
    edit(disk, label, |volume, editor| {
        let (dir, name) = path.rsplit_once('/').unwrap();
        editor.unlink(volume.resolve(dir.as_bytes()).unwrap(), name.as_bytes()).unwrap();
    });
}

/// The content of a file.
pub fn text(disk: &Disk, label: &str, path: &str) -> String {
    let (_, volume) = open(disk, label);
    let ino = volume.resolve(path.as_bytes()).unwrap();
    String::from_utf8(volume.read_file(ino, 1 << 20).unwrap()).unwrap()
}

/// Whether there is such a path.
pub fn exists(disk: &Disk, label: &str, path: &str) -> bool {
    open(disk, label).1.resolve(path.as_bytes()).is_ok()
}

/// The same disk with the changes of a conversion.
pub fn apply(disk: &mut Disk, conversion: &ocne_bootimage::Conversion) {
    for (&at, bytes) in &conversion.changes {
        disk.write_at(at, bytes).unwrap();
    }
}

/// A device that counts its rounds.
pub struct Counting<D> {
    pub device: D,
    pub rounds: std::sync::atomic::AtomicUsize,
}

impl<D: BlockDevice> BlockDevice for Counting<D> {
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn read_batch(&self, requests: &mut [ocne_disk::ReadRequest<'_>]) -> Result<(), ocne_disk::DeviceError> {
        self.rounds.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.device.read_batch(requests)
    }
}
