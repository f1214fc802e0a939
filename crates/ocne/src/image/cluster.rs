//! Flags about the cluster that images are converted in.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ocne_build::{ClusterSettings, ConnectOptions, SHELL_IMAGE, Scratch, TolerationSpec, Transfer};

use crate::cli::GlobalArguments;
use crate::settings::Settings;

/// Flags about the cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArguments {
    /// Context of the cluster configuration
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Namespace of the builder pod; made if it is missing
    #[arg(long, value_name = "NAME", default_value = "ocne-system")]
    namespace: String,
    /// Container image of the builder pod: one called `ocne-agent`, or any with `sh`, `cat` and `chmod`
    #[arg(long, value_name = "REF", default_value = SHELL_IMAGE)]
    builder_image: String,
    /// Label that the pod's node has to have; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    node_selector: Vec<(String, String)>,
    /// Taint of nodes that the pod puts up with; may be repeated
    #[arg(long, value_name = "KEY[=VALUE][:EFFECT]")]
    toleration: Vec<TolerationSpec>,
    /// Priority class of the pod
    #[arg(long, value_name = "NAME")]
    priority_class: Option<String>,
    /// Secret with credentials for the builder image; may be repeated
    #[arg(long, value_name = "NAME")]
    image_pull_secret: Vec<String>,
    /// Service account of the pod
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// Scratch volume of the pod: emptydir, memory, or pvc, which may name a storage class
    #[arg(long, value_name = "VOLUME[:CLASS]", default_value = "emptydir")]
    scratch: Scratch,
    /// Size of the scratch volume, in MiB [default: what the image takes]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    scratch_size: Option<u64>,
    /// Memory that the pod may use, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    pod_memory: u64,
    /// Seconds that the pod may wait for a node and its image
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = seconds())]
    pod_wait: u64,
    /// Seconds after which the cluster ends the pod, whatever it does
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = seconds())]
    pod_deadline: u64,
    /// Seconds after which the pod ends by itself when it hears nobody
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = seconds())]
    idle_timeout: u64,
    /// How the image gets into the pod: only the blocks that are needed, or in full
    #[arg(long, value_name = "WAY", value_enum, default_value = "auto")]
    transfer: TransferChoice,
    /// Who fetches the boot image: this machine, or the pod, from which the whole result comes back
    #[arg(long, value_name = "WHO", value_enum, default_value = "local", conflicts_with_all = ["file", "offline", "recompress"])]
    pull: PullChoice,
    /// Leave the pod when the build ends, and say how to look into it
    #[arg(long)]
    keep_pod: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransferChoice {
    /// The fewest bytes: blocks
    Auto,
    /// What the conversion reads, a MB or so
    Blocks,
    /// The whole image, kept in the pod when a connection is lost
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PullChoice {
    /// This machine, unless the image is in its cache
    Local,
    /// The pod: for registries that only it can reach
    Pod,
}

/// A time: at least a second, at most a week.
fn seconds() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=604_800)
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it has the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl ClusterArguments {
    /// Whether the pod fetches the image.
    pub fn pulls(&self) -> bool {
        self.pull == PullChoice::Pod
    }

    /// The cluster and the pod of a build.
    pub fn settings(&self, settings: &Settings, global: &GlobalArguments) -> ClusterSettings {
        let mut cluster =
            ClusterSettings::new(connect(self.context.clone(), settings, global), &self.builder_image);
        let pod = &mut cluster.pod;
        pod.namespace.clone_from(&self.namespace);
        pod.node_selector = self.node_selector.iter().cloned().collect();
        // The agent's program has to be one for that node.
        if let Some(architecture) = pod.node_selector.get("kubernetes.io/arch") {
            pod.node_architecture.clone_from(architecture);
        }
        pod.tolerations.clone_from(&self.toleration);
        pod.priority_class.clone_from(&self.priority_class);
        pod.image_pull_secrets.clone_from(&self.image_pull_secret);
        pod.service_account.clone_from(&self.service_account);
        pod.scratch = self.scratch.clone();
        if let Some(mib) = self.scratch_size {
            pod.scratch_bytes = mib << 20;
        }
        pod.memory_bytes = self.pod_memory << 20;
        pod.pod_wait = Duration::from_secs(self.pod_wait);
        pod.deadline = Duration::from_secs(self.pod_deadline);
        pod.idle_timeout = Duration::from_secs(self.idle_timeout);
        env!("CARGO_PKG_VERSION").clone_into(&mut pod.client_version);
        pod.user = user();
        cluster.transfer = match self.transfer {
            _ if self.pulls() => Transfer::Pull,
            TransferChoice::Auto | TransferChoice::Blocks => Transfer::Blocks,
            TransferChoice::Full => Transfer::Full,
        };
        cluster.scratch_is_fixed = self.scratch_size.is_some();
        cluster.keep_pod = self.keep_pod;
        cluster
    }
}

/// Which cluster: that of the flag, else that of `KUBECONFIG` (which may name several files), else that of the settings.
pub fn connect(context: Option<String>, settings: &Settings, global: &GlobalArguments) -> ConnectOptions {
    let of_environment = std::env::var_os("KUBECONFIG").is_some_and(|v| !v.is_empty());
    let of_settings = || settings.values.kubeconfig.as_ref().map(PathBuf::from);
    let kubeconfig = match &global.kubeconfig {
        Some(path) => Some(path.clone()),
        None if of_environment => None,
        None => of_settings(),
    };
    ConnectOptions { kubeconfig, context }
}

/// Who runs this, for an annotation: `USER@HOST`.
fn user() -> String {
    let name =
        std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned());
    let host = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => name,
        host => format!("{name}@{host}"),
    }
}
