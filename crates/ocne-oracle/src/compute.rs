//! Compute: images, the shapes that they run on, and what they are capable of.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Call, Client, encode};
use crate::error::OracleError;
use crate::object_storage::Bucket;
use crate::region::Service;
use crate::secret::Secret;

const COMPUTE: Service = Service::Compute;
const MANAGE_IMAGES: &str = "manage instance-images in compartment NAME";

/// An image that instances are launched from.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Its OCID.
    pub id: String,
    /// The compartment that it is in; none for platform images.
    #[serde(default)]
    pub compartment_id: Option<String>,
    /// The name for people.
    #[serde(default)]
    pub display_name: Option<String>,
    /// `IMPORTING`, `AVAILABLE`, `DELETED` and so on.
    pub lifecycle_state: String,
    /// How instances are launched: `PARAVIRTUALIZED` and so on.
    #[serde(default)]
    pub launch_mode: Option<String>,
    /// What instances are launched with.
    #[serde(default)]
    pub launch_options: Option<LaunchOptions>,
    /// Name of the operating system.
    #[serde(default)]
    pub operating_system: Option<String>,
    /// Version of the operating system.
    #[serde(default)]
    pub operating_system_version: Option<String>,
    /// Tags without a namespace.
    #[serde(default)]
    pub freeform_tags: BTreeMap<String, String>,
    /// Size of its disk.
    #[serde(default, rename = "sizeInMBs")]
    pub size_mib: Option<u64>,
    /// When it was made, as RFC 3339.
    #[serde(default)]
    pub time_created: Option<String>,
}

/// What instances of an image are launched with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LaunchOptions {
    /// `BIOS` or `UEFI_64`.
    #[serde(default)]
    pub firmware: Option<String>,
    /// How the boot volume is attached.
    #[serde(default)]
    pub boot_volume_type: Option<String>,
    /// How the network is attached.
    #[serde(default)]
    pub network_type: Option<String>,
}

/// The format of an object that is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceImageType {
    /// A qcow2 file.
    Qcow2,
    /// An exported image: a gzip tar of metadata and a qcow2 file.
    Archive,
}

/// Where an image is imported from.
#[derive(Debug, Clone)]
pub struct ImageSource {
    /// Namespace of the bucket.
    pub namespace: String,
    /// The bucket.
    pub bucket: String,
    /// The object.
    pub object: String,
    /// A URL of the object that needs no signature, for identities that the service does not let name it.
    pub url: Option<Secret>,
    /// What it is.
    pub kind: SourceImageType,
    /// Name and version of the operating system in it.
    pub operating_system: (String, String),
}

/// An image to be made.
#[derive(Debug, Clone)]
pub struct CreateImage {
    /// The compartment that it goes into.
    pub compartment_id: String,
    /// Its name for people.
    pub display_name: String,
    /// How instances are launched; none for an archive, which says it itself.
    pub launch_mode: Option<&'static str>,
    /// Tags without a namespace.
    pub freeform_tags: BTreeMap<String, String>,
    /// Tags by namespace.
    pub defined_tags: BTreeMap<String, BTreeMap<String, String>>,
    /// What it is made of.
    pub source: ImageSource,
}

/// An image that is being made.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The image, not available yet.
    pub image: Image,
    /// The work request that makes it.
    pub work_request_id: String,
}

/// A shape that an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ShapeCompatibility {
    /// Its name.
    pub shape: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GlobalSchema {
    current_version_name: String,
}

impl Client {
    /// Begins to make an image. The same token within a day gives the same image again, so that it can be repeated.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_image(
        &self,
        image: &CreateImage,
        retry_token: &str,
    ) -> Result<NewImage, OracleError> {
        let source = &image.source;
        let mut details = match &source.url {
            Some(url) => json!({ "sourceType": "objectStorageUri", "sourceUri": url.reveal() }),
            None => json!({
                "sourceType": "objectStorageTuple",
                "namespaceName": source.namespace,
                "bucketName": source.bucket,
                "objectName": source.object,
            }),
        };
        details["operatingSystem"] = source.operating_system.0.as_str().into();
        details["operatingSystemVersion"] = source.operating_system.1.as_str().into();
        if source.kind == SourceImageType::Qcow2 {
            details["sourceImageType"] = "QCOW2".into();
        }
        let mut body = json!({
            "compartmentId": image.compartment_id,
            "displayName": image.display_name,
            "freeformTags": image.freeform_tags,
            "definedTags": image.defined_tags,
            "imageSourceDetails": details,
        });
        if let Some(mode) = image.launch_mode {
            body["launchMode"] = mode.into();
        }
        let action = format!("create the image `{}`", image.display_name);
        let call = Call::new(action, COMPUTE, Method::POST, "/images")
            .right(MANAGE_IMAGES)
            .header("opc-retry-token", retry_token)
            .json(&body);
        let answer = self.send(call).await?;
        Ok(NewImage { image: answer.json()?, work_request_id: answer.need("opc-work-request-id")? })
    }

    /// Begins to export an image into an object, as `OCI`, `QCOW2` or `VMDK`, and returns the work request. The same token
    /// within a day gives the same export again.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn export_image(
        &self,
        id: &str,
        bucket: &Bucket,
        object: &str,
        format: &str,
        retry_token: &str,
    ) -> Result<String, OracleError> {
        let path = format!("/images/{}/actions/export", encode(id));
        let call = Call::new(format!("export the image {id}"), COMPUTE, Method::POST, path)
            .right(MANAGE_IMAGES)
            .header("opc-retry-token", retry_token)
            .json(&json!({
                "destinationType": "objectStorageTuple", "namespaceName": bucket.namespace,
                "bucketName": bucket.name, "objectName": object, "exportFormat": format,
            }));
        self.send(call).await?.need("opc-work-request-id")
    }

    /// An image.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn image(&self, id: &str) -> Result<Image, OracleError> {
        let call = Call::get(format!("look at the image {id}"), COMPUTE, format!("/images/{}", encode(id)));
        self.send(call.right("read instance-images in compartment NAME")).await?.json()
    }

    /// The images of a compartment, platform images too; of a name, if one is given.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn images(
        &self,
        compartment: &str,
        display_name: Option<&str>,
    ) -> Result<Vec<Image>, OracleError> {
        self.list(|| {
            let call = Call::get("list the images", COMPUTE, "/images")
                .right("read instance-images in compartment NAME")
                .query("compartmentId", compartment)
                .query("limit", "1000");
            match display_name {
                None => call,
                Some(name) => call.query("displayName", name),
            }
        })
        .await
    }

    /// Removes an image. One that is gone is fine.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn delete_image(&self, id: &str) -> Result<(), OracleError> {
        let path = format!("/images/{}", encode(id));
        let call = Call::new(format!("remove the image {id}"), COMPUTE, Method::DELETE, path);
        self.send(call.right(MANAGE_IMAGES)).await.map(|_| ())
    }

    /// The shapes that an image runs on.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn image_shapes(&self, id: &str) -> Result<Vec<String>, OracleError> {
        let path = format!("/images/{}/shapes", encode(id));
        let listed: Vec<ShapeCompatibility> = self
            .list(|| {
                Call::get("list the shapes of the image", COMPUTE, path.clone())
                    .right("read instance-images in compartment NAME")
                    .query("limit", "100")
            })
            .await?;
        Ok(listed.into_iter().map(|one| one.shape).collect())
    }

    /// Lets an image run on a shape.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn add_image_shape(&self, id: &str, shape: &str) -> Result<(), OracleError> {
        let path = format!("/images/{}/shapes/{}", encode(id), encode(shape));
        let call = Call::new(format!("add the shape {shape} to the image"), COMPUTE, Method::PUT, path);
        self.send(call.right(MANAGE_IMAGES).json(&json!({}))).await.map(|_| ())
    }

    /// Keeps an image from running on a shape. One that is gone is fine.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn remove_image_shape(&self, id: &str, shape: &str) -> Result<(), OracleError> {
        let path = format!("/images/{}/shapes/{}", encode(id), encode(shape));
        let call = Call::new(format!("take the shape {shape} off the image"), COMPUTE, Method::DELETE, path);
        match self.send(call.right(MANAGE_IMAGES)).await {
            Err(error) if error.status() == Some(404) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Says what firmware and launch mode an image has, whatever it was imported with.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_capability_schema(
        &self,
        image: &Image,
        compartment: &str,
        capabilities: &BTreeMap<&str, &str>,
        retry_token: &str,
    ) -> Result<(), OracleError> {
        let globals: Vec<GlobalSchema> = self
            .list(|| {
                Call::get("list the image capabilities", COMPUTE, "/computeGlobalImageCapabilitySchemas")
                    .right("read compute-global-image-capability-schema in tenancy")
            })
            .await?;
        let version =
            globals.into_iter().next().map(|schema| schema.current_version_name).unwrap_or_default();
        let data: BTreeMap<&str, serde_json::Value> = capabilities
            .iter()
            .map(|(name, value)| {
                let descriptor = json!({
                    "descriptorType": "enumstring", "source": "IMAGE", "values": [value], "defaultValue": value,
                });
                (*name, descriptor)
            })
            .collect();
        let call = Call::new(
            "set the capabilities of the image",
            COMPUTE,
            Method::POST,
            "/computeImageCapabilitySchemas",
        )
        .right("manage compute-image-capability-schema in compartment NAME")
        .header("opc-retry-token", retry_token)
        .json(&json!({
            "compartmentId": compartment, "imageId": image.id, "schemaData": data,
            "computeGlobalImageCapabilitySchemaVersionName": version,
        }));
        self.send(call).await.map(|_| ())
    }
}
