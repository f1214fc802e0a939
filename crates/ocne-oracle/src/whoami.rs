//! Who the credentials belong to, and what they may do of what an upload needs.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::client::{Call, Client, encode};
use crate::compute::Image;
use crate::error::OracleError;
use crate::object_storage::Bucket;
use crate::region::Service;

/// The version of the record.
const SCHEMA: &str = "ocne.oci.whoami/1";

/// What no etag is.
const NO_ETAG: &str = "ocne-whoami-changes-nothing";

/// Who this is.
#[derive(Debug, Clone, Serialize)]
pub struct Whoami {
    /// The version of the record.
    pub schema: &'static str,
    /// The profile, or what there is in its place.
    pub profile: String,
    /// OCID of the user; none of instances and other resources.
    pub user: Option<String>,
    /// Name of the user, if it may be known.
    pub user_name: Option<String>,
    /// OCID of the tenancy.
    pub tenancy: String,
    /// Name of the tenancy, if it may be known.
    pub tenancy_name: Option<String>,
    /// The region that is spoken to.
    pub region: String,
    /// The region where users and policies are kept, if it may be known.
    pub home_region: Option<String>,
    /// Namespace of Object Storage.
    pub namespace: Option<String>,
    /// Fingerprint of the key that signs.
    pub fingerprint: String,
    /// What an upload needs.
    pub rights: Vec<Right>,
}

/// Something that an upload needs.
#[derive(Debug, Clone, Serialize)]
pub struct Right {
    /// As in a policy.
    pub statement: String,
    /// Whether a harmless call that needs it was answered; none when nothing was there to be asked for.
    pub allowed: Option<bool>,
    /// Why not, or why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    region_name: String,
    is_home_region: bool,
}

impl Client {
    /// Asks who this is and what it may do, by calls that change nothing.
    ///
    /// # Errors
    /// When nobody is known by these credentials, or no service can be reached. That something is not allowed is no error.
    pub async fn whoami(&self, compartment: &str, bucket: &str) -> Result<Whoami, OracleError> {
        let settings = self.settings();
        // Everybody may ask this; who may not is nobody.
        let namespace = self.namespace().await?;
        let name = async |kind: &str, id: &str| {
            let call = Call::get("look at the account", Service::Identity, format!("/{kind}/{id}"));
            known(self.send(call).await.and_then(|answer| answer.json::<Named>())).map(|named| named.name)
        };
        let user_name = match &settings.user {
            Some(user) => name("users", user).await,
            None => None,
        };
        let tenancy_name = name("tenancies", &settings.tenancy).await;
        let path = format!("/tenancies/{}/regionSubscriptions", settings.tenancy);
        let regions: Option<Vec<Subscription>> =
            known(self.list(|| Call::get("list the regions", Service::Identity, path.clone())).await);
        let home = regions.into_iter().flatten().find(|region| region.is_home_region);
        let there = Bucket { namespace: namespace.clone(), name: bucket.to_owned() };
        Ok(Whoami {
            schema: SCHEMA,
            profile: settings.profile.clone(),
            user: settings.user.clone(),
            user_name,
            tenancy: settings.tenancy.clone(),
            tenancy_name,
            region: settings.region.name.clone(),
            home_region: home.map(|region| region.region_name),
            namespace: Some(namespace),
            fingerprint: self.fingerprint().await,
            rights: self.rights(compartment, &there).await,
        })
    }

    async fn rights(&self, compartment: &str, bucket: &Bucket) -> Vec<Right> {
        let found = self.find_compartment(compartment).await;
        let mut rights = vec![right("inspect compartments in tenancy", &found)];
        let Ok(compartment) = found else { return rights };
        let place = format!("in compartment {compartment}");
        let get = |service, path: &str| {
            Call::get("look what is allowed", service, path.to_owned()).query("limit", "1")
        };
        // A change of what has an etag that nothing has: whoever may make it is told so, whoever may not is told that.
        let change = async |service, method, path: String, body: Option<&serde_json::Value>| {
            let call = Call::new("try what is allowed", service, method, path).header("if-match", NO_ETAG);
            let call = match body {
                Some(body) => call.json(body),
                None => call.header("content-length", "0"),
            };
            match self.send(call).await {
                Err(error) if error.status() == Some(412) => Ok(()),
                // Who may not write is not told even that the bucket is there.
                Err(error) if error.service().is_some_and(|e| e.code == "ObjectNotFound") => Ok(()),
                other => other.map(|_| ()),
            }
        };
        let nothing = serde_json::json!({});
        let (buckets, objects) = (format!("manage buckets {place}"), format!("manage objects {place}"));
        let has_bucket = self.has_bucket(bucket).await;
        if let Ok(false) = has_bucket {
            let absent = format!("not tried: the bucket `{}` is not there, or may not be seen", bucket.name);
            rights.extend([not_tried(buckets, &absent), not_tried(objects, &absent)]);
        } else {
            rights.push(right(&format!("read buckets {place}"), &has_bucket));
            let changed = change(Service::ObjectStorage, Method::POST, bucket.path(), Some(&nothing)).await;
            rights.push(right(&buckets, &changed));
            let listed = self.send(get(Service::ObjectStorage, &bucket.objects())).await;
            rights.push(right(&format!("read objects {place}"), &listed));
            let object = format!("{}/ocne_whoami", bucket.objects());
            rights.push(right(&objects, &change(Service::ObjectStorage, Method::PUT, object, None).await));
        }
        let images = self.images(&compartment, None).await;
        rights.push(right(&format!("read instance-images {place}"), &images));
        let manage = format!("manage instance-images {place}");
        let is_ours = |image: &&Image| image.freeform_tags.keys().any(|tag| tag.starts_with("ocne/"));
        rights.push(match images.iter().flatten().find(is_ours) {
            Some(image) => {
                let path = format!("/images/{}", encode(&image.id));
                right(&manage, &change(Service::Compute, Method::PUT, path, Some(&nothing)).await)
            }
            None => not_tried(manage, "not tried: there is no image of ours to try it on"),
        });
        for (statement, path) in [
            (format!("read work-requests {place}"), "/workRequests"),
            (format!("read compute-image-capability-schema {place}"), "/computeImageCapabilitySchemas"),
        ] {
            let asked = get(Service::Compute, path).query("compartmentId", compartment.as_str());
            rights.push(right(&statement, &self.send(asked).await));
        }
        rights.push(not_tried(
            format!("manage compute-image-capability-schema {place}"),
            "not tried: only making one shows it; `--format oci` needs none",
        ));
        let global = get(Service::Compute, "/computeGlobalImageCapabilitySchemas");
        let statement = "read compute-global-image-capability-schema in tenancy";
        rights.push(right(statement, &self.send(global).await));
        rights
    }
}

fn not_tried(statement: String, reason: &str) -> Right {
    Right { statement, allowed: None, reason: Some(reason.to_owned()) }
}

fn known<T>(asked: Result<T, OracleError>) -> Option<T> {
    asked.inspect_err(|error| tracing::debug!(%error, "it may not be known")).ok()
}

/// A refusal is an answer here; anything else is not.
fn right<T>(statement: &str, asked: &Result<T, OracleError>) -> Right {
    let (allowed, reason) = match asked {
        Ok(_) => (Some(true), None),
        Err(error) if error.is_refusal() => (Some(false), Some(error.to_string())),
        Err(error) => (None, Some(error.to_string())),
    };
    Right { statement: statement.to_owned(), allowed, reason }
}
