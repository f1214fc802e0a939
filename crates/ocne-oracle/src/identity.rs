//! Identity: compartments by their path, and the regions of a tenancy.

use serde::Deserialize;

use crate::client::{Call, Client};
use crate::error::OracleError;
use crate::region::Service;

/// Names that a message lists at most.
const NAMES_MAX: usize = 20;

/// A compartment.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compartment {
    /// Its OCID.
    pub id: String,
    /// OCID of the one that it is in; the tenancy at the top.
    pub compartment_id: Option<String>,
    /// Its name.
    pub name: String,
    /// `ACTIVE`, or something that makes it unusable.
    pub lifecycle_state: String,
}

impl Compartment {
    fn is_active(&self) -> bool {
        self.lifecycle_state == "ACTIVE"
    }
}

/// Why a compartment cannot be told by its path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompartmentProblem {
    /// The path is none.
    #[error(
        "`{path}` is no compartment: it is an OCID or names with slashes between them, such as `prod/images`"
    )]
    Path {
        /// What was given.
        path: String,
    },
    /// There is no active compartment of the name.
    #[error("there is no compartment `{name}` in {parent}{}", listed(present))]
    Missing {
        /// The name.
        name: String,
        /// Where it was looked for, for people.
        parent: String,
        /// What is there.
        present: Vec<String>,
        /// Paths of compartments of that name that are elsewhere.
        elsewhere: Vec<String>,
    },
}

fn listed(names: &[String]) -> String {
    match names.len() {
        0 => ", and no other that this user may see".to_owned(),
        1..=NAMES_MAX => format!("; it has: {}", names.join(", ")),
        more => format!("; it has: {} and {} more", names[..NAMES_MAX].join(", "), more - NAMES_MAX),
    }
}

impl CompartmentProblem {
    /// What a person can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { elsewhere, .. } if !elsewhere.is_empty() => {
                let paths: Vec<String> = elsewhere.iter().map(|path| format!("`{path}`")).collect();
                Some(format!("a path begins at the root of the tenancy; there is {}", paths.join(", ")))
            }
            Self::Missing { .. } => Some(
                "the policy statement `Allow group GROUP to inspect compartments in tenancy` shows all of them; an OCID needs none".to_owned(),
            ),
            Self::Path { .. } => None,
        }
    }
}

#[derive(Deserialize)]
struct RegionName {
    name: String,
}

impl Client {
    /// The OCID of a compartment that is given by OCID, or by names with slashes between them from the root.
    ///
    /// # Errors
    /// When there is none, or the service refuses.
    pub async fn find_compartment(&self, path: &str) -> Result<String, OracleError> {
        if path.starts_with("ocid1.compartment.") || path.starts_with("ocid1.tenancy.") {
            return Ok(path.to_owned());
        }
        let names: Vec<&str> = path.split('/').collect();
        if names.iter().any(|name| name.is_empty()) || path.starts_with("ocid1.") {
            return Err(CompartmentProblem::Path { path: path.to_owned() }.into());
        }
        let tenancy = &self.settings().tenancy;
        let (mut at, mut parent) = (tenancy.clone(), "the root of the tenancy".to_owned());
        for (depth, name) in names.iter().enumerate() {
            let children = self.compartments(&at, false).await?;
            let Some(child) = children.iter().find(|c| c.is_active() && c.name == *name) else {
                let mut present: Vec<String> =
                    children.into_iter().filter(Compartment::is_active).map(|c| c.name).collect();
                present.sort();
                let elsewhere = if depth == 0 { self.paths_of(name).await } else { Vec::new() };
                let name = (*name).to_owned();
                return Err(CompartmentProblem::Missing { name, parent, present, elsewhere }.into());
            };
            at.clone_from(&child.id);
            parent = format!("`{}`", names[..=depth].join("/"));
        }
        Ok(at)
    }

    /// Where in the tenancy active compartments of a name are; nothing when this user may not list it.
    async fn paths_of(&self, name: &str) -> Vec<String> {
        let Ok(all) = self.compartments(&self.settings().tenancy, true).await else { return Vec::new() };
        all.iter().filter(|c| c.name == name).filter_map(|c| path_of(c, &all)).collect()
    }

    async fn compartments(&self, parent: &str, whole_tree: bool) -> Result<Vec<Compartment>, OracleError> {
        self.list(|| {
            let call = Call::get("list the compartments", Service::Identity, "/compartments")
                .right("inspect compartments in tenancy")
                .query("compartmentId", parent)
                .query("lifecycleState", "ACTIVE")
                .query("limit", "1000");
            if whole_tree { call.query("compartmentIdInSubtree", "true") } else { call }
        })
        .await
    }

    /// Names of the regions that there are. A Private Cloud Appliance has exactly one.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn regions(&self) -> Result<Vec<String>, OracleError> {
        let call = Call::get("list the regions", Service::Identity, "/regions")
            .right("inspect tenancies in tenancy");
        let regions: Vec<RegionName> = self.send(call).await?.json()?;
        Ok(regions.into_iter().map(|region| region.name).collect())
    }
}

/// The path of a compartment, if all that it is in are active and known.
fn path_of(compartment: &Compartment, all: &[Compartment]) -> Option<String> {
    let mut names = Vec::new();
    let mut at = Some(compartment);
    while let Some(compartment) = at {
        if !compartment.is_active() || names.len() > 10 {
            return None;
        }
        names.push(compartment.name.as_str());
        at = all.iter().find(|c| Some(&c.id) == compartment.compartment_id.as_ref());
    }
    names.reverse();
    Some(names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let compartment = |id: &str, parent: &str, name: &str| Compartment {
            id: id.to_owned(),
            compartment_id: Some(parent.to_owned()),
            name: name.to_owned(),
            lifecycle_state: "ACTIVE".to_owned(),
        };
        let mut all = vec![compartment("1", "root", "prod"), compartment("2", "1", "images")];
        assert_eq!(path_of(&all[1], &all).unwrap(), "prod/images");
        all[0].lifecycle_state = "DELETED".to_owned();
        assert_eq!(path_of(&all[1], &all), None);
        let circle = [compartment("1", "2", "a"), compartment("2", "1", "b")];
        assert_eq!(path_of(&circle[0], &circle), None);
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..30).map(|n| format!("c{n}")).collect();
        assert!(listed(&names).ends_with("c19 and 10 more"));
        assert_eq!(listed(&names[..2]), "; it has: c0, c1");
    }
}
