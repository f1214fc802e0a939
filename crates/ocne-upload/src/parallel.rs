//! How many parts are in flight: more while the line bears more.

use std::num::NonZeroU32;
use std::time::Duration;

/// Where it begins, and where it ends; between them it doubles, so that what is gained stands out from chance.
const FIRST: u32 = 4;
const MOST: u32 = 16;
/// More parts in flight have to be this much faster, in percent, to be worth it.
const GAIN_PERCENT: u64 = 10;

/// Decides from what arrived in what time.
#[derive(Debug)]
pub(crate) struct Parallel {
    limit: u32,
    is_settled: bool,
    /// The last window has gained nothing, which may be chance once.
    is_doubtful: bool,
    best_rate: u64,
    /// Parts that are still to arrive before any time is taken: the first ones waited for hashes and connections, and
    /// whatever comes after them would seem to be a gain.
    warm_up_parts: u32,
    window_parts: u32,
    window_bytes: u64,
    window_began: Duration,
}

impl Parallel {
    /// `asked_for` parts all the time, or what the line decides.
    pub fn new(asked_for: Option<NonZeroU32>) -> Self {
        Self {
            limit: asked_for.map_or(FIRST, NonZeroU32::get),
            is_settled: asked_for.is_some(),
            is_doubtful: false,
            best_rate: 0,
            warm_up_parts: FIRST,
            window_parts: 0,
            window_bytes: 0,
            window_began: Duration::ZERO,
        }
    }

    /// How many parts may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// A part of `bytes` arrived at `now`, counted from the start.
    pub fn arrived(&mut self, bytes: u64, now: Duration) {
        if self.is_settled {
            return;
        }
        if self.warm_up_parts > 0 {
            self.warm_up_parts -= 1;
            self.window_began = now;
            return;
        }
        self.window_parts += 1;
        self.window_bytes += bytes;
        // As many as are in flight, twice: the first of them began under the limit before.
        if self.window_parts < 2 * self.limit {
            return;
        }
        let elapsed = now.saturating_sub(self.window_began).as_millis().max(1);
        let rate = u64::try_from(u128::from(self.window_bytes) * 1000 / elapsed).unwrap_or(u64::MAX);
        if rate > self.best_rate.saturating_add(self.best_rate / 100 * GAIN_PERCENT) {
            (self.best_rate, self.is_doubtful, self.is_settled) = (rate, false, self.limit == MOST);
            self.limit = (self.limit * 2).min(MOST);
        } else if self.is_doubtful {
            self.limit = (self.limit / 2).max(FIRST);
            self.is_settled = true;
        } else {
            self.is_doubtful = true;
        }
        (self.window_parts, self.window_bytes, self.window_began) = (0, 0, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that bears `most` bytes a second in all and `each` bytes a second for each part.
    fn on_a_line(most: u64, each: u64) -> u32 {
        let mut parallel = Parallel::new(None);
        let mut now = Duration::ZERO;
        for _ in 0..500 {
            let rate = most.min(each * u64::from(parallel.limit()));
            now += Duration::from_micros(1_000_000 * 1_000_000 / rate);
            parallel.arrived(1_000_000, now);
        }
        parallel.limit()
    }

    #[test]
    fn it_grows_as_long_as_it_gains() {
        assert_eq!(on_a_line(1_000_000, 1_000_000), FIRST);
        assert_eq!(on_a_line(8_000_000, 1_000_000), 8);
        assert_eq!(on_a_line(1_000_000_000, 1_000_000), MOST);
    }

    #[test]
    fn a_slow_start_is_no_reason_for_more() {
        let mut parallel = Parallel::new(None);
        for part in 0..500 {
            // Two seconds until anything arrives, and then as much as the line bears.
            parallel.arrived(1_000_000, Duration::from_millis(2_000 + part));
        }
        assert_eq!(parallel.limit(), FIRST);
    }

    #[test]
    fn what_was_asked_for_stays() {
        let mut parallel = Parallel::new(NonZeroU32::new(3));
        for second in 1..100 {
            parallel.arrived(1 << 20, Duration::from_secs(second));
        }
        assert_eq!(parallel.limit(), 3);
    }
}
