use serde_json::json;

use super::*;

const ID: &str = "01933b5a000070008000000000000001";

/// A row of the task, `ms` after its beginning.
fn row(ms: u32, event_type: &str, fields: &Value) -> AuditEvent {
    let mut row = json!({
        "id": format!("event_{ID}"), "org_id": format!("org_{ID}"), "user_id": "system",
        "timestamp": format!("2026-01-01T00:00:{:02}.{:03}Z", ms / 1000, ms % 1000),
        "event_type": event_type, "category": "activity", "actor": "agent",
        "workspace_id": format!("ws_{ID}"), "task_id": format!("task_{ID}"),
    });
    for (name, value) in fields.as_object().unwrap() {
        row[name] = value.clone();
    }
    serde_json::from_value(row).unwrap()
}

fn plain(rows: &[AuditEvent], detail: Detail) -> String {
    let mut progress = Progress::new(detail);
    let text: String = rows.iter().map(|row| progress.render(row)).collect();
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn a_retry_says_why_and_when_the_next_attempt_is() {
    let error = "the provider is not available: Overloaded";
    let detail = json!({"attempt": 2, "error": error, "code": "provider_unavailable", "wait_ms": 1500});
    let shown = plain(&[row(0, "iteration_retrying", &json!({"detail": detail}))], Detail::SHORT);
    assert!(shown.contains("attempt 2, the next one in 1.5") && shown.contains(error), "{shown}");
}

#[test]
fn a_request_that_waits_says_how_to_decide_and_what_became_of_it() {
    let id = format!("approval_{ID}");
    let of = |status: &str| json!({"approval_id": id, "status": status, "rule": "issues", "comment": "no\u{1b}[31m"});
    let request = |detail: Value| json!({"method": "POST", "destination": "api.test", "path": "/x", "capability_name": "github", "detail": detail});
    let rows = [
        row(0, "approval_requested", &request(of("pending"))),
        row(900, "approval_decided", &request(of("denied"))),
    ];
    let shown = plain(&rows, Detail::SHORT);
    assert!(shown.contains("waits    POST api.test/x") && shown.contains("rule github/issues"), "{shown}");
    assert!(shown.contains(&format!("freehold approvals approve {id}\n")), "{shown}");
    assert!(shown.contains("denied     POST api.test/x") && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn a_recorded_task_reads_as_numbered_steps_with_calls_requests_and_times() {
    let rows = [
        row(0, "task_submitted", &json!({"detail": {}})),
        row(40, "workspace_status_changed", &json!({"detail": {"from": "provisioning", "status": "idle"}})),
        row(60, "iteration_started", &json!({"detail": {"iteration": 1}})),
        row(
            560,
            "iteration_completed",
            &json!({"detail": {"success": true, "iteration": 1, "model": "scripted", "text": "Now let me run its test."}}),
        ),
        row(
            570,
            "tool_started",
            &json!({"detail": {"tool_call_id": "c1", "tool": "bash", "arguments": "{\"command\": \"perl primes.pl --test\"}"}}),
        ),
        row(
            580,
            "policy_decision",
            &json!({"decision": "deny", "method": "POST", "destination": "forbidden.freehold.test", "path": "/", "reason": "no rule allows it", "latency_ms": 1, "policy_type": "http"}),
        ),
        row(
            590,
            "policy_decision",
            &json!({"decision": "allow", "method": "A", "destination": "x.test", "policy_type": "dns"}),
        ),
        row(
            600,
            "tool_completed",
            &json!({"detail": {"tool_call_id": "c1", "tool": "bash", "status": "error", "result": "not ok\n", "duration_ms": 31}}),
        ),
        row(
            1500,
            "task_completed",
            &json!({"detail": {"status": "completed", "iterations": 1, "duration_ms": 1400, "usage": {"input_tokens": 10, "output_tokens": 20}}}),
        ),
    ];
    let expected = "     0 ms  task submitted
    40 ms  workspace idle (was provisioning)

  1  asking the model
     scripted answered in 500 ms
     Now let me run its test.
     ▸ bash  perl primes.pl --test
     denied   POST forbidden.freehold.test/  no rule allows it · 1 ms
       │ not ok
     ✗ error 31 ms

completed  1 step · 1.4 s · 10 tokens in, 20 out
";
    assert_eq!(plain(&rows, Detail::SHORT), expected);
}

#[test]
fn what_is_written_and_edited_is_shown_where_there_is_room_for_it() {
    let arguments = json!({"path": "/workspace/a", "content": "one\ntwo\n"}).to_string();
    let rows = [row(0, "tool_started", &json!({"detail": {"tool": "write_file", "arguments": arguments}}))];
    assert_eq!(plain(&rows, Detail::FULL), "     ▸ write_file  /workspace/a\n       │ one\n       │ two\n");
    assert_eq!(plain(&rows, Detail::SHORT), "     ▸ write_file  /workspace/a\n");
}

#[test]
fn a_failure_says_why() {
    let rows = [row(
        0,
        "task_completed",
        &json!({"detail": {"status": "failed", "reason": "the model refused the key"}}),
    )];
    assert_eq!(plain(&rows, Detail::SHORT), "\nfailed  0 ms\n     the model refused the key\n");
}

#[test]
fn absent_and_odd_details_leave_gaps_and_hostile_text_does_nothing() {
    for &event_type in EventType::ALL {
        for detail in [
            json!(null),
            json!({}),
            json!([1]),
            json!("text"),
            json!({"status": 1, "text": {}, "arguments": "{"}),
        ] {
            let row = row(0, event_type.as_str(), &json!({"detail": detail}));
            plain(std::slice::from_ref(&row), Detail::FULL);
            summary(&row);
        }
    }
}

#[test]
fn no_field_of_any_row_reaches_the_terminal_as_a_command() {
    const EVIL: &str = "e\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}1mv\u{202e}i\u{2066}l\u{85}";
    let is_hostile = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let call = json!({"command": EVIL, "path": EVIL, "content": EVIL, "old": EVIL, "new": EVIL, "url": EVIL, "method": EVIL});
    for tool in ["bash", "read_file", "write_file", "edit_file", "web_fetch", EVIL] {
        for arguments in [json!(call.to_string()), call.clone(), json!(EVIL), json!([EVIL])] {
            let detail = json!({
                "text": EVIL, "error": EVIL, "success": false, "model": EVIL, "tool": tool, "tool_call_id": EVIL,
                "arguments": arguments, "result": EVIL, "status": EVIL, "from": EVIL, "to": EVIL, "reason": EVIL,
                "upstream_error": EVIL, EVIL: EVIL,
            });
            for &event_type in EventType::ALL {
                for decision in ["allow", "deny"] {
                    let row = row(
                        0,
                        event_type.as_str(),
                        &json!({
                            "detail": detail, "reason": EVIL, "destination": EVIL, "method": EVIL, "path": EVIL,
                            "decision": decision, "capability_name": EVIL, "policy_type": "http",
                            "auth_applied": [EVIL], "auth_failures": {EVIL: EVIL},
                        }),
                    );
                    let text = Progress::new(Detail::FULL).render(&row) + &summary(&row);
                    // This program's own styles apart.
                    let text =
                        text.replace("\u{1b}[0m", "").replace("\u{1b}[1m", "").replace("\u{1b}[2m", "");
                    let text =
                        text.replace("\u{1b}[31m", "").replace("\u{1b}[32m", "").replace("\u{1b}[36m", "");
                    assert_eq!(
                        text.chars().find(|c| is_hostile(*c)),
                        None,
                        "{event_type} {tool:?}: {text:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_allowed_request_that_nobody_answered_says_so_and_a_question_for_a_name_is_told_apart() {
    let row = |fields: Value| row(0, "policy_decision", &fields);
    let shown = plain(
        &[
            row(
                json!({"decision": "allow", "method": "POST", "destination": "api.test", "path": "/v1", "reason": "rule_matched",
                "policy_type": "http", "detail": {"upstream_error": "upstream_unresolved"}}),
            ),
            row(
                json!({"decision": "deny", "method": "AAAA", "destination": "other.test", "reason": "domain_not_allowed",
                "policy_type": "dns"}),
            ),
        ],
        Detail::SHORT,
    );
    assert!(
        shown.contains("allowed  POST api.test/v1  rule_matched · no answer: upstream_unresolved"),
        "{shown}"
    );
    assert!(shown.contains("denied   DNS AAAA other.test"), "{shown}");
}

#[test]
fn a_change_of_status_is_shown_whether_it_happened_or_was_asked_for() {
    for name in ["status", "to"] {
        let detail = json!({"detail": {"from": "idle", name: "stopping"}});
        let changed = row(0, "workspace_status_changed", &detail);
        assert_eq!(summary(&changed), "idle -> stopping");
        assert!(plain(&[changed], Detail::SHORT).contains("workspace stopping (was idle)"));
    }
}

#[test]
fn a_denial_because_of_an_inside_address_says_what_the_operator_can_do() {
    let denied = json!({"decision": "deny", "method": "GET", "destination": "wiki.test", "path": "/",
        "reason": "address_forbidden", "policy_type": "http"});
    let shown = plain(&[row(0, "policy_decision", &denied)], Detail::SHORT);
    assert!(
        shown.contains("address_forbidden: the address is an inside one") && shown.contains("egress.hosts"),
        "{shown}"
    );
}

#[test]
fn a_denial_names_what_stood_in_its_way() {
    let denied = |reason: &str, more: Value| {
        let mut fields = json!({"actor": "policy-engine", "category": "audit", "method": "GET", "destination": "api.test",
            "path": "/x", "decision": "deny", "reason": reason, "detail": {}});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        summary(&row(0, "policy_decision", &fields))
    };
    for (reason, more, shown) in [
        (
            "auth_unavailable",
            json!({"auth_failures": {"secret:key": "auth_unavailable"}}),
            "auth_unavailable secret:key",
        ),
        (
            "budget_uncountable",
            json!({"budget_ceilings": {"role/spend": "price_unknown"}}),
            "role/spend: price",
        ),
        (
            "body_invalid",
            json!({"detail": {"body": "/quantity: maximum"}}),
            "body_invalid /quantity: maximum",
        ),
    ] {
        let said = denied(reason, more);
        assert!(said.contains(shown), "{said}");
    }
}
