//! What the cluster thinks of a build, asked before anything is made.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, Node, Pod, ResourceQuota, Taint};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use crate::access::{AccessCheck, check_all, check_namespaces, may};
use crate::api::{optional, patiently};
use crate::cluster::Cluster;
use crate::error::ClusterError;
use crate::manifest;
use crate::spec::PodSpec;
use crate::toleration::TolerationSpec;

/// What is known of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceState {
    /// It exists, with this Pod Security level of its own.
    Exists {
        /// `pod-security.kubernetes.io/enforce`, if it is set.
        enforce: Option<String>,
    },
    /// It will be made.
    WillBeMade,
    /// The user may not look.
    Unknown,
}

/// One line of a ResourceQuota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaRoom {
    /// Name of the quota.
    pub quota: String,
    /// What is limited, as `limits.memory`.
    pub resource: String,
    /// The limit.
    pub hard: String,
    /// How much is used.
    pub used: String,
}

/// How many nodes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeCount {
    /// All.
    pub all: usize,
    /// Those whose labels and taints let the pod in. Whether it fits is the scheduler's to say.
    pub suitable: usize,
}

/// What the cluster thinks of a build. It said no to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    /// The namespace.
    pub namespace: NamespaceState,
    /// The rights, with those that are not needed but useful.
    pub access: Vec<AccessCheck>,
    /// What the quotas of the namespace leave; empty when there are none, or when they may not be read.
    pub quotas: Vec<QuotaRoom>,
    /// Names of the limit ranges; the same.
    pub limit_ranges: Vec<String>,
    /// The nodes, when they may be listed.
    pub nodes: Option<NodeCount>,
    /// What admission would change in the container's resources and image, in words.
    pub changes: Vec<String>,
    /// What could not be asked, in words.
    pub not_asked: Vec<String>,
}

impl Preflight {
    /// What was found, a line each, for a plan.
    pub fn lines(&self) -> Vec<String> {
        let namespace = match &self.namespace {
            NamespaceState::Exists { enforce: Some(level) } => {
                format!("namespace: there, Pod Security `{level}`")
            }
            NamespaceState::Exists { enforce: None } => {
                "namespace: there, Pod Security as the cluster has it".to_owned()
            }
            NamespaceState::WillBeMade => "namespace: will be made, Pod Security `restricted`".to_owned(),
            NamespaceState::Unknown => "namespace: no right to look at it".to_owned(),
        };
        let mut lines = vec![namespace];
        let rights = self.access.iter().map(|check| {
            let answer = if check.is_allowed { "yes" } else { "no, and it works without" };
            format!("may {} {}: {answer}", check.verb, check.resource)
        });
        lines.extend(rights);
        let quotas = self.quotas.iter();
        lines.extend(
            quotas.map(|q| format!("quota `{}`: {} of {} {} used", q.quota, q.used, q.hard, q.resource)),
        );
        lines.extend(self.limit_ranges.iter().map(|name| format!("limit range `{name}`: lets the pod in")));
        lines.extend(self.nodes.map(|n| format!("nodes: {} of {} may take the pod", n.suitable, n.all)));
        lines.extend(self.changes.iter().map(|change| format!("admission adds {change}")));
        lines.extend(self.not_asked.iter().map(|what| format!("not known: {what}")));
        lines
    }
}

impl Cluster {
    /// Asks the cluster what it thinks of a build, and makes nothing.
    ///
    /// # Errors
    /// The first thing that would keep the build from running: a right that is missing, a rule of admission, a quota.
    pub async fn preflight(&self, spec: &PodSpec) -> Result<Preflight, ClusterError> {
        let access = check_all(self, &spec.namespace).await?;
        if let Some(error) = access.iter().find_map(AccessCheck::refusal) {
            return Err(error);
        }
        let may = |verb: &str, resource: &str| may(&access, verb, resource);
        let namespace = if may("get", "namespaces") {
            self.namespace_state(&spec.namespace).await?
        } else {
            NamespaceState::Unknown
        };
        let job = manifest::job(spec, &manifest::new_id()?, Timestamp::now())?;
        let mut not_asked = Vec::new();
        let mut changes = Vec::new();
        if namespace == NamespaceState::WillBeMade {
            if let Some(error) = check_namespaces(self).await?.refusal() {
                return Err(error);
            }
            self.try_namespace(&spec.namespace).await?;
            not_asked.push("what admission says of the Job and its pod: the namespace is missing".to_owned());
        } else {
            self.try_job(&spec.namespace, &job).await?;
            if may("create", "pods") {
                changes = self.try_pod(&spec.namespace, &manifest::pod(&job)).await?;
            } else {
                not_asked.push("what admission says of the pod: no right to create pods".to_owned());
            }
        }
        let mut readable = |resource: &str| {
            let is_allowed = may("list", resource);
            if !is_allowed {
                not_asked.push(format!("{resource}: no right to list them"));
            }
            is_allowed
        };
        let quotas = if readable("resourcequotas") {
            self.list::<ResourceQuota>(Api::namespaced(self.client.clone(), &spec.namespace)).await?
        } else {
            Vec::new()
        };
        let limit_ranges = if readable("limitranges") {
            self.list::<LimitRange>(Api::namespaced(self.client.clone(), &spec.namespace)).await?
        } else {
            Vec::new()
        };
        let nodes = if readable("nodes") {
            Some(node_count(&self.list(Api::all(self.client.clone())).await?, spec))
        } else {
            None
        };
        let quotas = quotas.into_iter().flat_map(quota_room).collect();
        let limit_ranges = limit_ranges.into_iter().filter_map(|range| range.metadata.name).collect();
        Ok(Preflight { namespace, access, quotas, limit_ranges, nodes, changes, not_asked })
    }

    async fn namespace_state(&self, name: &str) -> Result<NamespaceState, ClusterError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let found = optional(patiently(|| api.get(name)).await);
        let action = || format!("look at the namespace `{name}`");
        let Some(namespace) = found.map_err(|failure| failure.into_error(&self.server, &action()))? else {
            return Ok(NamespaceState::WillBeMade);
        };
        let labels = namespace.metadata.labels.unwrap_or_default();
        Ok(NamespaceState::Exists { enforce: labels.get("pod-security.kubernetes.io/enforce").cloned() })
    }

    async fn try_namespace(&self, name: &str) -> Result<(), ClusterError> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let namespace = manifest::namespace(name)?;
        let parameters = dry_run();
        match patiently(|| api.create(&parameters, &namespace)).await {
            Ok(_) => Ok(()),
            // Somebody else was quicker.
            Err(failure) if failure.status() == Some(409) => Ok(()),
            Err(failure) => Err(failure.into_refusal(&self.server, &format!("the namespace `{name}`"), name)),
        }
    }

    async fn try_job(&self, namespace: &str, job: &Job) -> Result<(), ClusterError> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let parameters = dry_run();
        match patiently(|| api.create(&parameters, job)).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.into_refusal(
                &self.server,
                &format!("a Job in the namespace `{namespace}`"),
                namespace,
            )),
        }
    }

    async fn try_pod(&self, namespace: &str, pod: &Pod) -> Result<Vec<String>, ClusterError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters = dry_run();
        match patiently(|| api.create(&parameters, pod)).await {
            Ok(admitted) => Ok(changes(pod, &admitted)),
            Err(failure) => Err(failure.into_refusal(
                &self.server,
                &format!("the builder pod in the namespace `{namespace}`"),
                namespace,
            )),
        }
    }

    async fn list<K>(&self, api: Api<K>) -> Result<Vec<K>, ClusterError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let parameters = ListParams::default();
        let list = patiently(|| api.list(&parameters)).await;
        let action = || format!("list {}", K::plural(&()));
        Ok(list.map_err(|failure| failure.into_error(&self.server, &action()))?.items)
    }
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn quota_room(quota: ResourceQuota) -> Vec<QuotaRoom> {
    let name = quota.metadata.name.unwrap_or_default();
    let status = quota.status.unwrap_or_default();
    let used = status.used.unwrap_or_default();
    let hard = status.hard.unwrap_or_default();
    let room = |(resource, limit): (String, _)| {
        let used = used.get(&resource).map_or_else(|| "0".to_owned(), |amount| amount.0.clone());
        QuotaRoom { quota: name.clone(), hard: quantity(limit), used, resource }
    };
    hard.into_iter().map(room).collect()
}

fn quantity(quantity: k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> String {
    quantity.0
}

/// What admission changed in what matters to a build: the container's image and resources, and how many there are.
fn changes(asked: &Pod, admitted: &Pod) -> Vec<String> {
    let containers = |pod: &Pod| pod.spec.as_ref().map(|spec| spec.containers.clone()).unwrap_or_default();
    let (asked, admitted) = (containers(asked), containers(admitted));
    let mut changes = Vec::new();
    if admitted.len() > asked.len() {
        let names = admitted.iter().map(|c| c.name.clone()).filter(|n| asked.iter().all(|c| c.name != *n));
        changes.push(format!("containers: {}", names.collect::<Vec<_>>().join(", ")));
    }
    for before in &asked {
        let Some(after) = admitted.iter().find(|container| container.name == before.name) else { continue };
        if before.image != after.image {
            changes.push(format!("another image: `{}`", after.image.clone().unwrap_or_default()));
        }
        let (before, after) =
            (before.resources.clone().unwrap_or_default(), after.resources.clone().unwrap_or_default());
        changes.extend(resource_changes("limit", before.limits.as_ref(), after.limits.as_ref()));
        changes.extend(resource_changes("request", before.requests.as_ref(), after.requests.as_ref()));
    }
    changes
}

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// Resources that somebody else set. Those that were asked for come back in other units, and are never changed by the
/// cluster's own admission.
fn resource_changes(kind: &str, before: Option<&Amounts>, after: Option<&Amounts>) -> Vec<String> {
    let added =
        after.into_iter().flatten().filter(|(name, _)| !before.is_some_and(|all| all.contains_key(*name)));
    added.map(|(name, amount)| format!("a {kind} on {name}: {}", amount.0)).collect()
}

fn node_count(nodes: &[Node], spec: &PodSpec) -> NodeCount {
    let suitable = nodes.iter().filter(|node| is_suitable(node, spec)).count();
    NodeCount { all: nodes.len(), suitable }
}

fn is_suitable(node: &Node, spec: &PodSpec) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let has = |key: &str, value: &str| labels.get(key).is_some_and(|found| found == value);
    let node_spec = node.spec.clone().unwrap_or_default();
    let taints = node_spec.taints.unwrap_or_default();
    has("kubernetes.io/os", "linux")
        && has("kubernetes.io/arch", &spec.node_architecture)
        && spec.node_selector.iter().all(|(key, value)| has(key, value))
        && !node_spec.unschedulable.unwrap_or(false)
        && taints.iter().all(|taint| {
            taint.effect == "PreferNoSchedule" || spec.tolerations.iter().any(|t| tolerates(t, taint))
        })
}

fn tolerates(toleration: &TolerationSpec, taint: &Taint) -> bool {
    toleration.key == taint.key
        && toleration.effect.as_ref().is_none_or(|effect| *effect == taint.effect)
        && toleration.value.as_ref().is_none_or(|value| Some(value) == taint.value.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(labels: &str, spec: &str) -> Node {
        serde_json::from_str(&format!(r#"{{"metadata": {{"labels": {labels}}}, "spec": {spec}}}"#)).unwrap()
    }

    #[test]
    fn nodes_that_let_the_pod_in() {
        let mut spec = PodSpec::new("i", "amd64");
        let labels = r#"{"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux", "disk": "fast"}"#;
        let tainted = r#"{"taints": [{"key": "dedicated", "value": "images", "effect": "NoSchedule"}]}"#;
        assert!(is_suitable(&node(labels, "{}"), &spec));
        assert!(!is_suitable(&node(labels, r#"{"unschedulable": true}"#), &spec));
        assert!(!is_suitable(&node(labels, tainted), &spec));
        spec.tolerations = vec!["dedicated=images:NoSchedule".parse().unwrap()];
        assert!(is_suitable(&node(labels, tainted), &spec));
        spec.tolerations = vec!["dedicated=other".parse().unwrap()];
        assert!(!is_suitable(&node(labels, tainted), &spec));
        spec.node_selector.insert("disk".to_owned(), "slow".to_owned());
        assert!(!is_suitable(&node(labels, "{}"), &spec));
        assert!(!is_suitable(&node(labels, "{}"), &PodSpec::new("i", "arm64")));
    }

    #[test]
    fn what_admission_changed() {
        let pod = |containers: &str| -> Pod {
            serde_json::from_str(&format!(r#"{{"metadata": {{}}, "spec": {{"containers": {containers}}}}}"#))
                .unwrap()
        };
        let asked =
            pod(r#"[{"name": "builder", "image": "a", "resources": {"limits": {"memory": "64Mi"}}}]"#);
        let admitted = pod(
            r#"[{"name": "builder", "image": "b", "resources": {"limits": {"memory": "64Mi", "cpu": "1"}, "requests": {"cpu": "1"}}}, {"name": "sidecar"}]"#,
        );
        let plan = Preflight {
            namespace: NamespaceState::Exists { enforce: None },
            access: Vec::new(),
            quotas: vec![QuotaRoom {
                quota: "q".to_owned(),
                resource: "pods".to_owned(),
                hard: "4".to_owned(),
                used: "1".to_owned(),
            }],
            limit_ranges: vec!["range".to_owned()],
            nodes: Some(NodeCount { all: 3, suitable: 2 }),
            changes: changes(&asked, &admitted),
            not_asked: vec!["the nodes: no right to list them".to_owned()],
        };
        insta::assert_snapshot!(plan.lines().join("\n"));
    }
}
