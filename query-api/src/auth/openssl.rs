//! Signatures of tokens, checked by OpenSSL, which Kafka's client brings anyway. `jsonwebtoken` reads and judges the
//! token and asks here for the one thing that needs cryptography; nothing here ever signs.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{Error as Refused, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private, Public};
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use openssl::sign;

/// RFC 7518 §3.3: smaller keys must not be used.
const RSA_BITS: i32 = 2048;
/// RFC 7518 §3.2: a secret has at least as many bits as the digest.
pub const SECRET_BYTES: usize = 32;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| Ok(Box::new(Check { algorithm: *algorithm, key: Key::read(*algorithm, key)? })),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes OpenSSL the one that `jsonwebtoken` asks.
pub(super) fn install() {
    // It refuses when it was installed before, by another server of this process.
    let _ = PROVIDER.install_default();
}

/// Whether a key can be used with `algorithm`: of its type, on its curve, long enough.
pub(super) fn is_usable(algorithm: Algorithm, key: &DecodingKey) -> bool {
    Key::read(algorithm, key).is_ok()
}

enum Key {
    Secret(PKey<Private>),
    Rsa(PKey<Public>),
    Curve(EcKey<Public>),
    Edwards(PKey<Public>),
}

impl Key {
    fn read(algorithm: Algorithm, key: &DecodingKey) -> Result<Key, Error> {
        if key.family() != algorithm.family() {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        let bad = |_: ErrorStack| Error::from(ErrorKind::InvalidKeyFormat);
        Ok(match algorithm {
            Algorithm::HS256 => Key::Secret(PKey::hmac(key.try_get_as_bytes()?).map_err(bad)?),
            Algorithm::RS256 => {
                let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else {
                    return Err(ErrorKind::InvalidKeyFormat.into());
                };
                let n = BigNum::from_slice(n).map_err(bad)?;
                if n.num_bits() < RSA_BITS {
                    return Err(ErrorKind::InvalidKeyFormat.into());
                }
                let rsa = BigNum::from_slice(e).and_then(|e| Rsa::from_public_components(n, e));
                Key::Rsa(rsa.and_then(PKey::from_rsa).map_err(bad)?)
            }
            Algorithm::ES256 => Key::Curve(point(key.try_get_as_bytes()?).map_err(bad)?),
            Algorithm::EdDSA => {
                Key::Edwards(PKey::public_key_from_raw_bytes(key.try_get_as_bytes()?, Id::ED25519).map_err(bad)?)
            }
            _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
        })
    }
}

fn point(bytes: &[u8]) -> Result<EcKey<Public>, ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let mut context = openssl::bn::BigNumContext::new()?;
    let point = EcPoint::from_bytes(&group, bytes, &mut context)?;
    let key = EcKey::from_public_key(&group, &point)?;
    key.check_key()?;
    Ok(key)
}

/// A key, ready to check a signature.
struct Check {
    algorithm: Algorithm,
    key: Key,
}

impl Check {
    fn holds(&self, message: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
        match &self.key {
            Key::Secret(key) => {
                let expected = sign::Signer::new(MessageDigest::sha256(), key)?.sign_oneshot_to_vec(message)?;
                // Compared in constant time.
                Ok(expected.len() == signature.len() && openssl::memcmp::eq(&expected, signature))
            }
            Key::Rsa(key) => sign::Verifier::new(MessageDigest::sha256(), key)?.verify_oneshot(signature, message),
            Key::Curve(key) => {
                // RFC 7518 §3.4: both numbers, 32 bytes each; never DER.
                let Some((r, s)) = signature.split_at_checked(32).filter(|(_, s)| s.len() == 32) else {
                    return Ok(false);
                };
                let pair = EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?;
                pair.verify(&sha256(message), key)
            }
            Key::Edwards(key) => sign::Verifier::new_without_digest(key)?.verify_oneshot(signature, message),
        }
    }
}

impl Verifier<Vec<u8>> for Check {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Refused> {
        match self.holds(message, signature) {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Refused::new()),
        }
    }
}

impl JwtVerifier for Check {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
