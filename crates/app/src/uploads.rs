//! Uploaded files in an object store: a directory, or a service such as S3.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use freehold_model::{Timestamp, UploadId};
use futures::{StreamExt, stream::BoxStream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, WriteMultipart, path::Path};

use crate::ports::{UploadError, UploadSink, UploadStore};

/// Parts of one file that may be on their way at once.
const PARTS_IN_FLIGHT_MAX: usize = 2;

/// Uploaded files in an object store.
#[derive(Debug, Clone)]
pub struct ObjectUploads {
    objects: Arc<dyn ObjectStore>,
}

impl ObjectUploads {
    /// Keeps files in `objects`, under `uploads/`.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self { objects }
    }
}

/// Where uploads are, in the object store.
pub const FOLDER: &str = "uploads";

fn path(id: UploadId) -> Path {
    Path::from(format!("{FOLDER}/{id}"))
}

fn id(object: &ObjectMeta) -> Option<UploadId> {
    object.location.filename()?.parse().ok()
}

fn failed(what: &'static str, id: UploadId) -> impl Fn(object_store::Error) -> UploadError {
    move |source| UploadError::File { what, id, source: Box::new(source) }
}

#[async_trait]
impl UploadStore for ObjectUploads {
    async fn begin(&self, id: UploadId) -> Result<Box<dyn UploadSink>, UploadError> {
        let upload = self.objects.put_multipart(&path(id)).await.map_err(failed("begin", id))?;
        Ok(Box::new(Sink { id, writer: WriteMultipart::new(upload) }))
    }

    async fn read(&self, id: UploadId, range: Range<u64>) -> Result<Bytes, UploadError> {
        self.objects.get_range(&path(id), range).await.map_err(failed("read", id))
    }

    fn list(&self, written_before: Timestamp) -> BoxStream<'static, Result<UploadId, UploadError>> {
        let before = written_before.as_second();
        self.objects
            .list(Some(&Path::from(FOLDER)))
            .filter_map(move |object| {
                std::future::ready(match object {
                    // Whatever else is there is not ours.
                    Ok(object) if object.last_modified.timestamp() < before => id(&object).map(Ok),
                    Ok(_) => None,
                    Err(error) => Some(Err(UploadError::List(Box::new(error)))),
                })
            })
            .boxed()
    }

    async fn delete(&self, id: UploadId) -> Result<(), UploadError> {
        match self.objects.delete(&path(id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("delete", id)(error)),
        }
    }
}

struct Sink {
    id: UploadId,
    writer: WriteMultipart,
}

#[async_trait]
impl UploadSink for Sink {
    async fn write(&mut self, data: Bytes) -> Result<(), UploadError> {
        self.writer.wait_for_capacity(PARTS_IN_FLIGHT_MAX).await.map_err(failed("write", self.id))?;
        self.writer.put(data);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<(), UploadError> {
        let Self { id, writer } = *self;
        writer.finish().await.map(drop).map_err(failed("finish", id))
    }

    async fn abort(self: Box<Self>) {
        let Self { id, writer } = *self;
        if let Err(error) = writer.abort().await {
            tracing::warn!(upload.id = %id, error = &error as &dyn std::error::Error, "an upload is left behind");
        }
    }
}
