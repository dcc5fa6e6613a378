//! What is left over and nobody asks for any more.

use freehold_model::UploadId;
use futures::StreamExt;
use jiff::SignedDuration;

use super::Fleet;
use crate::{Error, now};

/// Answers, or counts, forgotten in one transaction.
const ANSWERS_STEP: u32 = 1000;

/// Transactions of one sweep; what is left is for the next.
const ANSWERS_STEPS_MAX: u32 = 100;

/// How long counts of budgets are kept after their window, in hours: requests that began in it are settled then.
const COUNT_AGE_HOURS: i64 = 24;

/// Files asked after in one step.
const UPLOADS_STEP: usize = 500;

/// How old a file must be to count as left over, in hours: longer than any request that brings one takes.
const UPLOAD_AGE_HOURS: i64 = 1;

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Kept answers that were too old to be asked for again.
    pub answers: u64,
    /// Files whose tasks were never written, because the server ended in between.
    pub uploads: u64,
    /// Counts of budgets whose windows are over.
    pub counts: u64,
}

impl Fleet {
    /// Removes what is left over. To be called now and then.
    ///
    /// # Errors
    /// When the store or the object store fails; the next sweep goes on.
    pub async fn sweep(&self) -> Result<Swept, Error> {
        let (answers, counts) = (self.sweep_answers().await?, self.sweep_counts().await?);
        Ok(Swept { answers, uploads: self.sweep_uploads().await?, counts })
    }

    async fn sweep_counts(&self) -> Result<u64, Error> {
        let ended_before = now() - SignedDuration::from_hours(COUNT_AGE_HOURS);
        let mut swept = 0;
        for _ in 0..ANSWERS_STEPS_MAX {
            let step = self.store.system_write(move |tx| tx.budget_sweep(ended_before, ANSWERS_STEP));
            let step = step.await.map_err(Error::Store)?;
            swept += step;
            if step < u64::from(ANSWERS_STEP) {
                break;
            }
        }
        Ok(swept)
    }

    async fn sweep_answers(&self) -> Result<u64, Error> {
        let mut swept = 0;
        for _ in 0..ANSWERS_STEPS_MAX {
            let step = self.store.system_write(|tx| tx.idempotency_sweep(now(), ANSWERS_STEP));
            let step = step.await.map_err(Error::Store)?;
            swept += step;
            if step < u64::from(ANSWERS_STEP) {
                break;
            }
        }
        Ok(swept)
    }

    async fn sweep_uploads(&self) -> Result<u64, Error> {
        let written_before = now() - SignedDuration::from_hours(UPLOAD_AGE_HOURS);
        let mut steps = self.uploads.list(written_before).chunks(UPLOADS_STEP);
        let mut swept = 0;
        while let Some(step) = steps.next().await {
            let found: Vec<UploadId> = step.into_iter().collect::<Result<_, _>>()?;
            let left = self.store.system_read(move |tx| tx.uploads_without_row(&found));
            for upload in left.await.map_err(Error::Store)? {
                self.uploads.delete(upload).await?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}
