//! Oracle's registry: who we are there, auth tokens and repositories; read by Oracle's own program too.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::clients::oci;
use crate::cloud::{Bench, Cloud, same};

pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("registry::login", login),
        bench.trial_with_clients("registry::auth_tokens", auth_tokens),
        bench.trial_with_clients("registry::repositories", repositories),
    ]
}

fn json_of(cloud: &Cloud, arguments: &[&str]) -> Result<Value, Failed> {
    let ran = cloud.run(&mut cloud.ocne(&[arguments, &["-o", "json"]].concat()))?.ended(0)?;
    Ok(serde_json::from_str(&ran.stdout)?)
}

fn auth_tokens(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let made = json_of(&cloud, &["oci", "auth-token", "create", "--description", "builds"])?;
    let token = made["token"].as_str().ok_or("no token")?.to_owned();
    // As a line, for a pipe; and nowhere else.
    let ran =
        cloud.run(&mut cloud.ocne(&["--log-level", "trace", "oci", "auth-token", "create"]))?.ended(0)?;
    let second = ran.stdout.trim().to_owned();
    if second.is_empty() || second == token || ran.stderr.contains(&second) {
        return Err(format!("`{}` and `{}`", ran.stdout, ran.stderr).into());
    }
    let third = cloud.run(&mut cloud.ocne(&["oci", "auth-token", "create"]))?.ended(3)?;
    third.says("LimitExceeded")?;
    let listed = json_of(&cloud, &["oci", "auth-token", "list"])?;
    same("tokens", &json!(listed.as_array().map(Vec::len)), &json!(2))?;
    same("description", &listed[0]["description"], &json!("builds"))?;
    if [&token, &second].into_iter().any(|t| listed.to_string().contains(t)) {
        return Err("a token was listed".into());
    }
    let theirs = oci(&cloud, &["iam", "auth-token", "list", "--user-id", cloud.text("user")])?;
    let ids = |list: &Value| -> Vec<Value> {
        list.as_array().map(|all| all.iter().map(|t| t["id"].clone()).collect()).unwrap_or_default()
    };
    same("ids", &json!(ids(&theirs["data"])), &json!(ids(&listed)))?;
    let id = made["id"].as_str().ok_or("no id")?;
    cloud.run(&mut cloud.ocne(&["oci", "auth-token", "delete", id]))?.ended(0)?;
    cloud.run(&mut cloud.ocne(&["oci", "auth-token", "delete", id]))?.ended(3)?;
    let left = cloud.run(&mut cloud.ocne(&["oci", "auth-token", "list"]))?.ended(0)?;
    same("left", &json!(left.stdout.lines().count()), &json!(1))
}

fn repositories(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let at = ["-c", "sandbox/images"];
    let repo = |verb: &'static str, more: &[&'static str]| [&["registry", "repo", verb], more, &at].concat();
    let made = json_of(&cloud, &repo("create", &["ock-ostree", "--public"]))?;
    same("public", &made[0]["is_public"], &json!(true))?;
    same("namespace", &made[0]["namespace"], &json!(cloud.text("namespace")))?;
    let again = cloud.run(&mut cloud.ocne(&repo("create", &["ock-ostree"])))?;
    again.ended(1)?.says("Repository already exists")?;
    let text = cloud.run(&mut cloud.ocne(&repo("create", &["team/other"])))?.ended(0)?;
    if !text.stdout.starts_with(&format!("iad.ocir.io/{}/team/other  private", cloud.text("namespace"))) {
        return Err(text.stdout.into());
    }
    let listed = json_of(&cloud, &repo("list", &[]))?;
    let names: Vec<&str> =
        listed.as_array().into_iter().flatten().filter_map(|r| r["display_name"].as_str()).collect();
    let compartment = cloud.compartment("sandbox/images").to_owned();
    let theirs =
        oci(&cloud, &["artifacts", "container", "repository", "list", "--compartment-id", &compartment])?;
    let items = theirs["data"]["items"].as_array().cloned().unwrap_or_default();
    let others: Vec<&str> = items.iter().filter_map(|r| r["display-name"].as_str()).collect();
    same("names", &json!(names), &json!(others))?;
    same("count", &json!(names.len()), &json!(2))?;
    // And one that their program has made.
    let theirs = ["artifacts", "container", "repository", "create", "--display-name", "theirs"];
    let theirs = oci(&cloud, &[&theirs[..], &["--compartment-id", &compartment]].concat())?;
    let id = theirs["data"]["id"].as_str().ok_or("no id")?;
    cloud.run(&mut cloud.ocne(&["registry", "repo", "delete", id]))?.ended(0)?;
    cloud.run(&mut cloud.ocne(&repo("delete", &["ock-ostree"])))?.ended(0)?;
    let gone = cloud.run(&mut cloud.ocne(&repo("delete", &["ock-ostree"])))?;
    gone.ended(1)?.says("there is no repository `ock-ostree`")?;
    same("left", &json!(json_of(&cloud, &repo("list", &[]))?.as_array().map(Vec::len)), &json!(1))
}

/// A registry that says who came.
fn registry() -> Result<(String, thread::JoinHandle<Option<String>>), Failed> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let serving = thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.ok()?;
            let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
            let mut said = None;
            while let Some(line) = lines.next().filter(|line| !line.is_empty()) {
                let value = line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case("authorization"));
                said = said.or(value.map(|(_, value)| value.to_owned()));
            }
            let (status, more) = match said {
                Some(_) => ("200 OK", ""),
                None => ("401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n"),
            };
            let head = format!("HTTP/1.1 {status}\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).ok()?;
            if said.is_some() {
                return said;
            }
        }
        None
    });
    Ok((address, serving))
}

fn login(bench: &Bench, name: &str) -> Result<(), Failed> {
    let cloud = bench.cloud(name, &[])?;
    let (address, serving) = registry()?;
    let authfile = cloud.dir.join("auth.json");
    let mut command = cloud.ocne(&["registry", "login", "--oci", &address, "--insecure-registry", &address]);
    command.args(["--endpoint", cloud.text("endpoint"), "--password-stdin"]).arg("--authfile").arg(&authfile);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("no input")?.write_all(b"an-auth-token\n")?;
    let ran = cloud.judge(&child.wait_with_output()?)?.ended(0)?.says("the password is an auth token")?;
    let user = cloud.run(cloud.ocne(&["registry", "whoami", &address, "--authfile"]).arg(&authfile))?;
    let user = user.ended(0)?.stdout.trim().to_owned();
    let namespace = format!("{}/", cloud.text("namespace"));
    if !user.starts_with(&namespace) || user == namespace || !ran.stderr.contains(&user) {
        return Err(format!("`{user}`: {}", ran.stderr).into());
    }
    let said = serving.join().map_err(|_| "the registry failed")?.ok_or("nobody logged in")?;
    let kept: Value = serde_json::from_slice(&fs_err::read(&authfile)?)?;
    let kept = kept["auths"][&address]["auth"].as_str().unwrap_or_default().to_owned();
    same("credentials", &json!(said), &json!(format!("Basic {kept}")))?;
    // Without a terminal: the command to run.
    let ran = cloud.run(&mut cloud.ocne(&["registry", "login", "--oci"]))?.ended(2)?;
    ran.says("hint: ocne registry login --oci --password-stdin")?;
    Ok(())
}
