//! Writes a qcow2 or raw image compressed anew: `recompress IN OUT zlib|zstd[:LEVEL]`. For timing beside `qemu-img`.

use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use ocne_disk::{BlockDevice, CompressOptions, Compression, Qcow2, Qcow2Error, RawDevice, write_compressed};

#[expect(clippy::print_stderr, reason = "an example talks to its user")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, how] = args.as_slice() else {
        return Err("usage: recompress IN OUT zlib|zstd[:LEVEL]".into());
    };
    let (name, level) = how.split_once(':').map_or((how.as_str(), None), |(name, level)| (name, Some(level)));
    let compression = match name {
        "zlib" => Compression::Zlib,
        "zstd" => Compression::Zstd,
        _ => return Err(format!("`{name}` is not a compression").into()),
    };
    let options = CompressOptions {
        compression,
        level: level.map(str::parse).transpose()?,
        ..CompressOptions::default()
    };
    let start = Instant::now();
    let device: Box<dyn BlockDevice> = match Qcow2::open(Path::new(input)) {
        Err(Qcow2Error::NotQcow2) => Box::new(RawDevice::open(Path::new(input))?),
        image => Box::new(image?),
    };
    eprintln!("opened in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    let file = fs_err::File::create(output)?;
    let summary = write_compressed(device.as_ref(), &file, &options, &|_| ControlFlow::Continue(()))?;
    eprintln!("{:.2} s: {summary:?}", start.elapsed().as_secs_f64());
    Ok(())
}
