//! The EFI programs of an image, and what they and the kernels say about its architecture.

use ocne_disk::BlockDevice;
use ocne_disk::fat::{Fat, FatError};
use ocne_xfs::{FileType, Volume, XfsError};
use serde::Serialize;

use crate::architecture::{Architecture, ArchitectureSign};
use crate::loader_entry::LoaderEntry;
use crate::tree;

/// Bytes of EFI programs that are read for their headers: those of GRUB and shim have one to four MiB each.
const MAX_READ_BYTES: u64 = 64 << 20;
/// Bytes of a kernel that have its header.
const KERNEL_START_BYTES: u32 = 4096;

/// A program in the EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EfiProgram {
    /// Path, such as `/EFI/BOOT/BOOTX64.EFI`.
    pub path: String,
    /// Size.
    pub size_bytes: u64,
    /// What its header or else its name says that it is for.
    pub architecture: Option<Architecture>,
    /// Whether the header says so.
    pub from_header: bool,
}

/// The programs in the directories of `/EFI`.
///
/// # Errors
/// When the file system is damaged.
pub fn programs<D: BlockDevice>(efi: &Fat<D>) -> Result<Vec<EfiProgram>, FatError> {
    let mut programs = Vec::new();
    let mut budget_bytes = MAX_READ_BYTES;
    for vendor in efi.list("/EFI")?.into_iter().filter(|e| e.is_dir && !matches!(e.name.as_str(), "." | ".."))
    {
        let dir = format!("/EFI/{}", vendor.name);
        for file in efi.list(&dir)?.into_iter().filter(|e| !e.is_dir && has_efi_suffix(&e.name)) {
            let path = format!("{dir}/{}", file.name);
            let content = if file.size_bytes <= budget_bytes {
                budget_bytes -= file.size_bytes;
                efi.read(&path, file.size_bytes)?
            } else {
                Vec::new()
            };
            let by_header = Architecture::of_pe(&content);
            programs.push(EfiProgram {
                path,
                size_bytes: file.size_bytes,
                architecture: by_header.or_else(|| Architecture::of_efi_name(&file.name)),
                from_header: by_header.is_some(),
            });
        }
    }
    programs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(programs)
}

fn has_efi_suffix(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("efi"))
}

/// Everything that tells the architecture, in the order of its weight: what the kernels are, what they are called, what
/// the EFI programs are and are called.
///
/// # Errors
/// When the file system with the kernels cannot be read.
pub fn architecture_signs<'a, D: BlockDevice>(
    boot: &Volume<D>,
    entries: impl Iterator<Item = &'a LoaderEntry>,
    programs: &[EfiProgram],
) -> Result<Vec<ArchitectureSign>, XfsError> {
    let mut kernels: Vec<String> = entries.filter_map(|e| e.value("linux")).collect();
    kernels.sort();
    kernels.dedup();
    let mut signs = Vec::new();
    for kernel in &kernels {
        if let Some(architecture) = kernel_architecture(boot, kernel)? {
            signs.push(ArchitectureSign {
                architecture,
                seen: format!("the header of the kernel `{kernel}`"),
            });
        }
    }
    for kernel in &kernels {
        if let Some(architecture) = Architecture::of_kernel_name(kernel) {
            signs.push(ArchitectureSign { architecture, seen: format!("the name of the kernel `{kernel}`") });
        }
    }
    for from_header in [true, false] {
        for program in programs.iter().filter(|p| p.from_header == from_header) {
            if let Some(architecture) = program.architecture {
                let what = if from_header { "header" } else { "name" };
                let seen = format!("the {what} of the EFI program `{}`", program.path);
                signs.push(ArchitectureSign { architecture, seen });
            }
        }
    }
    Ok(signs)
}

/// What the header of a kernel says; nothing when the kernel is missing, which is another's to find.
fn kernel_architecture<D: BlockDevice>(
    boot: &Volume<D>,
    path: &str,
) -> Result<Option<Architecture>, XfsError> {
    let ino = match boot.resolve(path.as_bytes()) {
        Ok(ino) => ino,
        Err(XfsError::NotFound { .. } | XfsError::NotADirectory { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let inode = boot.inode(ino)?;
    if inode.file_type() != FileType::Regular {
        return Ok(None);
    }
    Ok(Architecture::of_kernel(&tree::file_start(boot, &inode, KERNEL_START_BYTES)?))
}
