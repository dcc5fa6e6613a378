//! What it costs to strike a secret out of responses: `cargo run --release -p freehold-egress --example masking`.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::time::Instant;

use bytes::Bytes;

/// Bytes that are passed for each line.
const BYTES: usize = 16 * 1024 * 1024;

const SECRET: &[u8] =
    b"sk-ant-api03-0123456789abcdefghijABCDEFGHIJ_-klmnopqrstuvwxyz0123456789QWERTYUIOPasdfghjkl-AA";

fn main() {
    let events = br#"data: {"type":"delta","text":"the secret of a skill\n is to \"ask\" 50% of R&D"}"#;
    let page = br#"<a href="/q?a=%20b&amp;c=%2Fd%41%73k">it&#39;s &lt;ok&gt; &#115;k-an</a> \u0073k\n"#;
    let random: Vec<u8> =
        (0..BYTES as u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect();
    for (what, text) in [("events", &events[..]), ("random bytes", &random), ("a page full of escapes", page)]
    {
        let text = Bytes::from(text.repeat(BYTES / text.len()));
        for piece in [16 * 1024, 100] {
            let begin = Instant::now();
            let pieces = (0..text.len()).step_by(piece).map(|at| text.slice(at..text.len().min(at + piece)));
            let passed = freehold_egress::fuzz::mask(SECRET, pieces);
            let speed = passed as f64 / begin.elapsed().as_secs_f64() / 1e9;
            println!("{what}, in pieces of {piece} bytes: {speed:.2} GB/s");
        }
    }
}
