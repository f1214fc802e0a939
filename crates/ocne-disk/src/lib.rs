//! Block devices in files, read and edited without mounting anything.

mod device;

pub use device::{
    BlockDevice, BlockWrite, DeviceError, MemoryDevice, Overlay, RawDevice, ReadRequest, Slice,
};
