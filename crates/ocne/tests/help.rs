//! Help texts, completions and man pages: for every verb, no wider than 100 columns, and as they were reviewed.

mod support;

use support::Home;

const VERBS: &[&[&str]] = &[
    &[],
    &["image"],
    &["image", "create"],
    &["image", "copy"],
    &["image", "info"],
    &["image", "upload"],
    &["image", "export"],
    &["image", "list"],
    &["image", "show"],
    &["image", "delete"],
    &["image", "cache"],
    &["image", "cache", "list"],
    &["image", "cache", "prune"],
    &["oci"],
    &["oci", "setup"],
    &["oci", "whoami"],
    &["oci", "auth-token"],
    &["oci", "auth-token", "create"],
    &["oci", "auth-token", "list"],
    &["oci", "auth-token", "delete"],
    &["registry"],
    &["registry", "login"],
    &["registry", "logout"],
    &["registry", "whoami"],
    &["registry", "repo"],
    &["registry", "repo", "create"],
    &["registry", "repo", "list"],
    &["registry", "repo", "delete"],
    &["gc"],
    &["config"],
    &["config", "show"],
    &["completion"],
    &["version"],
];

#[test]
fn help_texts() {
    let home = Home::new();
    let mut all = String::new();
    for verb in VERBS {
        for flag in ["-h", "--help"] {
            let mut command = home.ocne(verb);
            command.arg(flag).env("COLUMNS", "200");
            let help = support::Ran::of(&mut command).ok();
            for line in help.lines() {
                assert!(line.chars().count() <= 100, "{verb:?} {flag}: {line}");
            }
            let leaf = !help.contains("\nCommands:");
            assert!(!leaf || help.contains("Examples:\n  ocne "), "{verb:?} {flag} has no examples:\n{help}");
            if flag == "-h" {
                all.extend(["$ ocne ", &verb.join(" "), " -h\n", &help, "\n"]);
            }
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn no_verb_is_forgotten_here() {
    let home = Home::new();
    for verb in VERBS {
        let help = home.run(&[verb, &["-h"][..]].concat()).ok();
        let commands = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
        for line in commands.lines().take_while(|l| !l.is_empty()) {
            let name = line.split_whitespace().next().unwrap();
            let path = [verb, &[name][..]].concat();
            assert!(VERBS.contains(&path.as_slice()), "{path:?}");
        }
    }
}

#[test]
fn completions_know_every_verb_and_flag() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&["completion", shell]).ok();
        for word in ["create", "cache", "completion", "recompress", "no-preflight"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        assert!(!script.contains("man-pages"), "{shell}");
    }
}

#[test]
fn man_pages() {
    let home = Home::new();
    home.run(&["man", "--dir", "pages"]).ok();
    let mut pages: Vec<_> = fs_err::read_dir(home.path().join("pages"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    let mut expected: Vec<String> = VERBS.iter().map(|v| [&["ocne"], *v].concat().join("-") + ".1").collect();
    expected.sort();
    assert_eq!(pages, expected);
    for page in pages {
        let text = fs_err::read_to_string(home.path().join("pages").join(&page)).unwrap();
        assert!(text.contains("130  ended by Ctrl\\-C"), "{page} has no exit status");
        assert!(text.contains("OCNE_DEFAULTS"), "{page} has no environment");
    }
}
