//! Settings and where each comes from: built-in values, the defaults file, `--config`, the environment, flags.
//!
//! Each source is a [`Layer`] of typed, optional values. Layers are laid over each other value by value.

mod layer;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub use self::layer::Layer;
use self::layer::{Ephemeral, Libvirt, Machine, OracleCloud, Providers, Proxy};
use crate::cli::GlobalArguments;
use crate::failure::{EXIT_USAGE, Failure};

/// The registry that boot images come from unless configured.
const REGISTRY: &str = "container-registry.oracle.com";
/// A configuration file is a page of text; anything larger is not one.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where a value comes from; later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Environment(&'static str),
    /// A flag.
    Flag(&'static str),
}

/// The merged settings.
#[derive(Debug)]
pub struct Settings {
    /// The values in effect.
    pub values: Layer,
    tree: Value,
    origins: BTreeMap<String, Origin>,
}

impl Settings {
    /// Reads and merges everything.
    ///
    /// # Errors
    /// When a file cannot be read, or a value in it has the wrong type.
    pub fn load(global: &GlobalArguments, config: Option<&Path>) -> Result<Self, Failure> {
        let mut settings = Self { values: Layer::default(), tree: Value::Null, origins: BTreeMap::new() };
        settings.lay(&built_in(), &Origin::Default)?;
        let named = env::var_os("OCNE_DEFAULTS").filter(|v| !v.is_empty()).map(PathBuf::from);
        let is_named = named.is_some();
        let usual = || home().map(|folder| folder.join("defaults.yaml"));
        match named.map_or_else(usual, Ok)? {
            // The usual file need not be there; one that is named has to.
            path if !is_named && !path.exists() => {}
            path => settings.lay_file(&path)?,
        }
        if let Some(path) = config {
            settings.lay_file(path)?;
        }
        settings.lay_environment(|name| env::var(name).ok().filter(|v| !v.is_empty()))?;
        if let Some(path) = &global.kubeconfig {
            let layer = Layer { kubeconfig: Some(path.display().to_string()), ..Layer::default() };
            settings.lay(&layer, &Origin::Flag("--kubeconfig"))?;
        }
        Ok(settings)
    }

    fn lay_file(&mut self, path: &Path) -> Result<(), Failure> {
        let problem = |e: &(dyn std::error::Error + 'static)| {
            Failure::message(format!("cannot read the configuration file `{}`", path.display()), e)
                .with_exit_code(EXIT_USAGE)
        };
        let size_bytes = fs_err::metadata(path).map_err(|e| problem(&e))?.len();
        if size_bytes > MAX_FILE_BYTES {
            return Err(problem(&std::io::Error::other(format!(
                "it has {size_bytes} bytes, too many for one"
            ))));
        }
        let text = fs_err::read_to_string(path).map_err(|e| problem(&e))?;
        let layer = Layer::parse(&text).map_err(|e| problem(&e))?;
        self.lay(&layer, &Origin::File(path.to_owned()))
    }

    fn lay_environment(&mut self, get: impl Fn(&str) -> Option<String>) -> Result<(), Failure> {
        // The lower-case names are the older convention, and win as they do in curl.
        for name in
            ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "KUBECONFIG"]
        {
            let Some(value) = get(name) else { continue };
            let mut proxy = Proxy::default();
            let mut layer = Layer::default();
            match name {
                "HTTPS_PROXY" | "https_proxy" => proxy.https_proxy = Some(value),
                "HTTP_PROXY" | "http_proxy" => proxy.http_proxy = Some(value),
                "NO_PROXY" | "no_proxy" => proxy.no_proxy = Some(value),
                _ => layer.kubeconfig = Some(value),
            }
            layer.proxy = (proxy != Proxy::default()).then_some(proxy);
            self.lay(&layer, &Origin::Environment(name))?;
        }
        Ok(())
    }

    fn lay(&mut self, layer: &Layer, origin: &Origin) -> Result<(), Failure> {
        let over = serde_json::to_value(layer).map_err(|e| Failure::new(&e))?;
        merge(&mut self.tree, over, "", &mut |key| {
            self.origins.insert(key.to_owned(), origin.clone());
        });
        self.values = serde_json::from_value(self.tree.clone()).map_err(|e| Failure::new(&e))?;
        Ok(())
    }

    /// Every value in effect, by its dotted key, with its origin.
    pub fn entries(&self) -> Vec<(&str, &Value, &Origin)> {
        self.origins
            .iter()
            .filter_map(|(key, origin)| {
                let value = key.split('.').try_fold(&self.tree, |at, part| at.get(part))?;
                Some((key.as_str(), value, origin))
            })
            .collect()
    }

    /// The Kubernetes version that is asked for, or configured.
    ///
    /// # Errors
    /// When the configured one is none.
    pub fn kubernetes_version(&self, asked: Option<&str>) -> Result<String, Failure> {
        if let Some(version) = asked {
            return Ok(version.to_owned());
        }
        let configured = self.values.kubernetes_version.as_deref();
        let configured = configured.unwrap_or(ocne_build::NEWEST_KUBERNETES_VERSION);
        kubernetes_version(configured)
            .map_err(|e| Failure::usage(format!("`kubernetesVersion: {configured}` in the settings: {e}")))
    }

    /// The bucket that images are uploaded into.
    pub fn image_bucket(&self) -> String {
        let configured = self.oracle_cloud().and_then(|oci| oci.image_bucket.clone());
        configured.unwrap_or_else(|| "ocne-images".to_owned())
    }

    /// The compartment that is asked for, or configured.
    ///
    /// # Errors
    /// When there is none.
    pub fn compartment(&self, asked: Option<&str>) -> Result<String, Failure> {
        let configured = || self.oracle_cloud().and_then(|oci| oci.compartment.clone());
        asked.map(str::to_owned).or_else(configured).ok_or_else(|| {
            Failure::usage("the compartment is not known").with_hint(
                "give it by `--compartment`, or as `providers.oci.compartment` in ~/.ocne/defaults.yaml",
            )
        })
    }

    fn oracle_cloud(&self) -> Option<&OracleCloud> {
        self.values.providers.as_ref()?.oci.as_ref()
    }

    /// The container image that holds the boot image of a Kubernetes version.
    ///
    /// A configured image that names a tag or digest is taken as it is.
    pub fn boot_image(&self, kubernetes_version: &str) -> String {
        let registry = self.registry();
        let image = self.values.boot_volume_container_image.clone();
        let image = image.unwrap_or_else(|| format!("{registry}/olcne/ock"));
        let last = image.rsplit('/').next().unwrap_or(&image);
        if last.contains([':', '@']) { image } else { format!("{image}:{kubernetes_version}") }
    }
}

/// The image with nginx that a server of ostree content is based on, as far as no registry is configured.
const BASE_IMAGE: &str = "olcne/nginx:1.17.7-1";

impl Settings {
    /// The image that holds the ostree content of a Kubernetes version.
    ///
    /// A configured one that names a tag or digest is taken as it is.
    pub fn ostree_image(&self, kubernetes_version: &str) -> String {
        let registry = self.registry();
        let image = self.values.os_registry.clone();
        let image =
            image.unwrap_or_else(|| format!("ostree-unverified-registry:{registry}/olcne/ock-ostree"));
        let last = image.rsplit('/').next().unwrap_or(&image);
        match &self.values.os_tag {
            Some(tag) => format!("{image}:{tag}"),
            None if last.contains([':', '@']) => image,
            None => format!("{image}:{kubernetes_version}"),
        }
    }

    /// The image with nginx that a server of ostree content is based on.
    pub fn base_image(&self) -> String {
        format!("{}/{BASE_IMAGE}", self.registry())
    }

    fn registry(&self) -> &str {
        self.values.registry.as_deref().unwrap_or(REGISTRY).trim_end_matches('/')
    }
}

/// A Kubernetes version such as `1.33` or `v1.33.2`, without the `v`.
pub fn kubernetes_version(text: &str) -> Result<String, String> {
    let part = |p: &str| !p.is_empty() && p.len() <= 4 && p.bytes().all(|b| b.is_ascii_digit());
    let version = text.strip_prefix('v').unwrap_or(text);
    let parts: Vec<&str> = version.split('.').collect();
    if matches!(parts.len(), 2 | 3) && parts.iter().all(|p| part(p)) {
        Ok(version.to_owned())
    } else {
        Err("a version is two or three numbers, such as 1.33 or 1.33.2".to_owned())
    }
}

/// The folder of everything that the program keeps for a user: `OCNE_HOME`, or `~/.ocne`.
///
/// # Errors
/// When the user has no home folder.
pub fn home() -> Result<PathBuf, Failure> {
    if let Some(folder) = env::var_os("OCNE_HOME").filter(|v| !v.is_empty()) {
        return Ok(PathBuf::from(folder));
    }
    env::home_dir().filter(|p| p.is_absolute()).map(|p| p.join(".ocne")).ok_or_else(|| {
        Failure::usage("cannot find the home folder: HOME is not an absolute path")
            .with_hint("set HOME, or give every path as a flag")
    })
}

/// Lays `over` over `base`, and calls `set` with the dotted key of every value that is taken.
fn merge(base: &mut Value, over: Value, key: &str, set: &mut dyn FnMut(&str)) {
    match over {
        Value::Null => {}
        Value::Object(map) => {
            if !base.is_object() {
                *base = Value::Object(serde_json::Map::new());
            }
            let Value::Object(below) = base else { return };
            for (name, value) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                merge(below.entry(name).or_insert(Value::Null), value, &key, set);
            }
        }
        value => {
            *base = value;
            set(key);
        }
    }
}

fn built_in() -> Layer {
    let text = |s: &str| Some(s.to_owned());
    Layer {
        registry: text(REGISTRY),
        os_registry: Some(format!("ostree-unverified-registry:{REGISTRY}/olcne/ock-ostree")),
        kubernetes_version: text(ocne_build::NEWEST_KUBERNETES_VERSION),
        ephemeral_cluster: Some(Ephemeral {
            name: text("ocne-ephemeral"),
            preserve: Some(true),
            node: Some(Machine { storage: text("30Gi"), ..Machine::default() }),
        }),
        providers: Some(Providers {
            libvirt: Some(Libvirt {
                storage_pool: text("images"),
                network: text("default"),
                slirp_subnet: text("192.18.255.0/24"),
                boot_volume_name: text("boot.qcow2"),
                boot_volume_container_image_path: text("disk/boot.qcow2"),
                control_plane_node: Some(Machine { cpu: Some(2), memory: text("4194304Ki"), storage: None }),
                ..Libvirt::default()
            }),
            oci: Some(OracleCloud {
                profile: text("DEFAULT"),
                image_bucket: text("ocne-images"),
                ..OracleCloud::default()
            }),
        }),
        ..Layer::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Settings {
        Settings { values: Layer::default(), tree: Value::Null, origins: BTreeMap::new() }
    }

    fn origin<'a>(settings: &'a Settings, key: &str) -> Option<(&'a Value, &'a Origin)> {
        settings.entries().into_iter().find(|(k, ..)| *k == key).map(|(_, v, o)| (v, o))
    }

    #[test]
    fn later_layers_win_value_by_value() {
        let mut s = empty();
        s.lay(&built_in(), &Origin::Default).unwrap();
        let file = Layer::parse("registry: mirror.example\nproviders:\n  oci:\n    profile: WORK\n").unwrap();
        s.lay(&file, &Origin::File("defaults.yaml".into())).unwrap();
        s.lay_environment(|name| (name == "KUBECONFIG").then(|| "/k".to_owned())).unwrap();
        assert_eq!(origin(&s, "registry").unwrap().1, &Origin::File("defaults.yaml".into()));
        assert_eq!(origin(&s, "providers.oci.profile").unwrap().0, "WORK");
        assert_eq!(
            origin(&s, "providers.oci.imageBucket").unwrap(),
            (&"ocne-images".into(), &Origin::Default)
        );
        assert_eq!(origin(&s, "kubeconfig").unwrap().1, &Origin::Environment("KUBECONFIG"));
        assert_eq!(s.boot_image("1.32"), "mirror.example/olcne/ock:1.32");
    }

    #[test]
    fn ostree_content_has_a_tag_of_its_own() {
        let mut s = empty();
        s.lay(&built_in(), &Origin::Default).unwrap();
        let usual = "ostree-unverified-registry:container-registry.oracle.com/olcne/ock-ostree:1.32";
        assert_eq!(s.ostree_image("1.32"), usual);
        assert_eq!(s.base_image(), "container-registry.oracle.com/olcne/nginx:1.17.7-1");
        for (file, image) in [
            ("osTag: '8'", "ostree-unverified-registry:container-registry.oracle.com/olcne/ock-ostree:8"),
            (
                "osRegistry: ostree-image-signed:docker://r.example/a:b\nosTag: null",
                "ostree-image-signed:docker://r.example/a:b",
            ),
        ] {
            let mut s = empty();
            s.lay(&built_in(), &Origin::Default).unwrap();
            s.lay(&Layer::parse(file).unwrap(), &Origin::Flag("x")).unwrap();
            assert_eq!(s.ostree_image("1.32"), image);
        }
    }

    #[test]
    fn a_configured_image_gets_the_version_unless_it_has_a_tag() {
        let mut s = empty();
        for (configured, image) in [
            ("registry.example:5000/ock", "registry.example:5000/ock:1.31"),
            ("registry.example/ock:mine", "registry.example/ock:mine"),
            ("registry.example/ock@sha256:00", "registry.example/ock@sha256:00"),
        ] {
            let layer =
                Layer { boot_volume_container_image: Some(configured.to_owned()), ..Layer::default() };
            s.lay(&layer, &Origin::Default).unwrap();
            assert_eq!(s.boot_image("1.31"), image);
        }
    }
}
