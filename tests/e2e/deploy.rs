//! `deploy/`: chart and kustomize base make the same, the cluster takes it, and release automation needs what the Role
//! has and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::cluster::{Site, on_the_cluster};
use crate::support::{Bench, must, names, text};

/// How long the cluster may take to act on what it was told.
const SOON: Duration = Duration::from_secs(30);
/// Name of service account, Role and RoleBinding.
const ACCOUNT: &str = "ocne";
/// The rights of a build, as it asks for them; `ocne gc` has its own. Each is missing once.
const NEEDED: [(&str, &str, &str); 7] = [
    ("create", "batch", "jobs"),
    ("get", "batch", "jobs"),
    ("delete", "batch", "jobs"),
    ("get", "", "pods"),
    ("list", "", "pods"),
    ("get", "", "pods/exec"),
    ("create", "", "pods/exec"),
];

/// Verb, API group, resource with its subresource.
type Right = (String, String, String);

/// What needs no cluster.
pub fn trials(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.trial("deploy::chart_and_base_make_the_same", &[], |_| chart_and_base_make_the_same()),
        bench.trial("deploy::helm_finds_nothing_in_the_chart", &["helm"], |_| {
            let chart = folder().join("helm/ocne-builder");
            must(Command::new("helm").args(["lint", "--strict"]).arg(chart), "helm lint").map(|_| ())
        }),
    ]
}

pub fn cluster_trials(bench: &Bench) -> Vec<Trial> {
    on_the_cluster(
        bench,
        &[
            ("deploy::the_cluster_takes_every_object", the_cluster_takes_every_object),
            ("deploy::the_role_is_enough_and_no_more", the_role_is_enough_and_no_more),
            ("deploy::a_missing_verb_is_named", a_missing_verb_is_named),
        ],
    )
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

fn yaml(text: &str) -> Result<Vec<Value>, Failed> {
    serde_saphyr::from_multiple(text).map_err(|e| format!("{e}: {text}").into())
}

/// Objects by kind and name.
fn by_name(objects: Vec<Value>) -> Result<BTreeMap<String, Value>, Failed> {
    let mut all = BTreeMap::new();
    for object in objects {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        if all.insert(name.clone(), object).is_some() {
            return Err(format!("{name} is there twice").into());
        }
    }
    Ok(all)
}

/// The files of the base, as its kustomization lists them.
fn base() -> Result<BTreeMap<String, Value>, Failed> {
    let dir = folder().join("kustomize");
    let kustomization = yaml(&fs_err::read_to_string(dir.join("kustomization.yaml"))?)?;
    let listed = kustomization[0]["resources"].as_array().ok_or("no resources")?;
    let mut listed: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
    listed.sort_unstable();
    let there: Vec<String> = names(&dir)?.into_iter().filter(|n| n != "kustomization.yaml").collect();
    if listed != there {
        return Err(format!("the kustomization lists {listed:?}, the folder has {there:?}").into());
    }
    let mut objects = Vec::new();
    for file in listed {
        objects.extend(yaml(&fs_err::read_to_string(dir.join(file))?)?);
    }
    by_name(objects)
}

/// The chart's values, some of them changed (path as of a JSON pointer).
fn values(changes: &[(&str, Value)]) -> Result<Value, Failed> {
    let mut values =
        yaml(&fs_err::read_to_string(folder().join("helm/ocne-builder/values.yaml"))?)?.remove(0);
    for (path, value) in changes {
        *values.pointer_mut(path).ok_or_else(|| format!("no value {path}"))? = value.clone();
    }
    Ok(values)
}

/// What Helm makes of the chart.
fn chart(values: &Value) -> Result<String, Failed> {
    let dir = folder().join("helm/ocne-builder/templates");
    let mut documents = Vec::new();
    for file in names(&dir)? {
        let template = fs_err::read_to_string(dir.join(&file))?;
        documents.push(render(&template, values).map_err(|e| format!("{file}: {e}"))?);
    }
    Ok(documents.join("---\n"))
}

/// What Helm makes of a template that has no directives but `{{ .Values.PATH }}`, and on lines of their own
/// `{{- if .Values.PATH }}` and `{{- end }}`. Any other is an error.
fn render(template: &str, values: &Value) -> Result<String, String> {
    let (mut rendered, mut condition) = (String::new(), None);
    for line in template.lines() {
        if let Some(path) = line.strip_prefix("{{- if ").and_then(|rest| rest.strip_suffix(" }}")) {
            let holds = value(values, path)?.as_bool().ok_or_else(|| format!("{path} is not a boolean"))?;
            if condition.replace(holds).is_some() {
                return Err(format!("a condition in a condition: {line}"));
            }
        } else if line == "{{- end }}" {
            condition.take().ok_or("an end without a beginning")?;
        } else {
            let line = substitute(line, values)?;
            if condition != Some(false) {
                rendered.push_str(&line);
                rendered.push('\n');
            }
        }
    }
    if condition.is_some() { Err("no end".to_owned()) } else { Ok(rendered) }
}

fn substitute(line: &str, values: &Value) -> Result<String, String> {
    let (mut done, mut rest) = (String::new(), line);
    while let Some((before, after)) = rest.split_once("{{") {
        let (directive, after) = after.split_once("}}").ok_or_else(|| format!("no end: {line}"))?;
        let path = directive.strip_prefix(' ').and_then(|d| d.strip_suffix(' '));
        done.push_str(before);
        match value(values, path.ok_or_else(|| format!("a directive of another form: {line}"))?)? {
            Value::String(text) => done.push_str(text),
            Value::Number(number) => done.push_str(&number.to_string()),
            other => return Err(format!("{other} is no text: {line}")),
        }
        rest = after;
    }
    Ok(done + rest)
}

fn value<'a>(values: &'a Value, path: &str) -> Result<&'a Value, String> {
    let keys = path.strip_prefix(".Values.").ok_or_else(|| format!("`{path}` is not a value"))?;
    keys.split('.').try_fold(values, |value, key| value.get(key)).ok_or_else(|| format!("no value `{keys}`"))
}

fn chart_and_base_make_the_same() -> Result<(), Failed> {
    let base = base()?;
    let plain = by_name(yaml(&chart(&values(&[])?)?)?)?;
    if plain != base {
        return Err(format!("the chart makes {plain:#?}, the base is {base:#?}").into());
    }
    let built_in = fs_err::read_to_string(folder().join("../manifests/namespace.yaml"))?;
    let built_in = by_name(yaml(&built_in)?)?;
    if !built_in.iter().all(|(name, object)| base.get(name) == Some(object)) {
        return Err(format!("the program makes another namespace: {built_in:#?}").into());
    }
    // Every switch takes its object away, and nothing else.
    for (switch, kind) in [
        ("/createNamespace", "Namespace"),
        ("/serviceAccount/create", "ServiceAccount"),
        ("/networkPolicy/enabled", "NetworkPolicy"),
        ("/quota/enabled", "ResourceQuota"),
    ] {
        let made = by_name(yaml(&chart(&values(&[(switch, json!(false))])?)?)?)?;
        let mut wanted = base.clone();
        wanted.retain(|_, object| object["kind"] != kind);
        if made != wanted || made.len() + 1 != base.len() {
            return Err(format!("without {switch} the chart makes {made:#?}").into());
        }
    }
    let renamed = chart(&values(&[("/namespace", json!("elsewhere"))])?)?;
    if renamed.contains("ocne-system") {
        return Err(format!("a namespace is written into a template: {renamed}").into());
    }
    for wrong in
        ["{{ .Release.Name }}", "{{.Values.namespace}}", "{{- if .Values.namespace }}", "{{- end }}", "{{ x"]
    {
        if let Ok(made) = render(wrong, &values(&[])?) {
            return Err(format!("{wrong} gives {made}").into());
        }
    }
    Ok(())
}

/// Puts the base into the test's namespace, by an overlay as the README has it.
fn apply_base(site: &Site) -> Result<(), Failed> {
    let dir = site.case.dir.join("deploy");
    fs_err::create_dir_all(dir.join("base"))?;
    for file in names(&folder().join("kustomize"))? {
        fs_err::copy(folder().join("kustomize").join(&file), dir.join("base").join(&file))?;
    }
    let overlay = format!("resources: [base]\nnamespace: {}\n", site.namespace);
    fs_err::write(dir.join("kustomization.yaml"), overlay)?;
    site.kubectl(&["apply", "--validate=strict", "-k", path(&dir)?])?;
    until_it_may(site, "list", "events", true)
}

fn path(path: &Path) -> Result<&str, Failed> {
    Ok(path.to_str().ok_or("not UTF-8")?)
}

/// The API server learns of a Role a moment after it took it.
fn until_it_may(site: &Site, verb: &str, resource: &str, wanted: bool) -> Result<(), Failed> {
    let account = format!("--as={}", user(site));
    let start = Instant::now();
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let subresource = format!("--subresource={subresource}");
    let question = ["auth", "can-i", verb, resource, &subresource, &account, "-n", &site.namespace];
    // `kubectl` says no by its exit status.
    while site.kubectl(&question).is_ok() != wanted {
        if start.elapsed() > SOON {
            return Err(format!("{verb} {resource}: not {wanted}").into());
        }
    }
    Ok(())
}

/// The service account, as the API server calls it.
fn user(site: &Site) -> String {
    format!("system:serviceaccount:{}:{ACCOUNT}", site.namespace)
}

/// Has the program use the service account's token and nothing else.
fn use_token(site: &Site) -> Result<(), Failed> {
    let token = site.kubectl(&["create", "token", ACCOUNT, "-n", &site.namespace])?;
    let config = site.kubectl(&["config", "view", "--raw", "--flatten", "--minify", "-o", "json"])?;
    let mut config: Value = serde_json::from_str(&config)?;
    config["users"][0]["user"] = json!({ "token": token });
    site.write_kubeconfig(&config.to_string())
}

fn the_cluster_takes_every_object(site: &Site) -> Result<(), Failed> {
    // Into a namespace that is there, because a dry run makes none.
    apply_base(site)?;
    let rendered = site.case.dir.join("chart.yaml");
    fs_err::write(&rendered, chart(&values(&[("/namespace", json!(site.namespace))])?)?)?;
    let dry_run = ["apply", "--dry-run=server", "--validate=strict"];
    let base = site.kubectl(&[&dry_run[..], &["-k", path(&site.case.dir.join("deploy"))?]].concat())?;
    let chart = site.kubectl(&[&dry_run[..], &["-f", path(&rendered)?]].concat())?;
    for said in [&base, &chart] {
        // The cluster finds in both what it has already.
        if said.lines().count() != self::base()?.len() || said.lines().any(|l| !l.contains(" unchanged ")) {
            return Err(format!("not the same: {said}").into());
        }
    }
    // As it stands, to a cluster that has none of it, but for its namespace.
    for object in self::base()?.into_values() {
        let file = site.case.dir.join("object.json");
        let mut object = object;
        if object["metadata"]["namespace"].is_string() {
            object["metadata"]["namespace"] = json!("default");
        }
        fs_err::write(&file, object.to_string())?;
        let said = site.kubectl(&["create", "--dry-run=server", "--validate=strict", "-f", path(&file)?])?;
        if !said.contains(" created ") {
            return Err(format!("{object}: {said}").into());
        }
    }
    Ok(())
}

fn the_role_is_enough_and_no_more(site: &Site) -> Result<(), Failed> {
    apply_base(site)?;
    use_token(site)?;
    must(&mut site.create("cluster", &[]), "a build under the Role")?;
    site.case.check("")?;
    let left = site.left()?;
    if !left.is_empty() {
        return Err(format!("left over: {left}").into());
    }
    refused_for_its_quota(site)?;
    collected(site)?;
    let granted = granted(&role(site)?)?;
    let used = used(site)?;
    // Until 1.35 exec over WebSocket is a `get` only.
    let of_later_versions: Right = ("create".to_owned(), String::new(), "pods/exec".to_owned());
    let mut wanted = granted.clone();
    if !used.contains(&of_later_versions) {
        wanted.remove(&of_later_versions);
    }
    if used != wanted {
        return Err(format!("granted: {granted:?}; used: {used:?}").into());
    }
    Ok(())
}

/// A build whose pod the quota does not let in: the Job says why.
fn refused_for_its_quota(site: &Site) -> Result<(), Failed> {
    let quota = ["resourcequota", "ocne-image-builder", "-n", &site.namespace];
    let set = |pods: &str| -> Result<(), Failed> {
        let patch = json!({"spec": {"hard": {"pods": pods}}}).to_string();
        site.kubectl(&[&["patch"], &quota[..], &["--type=merge", "-p", &patch]].concat())?;
        // What counts is the status, which a controller writes.
        let start = Instant::now();
        while site.kubectl(&[&["get"], &quota[..], &["-o", "jsonpath={.status.hard.pods}"]].concat())? != pods
        {
            if start.elapsed() > SOON {
                return Err("the quota is not counted".into());
            }
        }
        Ok(())
    };
    set("0")?;
    let out = site.create("cluster", &[]).output()?;
    let wanted =
        "error: the quota `ocne-image-builder` does not allow the pod of the Job `ocne-image-builder-";
    let said = text(&out.stderr);
    if out.status.code() != Some(3) || !said.contains(wanted) {
        return Err(format!("{}: {said}", out.status).into());
    }
    set("8")?;
    site.assert_nothing_left()
}

/// What a killed client left: `ocne gc` finds it, and removes it even without its Job.
fn collected(site: &Site) -> Result<(), Failed> {
    let mut child = site.create("cluster", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let start = Instant::now();
    while !site.left()?.contains("pod/") {
        if start.elapsed() > SOON || child.try_wait()?.is_some() {
            return Err("no pod was seen".into());
        }
    }
    child.kill()?;
    child.wait()?;
    let pods = site.kubectl(&["get", "pods", "-n", &site.namespace, "-o", "json"])?;
    if pods.contains("serviceAccountToken") || pods.contains("kube-api-access") {
        return Err(format!("the pod has a token: {pods}").into());
    }
    let listed = gc(site, &["--namespace", &site.namespace])?;
    let listed = text(&listed.stdout);
    let jobs =
        site.kubectl(&["get", "jobs", "-n", &site.namespace, "-o", "jsonpath={.items[*].metadata.name}"])?;
    if !listed.contains(&format!("{}/{jobs}", site.namespace)) {
        return Err(format!("not listed: {listed}").into());
    }
    site.kubectl(&["delete", "jobs", "--all", "--cascade=orphan", "-n", &site.namespace])?;
    let removed = gc(site, &["--namespace", &site.namespace, "--yes", "--running"])?;
    if !removed.status.success() || !text(&removed.stdout).starts_with("removed") {
        return Err(format!("{}: {}{}", removed.status, text(&removed.stdout), text(&removed.stderr)).into());
    }
    let left = site.left()?;
    if left.is_empty() { Ok(()) } else { Err(format!("left over: {left}").into()) }
}

fn gc(site: &Site, extra: &[&str]) -> Result<Output, Failed> {
    let mut c: Command = site.case.ocne(&["gc"]);
    Ok(c.arg("--kubeconfig").arg(&site.kubeconfig).args(extra).output()?)
}

fn role(site: &Site) -> Result<Value, Failed> {
    Ok(serde_json::from_str(&site.kubectl(&[
        "get",
        "role",
        ACCOUNT,
        "-n",
        &site.namespace,
        "-o",
        "json",
    ])?)?)
}

/// Each right of a Role by itself.
fn granted(role: &Value) -> Result<BTreeSet<Right>, Failed> {
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().ok_or("no rules")? {
        let list = |key: &str| -> Vec<String> {
            let all = rule[key].as_array().into_iter().flatten();
            all.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
        };
        let (groups, verbs) = (list("apiGroups"), list("verbs"));
        for resource in list("resources") {
            for group in &groups {
                let right = |verb: &String| (verb.clone(), group.clone(), resource.clone());
                rights.extend(verbs.iter().map(right));
            }
        }
    }
    Ok(rights)
}

/// What the service account asked of the cluster, as its audit log has it. All of it was allowed: by the Role, or, for
/// the version and for which rights it has, by what Kubernetes allows everybody.
fn used(site: &Site) -> Result<BTreeSet<Right>, Failed> {
    let user = user(site);
    let by_role = format!("RoleBinding \"{ACCOUNT}/{}\"", site.namespace);
    let mut rights = BTreeSet::new();
    for line in fs_err::read_to_string(site.cluster.folder.join("logs/audit.log"))?.lines() {
        let event: Value = serde_json::from_str(line)?;
        if event["user"]["username"] != *user {
            continue;
        }
        let annotation = |name: &str| event["annotations"][format!("authorization.k8s.io/{name}")].as_str();
        if annotation("decision") != Some("allow") || event["responseStatus"]["code"] == 403 {
            return Err(format!("refused: {line}").into());
        }
        let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (verb, object) = (field(&event["verb"]), &event["objectRef"]);
        let mut resource = field(&object["resource"]);
        if let Some(subresource) = object["subresource"].as_str() {
            resource = format!("{resource}/{subresource}");
        }
        match (verb.as_str(), resource.as_str()) {
            ("get", "") if event["requestURI"] == "/version" => {}
            ("create", "selfsubjectaccessreviews") => {}
            _ if annotation("reason").is_some_and(|reason| reason.contains(&by_role))
                && object["namespace"] == site.namespace.as_str() =>
            {
                rights.insert((verb, field(&object["apiGroup"]), resource));
            }
            _ => return Err(format!("allowed by another rule: {line}").into()),
        }
    }
    Ok(rights)
}

fn a_missing_verb_is_named(site: &Site) -> Result<(), Failed> {
    apply_base(site)?;
    use_token(site)?;
    let all = granted(&role(site)?)?;
    let put = |rights: &BTreeSet<Right>| -> Result<(), Failed> {
        let rules = rights.iter().map(
            |(verb, group, resource)| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]}),
        );
        let rules: Vec<Value> = rules.collect();
        let patch = json!({ "rules": rules }).to_string();
        site.kubectl(&["patch", "role", ACCOUNT, "-n", &site.namespace, "--type=merge", "-p", &patch])?;
        Ok(())
    };
    let namespace = &site.namespace;
    for (verb, group, resource) in NEEDED {
        let mut rights = all.clone();
        if !rights.remove(&(verb.to_owned(), group.to_owned(), resource.to_owned())) {
            return Err(format!("the Role has no {verb} {resource}").into());
        }
        put(&rights)?;
        until_it_may(site, verb, resource, false)?;
        let out = site.create("cluster", &[]).output()?;
        let said = text(&out.stderr);
        let (plain, subresource) = match resource.split_once('/') {
            Some((plain, subresource)) => (plain, format!(" --subresource {subresource}")),
            None => (resource, String::new()),
        };
        let wanted = format!(
            "error: may not {verb} {resource} in the namespace `{namespace}`\n\
             hint: a Role with `- {{apiGroups: [\"{group}\"], resources: [{resource}], verbs: [{verb}]}}` allows it; \
             `kubectl auth can-i {verb} {plain}{subresource} --namespace {namespace}` asks the same\n"
        );
        if out.status.code() != Some(3) || !said.ends_with(&wanted) {
            return Err(format!("{}: {said}\nnot: {wanted}", out.status).into());
        }
        put(&all)?;
        until_it_may(site, verb, resource, true)?;
    }
    // It looked, and tried nothing that it may not do.
    let used = used(site)?;
    if !used.is_empty() {
        return Err(format!("it did {used:?}").into());
    }
    if !site.left()?.is_empty() || site.case.result().exists() || !site.case.left_over()?.is_empty() {
        return Err("something was made".into());
    }
    // The Role ends with its namespace.
    let out = gc(site, &[])?;
    let wanted = "error: may not list jobs in the cluster\n\
        hint: name one namespace with `--namespace`; a ClusterRole with `- {apiGroups: [\"batch\"], resources: [jobs], verbs: [list]}` allows it; \
        `kubectl auth can-i list jobs --all-namespaces` asks the same\n";
    if out.status.code() != Some(3) || !text(&out.stderr).ends_with(wanted) {
        return Err(format!("{}: {}\nnot: {wanted}", out.status, text(&out.stderr)).into());
    }
    Ok(())
}
