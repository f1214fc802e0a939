//! Auth tokens: what a user has in place of a password at Oracle's registry (Identity API, `AuthToken`).

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Call, Client, Repeat, encode};
use crate::error::OracleError;
use crate::region::Service;
use crate::secret::Secret;

const IDENTITY: Service = Service::Identity;
/// Users may do so to themselves without it.
const MANAGE_USERS: &str = "manage users in tenancy";

/// An auth token, without what makes it one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "camelCase"))]
pub struct AuthToken {
    /// Its OCID.
    pub id: String,
    /// What it is for.
    pub description: Option<String>,
    /// `ACTIVE`, or something that makes it unusable.
    pub lifecycle_state: String,
    /// When it was made.
    pub time_created: String,
    /// When it ends, if it does.
    pub time_expires: Option<String>,
}

#[derive(Deserialize)]
struct Created {
    token: String,
    #[serde(flatten)]
    about: AuthToken,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Client {
    /// Name of a user, as the registry knows it too.
    ///
    /// # Errors
    /// When there is none, or the service refuses.
    pub async fn user_name(&self, user: &str) -> Result<String, OracleError> {
        let path = format!("/users/{}", encode(user));
        let call = Call::get("look at the user", IDENTITY, path).right("inspect users in tenancy");
        self.send(call).await?.json().map(|named: Named| named.name)
    }

    /// Makes an auth token; the service shows it this once. A user has two at most.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_auth_token(
        &self,
        user: &str,
        description: &str,
        retry_token: &str,
    ) -> Result<(AuthToken, Secret), OracleError> {
        let path = format!("/users/{}/authTokens", encode(user));
        let call = Call::new("create an auth token", IDENTITY, Method::POST, path)
            .right(MANAGE_USERS)
            .header("opc-retry-token", retry_token)
            .json(&json!({ "description": description }));
        let answer = self.send(call).await?;
        // What is wrong with the answer is said without it.
        let created: Created = serde_json::from_slice(&answer.body)
            .map_err(|_| answer.unexpected("it has no token".to_owned()))?;
        Ok((created.about, Secret::new(created.token)))
    }

    /// The auth tokens of a user.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn auth_tokens(&self, user: &str) -> Result<Vec<AuthToken>, OracleError> {
        let path = format!("/users/{}/authTokens", encode(user));
        self.list(|| {
            Call::get("list the auth tokens", IDENTITY, path.clone()).right("inspect users in tenancy")
        })
        .await
    }

    /// Removes an auth token: nobody logs in with it any more.
    ///
    /// # Errors
    /// When there is none, or the service refuses.
    pub async fn delete_auth_token(&self, user: &str, id: &str) -> Result<(), OracleError> {
        let path = format!("/users/{}/authTokens/{}", encode(user), encode(id));
        let call = Call::new(format!("remove the auth token {id}"), IDENTITY, Method::DELETE, path);
        self.send(call.right(MANAGE_USERS).repeat(Repeat::IfRefused)).await.map(|_| ())
    }
}
