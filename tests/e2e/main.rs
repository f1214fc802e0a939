//! End to end through the built program, as an ordinary user: every published variant of the boot image, signals at
//! random moments, full disks and damaged input, a boot of the result, and builds on a real cluster.
//!
//! The images come from `tests/fixtures/make-ock-image.sh` and are judged by `tests/fixtures/check-ock-image.py`,
//! which shares no code with the program. Tests that this machine cannot run are marked ignored, with the reason
//! on standard error.

mod boot;
mod cluster;
mod damage;
mod deploy;
mod interrupt;
mod ostree;
mod pod_login;
mod pod_ostree;
mod pod_refusals;
mod pod_restarts;
mod pod_transfer;
mod support;
mod variants;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Making and checking an image is one process after another; more than two at a time only thrash the disk.
    arguments.test_threads.get_or_insert(2);
    let bench = support::Bench::new();
    let mut trials = variants::trials(&bench);
    trials.extend(interrupt::trials(&bench));
    trials.extend(damage::trials(&bench));
    trials.extend(boot::trials(&bench));
    trials.extend(deploy::trials(&bench));
    trials.extend(ostree::trials(&bench));
    let is_whole = arguments.filter.is_none() && !arguments.list && !arguments.exact;
    let ahead = is_whole.then(cluster::build_agents_ahead);
    let here = libtest_mimic::run(&arguments, trials);
    if let Some(mut agents) = ahead.flatten() {
        let _ = agents.wait(); // the first test on the cluster builds again what is missing, and says why
    }
    // By themselves: the mount namespaces of a node and its pods keep copies of what is mounted when they are made, and
    // a file system that a fixture unmounts meanwhile would stay open there, its log not yet written back.
    let mut trials = cluster::trials(&bench);
    trials.extend(pod_login::trials(&bench));
    trials.extend(pod_refusals::trials(&bench));
    trials.extend(pod_transfer::trials(&bench));
    trials.extend(pod_ostree::trials(&bench));
    trials.extend(deploy::cluster_trials(&bench));
    // These wait for the cluster most of the time.
    arguments.test_threads = arguments.test_threads.map(|threads| threads * 2);
    let on_the_cluster = libtest_mimic::run(&arguments, trials);
    arguments.test_threads = Some(1);
    let restarts = libtest_mimic::run(&arguments, pod_restarts::trials(&bench));
    ocne_test_cluster::stop();
    let all = [here, on_the_cluster, restarts];
    if all.iter().any(libtest_mimic::Conclusion::has_failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
