//! What a cluster says no to, and how that reads.

use std::error::Error;
use std::time::Duration;

use ocne_cluster::{Cluster, ClusterError, ConnectOptions, Rule};

use crate::Test;
use crate::environment::Environment;
use crate::run::output;

pub const TESTS: &[(&str, Test)] = &[
    ("a_quota_that_is_too_small_is_named", quota),
    ("a_limit_range_that_is_too_small_is_named", limit_range),
    ("a_right_that_is_missing_is_named", exec_right),
    ("the_fewest_rights_are_enough", fewest_rights),
    ("a_missing_namespace_that_may_not_be_made", no_namespace),
    ("a_missing_priority_class_and_service_account", missing_names),
    ("a_token_that_is_wrong", wrong_token),
    ("a_certificate_of_somebody_else", wrong_authority),
    ("nobody_answers", nobody),
];

/// Rights of a build, and no more.
pub const RULES: &str = r#"
  - {apiGroups: [batch], resources: [jobs], verbs: [create, get, delete]}
  - {apiGroups: [""], resources: [pods], verbs: [get, list]}
  - {apiGroups: [""], resources: [pods/exec], verbs: [get, create]}
  - {apiGroups: [""], resources: [events], verbs: [list]}
"#;

fn quota(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let spec = environment.spec("idle");
    environment.test.kubectl(&["create", "namespace", &spec.namespace])?;
    environment.apply(
        &spec.namespace,
        "{apiVersion: v1, kind: ResourceQuota, metadata: {name: tight}, spec: {hard: {limits.memory: 16Mi}}}",
    )?;
    let is_counted = || {
        environment.test.kubectl(&[
            "get",
            "resourcequota",
            "tight",
            "-n",
            &spec.namespace,
            "-o",
            "jsonpath={.status.hard}",
        ])
    };
    while is_counted()?.is_empty() {}
    let error = environment.runtime.block_on(environment.cluster.preflight(&spec)).unwrap_err();
    assert!(error.is_remote_refusal());
    assert!(
        matches!(&error, ClusterError::Refused { rule: Rule::Quota { name }, .. } if name == "tight"),
        "{error}"
    );
    assert!(error.to_string().contains("requested: limits.memory=64Mi"), "{error}");
    assert!(error.hint().unwrap().contains("kubectl describe resourcequota tight"));
    // Who does not ask before hears the same from the Job.
    let (pod, _) = environment.start(&spec);
    let error = pod.unwrap_err();
    assert!(
        matches!(&error, ClusterError::Refused { rule: Rule::Quota { name }, .. } if name == "tight"),
        "{error}"
    );
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    Ok(())
}

fn limit_range(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("idle");
    environment.test.kubectl(&["create", "namespace", &spec.namespace])?;
    let range = "{apiVersion: v1, kind: LimitRange, metadata: {name: range}, spec: {limits: [{type: Container, max: {memory: 48Mi}, default: {cpu: 300m}}]}}";
    environment.apply(&spec.namespace, range)?;
    let error = environment.runtime.block_on(environment.cluster.preflight(&spec)).unwrap_err();
    assert!(matches!(&error, ClusterError::Refused { rule: Rule::LimitRange, .. }), "{error}");
    spec.memory_bytes = 32 << 20;
    let plan = environment.runtime.block_on(environment.cluster.preflight(&spec))?;
    assert_eq!(plan.limit_ranges, ["range"]);
    assert_eq!(plan.changes, ["a limit on cpu: 300m"]);
    Ok(())
}

fn exec_right(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let spec = environment.spec("idle");
    environment.test.kubectl(&["create", "namespace", &spec.namespace])?;
    let rules = RULES.lines().filter(|line| !line.contains("exec")).collect::<Vec<_>>().join("\n");
    let limited = environment.limited(&spec.namespace, &rules)?;
    let error = environment.runtime.block_on(limited.preflight(&spec)).unwrap_err();
    assert!(error.is_remote_refusal());
    assert_eq!(error.to_string(), format!("may not get pods/exec in the namespace `{}`", spec.namespace));
    assert_eq!(
        error.hint().unwrap(),
        format!(
            "a Role with `- {{apiGroups: [\"\"], resources: [pods/exec], verbs: [get]}}` allows it; `kubectl auth can-i get pods --subresource exec --namespace {}` asks the same",
            spec.namespace
        )
    );
    Ok(())
}

fn fewest_rights(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let spec = environment.spec("idle");
    environment.test.kubectl(&["create", "namespace", &spec.namespace])?;
    let limited = environment.limited(&spec.namespace, RULES)?;
    environment.runtime.block_on(async {
        let plan = limited.preflight(&spec).await?;
        assert_eq!(plan.nodes, None);
        let cancel = std::sync::atomic::AtomicBool::new(false);
        let pod = limited.start(&spec, &|_| (), &cancel).await?;
        assert_eq!(output(&pod, &["true"]).await?.1, 0);
        pod.remove().await
    })?;
    assert_eq!(environment.left_in(&spec.namespace)?, "");
    // Nothing that the Role does not have, but for asking what it has.
    let allowed = [
        "create jobs",
        "create pods/exec",
        "create selfsubjectaccessreviews",
        "delete jobs",
        "get jobs",
        "get pods",
        "get pods/exec",
        "list events",
        "list pods",
    ];
    let requests = environment.requests_of(&spec.namespace)?;
    assert!(requests.contains(&"create jobs".to_owned()), "{requests:?}");
    assert!(requests.iter().all(|request| allowed.contains(&request.as_str())), "{requests:?}");
    Ok(())
}

fn no_namespace(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let home = environment.spec("idle").namespace;
    environment.test.kubectl(&["create", "namespace", &home])?;
    let limited = environment.limited(&home, RULES)?;
    let spec = environment.spec("idle");
    let error = environment.runtime.block_on(limited.preflight(&spec)).unwrap_err();
    // It may neither look at the namespace nor do anything in it.
    assert!(matches!(&error, ClusterError::Access { verb: "create", resource: "jobs", .. }), "{error}");
    Ok(())
}

fn missing_names(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let mut spec = environment.spec("idle");
    environment.test.kubectl(&["create", "namespace", &spec.namespace])?;
    spec.priority_class = Some("gold".to_owned());
    let error = environment.runtime.block_on(environment.cluster.preflight(&spec)).unwrap_err();
    assert!(matches!(&error, ClusterError::Refused { rule: Rule::PriorityClass, .. }), "{error}");
    spec.priority_class = None;
    spec.service_account = Some("nobody".to_owned());
    let error = environment.runtime.block_on(environment.cluster.preflight(&spec)).unwrap_err();
    assert!(matches!(&error, ClusterError::Refused { rule: Rule::ServiceAccount, .. }), "{error}");
    Ok(())
}

fn connect_with(
    environment: &Environment,
    name: &str,
    change: impl Fn(String) -> String,
) -> Result<ClusterError, Box<dyn Error>> {
    let file = environment.test.folder.join(format!("{name}.kubeconfig"));
    fs_err::write(&file, change(fs_err::read_to_string(&environment.test.kubeconfig)?))?;
    let options = ConnectOptions { kubeconfig: Some(file), context: None };
    Ok(environment.runtime.block_on(Cluster::connect(&options)).unwrap_err())
}

fn wrong_token(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let error = connect_with(environment, "token", |text| {
        let lines = text.lines().filter(|line| !line.contains("client-key-data"));
        let lines = lines
            .map(|line| if line.contains("client-certificate-data") { "    token: wrong" } else { line });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    assert!(matches!(error, ClusterError::Unauthenticated { .. }), "{error}");
    Ok(())
}

fn wrong_authority(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let file = environment.test.folder.join("pki/ca.crt");
    let other = environment.test.folder.join("other.crt");
    ocne_test_cluster::run(
        std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=other",
                "-keyout",
            ])
            .arg(environment.test.folder.join("other.key"))
            .arg("-out")
            .arg(&other),
    )?;
    assert!(file.exists());
    let error = connect_with(environment, "authority", |text| {
        let line = format!("    certificate-authority: {}", other.display());
        let lines =
            text.lines().map(|l| if l.contains("certificate-authority-data") { line.as_str() } else { l });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    assert!(matches!(error, ClusterError::Untrusted { .. }), "{error:?}");
    Ok(())
}

fn nobody(environment: &Environment) -> Result<(), Box<dyn Error>> {
    let server = environment.cluster.server().to_owned();
    let error = connect_with(environment, "refused", |text| text.replace(&server, "https://127.0.0.1:1"))?;
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    // Somebody who listens and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = format!("https://{}", silent.local_addr()?);
    let start = std::time::Instant::now();
    let error = connect_with(environment, "silent", |text| text.replace(&server, &address))?;
    assert!(matches!(error, ClusterError::Unreachable { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
    Ok(())
}
