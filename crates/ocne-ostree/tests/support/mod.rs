//! Images of the fixtures, read without the crates that are tested, and their conversion.

#![allow(dead_code, reason = "no test uses all of it")]

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;

use ocne_ostree::{
    Base, BaseImage, BaseLayer, Encapsulated, ImageOptions, Layers, OstreeError, Written, write_image,
};
use serde_json::Value;

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/ostree")
}

pub fn sample() -> PathBuf {
    fixtures().join("sample-encapsulated.ociarchive")
}

/// Runs one of the fixtures' programs.
pub fn run(program: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(fixtures().join(program)).args(arguments.iter().map(AsRef::as_ref)).output().unwrap()
}

/// Whether the tests can make their images here; says so if not.
pub fn can_run(name: &str, programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let missing: Vec<_> =
        programs.iter().filter(|p| !path.split(':').any(|d| Path::new(d).join(p).is_file())).collect();
    if !missing.is_empty() {
        // Not by `println!`, which the harness keeps to itself when a test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs {missing:?}");
    }
    missing.is_empty()
}

/// An image out of an oci-archive.
pub struct Image {
    pub manifest: Value,
    pub config: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
}

impl Image {
    pub fn read(path: &Path) -> Self {
        let mut files = HashMap::new();
        let mut archive = tar::Archive::new(fs_err::File::open(path).unwrap());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(name.trim_start_matches("./").replace("blobs/sha256/", "sha256:"), content);
        }
        let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let index = json("index.json");
        let manifest = json(index["manifests"][0]["digest"].as_str().unwrap());
        let config = files[manifest["config"]["digest"].as_str().unwrap()].clone();
        Self { manifest, config, blobs: files }
    }

    pub fn descriptors(&self) -> &[Value] {
        self.manifest["layers"].as_array().unwrap()
    }

    pub fn blob(&self, index: usize) -> Vec<u8> {
        self.blobs[self.descriptors()[index]["digest"].as_str().unwrap()].clone()
    }

    pub fn layers(&self) -> Layers<'_> {
        Layers {
            sizes_bytes: self.descriptors().iter().map(|d| d["size"].as_u64().unwrap()).collect(),
            open: Box::new(|index| Ok(Box::new(std::io::Cursor::new(self.blob(index))))),
        }
    }

    pub fn base(&self) -> BaseImage<'_> {
        let layer = |d: &Value| BaseLayer {
            media_type: Some(d["mediaType"].as_str().unwrap().to_owned()),
            digest: d["digest"].as_str().unwrap().to_owned(),
            size_bytes: d["size"].as_u64().unwrap(),
        };
        BaseImage {
            config: self.config.clone(),
            layers: self.descriptors().iter().map(layer).collect(),
            open: self.layers().open,
            name: Some("registry.example/nginx:1".to_owned()),
            digest: None,
        }
    }
}

pub fn options() -> ImageOptions {
    ImageOptions {
        ref_name: "ock".to_owned(),
        image_name: "localhost/ock-ostree:latest".to_owned(),
        level: 6,
        workers: 3,
        source: None,
    }
}

/// Something that is nearly a program.
pub fn server() -> Base<'static> {
    Base::Server { program: b"#!/bin/false\n".to_vec() }
}

/// Converts an image into a file.
pub fn convert(
    image: &Image,
    base: Base<'_>,
    options: &ImageOptions,
    output: &Path,
) -> Result<Written, OstreeError> {
    let file =
        fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(output).unwrap();
    let source = Encapsulated::parse(&image.config)?;
    let cancel = AtomicBool::new(false);
    let written = write_image(&source, image.layers(), base, options, file.file(), &mut |_| {}, &cancel)?;
    ocne_ostree::verify_image(fs_err::File::open(output).unwrap().into_parts().0, &written, &cancel)?;
    assert_eq!(fs_err::metadata(output).unwrap().len(), written.size_bytes);
    Ok(written)
}

/// The independent checker, on a converted image of the sample.
pub fn check(output: &Path, more: &[&str]) {
    let (facts, tree) = (fixtures().join("sample-encapsulated.json"), fixtures().join("sample-tree.json"));
    let known = ["--facts", facts.to_str().unwrap(), "--tree", tree.to_str().unwrap()];
    judge(output, &[&known, more].concat());
}

/// The independent checker.
pub fn judge(output: &Path, arguments: &[&str]) {
    let found =
        Command::new(fixtures().join("check-archive-image.sh")).arg(output).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&found.stdout);
    assert!(found.status.success(), "{text}{}", String::from_utf8_lossy(&found.stderr));
}

/// Writes an image once more, with its last layer changed and all digests right: `change` may change files of the layer, and says
/// whether they stay.
#[allow(dead_code, reason = "not every test needs it")]
pub fn rewrite(from: &Path, to: &Path, change: &mut dyn FnMut(&str, &mut Vec<u8>) -> bool) {
    let image = Image::read(from);
    let put = |tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
    };
    let mut layer = tar::Builder::new(Vec::new());
    let last = image.blob(image.descriptors().len() - 1);
    for entry in tar::Archive::new(&last[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if !name.ends_with('/') && change(&name, &mut content) {
            put(&mut layer, &name, &content);
        }
    }
    let layer = layer.into_inner().unwrap();
    let digest = |bytes: &[u8]| ocne_ostree::Checksum::of(bytes).digest();
    let mut manifest = image.manifest.clone();
    let described = manifest["layers"].as_array_mut().unwrap().last_mut().unwrap();
    described["digest"] = digest(&layer).into();
    described["size"] = layer.len().into();
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{ "digest": digest(&manifest), "size": manifest.len() }] });
    let mut archive = tar::Builder::new(Vec::new());
    put(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let first = (0..image.descriptors().len() - 1).map(|index| image.blob(index));
    for blob in first.chain([layer, image.config.clone(), manifest]) {
        put(&mut archive, &digest(&blob).replace("sha256:", "blobs/sha256/"), &blob);
    }
    put(&mut archive, "index.json", index.to_string().as_bytes());
    fs_err::write(to, archive.into_inner().unwrap()).unwrap();
}
