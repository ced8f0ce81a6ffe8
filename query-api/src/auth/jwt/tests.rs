//! Tokens of every algorithm, and forged ones: each is made by hand, with keys of its own.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use ::openssl::bn::BigNumContext;
use ::openssl::ec::{EcGroup, EcKey};
use ::openssl::ecdsa::EcdsaSig;
use ::openssl::hash::MessageDigest;
use ::openssl::nid::Nid;
use ::openssl::pkey::{PKey, Private};
use ::openssl::rsa::Rsa;
use ::openssl::sha::sha256;
use ::openssl::sign::Signer;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

use super::{Jwt, Place, Refused, Settings, TOKEN_MAX, Trust};
use crate::auth::{Caller, Scope};
use topics::{Timestamp, UserId};

const SECRET: &[u8] = b"a secret of thirty-two bytes or more";

/// One who signs, and what those who check are told.
struct Issuer {
    algorithm: &'static str,
    sign: Box<dyn Fn(&[u8]) -> Vec<u8>>,
    trust: Trust,
    /// Something public, with which a forger may try HMAC.
    public: Vec<u8>,
    _file: Option<tempfile::NamedTempFile>,
}

fn place(keys: Value) -> (Place, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(json!({"keys": keys}).to_string().as_bytes()).unwrap();
    (Place::File(file.path().to_owned()), file)
}

fn signed(key: &PKey<Private>, digest: Option<MessageDigest>, message: &[u8]) -> Vec<u8> {
    let mut signer = match digest {
        Some(digest) => Signer::new(digest, key).unwrap(),
        None => Signer::new_without_digest(key).unwrap(),
    };
    signer.sign_oneshot_to_vec(message).unwrap()
}

fn rs256() -> Issuer {
    let rsa = Rsa::generate(2048).unwrap();
    let (n, e) = (rsa.n().to_vec(), rsa.e().to_vec());
    let jwk = json!({"kty": "RSA", "kid": "k1", "use": "sig", "n": BASE64.encode(&n), "e": BASE64.encode(e)});
    let (keys, file) = place(json!([jwk]));
    let key = PKey::from_rsa(rsa).unwrap();
    let sign = move |message: &[u8]| signed(&key, Some(MessageDigest::sha256()), message);
    Issuer { algorithm: "RS256", sign: Box::new(sign), trust: Trust::Rs256(keys), public: n, _file: Some(file) }
}

fn es256() -> Issuer {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = EcKey::generate(&group).unwrap();
    let (mut x, mut y) = (::openssl::bn::BigNum::new().unwrap(), ::openssl::bn::BigNum::new().unwrap());
    let mut context = BigNumContext::new().unwrap();
    key.public_key().affine_coordinates(&group, &mut x, &mut y, &mut context).unwrap();
    let [x, y] = [x, y].map(|number| BASE64.encode(number.to_vec_padded(32).unwrap()));
    let (keys, file) = place(json!([{"kty": "EC", "kid": "k1", "crv": "P-256", "x": x, "y": y}]));
    let sign = move |message: &[u8]| {
        let pair = EcdsaSig::sign(&sha256(message), &key).unwrap();
        [pair.r().to_vec_padded(32).unwrap(), pair.s().to_vec_padded(32).unwrap()].concat()
    };
    let public = x.into_bytes();
    Issuer { algorithm: "ES256", sign: Box::new(sign), trust: Trust::Es256(keys), public, _file: Some(file) }
}

fn eddsa() -> Issuer {
    let key = PKey::generate_ed25519().unwrap();
    let public = key.raw_public_key().unwrap();
    let jwk = json!({"kty": "OKP", "kid": "k1", "crv": "Ed25519", "x": BASE64.encode(&public)});
    let (keys, file) = place(json!([jwk]));
    let sign = move |message: &[u8]| signed(&key, None, message);
    Issuer { algorithm: "EdDSA", sign: Box::new(sign), trust: Trust::EdDsa(keys), public, _file: Some(file) }
}

fn hmac(secret: &[u8], message: &[u8]) -> Vec<u8> {
    signed(&PKey::hmac(secret).unwrap(), Some(MessageDigest::sha256()), message)
}

fn hs256() -> Issuer {
    let sign = |message: &[u8]| hmac(SECRET, message);
    let trust = Trust::Hs256(SECRET.to_vec());
    Issuer { algorithm: "HS256", sign: Box::new(sign), trust, public: b"not the secret".to_vec(), _file: None }
}

fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    signed_parts(&header.to_string(), &claims.to_string(), sign)
}

fn signed_parts(header: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |text: &str| BASE64.encode(text);
    let message = format!("{}.{}", part(header), part(claims));
    let signature = BASE64.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

/// The claims of a good token, with some changed; null takes one away.
fn claims(changed: Value) -> Value {
    let mut claims = json!({
        "iss": "https://login.example.org", "aud": "tasktide", "sub": "ann", "exp": now() + 300,
        "scope": "tasks:read profile audit:read",
    });
    for (name, value) in changed.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

async fn judge(trust: Trust) -> Jwt {
    let settings = Settings { trust, issuer: "https://login.example.org".to_owned(), audience: "tasktide".to_owned() };
    Jwt::open(settings).await.expect("good keys")
}

#[tokio::test]
async fn tokens_speak_for_their_subject_as_long_as_they_hold() {
    let ann = || Some(UserId::parse("ann").unwrap());
    let own = [Scope::TasksRead, Scope::AuditRead];
    for issuer in [rs256(), es256(), eddsa(), hs256()] {
        let jwt = judge(issuer.trust.clone()).await;
        let header = json!({"alg": issuer.algorithm, "typ": "JWT", "kid": "k1"});
        let check = async |changed: Value, expected: Result<Caller, Refused>| {
            let claims = claims(changed.clone());
            let found = jwt.caller(&token(&header, &claims, &issuer.sign)).await;
            // Whoever is known is known until then.
            let ends = || Timestamp::from_millis((claims["exp"].as_f64().unwrap() * 1000.0) as i64);
            let expected = expected.map(|caller| caller.until(ends()));
            assert_eq!(found, expected, "{} {changed}", issuer.algorithm);
        };
        check(json!({}), Ok(Caller::new(ann(), &own))).await;
        check(json!({"scope": null, "scp": ["ops", "other"]}), Ok(Caller::new(ann(), &[Scope::Ops]))).await;
        check(json!({"sub": null}), Ok(Caller::new(None, &own))).await;
        check(json!({"aud": ["other", "tasktide"]}), Ok(Caller::new(ann(), &own))).await;
        check(json!({"exp": now() as f64 + 299.5, "iat": now() as f64 - 0.5}), Ok(Caller::new(ann(), &own))).await;
        check(json!({"iat": now() + 30}), Ok(Caller::new(ann(), &own))).await;
        check(json!({"exp": now() - 30, "nbf": now() + 30}), Ok(Caller::new(ann(), &own))).await;
        for bad in [
            json!({"exp": now() - 90}),
            json!({"exp": null}),
            json!({"nbf": now() + 90}),
            json!({"iss": "https://login.example.com"}),
            json!({"iss": null}),
            json!({"aud": "other"}),
            json!({"aud": null}),
            json!({"sub": ""}),
            json!({"scope": 7}),
            json!({"iss": ["https://login.example.org"]}),
            json!({"iss": ["https://login.example.org", "https://login.example.com"]}),
            json!({"iat": now() + 90}),
            json!({"iat": "yesterday"}),
            json!({"iat": -1}),
            json!({"nbf": true}),
            json!({"exp": "2030-01-01T00:00:00Z"}),
            json!({"exp": 1e300}),
            json!({"exp": 253_402_300_800_i64}),
            json!({"exp": -1}),
            json!({"sub": ["ann"]}),
            json!({"sub": 7}),
            json!({"aud": ["other"]}),
            json!({"aud": [7, "tasktide"]}),
            json!({"aud": {"tasktide": true}}),
        ] {
            check(bad, Err(Refused::Bad)).await;
        }
    }
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    for issuer in [rs256(), es256(), eddsa(), hs256()] {
        let jwt = judge(issuer.trust.clone()).await;
        let header = |alg: &str| json!({"alg": alg, "kid": "k1"});
        let good = token(&header(issuer.algorithm), &claims(json!({})), &issuer.sign);
        assert!(jwt.caller(&good).await.is_ok());
        let parts: Vec<&str> = good.split('.').collect();
        let more = BASE64.encode(claims(json!({"scope": "ops tasks:read:any"})).to_string());
        let own = |header: Value, sign: &dyn Fn(&[u8]) -> Vec<u8>| token(&header, &claims(json!({})), sign);
        let mut critical = header(issuer.algorithm);
        (critical["crit"], critical["b64"]) = (json!(["b64"]), true.into());
        let forged = [
            ("no signature", own(header("none"), &|_| Vec::new())),
            ("the algorithm left out", own(json!({"kid": "k1"}), &issuer.sign)),
            ("another algorithm by name", own(header("HS384"), &issuer.sign)),
            ("HMAC with what is public", own(header("HS256"), &|message| hmac(&issuer.public, message))),
            ("an empty signature", format!("{}.{}.", parts[0], parts[1])),
            ("other claims", format!("{}.{more}.{}", parts[0], parts[2])),
            ("a signature cut off", good[..good.len() - 8].to_owned()),
            (
                "the signature of another",
                own(header(issuer.algorithm), &|message| hmac(b"another secret of some length....", message)),
            ),
            ("an extension that must be understood", own(critical, &issuer.sign)),
            ("two parts", format!("{}.{}", parts[0], parts[1])),
            ("four parts", format!("{good}.{}", parts[2])),
            ("nothing", String::new()),
            ("very long", format!("{good}{}", "A".repeat(TOKEN_MAX))),
        ];
        let twice = |more: &str| {
            let claims = claims(json!({})).to_string();
            let claims = format!("{},{more}}}", claims.strip_suffix('}').unwrap());
            signed_parts(&header(issuer.algorithm).to_string(), &claims, &issuer.sign)
        };
        let with = |name: &str, value: Value| {
            let mut header = header(issuer.algorithm);
            header[name] = value;
            own(header, &issuer.sign)
        };
        let odd = [
            ("a subject twice", twice(r#""sub":"bob""#)),
            ("an end twice", twice(r#""exp":9999999999"#)),
            ("an issuer twice", twice(r#""iss":"https://login.example.org""#)),
            ("scopes twice", twice(r#""scope":"ops""#)),
            ("an algorithm twice", {
                let header = format!(r#"{{"alg":"none","alg":"{}","kid":"k1"}}"#, issuer.algorithm);
                signed_parts(&header, &claims(json!({})).to_string(), &issuer.sign)
            }),
            ("of another type", with("typ", json!("dpop+jwt"))),
            ("of a refresh token's type", with("typ", json!("rt+jwt"))),
            ("a type that is no text", with("typ", json!(["JWT"]))),
            ("a token in a token", with("cty", json!("JWT"))),
            ("compressed", with("zip", json!("DEF"))),
        ];
        for kind in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
            assert!(jwt.caller(&with("typ", json!(kind))).await.is_ok(), "{} {kind}", issuer.algorithm);
        }
        for (what, forged) in forged.into_iter().chain(odd) {
            assert_eq!(jwt.caller(&forged).await, Err(Refused::Bad), "{} {what}", issuer.algorithm);
        }
        if !matches!(issuer.trust, Trust::Hs256(_)) {
            let unknown = own(json!({"alg": issuer.algorithm, "kid": "k2"}), &issuer.sign);
            assert_eq!(jwt.caller(&unknown).await, Err(Refused::Bad), "{} unknown key", issuer.algorithm);
        }
    }
}

#[tokio::test]
async fn weak_or_missing_keys_are_refused_at_the_start() {
    let open = async |trust: Trust| {
        let settings = Settings { trust, issuer: "i".to_owned(), audience: "a".to_owned() };
        Jwt::open(settings).await.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(open(Trust::Hs256(b"short".to_vec())).await.contains("auth.jwt.secret"));
    let missing = open(Trust::Rs256(Place::File("/no/such/keys.json".into()))).await;
    assert!(missing.contains("auth.jwt.jwks") && missing.contains("/no/such/keys.json"), "{missing}");
    let (empty, _file) = place(json!([]));
    assert!(open(Trust::Rs256(empty)).await.contains("no key that checks RS256"));
    let weak = Rsa::generate(1024).unwrap();
    let jwk = json!({"kty": "RSA", "n": BASE64.encode(weak.n().to_vec()), "e": BASE64.encode(weak.e().to_vec())});
    let (small, _file) = place(json!([jwk]));
    assert!(open(Trust::Rs256(small)).await.contains("no key that checks RS256"));
}
