//! Tokens that a person consents to.

use freehold_broker::{Given, authorization_url};
use freehold_model::credential::{Kind, Status};
use freehold_testkit::issuer::CLIENT_SECRET;
use url::Url;

use crate::support::{Memory, REDIRECT, World, injected};

const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// A person consents; answers the code that they come back with.
fn code(world: &World, memory: &Memory) -> String {
    let credential = memory.credential();
    let url = authorization_url(&credential, REDIRECT, "the state", VERIFIER).unwrap();
    let back = world.issuer.consent(&url).unwrap();
    assert!(back.starts_with(REDIRECT), "{back}");
    let back = Url::parse(&back).unwrap();
    let of = |name: &str| back.query_pairs().find(|(given, _)| given == name).unwrap().1.into_owned();
    assert_eq!(of("state"), "the state");
    of("code")
}

/// A credential that a person has consented to.
async fn consented(world: &World, client: &str) -> Memory {
    let secret = (client != "public").then(|| CLIENT_SECRET.to_owned().into());
    let given = Given { client_secret: secret, ..Given::default() };
    let memory = world.credential(Kind::Oauth2AuthorizationCode, &[("client_id", client)], given);
    memory.0.lock().unwrap().credential.scopes = vec!["openid".into(), "offline_access".into()];
    let (code, credential) = (code(world, &memory), memory.credential());
    let before = memory.0.lock().unwrap().secret.clone();
    let kept = world.broker(&memory).exchange(&credential, &before, &code, VERIFIER, REDIRECT).await.unwrap();
    let mut row = memory.0.lock().unwrap();
    row.secret = kept.to_vec();
    row.credential.status = Status::Active;
    drop(row);
    memory
}

#[tokio::test]
async fn what_a_person_consents_to_can_be_used_with_and_without_a_clients_secret() {
    let world = World::new(3600);
    for client in ["web", "public"] {
        let memory = consented(&world, client).await;
        let asked = world.issuer.count("/token").unwrap();
        assert!(world.is_good(&injected(&world.broker(&memory), &memory).await.unwrap()), "{client}");
        // The token that came with the consent is used first.
        assert_eq!(world.issuer.count("/token").unwrap(), asked);
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_by_its_refresh_token_and_stays_where_there_is_none() {
    let world = World::new(3600);
    let memory = consented(&world, "web").await;
    let broker = world.broker(&memory);
    let slot = broker.slot(&memory.credential());
    let first = broker.injection(&slot).await.unwrap();
    broker.refused(&slot);
    let second = broker.injection(&slot).await.unwrap();
    assert!(second != first && world.is_good(&second));
    let mut kept: serde_json::Value = serde_json::from_slice(&memory.0.lock().unwrap().secret).unwrap();
    kept.as_object_mut().unwrap().remove("refresh_token").unwrap();
    memory.0.lock().unwrap().secret = serde_json::to_vec(&kept).unwrap();
    let broker = world.broker(&memory);
    let slot = broker.slot(&memory.credential());
    let first = broker.injection(&slot).await.unwrap();
    broker.refused(&slot);
    assert_eq!(broker.injection(&slot).await.unwrap(), first);
    assert_eq!(memory.credential().status, Status::Active);
}

#[tokio::test]
async fn a_code_without_the_verifier_is_refused() {
    let world = World::new(3600);
    let given = Given { client_secret: Some(CLIENT_SECRET.to_owned().into()), ..Given::default() };
    let memory = world.credential(Kind::Oauth2AuthorizationCode, &[("client_id", "web")], given);
    let (code, secret) = (code(&world, &memory), memory.0.lock().unwrap().secret.clone());
    let other = "another-verifier-of-at-least-forty-three-characters";
    let refused = world.broker(&memory).exchange(&memory.credential(), &secret, &code, other, REDIRECT).await;
    assert_eq!(refused.unwrap_err().0, "invalid_grant");
}

#[tokio::test]
async fn a_replaced_refresh_token_is_kept_before_its_access_token_is_used_and_the_next_server_goes_on_with_it()
 {
    // So short that each use of a new broker is a refresh, which replaces the refresh token.
    let world = World::new(60);
    let memory = consented(&world, "web").await;
    for round in 1..=3 {
        let token =
            injected(&world.broker(&memory), &memory).await.unwrap_or_else(|code| panic!("{round}: {code}"));
        assert!(world.is_good(&token));
    }
    assert_eq!(memory.log(), ["kept", "ok", "kept", "ok", "kept", "ok"]);
}

#[tokio::test]
async fn a_replaced_refresh_token_that_cannot_be_kept_is_held_and_nothing_is_used_until_it_is() {
    let world = World::new(60);
    let memory = consented(&world, "web").await;
    let broker = world.broker(&memory);
    let slot = broker.slot(&memory.credential());
    memory.0.lock().unwrap().is_full = true;
    assert_eq!(broker.injection(&slot).await.unwrap_err().0, "store_unavailable");
    memory.0.lock().unwrap().is_full = false;
    let begin = std::time::Instant::now();
    let token = loop {
        match broker.injection(&slot).await {
            Ok(token) => break token,
            Err(unavailable) => assert_eq!(unavailable.0, "store_unavailable"),
        }
        assert!(begin.elapsed().as_secs() < 30);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(world.is_good(&token));
}

#[tokio::test]
async fn a_refresh_token_that_was_used_before_needs_a_new_consent() {
    let world = World::new(60);
    let memory = consented(&world, "web").await;
    let stolen = memory.0.lock().unwrap().secret.clone();
    injected(&world.broker(&memory), &memory).await.unwrap();
    memory.0.lock().unwrap().secret = stolen;
    assert_eq!(injected(&world.broker(&memory), &memory).await, Err("invalid_grant"));
    assert_eq!(memory.credential().status, Status::NeedsReauth);
}

#[tokio::test]
async fn what_was_given_is_taken_back() {
    let world = World::new(3600);
    let memory = consented(&world, "web").await;
    let broker = world.broker(&memory);
    let token = injected(&broker, &memory).await.unwrap();
    let secret = memory.0.lock().unwrap().secret.clone();
    assert_eq!(broker.revoke(&memory.credential(), &secret).await, Some(Ok(())));
    assert!(!world.is_good(&token));
}
