//! The reference as one page for people: made of the operation table, without scripts or anything from elsewhere.

use std::fmt::Write;

use freehold_api::{openapi, operations};
use serde_json::Value;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;\
    background:#fff}code,pre{font:14px/1.45 ui-monospace,monospace}pre{background:#f5f5f5;padding:.75rem;overflow:auto}\
    article{border-top:1px solid #ddd;padding:.5rem 0}h3 code{font-weight:600}nav a{margin-right:1rem}summary{cursor:pointer}\
    @media(prefers-color-scheme:dark){body{color:#eee;background:#161616}pre{background:#242424}a{color:#8ab4f8}}";

/// The page.
pub(crate) fn reference() -> String {
    let mut page = String::with_capacity(256 * 1024);
    // Writing to a string cannot fail.
    let _ = write_page(&mut page, &openapi());
    page
}

fn write_page(out: &mut String, document: &Value) -> std::fmt::Result {
    write!(out, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Freehold API</title>")?;
    write!(out, "<meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style>")?;
    write!(out, "<h1>Freehold API</h1><p>{}</p>", escaped(text(&document["info"]["description"])))?;
    write!(
        out,
        "<p>The same as a document for machines: <a href=\"openapi.json\">openapi.json</a>.</p><nav>"
    )?;
    let mut tags: Vec<&str> = Vec::new();
    for operation in operations() {
        if !tags.contains(&operation.tag) {
            tags.push(operation.tag);
            write!(out, "<a href=\"#{}\">{}</a>", operation.tag.replace(' ', "-"), escaped(operation.tag))?;
        }
    }
    write!(out, "<a href=\"#schemas\">schemas</a></nav>")?;
    for tag in tags {
        write!(out, "<h2 id=\"{}\">{}</h2>", tag.replace(' ', "-"), escaped(tag))?;
        for operation in operations().filter(|operation| operation.tag == tag) {
            let method = operation.method.as_str();
            let described = &document["paths"][operation.path][method.to_lowercase()];
            write!(
                out,
                "<article id=\"{}\"><h3><code>{method} {}</code></h3>",
                operation.id,
                escaped(operation.path)
            )?;
            write!(out, "<p>{}.</p>", escaped(operation.summary))?;
            for paragraph in text(&described["description"]).split("\n\n") {
                write!(out, "<p>{}</p>", escaped(paragraph))?;
            }
            for part in ["parameters", "requestBody", "responses"] {
                if !described[part].is_null() {
                    details(out, part, &described[part])?;
                }
            }
            write!(out, "</article>")?;
        }
    }
    write!(out, "<h2 id=\"schemas\">schemas</h2>")?;
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        details(out, name, schema)?;
    }
    Ok(())
}

fn details(out: &mut String, title: &str, value: &Value) -> std::fmt::Result {
    write!(
        out,
        "<details><summary>{}</summary><pre>{}</pre></details>",
        escaped(title),
        escaped(&format!("{value:#}"))
    )
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A small page that tells a person one thing. Every text is escaped here.
pub(crate) fn notice(title: &str, paragraphs: &[&str], code: Option<&str>) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style><h1>{title}</h1>",
        title = escaped(title)
    );
    for paragraph in paragraphs {
        page.push_str(&format!("<p>{}</p>", escaped(paragraph)));
    }
    if let Some(code) = code {
        page.push_str(&format!("<pre>{}</pre>", escaped(code)));
    }
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
