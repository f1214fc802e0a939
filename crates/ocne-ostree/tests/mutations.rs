//! Every published mutation of an encapsulated image: refused for its own reason, or accepted with the same result.

mod support;

use support::{Image, can_run, convert, options, run, sample, server};

/// What the refusal of each says.
const REASONS: [(&str, &str); 22] = [
    ("file-byte", ".file in layer 2 is damaged: its content, with its owner, mode and extended attributes,"),
    ("file-mode", ".file in layer 2 is damaged: its content, with its owner, mode and extended attributes,"),
    ("file-uid", ".file in layer 2 is damaged: its content, with its owner, mode and extended attributes,"),
    (
        "file-truncated",
        ".file in layer 2 is damaged: its content, with its owner, mode and extended attributes,",
    ),
    (
        "symlink-target",
        ".file in layer 2 is damaged: its content, with its owner, mode and extended attributes,",
    ),
    ("xattrs-byte", ".file-xattrs in layer 2 is damaged: its content has the checksum"),
    (
        "xattrs-swap",
        ".file in layer 2 is damaged: its content, with its owner, mode and extended attributes,",
    ),
    ("drop-xattrs", "has no `.file-xattrs-link` ahead of it"),
    ("drop-file", "the commit is not complete: `/"),
    ("drop-dirtree", ".dirtree, which no layer has"),
    ("drop-dirmeta", ".dirmeta, which no layer has"),
    ("drop-commit", "no layer has the commit"),
    ("dirtree-byte", ".dirtree in layer 1 is damaged: its content has the checksum"),
    ("commit-byte", ".commit in layer 1 is damaged: its content has the checksum"),
    ("drop-layer", "the commit is not complete: `/"),
    ("wrong-commit-label", "the label `ostree.commit` names 0000"),
    ("no-diffid-label", "the image holds no ostree commit"),
    ("bad-diffid-label", "the label `ostree.final-diffid` names sha256:abab"),
    ("v0-label", "the image has the old layout of encapsulated commits"),
    ("derived-layer", "the image has 1 layers on top of those of the ostree commit"),
    ("two-commits", "the image has two commits, 6b1e342d"),
    ("evil-path", "which leads out of the image"),
];

#[test]
fn every_mutation_is_refused_or_accepted() {
    if !can_run("every_mutation_is_refused_or_accepted", &["python3", "zstd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.tar");
    let whole = convert(&Image::read(&sample()), server(), &options(), &output).unwrap();
    let list = run("ociarchive.py", &[&"mutate", &"-", &"-", &"help"]);
    let list = String::from_utf8(list.stdout).unwrap();
    let kinds: Vec<(&str, &str)> = list
        .lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            (words.next().unwrap(), words.next().unwrap())
        })
        .collect();
    assert_eq!(kinds.len(), 27);
    for (kind, expected) in kinds {
        let mutated = dir.path().join("mutated.tar");
        let made = run("ociarchive.py", &[&"mutate", &sample(), &mutated, &kind]);
        assert!(made.status.success(), "{kind}: {}", String::from_utf8_lossy(&made.stderr));
        let result = convert(&Image::read(&mutated), server(), &options(), &output);
        match expected {
            "accept" => {
                let written = result.unwrap_or_else(|e| panic!("{kind}: {e}"));
                assert_eq!(written.layer, whole.layer, "{kind}: the same repository");
                assert_eq!(written.imported, whole.imported, "{kind}");
            }
            // Without the names that importers look for, there is no commit.
            "either" => assert_eq!(result.unwrap_err().to_string(), "no layer has the commit", "{kind}"),
            _ => {
                let reason = REASONS.iter().find(|(k, _)| *k == kind).map(|(_, reason)| *reason);
                let reason = reason.unwrap_or_else(|| panic!("{kind} is new"));
                let message = result.expect_err(kind).to_string();
                assert!(message.contains(reason), "{kind}: {message}");
            }
        }
    }
}
