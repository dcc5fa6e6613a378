//! Writes the OpenAPI document to stdout, as it is checked in at `openapi/freehold.json`.

use std::io::Write;

fn main() -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{:#}", freehold_api::openapi())
}
