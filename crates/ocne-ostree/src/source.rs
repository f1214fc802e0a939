//! The configuration of an encapsulated image, layout version 1 (ostree-ext, `docs/ostree-and-containers.md`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::checksum::Checksum;
use crate::error::OstreeError;

/// Names the last layer of the commit by the digest of its uncompressed bytes.
const FINAL_LAYER: &str = "ostree.final-diffid";
/// The same in the layout that came before.
const OLD_FINAL_LAYER: &str = "ostree.diffid";
/// Names the commit.
const COMMIT: &str = "ostree.commit";

/// What an encapsulated image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encapsulated {
    /// Digests of the uncompressed layers, `sha256:…`, the lowest first; all of them belong to the commit.
    pub diff_ids: Vec<String>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The architecture, in Go's names.
    pub architecture: String,
}

impl Encapsulated {
    /// Reads the configuration of an image, as its bytes are.
    ///
    /// # Errors
    /// When it is no configuration, or not that of an encapsulated image.
    pub fn parse(config: &[u8]) -> Result<Self, OstreeError> {
        let refused = |reason: String| OstreeError::Config { image: "the image", reason };
        let config: Value = serde_json::from_slice(config).map_err(|e| refused(e.to_string()))?;
        let labels = match &config["config"]["Labels"] {
            Value::Null => BTreeMap::new(),
            labels => serde_json::from_value(labels.clone())
                .map_err(|e| refused(format!("its labels are no texts: {e}")))?,
        };
        let diff_ids: Vec<String> = serde_json::from_value(config["rootfs"]["diff_ids"].clone())
            .map_err(|e| refused(format!("its digests of layers are no texts: {e}")))?;
        if diff_ids.iter().any(|d| digest(d).is_none()) {
            return Err(refused("its digests of layers are not of the form `sha256:…`".to_owned()));
        }
        let architecture = config["architecture"].as_str().unwrap_or_default().to_owned();
        let encapsulated = Self { diff_ids, labels, architecture };
        encapsulated.check_layers()?;
        Ok(encapsulated)
    }

    fn check_layers(&self) -> Result<(), OstreeError> {
        let Some(last) = self.labels.get(FINAL_LAYER) else {
            let old = self.labels.contains_key(OLD_FINAL_LAYER);
            return Err(if old { OstreeError::OldLayout } else { OstreeError::NotEncapsulated });
        };
        let mut places = (0..).zip(&self.diff_ids).filter(|(_, d)| *d == last).map(|(i, _): (usize, _)| i);
        let diff_id = || last.chars().take(100).collect();
        let Some(place) = places.next() else {
            return Err(OstreeError::FinalLayerMissing { diff_id: diff_id() });
        };
        if places.next().is_some() {
            return Err(OstreeError::FinalLayerRepeated { diff_id: diff_id() });
        }
        match self.diff_ids.len() - place - 1 {
            0 => Ok(()),
            count => Err(OstreeError::DerivedLayers { count }),
        }
    }

    /// Whether the label, if there is one, names this commit.
    ///
    /// # Errors
    /// When it names another one.
    pub fn check_commit(&self, commit: Checksum) -> Result<(), OstreeError> {
        match self.labels.get(COMMIT) {
            Some(label) if *label != commit.hex() => {
                Err(OstreeError::CommitLabel { label: label.chars().take(100).collect(), commit })
            }
            _ => Ok(()),
        }
    }
}

/// Reads `sha256:…`.
pub(crate) fn digest(text: &str) -> Option<Checksum> {
    text.strip_prefix("sha256:").and_then(|hex| Checksum::from_hex(hex.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(labels: &[(&str, &str)], diff_ids: &[&str]) -> Result<Encapsulated, OstreeError> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let config =
            serde_json::json!({ "config": { "Labels": labels }, "rootfs": { "diff_ids": diff_ids } });
        Encapsulated::parse(config.to_string().as_bytes())
    }

    #[test]
    fn layers_have_to_be_those_of_a_commit() {
        let [a, b] = [1, 2].map(|n| Checksum([n; 32]).digest());
        let (a, b) = (a.as_str(), b.as_str());
        assert_eq!(parse(&[(FINAL_LAYER, b)], &[a, b]).unwrap().diff_ids, [a, b]);
        parse(&[(FINAL_LAYER, a)], &[a]).unwrap();
        let refused = |labels: &[_], layers: &[_]| parse(labels, layers).unwrap_err();
        assert!(matches!(refused(&[], &[a]), OstreeError::NotEncapsulated));
        assert!(matches!(refused(&[(OLD_FINAL_LAYER, a)], &[a]), OstreeError::OldLayout));
        assert!(matches!(refused(&[(FINAL_LAYER, b)], &[a]), OstreeError::FinalLayerMissing { .. }));
        assert!(matches!(refused(&[(FINAL_LAYER, a)], &[a, a]), OstreeError::FinalLayerRepeated { .. }));
        assert!(matches!(refused(&[(FINAL_LAYER, a)], &[a, b]), OstreeError::DerivedLayers { count: 1 }));
        assert!(matches!(refused(&[(FINAL_LAYER, a)], &["x"]), OstreeError::Config { .. }));
        assert!(matches!(Encapsulated::parse(b"[]"), Err(OstreeError::Config { .. })));
    }
}
