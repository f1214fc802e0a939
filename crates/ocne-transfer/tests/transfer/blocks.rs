//! Both ends over wires that are whole, and over wires that split, cut and corrupt.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::wire::{Fault, wire};
use ocne_disk::{BlockDevice, MemoryDevice, ReadRequest};
use ocne_transfer::client::{Outcome, Task, convert_blocks};
use ocne_transfer::messages::Job;
use ocne_transfer::{Channel, TransferError, agent};
use proptest::prelude::*;
use serde_json::json;

fn disk(len: usize) -> MemoryDevice {
    // A part that compresses, and a part that does not.
    let mut state = 0x1234_5678_9ABC_DEF0_u64;
    let bytes = (0..len).map(|i| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if i % 9000 < 5000 { u8::try_from(i / 512 % 256).unwrap_or(0) } else { state.to_le_bytes()[0] }
    });
    MemoryDevice { bytes: bytes.collect() }
}

fn task<'a>(program: &'a str, options: serde_json::Value, cancel: &'a AtomicBool) -> Task<'a> {
    Task { program, options, events: &|_| {}, cancel }
}

/// What an agent does that reads these batches of ranges and changes one byte in each range.
fn work(device: &dyn BlockDevice, batches: &[Vec<(u64, usize)>]) -> Result<BTreeMap<u64, Vec<u8>>, String> {
    let mut changes = BTreeMap::new();
    for batch in batches {
        let mut buffers: Vec<Vec<u8>> = batch.iter().map(|&(_, len)| vec![0; len]).collect();
        let mut requests: Vec<ReadRequest<'_>> = batch
            .iter()
            .zip(&mut buffers)
            .map(|(&(offset_bytes, _), buffer)| ReadRequest { offset_bytes, buffer })
            .collect();
        device.read_batch(&mut requests).map_err(|e| e.to_string())?;
        for (&(at, _), buffer) in batch.iter().zip(&buffers) {
            changes.insert(at, vec![buffer[0].wrapping_add(1)]);
        }
    }
    Ok(changes)
}

struct Both {
    client: Result<Outcome, TransferError>,
    agent: Result<Job, String>,
}

/// Runs a whole session over two wires.
fn session(
    device: &MemoryDevice,
    batches: Vec<Vec<(u64, usize)>>,
    to_agent: Fault,
    to_client: Fault,
) -> Both {
    let (agent_reads, client_writes) = wire(to_agent);
    let (client_reads, agent_writes) = wire(to_client);
    let other = thread::spawn(move || {
        let mut channel = Channel::new(agent_reads, agent_writes);
        let job = agent::accept(&mut channel, "agent 1").map_err(|e| e.to_string())?;
        let device = agent::RemoteDevice::new(channel, job.size_bytes);
        let changes = work(&device, &batches)?;
        let mut channel = device.into_channel();
        agent::deliver(&mut channel, &changes, json!({ "made": changes.len() }), None)
            .map_err(|e| e.to_string())?;
        Ok(job)
    });
    let client = {
        let mut channel = Channel::new(client_reads, client_writes);
        let cancel = AtomicBool::new(false);
        convert_blocks(&mut channel, device, task("client 1", json!({ "x": 1 }), &cancel))
    };
    Both { client, agent: other.join().unwrap() }
}

fn expected(device: &MemoryDevice, batches: &[Vec<(u64, usize)>]) -> BTreeMap<u64, Vec<u8>> {
    work(device, batches).unwrap()
}

#[test]
fn a_session_over_whole_wires() {
    let device = disk(20 << 20);
    let batches = vec![vec![(0, 4096), (8 << 20, 512)], vec![(1, 19 << 20)], vec![(12_345, 1)]];
    let both = session(&device, batches.clone(), Fault::None, Fault::None);
    let outcome = both.client.unwrap();
    assert_eq!(outcome.changes, expected(&device, &batches));
    assert_eq!(outcome.report, json!({ "made": 4 }));
    assert_eq!(outcome.agent, "agent 1");
    // What is larger than a batch may be takes several; all else is one question each.
    assert_eq!(outcome.rounds, 1 + 3 + 1);
    assert_eq!(both.agent.unwrap().options, json!({ "x": 1 }));
    assert!(outcome.traffic.sent_bytes < 19 << 20, "{:?}", outcome.traffic);
}

#[test]
fn what_is_no_agent_is_shown() {
    let (reads, mut writes) = wire(Fault::None);
    let (_sink, client_writes) = wire(Fault::None);
    std::io::Write::write_all(&mut writes, b"sh: ocne-agent: Permission denied\n").unwrap();
    drop(writes);
    let mut channel = Channel::new(reads, client_writes);
    let cancel = AtomicBool::new(false);
    let e = convert_blocks(&mut channel, &disk(512), task("c", json!({}), &cancel)).unwrap_err();
    assert!(e.to_string().contains("sh: ocne-agent: Permission denied"), "{e}");
    assert!(!e.is_transient());
}

#[test]
fn another_version_is_named() {
    for theirs in ["ocne-transfer/2", ""] {
        let (agent_reads, client_writes) = wire(Fault::None);
        let (client_reads, agent_writes) = wire(Fault::None);
        let other = thread::spawn(move || {
            let mut channel = Channel::new(agent_reads, agent_writes);
            let hello = json!({ "protocol": theirs, "program": "agent 2", "modes": ["blocks"] });
            channel.send_json(ocne_transfer::frame::FrameKind::Hello, &hello).unwrap();
            channel.expect(ocne_transfer::frame::FrameKind::Hello).map(<[u8]>::to_vec).unwrap()
        });
        let mut channel = Channel::new(client_reads, client_writes);
        let cancel = AtomicBool::new(false);
        let e = convert_blocks(&mut channel, &disk(512), task("c", json!({}), &cancel)).unwrap_err();
        assert!(matches!(&e, TransferError::Version { theirs: t, .. } if t == theirs), "{e}");
        assert!(!e.is_transient());
        assert!(!other.join().unwrap().is_empty());
    }
}

#[test]
fn an_agent_of_a_later_release_is_understood() {
    let (agent_reads, client_writes) = wire(Fault::None);
    let (client_reads, agent_writes) = wire(Fault::None);
    let other = thread::spawn(move || {
        let mut channel = Channel::new(agent_reads, agent_writes);
        let hello = json!({ "protocol": "ocne-transfer/1", "program": "agent 2", "modes": ["dream", "full"], "x": 1 });
        channel.send_json(ocne_transfer::frame::FrameKind::Hello, &hello).unwrap();
        channel.expect(ocne_transfer::frame::FrameKind::Hello).unwrap().len()
    });
    let mut channel = Channel::new(client_reads, client_writes);
    let cancel = AtomicBool::new(false);
    let e = convert_blocks(&mut channel, &disk(512), task("c", json!({}), &cancel)).unwrap_err();
    assert!(e.to_string().contains("agent 2 does not know the mode `blocks`"), "{e}");
    assert!(other.join().unwrap() > 0);
}

#[test]
fn a_client_that_is_cancelled_stops() {
    let (agent_reads, client_writes) = wire(Fault::None);
    let (client_reads, agent_writes) = wire(Fault::None);
    let cancel = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&cancel);
    let other = thread::spawn(move || {
        let mut channel = Channel::new(agent_reads, agent_writes);
        let job = agent::accept(&mut channel, "a").unwrap();
        told.store(true, Ordering::Relaxed);
        let device = agent::RemoteDevice::new(channel, job.size_bytes);
        work(&device, &[vec![(0, 1)], vec![(1, 1)]]).is_err()
    });
    let result = {
        let mut channel = Channel::new(client_reads, client_writes);
        convert_blocks(&mut channel, &disk(512), task("c", json!({}), &cancel))
    };
    assert!(matches!(result, Err(TransferError::Interrupted)));
    assert!(other.join().unwrap());
}

#[test]
fn an_agent_that_gives_up_is_heard() {
    use ocne_transfer::messages::Failure;
    let (agent_reads, client_writes) = wire(Fault::None);
    let (client_reads, agent_writes) = wire(Fault::None);
    let other = thread::spawn(move || {
        let mut channel = Channel::new(agent_reads, agent_writes);
        agent::accept(&mut channel, "a").unwrap();
        let hint = Some("take another".to_owned());
        channel.give_up(&Failure { code: "convert".into(), message: "no such image".into(), hint });
    });
    let cancel = AtomicBool::new(false);
    let mut channel = Channel::new(client_reads, client_writes);
    let e = convert_blocks(&mut channel, &disk(512), task("c", json!({}), &cancel)).unwrap_err();
    assert!(matches!(&e, TransferError::Peer { message, hint: Some(h), .. }
        if message == "no such image" && h == "take another"));
    other.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever a wire does: the right changes or an error, never other changes, and no end that hangs.
    #[test]
    fn no_wire_makes_a_wrong_result(
        batches in proptest::collection::vec(
            proptest::collection::vec((0_u64..1_000_000, 1_usize..50_000), 1..5), 1..5),
        to_agent in crate::wire::any_fault(), to_client in crate::wire::any_fault(),
    ) {
        let device = disk(1_100_000);
        let wanted = expected(&device, &batches);
        let faulty = to_agent.damages() || to_client.damages();
        let both = session(&device, batches, to_agent, to_client);
        match both.client {
            Ok(outcome) => prop_assert_eq!(outcome.changes, wanted),
            Err(e) => prop_assert!(faulty, "{e} over a wire that only splits"),
        }
    }

    /// Bytes that are no protocol make errors, not panics.
    #[test]
    fn garbage_is_refused(garbage in proptest::collection::vec(any::<u8>(), 0..400)) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut channel = Channel::new(garbage.as_slice(), crate::wire::Sink(Arc::clone(&written)));
        let cancel = AtomicBool::new(false);
        let result = convert_blocks(&mut channel, &disk(512), task("c", json!({}), &cancel));
        prop_assert!(result.is_err());
    }
}
