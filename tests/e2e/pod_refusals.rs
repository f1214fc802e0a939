//! What a user reads when a cluster says no: every message as it was reviewed, the exit status, nothing made, nothing left.

use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::cluster::{Site, on_the_cluster};
use crate::pod_transfer::{over_proxy, seeded};
use crate::support::{Bench, must, text};

/// What a cluster does by itself, it does within this.
const SOON: Duration = Duration::from_mins(1);

pub fn trials(bench: &Bench) -> Vec<Trial> {
    on_the_cluster(
        bench,
        &[
            ("refusal::no_rights", no_rights),
            ("refusal::quota_too_small", quota_too_small),
            ("refusal::limit_range_too_small", limit_range_too_small),
            ("refusal::admission_policy", admission_policy),
            ("refusal::admission_webhook_out_of_reach", admission_webhook_out_of_reach),
            ("refusal::no_node_of_the_architecture", no_node_of_the_architecture),
            ("refusal::no_node_with_the_label", no_node_with_the_label),
            ("refusal::image_not_there", image_not_there),
            ("refusal::image_without_shell", image_without_shell),
            ("refusal::too_little_memory", too_little_memory),
            ("refusal::deadline", deadline),
            ("refusal::scratch_too_small", scratch_too_small),
            ("refusal::certificate_expired", certificate_expired),
            ("refusal::context_not_there", context_not_there),
            ("refusal::kubeconfig_not_there", kubeconfig_not_there),
            ("refusal::namespace_with_another_policy", every_level_of_pod_security),
        ],
    )
}

/// Text without what differs from run to run.
fn stable(site: &Site, said: &str) -> String {
    let mut said = said.replace(&site.cluster.registry, "REGISTRY").replace(&site.namespace, "NAMESPACE");
    said = said.replace(&site.case.home.display().to_string(), "HOME");
    for name in ["ocne-image-builder-", "127.0.0.1:", "10.24"] {
        let mut rest = said.as_str();
        let mut out = String::new();
        while let Some((before, after)) = rest.split_once(name) {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.');
            out.extend([before, name, "…"]);
            rest = end.map_or("", |end| &after[end..]);
        }
        out.push_str(rest);
        said = out;
    }
    said
}

/// A build that has to be refused, in the words of the snapshot of this name.
pub fn refused(site: &Site, name: &str, code: i32, mut build: Command) -> Result<(), Failed> {
    let out = build.stdin(Stdio::null()).output()?;
    refused_so(site, name, code, &out)
}

fn refused_so(site: &Site, name: &str, code: i32, out: &Output) -> Result<(), Failed> {
    let said = text(&out.stderr);
    if out.status.code() != Some(code) {
        return Err(format!("{}, not {code}: {said}", out.status).into());
    }
    let from = said.find("error: ").ok_or_else(|| format!("no reason given: {said}"))?;
    insta::assert_snapshot!(name, stable(site, &said[from..]));
    if site.case.result().exists() || !site.case.left_over()?.is_empty() {
        return Err("something was written".into());
    }
    site.assert_nothing_left()
}

fn no_rights(site: &Site) -> Result<(), Failed> {
    site.kubectl(&["create", "namespace", &site.namespace])?;
    site.kubectl(&["create", "serviceaccount", "nobody", "-n", &site.namespace])?;
    let token = site.kubectl(&["create", "token", "nobody", "-n", &site.namespace])?;
    let config = site.kubectl(&["config", "view", "--raw", "--flatten"])?;
    let (clusters, _) = config.split_once("\nusers:").ok_or("no users")?;
    let user = config.lines().find_map(|l| l.trim().strip_prefix("user: ")).ok_or("no user")?;
    site.write_kubeconfig(&format!("{clusters}\nusers:\n- name: {user}\n  user:\n    token: {token}\n"))?;
    refused(site, "no_rights", 3, site.create("cluster", &[]))
}

fn quota_too_small(site: &Site) -> Result<(), Failed> {
    site.kubectl(&["create", "namespace", &site.namespace])?;
    site.kubectl(&["create", "quota", "tight", "--hard=limits.memory=1Mi", "-n", &site.namespace])?;
    refused(site, "quota_too_small", 3, site.create("cluster", &[]))
}

fn apply(site: &Site, object: &str) -> Result<(), Failed> {
    let file = site.case.dir.join("object.yaml");
    fs_err::write(&file, object)?;
    site.kubectl(&["apply", "-n", &site.namespace, "-f", &file.display().to_string()])?;
    Ok(())
}

fn limit_range_too_small(site: &Site) -> Result<(), Failed> {
    site.kubectl(&["create", "namespace", &site.namespace])?;
    apply(
        site,
        "{apiVersion: v1, kind: LimitRange, metadata: {name: small}, spec: {limits: [{type: Container, max: {memory: 32Mi}}]}}",
    )?;
    refused(site, "limit_range_too_small", 3, site.create("cluster", &[]))
}

/// Objects of the whole cluster that concern the test's namespace only; they go with this.
struct Applied<'a> {
    site: &'a Site,
    file: String,
}

impl<'a> Applied<'a> {
    fn new(site: &'a Site, objects: &str) -> Result<Self, Failed> {
        let file = site.case.dir.join("objects.yaml");
        fs_err::write(&file, objects.replace("NAMESPACE", &site.namespace))?;
        let file = file.display().to_string();
        site.kubectl(&["apply", "-f", &file])?;
        Ok(Self { site, file })
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        let _ = self.site.kubectl(&["delete", "-f", &self.file, "--ignore-not-found"]);
    }
}

/// A namespace that takes any pod, so that another rule is the one that refuses.
fn lenient_namespace(site: &Site) -> Result<(), Failed> {
    site.kubectl(&["create", "namespace", &site.namespace])?;
    let label = "pod-security.kubernetes.io/enforce=privileged";
    site.kubectl(&["label", "namespace", &site.namespace, label])?;
    Ok(())
}

fn admission_policy(site: &Site) -> Result<(), Failed> {
    lenient_namespace(site)?;
    let _applied = Applied::new(
        site,
        "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, metadata: {name: trusted-registries}, \
         spec: {failurePolicy: Fail, matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], \
         resources: [pods]}]}, validations: [{expression: \"object.spec.containers.all(c, \
         c.image.startsWith('registry.example/'))\", message: images come from registry.example}]}}\n---\n\
         {apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: {name: everywhere}, \
         spec: {policyName: trusted-registries, validationActions: [Deny], matchResources: {namespaceSelector: {matchLabels: \
         {kubernetes.io/metadata.name: NAMESPACE}}}}}\n",
    )?;
    until_refused(site, "registry.example")?;
    refused(site, "admission_policy", 3, site.create("cluster", &[]))
}

fn admission_webhook_out_of_reach(site: &Site) -> Result<(), Failed> {
    lenient_namespace(site)?;
    let _applied = Applied::new(
        site,
        "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: judge}, \
         webhooks: [{name: judge.example.com, failurePolicy: Fail, sideEffects: None, admissionReviewVersions: [v1], \
         timeoutSeconds: 2, clientConfig: {url: 'https://127.0.0.1:9/judge'}, namespaceSelector: {matchLabels: \
         {kubernetes.io/metadata.name: NAMESPACE}}, rules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], \
         resources: [pods]}]}]}\n",
    )?;
    until_refused(site, "judge.example.com")?;
    refused(site, "admission_webhook_out_of_reach", 3, site.create("cluster", &[]))
}

/// The API server minds new rules a moment after it has taken them.
fn until_refused(site: &Site, words: &str) -> Result<(), Failed> {
    let start = Instant::now();
    let pod = ["run", "probe", "--image", "other", "--dry-run=server", "-n", &site.namespace];
    loop {
        match site.kubectl(&pod) {
            Err(e) if e.message().is_some_and(|said| said.contains(words)) => return Ok(()),
            answer if start.elapsed() > Duration::from_secs(30) => {
                return Err(format!(
                    "the rule does not count: {:?}",
                    answer.err().and_then(|e| e.message().map(str::to_owned))
                )
                .into());
            }
            _ => sleep(Duration::from_millis(200)),
        }
    }
}

/// A build of a builder image, which needs no program of another architecture here.
fn with_agent_image(site: &Site, extra: &[&str]) -> Command {
    let mut c = site.case.create_by("cluster", &site.case.boot, extra);
    site.in_cluster(&mut c, &site.means.agent_image);
    c
}

fn no_node_of_the_architecture(site: &Site) -> Result<(), Failed> {
    let c = with_agent_image(site, &["--node-selector", "kubernetes.io/arch=arm64", "--pod-wait", "5"]);
    refused(site, "no_node_of_the_architecture", 1, c)
}

fn no_node_with_the_label(site: &Site) -> Result<(), Failed> {
    let c = with_agent_image(site, &["--node-selector", "disk=fast", "--pod-wait", "5"]);
    refused(site, "no_node_with_the_label", 1, c)
}

fn other_image(site: &Site, image: &str, extra: &[&str]) -> Command {
    let mut c = site.case.create_by("cluster", &site.case.boot, extra);
    site.in_cluster(&mut c, image);
    c
}

fn image_not_there(site: &Site) -> Result<(), Failed> {
    let image = format!("{}/nothing:1", site.cluster.registry);
    refused(site, "image_not_there", 1, other_image(site, &image, &["--pod-wait", "60"]))
}

fn image_without_shell(site: &Site) -> Result<(), Failed> {
    let image = site.cluster.push_image("bare", &[], &[]).map_err(|e| e.to_string())?;
    refused(site, "image_without_shell", 1, other_image(site, &image, &["--pod-wait", "60"]))
}

fn too_little_memory(site: &Site) -> Result<(), Failed> {
    refused(site, "too_little_memory", 1, site.create("cluster", &["--pod-memory", "16"]))
}

fn deadline(site: &Site) -> Result<(), Failed> {
    let c = with_agent_image(site, &["--node-selector", "disk=fast", "--pod-deadline", "2"]);
    refused(site, "deadline", 1, c)
}

/// The agent's program fits, the image does not: in the node's memory writing fails, on its disk the pod is evicted.
fn scratch_too_small(site: &Site) -> Result<(), Failed> {
    let mut own = site.another(&format!("{}-large", site.namespace))?;
    own.case.make("--small --payload-mib 80")?;
    let small = |volume| {
        seeded(&own, "cluster", &["--transfer", "full", "--scratch", volume, "--scratch-size", "48"])
    };
    refused(&own, "scratch_in_memory_too_small", 1, small("memory"))?;

    let line = over_proxy(&own)?;
    let mut child = small("emptydir").stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let begun = Instant::now();
    while line.passed_bytes() < 64 << 20 {
        if child.try_wait()?.is_some() {
            let said = text(&child.wait_with_output()?.stderr);
            return Err(format!("over after {} bytes: {said}", line.passed_bytes()).into());
        }
        sleep(Duration::from_millis(5));
    }
    // The kubelet measures volumes every ten seconds: until then the rest has to wait.
    line.halt();
    let phase = "jsonpath={.items[*].status.phase}";
    while own.kubectl(&["get", "pods", "-n", &own.namespace, "-o", phase])? != "Failed" {
        if begun.elapsed() > SOON {
            return Err("the pod is not evicted".into());
        }
        sleep(Duration::from_millis(200));
    }
    line.cut();
    line.mend();
    refused_so(&own, "scratch_too_small", 1, &child.wait_with_output()?)
}

fn certificate_expired(site: &Site) -> Result<(), Failed> {
    let (dir, pki) = (&site.case.dir, site.cluster.folder.join("pki"));
    let script = format!(
        "cd '{0}' && openssl req -newkey rsa:2048 -nodes -keyout k.pem -subj /O=system:masters/CN=late -out r.pem 2>/dev/null && \
         openssl x509 -req -in r.pem -CA '{1}/ca.crt' -CAkey '{1}/ca.key' -CAserial s.srl -CAcreateserial -days 0 -extfile <(echo extendedKeyUsage=clientAuth) -out c.pem 2>/dev/null && \
         while openssl x509 -in c.pem -checkend 0 -noout >/dev/null; do :; done && base64 -w0 c.pem && echo && base64 -w0 k.pem",
        dir.display(),
        pki.display(),
    );
    let made = text_of(&must(Command::new("bash").args(["-c", &script]), "an expired certificate")?.stdout);
    let (certificate, key) = made.split_once('\n').ok_or("no certificate")?;
    let config = site.kubectl(&["config", "view", "--raw", "--flatten"])?;
    let late: Vec<String> = config
        .lines()
        .map(|line| match line.trim().split_once(": ") {
            Some(("client-certificate-data", _)) => format!("    client-certificate-data: {certificate}"),
            Some(("client-key-data", _)) => format!("    client-key-data: {}", key.trim()),
            _ => line.to_owned(),
        })
        .collect();
    site.write_kubeconfig(&late.join("\n"))?;
    refused(site, "certificate_expired", 3, site.create("cluster", &[]))
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn context_not_there(site: &Site) -> Result<(), Failed> {
    refused(site, "context_not_there", 1, site.create("cluster", &["--context", "elsewhere"]))
}

fn kubeconfig_not_there(site: &Site) -> Result<(), Failed> {
    fs_err::remove_file(&site.kubeconfig)?;
    refused(site, "kubeconfig_not_there", 1, site.create("cluster", &[]))
}

/// A namespace with a stricter or weaker policy than ours, and one whose limits are put into our pod, work all the same.
fn every_level_of_pod_security(site: &Site) -> Result<(), Failed> {
    site.kubectl(&["create", "namespace", &site.namespace])?;
    apply(
        site,
        "{apiVersion: v1, kind: LimitRange, metadata: {name: defaults}, spec: {limits: [{type: Container, \
         default: {cpu: '2', memory: 512Mi}, defaultRequest: {cpu: 10m, memory: 16Mi}}]}}",
    )?;
    for level in ["restricted", "baseline", "privileged"] {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        site.kubectl(&["label", "--overwrite", "namespace", &site.namespace, &label])?;
        must(&mut site.create("cluster", &[]), level)?;
        site.case.check("")?;
        site.assert_nothing_left()?;
    }
    Ok(())
}
