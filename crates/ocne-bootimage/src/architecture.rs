//! Which processor an image is for, and how to tell.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A processor architecture, by its name in container images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The name in container images and in `--arch`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Of a kernel's file name or release, by its last part: `5.15.0-300.el8uek.x86_64`, `6.1.0-56-cloud-amd64`.
    pub fn of_kernel_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let last = name.rsplit(['.', '-', '+']).next()?;
        match last {
            "x86_64" | "amd64" => Some(Self::Amd64),
            "aarch64" | "arm64" => Some(Self::Arm64),
            _ => None,
        }
    }

    /// Of an EFI program's file name: `BOOTX64.EFI`, `grubaa64.efi` (UEFI specification, 3.5.1.1).
    pub fn of_efi_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let stem = name.strip_suffix(".efi")?;
        if stem.ends_with("x64") {
            Some(Self::Amd64)
        } else if stem.ends_with("aa64") {
            Some(Self::Arm64)
        } else {
            None
        }
    }

    /// Of the start of an EFI program or kernel: the machine field of a PE file.
    pub fn of_pe(start: &[u8]) -> Option<Self> {
        if !start.starts_with(b"MZ") {
            return None;
        }
        let at = usize::try_from(u32::from_le_bytes(start.get(0x3c..0x40)?.try_into().ok()?)).ok()?;
        let header = start.get(at..at.checked_add(6)?)?;
        match header {
            [b'P', b'E', 0, 0, 0x64, 0x86] => Some(Self::Amd64),
            [b'P', b'E', 0, 0, 0x64, 0xaa] => Some(Self::Arm64),
            _ => None,
        }
    }

    /// Of the start of a kernel: the header of the boot protocol (`Documentation/arch/x86/boot.rst`,
    /// `Documentation/arch/arm64/booting.rst`), or its PE header.
    pub fn of_kernel(start: &[u8]) -> Option<Self> {
        if start.get(0x202..0x206) == Some(b"HdrS") {
            Some(Self::Amd64)
        } else if start.get(0x38..0x3c) == Some(b"ARM\x64") {
            Some(Self::Arm64)
        } else {
            Self::of_pe(start)
        }
    }

    /// The program that firmware starts when it was not told another: in `EFI/BOOT`.
    pub fn fallback_loader(self) -> &'static str {
        match self {
            Self::Amd64 => "BOOTX64.EFI",
            Self::Arm64 => "BOOTAA64.EFI",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One sign of an image's architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArchitectureSign {
    /// What it says.
    pub architecture: Architecture,
    /// Where it was seen, for people.
    pub seen: String,
}

/// The architecture that the signs speak for: the first one's, as they are in the order of their weight.
pub fn decide(signs: &[ArchitectureSign]) -> Option<Architecture> {
    signs.first().map(|s| s.architecture)
}

/// The signs that contradict the decision.
pub fn conflicts(signs: &[ArchitectureSign]) -> Vec<&ArchitectureSign> {
    signs.iter().filter(|s| Some(s.architecture) != decide(signs)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let cases = [
            ("vmlinuz-5.15.0-300.163.18.el8uek.x86_64", Some(Architecture::Amd64)),
            ("5.15.0-300.163.18.el8uek.aarch64", Some(Architecture::Arm64)),
            ("vmlinuz-6.1.0-56-cloud-amd64", Some(Architecture::Amd64)),
            ("vmlinuz", None),
            ("vmlinuz-6.1.0-amd64-custom", None),
        ];
        for (name, want) in cases {
            assert_eq!(Architecture::of_kernel_name(name), want, "{name}");
        }
        let cases = [
            ("BOOTX64.EFI", Some(Architecture::Amd64)),
            ("grubaa64.efi", Some(Architecture::Arm64)),
            ("shimx64.efi", Some(Architecture::Amd64)),
            ("BOOT.EFI", None),
            ("grubx64.cfg", None),
        ];
        for (name, want) in cases {
            assert_eq!(Architecture::of_efi_name(name), want, "{name}");
        }
    }

    #[test]
    fn headers() {
        let mut pe = vec![0; 256];
        pe[..2].copy_from_slice(b"MZ");
        pe[0x3c] = 0x80;
        pe[0x80..0x86].copy_from_slice(b"PE\0\0\x64\x86");
        assert_eq!(Architecture::of_pe(&pe), Some(Architecture::Amd64));
        pe[0x85] = 0xaa;
        assert_eq!(Architecture::of_kernel(&pe), Some(Architecture::Arm64));
        pe[0x3c..0x40].fill(0xff);
        assert_eq!(Architecture::of_pe(&pe), None);
        assert_eq!(Architecture::of_pe(b"MZ"), None);
        let mut kernel = vec![0; 1024];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        assert_eq!(Architecture::of_kernel(&kernel), Some(Architecture::Amd64));
        kernel[0x202] = 0;
        kernel[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(Architecture::of_kernel(&kernel), Some(Architecture::Arm64));
        assert_eq!(Architecture::of_kernel(&[]), None);
    }

    #[test]
    fn first_sign_decides() {
        let sign = |architecture, seen: &str| ArchitectureSign { architecture, seen: seen.to_owned() };
        let signs = [
            sign(Architecture::Arm64, "kernel"),
            sign(Architecture::Arm64, "name"),
            sign(Architecture::Amd64, "grubx64.efi"),
        ];
        assert_eq!(decide(&signs), Some(Architecture::Arm64));
        assert_eq!(conflicts(&signs), [&signs[2]]);
        assert_eq!(decide(&[]), None);
    }
}
