//! A whole file over wires that are whole, and over wires that split, cut and corrupt, until it is there.

use std::io::{self, Cursor};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crate::wire::{Fault, wire};
use ocne_transfer::frame::FrameKind;
use ocne_transfer::messages::{Failure, Hello};
use ocne_transfer::{Channel, ReadAt, TransferError, receive_whole, send_whole};
use proptest::prelude::*;

struct Bytes(Vec<u8>);

impl ReadAt for Bytes {
    fn size_bytes(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_exact_at(&self, into: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        let at = usize::try_from(offset_bytes).unwrap();
        into.copy_from_slice(self.0.get(at..at + into.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn file(len: usize) -> Arc<Bytes> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    Arc::new(Bytes(
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .collect(),
    ))
}

/// One session; what the receiver says, and the bytes that the sender sent.
fn session(
    file: &Arc<Bytes>,
    there: &mut Cursor<Vec<u8>>,
    max_bytes: u64,
    to_receiver: Fault,
    to_sender: Fault,
) -> (Result<(), TransferError>, u64) {
    let (receiver_reads, sender_writes) = wire(to_receiver);
    let (sender_reads, receiver_writes) = wire(to_sender);
    let source = Arc::clone(file);
    let sender = thread::spawn(move || {
        let mut channel = Channel::new(sender_reads, sender_writes);
        if channel.greet(&Hello::of("test")).is_err() {
            return channel.traffic().sent_bytes;
        }
        let _ = send_whole(&mut channel, &*source, &AtomicBool::new(false), &mut |_| {});
        channel.traffic().sent_bytes
    });
    let result = {
        let mut channel = Channel::new(receiver_reads, receiver_writes);
        let cancel = AtomicBool::new(false);
        channel
            .greet(&Hello::of("test"))
            .and_then(|_| receive_whole(&mut channel, there, max_bytes, &cancel, &mut |_| {}))
            .map(|_| ())
    };
    (result, sender.join().unwrap())
}

#[test]
fn what_is_there_is_not_sent_again() {
    let file = file(10 << 20);
    for have in [0, 1, 5 << 20, 10 << 20] {
        let mut there = Cursor::new(file.0[..have].to_vec());
        let (result, sent) = session(&file, &mut there, 10 << 20, Fault::None, Fault::None);
        result.unwrap();
        assert!(there.into_inner() == file.0);
        let rest = (file.0.len() - have) as u64;
        assert!((rest..rest + 1000).contains(&sent), "{sent} bytes for {rest}");
    }
}

#[test]
fn the_start_of_another_file_is_noticed() {
    let file = file(100_000);
    let (result, _) = session(&file, &mut Cursor::new(vec![0; 5000]), 100_000, Fault::None, Fault::None);
    assert!(matches!(result, Err(TransferError::NotAsSent)), "{result:?}");
    // More than there can be is refused by either side.
    for max_bytes in [100_000, 200_000] {
        let mut there = Cursor::new(vec![0; 100_001]);
        session(&file, &mut there, max_bytes, Fault::None, Fault::None).0.unwrap_err();
    }
}

#[test]
fn why_the_receiver_gave_up_is_heard_in_the_middle() {
    let (receiver_reads, sender_writes) = wire(Fault::None);
    let (sender_reads, receiver_writes) = wire(Fault::None);
    let receiver = thread::spawn(move || {
        let mut channel = Channel::new(receiver_reads, receiver_writes);
        channel.greet(&Hello::of("test")).unwrap();
        channel.send(FrameKind::Durable, &0_u64.to_le_bytes()).unwrap();
        channel.expect(FrameKind::Data).unwrap();
        channel.give_up(&Failure { code: "scratch".into(), message: "no space".into(), hint: None });
    });
    let mut channel = Channel::new(sender_reads, sender_writes);
    channel.greet(&Hello::of("test")).unwrap();
    let error = send_whole(&mut channel, &*file(8 << 20), &AtomicBool::new(false), &mut |_| {}).unwrap_err();
    assert!(matches!(&error, TransferError::Peer { message, .. } if message == "no space"), "{error}");
    receiver.join().unwrap();
}

#[test]
fn no_more_is_taken_than_was_said() {
    let file = file(100_000);
    let mut there = Cursor::new(Vec::new());
    let (result, _) = session(&file, &mut there, 99_999, Fault::None, Fault::None);
    assert!(matches!(result, Err(TransferError::Protocol { .. })), "{result:?}");
    assert!(there.into_inner().len() <= 99_999);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Session after session over bad wires, then a good one: the file is there, and what is there is never wrong.
    #[test]
    fn a_file_gets_there_in_the_end(
        len in 0_usize..3_000_000,
        faults in proptest::collection::vec((crate::wire::any_fault(), crate::wire::any_fault()), 0..6),
    ) {
        let file = file(len);
        let mut there = Cursor::new(Vec::new());
        for (to_receiver, to_sender) in faults.into_iter().chain([(Fault::None, Fault::None)]) {
            let before = there.get_ref().len();
            let (result, _) = session(&file, &mut there, len as u64, to_receiver, to_sender);
            prop_assert!(there.get_ref().len() >= before);
            prop_assert!(file.0.starts_with(there.get_ref()));
            if result.is_ok() {
                prop_assert!(*there.get_ref() == file.0);
            }
        }
        prop_assert!(there.into_inner() == file.0);
    }
}
