//! The keys of a configuration file that concern images. Files hold many more, for clusters: those are accepted.

use serde::{Deserialize, Serialize};

/// The values that one source sets.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Layer {
    /// Proxies for everything that is fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Registry host of the boot images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    /// Cluster configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<String>,
    /// Container image that holds the boot image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_volume_container_image: Option<String>,
    /// Where ostree content comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_registry: Option<String>,
    /// Tag of the ostree content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_tag: Option<String>,
    /// Kubernetes version of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<String>,
    /// The throw-away cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ephemeral_cluster: Option<Ephemeral>,
    /// Settings of each provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers: Option<Providers>,
}

/// `proxy`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(clippy::struct_field_names, reason = "the names of the file format")]
pub struct Proxy {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_proxy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_proxy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_proxy: Option<String>,
}

/// `ephemeralCluster`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ephemeral {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserve: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Machine>,
}

/// The size of a virtual machine; amounts as Kubernetes writes them, such as `30Gi`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
}

/// `providers`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Providers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<Libvirt>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oci: Option<OracleCloud>,
}

/// `providers.libvirt`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Libvirt {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slirp_subnet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_volume_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_volume_container_image_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smm: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_node: Option<Machine>,
}

/// `providers.oci`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OracleCloud {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compartment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_bucket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<Images>,
}

/// `providers.oci.images`: OCIDs of compute images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Images {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amd64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arm64: Option<String>,
}

/// A value of a configuration file that is not what its key holds.
#[derive(Debug, thiserror::Error)]
#[error("line {line}{}: {reason}", at_key(key))]
pub struct WrongValue {
    /// Line of the value, from 1.
    line: u64,
    /// The key, with those above it.
    key: String,
    /// What is wrong with it.
    reason: String,
}

/// What is wrong, without the place: that is said at the beginning.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

fn at_key(key: &str) -> String {
    if key.is_empty() || key == "." { String::new() } else { format!(", key `{key}`") }
}

impl Layer {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When it is not YAML, or a known key has a value of the wrong type.
    pub fn parse(text: &str) -> Result<Self, WrongValue> {
        let mut key = String::new();
        let parsed = serde_saphyr::with_deserializer_from_str(text, |de| {
            serde_path_to_error::deserialize::<_, Option<Self>>(de).map_err(|e| {
                key = e.path().to_string();
                e.into_inner()
            })
        });
        match parsed {
            Ok(layer) => Ok(layer.unwrap_or_default()),
            Err(e) => Err(WrongValue { line: e.location().map_or(1, |l| l.line()), key, reason: reason(&e) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Layer;

    #[test]
    fn unknown_keys_are_accepted() {
        let layer =
            Layer::parse("clusterDefinition: [1, {a: b}]\nregistry: r.example\nproviders: {olvm: {x: 1}}\n");
        assert_eq!(layer.unwrap().registry.as_deref(), Some("r.example"));
        for empty in ["", "# nothing\n", "---\n", "proxy:\n"] {
            assert_eq!(Layer::parse(empty).unwrap().registry, None, "{empty:?}");
        }
    }

    #[test]
    fn a_wrong_type_names_line_and_key() {
        let wrong = Layer::parse(
            "registry: r.example\nproviders:\n  libvirt:\n    controlPlaneNode:\n      cpu: many\n",
        );
        let text = wrong.unwrap_err().to_string();
        assert!(text.starts_with("line 5, key `providers.libvirt.controlPlaneNode.cpu`: "), "{text}");
        let text = Layer::parse("ephemeralCluster:\n  preserve: maybe\n").unwrap_err().to_string();
        assert!(text.starts_with("line 2, key `ephemeralCluster.preserve`: "), "{text}");
        let text = Layer::parse("registry: [a]\n").unwrap_err().to_string();
        assert!(text.starts_with("line 1, key `registry`: "), "{text}");
        let text = Layer::parse("registry: {\n").unwrap_err().to_string();
        assert!(text.starts_with("line "), "{text}");
    }

    #[test]
    fn a_version_need_not_be_quoted() {
        assert_eq!(
            Layer::parse("kubernetesVersion: 1.30\n").unwrap().kubernetes_version.as_deref(),
            Some("1.30")
        );
    }
}
