//! Programs for other machines, on this one: the agent of pods whose image does not have it, and the server in our images.

use std::path::PathBuf;

use ocne_bootimage::Architecture;

use crate::error::BuildError;

/// Names the folder with the programs, over the usual places.
const FOLDER_VARIABLE: &str = "OCNE_AGENT_DIR";
/// A program is a few MB.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a program for an architecture: `NAME-ARCH`, such as `ocne-agent-arm64`, in the folder that `OCNE_AGENT_DIR` names, beside this program,
/// or in `../libexec/ocne` from it.
///
/// # Errors
/// When it is nowhere.
pub(crate) fn program(name: &str, architecture: Architecture) -> Result<Vec<u8>, BuildError> {
    let name = format!("{name}-{architecture}");
    let places = folders().into_iter().map(|folder| folder.join(&name)).collect::<Vec<_>>();
    let Some(path) = places.iter().find(|path| path.is_file()) else {
        return Err(BuildError::NoProgram { name, places });
    };
    let io = |source| BuildError::Io { action: "read the program", source };
    let size_bytes = fs_err::metadata(path).map_err(io)?.len();
    if size_bytes > MAX_BYTES {
        return Err(io(std::io::ErrorKind::FileTooLarge.into()));
    }
    fs_err::read(path).map_err(io)
}

fn folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE).filter(|v| !v.is_empty()) {
        return vec![folder.into()];
    }
    let program = std::env::current_exe().ok();
    let beside = program.as_deref().and_then(|p| p.parent()).map(std::path::Path::to_owned);
    let libexec = beside.as_deref().and_then(|p| p.parent()).map(|p| p.join("libexec/ocne"));
    beside.into_iter().chain(libexec).collect()
}
