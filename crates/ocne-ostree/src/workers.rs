//! Many threads, one order: jobs are handed out as they come, and what becomes of them is taken in that same order, so
//! that the same input always gives the same bytes. The memory of all that is on its way is bounded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The most that may be on its way.
const BUDGET_BYTES: usize = 40 << 20;
/// How often somebody who waits looks whether it is to end.
const TICK: Duration = Duration::from_millis(50);

/// What is left of the memory.
#[derive(Debug)]
struct Budget {
    used_bytes: Mutex<usize>,
    freed: Condvar,
    closed: AtomicBool,
}

impl Budget {
    /// Waits for room; whether there is some. Something larger than all of it gets it alone.
    fn take(&self, bytes: usize) -> bool {
        let mut used = self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && used.saturating_add(bytes) > BUDGET_BYTES && !self.is_closed() {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used = used.saturating_add(bytes);
        !self.is_closed()
    }

    fn give_back(&self, bytes: usize) {
        let mut used = self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(bytes);
        self.freed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Lets everybody go who waits.
    fn close(&self) {
        let _used = self.used_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::Relaxed);
        self.freed.notify_all();
    }
}

/// Closes the budget when its thread panics, so that nobody waits for it.
struct CloseOnPanic<'b>(&'b Budget);

impl Drop for CloseOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
        }
    }
}

/// Something on its way, with its place and its memory.
struct Numbered<T> {
    number: u64,
    cost_bytes: usize,
    item: T,
}

/// Nobody takes what is handed in any more.
#[derive(Debug)]
pub(crate) struct Closed;

/// Hands in jobs, and results that need no work.
pub(crate) struct Intake<'b, J, R> {
    budget: &'b Budget,
    jobs: Sender<Numbered<J>>,
    results: Sender<Numbered<R>>,
    next: u64,
}

impl<J, R> Intake<'_, J, R> {
    fn number<T>(&mut self, cost_bytes: usize, item: T) -> Result<Numbered<T>, Closed> {
        // Small things cost memory too.
        let cost_bytes = cost_bytes.saturating_add(256);
        if !self.budget.take(cost_bytes) {
            return Err(Closed);
        }
        let number = self.next;
        self.next += 1;
        Ok(Numbered { number, cost_bytes, item })
    }

    /// Hands in a job that needs so much memory.
    pub fn job(&mut self, cost_bytes: usize, job: J) -> Result<(), Closed> {
        let job = self.number(cost_bytes, job)?;
        self.jobs.send(job).map_err(|_| Closed)
    }

    /// Hands in a result that needs so much memory.
    pub fn result(&mut self, cost_bytes: usize, result: R) -> Result<(), Closed> {
        let result = self.number(cost_bytes, result)?;
        self.results.send(result).map_err(|_| Closed)
    }
}

/// Runs `produce` on a thread, `worker()` on each of some more, and `consume` here for every result in the order in
/// which it was handed in, until `consume` gives an end. `None` when there was none, or when `cancel` was set.
pub(crate) fn run<J: Send, R: Send, W: FnMut(J) -> R, E>(
    count: usize,
    cancel: &AtomicBool,
    produce: impl FnOnce(&mut Intake<'_, J, R>) + Send,
    worker: impl Fn() -> W + Sync,
    mut consume: impl FnMut(R) -> Option<E>,
) -> Option<E> {
    let budget = Budget { used_bytes: Mutex::new(0), freed: Condvar::new(), closed: AtomicBool::new(false) };
    let budget = &budget;
    let (job_sender, jobs) = channel();
    let (result_sender, results) = channel();
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        for _ in 0..count.max(1) {
            let (jobs, results, worker) = (&jobs, result_sender.clone(), &worker);
            scope.spawn(move || {
                let _guard = CloseOnPanic(budget);
                let mut work = worker();
                loop {
                    let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Numbered { number, cost_bytes, item }) = job else { return };
                    if budget.is_closed()
                        || results.send(Numbered { number, cost_bytes, item: work(item) }).is_err()
                    {
                        return;
                    }
                }
            });
        }
        let mut intake = Intake { budget, jobs: job_sender, results: result_sender, next: 0 };
        scope.spawn(move || {
            let _guard = CloseOnPanic(budget);
            produce(&mut intake);
        });
        let end = in_order(&results, budget, cancel, &mut consume);
        budget.close();
        end
    })
}

fn in_order<R, E>(
    results: &Receiver<Numbered<R>>,
    budget: &Budget,
    cancel: &AtomicBool,
    consume: &mut dyn FnMut(R) -> Option<E>,
) -> Option<E> {
    let mut waiting = BTreeMap::new();
    let mut next = 0;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return None;
        }
        match results.recv_timeout(TICK) {
            Ok(Numbered { number, cost_bytes, item }) => waiting.insert(number, (cost_bytes, item)),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        while let Some((cost_bytes, item)) = waiting.remove(&next) {
            next += 1;
            let end = consume(item);
            budget.give_back(cost_bytes);
            if end.is_some() {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let mut found = Vec::new();
        let end = run(
            4,
            &AtomicBool::new(false),
            |intake| {
                for i in 0..2000_u64 {
                    let cost = usize::try_from(i % 7).unwrap() << 20;
                    let handed = if i % 10 == 0 { intake.result(cost, i) } else { intake.job(cost, i) };
                    handed.unwrap();
                }
            },
            || |i| i,
            |i| {
                found.push(i);
                (i == 1999).then_some("end")
            },
        );
        assert_eq!(end, Some("end"));
        assert_eq!(found, (0..2000).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_hands_in_is_told_of_the_end() {
        let end = run(
            2,
            &AtomicBool::new(false),
            |intake| while intake.job(8 << 20, 1).is_ok() {},
            || |i: i32| i,
            Some,
        );
        assert_eq!(end, Some(1));
        let end: Option<()> = run(
            2,
            &AtomicBool::new(true),
            |intake| while intake.job(8 << 20, 1).is_ok() {},
            || |i: i32| i,
            |_| None,
        );
        assert_eq!(end, None, "cancelled");
        let end: Option<()> = run(2, &AtomicBool::new(false), |_| {}, || |i: i32| i, |_| None);
        assert_eq!(end, None, "nothing was handed in");
    }
}
