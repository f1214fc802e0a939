//! `ocne gc`: what builds have left in a cluster, and uploads in a bucket.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use ocne_build::{Leftover, leftovers, remove_leftover};
use tracing::info;

use crate::cli::{ConfigFileArgument, GlobalArguments};
use crate::failure::Failure;
use crate::image::cluster_of;
use crate::interrupt::cancel_on_signals;
use crate::oracle::OracleArguments;
use crate::printer::Printer;
use crate::settings::Settings;
use crate::terminal::printable;
use crate::timestamp;

/// Arguments of `ocne gc`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ocne gc                     what builds have left in the cluster
  ocne gc --yes               remove what has ended or never started
  ocne gc --yes --running     remove also what still runs, such as another person's build
  ocne gc --uploads           the parts of images that were never sent to their end")]
pub struct GcArguments {
    /// Context of the cluster configuration
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// Look in one namespace only
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Remove what was found
    #[arg(long)]
    yes: bool,
    /// With --yes: remove also pods that run, and uploads of the last day
    #[arg(long, requires = "yes")]
    running: bool,
    #[command(flatten)]
    config: ConfigFileArgument,
    /// Look for unfinished uploads in a bucket of Oracle Cloud, not in a cluster
    #[arg(long, conflicts_with_all = ["context", "namespace"], help_heading = "Oracle Cloud")]
    uploads: bool,
    /// The bucket [default: providers.oci.imageBucket of the settings, ocne-images]
    #[arg(short, long, value_name = "NAME", requires = "uploads", help_heading = "Oracle Cloud")]
    bucket: Option<String>,
    #[command(flatten)]
    oracle: OracleArguments,
}

/// An upload that began so long ago is not under way any more.
const UPLOAD_RUNS: Duration = Duration::from_hours(24);

/// Lists or removes what builds have left in a cluster.
pub fn run(arguments: &GcArguments, global: &GlobalArguments, printer: &Printer) -> Result<(), Failure> {
    let settings = Settings::load(global, arguments.config.config.as_deref())?;
    if arguments.uploads {
        return uploads(arguments, &settings, printer);
    }
    let connect = cluster_of(arguments.context.clone(), &settings, global);
    let found = leftovers(&connect, arguments.namespace.as_deref())?;
    if found.is_empty() {
        info!("Nothing is left in the cluster");
    }
    for leftover in &found {
        let runs = leftover.phase == "Running";
        let removed = arguments.yes && (arguments.running || !runs);
        if removed {
            remove_leftover(&connect, leftover)?;
        }
        let what = match (removed, runs) {
            (true, _) => "removed",
            (false, true) => "running",
            (false, false) => "left",
        };
        printer.line(&printable(&line(what, leftover)))?;
    }
    if !arguments.yes && !found.is_empty() {
        info!("`ocne gc --yes` removes what does not run");
    }
    Ok(())
}

/// Lists or removes uploads that were never finished.
fn uploads(arguments: &GcArguments, settings: &Settings, printer: &Printer) -> Result<(), Failure> {
    let cancel = cancel_on_signals()?;
    let client = arguments.oracle.client(settings)?;
    let bucket = arguments.bucket.clone().unwrap_or_else(|| settings.image_bucket());
    let found = ocne_upload::stale_uploads(&client, &bucket, &cancel)?;
    if found.is_empty() {
        info!("No unfinished upload is in the bucket `{bucket}`");
    }
    for upload in &found {
        let began = upload.time_created.as_deref().and_then(timestamp::parse).unwrap_or(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let old = now.saturating_sub(Duration::from_secs(began));
        let runs = old < UPLOAD_RUNS;
        let removed = arguments.yes && (arguments.running || !runs);
        if removed {
            ocne_upload::drop_upload(&client, &bucket, upload, &cancel)?;
        }
        let what = match (removed, runs) {
            (true, _) => "removed",
            (false, true) => "recent",
            (false, false) => "left",
        };
        printer.line(&printable(&format!("{what:8} {bucket}/{}  {} old", upload.object, age(old))))?;
    }
    if !arguments.yes && !found.is_empty() {
        info!("`ocne gc --uploads --yes` removes what is older than a day");
    }
    Ok(())
}

fn line(what: &str, leftover: &Leftover) -> String {
    let name = leftover.job.as_deref().or(leftover.pod.as_deref()).unwrap_or_default();
    let age = age(leftover.age);
    format!("{what:8} {}/{name}  {age} old, made by {}", leftover.namespace, leftover.created_by)
}

fn age(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let text = |seconds| age(Duration::from_secs(seconds));
        assert_eq!([text(0), text(119), text(120), text(7200)], ["0 s", "119 s", "2 min", "2 h"]);
    }
}
