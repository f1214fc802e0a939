//! Repositories of container images in Oracle's registry (Artifacts API, `ContainerRepository`).

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Call, Client, Repeat, encode};
use crate::error::OracleError;
use crate::region::Service;

const ARTIFACTS: Service = Service::Artifacts;
const REPOSITORIES: &str = "/container/repositories";
/// The right to change them.
const MANAGE_REPOS: &str = "manage repos in compartment NAME";
/// Pages that a list has at most.
const PAGES_MAX: usize = 1000;

/// A repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct ContainerRepository {
    /// Its OCID.
    pub id: String,
    /// Its name, below the namespace.
    pub display_name: String,
    /// Namespace of the tenancy, which comes first in names of images.
    pub namespace: String,
    /// OCID of the compartment that it is in.
    pub compartment_id: String,
    /// `AVAILABLE`, or something that makes it unusable.
    pub lifecycle_state: String,
    /// Whether everybody may pull from it.
    pub is_public: bool,
    /// How many images are in it.
    pub image_count: u64,
    /// Size of all layers.
    pub layers_size_in_bytes: u64,
    /// When it was made.
    pub time_created: String,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<ContainerRepository>,
}

impl Client {
    /// Makes a repository. The same token within a day gives the same one again, so that it can be repeated.
    ///
    /// # Errors
    /// When the service refuses; when there is one of the name.
    pub async fn create_container_repository(
        &self,
        compartment: &str,
        name: &str,
        is_public: bool,
        is_immutable: bool,
        retry_token: &str,
    ) -> Result<ContainerRepository, OracleError> {
        let body = json!({
            "compartmentId": compartment,
            "displayName": name,
            "isPublic": is_public,
            "isImmutable": is_immutable,
        });
        let action = format!("create the repository `{name}`");
        let call = Call::new(action, ARTIFACTS, Method::POST, REPOSITORIES).right(MANAGE_REPOS).json(&body);
        self.send(call.header("opc-retry-token", retry_token)).await?.json()
    }

    /// The repositories of a compartment, or those of a name in it; of the whole tenancy if `is_tree`.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn container_repositories(
        &self,
        compartment: &str,
        name: Option<&str>,
        is_tree: bool,
    ) -> Result<Vec<ContainerRepository>, OracleError> {
        let (mut found, mut next) = (Vec::new(), None::<String>);
        for _ in 0..PAGES_MAX {
            let mut call = Call::get("list the repositories", ARTIFACTS, REPOSITORIES)
                .right("inspect repos in compartment NAME")
                .query("compartmentId", compartment)
                .query("limit", "100");
            if is_tree {
                call = call.query("compartmentIdInSubtree", "true");
            }
            if let Some(name) = name {
                call = call.query("displayName", name);
            }
            if let Some(token) = &next {
                call = call.query("page", token.as_str());
            }
            let answer = self.send(call).await?;
            found.extend(answer.json::<Page>()?.items);
            match answer.header("opc-next-page").filter(|token| !token.is_empty()) {
                None => return Ok(found),
                Some(token) if next.as_deref() == Some(token) => {
                    return Err(answer.unexpected("its pages have no end".to_owned()));
                }
                Some(token) => next = Some(token.to_owned()),
            }
        }
        Ok(found)
    }

    /// One repository by its OCID.
    ///
    /// # Errors
    /// When there is none, or the service refuses.
    pub async fn container_repository(&self, id: &str) -> Result<ContainerRepository, OracleError> {
        let path = format!("{REPOSITORIES}/{}", encode(id));
        let call = Call::get(format!("look at the repository {id}"), ARTIFACTS, path);
        self.send(call.right("inspect repos in compartment NAME")).await?.json()
    }

    /// Removes a repository with all images in it.
    ///
    /// # Errors
    /// When there is none, or the service refuses.
    pub async fn delete_container_repository(&self, id: &str) -> Result<(), OracleError> {
        let path = format!("{REPOSITORIES}/{}", encode(id));
        let call = Call::new(format!("remove the repository {id}"), ARTIFACTS, Method::DELETE, path);
        // Done twice, it would be missing the second time.
        self.send(call.right(MANAGE_REPOS).repeat(Repeat::IfRefused)).await.map(|_| ())
    }
}
