//! Ctrl-C, SIGTERM and SIGHUP: the first asks the run to stop and clean up, the second ends it at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::{register, register_conditional_shutdown};

use crate::failure::{EXIT_INTERRUPTED, Failure};

/// A flag that becomes true with the first signal.
pub fn cancel_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // In this order: the first signal finds the flag unset, passes here, and sets it below.
        register_conditional_shutdown(signal, i32::from(EXIT_INTERRUPTED), Arc::clone(&cancel))
            .and_then(|_| register(signal, Arc::clone(&cancel)))
            .map_err(|e| Failure::new(&e))?;
    }
    Ok(cancel)
}
