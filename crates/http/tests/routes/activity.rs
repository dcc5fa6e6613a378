//! `/v1/activity/stream` and the activity of a workspace.

use std::time::Duration;

use freehold_api::error::ErrorCode;
use freehold_app::stream::LISTENERS_PER_CALLER_MAX;
use freehold_http::Options;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::context::Context;

/// Time an event may take to come.
const EVENT_TIME_MAX: Duration = Duration::from_secs(10);

/// A client of a stream.
struct Events {
    response: Response,
    text: String,
    /// Where the stream began.
    begin: u64,
}

/// One block of a stream.
#[derive(Debug, PartialEq)]
enum Block {
    Comment(String),
    /// Where the stream is, without an event.
    Position(u64),
    Event {
        id: u64,
        data: Value,
    },
}

impl Events {
    async fn open(context: &Context, path: &str, key: &str, last: Option<u64>) -> Self {
        let mut request = context.request(Method::GET, path, key);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut events = Self { response, text: String::new(), begin: 0 };
        let Some(Block::Position(begin)) = events.block().await else { panic!("no position at first") };
        Self { begin, ..events }
    }

    async fn block(&mut self) -> Option<Block> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let block = parse(block);
                self.text = rest.to_owned();
                return Some(block);
            }
            let chunk =
                tokio::time::timeout(EVENT_TIME_MAX, self.response.chunk()).await.expect("nothing came");
            self.text.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
        }
    }

    /// The next event, passing over comments.
    async fn event(&mut self) -> (u64, Value) {
        loop {
            if let Block::Event { id, data } = self.block().await.expect("the stream ended") {
                return (id, data);
            }
        }
    }
}

fn parse(block: &str) -> Block {
    if let Some(comment) = block.strip_prefix(':') {
        return Block::Comment(comment.to_owned());
    }
    let mut lines = block.lines();
    let id = lines.next().unwrap().strip_prefix("id: ").unwrap().parse().unwrap();
    let Some(kind) = lines.next() else { return Block::Position(id) };
    assert_eq!(kind, "event: activity");
    let data = serde_json::from_str(lines.next().unwrap().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(lines.next(), None);
    Block::Event { id, data }
}

#[tokio::test]
async fn a_stream_begins_now_and_resumes_without_loss_or_duplicate() {
    let context = Context::new().await;
    context.role().await;
    let before = context.workspace(&context.ann).await;
    let mut live = Events::open(&context, "/v1/activity/stream", &context.owner, None).await;
    let workspace = context.ready(&context.ann).await;
    let (first, data) = live.event().await;
    assert_eq!(data["event_type"], "workspace_created");
    assert_eq!((&data["workspace_id"], &data["agent_role"]), (&json!(workspace), &json!("worker")));
    assert_ne!(data["workspace_id"], json!(before));
    drop(live);
    for n in 0..700 {
        context.task(&workspace, &context.ann, &format!("{n}")).await;
        if n == 0 {
            context
                .advance(
                    &context.task(&workspace, &context.ann, "x").await,
                    freehold_model::task::Event::Failed,
                )
                .await;
        }
    }
    let mut resumed = Events::open(&context, "/v1/activity/stream", &context.owner, Some(first)).await;
    let mut ids = vec![first];
    for _ in 0..703 {
        ids.push(resumed.event().await.0);
    }
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "in order and once");
    context.task(&workspace, &context.ann, "live").await;
    let (id, data) = resumed.event().await;
    assert_eq!((id, &data["event_type"]), (ids[703] + 1, &json!("task_submitted")));
}

#[tokio::test]
async fn a_stream_that_broke_before_its_first_event_resumes_where_it_began() {
    let context = Context::new().await;
    context.role().await;
    let broken = Events::open(&context, "/v1/activity/stream", &context.owner, None).await;
    let begin = broken.begin;
    drop(broken);
    let workspace = context.workspace(&context.ann).await;
    let mut resumed = Events::open(&context, "/v1/activity/stream", &context.owner, Some(begin)).await;
    assert_eq!(resumed.begin, begin);
    let (_, data) = resumed.event().await;
    assert_eq!(
        (&data["event_type"], &data["workspace_id"]),
        (&json!("workspace_created"), &json!(workspace))
    );
}

#[tokio::test]
async fn writes_during_a_resume_are_seen_once_each() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let writes = async {
        for n in 0..200 {
            context.task(&workspace, &context.ann, &format!("{n}")).await;
        }
    };
    let path = format!("/v1/workspaces/{workspace}/activity/stream");
    let reads = async {
        let (mut last, mut tasks) = (0, 0);
        // Connects again every few events, always from the last one seen.
        while tasks < 200 {
            let mut events = Events::open(&context, &path, &context.ann, Some(last)).await;
            for _ in 0..7 {
                if tasks == 200 {
                    break;
                }
                let (id, data) = events.event().await;
                assert!(id > last);
                last = id;
                tasks += usize::from(data["event_type"] == "task_submitted");
            }
        }
        tasks
    };
    let ((), tasks) = tokio::join!(writes, reads);
    assert_eq!(tasks, 200);
}

#[tokio::test]
async fn own_narrows_a_stream_to_workspaces_the_caller_created() {
    let context = Context::new().await;
    context.role().await;
    let mut of_ann = Events::open(&context, "/v1/activity/stream", &context.ann, None).await;
    let mut of_ann_from_start = Events::open(&context, "/v1/activity/stream", &context.ann, Some(0)).await;
    context.ready(&context.bob).await;
    let workspace = context.workspace(&context.ann).await;
    for events in [&mut of_ann, &mut of_ann_from_start] {
        assert_eq!(events.event().await.1["workspace_id"], json!(workspace));
    }
    // What the system does in one's workspace is one's own to see.
    context.happen(&workspace, freehold_model::workspace::Event::AgentReady).await;
    assert_eq!(of_ann.event().await.1["user_id"], "system");
}

#[tokio::test]
async fn a_stream_shows_that_it_lives_and_ends_by_itself() {
    let options = Options {
        sse_heartbeat: Duration::from_millis(20),
        sse_duration_max: Duration::from_millis(200),
        ..Options::default()
    };
    let context = Context::with(options).await;
    let mut events = Events::open(&context, "/v1/activity/stream", &context.owner, None).await;
    assert_eq!(events.block().await, Some(Block::Comment(" heartbeat".into())));
    for _ in 0..100 {
        match events.block().await {
            Some(block) => assert_eq!(block, Block::Comment(" heartbeat".into())),
            None => return,
        }
    }
    panic!("the stream did not end");
}

#[tokio::test]
async fn a_place_that_is_none_is_refused() {
    let context = Context::new().await;
    for last in ["x", "-1", "1.5", "99999999999999999999999"] {
        let request = context.request(Method::GET, "/v1/activity/stream", &context.owner);
        context.send(request.header("Last-Event-ID", last)).await.refused_fields(&["Last-Event-ID"]);
    }
}

#[tokio::test]
async fn a_slow_listener_is_dropped_and_no_buffer_grows_for_it() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let actor = context.app.authenticate(&context.owner).await.unwrap().unwrap();
    let mut slow = context.app.activity_listen(&actor, None, None).await.unwrap();
    let mut quick = context.app.activity_listen(&actor, None, None).await.unwrap();
    let behind = freehold_app::stream::ROWS_BEHIND_MAX;
    let mut submitted = 0;
    while submitted <= behind {
        // Each task is two rows: submitted and ended.
        let task = context.task(&workspace, &context.ann, "x").await;
        context.advance(&task, freehold_model::task::Event::Failed).await;
        submitted += 2;
        for _ in 0..2 {
            quick.next().await.unwrap();
        }
    }
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn activity_is_listed_by_page_task_type_and_time() {
    let context = Context::new().await;
    context.role().await;
    let workspace = context.ready(&context.ann).await;
    let task = context.task(&workspace, &context.ann, "x").await;
    context.task(&workspace, &context.ann, "y").await;
    let path = format!("/v1/workspaces/{workspace}/activity");
    let list = async |query: &str| context.get(&format!("{path}?{query}"), &context.ann).await;
    let all = list("").await.ok();
    let types: Vec<&Value> = all["events"].as_array().unwrap().iter().map(|row| &row["event_type"]).collect();
    assert_eq!(types[0], "workspace_created");
    assert_eq!(all.get("cursor"), None);
    assert_eq!(list(&format!("task_id={task}")).await.ok()["events"].as_array().unwrap().len(), 1);
    assert_eq!(list("event_type=task_submitted").await.ok()["events"].as_array().unwrap().len(), 2);
    let (mut paged, mut query) = (Vec::new(), "limit=1".to_owned());
    for _ in 0..types.len() {
        let page = list(&query).await.ok();
        paged.extend(page["events"].as_array().unwrap().clone());
        query = format!("limit=1&cursor={}", page["cursor"].as_str().unwrap_or_default());
    }
    assert_eq!((json!(paged), query.as_str()), (all["events"].clone(), "limit=1&cursor="));
    let first = all["events"][0]["timestamp"].as_str().unwrap();
    let later = list(&format!("after={first}")).await.ok();
    assert!(later["events"].as_array().unwrap().len() < types.len());
    list("cursor=1.x").await.refused(ErrorCode::InvalidCursor);
    list(&format!("after={first}&cursor=x")).await.refused_fields(&["after"]);
    list("after=yesterday").await.refused_fields(&["after"]);
    list("event_type=nonsense").await.refused_fields(&["event_type"]);
}

#[tokio::test]
async fn a_stopping_server_ends_its_streams_and_then_itself() {
    let context = Context::new().await;
    let mut events = Events::open(&context, "/v1/activity/stream", &context.owner, None).await;
    context.stop.notify_one();
    assert_eq!(events.block().await, None);
    tokio::time::timeout(EVENT_TIME_MAX, context.served).await.expect("it goes on").unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_ends_at_once_when_its_key_is_revoked_and_no_other_does() {
    let context = Context::new().await;
    let (id, key) = context.key("read_only").await;
    let (_, other) = context.key("read_only").await;
    let mut revoked = Events::open(&context, "/v1/activity/stream", &key, None).await;
    let mut goes_on = Events::open(&context, "/v1/activity/stream", &other, None).await;
    context.delete(&format!("/v1/api-keys/{id}"), &context.owner).await.ok();
    assert_eq!(revoked.block().await, None);
    context.role().await;
    context.workspace(&context.owner).await;
    goes_on.event().await;
}

#[tokio::test]
async fn one_caller_has_a_limit_of_streams_and_others_are_not_in_its_way() {
    let context = Context::new().await;
    let (_, greedy) = context.key("read_only").await;
    let open = futures::future::join_all((0..LISTENERS_PER_CALLER_MAX).map(|_| {
        let greedy = &greedy;
        let context = &context;
        async move { Events::open(context, "/v1/activity/stream", greedy, None).await }
    }));
    let mut open = open.await;
    context.get("/v1/activity/stream", &greedy).await.refused(ErrorCode::TooManyRequests);
    Events::open(&context, "/v1/activity/stream", &context.ann, None).await;
    // A stream that is closed gives its place back.
    open.pop();
    let deadline = tokio::time::Instant::now() + EVENT_TIME_MAX;
    while context.request(Method::GET, "/v1/activity/stream", &greedy).send().await.unwrap().status() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "no place came back");
        tokio::task::yield_now().await;
    }
}
