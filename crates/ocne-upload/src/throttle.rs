//! At most so many bytes a second, over all parts in flight.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::content::SEND_BYTES;

/// Hands out the time at which the next piece may go.
#[derive(Debug)]
pub(crate) struct Throttle {
    bytes_per_second: Option<NonZeroU64>,
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// The size of pieces that go several times a second, so that a slow line is no stalled one.
    pub fn piece_bytes(&self) -> usize {
        let piece = |rate: NonZeroU64| usize::try_from(rate.get() / 8).unwrap_or(SEND_BYTES);
        self.bytes_per_second.map_or(SEND_BYTES, |rate| piece(rate).clamp(1, SEND_BYTES))
    }

    /// Waits until `bytes` may go.
    pub async fn pass(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let time = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate);
        let begin = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*free_at).max(Instant::now());
            *free_at = begin + time;
            begin
        };
        tokio::time::sleep_until(begin.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_their_time() {
        let throttle = Throttle::new(NonZeroU64::new(1_000_000));
        let start = Instant::now();
        for _ in 0..5 {
            throttle.pass(20_000).await;
        }
        assert!(start.elapsed() >= Duration::from_millis(80), "the first goes at once, four wait 20 ms each");
        assert_eq!(throttle.piece_bytes(), 125_000);
        assert_eq!(Throttle::new(None).piece_bytes(), SEND_BYTES);
    }
}
