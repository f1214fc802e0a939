//! Boot images as text for people.

use std::fmt::Write as _;

use ocne_build::{Entry, ImageRecord, PartitionRecord};

use crate::progress::size;
use crate::terminal::printable;
use crate::timestamp;

/// An image with its partitions.
pub fn image(record: &ImageRecord) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<18} {}", printable(&value));
    };
    line("Image", record.image.clone());
    line("Format", format!("qcow2 version {}, {} compression", record.qcow2_version, record.compression));
    line("File size", bytes(record.file_size_bytes));
    line("Disk size", bytes(record.virtual_size_bytes));
    line("Cluster size", bytes(record.cluster_size_bytes));
    line("Sector size", bytes(record.sector_size_bytes));
    line("Partition table", format!("GPT {} ({})", record.disk_guid, record.partition_table));
    for problem in &record.partition_table_problems {
        line("", problem.clone());
    }
    if let Some(system) = &record.system {
        line("Architecture", system.architecture.to_string());
        for entry in &system.entries {
            line("Loader entry", entry.path.clone());
            line("  kernel options", entry.options.clone());
        }
        for deployment in &system.deployments {
            line("Deployment", deployment.path.clone());
            if let Some(name) = deployment.os_release.get("PRETTY_NAME") {
                line("  system", name.to_owned());
            }
            for kernel in &deployment.kernels {
                line("  kernel", kernel.clone());
            }
        }
    }
    if let Some(reason) = &record.not_a_boot_image {
        line("Not a boot image", reason.clone());
    }
    for p in &record.partitions {
        partition(&mut out, p);
    }
    for part in record.check.iter().flatten() {
        let verdict = if part.problems.is_empty() {
            "clean".to_owned()
        } else {
            format!("{} problems", part.problems.len())
        };
        let _ = writeln!(out, "{:<18} {verdict}", printable(&format!("Check of {}", part.part)));
        for problem in &part.problems {
            let _ = writeln!(out, "  {}", printable(problem));
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn partition(out: &mut String, p: &PartitionRecord) {
    let _ = writeln!(out, "{:<18} {}", format!("Partition {}", p.number), printable(&p.label));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<16} {}", printable(&value));
    };
    line("GUID", p.guid.clone());
    line(
        "Type",
        match p.type_name {
            Some(name) => format!("{} ({name})", p.type_guid),
            None => p.type_guid.clone(),
        },
    );
    line("Size", bytes(p.size_bytes));
    line(
        "Extent",
        format!("{} to {}", p.start_bytes, p.start_bytes.saturating_add(p.size_bytes).saturating_sub(1)),
    );
    if let Some(fs) = &p.filesystem {
        line("File system", format!("{} `{}`, {}", fs.kind, fs.label, fs.uuid));
        if let (Some(block), Some(size_bytes), Some(free)) =
            (fs.block_size_bytes, fs.size_bytes, fs.free_bytes)
        {
            line(
                "  size",
                format!("{} in blocks of {}, {} free", size(size_bytes), size(block.into()), size(free)),
            );
        }
    }
    if let Some(problem) = &p.problem {
        line("Problem", problem.clone());
    }
}

/// Entries of a folder, as `ls -l` shows them.
pub fn listing(entries: &[Entry]) -> String {
    let width = entries.iter().map(|e| e.size_bytes.to_string().len()).max().unwrap_or(0);
    let mut out = String::new();
    for e in entries {
        let mode = e.mode.as_deref().unwrap_or("-");
        let owner = format!("{}:{}", e.uid.unwrap_or(0), e.gid.unwrap_or(0));
        let time =
            e.modified_seconds.map_or_else(String::new, |s| timestamp::format(u64::try_from(s).unwrap_or(0)));
        let kind = match e.kind {
            "folder" => 'd',
            "link" => 'l',
            "file" => '-',
            _ => '?',
        };
        let target = e.target.as_ref().map(|t| format!(" -> {t}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "{kind} {mode:>4} {owner:>7} {:>width$} {time:20} {}",
            e.size_bytes,
            printable(&format!("{}{target}", e.path))
        );
    }
    out
}

fn bytes(count: u64) -> String {
    if count < 1024 { format!("{count} bytes") } else { format!("{} ({count} bytes)", size(count)) }
}
