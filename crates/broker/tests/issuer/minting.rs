//! Tokens without a person: client credentials, assertions of clients and of service accounts.

use std::time::Duration;

use freehold_broker::Given;
use freehold_model::credential::{Kind, Status};
use freehold_testkit::issuer::ISSUER_HOST;
use futures::FutureExt;
use serde_json::json;

use crate::support::{World, injected};

#[tokio::test]
async fn a_client_proves_itself_by_its_secret_in_either_way() {
    let world = World::new(3600);
    for (id, auth) in [("post", "body"), ("basic", "basic")] {
        let memory = world.client(&[("client_id", id), ("client_auth", auth)]);
        let broker = world.broker(&memory);
        let token = injected(&broker, &memory).await.unwrap();
        assert!(world.is_good(&token), "{id}");
        assert_eq!(memory.log(), ["ok"]);
    }
}

#[tokio::test]
async fn a_client_proves_itself_by_an_assertion_of_every_kind_of_key() {
    let world = World::new(3600);
    for (id, key) in world.issuer.keys() {
        let given = Given { private_key: Some(key.into()), ..Given::default() };
        // The issuer's name is whom assertions are for there, as OpenID Connect has it.
        let audience = format!("https://{ISSUER_HOST}");
        let key_id = format!("key-{id}");
        let config = [("client_id", id), ("audience", &audience), ("key_id", &key_id)];
        let memory = world.credential(Kind::Oauth2ClientAssertion, &config, given);
        let token = injected(&world.broker(&memory), &memory).await;
        assert!(world.is_good(&token.unwrap_or_else(|code| panic!("{id}: {code}"))), "{id}");
    }
}

#[tokio::test]
async fn a_service_account_proves_itself_by_an_assertion_for_itself_or_for_a_person() {
    let world = World::new(3600);
    let url = format!("https://{ISSUER_HOST}/service/token");
    for (kind, config) in [
        (Kind::Oauth2JwtBearer, &[("token_url", url.as_str())][..]),
        (Kind::Oauth2JwtBearerWithSubject, &[("token_url", &url), ("subject", "ann@example.test")]),
    ] {
        let account = world.issuer.service_account_json();
        let given = Given { service_account_json: Some(account.into()), ..Given::default() };
        let memory = world.credential(kind, config, given);
        assert!(world.is_good(&injected(&world.broker(&memory), &memory).await.unwrap()), "{kind}");
    }
}

#[tokio::test]
async fn many_who_wait_are_one_request_and_the_next_ones_are_none() {
    let world = World::new(3600);
    let memory = world.client(&[("client_id", "post")]);
    let broker = world.broker(&memory);
    let asked = (0..50).map(|_| injected(&broker, &memory));
    let tokens = futures::future::join_all(asked).await;
    assert!(tokens.iter().all(|token| token == &tokens[0] && token.is_ok()));
    // Whoever holds no place of it asks anew; workspaces do.
    let slot = broker.slot(&memory.credential());
    let first = broker.injection(&slot).await.unwrap();
    assert_eq!(broker.injection(&slot).await.unwrap(), first);
    assert!(world.issuer.count("/token").unwrap() <= 2);
}

#[tokio::test]
async fn an_attempt_goes_on_when_the_thread_of_whoever_asked_for_it_has_ended() {
    let world = World::new(3600);
    let memory = world.client(&[("client_id", "post")]);
    let broker = world.broker(&memory);
    let asks = || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { injected(&broker, &memory).now_or_never() })
    };
    assert_eq!(std::thread::scope(|scope| scope.spawn(asks).join().unwrap()), None);
    broker.drain(Duration::from_secs(60)).await;
    assert_eq!(memory.log(), ["ok"]);
}

#[tokio::test]
async fn a_fault_that_passes_is_passed_over() {
    let world = World::new(3600);
    let memory = world.client(&[("client_id", "post")]);
    world.issuer.fail(&json!([[503, {}], [429, { "retry-after": "0" }]])).unwrap();
    assert!(world.is_good(&injected(&world.broker(&memory), &memory).await.unwrap()));
    assert_eq!(memory.log(), ["ok"]);
    // One that does not pass in time denies, changes no status, and spares the issuer for a while.
    world.issuer.fail(&json!([[500, {}], [429, { "retry-after": "100" }]])).unwrap();
    let broker = world.broker(&memory);
    let slot = broker.slot(&memory.credential());
    let before = world.issuer.count("/token").unwrap();
    for _ in 0..3 {
        assert_eq!(broker.injection(&slot).await.unwrap_err().0, "rate_limited");
    }
    assert_eq!(world.issuer.count("/token").unwrap(), before + 2);
    assert_eq!(memory.credential().status, Status::Active);
}

#[tokio::test]
async fn a_refusal_for_good_needs_somebody() {
    let world = World::new(3600);
    let memory = world.client(&[("client_id", "nobody")]);
    let broker = world.broker(&memory);
    assert_eq!(injected(&broker, &memory).await, Err("invalid_client"));
    assert_eq!(
        (memory.credential().status, memory.log()),
        (Status::NeedsReauth, vec!["invalid_client".to_owned()])
    );
    let asked = world.issuer.count("/token").unwrap();
    let after = broker.slot(&freehold_model::credential::Credential {
        updated_at: freehold_model::Timestamp::now(),
        ..memory.credential()
    });
    assert_eq!(broker.injection(&after).await.unwrap_err().0, "needs_reauth");
    assert_eq!(world.issuer.count("/token").unwrap(), asked);
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once_and_not_again_at_once() {
    let world = World::new(3600);
    let memory = world.client(&[("client_id", "post")]);
    let broker = world.broker(&memory);
    let slot = broker.slot(&memory.credential());
    let first = broker.injection(&slot).await.unwrap();
    // As many requests were under way with it.
    for _ in 0..10 {
        broker.refused(&slot);
    }
    let second = broker.injection(&slot).await.unwrap();
    assert!(second != first && world.is_good(&second));
    for _ in 0..10 {
        broker.refused(&slot);
        assert_eq!(broker.injection(&slot).await.unwrap(), second);
    }
    assert_eq!((world.issuer.count("/token").unwrap(), memory.log()), (2, vec!["ok".to_owned(); 2]));
}

#[tokio::test]
async fn a_token_that_comes_to_its_end_is_replaced() {
    let world = World::new(10);
    let memory = world.client(&[("client_id", "post")]);
    let broker = world.broker(&memory);
    let slot = broker.slot(&memory.credential());
    let first = broker.injection(&slot).await.unwrap();
    let begin = std::time::Instant::now();
    let second = loop {
        let now = broker.injection(&slot).await.unwrap();
        if now != first {
            break now;
        }
        assert!(begin.elapsed().as_secs() < 60, "it was used beyond its end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(world.is_good(&second));
    assert_eq!(world.issuer.count("/token").unwrap(), 2);
}
