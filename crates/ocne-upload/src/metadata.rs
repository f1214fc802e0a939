//! What an image needs of the machine it runs on: `image_metadata.json` of the archive, and the same for bare images.

use std::collections::BTreeMap;

use ocne_bootimage::Architecture;
use serde_json::{Value, json};

/// Firmware of every OCK image.
pub(crate) const FIRMWARE: &str = "UEFI_64";
/// The launch mode that imported images have on all shapes, AMD and Arm included.
pub(crate) const LAUNCH_MODE: &str = "PARAVIRTUALIZED";
/// The shapes of an arm64 image.
const ARM_SHAPES: [&str; 3] = ["VM.Standard.A1.Flex", "BM.Standard.A1.160", "VM.Standard.A2.Flex"];
/// The shape of a Private Cloud Appliance.
const APPLIANCE_SHAPE: &str = "VM.PCAStandard.E5.Flex";

/// What is said about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traits {
    pub architecture: Architecture,
    /// Name and version.
    pub operating_system: (String, String),
    /// It goes to a Private Cloud Appliance, which knows no capabilities.
    pub is_appliance: bool,
}

impl Traits {
    /// The shapes that have to be named; the others are what the service gives an image by itself.
    pub fn shapes(&self) -> &'static [&'static str] {
        match self.architecture {
            _ if self.is_appliance => &[APPLIANCE_SHAPE],
            Architecture::Arm64 => &ARM_SHAPES,
            Architecture::Amd64 => &[],
        }
    }

    /// Whether an image of this architecture may run on a shape.
    pub fn fits(&self, shape: &str) -> bool {
        let is_arm = [".A1.", ".A2.", ".A4."].iter().any(|series| shape.contains(series));
        // Entries of that name cannot be removed.
        shape.contains("Generic") || self.is_appliance || is_arm == (self.architecture == Architecture::Arm64)
    }

    /// What the image can do, by the names of capability schemas.
    pub fn capabilities() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([("Compute.Firmware", FIRMWARE), ("Compute.LaunchMode", LAUNCH_MODE)])
    }

    /// `image_metadata.json`, always the same bytes for the same traits.
    pub fn metadata_json(&self) -> Vec<u8> {
        let source = if self.is_appliance { "CUSTOM" } else { LAUNCH_MODE };
        let shapes: Vec<Value> = self
            .shapes()
            .iter()
            .map(|name| json!({ "internalShapeName": name, "ocpuConstraints": null, "memoryConstraints": null }))
            .collect();
        let capabilities = if self.is_appliance {
            String::new()
        } else {
            let descriptors: BTreeMap<_, _> = Self::capabilities()
                .into_iter()
                .map(|(name, value)| {
                    let descriptor =
                        json!({ "descriptorType": "enumstring", "values": [value], "defaultValue": value });
                    (name, descriptor)
                })
                .collect();
            json!({ "capabilities": descriptors }).to_string()
        };
        json!({
            "version": 2,
            "externalLaunchOptions": {
                "firmware": FIRMWARE,
                "networkType": "PARAVIRTUALIZED",
                "bootVolumeType": "PARAVIRTUALIZED",
                "remoteDataVolumeType": "PARAVIRTUALIZED",
                "localDataVolumeType": "PARAVIRTUALIZED",
                "launchOptionsSource": source,
                "pvAttachmentVersion": 1,
                "pvEncryptionInTransitEnabled": false,
                "consistentVolumeNamingEnabled": false,
            },
            "imageCapabilityData": capabilities,
            "imageCapsFormatVersion": null,
            "operatingSystem": self.operating_system.0,
            "operatingSystemVersion": self.operating_system.1,
            "additionalMetadata": { "sourcePublicImageId": null, "shapeCompatibilities": shapes },
        })
        .to_string()
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(architecture: Architecture, is_appliance: bool) -> Traits {
        Traits { architecture, operating_system: ("Oracle Linux".to_owned(), "8".to_owned()), is_appliance }
    }

    #[test]
    fn metadata() {
        let arm = traits(Architecture::Arm64, false);
        let read: Value = serde_json::from_slice(&arm.metadata_json()).unwrap();
        assert_eq!(read["externalLaunchOptions"]["firmware"], "UEFI_64");
        assert_eq!(read["additionalMetadata"]["shapeCompatibilities"].as_array().unwrap().len(), 3);
        let capabilities: Value =
            serde_json::from_str(read["imageCapabilityData"].as_str().unwrap()).unwrap();
        assert_eq!(capabilities["capabilities"]["Compute.LaunchMode"]["defaultValue"], "PARAVIRTUALIZED");
        assert_eq!(arm.metadata_json(), arm.metadata_json());
        let appliance: Value =
            serde_json::from_slice(&traits(Architecture::Amd64, true).metadata_json()).unwrap();
        assert_eq!(appliance["externalLaunchOptions"]["launchOptionsSource"], "CUSTOM");
        assert_eq!(appliance["imageCapabilityData"], "");
    }

    #[test]
    fn shapes() {
        let (arm, amd) = (traits(Architecture::Arm64, false), traits(Architecture::Amd64, false));
        assert!(arm.fits("VM.Standard.A1.Flex") && !amd.fits("VM.Standard.A1.Flex"));
        assert!(!arm.fits("VM.Standard.E5.Flex") && amd.fits("VM.Standard.E5.Flex"));
        assert!(arm.fits("VM.Standard.x86.Generic") && amd.fits("VM.Standard.x86.Generic"));
    }
}
