//! New RSA keys: for users who have none yet, and for sessions that need one of their own.

use std::fmt;

use crypto_bigint::{BoxedUint, ConcatenatingMul as _, NonZero, Resize as _};
use crypto_primes::{Flavor, random_prime};
use getrandom::SysRng;
use pem::{EncodeConfig, LineEnding, Pem};
use pkcs8::pkcs5::pbes2::Parameters;
use rand_core::UnwrapErr;

use crate::client::random_hex;
use crate::error::OracleError;
use crate::key::{RSA_ALGORITHM, SigningKey, der};
use crate::secret::Secret;

/// The public exponent that all keys have.
const EXPONENT: u32 = 65_537;
/// What the console asks to be told apart from other keys; the official tools warn when it is missing.
const LABEL: &str = "OCI_API_KEY\n";

/// A new RSA key. `Debug` shows its fingerprint only.
pub struct NewKey {
    /// PKCS#8.
    der: Vec<u8>,
    key: SigningKey,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NewKey").field(&self.key.fingerprint()).finish()
    }
}

impl NewKey {
    /// Makes a key of 2048 or 4096 bits. Takes a second or so.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn generate(bits: u32) -> Result<Self, OracleError> {
        // Asked for once where a refusal can be told, as the generator of primes would panic.
        random_hex()?;
        loop {
            // A key that the library that signs does not take, such as one a bit too short, is made anew.
            let der = pkcs8_of(&pkcs1(bits).unwrap_or_default());
            let pem = Pem::new("PRIVATE KEY", der.clone());
            if let Ok(key) = SigningKey::from_pem(pem::encode(&pem).as_bytes(), None) {
                return Ok(Self { der, key });
            }
        }
    }

    /// The key as requests are signed by it.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// The private key as PEM, encrypted by AES-256 if there is a pass phrase.
    ///
    /// # Errors
    /// When the operating system gives no random numbers.
    pub fn private_pem(&self, pass_phrase: Option<&Secret>) -> Result<Secret, OracleError> {
        let pem = match pass_phrase {
            None => Pem::new("PRIVATE KEY", self.der.clone()),
            Some(pass_phrase) => Pem::new("ENCRYPTED PRIVATE KEY", self.encrypted(pass_phrase)?),
        };
        Ok(Secret::new(text(&pem) + LABEL))
    }

    fn encrypted(&self, pass_phrase: &Secret) -> Result<Vec<u8>, OracleError> {
        // PBKDF2, as not every tool that reads these files knows scrypt.
        let parameters = Parameters::generate_pbkdf2(&mut SysRng).map_err(|_| OracleError::NoRandomness)?;
        let info =
            pkcs8::PrivateKeyInfoRef::try_from(self.der.as_slice()).map_err(|_| OracleError::NoRandomness)?;
        let document = info
            .encrypt_with_params(parameters, pass_phrase.reveal())
            .map_err(|_| OracleError::NoRandomness)?;
        Ok(document.as_bytes().to_vec())
    }

    /// The public key as PEM, to be pasted into the console.
    pub fn public_pem(&self) -> String {
        text(&Pem::new("PUBLIC KEY", self.key.public_key()))
    }
}

fn text(pem: &Pem) -> String {
    pem::encode_config(pem, EncodeConfig::new().set_line_ending(LineEnding::LF))
}

/// RSAPrivateKey (RFC 8017, A.1.2). None when the primes do not fit each other.
fn pkcs1(bits: u32) -> Option<Vec<u8>> {
    let mut rng = UnwrapErr(SysRng);
    let mut prime = || random_prime::<BoxedUint, _>(&mut rng, Flavor::Any, bits / 2);
    let (mut p, mut q) = (prime(), prime());
    if p < q {
        (p, q) = (q, p);
    }
    let modulus = p.concatenating_mul(&q);
    if modulus.bits() != bits {
        return None;
    }
    let one = BoxedUint::one_with_precision(bits / 2);
    let (p1, q1) = (p.wrapping_sub(&one), q.wrapping_sub(&one));
    let exponent = |precision| BoxedUint::from(EXPONENT).resize(precision);
    let phi = Option::<NonZero<BoxedUint>>::from(NonZero::new(p1.concatenating_mul(&q1)))?;
    let d = Option::<BoxedUint>::from(exponent(bits).invert_mod(&phi))?;
    let p1 = Option::<NonZero<BoxedUint>>::from(NonZero::new(p1))?;
    let q1 = Option::<NonZero<BoxedUint>>::from(NonZero::new(q1))?;
    let coefficient = Option::<BoxedUint>::from(
        q.invert_mod(&Option::<NonZero<BoxedUint>>::from(NonZero::new(p.clone()))?),
    )?;
    let numbers =
        [&BoxedUint::zero(), &modulus, &exponent(bits), &d, &p, &q, &d.rem(&p1), &d.rem(&q1), &coefficient];
    Some(der(0x30, &numbers.into_iter().flat_map(integer).collect::<Vec<u8>>()))
}

fn integer(number: &BoxedUint) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    let significant = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let mut content = bytes[significant..].to_vec();
    // What would read as negative gets a zero before it, and so does nothing.
    if content.first().is_none_or(|byte| byte & 0x80 != 0) {
        content.insert(0, 0);
    }
    der(0x02, &content)
}

/// PrivateKeyInfo (RFC 5208).
fn pkcs8_of(pkcs1: &[u8]) -> Vec<u8> {
    let mut content = der(0x02, &[0]);
    content.extend_from_slice(&RSA_ALGORITHM);
    content.extend(der(0x04, pkcs1));
    der(0x30, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_keys_are_read_with_and_without_a_pass_phrase() {
        let key = NewKey::generate(2048).unwrap();
        let fingerprint = key.signing_key().fingerprint().to_owned();
        let pass_phrase = Secret::new("open sesame");
        let plain = key.private_pem(None).unwrap();
        let locked = key.private_pem(Some(&pass_phrase)).unwrap();
        assert!(plain.reveal().starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert!(plain.reveal().ends_with("-----END PRIVATE KEY-----\nOCI_API_KEY\n"));
        let read = |pem: &Secret, pass_phrase| SigningKey::from_pem(pem.reveal().as_bytes(), pass_phrase);
        assert_eq!(read(&plain, None).unwrap().fingerprint(), fingerprint);
        assert_eq!(read(&locked, Some(&pass_phrase)).unwrap().fingerprint(), fingerprint);
        assert!(read(&locked, None).is_err());
        assert!(read(&locked, Some(&Secret::new("wrong"))).is_err());
        assert!(key.public_pem().starts_with("-----BEGIN PUBLIC KEY-----\n"));
        assert_eq!(format!("{key:?}"), format!("NewKey(\"{fingerprint}\")"));
        assert_ne!(NewKey::generate(2048).unwrap().signing_key().fingerprint(), fingerprint);
    }
}
