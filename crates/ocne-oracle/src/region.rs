//! Regions, realms, and where the services of a region are.
//!
//! Which regions there are is data (`data/*.tsv`), compared with the official Python SDK by `scripts/check-regions.py`.

use serde::Deserialize;

const REGIONS: &str = include_str!("../data/regions.tsv");
const REALMS: &str = include_str!("../data/realms.tsv");
/// The domain of the first realm, which unknown regions are taken to be in.
const COMMERCIAL_DOMAIN: &str = "oraclecloud.com";

/// A service that this client speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Users, compartments, regions.
    Identity,
    /// Images, shapes, work requests.
    Compute,
    /// Buckets and objects.
    ObjectStorage,
    /// Repositories of container images.
    Artifacts,
}

impl Service {
    /// What every path of the service begins with.
    pub(crate) fn base_path(self) -> &'static str {
        match self {
            Self::Identity | Self::Compute | Self::Artifacts => "/20160918",
            Self::ObjectStorage => "",
        }
    }
}

/// A region, as far as addresses need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its identifier, such as `us-ashburn-1`; a domain when that is what was configured.
    pub name: String,
    /// The realm's domain, such as `oraclecloud.com`; none when the name is a domain already.
    domain: Option<String>,
}

/// What `regions-config.json` and `OCI_REGION_METADATA` say about a region.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    realm_domain_component: String,
    region_key: String,
    region_identifier: String,
}

/// Where regions that the table does not have may be described.
#[derive(Debug, Clone, Default)]
pub struct MoreRegions {
    /// Content of `~/.oci/regions-config.json`: an array.
    pub file: Option<String>,
    /// Value of `OCI_REGION_METADATA`: one object.
    pub metadata: Option<String>,
    /// Value of `OCI_DEFAULT_REALM`: a domain.
    pub default_realm: Option<String>,
}

impl Region {
    /// Finds a region by its identifier or three-letter key, in any case. One that nobody describes is taken for a
    /// domain if it has a dot, and otherwise for a new region of the first realm, as the SDKs do.
    pub fn find(text: &str, more: &MoreRegions) -> Self {
        let wanted = text.trim().to_ascii_lowercase();
        for (name, key, realm) in
            table(REGIONS).filter_map(|row| Some((*row.first()?, *row.get(1)?, *row.get(2)?)))
        {
            if wanted == name || wanted == key {
                let domain = realm_domain(realm).unwrap_or(COMMERCIAL_DOMAIN);
                return Self { name: name.to_owned(), domain: Some(domain.to_owned()) };
            }
        }
        let listed = more.file.as_deref().and_then(|text| serde_json::from_str::<Vec<Metadata>>(text).ok());
        let single = more.metadata.as_deref().and_then(|text| serde_json::from_str::<Metadata>(text).ok());
        for region in listed.into_iter().flatten().chain(single) {
            if [&region.region_identifier, &region.region_key]
                .into_iter()
                .any(|n| n.eq_ignore_ascii_case(&wanted))
            {
                let name = region.region_identifier.to_ascii_lowercase();
                return Self { name, domain: Some(region.realm_domain_component.to_ascii_lowercase()) };
            }
        }
        let domain = match &more.default_realm {
            _ if wanted.contains('.') => None,
            Some(domain) => Some(domain.to_ascii_lowercase()),
            None => Some(COMMERCIAL_DOMAIN.to_owned()),
        };
        Self { name: wanted, domain }
    }

    /// Name of the host of a service.
    pub fn host(&self, service: Service) -> String {
        let name = &self.name;
        match (&self.domain, service) {
            (Some(domain), Service::Identity) => format!("identity.{name}.oci.{domain}"),
            (Some(domain), Service::Compute) => format!("iaas.{name}.{domain}"),
            (Some(domain), Service::ObjectStorage) => format!("objectstorage.{name}.{domain}"),
            (Some(domain), Service::Artifacts) => format!("artifacts.{name}.oci.{domain}"),
            (None, Service::Artifacts) => format!("artifacts.{name}"),
            (None, Service::Identity) => format!("identity.{name}"),
            (None, Service::Compute) => format!("iaas.{name}"),
            (None, Service::ObjectStorage) => format!("objectstorage.{name}"),
        }
    }

    /// Name of the host of the registry of container images: by the region's key where there is one, as everybody writes it.
    pub fn registry_host(&self) -> String {
        let row = table(REGIONS).find(|row| row.first() == Some(&self.name.as_str()));
        match (&self.domain, row.as_deref()) {
            (Some(domain), Some([_, key, _])) if domain == COMMERCIAL_DOMAIN => format!("{key}.ocir.io"),
            (Some(domain), _) => format!("ocir.{}.oci.{domain}", self.name),
            (None, _) => format!("ocir.{}", self.name),
        }
    }

    /// Name of the host that gives tokens to instances.
    pub fn federation_host(&self) -> String {
        match &self.domain {
            Some(domain) => format!("auth.{}.{domain}", self.name),
            None => format!("auth.{}", self.name),
        }
    }
}

fn table(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t').collect())
}

fn realm_domain(realm: &str) -> Option<&'static str> {
    table(REALMS).find(|row| row.first() == Some(&realm)).and_then(|row| row.get(1).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Region {
        Region::find(text, &MoreRegions::default())
    }

    #[test]
    fn every_region_of_the_table_has_a_realm_with_a_domain() {
        let rows: Vec<_> = table(REGIONS).collect();
        assert!(rows.len() >= 85, "{}", rows.len());
        for row in rows {
            assert_eq!(row.len(), 3, "{row:?}");
            assert!(realm_domain(row[2]).is_some(), "{row:?}");
        }
    }

    #[test]
    fn hosts() {
        let host = |region: &str, service| find(region).host(service);
        assert_eq!(host("IAD", Service::Compute), "iaas.us-ashburn-1.oraclecloud.com");
        assert_eq!(host("us-ashburn-1", Service::Identity), "identity.us-ashburn-1.oci.oraclecloud.com");
        assert_eq!(host("us-langley-1", Service::Compute), "iaas.us-langley-1.oraclegovcloud.com");
        assert_eq!(host("eu-madrid-2", Service::ObjectStorage), "objectstorage.eu-madrid-2.oraclecloud.eu");
        assert_eq!(host("brand-new-1", Service::Compute), "iaas.brand-new-1.oraclecloud.com");
        assert_eq!(host("pca.example.com", Service::ObjectStorage), "objectstorage.pca.example.com");
        assert_eq!(host("iad", Service::Artifacts), "artifacts.us-ashburn-1.oci.oraclecloud.com");
        assert_eq!(find("us-ashburn-1").registry_host(), "iad.ocir.io");
        assert_eq!(find("us-langley-1").registry_host(), "ocir.us-langley-1.oci.oraclegovcloud.com");
        assert_eq!(find("brand-new-1").registry_host(), "ocir.brand-new-1.oci.oraclecloud.com");
        assert_eq!(find("pca.example.com").federation_host(), "auth.pca.example.com");
    }

    #[test]
    fn regions_that_are_described_elsewhere() {
        let one = |id: &str| {
            format!(
                r#"{{"realmKey":"OC77","realmDomainComponent":"example.cloud","regionKey":"XYZ","regionIdentifier":"{id}"}}"#
            )
        };
        let more = MoreRegions {
            file: Some(format!("[{}]", one("xx-file-1"))),
            metadata: Some(one("xx-env-1")),
            default_realm: Some("fallback.example".to_owned()),
        };
        let host = |region: &str| Region::find(region, &more).host(Service::Compute);
        assert_eq!(host("xx-file-1"), "iaas.xx-file-1.example.cloud");
        assert_eq!(host("xyz"), "iaas.xx-file-1.example.cloud");
        assert_eq!(host("xx-env-1"), "iaas.xx-env-1.example.cloud");
        assert_eq!(host("xx-none-1"), "iaas.xx-none-1.fallback.example");
        assert_eq!(host("us-phoenix-1"), "iaas.us-phoenix-1.oraclecloud.com");
        let broken =
            MoreRegions { file: Some("{".to_owned()), metadata: Some("[]".to_owned()), default_realm: None };
        assert_eq!(Region::find("xyz", &broken).host(Service::Compute), "iaas.xyz.oraclecloud.com");
    }
}
