//! Whether an image can boot, as far as one can see that without booting it: rules over facts, and the gathering of the
//! facts.

use ocne_disk::BlockDevice;
use ocne_xfs::{FileType, Volume, XfsError};

use crate::architecture::Architecture;
use crate::efi::EfiProgram;
use crate::finding::Finding;
use crate::fstab::mounts;
use crate::kernel_args::{last_value, values};
use crate::loader_entry::{LoaderEntry, PLATFORM_ARGUMENT};
use crate::uuid::Uuid;

/// What a loader entry names in the file system with the kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// As the entry names it.
    pub path: String,
    /// Its size; `None` when it is missing or no regular file.
    pub size_bytes: Option<u64>,
}

/// What matters of a loader entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryFacts {
    /// Path of the entry.
    pub path: String,
    /// Kernel command line.
    pub options: Vec<u8>,
    /// `linux`.
    pub kernels: Vec<NamedFile>,
    /// `initrd`.
    pub initrds: Vec<NamedFile>,
}

/// What matters of a file system with a label and a UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemFacts {
    /// Its label.
    pub label: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Name of its partition.
    pub partition_name: String,
    /// GUID of its partition.
    pub partition_guid: String,
}

/// What matters of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FstabFacts {
    /// Path of the fstab.
    pub path: String,
    /// Its text.
    pub text: Vec<u8>,
}

/// Everything that the rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFacts {
    /// What the image is for.
    pub architecture: Architecture,
    /// EFI programs; `None` when there is no EFI system partition.
    pub programs: Option<Vec<EfiProgram>>,
    /// Volume number of the EFI system partition, such as `9859-575E`.
    pub efi_volume_id: Option<String>,
    /// The file system with kernels and loader entries.
    pub boot: FilesystemFacts,
    /// The file system with the deployments.
    pub root: FilesystemFacts,
    /// Loader entries.
    pub entries: Vec<EntryFacts>,
    /// fstabs of the deployments that the entries boot.
    pub fstabs: Vec<FstabFacts>,
    /// Whether a serial console is wanted: the console that Oracle Cloud shows.
    pub serial_console: bool,
}

/// Files that an entry may name by one key: real ones name one or two.
const MAX_NAMED: usize = 64;

const PROGRAM_HINT: &str = "the image needs a boot loader in its EFI system partition";
const FILE_HINT: &str = "make the image again: its boot file system is not complete";
const NEVERTHELESS: &str = "`--no-preflight` converts it nevertheless";

/// What of the facts keeps the image from booting, or might.
pub fn judge(facts: &BootFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    judge_programs(facts, &mut findings);
    for entry in &facts.entries {
        judge_entry(facts, entry, &mut findings);
    }
    for fstab in &facts.fstabs {
        judge_fstab(facts, fstab, &mut findings);
    }
    findings
}

fn judge_programs(facts: &BootFacts, findings: &mut Vec<Finding>) {
    let architecture = facts.architecture;
    let Some(programs) = &facts.programs else {
        let message = "no partition holds a FAT file system with the directory `EFI`".to_owned();
        findings.push(Finding::error("no-efi-partition", message, Some(PROGRAM_HINT)));
        return;
    };
    let usable = |p: &&EfiProgram| p.architecture == Some(architecture) && p.size_bytes > 0;
    if !programs.iter().any(|p| usable(&p)) {
        let message = format!("the EFI system partition has no boot program for {architecture}");
        findings.push(Finding::error("no-efi-program", message, Some(PROGRAM_HINT)));
        return;
    }
    let fallback = format!("/EFI/BOOT/{}", architecture.fallback_loader());
    if !programs.iter().any(|p| p.path.eq_ignore_ascii_case(&fallback) && p.size_bytes > 0) {
        let message = format!(
            "the EFI system partition has no `{fallback}`, which firmware without boot variables starts"
        );
        findings.push(Finding::warning(
            "no-fallback-loader",
            message,
            Some("test that the image boots where it has never booted"),
        ));
    }
}

fn judge_entry(facts: &BootFacts, entry: &EntryFacts, findings: &mut Vec<Finding>) {
    let path = &entry.path;
    if entry.kernels.is_empty() {
        findings.push(Finding::error("no-kernel", format!("`{path}` names no kernel"), Some(FILE_HINT)));
    }
    if entry.initrds.is_empty() {
        let message = format!("`{path}` names no initramfs, without which ostree cannot find its deployment");
        findings.push(Finding::error("no-initramfs", message, Some(FILE_HINT)));
    }
    let files =
        entry.kernels.iter().map(|f| ("kernel", f)).chain(entry.initrds.iter().map(|f| ("initramfs", f)));
    for (what, file) in files {
        let (code, state) = match file.size_bytes {
            None => ("missing-file", "is missing"),
            Some(0) => ("empty-file", "is empty"),
            Some(_) => continue,
        };
        let message = format!("the {what} `{}`, which `{path}` names, {state}", file.path);
        findings.push(Finding::error(code, message, Some(FILE_HINT)));
    }
    judge_root(facts, entry, findings);
    if last_value(&entry.options, PLATFORM_ARGUMENT).is_none_or(<[u8]>::is_empty) {
        let message =
            format!("`{path}` does not set `{PLATFORM_ARGUMENT}`, so Ignition does not know where it runs");
        findings.push(Finding::error("no-platform", message, Some(NEVERTHELESS)));
    }
    let is_serial = |console: &[u8]| [&b"ttyS"[..], b"ttyAMA", b"hvc"].iter().any(|p| console.starts_with(p));
    if facts.serial_console && !values(&entry.options, "console").any(is_serial) {
        let message =
            format!("`{path}` sets no serial console, so the cloud's console connection shows nothing");
        findings.push(Finding::warning(
            "no-serial-console",
            message,
            Some("add one by `--kernel-args console=ttyS0`"),
        ));
    }
}

/// What `root=` names.
enum RootDevice {
    Root,
    Elsewhere,
    Unclear,
}

fn judge_root(facts: &BootFacts, entry: &EntryFacts, findings: &mut Vec<Finding>) {
    let path = &entry.path;
    let Some(root) = last_value(&entry.options, "root") else {
        let message = format!("`{path}` does not set `root`");
        findings.push(Finding::error("no-root", message, Some(NEVERTHELESS)));
        return;
    };
    let shown = String::from_utf8_lossy(root);
    match root_device(facts, &shown) {
        RootDevice::Root => {}
        RootDevice::Elsewhere => {
            let message = format!("`root={shown}` of `{path}` is not the root file system of the image");
            findings.push(Finding::error("wrong-root", message, Some(NEVERTHELESS)));
        }
        RootDevice::Unclear => {
            let message = format!("`root={shown}` of `{path}` depends on where the disk is attached");
            findings.push(Finding::warning(
                "unclear-root",
                message,
                Some("name the root file system by `root=LABEL=root`"),
            ));
        }
    }
}

fn root_device(facts: &BootFacts, value: &str) -> RootDevice {
    let root = &facts.root;
    let is = |same: bool| if same { RootDevice::Root } else { RootDevice::Elsewhere };
    let tag = |name: &str, device: &str| value.strip_prefix(name).or_else(|| value.strip_prefix(device));
    if let Some(uuid) = tag("UUID=", "/dev/disk/by-uuid/") {
        is(Uuid::parse(uuid.as_bytes()) == Some(root.uuid))
    } else if let Some(label) = tag("LABEL=", "/dev/disk/by-label/") {
        is(label == root.label)
    } else if let Some(guid) = tag("PARTUUID=", "/dev/disk/by-partuuid/") {
        is(guid.eq_ignore_ascii_case(&root.partition_guid))
    } else if let Some(name) = tag("PARTLABEL=", "/dev/disk/by-partlabel/") {
        is(name == root.partition_name)
    } else {
        RootDevice::Unclear
    }
}

fn judge_fstab(facts: &BootFacts, fstab: &FstabFacts, findings: &mut Vec<Finding>) {
    for mount in mounts(&fstab.text) {
        let (path, line) = (&fstab.path, mount.line);
        let (source, target) = (String::from_utf8_lossy(mount.source), String::from_utf8_lossy(mount.target));
        let wanted = match mount.target {
            b"/" => Some(&facts.root),
            b"/boot" => Some(&facts.boot),
            _ => None,
        };
        match (mount.uuid(), wanted) {
            (Some(uuid), Some(filesystem)) if uuid != filesystem.uuid => {
                let message = format!(
                    "line {line} of `{path}` mounts {source} on `{target}`, which is not the image's"
                );
                findings.push(Finding::error("wrong-mount", message, Some(NEVERTHELESS)));
            }
            (Some(uuid), None)
                if ![facts.root.uuid, facts.boot.uuid].contains(&uuid) && !mount.is_optional() =>
            {
                let message = format!(
                    "line {line} of `{path}` mounts {source} on `{target}`, which is not in the image"
                );
                findings.push(Finding::warning(
                    "unknown-mount",
                    message,
                    Some("correct the line, or add `nofail` to it"),
                ));
            }
            _ => {}
        }
        if mount.target == b"/boot/efi"
            && let (Some(named), Some(id)) = (source.strip_prefix("UUID="), &facts.efi_volume_id)
            && !named.trim_matches('"').eq_ignore_ascii_case(id)
        {
            let message = format!(
                "line {line} of `{path}` mounts {source} on `{target}`, but the EFI partition is {id}"
            );
            findings.push(Finding::warning("wrong-efi-mount", message, None));
        }
    }
}

/// What an entry names, looked up in the file system with the kernels.
///
/// # Errors
/// When the file system cannot be read.
pub fn entry_facts<D: BlockDevice>(
    boot: &Volume<D>,
    path: &str,
    entry: &LoaderEntry,
) -> Result<EntryFacts, XfsError> {
    let named = |key| -> Result<Vec<NamedFile>, XfsError> {
        // `initrd` may name several on one line
        let paths = entry
            .values(key)
            .into_iter()
            .flat_map(|v| v.split(u8::is_ascii_whitespace))
            .filter(|p| !p.is_empty());
        paths
            .take(MAX_NAMED)
            .map(|p| {
                Ok(NamedFile {
                    path: String::from_utf8_lossy(p).into_owned(),
                    size_bytes: regular_file_size(boot, p)?,
                })
            })
            .collect()
    };
    Ok(EntryFacts {
        path: path.to_owned(),
        options: entry.options(),
        kernels: named("linux")?,
        initrds: named("initrd")?,
    })
}

fn regular_file_size<D: BlockDevice>(volume: &Volume<D>, path: &[u8]) -> Result<Option<u64>, XfsError> {
    match volume.resolve(path).and_then(|ino| volume.inode(ino)) {
        Ok(inode) => Ok((inode.file_type() == FileType::Regular).then_some(inode.size_bytes)),
        Err(XfsError::NotFound { .. } | XfsError::NotADirectory { .. } | XfsError::TooManyLinks { .. }) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    const ROOT: Uuid = Uuid([0x11; 16]);
    const BOOT: Uuid = Uuid([0x22; 16]);

    fn facts() -> BootFacts {
        let filesystem = |label: &str, uuid| FilesystemFacts {
            label: label.to_owned(),
            uuid,
            partition_name: label.to_owned(),
            partition_guid: "D83B4A3C-63ED-4164-9DA8-1097E1107267".to_owned(),
        };
        let file = |path: &str| vec![NamedFile { path: path.to_owned(), size_bytes: Some(1) }];
        BootFacts {
            architecture: Architecture::Amd64,
            programs: Some(vec![program("/EFI/BOOT/BOOTX64.EFI", Some(Architecture::Amd64))]),
            efi_volume_id: Some("9859-575E".to_owned()),
            boot: filesystem("boot", BOOT),
            root: filesystem("root", ROOT),
            entries: vec![EntryFacts {
                path: "/loader/entries/ostree-1-ock.conf".to_owned(),
                options: format!("ignition.platform.id=oci console=ttyS0 root=UUID={ROOT}").into_bytes(),
                kernels: file("/vmlinuz"),
                initrds: file("/initramfs"),
            }],
            fstabs: vec![FstabFacts {
                path: "/etc/fstab".to_owned(),
                text: format!("UUID={ROOT} / xfs\nUUID={BOOT} /boot xfs\nUUID=9859-575e /boot/efi vfat")
                    .into_bytes(),
            }],
            serial_console: true,
        }
    }

    fn program(path: &str, architecture: Option<Architecture>) -> EfiProgram {
        EfiProgram { path: path.to_owned(), size_bytes: 1, architecture, from_header: false }
    }

    fn codes(change: impl FnOnce(&mut BootFacts)) -> Vec<(&'static str, Severity)> {
        let mut facts = facts();
        change(&mut facts);
        judge(&facts).into_iter().map(|f| (&*f.code.into_owned().leak(), f.severity)).collect()
    }

    #[test]
    fn nothing_to_find() {
        assert_eq!(codes(|_| ()), []);
    }

    #[test]
    fn programs_of_the_firmware() {
        assert_eq!(codes(|f| f.programs = None), [("no-efi-partition", Severity::Error)]);
        assert_eq!(codes(|f| f.programs = Some(Vec::new())), [("no-efi-program", Severity::Error)]);
        assert_eq!(codes(|f| f.architecture = Architecture::Arm64), [("no-efi-program", Severity::Error)]);
        let vendor = vec![
            program("/EFI/BOOT/BOOT.EFI", None),
            program("/EFI/redhat/grubx64.efi", Some(Architecture::Amd64)),
        ];
        assert_eq!(codes(|f| f.programs = Some(vendor)), [("no-fallback-loader", Severity::Warning)]);
        let empty = |f: &mut BootFacts| f.programs.as_mut().unwrap()[0].size_bytes = 0;
        assert_eq!(codes(empty), [("no-efi-program", Severity::Error)]);
    }

    #[test]
    fn files_of_the_entry() {
        assert_eq!(codes(|f| f.entries[0].kernels.clear()), [("no-kernel", Severity::Error)]);
        assert_eq!(codes(|f| f.entries[0].initrds.clear()), [("no-initramfs", Severity::Error)]);
        assert_eq!(codes(|f| f.entries[0].kernels[0].size_bytes = None), [("missing-file", Severity::Error)]);
        assert_eq!(
            codes(|f| f.entries[0].initrds[0].size_bytes = Some(0)),
            [("empty-file", Severity::Error)]
        );
    }

    #[test]
    fn command_line() {
        let cases = [
            (
                format!(
                    "ignition.platform.id=oci console=ttyAMA0,115200 root=UUID={}",
                    ROOT.to_string().to_uppercase()
                ),
                None,
            ),
            ("ignition.platform.id=oci console=ttyS0 root=LABEL=root".to_owned(), None),
            ("ignition.platform.id=oci console=ttyS0 root=PARTLABEL=root".to_owned(), None),
            (
                "ignition.platform.id=oci console=ttyS0 root=PARTUUID=d83b4a3c-63ed-4164-9da8-1097e1107267"
                    .to_owned(),
                None,
            ),
            (format!("ignition.platform.id=oci console=ttyS0 root=/dev/disk/by-uuid/{ROOT}"), None),
            (format!("ignition.platform.id=oci console=ttyS0 root=UUID={BOOT}"), Some("wrong-root")),
            ("ignition.platform.id=oci console=ttyS0 root=LABEL=boot".to_owned(), Some("wrong-root")),
            ("ignition.platform.id=oci console=ttyS0 root=/dev/sda3".to_owned(), Some("unclear-root")),
            ("ignition.platform.id=oci console=ttyS0".to_owned(), Some("no-root")),
            (format!("console=ttyS0 root=UUID={ROOT}"), Some("no-platform")),
            (format!("ignition.platform.id= console=ttyS0 root=UUID={ROOT}"), Some("no-platform")),
            (format!("ignition.platform.id=oci console=tty0 root=UUID={ROOT}"), Some("no-serial-console")),
        ];
        for (options, want) in cases {
            let found = codes(|f| f.entries[0].options = options.clone().into_bytes());
            assert_eq!(found.first().map(|f| f.0), want, "{options}");
            assert!(found.len() < 2, "{options}: {found:?}");
        }
    }

    #[test]
    fn mounts_of_the_deployment() {
        let stale = Uuid([0x33; 16]);
        let cases = [
            (format!("UUID={stale} / xfs"), Some("wrong-mount")),
            (format!("UUID={ROOT} /boot xfs"), Some("wrong-mount")),
            (format!("UUID={stale} /data xfs defaults"), Some("unknown-mount")),
            (format!("UUID={stale} /data xfs defaults,nofail"), None),
            (format!("UUID={stale} /data xfs noauto 0 0"), None),
            (format!("UUID={ROOT} /data xfs"), None),
            ("LABEL=root / xfs".to_owned(), None),
            ("UUID=1111-2222 /boot/efi vfat".to_owned(), Some("wrong-efi-mount")),
        ];
        for (text, want) in cases {
            let found = codes(|f| f.fstabs[0].text = text.clone().into_bytes());
            assert_eq!(found.first().map(|f| f.0), want, "{text}");
        }
    }
}
