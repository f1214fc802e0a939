//! What `ocne image create --report` says of an image: `docs/schemas/create-report.schema.json`.

use std::path::{Path, PathBuf};

use fs_err::File;
use ocne_bootimage::Architecture;
use serde::Deserialize;

use crate::error::UploadError;

/// The schemas that are understood begin with it.
const SCHEMA: &str = "ocne.image.create/1";
/// Reports list changed files; anything larger is none.
const MAX_BYTES: u64 = 16 << 20;

/// What an upload wants to know of a report.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct BuildReport {
    schema: String,
    pub architecture: Architecture,
    pub kubernetes_version: String,
    pub output: Output,
    /// Where it was found; whether somebody named it.
    #[serde(skip)]
    pub path: PathBuf,
    #[serde(skip)]
    pub is_named: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Output {
    pub sha256: String,
    pub size_bytes: u64,
}

impl BuildReport {
    /// Reads the report that was named, or the one beside the image (`IMAGE.report.json`), if there is one. None when that
    /// is of no use.
    pub fn find(named: Option<&Path>, image: &Path, size_bytes: u64) -> Result<Option<Self>, UploadError> {
        let path = named.map_or_else(|| beside(image), Path::to_owned);
        let refused = |reason: String| UploadError::Report { path: path.clone(), reason };
        let found = read(&path).and_then(|report| {
            if report.output.size_bytes == size_bytes {
                Ok(report)
            } else {
                Err(format!("it is of a file of {} bytes, not {size_bytes}", report.output.size_bytes))
            }
        });
        match found {
            Ok(report) => Ok(Some(Self { path, is_named: named.is_some(), ..report })),
            Err(reason) if named.is_some() => Err(refused(reason)),
            Err(reason) => {
                tracing::debug!("no report is used: `{}`: {reason}", path.display());
                Ok(None)
            }
        }
    }
}

fn beside(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".report.json");
    PathBuf::from(name)
}

fn read(path: &Path) -> Result<BuildReport, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    if file.metadata().map_err(|e| e.to_string())?.len() > MAX_BYTES {
        return Err(format!("it is longer than {MAX_BYTES} bytes"));
    }
    let report: BuildReport = serde_json::from_reader(std::io::BufReader::new(file))
        .map_err(|e| format!("it is no report of `ocne image create`: {e}"))?;
    if report.schema == SCHEMA {
        Ok(report)
    } else {
        Err(format!("its schema is `{}`, not `{SCHEMA}`", report.schema))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"{"schema":"ocne.image.create/1","architecture":"arm64","kubernetes_version":"1.32",
        "output":{"path":"/x","sha256":"ab","size_bytes":7},"more":[1]}"#;

    #[test]
    fn reports_are_found_beside_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("boot.oci");
        let find = |named, size| BuildReport::find(named, &image, size);
        assert_eq!(find(None, 7).unwrap(), None);
        let path = dir.path().join("boot.oci.report.json");
        fs_err::write(&path, REPORT).unwrap();
        let found = find(None, 7).unwrap().unwrap();
        assert_eq!((found.architecture, found.kubernetes_version.as_str()), (Architecture::Arm64, "1.32"));
        assert!(!found.is_named && find(Some(&path), 7).unwrap().unwrap().is_named);
        // Of another file: only one that was named is an error.
        assert_eq!(find(None, 8).unwrap(), None);
        assert!(matches!(find(Some(&path), 8), Err(UploadError::Report { .. })));
        fs_err::write(&path, REPORT.replace("create/1", "create/2")).unwrap();
        assert!(find(None, 7).unwrap().is_none() && find(Some(&path), 7).is_err());
        fs_err::write(&path, "{").unwrap();
        assert!(find(None, 7).unwrap().is_none() && find(Some(&path), 7).is_err());
    }
}
