//! How a client of the cluster says who it is, beyond the certificates that the other tests use: what clouds' and
//! companies' kubeconfigs have, and what a pod has.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::cluster::{Site, on_the_cluster};
use crate::support::{Bench, must, text};

/// Nobody may read these in a message.
const SECRETS: [&str; 3] = ["hidden-in-the-environment", "hidden-in-the-answer", "hidden-refresh-token"];

pub fn trials(bench: &Bench) -> Vec<Trial> {
    on_the_cluster(
        bench,
        &[
            ("login::by_a_program", by_a_program),
            ("login::by_an_identity_provider", by_an_identity_provider),
            ("login::as_a_pod_of_the_cluster", as_a_pod_of_the_cluster),
        ],
    )
}

/// The kubeconfig, with a user whom somebody else vouches for.
fn config_as(site: &Site, user: Value) -> Result<Value, Failed> {
    let mut config: Value =
        serde_json::from_str(&site.kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"])?)?;
    let before = std::mem::replace(&mut config["users"][0]["user"], user);
    site.write_kubeconfig(&config.to_string())?;
    Ok(before)
}

/// A token of somebody who may do what a build needs in the test's namespace.
fn token(site: &Site) -> Result<String, Failed> {
    let namespace = &site.namespace;
    site.kubectl(&["create", "namespace", namespace])?;
    site.kubectl(&["create", "serviceaccount", "releaser", "-n", namespace])?;
    let who = format!("--serviceaccount={namespace}:releaser");
    site.kubectl(&["create", "rolebinding", "releaser", "--clusterrole=admin", &who, "-n", namespace])?;
    Ok(site.kubectl(&["create", "token", "releaser", "-n", namespace])?.trim().to_owned())
}

fn refused_login(site: &Site, words: &str) -> Result<(), Failed> {
    let out = site.create("cluster", &["--log-level", "trace"]).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&out.stderr);
    if out.status.code() != Some(1) || !said.contains(words) || !said.contains("hint: ") {
        return Err(format!("{}: {}", out.status, text(&out.stderr)).into());
    }
    match SECRETS.iter().find(|secret| said.contains(**secret)) {
        Some(secret) => Err(format!("`{secret}` is said").into()),
        None => Ok(()),
    }
}

fn by_a_program(site: &Site) -> Result<(), Failed> {
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token(site)?},
    });
    let plugin = |script: &str| {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script],
            "env": [{"name": "KEY", "value": SECRETS[0]}], "interactiveMode": "Never",
        }})
    };
    config_as(site, plugin(&format!("echo '{credential}'")))?;
    must(&mut site.create("cluster", &[]), "a build as whom a program says")?;
    site.case.check("")?;
    config_as(site, plugin(&format!("echo {}; echo the session is over >&2; exit 3", SECRETS[1])))?;
    refused_login(site, "the session is over")?;
    config_as(site, plugin(&format!("echo {}", SECRETS[1])))?;
    refused_login(site, "ExecCredential")?;
    site.assert_nothing_left()
}

/// A provider of `OpenID` Connect, over TLS, that gives a token for one refresh token.
struct Issuer(std::process::Child);

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn by_an_identity_provider(site: &Site) -> Result<(), Failed> {
    let dir = &site.case.dir;
    let certify = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=issuer \
                   -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE \
                   -keyout \"$0/issuer.key\" -out \"$0/issuer.crt\"";
    must(Command::new("sh").args(["-c", certify]).arg(dir), "a certificate")?;
    fs_err::copy(dir.join("issuer.crt"), site.case.home.join("issuer.crt"))?;
    fs_err::write(dir.join("token"), token(site)?)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/oidc-issuer.py");
    let mut issuer = Command::new("python3");
    issuer.arg(script).arg(dir).arg(SECRETS[2]).stdout(Stdio::piped());
    let mut issuer = Issuer(issuer.spawn()?);
    let mut url = String::new();
    BufReader::new(issuer.0.stdout.take().ok_or("no output")?).read_line(&mut url)?;
    let user = |refresh: &str| {
        json!({"auth-provider": {"name": "oidc", "config": {
            // Of 1970, so that it has to be renewed.
            "id-token": "e30.eyJleHAiOjF9.e30", "refresh-token": refresh, "idp-issuer-url": url.trim(),
            "client-id": "kubernetes", "client-secret": SECRETS[1],
        }}})
    };
    let create = || {
        let mut c = site.create("cluster", &[]);
        c.env("SSL_CERT_FILE", site.case.home.join("issuer.crt"));
        c
    };
    config_as(site, user(SECRETS[2]))?;
    must(&mut create(), "a build as whom a provider says")?;
    site.case.check("")?;
    config_as(site, user("of-somebody-else"))?;
    refused_login(site, "ID token expired and refreshing failed")?;
    site.assert_nothing_left()
}

/// The program itself in a pod, with nothing but the pod's service account.
fn as_a_pod_of_the_cluster(site: &Site) -> Result<(), Failed> {
    let namespace = &site.namespace;
    token(site)?;
    // The node's network, because this cluster's API server listens on loopback.
    site.kubectl(&["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged"])?;
    let program = fs_err::read(env!("CARGO_BIN_EXE_ocne"))?;
    let mut files = vec![
        ("bin/ocne".to_owned(), program),
        ("boot.oci-archive".to_owned(), fs_err::read(&site.case.archive)?),
    ];
    let linked = must(Command::new("ldd").arg(env!("CARGO_BIN_EXE_ocne")), "ldd")?;
    for path in String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
        files.push((path.trim_start_matches('/').to_owned(), fs_err::read(path)?));
    }
    let files: Vec<_> = files.iter().map(|(path, content)| (path.as_str(), content.as_slice())).collect();
    let image = site.cluster.push_image("client", &["sh"], &files).map_err(|e| e.to_string())?;
    let config: Value = serde_json::from_str(&site.kubectl(&["config", "view", "-o", "json"])?)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
    let (host, port) = server.trim_start_matches("https://").split_once(':').ok_or("no port")?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client", "namespace": namespace},
        "spec": {
            "serviceAccountName": "releaser", "hostNetwork": true, "restartPolicy": "Never",
            "containers": [{
                "name": "client", "image": image,
                "command": ["/bin/ocne", "image", "create", "--type", "oci", "--arch", "amd64", "--builder", "cluster",
                    "--image", "oci-archive:/boot.oci-archive", "--output", "/tmp/boot.oci",
                    "--namespace", namespace, "--builder-image", site.means.agent_image],
                "env": [
                    {"name": "KUBERNETES_SERVICE_HOST", "value": host},
                    {"name": "KUBERNETES_SERVICE_PORT", "value": port}, {"name": "HOME", "value": "/tmp"},
                ],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    });
    let file = site.case.dir.join("client.json");
    fs_err::write(&file, pod.to_string())?;
    site.kubectl(&["apply", "-f", &file.display().to_string()])?;
    let phase = || site.kubectl(&["get", "pod", "client", "-n", namespace, "-o", "jsonpath={.status.phase}"]);
    let begun = Instant::now();
    while !["Succeeded", "Failed"].contains(&phase()?.as_str()) && begun.elapsed() < Duration::from_mins(2) {
        std::thread::sleep(Duration::from_millis(200));
    }
    let (phase, said) = (phase()?, site.kubectl(&["logs", "client", "-n", namespace])?);
    if phase != "Succeeded" || !said.contains(&format!("Waiting for pod {namespace}/ocne-image-builder-")) {
        return Err(format!("{phase}: {said}").into());
    }
    site.kubectl(&["delete", "pod", "client", "-n", namespace, "--now"])?;
    site.assert_nothing_left()
}
