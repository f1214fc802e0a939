//! Resources that fetch their token: they prove who they are to the service that they belong to, and show what it says to
//! the service that gives tokens. As in the official Python SDK, versions 1.1, 2.1, 2.1.1, 2.1.2 and 3.0.

use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ocne_http::NetworkOptions;
use reqwest::{Client, Method, RequestBuilder, Url};
use serde::Deserialize;
use serde_json::json;

use crate::credentials::{GivenToken, Material};
use crate::federation::{Instance, Session, builder, new_key, send};
use crate::key::SigningKey;
use crate::secret::Secret;
use crate::signature::{SignedBody, ToSign};

/// Where tokens are given, below the endpoint.
const SESSION_PATH: &str = "/v1/resourcePrincipalSessionToken";
/// The answer of a resource that has a parent names it so.
const PARENT: &str = "opc-parent-rpt-url";
/// More parents than these are taken for a circle.
const PARENTS_MAX: usize = 10;

/// A resource.
#[derive(Debug)]
pub(crate) struct Resource {
    pub proof: Proof,
    /// Where it gets a token of its own; none when the proof is one.
    pub own: Option<Exchange>,
    /// Where it gets the token of the resource that it is a part of.
    pub parent: Option<Exchange>,
    pub certificate_files: Vec<PathBuf>,
    pub network: NetworkOptions,
}

/// What a resource proves by who it is.
#[derive(Debug)]
pub(crate) enum Proof {
    /// A token that it was given.
    Given(Box<GivenToken>),
    /// A key that the service knows by a name.
    Key { id: String, key: Material, pass_phrase: Option<Material> },
    /// The certificate of the instance that it is on.
    Instance(Box<Instance>),
}

/// Two requests: what the resource's service says of it, and the token for that.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub statement_url: String,
    /// Endpoint of the service that gives tokens.
    pub session_endpoint: String,
    pub security_context: Option<String>,
}

impl Resource {
    /// Fetches a token.
    pub async fn session(&self) -> Result<Session, String> {
        let mut session = match &self.proof {
            Proof::Given(given) => given.read(&mut Vec::new()).map_err(|e| e.to_string())?.into(),
            Proof::Key { id, key, pass_phrase } => {
                let key_id = Secret::new(id.as_str());
                let key = key.key(pass_phrase.as_ref()).map_err(|e| e.to_string())?;
                Session { key_id, key, delegation: None }
            }
            Proof::Instance(instance) => instance.session().await?.0,
        };
        if let Some(own) = &self.own {
            // The key that proves who a resource is goes on to sign; that of an instance's session does not.
            let key = match &self.proof {
                Proof::Instance(_) => new_key().await?.signing_key().clone(),
                _ => session.key.clone(),
            };
            session = self.exchange(own, &session, key).await?.0;
        }
        let mut next = self.parent.clone();
        let mut count = 0;
        while let Some(parent) = next {
            let key = session.key.clone();
            let (newer, further) = self.exchange(&parent, &session, key).await?;
            session = newer;
            count += 1;
            if count > PARENTS_MAX || further.as_ref() == Some(&parent.statement_url) {
                return Err(format!("`{}` names more parents than there can be", parent.statement_url));
            }
            next = further.map(|statement_url| Exchange { statement_url, ..parent });
        }
        Ok(session)
    }

    /// A session of `key`, and the parent's URL if there is one.
    async fn exchange(
        &self,
        exchange: &Exchange,
        signer: &Session,
        key: SigningKey,
    ) -> Result<(Session, Option<String>), String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Statement {
            resource_principal_token: String,
            service_principal_session_token: String,
        }
        #[derive(Deserialize)]
        struct Token {
            token: String,
        }
        let url = &exchange.statement_url;
        let context = exchange.security_context.as_deref();
        let (answer, headers) = self.ask(Method::GET, url, signer, context, None).await?;
        let parent = headers.get(PARENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let none = |what: &str, url: &str| format!("the answer of `{url}` holds no {what}");
        let said: Statement =
            serde_json::from_str(answer.reveal()).map_err(|_| none("token of the resource", url))?;
        let body = json!({
            "resourcePrincipalToken": said.resource_principal_token,
            "servicePrincipalSessionToken": said.service_principal_session_token,
            "sessionPublicKey": BASE64.encode(key.public_key()),
        });
        let url = format!("{}{SESSION_PATH}", exchange.session_endpoint.trim_end_matches('/'));
        let (answer, _) = self.ask(Method::POST, &url, signer, None, Some(&body.to_string())).await?;
        let token: Token = serde_json::from_str(answer.reveal()).map_err(|_| none("token", &url))?;
        let key_id = Secret::new(format!("ST${}", token.token));
        Ok((Session { key_id, key, delegation: None }, parent))
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        signer: &Session,
        security_context: Option<&str>,
        body: Option<&str>,
    ) -> Result<(Secret, reqwest::header::HeaderMap), String> {
        let (builder, parsed) = builder(url, &self.certificate_files, &self.network)?;
        let client = builder.build().map_err(|e| e.to_string())?;
        let body_to_sign = body.map(|body| SignedBody::json(body.as_bytes()));
        let request = || signed_request(&client, &method, &parsed, signer, body_to_sign.as_ref());
        send(|| {
            let mut request = request();
            if let Some(context) = security_context {
                request = request.header("security-context", context);
            }
            match body {
                Some(body) => request.body(body.to_owned()),
                None => request,
            }
        })
        .await
        .map_err(|reason| format!("`{url}` does not know this resource: {reason}"))
    }
}

fn signed_request(
    client: &Client,
    method: &Method,
    url: &Url,
    signer: &Session,
    body: Option<&SignedBody>,
) -> RequestBuilder {
    let date = ocne_http::format_http_date(SystemTime::now());
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
    let to_sign =
        ToSign { method: method.as_str(), target: &target, host: &host, date: &date, delegation: None, body };
    // Without a signature the answer says what is wrong.
    let authorization = to_sign.authorization(&signer.key_id, &signer.key).unwrap_or_default();
    let request = client
        .request(method.clone(), url.clone())
        .header("date", &date)
        .header("authorization", authorization)
        .header("accept", "application/json");
    match body {
        None => request,
        Some(body) => request
            .header("content-type", body.content_type)
            .header("content-length", body.length)
            .header("x-content-sha256", &body.sha256),
    }
}
