//! Who signed a commit: its GPG signatures, verified with the keys that the user gives.
//!
//! The keys are trusted as they are in the file; what they say of themselves is verified, and counts: a key that was
//! revoked or has expired vouches for nothing, nor does a subkey that is not bound to its key, or not meant for signing.
//! No signature counts whose digest is weak, not even one of a key of itself; only what takes something back does.

use std::fmt;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pgp::composed::{Deserializable as _, DetachedSignature, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureConfig, SignatureType, SubpacketData};
use pgp::types::{Fingerprint, KeyDetails, Tag, Timestamp, VerifyingKey};

use crate::error::BuildError;

/// A file of keys is smaller than that.
const KEYS_MAX_BYTES: u64 = 8 << 20;
/// So many signatures are looked at.
const SIGNATURES_MAX: usize = 100;
/// Clocks differ by so much.
const SKEW_SECONDS: u64 = 3600;
/// How each key of a text begins.
const ARMOR: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";

/// Why a commit is not taken for signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// There is none.
    #[error("the commit has no GPG signature")]
    None,
    /// None of them counts.
    #[error("none of the commit's GPG signatures counts: {}", reasons.join("; "))]
    NotValid {
        /// Why not, for each.
        reasons: Vec<String>,
    },
}

/// The keys of a file.
pub(crate) struct Keys {
    path: PathBuf,
    keys: Vec<SignedPublicKey>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("path", &self.path).field("keys", &self.keys.len()).finish()
    }
}

impl Keys {
    /// Reads a file of public keys, binary or as text, as `gpg --export` writes it.
    ///
    /// # Errors
    /// When there are none in it.
    pub fn read(path: &Path) -> Result<Self, BuildError> {
        let io = |source| BuildError::Io { action: "read the GPG keys", source };
        let refused = |reason: String| BuildError::GpgKeys { path: path.to_owned(), reason };
        let no_key =
            |e: &pgp::errors::Error| refused(format!("what is in it is no OpenPGP public key ({e})"));
        let size_bytes = fs_err::metadata(path).map_err(io)?.len();
        if size_bytes > KEYS_MAX_BYTES {
            return Err(refused(format!("it has {size_bytes} bytes, and at most {KEYS_MAX_BYTES} are read")));
        }
        let content = fs_err::read(path).map_err(io)?;
        let text = std::str::from_utf8(&content).ok().filter(|text| text.contains(ARMOR));
        let blocks: Vec<&[u8]> = match text {
            Some(text) => {
                let starts: Vec<usize> = text.match_indices(ARMOR).map(|(at, _)| at).collect();
                let ends = starts.iter().skip(1).copied().chain([text.len()]);
                starts.iter().zip(ends).map(|(&from, to)| &content[from..to]).collect()
            }
            None => vec![&content],
        };
        let mut keys = Vec::new();
        for block in blocks {
            let (found, _) = SignedPublicKey::from_reader_many(Cursor::new(block)).map_err(|e| no_key(&e))?;
            for key in found {
                keys.push(key.map_err(|e| no_key(&e))?);
            }
        }
        if keys.is_empty() {
            return Err(refused("there is no public key in it".to_owned()));
        }
        Ok(Self { path: path.to_owned(), keys })
    }

    /// Who signed these bytes: the fingerprint of the first key of the file that has, in hexadecimal digits.
    ///
    /// # Errors
    /// When none of them has.
    pub fn verify(&self, content: &[u8], signatures: &[Vec<u8>]) -> Result<String, SignatureError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if signatures.is_empty() {
            return Err(SignatureError::None);
        }
        let mut reasons = Vec::new();
        let parsed =
            signatures.iter().flat_map(|bytes| DetachedSignature::from_bytes_many(Cursor::new(bytes)));
        for signature in parsed.flatten().take(SIGNATURES_MAX) {
            match signature.map_err(|e| format!("it cannot be read: {e}")) {
                Ok(found) => match self.check(&found.signature, content, now) {
                    Ok(fingerprint) => return Ok(fingerprint),
                    Err(reason) => reasons.push(reason),
                },
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            reasons.push("they cannot be read".to_owned());
        }
        Err(SignatureError::NotValid { reasons })
    }

    /// One signature: the fingerprint of the key that made it.
    fn check(&self, signature: &Signature, content: &[u8], now: u64) -> Result<String, String> {
        let named = signature.issuer_fingerprint().into_iter().map(hex).next();
        let named =
            named.or_else(|| signature.issuer_key_id().first().map(|id| id.to_string().to_uppercase()));
        let who = named.clone().unwrap_or_else(|| "an unknown key".to_owned());
        for key in &self.keys {
            if is_by(signature, &key.primary_key) {
                let found = by_primary(key, signature, content, now);
                return found.map(|()| who.clone()).map_err(|reason| format!("that of {who} {reason}"));
            }
            for subkey in &key.public_subkeys {
                if is_by(signature, &subkey.key) {
                    let found = by_subkey(key, subkey, signature, content, now);
                    return found.map(|()| who.clone()).map_err(|reason| format!("that of {who} {reason}"));
                }
            }
        }
        Err(format!("that of {who} is by no key in `{}`", self.path.display()))
    }
}

fn by_primary(key: &SignedPublicKey, signature: &Signature, content: &[u8], now: u64) -> Result<(), String> {
    let binding = check_primary(key, now)?;
    if !may_sign(binding) {
        return Err("is by a key that is not meant for signing".to_owned());
    }
    check_signature(&key.primary_key, signature, content, now)
}

fn by_subkey(
    key: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    signature: &Signature,
    content: &[u8],
    now: u64,
) -> Result<(), String> {
    check_primary(key, now)?;
    let valid =
        subkey.signatures.iter().filter(|s| s.verify_subkey_binding(&key.primary_key, &subkey.key).is_ok());
    let (revocations, bindings): (Vec<&Signature>, Vec<&Signature>) =
        valid.partition(|s| s.typ() == Some(SignatureType::SubkeyRevocation));
    if !revocations.is_empty() {
        return Err("is by a subkey that was revoked".to_owned());
    }
    let binding = latest(bindings.into_iter()).ok_or("is by a subkey that its key does not vouch for")?;
    check_digest(binding, "is by a subkey for which its key vouches")?;
    // Without this, anybody could take the subkey of somebody else for their own.
    let back = binding.embedded_signature();
    if !binding.key_flags().sign()
        || back.is_none_or(|b| b.verify_primary_key_binding(&subkey.key, &key.primary_key).is_err())
    {
        return Err("is by a subkey that is not meant for signing".to_owned());
    }
    back.map_or(Ok(()), |back| check_digest(back, "is by a subkey that vouches for its key"))?;
    check_expiry(&subkey.key, binding, now)?;
    check_signature(&subkey.key, signature, content, now)
}

/// Whether a signature says that it is by this key.
fn is_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        return signature.issuer_key_id().into_iter().any(|id| *id == key.legacy_key_id());
    }
    fingerprints.into_iter().any(|f| *f == key.fingerprint())
}

/// What a key says of itself last, if it is of use now.
fn check_primary(key: &SignedPublicKey, now: u64) -> Result<&Signature, String> {
    let primary = &key.primary_key;
    if key.details.revocation_signatures.iter().any(|s| s.verify_key(primary).is_ok()) {
        return Err("is by a key that was revoked".to_owned());
    }
    let direct = key.details.direct_signatures.iter().filter(|s| s.verify_key(primary).is_ok());
    let of_users = key.details.users.iter().flat_map(|user| {
        let by_itself = user.signatures.iter().filter(|s| s.is_certification() && is_by(s, primary));
        by_itself.filter(|s| s.verify_certification(primary, Tag::UserId, &user.id).is_ok())
    });
    let binding = latest(direct.chain(of_users)).ok_or("is by a key that says nothing of itself")?;
    check_digest(binding, "is by a key that vouches for itself")?;
    check_expiry(primary, binding, now)?;
    Ok(binding)
}

/// Whether the digest that a signature is of is one that nobody can find another content for.
fn check_digest(signature: &Signature, what: &str) -> Result<(), String> {
    use HashAlgorithm::{Md5, Ripemd160, Sha1, Sha3_256, Sha3_512, Sha224, Sha256, Sha384, Sha512};
    let name = match signature.hash_alg() {
        Some(Sha224 | Sha256 | Sha384 | Sha512 | Sha3_256 | Sha3_512) => return Ok(()),
        Some(Md5) => "MD5",
        Some(Sha1) => "SHA-1",
        Some(Ripemd160) => "RIPEMD-160",
        _ => "a digest that is not known here",
    };
    Err(format!("{what} by {name}, which is too weak to count"))
}

fn latest<'s>(signatures: impl Iterator<Item = &'s Signature>) -> Option<&'s Signature> {
    signatures.max_by_key(|s| s.created().map_or(0, Timestamp::as_secs))
}

/// Whether a key is meant for signing, as far as it says so.
fn may_sign(binding: &Signature) -> bool {
    let subpackets = binding.config().map(SignatureConfig::hashed_subpackets);
    let says = subpackets.into_iter().flatten().any(|p| matches!(p.data, SubpacketData::KeyFlags(_)));
    !says || binding.key_flags().sign()
}

fn check_expiry(key: &impl KeyDetails, binding: &Signature, now: u64) -> Result<(), String> {
    let lasts = binding.key_expiration_time().map_or(0, |d| std::time::Duration::from(d).as_secs());
    if lasts != 0 && u64::from(key.created_at().as_secs()).saturating_add(lasts) <= now {
        return Err("is by a key that has expired".to_owned());
    }
    Ok(())
}

fn check_signature(
    key: &impl VerifyingKey,
    signature: &Signature,
    content: &[u8],
    now: u64,
) -> Result<(), String> {
    if signature.typ() != Some(SignatureType::Binary) {
        return Err("is not one of a file".to_owned());
    }
    check_digest(signature, "is")?;
    let created = signature.created().map_or(0, |c| u64::from(c.as_secs()));
    if created > now.saturating_add(SKEW_SECONDS) || created < u64::from(key.created_at().as_secs()) {
        return Err("is of the future, or older than its key".to_owned());
    }
    let lasts = signature.signature_expiration_time().map_or(0, |d| std::time::Duration::from(d).as_secs());
    if lasts != 0 && created.saturating_add(lasts) <= now {
        return Err("has expired".to_owned());
    }
    signature.verify(key, content).map_err(|_| "is not of this commit".to_owned())
}

fn hex(fingerprint: &Fingerprint) -> String {
    fingerprint.to_string().to_uppercase()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    /// A folder of gpg, and a commit that its programs have made.
    struct Gpg {
        dir: tempfile::TempDir,
    }

    impl Gpg {
        /// None where the programs are not installed.
        fn new(test: &str) -> Option<Self> {
            for program in ["gpg", "ostree"] {
                if Command::new(program).arg("--version").output().is_err() {
                    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs {program}");
                    return None;
                }
            }
            Some(Self { dir: tempfile::tempdir().unwrap() })
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Runs a line of shell with the folder of gpg as its home.
        fn sh(&self, line: &str) -> Vec<u8> {
            let mut command = Command::new("bash");
            command.args(["-euc", line]).current_dir(self.dir.path()).env("GNUPGHOME", self.dir.path());
            let out = command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output().unwrap();
            assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
            out.stdout
        }

        /// Makes a key; `when` are options of gpg.
        fn key(&self, name: &str, algorithm: &str, expiry: &str, when: &str) {
            self.sh(&format!(
                "gpg {when} --batch --quiet --pinentry-mode loopback --passphrase '' --quick-generate-key {name}@example {algorithm} sign {expiry}"
            ));
        }

        fn keys(&self, name: &str, options: &str) -> Keys {
            self.sh(&format!("gpg {options} --batch --quiet --export {name}@example > {name}.gpg"));
            Keys::read(&self.path(&format!("{name}.gpg"))).unwrap()
        }

        fn signature(&self, name: &str, options: &str, content: &[u8]) -> Vec<Vec<u8>> {
            fs_err::write(self.path("content"), content).unwrap();
            vec![self.sh(&format!(
                "gpg {options} --batch --quiet --pinentry-mode loopback --passphrase '' -u {name}@example --detach-sign -o - content"
            ))]
        }
    }

    impl Drop for Gpg {
        fn drop(&mut self) {
            self.sh("gpgconf --kill all || true");
        }
    }

    fn reason(verified: Result<String, SignatureError>) -> String {
        verified.unwrap_err().to_string()
    }

    #[test]
    fn what_ostree_has_signed_is_signed() {
        let Some(gpg) = Gpg::new("what_ostree_has_signed_is_signed") else { return };
        gpg.key("good", "ed25519", "never", "");
        gpg.key("other", "rsa2048", "never", "");
        gpg.sh("mkdir tree && echo hello > tree/file && ostree init --repo=repo --mode=archive && \
             ostree commit --repo=repo -b ock --tree=dir=tree --gpg-sign=good@example --gpg-homedir=. && \
             ostree gpg-sign --repo=repo --gpg-homedir=. ock other@example");
        let commit = gpg.sh("cat repo/objects/*/*.commit");
        let found = ocne_ostree::signatures(&gpg.sh("cat repo/objects/*/*.commitmeta")).unwrap();
        assert_eq!(found.len(), 2);
        for name in ["good", "other"] {
            let fingerprint = String::from_utf8(gpg.sh(&format!(
                "gpg --batch --with-colons --list-keys {name}@example | sed -n 's/^fpr:*\\([0-9A-F]*\\):$/\\1/p'"
            )));
            assert_eq!(gpg.keys(name, "").verify(&commit, &found).unwrap(), fingerprint.unwrap().trim());
            assert!(gpg.keys(name, "--armor").verify(&commit, &found).is_ok());
        }
        // Two keys in one file of text.
        gpg.key("third", "ed25519", "never", "");
        gpg.sh("for k in third good; do gpg --armor --batch --export $k@example; done > both.asc");
        assert!(Keys::read(&gpg.path("both.asc")).unwrap().verify(&commit, &found).is_ok());
        let mut changed = commit.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(reason(gpg.keys("good", "").verify(&changed, &found)).contains("is not of this commit"));
        assert!(reason(gpg.keys("third", "").verify(&commit, &found)).contains("is by no key in"));
        assert_eq!(gpg.keys("good", "").verify(&commit, &[]), Err(SignatureError::None));
        let cut: Vec<Vec<u8>> = found.iter().map(|s| s[..s.len() - 9].to_vec()).collect();
        assert!(gpg.keys("good", "").verify(&commit, &cut).is_err());
    }

    #[test]
    fn keys_that_are_no_longer_good_vouch_for_nothing() {
        let Some(gpg) = Gpg::new("keys_that_are_no_longer_good_vouch_for_nothing") else { return };
        let then = "--faked-system-time 20200101T000000";
        gpg.key("expired", "ed25519", "30d", then);
        let signed = gpg.signature("expired", then, b"commit");
        assert!(reason(gpg.keys("expired", "").verify(b"commit", &signed)).contains("has expired"));
        gpg.key("revoked", "ed25519", "never", "");
        let signed = gpg.signature("revoked", "", b"commit");
        assert!(gpg.keys("revoked", "").verify(b"commit", &signed).is_ok());
        gpg.sh("sed 's/^:-----BEGIN/-----BEGIN/' openpgp-revocs.d/$(gpg --batch --with-colons --list-keys revoked@example | sed -n 's/^fpr:*\\([0-9A-F]*\\):$/\\1/p').rev | gpg --batch --quiet --import");
        assert!(reason(gpg.keys("revoked", "").verify(b"commit", &signed)).contains("was revoked"));
        // A signature that ends, and one of the future.
        gpg.key("good", "ed25519", "never", then);
        let signed = gpg.signature("good", &format!("{then} --default-sig-expire 1d"), b"commit");
        assert!(reason(gpg.keys("good", "").verify(b"commit", &signed)).contains("has expired"));
        let signed = gpg.signature("good", "--faked-system-time 20500101T000000", b"commit");
        assert!(reason(gpg.keys("good", "").verify(b"commit", &signed)).contains("of the future"));
        // By a subkey, which is revoked later.
        let fingerprint = "$(gpg --batch --with-colons --list-keys sub@example | sed -n 's/^fpr:*\\([0-9A-F]*\\):$/\\1/p' | head -n 1)";
        gpg.sh(&format!(
            "gpg --batch --quiet --pinentry-mode loopback --passphrase '' --quick-generate-key sub@example ed25519 cert never; \
             gpg --batch --quiet --pinentry-mode loopback --passphrase '' --quick-add-key {fingerprint} ed25519 sign never"
        ));
        let signed = gpg.signature("sub", "", b"commit");
        assert!(gpg.keys("sub", "").verify(b"commit", &signed).is_ok());
        gpg.sh(&format!(
            "printf 'key 1\\nrevkey\\ny\\n0\\n\\ny\\nsave\\n' | gpg --no-tty --command-fd 0 --quiet --pinentry-mode loopback --passphrase '' --edit-key {fingerprint}"
        ));
        assert!(reason(gpg.keys("sub", "").verify(b"commit", &signed)).contains("was revoked"));
    }

    #[test]
    fn weak_digests_vouch_for_nothing() {
        let Some(gpg) = Gpg::new("weak_digests_vouch_for_nothing") else { return };
        // Of the commit.
        gpg.key("good", "rsa2048", "never", "");
        for (digest, name) in [("SHA1", "SHA-1"), ("RIPEMD160", "RIPEMD-160")] {
            let signed = gpg.signature("good", &format!("--digest-algo {digest}"), b"commit");
            let said = reason(gpg.keys("good", "").verify(b"commit", &signed));
            assert!(said.contains(&format!(" is by {name}, which is too weak to count")), "{said}");
        }
        let strong = gpg.signature("good", "--digest-algo SHA224", b"commit");
        assert!(gpg.keys("good", "").verify(b"commit", &strong).is_ok());
        // One that is weak does not spoil another one.
        let mut both = gpg.signature("good", "--digest-algo SHA1", b"commit");
        both.extend(strong);
        assert!(gpg.keys("good", "").verify(b"commit", &both).is_ok());
        // Of a key of itself. Between a key and its subkey gpg makes none.
        gpg.key("old", "rsa2048", "never", "--cert-digest-algo SHA1");
        let signed = gpg.signature("old", "", b"commit");
        let said = reason(gpg.keys("old", "").verify(b"commit", &signed));
        assert!(said.contains("is by a key that vouches for itself by SHA-1, which is too weak"), "{said}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for content in [&b""[..], b"hello", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxx\n", &[0x99; 300]] {
            fs_err::write(&path, content).unwrap();
            assert!(Keys::read(&path).is_err(), "{content:?}");
        }
    }
}
