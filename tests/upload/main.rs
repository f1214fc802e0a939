//! `ocne image upload` through the built program, against the strict emulator of Oracle Cloud in `tests/peers/oracle-cloud`.
//!
//! Every run of the program is looked at for secrets, and every image that the emulator has imported is compared with
//! the file by its SHA-256.

mod clients;
mod cloud;
mod export;
mod faults;
mod identity;
mod import;
mod network;
mod registry;
mod resume;
#[path = "../schema.rs"]
mod schema;
mod whole;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = libtest_mimic::Arguments::from_args();
    // Each test has an emulator of its own, and most of them wait for it.
    arguments.test_threads.get_or_insert(8);
    let bench = cloud::Bench::new();
    let mut trials = whole::trials(&bench);
    trials.extend(identity::trials(&bench));
    trials.extend(resume::trials(&bench));
    trials.extend(import::trials(&bench));
    trials.extend(export::trials(&bench));
    trials.extend(clients::trials(&bench));
    trials.extend(network::trials(&bench));
    trials.extend(registry::trials(&bench));
    trials.extend(faults::trials(&bench));
    libtest_mimic::run(&arguments, trials).exit_code()
}
