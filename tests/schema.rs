//! A checker for the published JSON schemas.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What in a value is against `docs/schemas/NAME`; every keyword that those schemas use is understood, others panic.
pub fn wrong_in(name: &str, value: &Value) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas").join(name);
    let schema: Value = serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    check(&schema, &schema, value, "$", &mut wrong);
    wrong
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        let ok = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = rule.as_str().unwrap().trim_start_matches('#');
                check(root, root.pointer(pointer).expect("a definition"), value, at, wrong);
                true
            }
            "type" => has_type(rule, value),
            "const" => rule == value,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64().is_none_or(|v| v >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|v| v <= rule.as_f64().unwrap()),
            "pattern" => value.as_str().is_none_or(|v| matches(rule.as_str().unwrap(), v)),
            "required" => value.as_object().is_none_or(|o| {
                rule.as_array().unwrap().iter().all(|name| o.contains_key(name.as_str().unwrap()))
            }),
            "properties" => {
                for (name, inner) in rule.as_object().unwrap() {
                    if let Some(member) = value.get(name) {
                        check(root, inner, member, &format!("{at}.{name}"), wrong);
                    }
                }
                true
            }
            "additionalProperties" => value.as_object().is_none_or(|o| {
                let mut more = o.iter().filter(|(name, _)| schema["properties"].get(name).is_none());
                if rule.is_object() {
                    more.for_each(|(name, inner)| check(root, rule, inner, &format!("{at}.{name}"), wrong));
                    return true;
                }
                assert_eq!(rule, &Value::Bool(false));
                more.next().is_none()
            }),
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}[{i}]"), wrong);
                }
                true
            }
            other => panic!("the keyword `{other}` is not understood"),
        };
        if !ok {
            wrong.push(format!("{at}: {value} is against {keyword} {rule}"));
        }
    }
}

fn has_type(rule: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type `{other}` is not understood"),
    };
    match rule {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().any(|n| is(n.as_str().unwrap())),
        _ => panic!("a type is a name or a list of names"),
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    // grep knows all that the patterns use; there is no reason for a dependency
    let mut grep = Command::new("grep").args(["-qE", pattern]).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut grep.stdin.take().unwrap(), text.as_bytes()).unwrap();
    grep.wait().unwrap().success()
}
