//! Functions and other resources, which have no configuration file: what the environment says of them.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::RESOURCE;
use super::{
    METADATA_URL, Place, RESOURCE_REGION, RESOURCE_VERSION, Settings, SettingsError, SettingsRequest,
    block_on,
};
use crate::credentials::{GivenToken, Material, TokenSource};
use crate::federation::{self, Instance};
use crate::resource::{Exchange, Proof, Resource};
use crate::token;

/// What every variable begins with.
const PREFIX: &str = "OCI_RESOURCE_PRINCIPAL_";
/// The resource's statement of version 1.1, below its endpoint; `{id}` is the resource.
const STATEMENT_PATH: &str = "/20180711/resourcePrincipalToken/{id}";

/// The variables of one resource.
struct Variables<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    /// What their names end with.
    end: &'static str,
}

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.env)(&format!("{PREFIX}{name}{}", self.end))
    }

    fn need(&self, name: &str) -> Result<String, SettingsError> {
        let missing = || SettingsError::NoVariable { name: format!("{PREFIX}{name}{}", self.end) };
        self.get(name).ok_or_else(missing)
    }

    fn material(&self, name: &str) -> Result<Material, SettingsError> {
        self.need(name).map(Material::new)
    }
}

impl Settings {
    /// The settings of a function or another resource, which has no configuration file.
    pub(super) fn of_resource(
        request: &SettingsRequest,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let refused = |reason| SettingsError::NoToken { who: RESOURCE, reason };
        let outer = Variables { env, end: "" };
        let version = outer.need("VERSION")?;
        // A nested resource: first the innermost, then the one that it is a part of.
        let is_nested = version == "3.0";
        let variables = Variables { env, end: if is_nested { "_FOR_LEAF_RESOURCE" } else { "" } };
        let version = if is_nested { variables.need("VERSION")? } else { version };
        let mut warnings = Vec::new();
        let mut region = request.region.clone().or_else(|| env("OCI_CLI_REGION"));
        if region.is_none() {
            region = match variables.get("REGION") {
                Some(text) => Some(Material::new(text).read("region", &mut warnings)?.reveal().to_owned()),
                None if version == "1.1" => {
                    Some(block_on(federation::place(env(METADATA_URL))).map_err(refused)?.region)
                }
                None => None,
            };
        }
        let region = region.ok_or_else(|| SettingsError::NoVariable { name: RESOURCE_REGION.to_owned() })?;
        let place = Place::find(request, env, &region)?;
        let (proof, own) = match version.as_str() {
            "2.2" => {
                let given = GivenToken {
                    token: variables.material("RPST")?,
                    key: variables.material("PRIVATE_PEM")?,
                    pass_phrase: variables.get("PRIVATE_PEM_PASSPHRASE").map(Material::new),
                    renewal: None,
                };
                (Proof::Given(Box::new(given)), None)
            }
            "2.1" | "2.1.1" | "2.1.2" => key_pair(&version, &variables)?,
            "1.1" => on_an_instance(&variables, &place, request)?,
            _ => {
                let reason =
                    "this program knows 1.1, 2.1, 2.1.1, 2.1.2, 2.2, and 3.0 around these".to_owned();
                let name = if is_nested {
                    "OCI_RESOURCE_PRINCIPAL_VERSION_FOR_LEAF_RESOURCE"
                } else {
                    RESOURCE_VERSION
                };
                return Err(SettingsError::Value { name, value: version, reason });
            }
        };
        let around = Variables { env, end: "_FOR_PARENT_RESOURCE" };
        let parent = is_nested.then(|| {
            Ok(Exchange {
                statement_url: around.need("RPT_URL")?,
                session_endpoint: around.need("RPST_ENDPOINT")?,
                security_context: None,
            })
        });
        let parent = parent.transpose()?;
        let credentials = match proof {
            // Read again when it is refused, as somebody else renews it.
            Proof::Given(given) if parent.is_none() => given.credentials(&mut warnings)?,
            proof => {
                let (certificate_files, network) = (place.certificate_files.clone(), request.network.clone());
                let resource = Resource { proof, own, parent, certificate_files, network };
                let session = block_on(resource.session()).map_err(refused)?;
                session.credentials(Arc::new(TokenSource::Resource(resource)))
            }
        };
        let token = credentials.key_id.reveal().trim_start_matches("ST$");
        let tenancy = token::tenancy(token).or_else(|| variables.get("TENANCY_ID"));
        let tenancy = tenancy.or_else(|| env("OCI_CLI_TENANCY"));
        let tenancy =
            tenancy.ok_or_else(|| SettingsError::NoVariable { name: "OCI_CLI_TENANCY".to_owned() })?;
        // Files that a platform mounts have the modes that it gives them.
        Ok(place.settings(credentials, tenancy, None, "resource principal".to_owned(), Vec::new()))
    }
}

type Way = (Proof, Option<Exchange>);

/// Versions 2.1 and what came of it: a key that the resource's service knows.
fn key_pair(version: &str, variables: &Variables<'_>) -> Result<Way, SettingsError> {
    let id = variables.need("RESOURCE_ID")?;
    let key_id = match version {
        "2.1" => format!("resource/v2.1/{id}"),
        _ => format!("resource/v{version}/{}/{id}", variables.need("TENANCY_ID")?),
    };
    let is_newest = version == "2.1.2";
    let path = match variables.get("RPT_PATH").filter(|_| is_newest) {
        Some(path) if path.ends_with("{}") => path.replace("{}", &id),
        Some(path) => format!("{}/{id}", path.trim_end_matches('/')),
        None if is_newest => format!("/20180711/resourcePrincipalTokenV212/{id}"),
        None => format!("/20180711/resourcePrincipalTokenV2/{id}"),
    };
    let proof = Proof::Key {
        id: key_id,
        key: variables.material("PRIVATE_PEM")?,
        pass_phrase: variables.get("PRIVATE_PEM_PASSPHRASE").map(Material::new),
    };
    let exchange = Exchange {
        statement_url: below(&variables.need("RPT_ENDPOINT")?, &path),
        session_endpoint: variables.need("RPST_ENDPOINT")?,
        security_context: variables.get("SECURITY_CONTEXT").filter(|_| is_newest),
    };
    Ok((proof, Some(exchange)))
}

/// Version 1.1: the instance proves it.
fn on_an_instance(
    variables: &Variables<'_>,
    place: &Place,
    request: &SettingsRequest,
) -> Result<Way, SettingsError> {
    let metadata = (variables.env)(METADATA_URL);
    let id = match variables.get("RPT_ID") {
        Some(id) => id,
        None => block_on(federation::instance_id(metadata.clone()))
            .map_err(|reason| SettingsError::NoToken { who: RESOURCE, reason })?,
    };
    let path = variables.get("RPT_PATH").unwrap_or_else(|| STATEMENT_PATH.to_owned());
    let exchange = Exchange {
        statement_url: below(&variables.need("RPT_ENDPOINT")?, &path.replace("{id}", &id)),
        session_endpoint: match variables.get("RPST_ENDPOINT") {
            Some(endpoint) => endpoint,
            None => place.federation_endpoint(),
        },
        security_context: None,
    };
    let certificates: Vec<PathBuf> = place.certificate_files.clone();
    let federation = format!("{}/v1/x509", place.federation_endpoint());
    let instance = Instance::new(metadata, federation, certificates, request.network.clone());
    Ok((Proof::Instance(Box::new(instance)), Some(exchange)))
}

fn below(endpoint: &str, path: &str) -> String {
    format!("{}/{}", endpoint.trim_end_matches('/'), path.trim_start_matches('/'))
}
