//! `ocne image create --plan`.

use std::fmt::Write as _;

use ocne_build::{Origin, Plan};

use crate::progress::size;
use crate::terminal::printable;

/// What would be done, for people.
pub fn text(plan: &Plan) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<14} {}", printable(&value));
    };
    line("Source", plan.source.clone());
    match &plan.origin {
        Origin::File => line("", "a local file".to_owned()),
        Origin::Cache { digest } => line("", format!("in the cache, as {digest}")),
        Origin::Fetch { digest, compressed_bytes } => {
            line("", format!("to be fetched: {} compressed, as {digest}", size(*compressed_bytes)));
        }
    }
    line("Architecture", plan.architecture.clone());
    let replaced = if plan.replaces { ", which would be replaced" } else { "" };
    line("Output", format!("{}{replaced}", plan.output.display()));
    let known = |bytes: Option<u64>| bytes.map_or_else(|| "an unknown amount".to_owned(), size);
    line("Space", format!("{} needed, {} free", known(plan.needed_bytes), known(plan.available_bytes)));
    for (name, lines) in [("Builder", &plan.builder), ("Changes", &plan.changes)] {
        for (i, value) in lines.iter().enumerate() {
            line(if i == 0 { name } else { "" }, value.clone());
        }
    }
    out
}
