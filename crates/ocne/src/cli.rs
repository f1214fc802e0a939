//! The command line: what is accepted, before any setting is looked at.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::completion::CompletionArguments;
use crate::config::ConfigCommand;
use crate::gc::GcArguments;
use crate::image::ImageCommand;
use crate::man::ManArguments;
use crate::oci::OciCommand;
use crate::printer::{LogLevel, OutputStyle};
use crate::registry::RegistryCommand;
use crate::version::VersionArguments;

/// The part of every help text and man page that says how a run ends.
pub const EXIT_STATUS: &str = "\
Exit status:
  0    done
  1    refused or failed; the reason is on standard error
  2    wrong usage, or a wrong setting
  3    the other side refused: authentication, quota, permission
  4    interrupted by the network or the disk; running it again goes on where it stopped
  130  ended by Ctrl-C or SIGTERM, and cleaned up";

/// Where settings come from, for help texts and man pages.
pub const ENVIRONMENT: &str = "\
Environment:
  OCNE_HOME            the folder of settings and images, instead of ~/.ocne
  OCNE_DEFAULTS        the defaults file, instead of ~/.ocne/defaults.yaml
  KUBECONFIG           the cluster configuration that --kubeconfig would name
  OCNE_AGENT_DIR       the folder of ocne-agent-amd64 and ocne-agent-arm64, for pods whose image has
                       none, instead of the program's own and ../libexec/ocne beside that
  REGISTRY_AUTH_FILE   credentials for registries, as --authfile
  HTTPS_PROXY, HTTP_PROXY, NO_PROXY
                       proxies, over proxy.* of the defaults file
  OCI_CLI_CONFIG_FILE, OCI_CLI_PROFILE, OCI_CLI_REGION, OCI_CLI_PASSPHRASE and so on
                       Oracle Cloud's configuration, as its own command line takes it
  XDG_STATE_HOME       the folder in which interrupted uploads are remembered, instead of
                       ~/.local/state
  SOURCE_DATE_EPOCH    the time in new images, as seconds since 1970, instead of the present
  NO_COLOR, CLICOLOR, CLICOLOR_FORCE
                       colours on standard error";

/// Make, look at and upload boot images of container hosts
///
/// Turns an OCK boot image from a registry, an archive or a file into an image that boots in
/// Oracle Cloud, and brings it there: as an ordinary user, without a cluster, and without mounting
/// anything.
#[derive(Debug, Parser)]
#[command(
    name = "ocne",
    version,
    max_term_width = 100,
    propagate_version = false,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Examples:
  ocne image create --type oci --arch arm64
  ocne image info --file ~/.ocne/images/boot.qcow2-1.33-arm64.oci",
    after_long_help = format!("Examples:
  ocne image create --type oci --arch arm64
  ocne image info --file ~/.ocne/images/boot.qcow2-1.33-arm64.oci
  ocne image upload --compartment sandbox/images --file ~/.ocne/images/boot.qcow2-1.33-arm64.oci
  ocne config show

{ENVIRONMENT}

{EXIT_STATUS}")
)]
pub struct Cli {
    #[command(flatten)]
    pub global: GlobalArguments,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every verb.
#[derive(Debug, Args)]
pub struct GlobalArguments {
    /// Cluster configuration; wins over KUBECONFIG
    #[arg(short = 'k', long, global = true, value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// What is logged on standard error [default: info]
    #[arg(short = 'l', long, global = true, value_name = "LEVEL", hide_possible_values = false)]
    pub log_level: Option<LogLevel>,
}

/// The groups of verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make boot images, look into them, and upload them
    #[command(subcommand, arg_required_else_help = true)]
    Image(ImageCommand),
    /// Credentials for Oracle Cloud
    #[command(subcommand, arg_required_else_help = true)]
    Oci(OciCommand),
    /// Log in to registries of container images
    #[command(subcommand, arg_required_else_help = true)]
    Registry(RegistryCommand),
    /// List or remove what builds and uploads have left
    Gc(GcArguments),
    /// Show the settings that are in effect
    #[command(subcommand, arg_required_else_help = true)]
    Config(ConfigCommand),
    /// Print the completion script of a shell
    Completion(CompletionArguments),
    /// Print the version
    Version(VersionArguments),
    /// Write the man pages into a folder
    #[command(hide = true)]
    Man(ManArguments),
}

impl Command {
    /// How the verb wants to be heard; the printer is made before the verb runs.
    pub fn output_style(&self) -> OutputStyle {
        match self {
            Self::Image(command) => command.output_style(),
            _ => OutputStyle::default(),
        }
    }
}

/// The form of printed data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum DataFormat {
    /// For people
    #[default]
    Text,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// The configuration file of a run.
#[derive(Debug, Args)]
pub struct ConfigFileArgument {
    /// Configuration file, laid over the defaults file
    #[arg(short = 'c', long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}
