//! Requests that are held until a person decides.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use freehold_egress::{Answer, Approvals, ControlPlane, Ended, Options};
use freehold_model::{
    ApprovalId, OrganizationId, Timestamp,
    approval::{Abandonment, Origin, Question, Reason, RuleRef, Standing},
    audit::Decision,
};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    harness::{Answer as Reply, PATIENCE, Proxy, read},
    upstream::{Speaks, Upstream},
};

/// A rule that asks, before one that does not.
const ASKS: &str = "
- name: api
  type: http
  allow:
    - name: write
      domains: [api.test]
      methods: [POST]
      paths: [/open/**]
      approval: required
    - name: read
      domains: [api.test]
      methods: [GET, POST]
";

/// A rule that posts, with what more it and its capability say.
fn writes(more: &str) -> String {
    format!(
        "- name: api\n  type: http\n  allow:\n    - name: write\n      domains: [api.test]\n      methods: [POST]\n{more}"
    )
}

/// People who decide as the test says.
#[derive(Default)]
struct People {
    asked: watch::Sender<Vec<Question>>,
    ended: watch::Sender<Vec<(ApprovalId, Ended)>>,
    waiting: Mutex<HashMap<ApprovalId, oneshot::Sender<Answer>>>,
    /// What is answered to whoever ends a question: what was decided meanwhile.
    meanwhile: Mutex<Option<Answer>>,
}

#[async_trait]
impl Approvals for People {
    async fn ask(&self, question: Question) -> Answer {
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().unwrap().insert(question.id, sender);
        self.asked.send_modify(|asked| asked.push(question));
        answer.await.unwrap_or(Answer::Unavailable)
    }

    async fn end(&self, _: OrganizationId, id: ApprovalId, how: Ended) -> Answer {
        self.ended.send_modify(|ended| ended.push((id, how)));
        let meanwhile = *self.meanwhile.lock().unwrap();
        meanwhile.unwrap_or(match how {
            Ended::Expired => Answer::Expired,
            Ended::Abandoned(_) => Answer::Abandoned,
        })
    }
}

impl People {
    /// Waits until so many questions were asked, and answers the last of them.
    async fn question(&self, count: usize) -> Question {
        let mut asked = self.asked.subscribe();
        let asked = tokio::time::timeout(PATIENCE, asked.wait_for(|asked| asked.len() >= count)).await;
        asked.expect("nothing was asked").unwrap()[count - 1].clone()
    }

    /// Waits until a question ended without a decision.
    async fn end_of_one(&self) -> (ApprovalId, Ended) {
        let mut ended = self.ended.subscribe();
        let ended = tokio::time::timeout(PATIENCE, ended.wait_for(|ended| !ended.is_empty())).await;
        ended.expect("nothing ended").unwrap()[0]
    }

    fn decide(&self, id: ApprovalId, answer: Answer) {
        let sender = self.waiting.lock().unwrap().remove(&id).expect("nobody waits");
        sender.send(answer).expect("nobody waits any more");
    }
}

async fn asking(change: impl FnOnce(&mut Options)) -> (Upstream, Arc<Proxy>, Arc<People>) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let people = Arc::new(People::default());
    let proxy = Proxy::start_asking(&upstream, Arc::clone(&people) as _, change).await;
    proxy.publish(ASKS, Ok(("x-api-key", "s3cret")));
    (upstream, Arc::new(proxy), people)
}

fn post(proxy: &Arc<Proxy>, path: &'static str) -> JoinHandle<Reply> {
    let proxy = Arc::clone(proxy);
    tokio::spawn(async move {
        let mut sender = proxy.http1("api.test").await;
        let request = Request::post(path)
            .header("host", "api.test")
            .header("content-type", "application/json")
            .header("authorization", "Bearer canary");
        let request = request.body(Full::from(r#"{"title":"hello","password":"canary"}"#)).unwrap();
        read(sender.send_request(request).await.unwrap()).await
    })
}

async fn answered(reply: JoinHandle<Reply>) -> Reply {
    tokio::time::timeout(PATIENCE, reply).await.unwrap().unwrap()
}

#[tokio::test]
async fn an_approved_request_goes_on_with_its_body_and_its_row_says_by_which_approval() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let reply = post(&proxy, "/open/a?q=1&token=canary");
    let question = people.question(1).await;
    assert_eq!(upstream.count(), 0, "it went out before it was approved");
    assert!(proxy.rows.all().iter().all(|row| row.policy_type.as_deref() != Some("http")));
    let RuleRef { origin, capability, rule } = &question.rule;
    assert_eq!((*origin, capability.as_str(), rule.as_str()), (Origin::Role, "api", "write"));
    assert_eq!(question.reason, Reason::ApprovalRequired);
    let shown = &question.shown;
    assert_eq!(
        (shown.method.as_str(), shown.destination.as_str(), shown.path.as_str()),
        ("POST", "api.test", "/open/a")
    );
    assert_eq!(shown.body.as_ref().unwrap().json.as_ref().unwrap()["title"], "hello");
    assert!(!format!("{shown:?}").contains("canary"), "{shown:?}");

    people.decide(question.id, Answer::Approved(question.id));
    assert_eq!(answered(reply).await.status, StatusCode::OK);
    let seen = upstream.last();
    assert_eq!(&seen.body[..], br#"{"title":"hello","password":"canary"}"#);
    let row = proxy.rows.with_reason("rule_matched").await;
    assert_eq!(row.detail.unwrap()["approval_id"], question.id.to_string());
    assert!(people.ended.borrow().is_empty());
}

#[tokio::test]
async fn a_denied_request_is_answered_and_nothing_is_dialled() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let reply = post(&proxy, "/open/a");
    let question = people.question(1).await;
    people.decide(question.id, Answer::Denied);
    let reply = answered(reply).await;
    assert_eq!((reply.status, reply.reason()), (StatusCode::FORBIDDEN, "approval_denied".to_owned()));
    let row = proxy.rows.with_reason("approval_denied").await;
    let detail = row.detail.unwrap();
    assert_eq!((&detail["approval_id"], &detail["rule"]), (&question.id.to_string().into(), &"write".into()));
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn what_nobody_decides_in_time_is_denied_unless_it_was_approved_in_that_moment() {
    let (upstream, proxy, people) = asking(|options| options.limits.approval_ms = 50).await;
    let reply = answered(post(&proxy, "/open/a")).await;
    assert_eq!(reply.reason(), "approval_expired");
    assert_eq!(people.end_of_one().await.1, Ended::Expired);
    proxy.rows.with_reason("approval_expired").await;
    assert_eq!(upstream.count(), 0);

    let approved = Answer::Approved(people.question(1).await.id);
    *people.meanwhile.lock().unwrap() = Some(approved);
    assert_eq!(answered(post(&proxy, "/open/a")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_hold_and_leaves_a_row_over_either_protocol() {
    for http2 in [false, true] {
        let (upstream, proxy, people) = asking(|_| {}).await;
        let client = {
            let proxy = Arc::clone(&proxy);
            tokio::spawn(async move {
                if http2 {
                    let request = Request::post("https://api.test/open/a").body(Full::from("x")).unwrap();
                    let _ = proxy.http2("api.test").await.send_request(request).await;
                } else {
                    let mut stream = proxy.https("api.test").await;
                    let head = b"POST /open/a HTTP/1.1\r\nhost: api.test\r\ncontent-length: 1\r\n\r\nx";
                    stream.write_all(head).await.unwrap();
                    let _ = stream.read(&mut [0; 1]).await;
                }
            })
        };
        let question = people.question(1).await;
        // Dropping the client's side closes its connection, or resets its stream.
        client.abort();
        let ended = people.end_of_one().await;
        assert_eq!(ended, (question.id, Ended::Abandoned(Abandonment::ClientGone)), "http2: {http2}");
        let row = proxy.rows.with_reason("approval_abandoned").await;
        let detail = row.detail.unwrap();
        assert_eq!(row.decision, Some(Decision::Deny));
        assert_eq!(
            (&detail["approval_id"], &detail["abandonment"]),
            (&question.id.to_string().into(), &"client_gone".into())
        );
        assert_eq!(upstream.count(), 0);
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_every_hold_and_leaves_their_rows() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let _reply = post(&proxy, "/open/a");
    let question = people.question(1).await;
    proxy.stop().await;
    let ended = people.ended.borrow().clone();
    assert_eq!(ended, [(question.id, Ended::Abandoned(Abandonment::ServerStopped))]);
    let row = proxy.rows.with_reason("approval_abandoned").await;
    assert_eq!(row.detail.unwrap()["abandonment"], "server_stopped");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_rule_that_denies_and_came_meanwhile_wins_over_an_approval() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let reply = post(&proxy, "/open/a");
    let question = people.question(1).await;
    let denies = "      approval: required\n  deny: [{name: never, domains: [api.test], paths: [/open/**]}]";
    proxy.publish(&writes(denies), Ok(("x-api-key", "s3cret")));
    people.decide(question.id, Answer::Approved(question.id));
    assert_eq!(answered(reply).await.reason(), "denied_by_rule");
    let row = proxy.rows.with_reason("denied_by_rule").await;
    let detail = row.detail.unwrap();
    assert_eq!((&detail["rule"], &detail["approval_id"]), (&"never".into(), &question.id.to_string().into()));
    assert_eq!(upstream.count(), 0);
}

/// No rule is lifted where a document says so: by a wide rule that asks. What a rule denies is not asked about.
#[tokio::test]
async fn what_no_other_rule_allows_is_asked_about_under_a_wide_rule_and_what_one_denies_is_not() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    // Without it nobody is asked.
    let unasked = proxy.send("ws.test", Request::post("/open/a")).await;
    assert_eq!(unasked.reason(), "domain_not_allowed");
    let page = include_str!("../../../../docs/approvals.md");
    let wide = page.split("```yaml\n").find(|block| block.contains("zz-anything-else")).unwrap();
    let wide = wide.split("```").next().unwrap();
    let denies = "  deny:\n    - {name: never, domains: [api.test], paths: [/secret/**]}\n";
    proxy.publish(&format!("{ASKS}{denies}{wide}"), Ok(("x-api-key", "s3cret")));
    assert_eq!(answered(post(&proxy, "/secret/a")).await.reason(), "denied_by_rule");
    assert!(people.asked.borrow().is_empty(), "somebody was asked about what is denied");
    let other = Arc::clone(&proxy);
    let reply = tokio::spawn(async move { other.send("ws.test", Request::delete("/any")).await });
    let question = people.question(1).await;
    assert_eq!((&*question.rule.capability, &*question.rule.rule), ("zz-anything-else", "ask"));
    assert_eq!(upstream.count(), 0);
    people.decide(question.id, Answer::Approved(question.id));
    assert_eq!(answered(reply).await.status, StatusCode::OK);
    assert_eq!(proxy.get("api.test", "/open/a").await.status, StatusCode::OK);
    assert_eq!((upstream.count(), people.asked.borrow().len()), (2, 1));
}

#[tokio::test]
async fn trailers_of_a_held_request_are_shown_like_its_headers() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let mut stream = proxy.https("api.test").await;
    let request = "POST /open/a HTTP/1.1\r\nhost: api.test\r\ntransfer-encoding: chunked\r\n\r\n\
        2\r\nhi\r\n0\r\nx-plan: delete\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let question = people.question(1).await;
    let trailers: Vec<_> =
        question.shown.trailers.iter().map(|field| (field.name.as_str(), field.hidden_chars)).collect();
    assert_eq!(trailers, [("x-plan", Some(6))]);
    people.decide(question.id, Answer::Approved(question.id));
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!((&answer, upstream.count()), (b"HTTP/1.1 200", 1));
}

#[tokio::test]
async fn a_body_that_is_looked_into_again_after_an_approval_keeps_the_room_it_has() {
    let (upstream, proxy, people) = asking(|options| {
        options.limits.bodies_per_pod_kibibytes_max = 1;
        options.limits.body_wait_ms = 60_000;
    })
    .await;
    let caps = ASKS
        .replace("      approval: required", "      when: size(request.body) > 0\n      approval: required");
    proxy.publish(&caps, Ok(("x-api-key", "s3cret")));
    let reply = post(&proxy, "/open/a");
    let question = people.question(1).await;
    // Another policy, for which the body is looked into anew.
    proxy.publish(&caps, Ok(("x-api-key", "s3cret")));
    people.decide(question.id, Answer::Approved(question.id));
    assert_eq!(answered(reply).await.status, StatusCode::OK);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn another_rule_that_asks_and_came_meanwhile_asks_again() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let reply = post(&proxy, "/open/a");
    let first = people.question(1).await;
    proxy.publish(&ASKS.replace("name: write", "name: other"), Ok(("x-api-key", "s3cret")));
    people.decide(first.id, Answer::Approved(first.id));
    let second = people.question(2).await;
    assert_eq!((second.rule.rule.as_str(), second.id != first.id), ("other", true));
    people.decide(second.id, Answer::Approved(second.id));
    assert_eq!(answered(reply).await.status, StatusCode::OK);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_request_whose_rule_is_another_each_time_is_held_four_times_and_then_denied() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let reply = post(&proxy, "/open/a");
    let mut last = String::new();
    for count in 1..=4 {
        let question = people.question(count).await;
        let other = ASKS.replace("name: write", &format!("name: write-{count}"));
        proxy.publish(&other, Ok(("x-api-key", "s3cret")));
        people.decide(question.id, Answer::Approved(question.id));
        last = question.id.to_string();
    }
    assert_eq!(answered(reply).await.reason(), "approval_denied");
    let row = proxy.rows.with_reason("approval_denied").await;
    assert_eq!(row.detail.unwrap()["approval_id"], last);
    assert_eq!((upstream.count(), people.asked.borrow().len()), (0, 4));
}

#[tokio::test]
async fn a_grant_that_was_taken_away_meanwhile_denies() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let reply = post(&proxy, "/open/a");
    let question = people.question(1).await;
    proxy.handle.revoke(proxy.pod.workspace_id);
    people.decide(question.id, Answer::Approved(question.id));
    assert_eq!(answered(reply).await.reason(), "no_grant");
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn more_than_a_pod_may_hold_is_denied_and_its_other_requests_pass() {
    let (_upstream, proxy, people) = asking(|options| options.limits.approvals_per_pod_max = 1).await;
    let held = post(&proxy, "/open/a");
    let question = people.question(1).await;
    assert_eq!(answered(post(&proxy, "/open/b")).await.reason(), "approvals_full");
    // There is no approval that its row could name.
    let row = proxy.rows.with_reason("approvals_full").await;
    assert_eq!(row.detail, Some(serde_json::json!({"rule": "write", "origin": "role"})));
    assert_eq!(proxy.get("api.test", "/open/a").await.status, StatusCode::OK);
    people.decide(question.id, Answer::Denied);
    answered(held).await;
    // The place is free again.
    let next = post(&proxy, "/open/c");
    people.decide(people.question(2).await.id, Answer::Denied);
    assert_eq!(answered(next).await.reason(), "approval_denied");
}

#[tokio::test]
async fn what_stands_for_the_rule_and_the_policy_passes_without_asking_until_its_time() {
    let (_upstream, proxy, people) = asking(|options| options.limits.approval_ms = 50).await;
    let id = ApprovalId::from_uuid(uuid::Uuid::now_v7());
    let stands = |rule: &str, until: Timestamp| Standing {
        id,
        reason: Reason::ApprovalRequired,
        rule: RuleRef { origin: Origin::Role, capability: "api".into(), rule: rule.into() },
        policy_digest: ASKS.to_owned(),
        until,
    };
    let later = Timestamp::now() + PATIENCE;
    proxy.handle.set_standing(proxy.pod.workspace_id, vec![stands("write", later)]);
    assert_eq!(answered(post(&proxy, "/open/a")).await.status, StatusCode::OK);
    assert!(people.asked.borrow().is_empty());
    let row = proxy.rows.with_reason("rule_matched").await;
    assert_eq!(row.detail.unwrap()["approval_id"], id.to_string());

    for others in [vec![], vec![stands("write", Timestamp::now())], vec![stands("read", later)]] {
        proxy.handle.set_standing(proxy.pod.workspace_id, others);
        assert_eq!(answered(post(&proxy, "/open/a")).await.reason(), "approval_expired");
    }
    // By the same name another policy may mean something else.
    proxy.handle.set_standing(proxy.pod.workspace_id, vec![stands("write", later)]);
    proxy.publish(&format!("{ASKS}\n# changed\n"), Ok(("x-api-key", "s3cret")));
    assert_eq!(answered(post(&proxy, "/open/a")).await.reason(), "approval_expired");
}

#[tokio::test]
async fn a_body_that_is_longer_than_what_is_shown_says_so_and_arrives_whole() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let reply = {
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let mut sender = proxy.http1("api.test").await;
            let request =
                Request::post("/open/a").header("host", "api.test").header("content-type", "text/plain");
            let request = request.body(Full::from("a".repeat(1024 * 1024))).unwrap();
            read(sender.send_request(request).await.unwrap()).await
        })
    };
    let question = people.question(1).await;
    let body = question.shown.body.unwrap();
    assert_eq!((body.is_whole, question.shown.is_cut), (false, true));
    assert_eq!(body.text.unwrap().len(), 32 * 1024);
    people.decide(question.id, Answer::Approved(question.id));
    assert_eq!(answered(reply).await.status, StatusCode::OK);
    assert_eq!(upstream.last().body.len(), 1024 * 1024);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_asked_about_without_it() {
    let (_upstream, proxy, people) = asking(|options| options.limits.approval_body_ms = 50).await;
    let mut stream = proxy.https("api.test").await;
    let head =
        b"POST /open/a HTTP/1.1\r\nhost: api.test\r\ncontent-length: 10\r\nconnection: close\r\n\r\nhello";
    stream.write_all(head).await.unwrap();
    let question = people.question(1).await;
    let body = question.shown.body.unwrap();
    assert_eq!((body.bytes, body.is_whole, body.text.as_deref()), (5, false, Some("hello")));
    people.decide(question.id, Answer::Approved(question.id));
    stream.write_all(b"world").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("helloworld"), "{answer}");
}

#[tokio::test]
async fn where_nobody_can_be_asked_what_asks_is_denied() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let proxy = Arc::new(Proxy::start(&upstream).await);
    proxy.publish(ASKS, Ok(("x-api-key", "s3cret")));
    let reply = answered(post(&proxy, "/open/a")).await;
    assert_eq!(
        (reply.status, reply.reason()),
        (StatusCode::SERVICE_UNAVAILABLE, "approval_unavailable".to_owned())
    );
    assert_eq!(answered(post(&proxy, "/elsewhere")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_control_plane_is_out_of_reach_by_address_and_by_name_whatever_the_operator_names() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let address = upstream.address;
    // The operator has named the very address for `api.test`.
    let control_plane = move |options: &mut Options| {
        options.control_plane = ControlPlane::new(address, ["https://model.test"]).unwrap();
    };
    let proxy = Proxy::start_with(&upstream, control_plane).await;
    assert_eq!(proxy.get("api.test", "/open/a").await.reason(), "control_plane_forbidden");
    proxy.rows.with_reason("control_plane_forbidden").await;
    let elsewhere = Upstream::start(Speaks::Http1).await;
    let by_address = format!("https://{}", elsewhere.address);
    for urls in [["https://model.test", "https://API.test"], ["https://model.test", &by_address]] {
        let nowhere = "192.0.2.1:1".parse().unwrap();
        let control_plane = ControlPlane::new(nowhere, urls).unwrap();
        let set = move |options: &mut Options| options.control_plane = control_plane;
        let proxy = Proxy::start_with(&elsewhere, set).await;
        assert_eq!(proxy.get("api.test", "/open/a").await.reason(), "control_plane_forbidden");
    }
    assert_eq!((upstream.count(), elsewhere.count()), (0, 0));
}

#[tokio::test]
async fn a_budget_at_whose_limit_a_person_is_asked_lets_go_on_whom_they_approve_and_counts_it() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let budgets = "  budgets: {calls: {unit: requests, per: workspace, limit: 1, on_limit: ask}}";
    proxy.publish(&writes(budgets), Ok(("x-api-key", "s3cret")));
    assert_eq!(post(&proxy, "/open/a").await.unwrap().status, StatusCode::OK);
    let (second, question) = (post(&proxy, "/open/b"), people.question(1).await);
    assert_eq!((question.reason, &*question.rule.rule), (Reason::BudgetExceeded, "write"));
    assert_eq!(upstream.count(), 1);
    people.decide(question.id, Answer::Approved(question.id));
    assert_eq!(second.await.unwrap().status, StatusCode::OK);
    assert_eq!(proxy.counts.taken("calls"), 2);
    // What was approved once is asked again.
    let (third, question) = (post(&proxy, "/open/c"), people.question(2).await);
    people.decide(question.id, Answer::Denied);
    let reply = third.await.unwrap();
    assert_eq!((reply.status, reply.reason()), (StatusCode::FORBIDDEN, "approval_denied".to_owned()));
    assert_eq!((upstream.count(), proxy.counts.taken("calls")), (2, 2));
}

#[tokio::test]
async fn no_person_lifts_a_limit_that_denies() {
    let (upstream, proxy, people) = asking(|_| {}).await;
    let more = "      approval: required
  budgets:
    asks: {unit: requests, per: workspace, limit: 0, on_limit: ask}
    denies: {unit: requests, per: workspace, limit: 0}
";
    proxy.publish(&writes(more), Ok(("x-api-key", "s3cret")));
    let (held, question) = (post(&proxy, "/open/a"), people.question(1).await);
    assert_eq!(question.reason, Reason::ApprovalRequired);
    people.decide(question.id, Answer::Approved(question.id));
    let reply = held.await.unwrap();
    assert_eq!((reply.status, reply.reason()), (StatusCode::FORBIDDEN, "budget_exceeded".to_owned()));
    assert_eq!(upstream.count(), 0);
}
