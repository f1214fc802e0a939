//! The image that serves a repository: layers of a base, the repository, and what starts the server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value, json};
use tar::EntryType;

use crate::archive::{ArchiveWriter, Blob};
use crate::checksum::Checksum;
use crate::error::OstreeError;
use crate::import::{Imported, Layers, OpenLayer, Step, import};
use crate::layer_input::LayerInput;
use crate::repository::RepositoryWriter;
use crate::source::{Encapsulated, digest};
use crate::timestamp::rfc3339;

/// The configuration of nginx in our layer: what the base's own one serves, nobody knows.
const NGINX_CONFIG: &str = include_str!("nginx.conf");
const NGINX_CONFIG_PATH: &str = "etc/ock-ostree/nginx.conf";
pub(crate) const NGINX_FILES: &[(&str, &[u8])] = &[(NGINX_CONFIG_PATH, NGINX_CONFIG.as_bytes())];
/// The document root of nginx, and so of our own server.
const DOCUMENT_ROOT: &str = "/usr/share/nginx/html";
/// Where our own server is.
const SERVER_PATH: &str = "usr/bin/ocne-serve";
/// Images are made of uncompressed layers; who pushes them compresses them.
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// What serves the repository.
#[derive(Debug)]
pub enum Base<'a> {
    /// The nginx of another image.
    Image(BaseImage<'a>),
    /// Our own server alone, a static program.
    Server {
        /// The program.
        program: Vec<u8>,
    },
}

/// An image with nginx.
pub struct BaseImage<'a> {
    /// Its configuration, as its bytes are.
    pub config: Vec<u8>,
    /// Its layers, the lowest first.
    pub layers: Vec<BaseLayer>,
    /// Opens one of them by its number from 0 on, as it is transferred.
    pub open: OpenLayer<'a>,
    /// Its reference, if other machines know it by that.
    pub name: Option<String>,
    /// The digest of its manifest, if it has one.
    pub digest: Option<String>,
}

impl std::fmt::Debug for BaseImage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseImage")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .field("layers", &self.layers)
            .finish_non_exhaustive()
    }
}

/// A layer of a base.
#[derive(Debug, Clone)]
pub struct BaseLayer {
    /// What it is; unknown for one that is only known by its uncompressed content.
    pub media_type: Option<String>,
    /// Its digest as it is transferred; of its uncompressed content if the media type is unknown.
    pub digest: String,
    /// Its size as it is transferred.
    pub size_bytes: u64,
}

/// How an image is made.
#[derive(Debug, Clone)]
pub struct ImageOptions {
    /// The ref that clients ask for.
    pub ref_name: String,
    /// The image's name in its archive.
    pub image_name: String,
    /// Level of compression of the files, 1 to 9.
    pub level: u32,
    /// Threads that compress.
    pub workers: usize,
    /// Where the commit comes from, if other machines know it by that.
    pub source: Option<String>,
}

/// An image that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// What was in the source.
    pub imported: Imported,
    /// The manifest.
    pub manifest: Blob,
    /// The configuration.
    pub config: Blob,
    /// The layer with the repository.
    pub layer: Blob,
    /// Size of the file.
    pub size_bytes: u64,
}

/// Makes the image that serves a commit, and writes it into an empty file. The same input gives the same bytes.
///
/// `progress` is told how many bytes of the source's layers were read. Memory is bounded, about 64 MiB, whatever the sizes.
///
/// # Errors
/// See [`OstreeError`]; the file is of no use then.
pub fn write_image(
    source: &Encapsulated,
    layers: Layers<'_>,
    base: Base<'_>,
    options: &ImageOptions,
    file: &File,
    progress: &mut dyn FnMut(u64),
    cancel: &AtomicBool,
) -> Result<Written, OstreeError> {
    let mut archive = ArchiveWriter::new(file)?;
    let mut image = Image::new(base, &source.architecture, &mut archive, cancel)?;
    let read_bytes = AtomicU64::new(0);
    let mut repository = RepositoryWriter::new(archive.blob(), image.files)?;
    let imported = import(source, layers, options, &read_bytes, cancel, &mut |step| {
        progress(read_bytes.load(Ordering::Relaxed));
        match step {
            Step::Object(object, head, content) => repository.object(&object, &[&head, &content]),
            Step::Begin(object, head) => repository.begin(&object).and_then(|()| repository.write(&head)),
            Step::Piece(piece) => repository.write(&piece),
            Step::End(object) => repository.end(&object),
            Step::Again | Step::Failed(_) | Step::Done(_) => Ok(()),
        }
    })?;
    let layer = repository.finish(&options.ref_name, imported.checksum, imported.commit.timestamp_seconds)?;
    image.top(source, &imported, &layer, options);
    image.finish(archive, imported, layer, options)
}

/// Whether an image that was made elsewhere is the one that [`write_image`] makes of this source and this base, around the
/// layer with the repository. Of the base only the description is used.
///
/// # Errors
/// [`OstreeError::NotAsWritten`] when it is another, and when the base is not one that anything can be made of.
pub fn check_documents(
    source: &Encapsulated,
    base: Base<'_>,
    options: &ImageOptions,
    written: &Written,
) -> Result<(), OstreeError> {
    let nowhere = fs_err::OpenOptions::new().write(true).open("/dev/null");
    let nowhere = nowhere.map_err(|source| OstreeError::Output { action: "describe the image", source })?;
    let (mut image, is_known) = match base {
        // Of a layer that is known by its content alone, nobody knows here how large it is.
        Base::Image(base) => {
            (Image::on_layers(&base)?, base.layers.iter().all(|layer| layer.media_type.is_some()))
        }
        Base::Server { program } => {
            let mut archive = ArchiveWriter::new(nowhere.file())?;
            (Image::with_server(&program, &source.architecture, &mut archive)?, true)
        }
    };
    image.top(source, &written.imported, &written.layer, options);
    let config = json!(image.config).to_string().into_bytes();
    let config = Blob { checksum: Checksum::of(&config), size_bytes: config.len() as u64 };
    if config != written.config
        || is_known && Checksum::of(&image.manifest(&config)) != written.manifest.checksum
    {
        let reason = "its description is not that of this commit on this base".to_owned();
        return Err(OstreeError::NotAsWritten { reason });
    }
    Ok(())
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({ "mediaType": media_type, "digest": blob.checksum.digest(), "size": blob.size_bytes })
}

/// An image on its way.
struct Image {
    config: Map<String, Value>,
    layers: Vec<Value>,
    diff_ids: Vec<String>,
    /// Files of the repository's layer, beside the repository.
    files: &'static [(&'static str, &'static [u8])],
    annotations: BTreeMap<&'static str, String>,
}

impl Image {
    fn new(
        base: Base<'_>,
        architecture: &str,
        archive: &mut ArchiveWriter<'_>,
        cancel: &AtomicBool,
    ) -> Result<Self, OstreeError> {
        match base {
            Base::Image(base) => Self::on_image(base, archive, cancel),
            Base::Server { program } => Self::with_server(&program, architecture, archive),
        }
    }

    fn with_server(
        program: &[u8],
        architecture: &str,
        archive: &mut ArchiveWriter<'_>,
    ) -> Result<Self, OstreeError> {
        let mut layer = archive.blob();
        for folder in ["usr/", "usr/bin/"] {
            layer.entry(folder, EntryType::Directory, 0o755, &[])?;
        }
        layer.entry(SERVER_PATH, EntryType::Regular, 0o755, &[program])?;
        let layer = layer.finish_tar()?;
        let run = json!({
            "Cmd": [format!("/{SERVER_PATH}"), "--port", "80", DOCUMENT_ROOT],
            "Env": ["PATH=/usr/bin"],
            "StopSignal": "SIGTERM",
            "WorkingDir": "/",
        });
        let history = json!([{ "created_by": "ocne-serve" }]);
        let config = [
            ("architecture", json!(architecture)),
            ("os", json!("linux")),
            ("config", run),
            ("history", history),
        ];
        let config = config.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Self {
            config,
            layers: vec![descriptor(LAYER_TYPE, &layer)],
            diff_ids: vec![layer.checksum.digest()],
            files: &[],
            annotations: BTreeMap::new(),
        })
    }

    fn on_image(
        mut base: BaseImage<'_>,
        archive: &mut ArchiveWriter<'_>,
        cancel: &AtomicBool,
    ) -> Result<Self, OstreeError> {
        let mut image = Self::on_layers(&base)?;
        for (index, layer) in base.layers.iter().enumerate() {
            image.layers[index] = copy_layer(index, layer, &mut base.open, archive, cancel)?;
        }
        Ok(image)
    }

    /// The same without the content of the base's layers.
    fn on_layers(base: &BaseImage<'_>) -> Result<Self, OstreeError> {
        let refused = |reason: String| OstreeError::Config { image: "the base", reason };
        let config: Map<String, Value> =
            serde_json::from_slice(&base.config).map_err(|e| refused(e.to_string()))?;
        let diff_ids = config.get("rootfs").and_then(|r| r.get("diff_ids")).cloned().unwrap_or_default();
        let diff_ids: Vec<String> = serde_json::from_value(diff_ids).map_err(|e| refused(e.to_string()))?;
        if diff_ids.len() != base.layers.len() {
            let (said, found) = (diff_ids.len(), base.layers.len());
            return Err(refused(format!("it describes {said} layers, and there are {found}")));
        }
        let layers = base.layers.iter().enumerate().map(|(index, layer)| {
            let (media_type, checksum) = terms(index, layer)?;
            Ok(descriptor(media_type, &Blob { checksum, size_bytes: layer.size_bytes }))
        });
        let layers = layers.collect::<Result<_, OstreeError>>()?;
        let mut config = config;
        let mut inner = match config.remove("config") {
            Some(Value::Object(inner)) => inner,
            _ => Map::new(),
        };
        // What the base starts is of no use here, and may be a script that looks for its own things.
        inner.remove("Entrypoint");
        let nginx_config = format!("/{NGINX_CONFIG_PATH}");
        inner.insert("Cmd".to_owned(), json!(["nginx", "-c", nginx_config, "-g", "daemon off;"]));
        config.insert("config".to_owned(), Value::Object(inner));
        let mut annotations = BTreeMap::new();
        let (name, digest) = (base.name.clone(), base.digest.clone());
        annotations.extend(name.map(|name| ("org.opencontainers.image.base.name", name)));
        annotations.extend(digest.map(|digest| ("org.opencontainers.image.base.digest", digest)));
        Ok(Self { config, layers, diff_ids, files: NGINX_FILES, annotations })
    }

    /// Says in configuration and annotations what the image is.
    fn describe(&mut self, source: &Encapsulated, imported: &Imported, options: &ImageOptions) {
        let created = rfc3339(imported.commit.timestamp_seconds);
        let commit = imported.checksum.hex();
        let version =
            source.labels.get("org.opencontainers.image.version").or(imported.commit.version.as_ref());
        let annotations = &mut self.annotations;
        annotations.insert("org.opencontainers.image.created", created.clone());
        annotations.insert("org.opencontainers.image.revision", commit.clone());
        annotations.insert("org.opencontainers.image.title", "ock-ostree".to_owned());
        annotations.extend(version.map(|v| ("org.opencontainers.image.version", v.clone())));
        annotations.extend(options.source.clone().map(|s| ("org.opencontainers.image.source", s)));
        self.config.insert("created".to_owned(), json!(created));
        if let Some(inner) = self.config.get_mut("config").and_then(Value::as_object_mut) {
            inner.insert("ExposedPorts".to_owned(), json!({ "80/tcp": {}, "443/tcp": {} }));
            let mut labels = match inner.remove("Labels") {
                Some(Value::Object(labels)) => labels,
                _ => Map::new(),
            };
            for (name, value) in annotations.iter() {
                labels.insert((*name).to_owned(), json!(value));
            }
            labels.insert("ostree.commit".to_owned(), json!(commit));
            let kernel = source.labels.get("ostree.linux");
            labels.extend(kernel.map(|version| ("ostree.linux".to_owned(), json!(version))));
            inner.insert("Labels".to_owned(), Value::Object(labels));
        }
        let entry = json!({
            "created": created,
            "created_by": "ocne image create --type ostree",
            "comment": format!("the archive repository of commit {commit}"),
        });
        match self.config.entry("history").or_insert_with(|| json!([])) {
            Value::Array(history) => history.push(entry),
            other => *other = json!([entry]),
        }
        self.config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": self.diff_ids }));
    }

    /// Puts the layer with the repository on top.
    fn top(&mut self, source: &Encapsulated, imported: &Imported, layer: &Blob, options: &ImageOptions) {
        self.layers.push(descriptor(LAYER_TYPE, layer));
        self.diff_ids.push(layer.checksum.digest());
        self.describe(source, imported, options);
    }

    /// The manifest, around what is known of the configuration.
    fn manifest(&self, config: &Blob) -> Vec<u8> {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, config),
            "layers": self.layers,
            "annotations": self.annotations,
        });
        manifest.to_string().into_bytes()
    }

    fn finish(
        self,
        mut archive: ArchiveWriter<'_>,
        imported: Imported,
        layer: Blob,
        options: &ImageOptions,
    ) -> Result<Written, OstreeError> {
        let text = |value: &Value| value.to_string().into_bytes();
        let platform = json!({
            "architecture": self.config.get("architecture").cloned().unwrap_or_default(),
            "os": "linux",
        });
        let config = archive.small(&json!(self.config).to_string().into_bytes())?;
        let manifest = archive.small(&self.manifest(&config))?;
        let mut entry = descriptor(MANIFEST_TYPE, &manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": options.image_name });
        entry["platform"] = platform;
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry] });
        let size_bytes = archive.finish(&text(&index))?;
        Ok(Written { imported, manifest, config, layer, size_bytes })
    }
}

/// Copies a layer as it is, and returns its descriptor in the terms of OCI.
fn copy_layer(
    index: usize,
    layer: &BaseLayer,
    open: &mut OpenLayer<'_>,
    archive: &mut ArchiveWriter<'_>,
    cancel: &AtomicBool,
) -> Result<Value, OstreeError> {
    let number = index + 1;
    let (media_type, expected) = terms(index, layer)?;
    let failed = |source: io::Error| OstreeError::Layer { layer: number, source };
    let input = open(index).map_err(failed)?;
    let count = AtomicU64::new(0);
    let mut blob = archive.blob();
    let mut buffer = vec![0; 256 << 10];
    let mut copy = |input: &mut dyn Read| -> Result<(), OstreeError> {
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(OstreeError::Interrupted);
            }
            match input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => blob.write(&buffer[..count])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
    };
    if layer.media_type.is_some() {
        copy(&mut { input })?;
    } else {
        copy(&mut LayerInput::new(input, layer.size_bytes, &count).map_err(failed)?)?;
    }
    let blob = blob.finish()?;
    if blob.checksum != expected {
        let (expected, actual) = (layer.digest.clone(), blob.checksum);
        return Err(OstreeError::BaseLayer { layer: number, expected, actual });
    }
    Ok(descriptor(media_type, &blob))
}

/// Type and digest of a base's layer in the terms of OCI.
fn terms(index: usize, layer: &BaseLayer) -> Result<(&'static str, Checksum), OstreeError> {
    let refused = |reason: String| OstreeError::Config { image: "the base", reason };
    let checksum = digest(&layer.digest)
        .ok_or_else(|| refused(format!("`{}` is not a digest of the form `sha256:…`", layer.digest)))?;
    let media_type = match layer.media_type.as_deref() {
        None => LAYER_TYPE,
        Some(text) => oci_layer_type(text)
            .ok_or_else(|| refused(format!("layer {} is of the unsupported type `{text}`", index + 1)))?,
    };
    Ok((media_type, checksum))
}

/// Docker's names for what OCI calls otherwise; the bytes are the same.
fn oci_layer_type(text: &str) -> Option<&'static str> {
    let base = ["application/vnd.docker.image.rootfs.diff.tar", "application/vnd.oci.image.layer.v1.tar"];
    match base.iter().find_map(|b| text.strip_prefix(b))? {
        "" => Some(LAYER_TYPE),
        ".gzip" | "+gzip" => Some("application/vnd.oci.image.layer.v1.tar+gzip"),
        ".zstd" | "+zstd" => Some("application/vnd.oci.image.layer.v1.tar+zstd"),
        _ => None,
    }
}

/// Reads an image that was written, and sees that all of it is there and has the digests that it should have.
///
/// # Errors
/// When it is not what was written, or `cancel` was set.
pub fn verify_image(file: File, written: &Written, cancel: &AtomicBool) -> Result<(), OstreeError> {
    crate::verify::verify(file, &[written.manifest, written.config, written.layer], cancel)
}
