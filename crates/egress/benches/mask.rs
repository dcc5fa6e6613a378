//! What it costs to strike secrets out of responses in which they are not: `cargo bench -p freehold-egress --bench mask`. Times
//! are the best of several rounds, each the mean of many calls: what the code takes, and not what else the machine does.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints, and fails by panicking")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use freehold_egress::fuzz::Masked;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Rounds, of which the best counts.
const ROUNDS: usize = 20;
/// Bytes that are passed in a round.
const ROUND_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a text, which stay in the cache. It is passed whole, and what one piece ends with goes before the next.
const TEXT_BYTES: usize = 256 * 1024;
/// Bytes of a large piece and of a small one.
const PIECES: [usize; 2] = [16 * 1024, 200];

/// A key, a password, and ten secrets.
const SECRETS: [(&str, &[&str]); 3] = [
    ("29 bytes", &["sk-ant-api03-0aB1cD2eF3gH4iJ5"]),
    ("8 bytes", &["hUnt3r-2"]),
    (
        "ten",
        &[
            "sk-ant-api03-0aB1cD2eF3gH4iJ5",
            "sk-proj-9zY8xW7vU6tS5rQ4pO3nM2lK1jI0",
            "ghp_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789",
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "xoxb-123456789012-1234567890123-AbCdEfGhIjKlMnOp",
            "correct horse battery staple",
            "YW5hOmNvcnJlY3QgaG9yc2UgYmF0dGVyeQ==",
            "0f1e2d3c4b5a69788796a5b4c3d2e1f0",
            "glpat-Zy_Xw-Vu5Ts4Rq3Po2",
        ],
    ),
];

/// The mean of a call in the best round of so many calls each.
fn best(calls: usize, mut call: impl FnMut()) -> Duration {
    let mut round = || {
        let started = Instant::now();
        (0..calls).for_each(|_| call());
        started.elapsed() / u32::try_from(calls).unwrap()
    };
    (0..ROUNDS).map(|_| round()).min().unwrap_or_default()
}

fn random() -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[2]
    };
    (0..TEXT_BYTES).map(|_| next()).collect()
}

/// What a model says, a word an event.
fn events() -> Vec<u8> {
    let words = "The key of the map is \\\"folded\\\" in half, so 50% of R&D looks at line 7:\\n\\n- `fn main() {` and then ask".split(' ');
    let event = |word: &str| {
        format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\" {word}\"}}}}\n\n"
        )
    };
    words.map(event).collect::<String>().into_bytes()
}

fn texts() -> Vec<(&'static str, Vec<u8>)> {
    let base64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let random = random();
    let page = br#"<li class="item item--wide"><a href="/search?q=a%20b&amp;page=2" title="What &quot;it&quot; is">It&#39;s here</a>
        <p>A paragraph of a page, some hundred characters of plain words that nobody reads, as pages have them.</p></li>
    "#;
    let escapes = br#"<a href="/q?a=%20b&amp;c=%2Fd%41%73k">it&#39;s &lt;ok&gt; &#115;k-an</a> \u0073k\n"#;
    let base64 = random.iter().map(|byte| base64[usize::from(*byte % 64)]).collect();
    let all = [
        ("all x", b"x".to_vec()),
        ("random bytes", random),
        ("events of a model", events()),
        ("base64", base64),
        ("a page", page.to_vec()),
        ("full of escapes", escapes.to_vec()),
    ];
    all.into_iter().map(|(what, text)| (what, text.repeat(TEXT_BYTES.div_ceil(text.len())))).collect()
}

fn headers() -> HeaderMap {
    let headers = [
        ("date", "Sun, 22 Nov 2026 17:00:00 GMT"),
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-cache"),
        ("transfer-encoding", "chunked"),
        ("connection", "keep-alive"),
        ("request-id", "req_011CVLx5oPzUuYbQy3iZ6rTn"),
        ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
        ("ratelimit-requests-remaining", "3999"),
        ("via", "1.1 gateway"),
        ("server", "cloudflare"),
        ("cf-ray", "9a2b3c4d5e6f7081-FRA"),
        (
            "set-cookie",
            "_cfuvid=Jf0T9bqz1r2u3v4w5x6y7zA.B-1763830800-0.0.1-604800000; path=/; secure; HttpOnly",
        ),
    ];
    let parsed = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    headers.into_iter().map(parsed).collect()
}

/// Secrets that repeat themselves, in texts that do: what is near at every byte. Says what a response of 64 KiB takes.
fn hostile() {
    let (one, ambiguous) = ([b'a'; 16 * 1024], b"%25".repeat(5 * 1024));
    let cases: [(&str, &[u8], &[u8]); 4] = [
        ("a secret of one letter in that letter", &one, b"a"),
        ("in its escapes", &one, b"%61"),
        ("in both", &one, b"aaaaaaaaaaaaaaaa%61"),
        ("a secret of escapes in itself", &ambiguous, b"%25"),
    ];
    for (what, secret, text) in cases {
        for size in [PIECES[0], 1] {
            let text = Bytes::from(text.repeat(64 * 1024 / text.len()));
            let (mut masked, started) = (Masked::new(&[secret]).unwrap(), Instant::now());
            for at in (0..text.len()).step_by(size) {
                black_box(masked.push(text.slice(at..text.len().min(at + size))));
            }
            println!("{what}, 64 KiB in pieces of {size} bytes: {} us", started.elapsed().as_micros());
        }
    }
}

fn main() {
    hostile();
    for (whose, secrets) in SECRETS {
        let secrets: Vec<&[u8]> = secrets.iter().map(|secret| secret.as_bytes()).collect();
        let masked = || Masked::new(&secrets).unwrap();
        println!("secrets: {whose}");
        for (what, text) in texts() {
            let text = Bytes::from(text);
            for size in PIECES {
                let mut masked = masked();
                let mut pieces =
                    (0..text.len() / size).map(|at| text.slice(at * size..(at + 1) * size)).cycle();
                let took = best(ROUND_BYTES / size, || {
                    black_box(masked.push(pieces.next().unwrap()));
                });
                let speed = size as f64 / took.as_secs_f64() / 1e9;
                println!("  {what}, pieces of {size} bytes: {speed:.2} GB/s, {} ns a piece", took.as_nanos());
            }
        }
        let (mask, mut headers) = (masked(), headers());
        println!("  12 headers: {} ns", best(1_000, || _ = black_box(mask.headers(&mut headers))).as_nanos());
        println!("  making the mask: {} us", best(20, || _ = black_box(masked())).as_micros());
    }
}
