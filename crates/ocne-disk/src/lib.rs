//! Block devices in files, read and edited without mounting anything.
//!
//! * [`Qcow2`] opens a qcow2 image, verifies it, reads it as a [`BlockDevice`], stages writes in memory and plans the
//!   file writes that commit them; [`write_compressed`] makes a new compressed image of any device.
//! * [`gpt`] and [`fat`] read partition tables and the EFI system partition.

mod bytes;
mod device;
pub mod fat;
pub mod gpt;
mod patched;
mod qcow2;

pub use device::{
    BlockDevice, BlockWrite, DeviceError, MemoryDevice, Overlay, RawDevice, ReadRequest, Slice,
};
pub use patched::PatchedFile;
pub use qcow2::{
    CommitPlan, CompressOptions, CompressSummary, Compression, ContentChecksums, ContentDifference,
    FileWrite, Qcow2, Qcow2Check, Qcow2Error, Qcow2Info, write_compressed,
};
