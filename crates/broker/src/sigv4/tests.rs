//! Signatures against those of AWS's own client: `vectors.py` made `vectors.json`.

use freehold_model::credential::Kind;
use serde_json::Value;
use url::Url;

use super::*;
use freehold_testkit::model::credential;

use crate::injection;

fn signer(config: &[(&str, &str)], session_token: Option<&str>) -> SigV4 {
    let config = [&[("access_key_id", "AKIDEXAMPLE")], config].concat();
    let durable = Durable {
        secret_access_key: Some("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned().into()),
        session_token: session_token.map(|token| token.to_owned().into()),
        ..Durable::default()
    };
    match injection(&credential(Kind::AwsSigv4, "aws", &config), &durable.write()) {
        Ok(crate::Injection::Signature(signer)) => signer,
        _ => panic!("not a signer"),
    }
}

/// Signs; answers the headers and the query that are sent.
fn signed(
    signer: &SigV4,
    url: &str,
    method: &str,
    mut headers: HeaderMap,
    body: &str,
) -> Result<(HeaderMap, Option<String>), Unsignable> {
    let url = Url::parse(url).unwrap();
    let mut query = url.query().map(str::to_owned);
    let hash = digest::digest(&digest::SHA256, body.as_bytes());
    let authority = url.host_str().unwrap();
    let is_tls = url.scheme() == "https";
    let mut request = ToSign {
        method: &method.parse().unwrap(),
        authority,
        is_tls,
        path: url.path(),
        query: &mut query,
        headers: &mut headers,
        body_sha256: signer.needs_body(authority, is_tls).then(|| hash.as_ref().try_into().unwrap()),
        now: "2026-11-22T08:09:10Z".parse().unwrap(),
    };
    signer.sign(&mut request)?;
    Ok((headers, query))
}

#[test]
fn requests_are_signed_as_awss_own_client_signs_them() {
    let vectors: Vec<Value> = serde_json::from_str(include_str!("vectors.json")).unwrap();
    assert_eq!(vectors.len(), 8);
    for vector in &vectors {
        let text = |name: &str| vector[name].as_str().unwrap();
        // The client's own signature goes, wherever it stands.
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "AWS4-HMAC-SHA256 Credential=freehold-placeholder".parse().unwrap());
        headers.insert("x-amz-date", "20200101T000000Z".parse().unwrap());
        headers.insert("x-amz-security-token", "theirs".parse().unwrap());
        headers.insert("user-agent", "aws-cli".parse().unwrap());
        for (name, value) in vector["headers"].as_object().unwrap() {
            let name: HeaderName = name.parse().unwrap();
            headers.insert(name, value.as_str().unwrap().parse().unwrap());
        }
        // Region and service are found by the host's name.
        let signer = signer(&[], vector["token"].as_str());
        let body = vector["body"].as_str().unwrap_or_default();
        let (headers, _) = signed(&signer, text("url"), text("method"), headers, body).unwrap();
        assert_eq!(headers["authorization"].to_str().unwrap(), text("authorization"), "{}", text("url"));
        let token = headers.get("x-amz-security-token").map(|token| token.to_str().unwrap());
        assert_eq!(token, vector["token"].as_str());
    }
}

#[test]
fn the_query_is_sent_as_it_is_signed_and_without_another_signature() {
    let signer = signer(&[], None);
    let url = "https://s3.amazonaws.com/b?z=1&a=b+c&X-Amz-Signature=00&x-amz-credential=y&%41=%7e&q";
    let (_, query) = signed(&signer, url, "GET", HeaderMap::new(), "").unwrap();
    assert_eq!(query.as_deref(), Some("A=~&a=b%20c&q=&z=1"));
}

#[test]
fn region_and_service_are_in_the_name_of_the_host_or_in_the_settings() {
    for (host, region, service) in [
        ("s3.amazonaws.com", "us-east-1", "s3"),
        ("bucket.with.dots.s3.amazonaws.com", "us-east-1", "s3"),
        ("b.s3.dualstack.eu-west-1.amazonaws.com", "eu-west-1", "s3"),
        ("s3-us-gov-west-1.amazonaws.com", "us-gov-west-1", "s3"),
        ("sts.amazonaws.com", "us-east-1", "sts"),
        ("dynamodb.cn-north-1.amazonaws.com.cn", "cn-north-1", "dynamodb"),
        ("api.ecr.eu-west-1.amazonaws.com", "eu-west-1", "ecr"),
        ("logs.eu-west-1.api.aws", "eu-west-1", "logs"),
        ("abc.lambda-url.eu-west-1.on.aws", "eu-west-1", "lambda"),
        ("bedrock-runtime.us-west-2.amazonaws.com", "us-west-2", "bedrock"),
        ("email.us-west-2.amazonaws.com:443", "us-west-2", "ses"),
    ] {
        assert_eq!(scope_of(host), Some((region.to_owned(), service.to_owned())), "{host}");
    }
    for host in ["minio.example.test", "amazonaws.com.evil.test", "x.on.aws", ""] {
        assert_eq!(scope_of(host), None, "{host}");
    }
    let url = "https://minio.example.test/b";
    let refused = signed(&signer(&[], None), url, "GET", HeaderMap::new(), "");
    assert_eq!(refused.unwrap_err(), Unsignable("no_region_or_service"));
    let set = signer(&[("region", "eu-x-1"), ("service", "s3")], None);
    let (headers, _) = signed(&set, url, "GET", HeaderMap::new(), "").unwrap();
    assert!(headers["authorization"].to_str().unwrap().contains("/eu-x-1/s3/aws4_request"));
}

#[test]
fn bodies_are_signed_except_those_of_s3_over_tls() {
    let signer = signer(&[], None);
    let hash = |url: &str| {
        let (headers, _) = signed(&signer, url, "PUT", HeaderMap::new(), "x").unwrap();
        headers["x-amz-content-sha256"].to_str().unwrap().len()
    };
    assert_eq!(hash("https://b.s3.amazonaws.com/k"), UNSIGNED.len());
    assert_eq!(hash("http://b.s3.amazonaws.com/k"), 64);
    assert_eq!(hash("https://sqs.eu-west-1.amazonaws.com/"), 64);
}

#[test]
fn chunks_that_the_client_signed_are_refused_and_unsigned_ones_pass() {
    let signer = signer(&[], None);
    let chunked = |content: &str, scheme: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT, content.parse().unwrap());
        let signed = signed(&signer, &format!("{scheme}://b.s3.amazonaws.com/k"), "PUT", headers, "");
        signed.map(|(headers, _)| headers[CONTENT].to_str().unwrap().to_owned())
    };
    assert_eq!(chunked(UNSIGNED_CHUNKS, "https").unwrap(), UNSIGNED_CHUNKS);
    assert_eq!(chunked(UNSIGNED_CHUNKS, "http").unwrap_err(), Unsignable("signed_chunks"));
    assert_eq!(
        chunked("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "https").unwrap_err(),
        Unsignable("signed_chunks")
    );
}

#[test]
fn the_session_token_is_what_must_not_come_back() {
    assert_eq!(signer(&[], Some("token")).secrets(), [b"token"]);
    assert!(signer(&[], None).secrets().is_empty());
}
