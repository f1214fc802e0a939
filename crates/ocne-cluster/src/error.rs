//! Why the cluster could not be used.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::refusal::Rule;

/// Something did not work in the cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The caller asked for it to end.
    #[error("interrupted")]
    Interrupted,
    /// No kubeconfig, and not inside a cluster.
    #[error("no cluster is configured: there is no kubeconfig, and this is not a pod")]
    NoCluster,
    /// A kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}", paths(files))]
    Kubeconfig {
        /// The files that it is made of.
        files: Vec<PathBuf>,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The client cannot be set up from a good kubeconfig: certificates, keys.
    #[error("cannot set up the client for the cluster at `{server}`")]
    Client {
        /// Address of the API server.
        server: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// The kubeconfig's way to log in does not work: a program, an identity provider, a file with a token.
    #[error("cannot log in to the cluster at `{server}`: {reason}")]
    Login {
        /// Address of the API server.
        server: String,
        /// What failed, without what was sent or answered: that may be secret.
        reason: String,
    },
    /// The API server does not answer.
    #[error("the cluster at `{server}` does not answer: {reason}")]
    Unreachable {
        /// Address of the API server.
        server: String,
        /// How it failed.
        reason: String,
    },
    /// The API server's certificate is not trusted, or it does not accept ours.
    #[error("no trust between this machine and the cluster at `{server}`: {reason}")]
    Untrusted {
        /// Address of the API server.
        server: String,
        /// What TLS says.
        reason: String,
    },
    /// The API server does not know who asks.
    #[error("the cluster at `{server}` does not accept the credentials of the kubeconfig: {message}")]
    Unauthenticated {
        /// Address of the API server.
        server: String,
        /// What it says.
        message: String,
    },
    /// The user lacks a right that is needed.
    #[error("may not {verb} {resource} {}", place(namespace.as_deref()))]
    Access {
        /// The verb, as RBAC has it.
        verb: &'static str,
        /// The resource and subresource, as RBAC has them.
        resource: &'static str,
        /// Its API group; empty for the core.
        group: &'static str,
        /// The namespace; none for what is in no namespace.
        namespace: Option<String>,
        /// What the authorizer says about it; often nothing.
        reason: String,
    },
    /// A rule of the cluster forbids an object.
    #[error("{rule} does not allow {object}: {message}")]
    Refused {
        /// The rule.
        rule: Rule,
        /// What was to be made, with its namespace.
        object: String,
        /// The namespace.
        namespace: String,
        /// What the API server says.
        message: String,
    },
    /// The API server answered with another error.
    #[error("cannot {action}")]
    Api {
        /// What was tried, on what.
        action: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// A manifest that is part of the program cannot be read.
    #[error("the manifest of the {object} is damaged")]
    Manifest {
        /// `Job` or `Namespace`.
        object: &'static str,
        /// Why.
        source: Box<serde_saphyr::Error>,
    },
    /// No random numbers for a name.
    #[error("cannot make a name for the Job")]
    Random {
        /// Why.
        source: std::io::Error,
    },
    /// No node takes the pod.
    #[error("no node takes the pod `{pod}`: {reason}")]
    Unschedulable {
        /// The pod.
        pod: String,
        /// What the scheduler says of each node.
        reason: String,
    },
    /// The image cannot be had.
    #[error("cannot pull the image `{image}` for the pod `{pod}`: {reason}")]
    Image {
        /// The pod.
        pod: String,
        /// The image.
        image: String,
        /// What the registry or the node says.
        reason: String,
    },
    /// The container cannot be made or started.
    #[error("cannot start the container of the pod `{pod}`: {reason}")]
    Container {
        /// The pod.
        pod: String,
        /// What the node says.
        reason: String,
    },
    /// The pod does not get as far as running.
    #[error("the pod `{pod}` does not run after {seconds} s: {reason}")]
    NotRunning {
        /// The pod, or the Job when it has none.
        pod: String,
        /// How long it was waited for.
        seconds: u64,
        /// What it waits for.
        reason: String,
    },
    /// The container's program ended.
    #[error("the program in the pod `{pod}` ended with exit code {exit_code}{}", said(message))]
    Ended {
        /// The pod.
        pod: String,
        /// Its exit code.
        exit_code: i32,
        /// The end of its log.
        message: String,
    },
    /// The kernel ended the program for its memory.
    #[error("the program in the pod `{pod}` was ended because it needs more memory than its limit, {limit}")]
    OutOfMemory {
        /// The pod.
        pod: String,
        /// The limit, as the pod has it.
        limit: String,
    },
    /// The node threw the pod out.
    #[error("the pod `{pod}` was evicted: {message}")]
    Evicted {
        /// The pod.
        pod: String,
        /// Why.
        message: String,
    },
    /// The Job took too long.
    #[error("the Job of the pod `{pod}` took longer than its deadline{}", said(message))]
    Deadline {
        /// The pod.
        pod: String,
        /// What the controller says.
        message: String,
    },
    /// Somebody or something removed the pod.
    #[error("the pod `{pod}` has been deleted{}", said(message))]
    Deleted {
        /// The pod.
        pod: String,
        /// Why, if the cluster says.
        message: String,
    },
    /// The node is gone.
    #[error("the node `{node}` of the pod `{pod}` is lost{}", said(message))]
    NodeLost {
        /// The pod.
        pod: String,
        /// The node.
        node: String,
        /// What the cluster says.
        message: String,
    },
    /// A pod that was deleted does not go.
    #[error("the pod `{pod}` in the namespace `{namespace}` is still there {seconds} s after its deletion")]
    StillThere {
        /// The pod.
        pod: String,
        /// Its namespace.
        namespace: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A program could not be started in the pod.
    #[error("cannot run `{command}` in the pod `{pod}`: {reason}")]
    Exec {
        /// The pod.
        pod: String,
        /// The program.
        command: String,
        /// What the cluster says.
        reason: String,
    },
    /// The connection to a program in the pod broke. What it did is not known.
    #[error("lost the connection to the pod `{pod}`: {reason}")]
    ConnectionLost {
        /// The pod.
        pod: String,
        /// How.
        reason: String,
    },
}

fn paths(files: &[PathBuf]) -> String {
    files.iter().map(|f| format!("`{}`", f.display())).collect::<Vec<_>>().join(", ")
}

fn place(namespace: Option<&str>) -> String {
    namespace.map_or_else(|| "in the cluster".to_owned(), |n| format!("in the namespace `{n}`"))
}

fn said(message: &str) -> String {
    let message = message.trim();
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl ClusterError {
    /// Whether the cluster said no, by a rule: rights, admission, quota. It will say so again.
    pub fn is_remote_refusal(&self) -> bool {
        matches!(self, Self::Access { .. } | Self::Refused { .. } | Self::Unauthenticated { .. })
    }

    /// Whether the same may work when it is tried again, with nothing changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::ConnectionLost { .. } | Self::NodeLost { .. })
    }

    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let text = |t: &str| Some(t.to_owned());
        match self {
            Self::NoCluster => text("name a kubeconfig with `--kubeconfig` or the variable `KUBECONFIG`"),
            Self::Kubeconfig { source, .. }
                if matches!(**source, kube::config::KubeconfigError::LoadContext(_)) =>
            {
                text("`kubectl config get-contexts` lists the contexts")
            }
            Self::Kubeconfig { .. } => text("name another with `--kubeconfig` or the variable `KUBECONFIG`"),
            Self::Unreachable { .. } => text(
                "look at the server's address in the kubeconfig, the network and the proxy settings; `kubectl version` asks the same",
            ),
            Self::Untrusted { .. } => text(
                "look at `certificate-authority` and the client certificate in the kubeconfig: one of them is wrong or out of date",
            ),
            Self::Client { .. } => text(
                "look at the certificates and keys of the user in the kubeconfig; `kubectl version` asks the same",
            ),
            Self::Login { .. } => text(
                "look at the user in the kubeconfig (`kubectl config view --minify`), or log in again; `kubectl version` asks the same",
            ),
            Self::Unauthenticated { .. } => {
                text("log in to the cluster again: the token or the certificate may be out of date")
            }
            Self::Access { verb, resource, group, namespace, .. } => {
                Some(access_hint(verb, resource, group, namespace.as_deref()))
            }
            Self::Refused { rule, namespace, .. } => refusal_hint(rule, namespace),
            Self::Unschedulable { reason, .. } => Some(scheduling_hint(reason)),
            Self::Image { reason, .. } => Some(image_hint(reason)),
            Self::Container { reason, .. }
                if reason.contains("executable file not found") || reason.contains("no such file") =>
            {
                text(
                    "the image of `--builder-image` needs `sh`, `cat` and `chmod`, or to be one called `ocne-agent`",
                )
            }
            Self::OutOfMemory { .. } => text("raise the limit with `--pod-memory`"),
            Self::Evicted { message, .. }
                if message.contains("EmptyDir") || message.contains("ephemeral") =>
            {
                text("give it more with `--scratch-size`, or take another volume with `--scratch pvc`")
            }
            Self::Evicted { .. } => {
                text("the node is short of something; choose another with `--node-selector`")
            }
            Self::Deleted { .. } => text(
                "somebody with rights in the namespace removed it, or its Job, or a limit on its life did; run it again",
            ),
            Self::Deadline { .. } => text("raise the limit with `--pod-deadline`"),
            Self::NotRunning { .. } => text("wait longer with `--pod-wait`"),
            Self::StillThere { pod, namespace, .. } => Some(format!(
                "its node may be gone: `kubectl delete pod {pod} --namespace {namespace} --grace-period 0 --force`"
            )),
            Self::NodeLost { .. } | Self::ConnectionLost { .. } => text("run it again"),
            _ => None,
        }
    }
}

/// The line of a Role that would allow it.
fn access_hint(verb: &str, resource: &str, group: &str, namespace: Option<&str>) -> String {
    let kind = if namespace.is_some() { "Role" } else { "ClusterRole" };
    // Only what is left of builds is listed in all namespaces; most users may look in their own.
    let is_everywhere = namespace.is_none() && verb == "list";
    let narrower = if is_everywhere { "name one namespace with `--namespace`; " } else { "" };
    let mut hint = format!(
        "{narrower}a {kind} with `- {{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verb}]}}` allows it"
    );
    let namespaced = match namespace {
        Some(name) => format!(" --namespace {name}"),
        None if is_everywhere => " --all-namespaces".to_owned(),
        None => String::new(),
    };
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, sub)) => (resource, format!(" --subresource {sub}")),
        None => (resource, String::new()),
    };
    let _ = write!(hint, "; `kubectl auth can-i {verb} {resource}{subresource}{namespaced}` asks the same");
    hint
}

fn refusal_hint(rule: &Rule, namespace: &str) -> Option<String> {
    let hint = match rule {
        Rule::Access => "ask for the right that the message names".to_owned(),
        Rule::PodSecurity { .. } => format!(
            "the pod meets `restricted`, unless the cluster changes pods or is older: look at `kubectl get namespace {namespace} --show-labels`, or use another namespace with `--namespace`"
        ),
        Rule::Quota { name } => format!(
            "look at `kubectl describe resourcequota {name} --namespace {namespace}`; ask for less with `--pod-memory` or `--scratch`, or use another namespace with `--namespace`"
        ),
        Rule::LimitRange => format!(
            "look at `kubectl describe limitrange --namespace {namespace}`; ask for less with `--pod-memory` or `--scratch`, or use another namespace with `--namespace`"
        ),
        Rule::Webhook { name } | Rule::Policy { name } => {
            format!("ask who runs the cluster's policies about `{name}`")
        }
        Rule::PriorityClass => "`kubectl get priorityclass` lists them".to_owned(),
        Rule::ServiceAccount => format!("`kubectl get serviceaccount --namespace {namespace}` lists them"),
        Rule::NamespaceTerminating => "wait until it is gone, and run it again".to_owned(),
        Rule::NamespaceMissing => format!("`kubectl create namespace {namespace}` makes it"),
        Rule::Other => return None,
    };
    Some(hint)
}

fn scheduling_hint(reason: &str) -> String {
    if reason.contains("affinity/selector") {
        "`kubectl get nodes -L kubernetes.io/arch` shows the nodes; `--node-selector` and the builder image's architectures decide"
    } else if reason.contains("taint") {
        "`--toleration KEY=VALUE:EFFECT` puts up with a taint"
    } else if reason.contains("Insufficient") {
        "ask for less with `--pod-memory` or `--scratch`, or make room in the cluster"
    } else if reason.contains("PersistentVolumeClaim") || reason.contains("volume") {
        "`kubectl get storageclass` lists the classes for `--scratch pvc:CLASS`"
    } else {
        "`kubectl get nodes` shows the nodes"
    }
    .to_owned()
}

fn image_hint(reason: &str) -> String {
    let lower = reason.to_lowercase();
    if lower.contains("unauthorized") || lower.contains("authorization") || lower.contains("denied") {
        "name a secret with the registry's credentials with `--image-pull-secret`"
    } else if lower.contains("no match for platform") {
        "the image has no variant for the node's architecture; choose nodes with `--node-selector`"
    } else {
        "look at the name in `--builder-image`; the nodes must reach its registry"
    }
    .to_owned()
}
