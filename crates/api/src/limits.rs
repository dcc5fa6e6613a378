//! What a request may hold at most. Each limit has a unit and a defined answer when it is passed.

/// Bytes of a JSON body; more is 413 `payload_too_large`.
pub const JSON_BODY_BYTES_MAX: usize = 1024 * 1024;
/// Levels of nesting in a JSON body; more is 400 `invalid_json`.
pub const JSON_DEPTH_MAX: usize = 64;
/// Bytes of one uploaded file; more is 413 `payload_too_large`.
pub const UPLOAD_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Files uploaded with one task; more is 413 `payload_too_large`.
pub const UPLOAD_FILES_MAX: usize = 32;
/// Bytes of one text field of a multipart body; more is 413 `payload_too_large`.
pub const UPLOAD_FIELD_BYTES_MAX: usize = JSON_BODY_BYTES_MAX;
/// Rows of a page when the caller names no `limit`, on routes that page.
pub const PAGE_DEFAULT: u32 = 100;
/// Sessions of a page when the caller names no `limit`.
pub const SESSION_PAGE_DEFAULT: u32 = 20;
/// Seconds a command may run when the caller names no timeout.
pub const EXEC_TIMEOUT_SECONDS_DEFAULT: u32 = 60;
/// Characters of an `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
/// Conditions of a filter of the audit log.
pub const CONDITIONS_MAX: usize = 16;
/// Characters of a condition.
pub const CONDITION_CHARS_MAX: usize = 4096;
