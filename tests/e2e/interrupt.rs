//! kill -9, Ctrl-C and SIGTERM at random moments: the old image or the new one is there, whole, and nothing else.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Bench, Case, Random, must, text};

const ROUNDS: u64 = 18;

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![bench.trial("interrupt::signals_at_random_moments", &[], signals_at_random_moments)]
}

fn signals_at_random_moments(bench: &Bench) -> Result<(), Failed> {
    let mut case = bench.case("interrupt")?;
    case.make("--payload-mib 200")?;
    let start = Instant::now();
    undisturbed(&case, "the first run")?;
    let whole = start.elapsed();
    case.check("")?;
    let mut random = Random::new(1);
    for round in 0..ROUNDS {
        let signal = [Signal::KILL, Signal::INT, Signal::TERM][usize::try_from(round % 3)?];
        let cold = round % 2 == 0;
        if cold {
            case.fresh()?;
        }
        let span = if cold { whole + whole / 10 } else { whole / 2 };
        let wait = Duration::from_micros(random.below(u64::try_from(span.as_micros())?));
        one_round(&case, signal, cold, wait).map_err(|e| {
            let kind = if cold { "cold" } else { "warm" };
            format!("round {round}, {signal:?} after {wait:?}, {kind}: {}", e.message().unwrap_or_default())
        })?;
    }
    case.check("")
}

fn undisturbed(case: &Case, what: &str) -> Result<(), Failed> {
    must(&mut case.create(&case.archive, &[]), what)?;
    let left = case.left_over()?;
    if !left.is_empty() {
        return Err(format!("{what} left {left:?}").into());
    }
    let temporary = case.temporary_at_home()?;
    if !temporary.is_empty() {
        return Err(format!("{what} left {temporary:?}").into());
    }
    Ok(())
}

fn one_round(case: &Case, signal: Signal, cold: bool, wait: Duration) -> Result<(), Failed> {
    let child = case.create(&case.archive, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    sleep(wait); // the moment is what is being tested
    let pid = Pid::from_raw(i32::try_from(child.id())?).ok_or("no process")?;
    let _ = kill_process(pid, signal); // it may be done already
    let out = child.wait_with_output()?;
    if signal != Signal::KILL {
        // Before the program has set up its handlers, the signal ends it as any program.
        let ended = out.status.signal().is_some_and(|s| s == signal.as_raw());
        if !ended && !matches!(out.status.code(), Some(0 | 130)) {
            return Err(format!("{}: {}", out.status, text(&out.stderr)).into());
        }
        let left = case.left_over()?;
        if !left.is_empty() {
            return Err(format!("left over: {left:?}").into());
        }
    }
    if case.result().exists() {
        must(
            Command::new("qemu-img").args(["check", "-q"]).arg(case.result()),
            "the image under the final name",
        )?;
    } else if !cold {
        return Err("the old image is gone".into());
    }
    undisturbed(case, "the next run")
}
