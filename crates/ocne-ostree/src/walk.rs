//! Whether a commit is whole: everything that its folders name is there, and nothing else is.

use std::collections::HashSet;

use crate::checksum::Checksum;
use crate::error::OstreeError;
use crate::import::Found;
use crate::metadata::{Commit, Node, read_dirtree};
use crate::object::{Kind, Object};

/// Goes through the tree of a commit.
pub(crate) fn walk(found: &Found, commit: &Commit) -> Result<(), OstreeError> {
    let mut files: HashSet<Checksum> = HashSet::with_capacity(found.files.len());
    let mut metas: HashSet<Checksum> = HashSet::new();
    let mut trees: HashSet<Checksum> = HashSet::new();
    // Folders by the one above them and their name: whole paths are only made for messages, as they may be long.
    let mut places: Vec<(usize, &str)> = vec![(0, "")];
    let missing = |places: &[(usize, &str)], place, name: &str, checksum, kind| OstreeError::Missing {
        path: path_of(places, place, name),
        object: Object { checksum, kind }.to_string(),
    };
    metas.insert(commit.root_meta);
    if !found.dirmetas.contains(&commit.root_meta) {
        return Err(missing(&places, 0, "", commit.root_meta, Kind::DirMeta));
    }
    // Each tree is looked at once, however often it is used: folders that repeat each other cost nothing.
    let mut pending = vec![(0, commit.root_tree)];
    trees.insert(commit.root_tree);
    while let Some((place, checksum)) = pending.pop() {
        let tree = found.dirtrees.get(&checksum);
        let tree = tree.ok_or_else(|| missing(&places, place, "", checksum, Kind::DirTree))?;
        let mut problem = None;
        let read = read_dirtree(tree, &mut |node| {
            let absent = match node {
                Node::File { name, content } => {
                    files.insert(content);
                    (!found.files.contains(&content)).then_some((name, content, Kind::File))
                }
                Node::Folder { name, tree, meta } => {
                    if trees.insert(tree) {
                        places.push((place, name));
                        pending.push((places.len() - 1, tree));
                    }
                    metas.insert(meta);
                    (!found.dirmetas.contains(&meta)).then_some((name, meta, Kind::DirMeta))
                }
            };
            problem = problem.or(absent);
        });
        read.map_err(|source| OstreeError::Malformed {
            object: Object { checksum, kind: Kind::DirTree }.to_string(),
            source,
        })?;
        if let Some((name, checksum, kind)) = problem {
            return Err(missing(&places, place, name, checksum, kind));
        }
    }
    nothing_else(&mut found.files.iter(), &files, Kind::File)?;
    nothing_else(&mut found.dirtrees.keys(), &trees, Kind::DirTree)?;
    nothing_else(&mut found.dirmetas.iter(), &metas, Kind::DirMeta)
}

/// The path of something in a folder; of the folder itself without a name.
fn path_of(places: &[(usize, &str)], mut place: usize, name: &str) -> String {
    let mut parts = vec![name];
    while place != 0 && parts.len() < 64 {
        parts.push(places[place].1);
        place = places[place].0;
    }
    parts.reverse();
    let path: String = parts.join("/").trim_end_matches('/').chars().flat_map(char::escape_debug).collect();
    let start = if place == 0 { "/" } else { "…/" };
    format!("{start}{path}").chars().take(300).collect()
}

fn nothing_else(
    found: &mut dyn Iterator<Item = &Checksum>,
    needed: &HashSet<Checksum>,
    kind: Kind,
) -> Result<(), OstreeError> {
    let extra: Vec<&Checksum> = found.filter(|checksum| !needed.contains(checksum)).collect();
    // The same one for every run.
    match extra.iter().min() {
        None => Ok(()),
        Some(&&checksum) => Err(OstreeError::Unreachable {
            count: extra.len(),
            object: Object { checksum, kind }.to_string(),
        }),
    }
}
