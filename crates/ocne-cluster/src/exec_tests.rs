//! The loop against a server that does as told, over a pipe in memory.

use tokio::io::DuplexStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

type Server = WebSocketStream<DuplexStream>;

const SUCCESS: &[u8] = br#"{"status":"Success"}"#;

/// Both ends of a connection with little room in it.
async fn connected(can_close: bool) -> (Exec, Server) {
    with_pulse(can_close, PULSE).await
}

async fn with_pulse(can_close: bool, pulse: Pulse) -> (Exec, Server) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let server = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    let program = Program { pod: "pod-1".to_owned(), command: "cat".to_owned() };
    (Exec::with_pulse(client, can_close, program, pulse), server)
}

/// The next message that is no ping.
async fn next(server: &mut Server) -> Option<Vec<u8>> {
    loop {
        if let Message::Binary(bytes) = server.next().await?.ok()? {
            return Some(bytes.to_vec());
        }
    }
}

async fn say(server: &mut Server, channel: u8, bytes: &[u8]) {
    server.send(on_channel(channel, bytes)).await.unwrap();
}

#[tokio::test]
async fn large_pieces_are_split_and_the_end_is_told_where_it_can_be() {
    for can_close in [true, false] {
        let (exec, mut server) = connected(can_close).await;
        let Exec { stdin, stdout, done, .. } = exec;
        let sent = tokio::spawn(async move { stdin.send(vec![7; (5 << 20) / 2]).await });
        for expected in [1 << 20, 1 << 20, 1 << 19] {
            let message = next(&mut server).await.unwrap();
            assert_eq!((message[0], message.len()), (STDIN, expected + 1));
        }
        sent.await.unwrap().unwrap();
        if can_close {
            assert_eq!(next(&mut server).await.unwrap(), [CLOSE, STDIN]);
        } else {
            let quiet = tokio::time::timeout(Duration::from_millis(100), next(&mut server)).await;
            assert!(quiet.is_err(), "{quiet:?}");
        }
        drop(stdout);
        say(&mut server, STATUS, SUCCESS).await;
        assert_eq!(done.await.unwrap().unwrap().exit_code, 0);
    }
}

#[tokio::test]
async fn standard_input_moves_while_standard_output_waits() {
    let (exec, mut server) = connected(true).await;
    // More than the channel and the pipe hold; the server is stuck in sending it.
    let mut backlog = Box::pin(async {
        for _ in 0..100 {
            server.feed(on_channel(STDOUT, &[1; 10_000])).await.unwrap();
        }
        server.flush().await.unwrap();
        server
    });
    let stuck = tokio::time::timeout(Duration::from_millis(100), &mut backlog).await;
    assert!(stuck.is_err());
    exec.stdin.send(vec![2; 1000]).await.unwrap();
    let mut stdout = exec.stdout;
    let drained = tokio::spawn(async move {
        let mut count = 0;
        while let Some(piece) = stdout.recv().await {
            count += piece.len();
        }
        count
    });
    let mut server = backlog.await;
    assert_eq!(next(&mut server).await.unwrap().len(), 1001);
    say(&mut server, STATUS, SUCCESS).await;
    assert_eq!(drained.await.unwrap(), 1_000_000);
    exec.done.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_end_without_a_status_is_an_error() {
    for polite in [true, false] {
        let (exec, mut server) = connected(true).await;
        let mut stdout = exec.stdout;
        say(&mut server, STDOUT, b"half of it").await;
        if polite {
            server.close(None).await.unwrap();
        }
        drop(server);
        assert_eq!(stdout.recv().await.unwrap(), b"half of it");
        assert_eq!(stdout.recv().await, None);
        assert!(exec.broken.get().is_some());
        let end = exec.done.await.unwrap();
        assert!(matches!(end, Err(ClusterError::ConnectionLost { .. })), "{end:?}");
    }
}

#[tokio::test]
async fn silence_is_an_error_and_pings_are_sent() {
    let pulse = Pulse { ping: Duration::from_millis(100), silence: Duration::from_secs(1) };
    let (exec, mut server) = with_pulse(true, pulse).await;
    // Nobody reads the server's end, so no ping is answered.
    let end = exec.done.await.unwrap();
    assert!(
        matches!(&end, Err(ClusterError::ConnectionLost { reason, .. }) if reason.contains("for 1 s")),
        "{end:?}"
    );
    assert!(matches!(server.next().await, Some(Ok(Message::Ping(_)))));
}

#[tokio::test]
async fn a_status_that_is_no_exit_code_is_an_error() {
    let (exec, mut server) = connected(true).await;
    let status = br#"{"status":"Failure","reason":"InternalError","message":"no such container"}"#;
    say(&mut server, STATUS, status).await;
    let end = exec.done.await.unwrap();
    insta::assert_snapshot!(end.unwrap_err(), @"cannot run `cat` in the pod `pod-1`: no such container");
}
