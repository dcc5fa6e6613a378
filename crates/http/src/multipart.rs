//! Tasks that come as a form: text fields, and files that are streamed to where uploads are kept.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use freehold_api::{
    error::ErrorCode,
    limits::{UPLOAD_FIELD_BYTES_MAX, UPLOAD_FILE_BYTES_MAX, UPLOAD_FILES_MAX},
};
use freehold_app::{
    ports::{UploadSink, UploadStore},
    task::File,
};
use freehold_model::{UploadId, upload::is_safe_name};
use futures::Stream;
use http_body::{Body as _, Frame};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{document::Document, error::Failure};

/// Text fields of one form.
const FIELDS_MAX: usize = 32;

/// Bytes that a form may bring before they become a part or a piece of one, as a part's head does. The parser looks
/// through all it holds whenever something comes, so that the time it takes grows with the square of this.
const UNREAD_BYTES_MAX: usize = 16 * 1024;

/// Time between two pieces of a form.
pub(crate) const UPLOAD_SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a form held.
pub(crate) struct Form {
    pub fields: Value,
    /// Hash of names, texts and bytes, in their order.
    pub hash: [u8; 32],
}

/// Files that are kept already; those of a request that fails are deleted again.
pub(crate) struct Files {
    store: Arc<dyn UploadStore>,
    pub kept: Vec<File>,
}

impl Files {
    pub fn new(store: Arc<dyn UploadStore>) -> Self {
        Self { store, kept: Vec::new() }
    }

    /// Deletes what was kept.
    pub async fn forget(self) {
        for file in self.kept {
            if let Err(error) = self.store.delete(file.id).await {
                tracing::warn!(upload.id = %file.id, error = &error as &dyn std::error::Error, "an upload is left behind");
            }
        }
    }

    async fn keep(
        &mut self,
        field: multer::Field<'_>,
        unread: &Unread,
        hash: &mut Sha256,
    ) -> Result<(), Failure> {
        if self.kept.len() >= UPLOAD_FILES_MAX {
            return Err(too_large(format!("a task may come with {UPLOAD_FILES_MAX} files")));
        }
        let name = field.file_name().unwrap_or_default().to_owned();
        if !is_safe_name(&name) {
            let reason = "each file needs a name of one path component, at most 255 bytes, without control characters or overrides of direction";
            return Err(Failure::field("file", reason));
        }
        if self.kept.iter().any(|file| file.name == name) {
            return Err(Failure::field("file", format!("two files are named `{name}`")));
        }
        let id = UploadId::from_uuid(Uuid::now_v7());
        let mut sink = self.store.begin(id).await.map_err(freehold_app::Error::from)?;
        match copy(field, unread, sink.as_mut(), hash).await {
            Ok(size) => {
                sink.finish().await.map_err(freehold_app::Error::from)?;
                self.kept.push(File { id, name, size });
                Ok(())
            }
            Err(failure) => {
                sink.abort().await;
                Err(failure)
            }
        }
    }
}

async fn copy(
    mut field: multer::Field<'_>,
    unread: &Unread,
    sink: &mut dyn UploadSink,
    hash: &mut Sha256,
) -> Result<u64, Failure> {
    let mut size = 0;
    while let Some(chunk) = field.chunk().await.map_err(|error| malformed(&error))? {
        unread.progress();
        size += chunk.len() as u64;
        if size > UPLOAD_FILE_BYTES_MAX {
            return Err(too_large(format!("a file may have {UPLOAD_FILE_BYTES_MAX} bytes")));
        }
        hash.update(&chunk);
        sink.write(chunk).await.map_err(freehold_app::Error::from)?;
    }
    Ok(size)
}

/// Reads a form: texts are typed by the schema of this name, files go to `files`.
pub(crate) async fn read(
    document: &Document,
    schema: &str,
    boundary: String,
    body: Body,
    silence_max: Duration,
    files: &mut Files,
) -> Result<Form, Failure> {
    let unread = Unread::default();
    let parts = multer::Multipart::new(data(body, unread.clone(), silence_max), boundary);
    form(document, schema, parts, &unread, files).await
}

/// How many bytes the parser holds of which nothing became yet.
#[derive(Clone, Default)]
struct Unread(Arc<AtomicUsize>);

impl Unread {
    fn progress(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The body's data.
fn data(
    mut body: Body,
    unread: Unread,
    silence_max: Duration,
) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send {
    let mut given = false;
    let mut silence = Box::pin(tokio::time::sleep(silence_max));
    futures::stream::poll_fn(move |context| {
        // The parser would take all there is before it looks at any.
        if std::mem::take(&mut given) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if unread.0.load(Ordering::Relaxed) >= UNREAD_BYTES_MAX {
            let reason = format!("the head of a part has more than {UNREAD_BYTES_MAX} bytes");
            return Poll::Ready(Some(Err(axum::Error::new(reason))));
        }
        loop {
            let frame = match Pin::new(&mut body).poll_frame(context) {
                Poll::Ready(Some(frame)) => frame,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    ready!(silence.as_mut().poll(context));
                    let reason = format!("nothing came for {} seconds", silence_max.as_secs());
                    return Poll::Ready(Some(Err(axum::Error::new(reason))));
                }
            };
            silence.as_mut().reset(Instant::now() + silence_max);
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => {
                    unread.0.fetch_add(data.len(), Ordering::Relaxed);
                    given = true;
                    return Poll::Ready(Some(Ok(data)));
                }
                // Trailers say nothing here.
                Ok(Err(_)) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    })
}

async fn form(
    document: &Document,
    schema: &str,
    mut parts: multer::Multipart<'_>,
    unread: &Unread,
    files: &mut Files,
) -> Result<Form, Failure> {
    let (mut texts, mut hash) = (Vec::<(String, String)>::new(), Sha256::new());
    while let Some(field) = parts.next_field().await.map_err(|error| malformed(&error))? {
        unread.progress();
        let name = field.name().unwrap_or_default().to_owned();
        for part in [name.as_str(), field.file_name().unwrap_or_default()] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        if name == "file" {
            files.keep(field, unread, &mut hash).await?;
            continue;
        }
        if texts.iter().any(|(earlier, _)| *earlier == name) || texts.len() >= FIELDS_MAX {
            return Err(Failure::field(&name, "is given twice, or there are too many fields"));
        }
        let text = text(field, unread).await?;
        hash.update(&text);
        texts.push((name, text));
    }
    let fields = document.object_of(schema, texts);
    document.check(schema, &fields)?;
    Ok(Form { fields, hash: hash.finalize().into() })
}

async fn text(mut field: multer::Field<'_>, unread: &Unread) -> Result<String, Failure> {
    let name = field.name().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| malformed(&error))? {
        unread.progress();
        if bytes.len() + chunk.len() > UPLOAD_FIELD_BYTES_MAX {
            return Err(too_large(format!("a text field may have {UPLOAD_FIELD_BYTES_MAX} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => Err(Failure::field(&name, "has U+0000 in it")),
        Ok(text) => Ok(text),
        Err(_) => Err(Failure::field(&name, "is not UTF-8")),
    }
}

fn malformed(error: &multer::Error) -> Failure {
    // Of the stream's own failures it says only that there was one.
    let reason: &dyn std::fmt::Display = match error {
        multer::Error::StreamReadFailed(cause) => cause,
        other => other,
    };
    Failure::field("body", format!("the form is malformed: {reason}"))
}

fn too_large(message: String) -> Failure {
    Failure::new(ErrorCode::PayloadTooLarge, message)
}
