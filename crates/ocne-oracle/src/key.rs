//! RSA keys in PEM files, as the console, `oci setup config` and openssl write them.

use std::fmt;
use std::sync::Arc;

use aes::{Aes128, Aes192, Aes256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cbc::Decryptor;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, KeyIvInit as _};
use des::TdesEde3;
use md5::{Digest as _, Md5};
use pem::Pem;
use ring::rand::SystemRandom;
use ring::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};

use crate::secret::Secret;

/// `SEQUENCE { OBJECT IDENTIFIER rsaEncryption, NULL }` (RFC 8017, A.1).
pub(crate) const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

/// Why a file is no key that can sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// It holds no PEM block.
    #[error("there is no PEM block in it")]
    NotPem,
    /// Its PEM blocks are something else, such as the public key.
    #[error("it holds {found}, not a private key")]
    NotPrivate {
        /// The labels of the blocks.
        found: String,
    },
    /// It is encrypted, and no pass phrase is known.
    #[error("it is encrypted, and there is no pass phrase for it")]
    NoPassPhrase,
    /// The pass phrase does not open it.
    #[error("the pass phrase does not open it")]
    WrongPassPhrase,
    /// It is encrypted in a way that is not known here.
    #[error("it is encrypted by `{method}`, which is not supported")]
    Method {
        /// The way.
        method: String,
    },
    /// It is no RSA key, or a damaged one, or one that is too short.
    #[error("it is no RSA key of at least 2048 bits: {reason}")]
    NotRsa {
        /// What is wrong.
        reason: String,
    },
}

/// An RSA key that signs requests. `Debug` shows its fingerprint only.
#[derive(Clone)]
pub struct SigningKey {
    pair: Arc<RsaKeyPair>,
    fingerprint: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.fingerprint).finish()
    }
}

impl SigningKey {
    /// Reads the first private key of a PEM file: PKCS#8 or PKCS#1, plain or encrypted. A pass phrase for a plain key is
    /// not looked at, nor is text around the block, such as the line `OCI_API_KEY` that the console adds.
    ///
    /// # Errors
    /// When there is no usable key.
    pub fn from_pem(content: &[u8], pass_phrase: Option<&Secret>) -> Result<Self, KeyProblem> {
        let blocks = pem::parse_many(content).map_err(|_| KeyProblem::NotPem)?;
        let private = blocks.iter().find(|block| block.tag().ends_with("PRIVATE KEY"));
        let Some(block) = private else {
            let labels: Vec<&str> = blocks.iter().map(Pem::tag).collect();
            let found = labels.join(", ");
            return Err(if found.is_empty() { KeyProblem::NotPem } else { KeyProblem::NotPrivate { found } });
        };
        let not_rsa = |e: ring::error::KeyRejected| KeyProblem::NotRsa { reason: e.to_string() };
        let pair = match block.tag() {
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(block.contents()).map_err(not_rsa)?,
            "ENCRYPTED PRIVATE KEY" => {
                let pass_phrase = pass_phrase.ok_or(KeyProblem::NoPassPhrase)?;
                RsaKeyPair::from_pkcs8(&decrypt_pkcs8(block.contents(), pass_phrase)?).map_err(not_rsa)?
            }
            "RSA PRIVATE KEY" if block.headers().get("DEK-Info").is_some() => {
                let pass_phrase = pass_phrase.ok_or(KeyProblem::NoPassPhrase)?;
                let der = decrypt_traditional(block, pass_phrase)?;
                // Padding is right by chance once in 256 times, so the key itself has to be looked at.
                RsaKeyPair::from_der(&der).map_err(|_| KeyProblem::WrongPassPhrase)?
            }
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(block.contents()).map_err(not_rsa)?,
            other => return Err(KeyProblem::NotRsa { reason: format!("it is an `{other}`") }),
        };
        let fingerprint = fingerprint(&public_key_info(pair.public_key().as_ref()));
        Ok(Self { pair: Arc::new(pair), fingerprint })
    }

    /// The fingerprint that the console shows: MD5 of the public key's DER, in hexadecimal with colons.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The signature of a text by RSASSA-PKCS1-v1_5 with SHA-256, in base64. None when the machine gives no randomness.
    pub(crate) fn sign(&self, text: &str) -> Option<String> {
        let mut signature = vec![0; self.pair.public().modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).ok()?;
        Some(BASE64.encode(signature))
    }

    /// The public key as DER (SubjectPublicKeyInfo).
    pub fn public_key(&self) -> Vec<u8> {
        public_key_info(self.pair.public_key().as_ref())
    }
}

fn decrypt_pkcs8(der: &[u8], pass_phrase: &Secret) -> Result<Vec<u8>, KeyProblem> {
    let info = pkcs8::EncryptedPrivateKeyInfoRef::try_from(der)
        .map_err(|e| KeyProblem::Method { method: e.to_string() })?;
    match info.decrypt(pass_phrase.reveal()) {
        Ok(document) => Ok(document.as_bytes().to_vec()),
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::UnsupportedAlgorithm { oid })) => {
            Err(KeyProblem::Method { method: oid.to_string() })
        }
        Err(_) => Err(KeyProblem::WrongPassPhrase),
    }
}

/// `Proc-Type: 4,ENCRYPTED` (RFC 1421), with the key that openssl's `EVP_BytesToKey` derives by MD5.
fn decrypt_traditional(block: &Pem, pass_phrase: &Secret) -> Result<Vec<u8>, KeyProblem> {
    let header = block.headers().get("DEK-Info").unwrap_or_default();
    let unknown = || KeyProblem::Method { method: header.to_owned() };
    let (method, iv) = header.split_once(',').ok_or_else(unknown)?;
    let iv = unhex(iv.trim()).ok_or_else(unknown)?;
    let salt = iv.get(..8).ok_or_else(unknown)?;
    let key_of = |size| derive(pass_phrase.reveal().as_bytes(), salt, size);
    let data = block.contents();
    // The four ciphers that openssl writes here and that are not broken.
    macro_rules! decrypt {
        ($cipher:ty, $size:expr) => {
            Decryptor::<$cipher>::new_from_slices(&key_of($size), &iv)
                .map_err(|_| unknown())?
                .decrypt_padded_vec::<Pkcs7>(data)
                .map_err(|_| KeyProblem::WrongPassPhrase)
        };
    }
    match method.trim() {
        "AES-128-CBC" => decrypt!(Aes128, 16),
        "AES-192-CBC" => decrypt!(Aes192, 24),
        "AES-256-CBC" => decrypt!(Aes256, 32),
        "DES-EDE3-CBC" => decrypt!(TdesEde3, 24),
        _ => Err(unknown()),
    }
}

fn derive(pass_phrase: &[u8], salt: &[u8], size: usize) -> Vec<u8> {
    let mut key = Vec::new();
    let mut last: Vec<u8> = Vec::new();
    while key.len() < size {
        let mut hash = Md5::new();
        hash.update(&last);
        hash.update(pass_phrase);
        hash.update(salt);
        last = hash.finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(size);
    key
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|d| d.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// SubjectPublicKeyInfo (RFC 5280, 4.1) around a PKCS#1 public key.
fn public_key_info(public: &[u8]) -> Vec<u8> {
    let mut bits = vec![0];
    bits.extend_from_slice(public);
    let mut inside = RSA_ALGORITHM.to_vec();
    inside.extend(der(0x03, &bits));
    der(0x30, &inside)
}

pub(crate) fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant: Vec<u8> = length.into_iter().skip_while(|b| *b == 0).collect();
    match significant.as_slice() {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(0));
            out.extend_from_slice(long);
        }
    }
    out.extend_from_slice(content);
    out
}

fn fingerprint(public_key: &[u8]) -> String {
    let pairs: Vec<String> = Md5::digest(public_key).iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `openssl rsa -pubout -outform DER | openssl md5 -c` says of `tests/keys/plain.pem`.
    const FINGERPRINT: &str = include_str!("../tests/keys/fingerprint.txt");

    fn load(name: &str, pass_phrase: Option<&str>) -> Result<SigningKey, KeyProblem> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys").join(name);
        SigningKey::from_pem(&fs_err::read(path).unwrap(), pass_phrase.map(Secret::new).as_ref())
    }

    #[test]
    fn every_form_gives_the_same_key() {
        for name in ["plain.pem", "pkcs1.pem", "labelled.pem"] {
            assert_eq!(load(name, None).unwrap().fingerprint(), FINGERPRINT.trim(), "{name}");
            assert_eq!(load(name, Some("needless")).unwrap().fingerprint(), FINGERPRINT.trim(), "{name}");
        }
        for name in [
            "pbes2.pem",
            "pbes2-3des.pem",
            "scrypt.pem",
            "aes128.pem",
            "aes192.pem",
            "aes256.pem",
            "des3.pem",
        ] {
            assert_eq!(load(name, Some("open sesame")).unwrap().fingerprint(), FINGERPRINT.trim(), "{name}");
            assert_eq!(load(name, None).unwrap_err(), KeyProblem::NoPassPhrase, "{name}");
            assert_eq!(load(name, Some("wrong")).unwrap_err(), KeyProblem::WrongPassPhrase, "{name}");
        }
    }

    #[test]
    fn what_is_no_usable_key_is_told_apart() {
        let problem = |content: &str| SigningKey::from_pem(content.as_bytes(), None).unwrap_err();
        assert_eq!(problem("hello"), KeyProblem::NotPem);
        assert_eq!(problem(""), KeyProblem::NotPem);
        assert_eq!(
            load("public.pem", None).unwrap_err(),
            KeyProblem::NotPrivate { found: "PUBLIC KEY".to_owned() }
        );
        assert!(matches!(load("short.pem", None), Err(KeyProblem::NotRsa { .. })));
        assert!(matches!(load("elliptic.pem", None), Err(KeyProblem::NotRsa { .. })));
        assert!(matches!(load("camellia.pem", Some("open sesame")), Err(KeyProblem::Method { .. })));
    }

    #[test]
    fn signatures_are_those_of_openssl() {
        let signature = load("plain.pem", None).unwrap().sign("date: now\n(request-target): get /").unwrap();
        assert_eq!(signature, include_str!("../tests/keys/signature.txt").trim());
    }

    #[test]
    fn a_key_is_not_shown() {
        let shown = format!("{:?}", load("plain.pem", None).unwrap());
        assert_eq!(shown, format!("SigningKey(\"{}\")", FINGERPRINT.trim()));
    }
}
