//! Whether the user may do what a build needs: the API server is asked for each right.

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use crate::api::patiently;
use crate::cluster::Cluster;
use crate::error::ClusterError;

/// A right, in the namespace of the build or in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Right {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    is_namespaced: bool,
    is_needed: bool,
}

const fn needed(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right { verb, group, resource, is_namespaced: true, is_needed: true }
}

const fn useful(verb: &'static str, group: &'static str, resource: &'static str) -> Right {
    Right { is_needed: false, ..needed(verb, group, resource) }
}

const fn in_cluster(right: Right) -> Right {
    Right { is_namespaced: false, ..right }
}

/// What a build asks of the API server. Exec over WebSocket is a `get`, and from Kubernetes 1.35 on a `create` too.
pub(crate) const RIGHTS: [Right; 13] = [
    needed("create", "batch", "jobs"),
    needed("get", "batch", "jobs"),
    needed("delete", "batch", "jobs"),
    needed("get", "", "pods"),
    needed("list", "", "pods"),
    needed("get", "", "pods/exec"),
    needed("create", "", "pods/exec"),
    // Without it nobody can say why a pod waits.
    useful("list", "", "events"),
    // The rest is for the plan. What is not allowed is not tried: clusters alert on requests that are refused.
    useful("create", "", "pods"),
    useful("get", "", "namespaces"),
    useful("list", "", "resourcequotas"),
    useful("list", "", "limitranges"),
    in_cluster(useful("list", "", "nodes")),
];

/// The answer about one right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessCheck {
    /// The verb, as RBAC has it.
    pub verb: &'static str,
    /// The resource and subresource, as RBAC has them.
    pub resource: &'static str,
    /// Its API group; empty for the core.
    pub group: &'static str,
    /// The namespace; none for what is in no namespace.
    pub namespace: Option<String>,
    /// Whether nothing works without it.
    pub is_needed: bool,
    /// Whether it is there.
    pub is_allowed: bool,
    /// What the authorizer says about it; often nothing.
    pub reason: String,
}

impl AccessCheck {
    /// The error of a right that is missing and needed.
    pub(crate) fn refusal(&self) -> Option<ClusterError> {
        (self.is_needed && !self.is_allowed).then(|| ClusterError::Access {
            verb: self.verb,
            resource: self.resource,
            group: self.group,
            namespace: self.namespace.clone(),
            reason: self.reason.clone(),
        })
    }
}

/// Whether a right is among those that are there.
pub(crate) fn may(checks: &[AccessCheck], verb: &str, resource: &str) -> bool {
    checks.iter().any(|check| check.verb == verb && check.resource == resource && check.is_allowed)
}

/// Asks about a build's rights in a namespace.
pub(crate) async fn check_all(cluster: &Cluster, namespace: &str) -> Result<Vec<AccessCheck>, ClusterError> {
    futures_util::future::try_join_all(RIGHTS.iter().map(|right| check(cluster, *right, namespace))).await
}

/// Asks whether namespaces may be made.
pub(crate) async fn check_namespaces(cluster: &Cluster) -> Result<AccessCheck, ClusterError> {
    check(cluster, in_cluster(needed("create", "", "namespaces")), "").await
}

async fn check(cluster: &Cluster, right: Right, namespace: &str) -> Result<AccessCheck, ClusterError> {
    let namespace = right.is_namespaced.then_some(namespace);
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource)),
        None => (right.resource, None),
    };
    let attributes = ResourceAttributes {
        verb: Some(right.verb.to_owned()),
        group: Some(right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource: subresource.map(ToOwned::to_owned),
        namespace: namespace.map(ToOwned::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
    let parameters = PostParams::default();
    let answer = patiently(|| api.create(&parameters, &review)).await;
    let action = "ask the cluster what the user may do";
    let status = answer.map_err(|failure| failure.into_error(&cluster.server, action))?.status;
    let status = status.unwrap_or_default();
    Ok(AccessCheck {
        verb: right.verb,
        resource: right.resource,
        group: right.group,
        namespace: namespace.map(ToOwned::to_owned),
        is_needed: right.is_needed,
        is_allowed: status.allowed,
        reason: status.reason.unwrap_or_default(),
    })
}
