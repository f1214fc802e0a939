//! What the API server's words of a refusal mean: which rule of the cluster said no.
//!
//! Admission has no machine-readable reasons, so the words are read. They are those of Kubernetes 1.25 and later
//! (`plugin/pkg/admission/…`, `staging/src/k8s.io/pod-security-admission`, `…/apiserver/pkg/admission/plugin`).

use std::fmt;

/// What refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// The user may not do that (RBAC or another authorizer).
    Access,
    /// Pod Security admission at this level.
    PodSecurity {
        /// `restricted` or `baseline`.
        level: String,
    },
    /// A ResourceQuota.
    Quota {
        /// Its name.
        name: String,
    },
    /// A LimitRange.
    LimitRange,
    /// An admission webhook.
    Webhook {
        /// Its name.
        name: String,
    },
    /// A ValidatingAdmissionPolicy.
    Policy {
        /// Its name.
        name: String,
    },
    /// The priority class does not exist.
    PriorityClass,
    /// The service account does not exist.
    ServiceAccount,
    /// The namespace is on its way out.
    NamespaceTerminating,
    /// The namespace does not exist.
    NamespaceMissing,
    /// Something else.
    Other,
}

impl Rule {
    /// The rule that a message of the API server, or an event that repeats one, speaks of.
    pub fn of(message: &str) -> Self {
        if let Some(level) = between(message, "violates PodSecurity \"", "\"") {
            let level = level.split(':').next().unwrap_or(level);
            return Self::PodSecurity { level: level.to_owned() };
        }
        for words in ["exceeded quota: ", "failed quota: "] {
            if let Some(rest) = after(message, words) {
                let name = rest.split([',', ':', ' ']).next().unwrap_or(rest);
                return Self::Quota { name: name.to_owned() };
            }
        }
        if let Some(name) = between(message, "admission webhook \"", "\"") {
            return Self::Webhook { name: name.to_owned() };
        }
        if let Some(name) = between(message, "failed calling webhook \"", "\"") {
            return Self::Webhook { name: name.to_owned() };
        }
        if let Some(name) = between(message, "ValidatingAdmissionPolicy '", "'") {
            return Self::Policy { name: name.to_owned() };
        }
        if message.contains("no PriorityClass with name") {
            return Self::PriorityClass;
        }
        if message.contains("error looking up service account") {
            return Self::ServiceAccount;
        }
        if message.contains("because it is being terminated") {
            return Self::NamespaceTerminating;
        }
        if message.starts_with("namespaces \"") && message.ends_with("not found") {
            return Self::NamespaceMissing;
        }
        if [" usage per Container is ", " usage per Pod is ", " to request ratio per "]
            .iter()
            .any(|words| message.contains(words))
        {
            return Self::LimitRange;
        }
        if message.contains(" cannot ") && message.contains(" resource \"") {
            return Self::Access;
        }
        Self::Other
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access => f.write_str("the cluster's access rules"),
            Self::PodSecurity { level } => write!(f, "Pod Security `{level}`"),
            Self::Quota { name } => write!(f, "the quota `{name}`"),
            Self::LimitRange => f.write_str("a limit range"),
            Self::Webhook { name } => write!(f, "the admission webhook `{name}`"),
            Self::Policy { name } => write!(f, "the admission policy `{name}`"),
            Self::PriorityClass | Self::ServiceAccount | Self::Other => f.write_str("the API server"),
            Self::NamespaceTerminating | Self::NamespaceMissing => f.write_str("the namespace"),
        }
    }
}

/// A refusal without the object's name, which is ours and says nothing: `pods "x" is forbidden: WORDS`.
pub(crate) fn words(message: &str) -> &str {
    let words = message.strip_prefix("Error creating: ").unwrap_or(message);
    let is_name = |start: &str| start.starts_with("pods \"") || start.starts_with("jobs.batch \"");
    match words.split_once(" is forbidden: ") {
        Some((start, rest)) if is_name(start) => rest,
        _ => words,
    }
}

fn after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.find(start).map(|at| &text[at + start.len()..])
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = after(text, start)?;
    rest.find(end).map(|at| &rest[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_named() {
        let rule = |message: &str| Rule::of(message).to_string();
        let messages = [
            r#"pods "x" is forbidden: violates PodSecurity "restricted:latest": privileged (container "a" must not set)"#,
            r#"pods "x" is forbidden: exceeded quota: small, requested: limits.memory=1Gi, used: limits.memory=0, limited: limits.memory=64Mi"#,
            r#"Error creating: pods "x" is forbidden: failed quota: strict: must specify limits.cpu for: builder"#,
            r#"pods "x" is forbidden: maximum memory usage per Container is 64Mi, but limit is 1Gi"#,
            r#"admission webhook "policy.example.com" denied the request: no pods on Sundays"#,
            r"pods 'x' is forbidden: ValidatingAdmissionPolicy 'no-pods' with binding 'all' denied request: no",
            r#"jobs.batch is forbidden: User "u" cannot create resource "jobs" in API group "batch" in the namespace "n""#,
            r#"pods "x" is forbidden: no PriorityClass with name gold was found"#,
            r#"namespaces "n" not found"#,
        ];
        insta::assert_snapshot!(messages.map(rule).join("\n"), @r"
        Pod Security `restricted`
        the quota `small`
        the quota `strict`
        a limit range
        the admission webhook `policy.example.com`
        the admission policy `no-pods`
        the cluster's access rules
        the API server
        the namespace
        ");
    }
}
