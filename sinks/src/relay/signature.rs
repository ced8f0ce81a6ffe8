//! Signatures of webhook deliveries by the Standard Webhooks scheme: HMAC-SHA256 over `id.timestamp.body`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// The key that deliveries are signed with. It is never shown.
#[derive(Clone)]
pub struct WebhookSecret(Vec<u8>);

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

/// The text is no secret.
#[derive(Debug, thiserror::Error)]
#[error("what follows whsec_ is not base64")]
pub struct UnreadableSecret;

impl WebhookSecret {
    /// Reads `whsec_` and base64, or any other text, whose bytes are then the key.
    pub fn parse(text: &str) -> Result<WebhookSecret, UnreadableSecret> {
        match text.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).map(WebhookSecret).map_err(|_| UnreadableSecret),
            None => Ok(WebhookSecret(text.as_bytes().to_vec())),
        }
    }

    /// The value of header `Webhook-Signature`.
    pub fn sign(&self, id: &str, timestamp: &str, body: &str) -> String {
        let digest = hmac(&self.0, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body.as_bytes()]);
        format!("v1,{}", STANDARD.encode(digest))
    }
}

/// RFC 2104 with SHA-256, whose blocks are 64 bytes.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new_with_prefix(block.map(|byte| byte ^ 0x36));
    let inner = parts.iter().fold(inner, |hash, part| hash.chain_update(part)).finalize();
    Sha256::new_with_prefix(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(key: &[u8], data: &[u8], hex: &str) {
        let digest = hmac(key, &[data]);
        assert_eq!(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
    }

    #[test]
    fn vectors_of_rfc_4231() {
        check(&[0x0b; 20], b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        check(
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        );
        check(
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        );
    }

    /// The example of the Standard Webhooks specification.
    #[test]
    fn signs_as_standard_webhooks_does() {
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(WebhookSecret::parse("whsec_%").is_err());
        assert_eq!(format!("{secret:?}"), "WebhookSecret(…)");
    }
}
