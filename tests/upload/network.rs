//! What is between the program and the service: real names and certificates, proxies, a disk that is full, and others who
//! remove what the upload needs.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::cloud::{Bench, Cloud, inside, same};

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("network::real_names_through_a_proxy", through_a_proxy),
        bench.trial("network::a_proxy_that_cuts", cut_by_a_proxy),
        bench.trial_as_root("network::real_names_by_the_hosts_file", by_the_hosts_file),
        bench.trial_as_root("network::a_disk_that_is_full", disk_full),
        bench.trial("network::an_object_that_vanishes", object_vanishes),
    ]
}

/// Upload without an endpoint of its own: the region decides the names.
fn named(cloud: &Cloud, file: &std::path::Path) -> Command {
    let mut command =
        cloud.command(file, &["-a", "amd64", "--part-size", "128K", "--ca-file", cloud.text("ca")]);
    command.env_remove("OCI_CLI_ENDPOINT");
    command
}

/// The hosts that were spoken to by their real names.
fn real_names(cloud: &Cloud) -> Result<(), Failed> {
    let requests = cloud.requests()?;
    for host in [
        "identity.us-ashburn-1.oci.oraclecloud.com",
        "iaas.us-ashburn-1.oraclecloud.com",
        "objectstorage.us-ashburn-1.oraclecloud.com",
    ] {
        same(host, &json!(requests.iter().any(|request| request["host"] == host)), &json!(true))?;
    }
    Ok(())
}

/// Every connection goes through a proxy, which leads all names to the emulator; the certificate is for the names.
fn through_a_proxy(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--tls-port", "0"])?;
    let file = cloud.image("boot.oci", 1, 1)?;
    let proxy = Proxy::start(&cloud, u64::MAX)?;
    let mut command = named(&cloud, &file);
    let record: Value =
        serde_json::from_str(&cloud.run(command.env("HTTPS_PROXY", &proxy.url))?.ended(0)?.stdout)?;
    cloud.imported(&record, &file)?;
    real_names(&cloud)?;
    // A certificate for other names is none.
    let mut command = named(&cloud, &file);
    command.args(["--region", "eu-frankfurt-1", "-i", "other"]).env("HTTPS_PROXY", &proxy.url);
    cloud.run(&mut command)?.ended(1)?.says("is not trusted")?;
    // And so is one of an authority that nobody named.
    let mut command = cloud.command(&file, &["-a", "amd64"]);
    command.env_remove("OCI_CLI_ENDPOINT").env("HTTPS_PROXY", &proxy.url);
    cloud.run(&mut command)?.ended(1)?.says("--ca-file")?;
    cloud.clean()
}

/// No connection lives longer than some 300 KB, so that parts are cut in their middle all the time.
fn cut_by_a_proxy(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--tls-port", "0"])?;
    let file = cloud.image("boot.oci", 4, 2)?;
    let proxy = Proxy::start(&cloud, 300_000)?;
    let mut command = named(&cloud, &file);
    let record: Value =
        serde_json::from_str(&cloud.run(command.env("HTTPS_PROXY", &proxy.url))?.ended(0)?.stdout)?;
    cloud.imported(&record, &file)?;
    if proxy.cuts.load(Ordering::Relaxed) < 5 {
        return Err("hardly anything was cut".into());
    }
    // What arrived before a cut is not sent again.
    let arrived = cloud.requests()?.iter().filter(|r| r["op"] == "UploadPart" && r["status"] == 200).count();
    same("parts that arrived", &json!(arrived), &record["object"]["parts"])?;
    cloud.clean()
}

/// As in the world: names are looked up, ports are 443, nothing is overridden.
fn by_the_hosts_file(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--bind", "127.0.0.77", "--tls-port", "443"])?;
    let file = cloud.image("boot.oci", 1, 3)?;
    let command = named(&cloud, &file);
    let record: Value = serde_json::from_str(
        &cloud
            .run(&mut in_a_namespace(
                &command,
                &format!("mount --bind '{}' /etc/hosts", cloud.dir.join("cloud/hosts").display()),
            ))?
            .ended(0)?
            .stdout,
    )?;
    cloud.imported(&record, &file)?;
    real_names(&cloud)?;
    cloud.clean()
}

/// The disk of the journal takes nothing more: the upload goes on without it, and what a killed run leaves is found.
fn disk_full(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let file = cloud.image("boot.oci", 2, 4)?;
    let state = cloud.dir.join("state");
    fs_err::create_dir(&state)?;
    let mut command = cloud.command(&file, &["-a", "amd64", "--part-size", "128K"]);
    command.env("XDG_STATE_HOME", &state);
    let place = state.display();
    let prepare = format!(
        "mount -t tmpfs -o size=64k,nr_inodes=16 tmpfs '{place}' && mkdir -p '{place}/ocne/uploads' && ! dd if=/dev/zero of='{place}/filler' bs=4k 2>/dev/null"
    );
    let ran = cloud.run(&mut in_a_namespace(&command, &prepare))?.ended(0)?;
    let ran = ran.says("cannot keep the state of the upload")?.says("No space left on device")?;
    cloud.imported(&serde_json::from_str(&ran.stdout)?, &file)?;
    cloud.clean()
}

/// The object is removed by somebody else: before the import, and during it. The same command sends it again.
fn object_vanishes(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &["--import-seconds", "2"])?;
    let file = cloud.image("boot.oci", 1, 5)?;
    let object = format!("/n/{}/b/ocne-images/o/ocne_boot.oci", cloud.text("namespace"));
    let arguments = ["-a", "amd64", "--part-size", "128K"];
    // The import cannot begin for a while, and then there is nothing to import.
    cloud.faults(&json!([{ "op": "CreateImage", "action": "status", "status": 503, "count": 3 }]))?;
    for (until, code, words) in [
        ("CommitMultipartUpload", 3, "the same command sends it again"),
        ("GetWorkRequest", 1, "the import failed: ObjectNotFound"),
    ] {
        let already = count(&cloud, until)?;
        let run = cloud.start(&mut cloud.command(&file, &arguments))?;
        for _ in 0..600 {
            if count(&cloud, until)? > already {
                break;
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
        same("removed", &json!(cloud.call("DELETE", &object)?), &json!(204))?;
        let ran = run.end(&cloud)?.ended(code)?;
        ran.says(words)?;
    }
    let record = cloud.done(&file, &arguments)?;
    same("sent", &record["sent_bytes"], &record["object"]["size_bytes"])?;
    cloud.imported(&record, &file)?;
    cloud.clean()
}

fn count(cloud: &Cloud, operation: &str) -> Result<u64, Failed> {
    Ok(cloud.metrics()?["by_op"][operation].as_u64().unwrap_or_default())
}

/// The same command in a mount namespace of its own, after a line of shell there.
fn in_a_namespace(command: &Command, prepare: &str) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(["-m", "sh", "-c", &format!("{prepare} && exec \"$@\""), "sh"]);
    inside(outer, command)
}

/// A proxy that leads every name to the emulator's TLS port, and cuts each connection after so many bytes from the client.
struct Proxy {
    url: String,
    cuts: Arc<AtomicU64>,
}

impl Proxy {
    fn start(cloud: &Cloud, cut_after: u64) -> Result<Self, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let target = cloud.text("tls_endpoint").trim_start_matches("https://").to_owned();
        let cuts = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&cuts);
        // It ends with the process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, cuts) = (target.clone(), Arc::clone(&counted));
                thread::spawn(move || tunnel(client, &target, cut_after, &cuts));
            }
        });
        Ok(Self { url, cuts })
    }
}

fn tunnel(mut client: TcpStream, target: &str, cut_after: u64, cuts: &AtomicU64) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"CONNECT ") {
        return None;
    }
    let mut server = TcpStream::connect(target).ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    let (mut from, mut to) = (server.try_clone().ok()?, client.try_clone().ok()?);
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let copied = std::io::copy(&mut (&client).take(cut_after), &mut server);
    if copied.is_ok_and(|bytes| bytes >= cut_after) {
        cuts.fetch_add(1, Ordering::Relaxed);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    } else {
        let _ = server.shutdown(Shutdown::Write);
    }
    back.join().ok()
}
