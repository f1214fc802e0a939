//! Fetching the image in the pod, as the client says and with what it gives.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ocne_container::{Delegation, FetchError, FetchEvent, FetchedDisk};
use ocne_transfer::frame::FrameKind;
use ocne_transfer::messages::Failure;
use ocne_transfer::{Channel, with_causes};
use serde_json::{Value, json};

use crate::heartbeat::{Heartbeat, SCRATCH_HINT, scratch_folder};

/// Fetches the image that `source` (a [`Delegation`]) names into the scratch folder, unless a session before has.
///
/// The client hears how far it is; when it is gone, the fetch ends.
pub fn pull<R, W>(channel: &mut Channel<R, W>, source: Value) -> Result<FetchedDisk, Failure>
where
    R: Read + Send,
    W: Write + Send,
{
    // The message would show the secret in it.
    let senseless = |_| failure("options", "what is to be fetched makes no sense to this agent".to_owned());
    let delegation: Delegation = serde_json::from_value(source).map_err(senseless)?;
    let disk_path = delegation.disk_path.clone();
    let refused = |e: FetchError| {
        let hint = match &e {
            FetchError::NoSpace { .. } => Some(SCRATCH_HINT.to_owned()),
            e => e.hint(),
        };
        Failure { code: "fetch".into(), message: with_causes(&e), hint }
    };
    let (fetcher, reference, platform) =
        delegation.fetcher(scratch_folder().join("images")).map_err(refused)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| failure("fetch", format!("cannot start the network: {e}")))?;
    let client = Mutex::new((channel, Heartbeat::new()));
    let cancel = Arc::new(AtomicBool::new(false));
    let tell = |event: FetchEvent| {
        let Some(event) = for_the_client(&event) else { return };
        let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
        match client.0.send_json(FrameKind::Event, &event) {
            Ok(()) => client.1.touch(),
            Err(_) => cancel.store(true, Ordering::Relaxed),
        }
    };
    let disk = runtime.block_on(fetcher.disk(&reference, &platform, &disk_path, &tell, &cancel));
    let disk = disk.map_err(refused)?;
    if !disk.verified_now && !fetcher.verify(&disk, &cancel).map_err(refused)? {
        let _ = fetcher.cache().discard(&disk.path); // what is left of it is found damaged again
        return Err(failure(
            ocne_transfer::CODE_AGAIN,
            "the fetched image was damaged in the pod".to_owned(),
        ));
    }
    Ok(disk)
}

pub fn for_the_client(event: &FetchEvent) -> Option<Value> {
    match event {
        FetchEvent::LayerStart { size_bytes, .. } => Some(json!({ "fetch": { "total_bytes": size_bytes } })),
        FetchEvent::Progress { done_bytes, .. } => Some(json!({ "fetch": { "done_bytes": done_bytes } })),
        FetchEvent::Retry { reason, .. } => Some(json!({ "fetch": { "retry": reason } })),
        _ => None,
    }
}

fn failure(code: &str, message: String) -> Failure {
    Failure { code: code.to_owned(), message, hint: None }
}
