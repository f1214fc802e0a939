//! The conversion: what is changed in which file system.
//!
//! Everything happens in memory. Both file systems are verified before and after the edit, and the result is the bytes
//! of the disk that change.

use std::collections::BTreeMap;

use ocne_disk::fat::Fat;
use ocne_disk::{BlockDevice, BlockWrite as _, Overlay};
use ocne_xfs::{EditError, EditOptions, Editor, Timestamp, Volume};
use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, conflicts};
use crate::disk::{BOOT, Disk, Located, Part, ROOT};
use crate::edit::{FileEditor, rewritten_entry};
use crate::efi::{EfiProgram, architecture_signs, programs};
use crate::error::ConvertError;
use crate::finding::{Finding, Severity};
use crate::fstab::{MountUuid, with_new_uuids};
use crate::kernel_args::{check_appended, check_platform};
use crate::kind::ImageKind;
use crate::loader_entry::LoaderEntry;
use crate::preflight::{self, BootFacts, FilesystemFacts, FstabFacts};
use crate::report::{EntryChange, FileChange, FilesystemChange};
use crate::sysroot::{Deployment, MAX_TEXT_BYTES, Sysroot};
use crate::tree;
use crate::uuid::Uuid;

/// Path of the fstab in a deployment.
const FSTAB: &str = "etc/fstab";

/// How an image is to be converted. Equal images and options give equal changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertOptions {
    /// What for.
    pub kind: ImageKind,
    /// Value of `ignition.platform.id`.
    pub ignition_provider: String,
    /// Text that is appended to every kernel command line.
    pub kernel_args: Option<String>,
    /// New UUID of the `boot` file system.
    pub boot_uuid: [u8; 16],
    /// New UUID of the `root` file system.
    pub root_uuid: [u8; 16],
    /// Time of changed files.
    #[serde(with = "TimestampFields")]
    pub now: Timestamp,
    /// Where generation numbers of new inodes come from.
    pub seed: u64,
    /// The architecture that the image has to have, if it matters.
    pub architecture: Option<Architecture>,
    /// Refuse an image that cannot boot.
    pub preflight: bool,
}

/// [`Timestamp`] in records.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Timestamp")]
struct TimestampFields {
    seconds: i64,
    nanoseconds: u32,
}

/// What a conversion does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConvertEvent {
    /// A file system is verified before it is edited.
    Checking {
        /// Its label.
        filesystem: &'static str,
    },
    /// A file system is clean.
    Checked {
        /// Its label.
        filesystem: &'static str,
        /// Inodes in use.
        inodes: u64,
    },
    /// A file system is edited.
    Editing {
        /// Its label.
        filesystem: &'static str,
    },
    /// A file system is verified after it was edited.
    Verifying {
        /// Its label.
        filesystem: &'static str,
    },
    /// The result is looked over for whether it can boot.
    Preflight,
}

/// A conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversion {
    /// Bytes of the disk that change, by byte offset: disjoint and ascending.
    #[serde(skip)]
    pub changes: BTreeMap<u64, Vec<u8>>,
    /// File systems that get a new UUID.
    pub filesystems: Vec<FilesystemChange>,
    /// Loader entries that change.
    pub entries: Vec<EntryChange>,
    /// Files that change.
    pub files: Vec<FileChange>,
    /// What a person should know about the result.
    pub findings: Vec<Finding>,
    /// What the image is for.
    pub architecture: Architecture,
}

/// Converts an image, as bytes to change.
///
/// # Errors
/// When the image is not one that can be converted rightly; see [`ConvertError`].
pub fn convert(
    device: &dyn BlockDevice,
    options: &ConvertOptions,
    events: &dyn Fn(ConvertEvent),
) -> Result<Conversion, ConvertError> {
    check_platform(&options.ignition_provider)?;
    options.kernel_args.as_deref().map_or(Ok(()), check_appended)?;
    let disk = Disk::open(device)?;
    let editing = EditOptions { now: options.now, seed: options.seed };
    // Verified first: what is wrong with a file system is said by the check, not by whatever meets it.
    let boot_editor = start(&disk.boot.filesystem, BOOT, editing, events)?;
    let root_editor = start(&disk.root.filesystem, ROOT, editing, events)?;
    let sysroot = Sysroot::read(&disk.boot.filesystem, &disk.root.filesystem)?;
    let mut findings = Vec::new();
    let efi_programs = disk.efi.as_ref().map(|efi| read_programs(&efi.filesystem, &mut findings));
    let architecture = decide_architecture(&disk, &sysroot, efi_programs.as_deref(), options, &mut findings)?;

    let mut run = Run { options, sysroot: &sysroot, findings, entries: Vec::new(), files: Vec::new() };
    let uuid_changes = [(&disk.boot, BOOT, options.boot_uuid), (&disk.root, ROOT, options.root_uuid)].map(
        |(located, label, new)| FilesystemChange {
            label: label.into(),
            uuid_before: Uuid(located.filesystem.superblock().uuid),
            uuid_after: Uuid(new),
        },
    );
    events(ConvertEvent::Editing { filesystem: BOOT });
    let boot_changes = run.edit_boot(&disk.boot.filesystem, boot_editor, &uuid_changes, events)?;
    events(ConvertEvent::Editing { filesystem: ROOT });
    let root_changes = run.edit_root(&disk.root.filesystem, root_editor, &uuid_changes, events)?;
    let Run { mut findings, entries, files, .. } = run;

    if options.preflight {
        events(ConvertEvent::Preflight);
        let boot = disk
            .boot
            .filesystem
            .with_changes(&boot_changes)
            .map_err(ConvertError::read(BOOT, "read the result"))?;
        let root = disk
            .root
            .filesystem
            .with_changes(&root_changes)
            .map_err(ConvertError::read(ROOT, "read the result"))?;
        let facts = BootFacts {
            architecture,
            programs: efi_programs,
            efi_volume_id: disk.efi.as_ref().map(|efi| volume_id_text(efi.filesystem.volume_id())),
            boot: filesystem_facts(&disk.boot, &boot),
            root: filesystem_facts(&disk.root, &root),
            entries: Vec::new(),
            fstabs: Vec::new(),
            serial_console: options.kind == ImageKind::Oci,
        };
        findings.extend(look_over(facts, &boot, &root)?);
        if findings.iter().any(|f| f.severity == Severity::Error) {
            return Err(ConvertError::NotBootable { findings });
        }
    }

    let mut changes = BTreeMap::new();
    for (located, part) in [(&disk.boot, boot_changes), (&disk.root, root_changes)] {
        let start = located.partition.start_bytes;
        changes.extend(part.into_iter().map(|(at, bytes)| (start + at, bytes)));
    }
    Ok(Conversion { changes, filesystems: uuid_changes.into(), entries, files, findings, architecture })
}

/// Verifies what somebody else's conversion changes of a disk: nothing outside the two file systems, which are whole
/// with the changes, and have the UUIDs that they were to get.
///
/// # Errors
/// What is not as it has to be.
pub fn verify_converted(
    original: &dyn BlockDevice,
    changes: &BTreeMap<u64, Vec<u8>>,
    options: &ConvertOptions,
) -> Result<(), ConvertError> {
    let before = Disk::open(original)?;
    let parts = [&before.boot.partition, &before.root.partition];
    let mut converted = Overlay::new(original);
    for (&at, bytes) in changes {
        let end = at.saturating_add(bytes.len() as u64);
        if !parts.iter().any(|p| at >= p.start_bytes && end <= p.start_bytes + p.size_bytes) {
            return Err(ConvertError::ChangedElsewhere { offset_bytes: at });
        }
        converted.write_at(at, bytes)?;
    }
    let disk = Disk::open(&converted)?;
    let editing = EditOptions { now: options.now, seed: options.seed };
    for (located, label, wanted) in
        [(&disk.boot, BOOT, options.boot_uuid), (&disk.root, ROOT, options.root_uuid)]
    {
        let found = Uuid(located.filesystem.superblock().uuid);
        if found.0 != wanted {
            return Err(ConvertError::NotConverted { filesystem: label, found, wanted: Uuid(wanted) });
        }
        start(&located.filesystem, label, editing, &|_| {})?;
    }
    Ok(())
}

/// Verifies a file system, and starts to edit it.
fn start<'v, 'a>(
    volume: &'v Volume<Part<'a>>,
    label: &'static str,
    options: EditOptions,
    events: &dyn Fn(ConvertEvent),
) -> Result<Editor<'v, Part<'a>>, ConvertError> {
    events(ConvertEvent::Checking { filesystem: label });
    let editor = Editor::new(volume, options).map_err(ConvertError::edit(label, "edit files"))?;
    let superblock = volume.superblock();
    let inodes = superblock.inode_count.saturating_sub(superblock.free_inode_count);
    events(ConvertEvent::Checked { filesystem: label, inodes });
    Ok(editor)
}

/// The EFI programs; an EFI partition that cannot be read has none, and that is a finding.
fn read_programs<D: BlockDevice>(efi: &Fat<D>, findings: &mut Vec<Finding>) -> Vec<EfiProgram> {
    programs(efi).unwrap_or_else(|e| {
        let message = format!("the EFI system partition cannot be read: {e}");
        findings.push(Finding::warning("unreadable-efi-partition", message, None));
        Vec::new()
    })
}

fn decide_architecture(
    disk: &Disk<'_>,
    sysroot: &Sysroot,
    efi_programs: Option<&[EfiProgram]>,
    options: &ConvertOptions,
    findings: &mut Vec<Finding>,
) -> Result<Architecture, ConvertError> {
    let entries = sysroot.entries.iter().map(|e| &e.entry);
    let signs = architecture_signs(&disk.boot.filesystem, entries, efi_programs.unwrap_or_default())
        .map_err(ConvertError::read(BOOT, "read the kernel"))?;
    let Some(first) = signs.first() else {
        let wanted = options.architecture.ok_or(ConvertError::UnknownArchitecture)?;
        let message = format!("nothing in the image tells its architecture; it was taken to be {wanted}");
        findings.push(Finding::warning("unknown-architecture", message, None));
        return Ok(wanted);
    };
    if let Some(wanted) = options.architecture.filter(|&w| w != first.architecture) {
        return Err(ConvertError::wrong_architecture(wanted, first));
    }
    for sign in conflicts(&signs) {
        let message = format!(
            "the image is for {} ({}), but {} says {}",
            first.architecture, first.seen, sign.seen, sign.architecture
        );
        findings.push(Finding::warning("mixed-architectures", message, None));
    }
    Ok(first.architecture)
}

/// A conversion at work.
struct Run<'a> {
    options: &'a ConvertOptions,
    sysroot: &'a Sysroot,
    findings: Vec<Finding>,
    entries: Vec<EntryChange>,
    files: Vec<FileChange>,
}

impl Run<'_> {
    /// Loader entries, and the UUID.
    fn edit_boot<D: BlockDevice>(
        &mut self,
        volume: &Volume<D>,
        editor: Editor<'_, D>,
        uuids: &[FilesystemChange],
        events: &dyn Fn(ConvertEvent),
    ) -> Result<BTreeMap<u64, Vec<u8>>, ConvertError> {
        let mut files = FileEditor::new(BOOT, volume, editor);
        for file in &self.sysroot.entries {
            let rewritten = rewritten_entry(&file.entry, self.options, uuids);
            if rewritten.added_platform {
                let message = format!(
                    "`{}` did not set `ignition.platform.id`, so it was added to the end of the command line",
                    file.path
                );
                self.findings.push(Finding::warning("added-platform", message, None));
            }
            let text = |entry: &LoaderEntry| String::from_utf8_lossy(&entry.options()).into_owned();
            let (options_before, options_after) = (text(&file.entry), text(&rewritten.entry));
            self.entries.push(EntryChange { path: file.path.clone(), options_before, options_after });
            let place = (file.dir_ino, file.name.as_slice(), file.ino);
            files.rewrite(&file.path, place, file.entry.text(), rewritten.entry.text())?;
        }
        self.finish(files, self.options.boot_uuid, events)
    }

    /// fstab, machine-id and added files of the deployments, and the UUID.
    fn edit_root<D: BlockDevice>(
        &mut self,
        volume: &Volume<D>,
        editor: Editor<'_, D>,
        uuids: &[FilesystemChange],
        events: &dyn Fn(ConvertEvent),
    ) -> Result<BTreeMap<u64, Vec<u8>>, ConvertError> {
        let mut files = FileEditor::new(ROOT, volume, editor);
        let mounts: Vec<MountUuid> = uuids
            .iter()
            .map(|u| MountUuid {
                target: if u.label == ROOT { "/" } else { "/boot" },
                old: u.uuid_before,
                new: u.uuid_after,
            })
            .collect();
        for deployment in &self.sysroot.deployments {
            let path = format!("{}/{FSTAB}", deployment.path);
            let fstab = tree::descendant(volume, deployment.ino, FSTAB)
                .map_err(ConvertError::read(ROOT, format!("look up `{path}`")))?;
            match fstab {
                Some(inode) => {
                    let text = files.read(&path, &inode, MAX_TEXT_BYTES)?;
                    let dir_ino = files.directory(deployment, "etc")?;
                    let place = (dir_ino, &b"fstab"[..], inode.ino);
                    files.rewrite(&path, place, &text, &with_new_uuids(&text, &mounts))?;
                }
                None if deployment.booted_by.is_empty() => {}
                None => return Err(ConvertError::MissingFile { path }),
            }
            files.remove_machine_id(deployment)?;
            if !deployment.booted_by.is_empty() {
                for file in self.options.kind.added_files() {
                    files.add(deployment, file)?;
                }
            }
        }
        self.finish(files, self.options.root_uuid, events)
    }

    fn finish<D: BlockDevice>(
        &mut self,
        files: FileEditor<'_, D>,
        uuid: [u8; 16],
        events: &dyn Fn(ConvertEvent),
    ) -> Result<BTreeMap<u64, Vec<u8>>, ConvertError> {
        let filesystem = files.filesystem();
        let (mut editor, done) = files.into_parts();
        self.files.extend(done);
        let failed = |e: EditError| ConvertError::edit(filesystem, "change the UUID")(e);
        editor.set_uuid(uuid).map_err(failed)?;
        events(ConvertEvent::Verifying { filesystem });
        editor.finish().map_err(ConvertError::edit(filesystem, "finish the edit"))
    }
}

/// As `blkid` and fstab have it.
fn volume_id_text(id: u32) -> String {
    format!("{:04X}-{:04X}", id >> 16, id & 0xffff)
}

fn filesystem_facts<D: BlockDevice, E>(located: &Located<E>, volume: &Volume<D>) -> FilesystemFacts {
    let superblock = volume.superblock();
    FilesystemFacts {
        label: superblock.label.clone(),
        uuid: Uuid(superblock.uuid),
        partition_name: located.partition.name.clone(),
        partition_guid: located.partition.unique_guid.to_string(),
    }
}

/// Reads what the rules look at from the file systems, and judges it.
pub(crate) fn look_over<B: BlockDevice, R: BlockDevice>(
    mut facts: BootFacts,
    boot: &Volume<B>,
    root: &Volume<R>,
) -> Result<Vec<Finding>, ConvertError> {
    let sysroot = Sysroot::read(boot, root)?;
    for file in &sysroot.entries {
        let found = preflight::entry_facts(boot, &file.path, &file.entry);
        facts
            .entries
            .push(found.map_err(ConvertError::read(BOOT, format!("look up what `{}` names", file.path)))?);
    }
    for deployment in sysroot.deployments.iter().filter(|d| !d.booted_by.is_empty()) {
        facts.fstabs.extend(fstab_facts(root, deployment)?);
    }
    Ok(preflight::judge(&facts))
}

fn fstab_facts<D: BlockDevice>(
    root: &Volume<D>,
    deployment: &Deployment,
) -> Result<Option<FstabFacts>, ConvertError> {
    let path = format!("{}/{FSTAB}", deployment.path);
    let reading = || ConvertError::read(ROOT, format!("read `{path}`"));
    let Some(inode) = tree::descendant(root, deployment.ino, FSTAB).map_err(reading())? else {
        return Ok(None);
    };
    let text = root.read_file(inode.ino, MAX_TEXT_BYTES).map_err(reading())?;
    Ok(Some(FstabFacts { path, text }))
}
