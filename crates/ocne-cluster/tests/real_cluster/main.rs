//! Builder pods on a real one-node Kubernetes (`tests/cluster`), which all tests here share. It is started by the
//! first test and goes with this program, however that ends.

mod environment;
mod explain;
mod limits;
mod lost;
mod refusals;
mod run;

use libtest_mimic::{Arguments, Trial};

use ocne_test_cluster::why_not;

use crate::environment::Environment;

type Test = fn(&Environment) -> Result<(), Box<dyn std::error::Error>>;

#[expect(clippy::print_stderr, reason = "what is skipped is said aloud")]
fn main() {
    let arguments = Arguments::from_args();
    let why_not = why_not();
    let tests = [run::TESTS, refusals::TESTS, explain::TESTS, limits::TESTS, lost::TESTS].concat();
    let trials = tests.into_iter().map(|(name, test)| {
        if let Some(reason) = &why_not {
            eprintln!("SKIPPED {name}: {reason} (ignored)");
        }
        let run = move || {
            let environment = environment::shared()?;
            test(environment).map_err(|error| error.to_string().into())
        };
        Trial::test(name, run).with_ignored_flag(why_not.is_some())
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    ocne_test_cluster::stop();
    conclusion.exit();
}
