//! The spool: audit rows on their way to the sink.
//!
//! A row is appended to a file by `write(2)` before the request it is about goes anywhere, so that `kill -9` of this
//! process loses none. Rows of requests that went upstream wait a moment for their latency. When a file's rows are all
//! acknowledged it is emptied or deleted; what is left at the next start is offered again. A row that a crash
//! overtook goes to the sink without its latency.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use freehold_model::{EventId, audit::AuditEvent};
use serde::Serialize as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{AuditSink, Limits, audit, options::ms, state::lock};

/// The pause before a sink that failed is asked again: the first time, and at most.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Room for nearly every row, in bytes.
const USUAL_BYTES: usize = 1_024;

/// Bytes of a row's length, which stands before it.
const LENGTH_BYTES: usize = 4;

/// Why a row could not be written. The request it is about is denied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("the audit backlog stayed full")]
    Full,
    #[error("failed to write an audit row")]
    Write(#[source] io::Error),
    #[error("failed to encode an audit row")]
    Encode(#[source] rmp_serde::encode::Error),
}

/// A row that [`Spool::settle`] completes, within the limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unsettled(u64);

/// What completes a row.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Settlement {
    pub(crate) latency: Option<Duration>,
    /// The upstream's answer.
    pub(crate) status: Option<u16>,
    /// Why there was none.
    pub(crate) upstream_error: Option<&'static str>,
}

pub(crate) struct Spool {
    dir: PathBuf,
    segment_bytes_max: u64,
    batch_rows_max: usize,
    wait: Duration,
    settle: Duration,
    linger: Duration,
    room: Arc<Semaphore>,
    wake: Notify,
    inner: Mutex<Inner>,
}

struct Inner {
    file: File,
    segment: u64,
    segment_bytes: u64,
    /// Rows of each file that the sink has not acknowledged.
    unacknowledged: BTreeMap<u64, usize>,
    ready: VecDeque<Entry>,
    /// Rows that are to be completed, and when they go as they are: all wait equally long, so the first is the next. None: it was
    /// completed.
    unsettled: VecDeque<(Instant, Option<Entry>)>,
    /// The number of the first of them.
    unsettled_first: u64,
}

/// A row on its way, as it stands in the file. It is read again where it is handed on, so that what it is made of is given back by the
/// thread that made it (docs/decisions/0013).
struct Entry {
    id: EventId,
    record: Vec<u8>,
    settlement: Settlement,
    segment: u64,
    /// Room in its pod's share and in the backlog, given back when the row is acknowledged. Rows of an earlier process have none.
    room: Option<[OwnedSemaphorePermit; 2]>,
}

impl Spool {
    /// Opens the spool in `dir` and takes up what an earlier process left there.
    pub(crate) fn open(dir: &Path, limits: &Limits) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut segments: Vec<u64> = fs::read_dir(dir)?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".rows")?.parse().ok())
            .collect();
        segments.sort_unstable();
        let mut ready = VecDeque::new();
        let mut unacknowledged = BTreeMap::new();
        for &segment in &segments {
            let records = read_segment(&segment_path(dir, segment))?;
            if records.is_empty() {
                fs::remove_file(segment_path(dir, segment))?;
                continue;
            }
            unacknowledged.insert(segment, records.len());
            ready.extend(records.into_iter().map(|(id, record)| Entry {
                id,
                record,
                settlement: Settlement::default(),
                segment,
                room: None,
            }));
        }
        let segment = segments.last().map_or(1, |last| last + 1);
        Ok(Self {
            dir: dir.to_owned(),
            segment_bytes_max: limits.spool_segment_bytes_max,
            batch_rows_max: limits.audit_batch_rows_max.max(1),
            wait: ms(limits.audit_wait_ms),
            settle: ms(limits.audit_settle_ms),
            linger: ms(limits.audit_linger_ms),
            room: Arc::new(Semaphore::new(limits.audit_backlog_rows_max.clamp(1, Semaphore::MAX_PERMITS))),
            wake: Notify::new(),
            inner: Mutex::new(Inner {
                file: open_segment(dir, segment)?,
                segment,
                segment_bytes: 0,
                unacknowledged,
                ready,
                unsettled: VecDeque::new(),
                unsettled_first: 0,
            }),
        })
    }

    /// Writes a row. When it returns, the row outlives this process. Waits while the backlog is full, or its pod's own
    /// `share` of it: one pod's flood of rows must not hold up the others.
    pub(crate) async fn append(&self, row: &AuditEvent, share: &Arc<Semaphore>) -> Result<(), SpoolError> {
        self.write(row, share, |inner, entry| self.push_ready(inner, entry)).await
    }

    /// The same for a row that is not complete yet.
    pub(crate) async fn append_unsettled(
        &self,
        row: &AuditEvent,
        share: &Arc<Semaphore>,
    ) -> Result<Unsettled, SpoolError> {
        let push = |inner: &mut Inner, entry| {
            let number = inner.unsettled_first + inner.unsettled.len() as u64;
            if inner.unsettled.is_empty() {
                // Somebody has to look when it is due.
                self.wake.notify_one();
            }
            inner.unsettled.push_back((Instant::now() + self.settle, Some(entry)));
            Unsettled(number)
        };
        self.write(row, share, push).await
    }

    async fn write<T>(
        &self,
        row: &AuditEvent,
        share: &Arc<Semaphore>,
        push: impl FnOnce(&mut Inner, Entry) -> T,
    ) -> Result<T, SpoolError> {
        let room = match self.room_now(share) {
            Some(room) => room,
            None => {
                let room = async {
                    let share = Arc::clone(share).acquire_owned().await.ok()?;
                    Some([share, Arc::clone(&self.room).acquire_owned().await.ok()?])
                };
                tokio::time::timeout(self.wait, room).await.ok().flatten().ok_or(SpoolError::Full)?
            }
        };
        let (id, record) = (row.id, record_of(row).map_err(SpoolError::Encode)?);
        let mut inner = lock(&self.inner);
        inner.write(&self.dir, &record, self.segment_bytes_max).map_err(SpoolError::Write)?;
        let (settlement, segment) = (Settlement::default(), inner.segment);
        Ok(push(&mut inner, Entry { id, record, settlement, segment, room: Some(room) }))
    }

    /// Has a row handed on. Whoever does that is woken by the first one, and by as many as go at once.
    fn push_ready(&self, inner: &mut Inner, entry: Entry) {
        inner.ready.push_back(entry);
        if [1, self.batch_rows_max].contains(&inner.ready.len()) {
            self.wake.notify_one();
        }
    }

    /// Room for a row, where there is some without waiting.
    fn room_now(&self, share: &Arc<Semaphore>) -> Option<[OwnedSemaphorePermit; 2]> {
        let share = Arc::clone(share).try_acquire_owned().ok()?;
        Some([share, Arc::clone(&self.room).try_acquire_owned().ok()?])
    }

    /// Completes a row. Too late: nothing happens.
    pub(crate) fn settle(&self, row: Unsettled, settlement: Settlement) {
        let mut inner = lock(&self.inner);
        let Some(place) = row.0.checked_sub(inner.unsettled_first) else { return };
        let waiting = usize::try_from(place).ok().and_then(|place| inner.unsettled.get_mut(place));
        let Some(entry) = waiting.and_then(|(_, entry)| entry.take()) else { return };
        self.push_ready(&mut inner, Entry { settlement, ..entry });
    }

    /// Hands rows to the sink until `shutdown`, then once more what is left.
    pub(crate) async fn drain(&self, sink: &dyn AuditSink, shutdown: &CancellationToken) {
        let mut retry = RETRY_MIN;
        loop {
            let (mut batch, next_due) = self.take(shutdown.is_cancelled());
            if batch.is_empty() {
                if shutdown.is_cancelled() {
                    return;
                }
                let due = next_due.unwrap_or_else(|| Instant::now() + RETRY_MAX);
                let gathered = async {
                    self.wake.notified().await;
                    self.gather(shutdown).await;
                };
                tokio::select! {
                    () = gathered => {}
                    () = tokio::time::sleep_until(due.into()) => {}
                    () = shutdown.cancelled() => {}
                }
                continue;
            }
            match sink.append(rows(&mut batch)).await {
                Ok(()) => {
                    retry = RETRY_MIN;
                    self.acknowledge(batch);
                    self.gather(shutdown).await;
                }
                Err(error) => {
                    tracing::warn!(error = %error, rows = batch.len(), "audit sink did not take rows, they are kept");
                    self.put_back(batch);
                    if shutdown.is_cancelled() {
                        return;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(retry) => retry = (retry * 2).min(RETRY_MAX),
                        () = shutdown.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Lets rows gather for a while, or until there are as many as go at once: a write of the sink costs far more than a row of it,
    /// and takes a core and its caches from requests each time.
    async fn gather(&self, shutdown: &CancellationToken) {
        let enough = async {
            while lock(&self.inner).ready.len() < self.batch_rows_max {
                self.wake.notified().await;
            }
        };
        tokio::select! {
            () = enough => {}
            () = tokio::time::sleep(self.linger) => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn take(&self, all: bool) -> (Vec<Entry>, Option<Instant>) {
        let mut inner = lock(&self.inner);
        let now = Instant::now();
        while let Some((_, entry)) =
            inner.unsettled.pop_front_if(|(due, entry)| all || entry.is_none() || *due <= now)
        {
            inner.unsettled_first += 1;
            inner.ready.extend(entry);
        }
        let count = inner.ready.len().min(self.batch_rows_max);
        let batch = inner.ready.drain(..count).collect();
        (batch, inner.unsettled.front().map(|&(due, _)| due))
    }

    fn put_back(&self, batch: Vec<Entry>) {
        let mut inner = lock(&self.inner);
        for entry in batch.into_iter().rev() {
            inner.ready.push_front(entry);
        }
    }

    fn acknowledge(&self, batch: Vec<Entry>) {
        let mut by_segment: BTreeMap<u64, usize> = BTreeMap::new();
        let mut rooms: Vec<OwnedSemaphorePermit> = Vec::new();
        for entry in batch {
            *by_segment.entry(entry.segment).or_default() += 1;
            // Permits of one semaphore are given back at once, which wakes and locks once.
            for room in entry.room.into_iter().flatten() {
                match rooms.iter_mut().find(|it| Arc::ptr_eq(it.semaphore(), room.semaphore())) {
                    Some(same) => same.merge(room),
                    None => rooms.push(room),
                }
            }
        }
        let mut inner = lock(&self.inner);
        for (segment, rows) in by_segment {
            if let Some(left) = inner.unacknowledged.get_mut(&segment) {
                *left -= rows;
            }
        }
        let done: Vec<u64> = inner
            .unacknowledged
            .iter()
            .filter(|&(_, &left)| left == 0)
            .map(|(&segment, _)| segment)
            .collect();
        for segment in done {
            inner.unacknowledged.remove(&segment);
            let emptied = if segment == inner.segment {
                inner.file.set_len(0).map(|()| inner.segment_bytes = 0)
            } else {
                fs::remove_file(segment_path(&self.dir, segment))
            };
            if let Err(error) = emptied {
                // Its rows are offered again at the next start, and change nothing then.
                tracing::warn!(error = %error, "acknowledged audit rows stay in the spool");
            }
        }
    }
}

/// The rows as the sink gets them. One that cannot be read any more is not acknowledged: its file stays.
fn rows(batch: &mut Vec<Entry>) -> Vec<AuditEvent> {
    let mut rows = Vec::with_capacity(batch.len());
    batch.retain(|entry| match entry.row() {
        Ok(row) => {
            rows.push(row);
            true
        }
        Err(error) => {
            tracing::error!(audit.id = %entry.id, error = %error, "an audit row cannot be read back, its file is kept");
            false
        }
    });
    rows
}

impl Entry {
    fn row(&self) -> Result<AuditEvent, rmp_serde::decode::Error> {
        let mut row = row_of(&self.record)?;
        let Settlement { latency, status, upstream_error } = self.settlement;
        let latency_ms = latency.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        row.latency_ms = latency_ms.or(row.latency_ms);
        let status = status.map(|status| ("status", status.into()));
        let error = upstream_error.map(|error| ("upstream_error", error.into()));
        for (name, value) in status.into_iter().chain(error) {
            audit::noted(&mut row, name, value);
        }
        Ok(row)
    }
}

impl Inner {
    fn write(&mut self, dir: &Path, record: &[u8], segment_bytes_max: u64) -> io::Result<()> {
        if self.segment_bytes > 0 && self.segment_bytes + record.len() as u64 > segment_bytes_max {
            self.file = open_segment(dir, self.segment + 1)?;
            self.segment += 1;
            self.segment_bytes = 0;
        }
        if let Err(error) = self.file.write_all(record) {
            // A full disk may have taken half of it; the next row must not continue this one.
            if self.file.set_len(self.segment_bytes).is_err() {
                self.file = open_segment(dir, self.segment + 1)?;
                (self.segment, self.segment_bytes) = (self.segment + 1, 0);
            }
            return Err(error);
        }
        self.segment_bytes += record.len() as u64;
        *self.unacknowledged.entry(self.segment).or_default() += 1;
        Ok(())
    }
}

fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:012}.rows"))
}

fn open_segment(dir: &Path, segment: u64) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(segment_path(dir, segment))
}

/// A row as it stands in a file: the length of what follows, and the row in MessagePack, which is written in a third of the time that
/// JSON takes.
fn record_of(row: &AuditEvent) -> Result<Vec<u8>, rmp_serde::encode::Error> {
    let mut record = Vec::with_capacity(USUAL_BYTES);
    record.extend_from_slice(&[0; LENGTH_BYTES]);
    row.serialize(&mut rmp_serde::Serializer::new(&mut record).with_struct_map())?;
    let length = u32::try_from(record.len() - LENGTH_BYTES)
        .map_err(|_| rmp_serde::encode::Error::Syntax("a row of over 4 GiB".to_owned()))?;
    record[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(record)
}

/// The first record and what follows it. None: it is not whole, or has no bytes, as after a loss of power.
fn first_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32::from_le_bytes(*bytes.first_chunk::<LENGTH_BYTES>()?)).ok()?;
    bytes.split_at_checked(length.checked_add(LENGTH_BYTES)?).filter(|_| length > 0)
}

fn row_of(record: &[u8]) -> Result<AuditEvent, rmp_serde::decode::Error> {
    let mut rest = record.get(LENGTH_BYTES..).unwrap_or_default();
    let row = rmp_serde::from_read(&mut rest)?;
    let is_all = rest.is_empty();
    is_all.then_some(row).ok_or_else(|| rmp_serde::decode::Error::Syntax("bytes behind it".to_owned()))
}

/// The records of a file, each with the id of its row. What else is in it is nothing that this program wrote, or a last row without its
/// end, which belongs to a request that never went out: the file is kept beside the spool, under a name that is not read again.
fn read_segment(path: &Path) -> io::Result<Vec<(EventId, Vec<u8>)>> {
    let bytes = fs::read(path)?;
    let (mut records, mut is_damaged) = (Vec::new(), false);
    let mut rest = &bytes[..];
    while let Some((record, after)) = first_record(rest) {
        rest = after;
        match row_of(record) {
            Ok(row) => records.push((row.id, record.to_vec())),
            Err(error) => {
                is_damaged = true;
                tracing::error!(file = %path.display(), error = %error, "an audit row in the spool is damaged");
            }
        }
    }
    if !rest.is_empty() {
        is_damaged = true;
        tracing::error!(file = %path.display(), bytes = rest.len(), "the end of a file of the spool is no audit row");
    }
    if is_damaged {
        match fs::hard_link(path, path.with_extension("damaged")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use freehold_model::{
        OrganizationId, Timestamp,
        audit::{Actor, Category, EventType},
    };
    use uuid::Uuid;

    use super::*;

    fn share() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(100))
    }
    use crate::SinkError;

    #[derive(Default)]
    struct Memory {
        rows: Mutex<Vec<AuditEvent>>,
        broken: AtomicBool,
        changed: Notify,
    }

    #[async_trait]
    impl AuditSink for Memory {
        async fn append(&self, rows: Vec<AuditEvent>) -> Result<(), SinkError> {
            if self.broken.load(Ordering::SeqCst) {
                return Err("broken".into());
            }
            lock(&self.rows).extend(rows);
            self.changed.notify_one();
            Ok(())
        }
    }

    fn row(number: u128) -> AuditEvent {
        AuditEvent::new(
            EventId::from_uuid(Uuid::from_u128(number)),
            OrganizationId::from_uuid(Uuid::nil()),
            "system".to_owned(),
            Timestamp::UNIX_EPOCH,
            EventType::PolicyDecision,
            Category::Audit,
            Actor::PolicyEngine,
        )
    }

    fn spool(dir: &Path, limits: Limits) -> Spool {
        Spool::open(dir, &limits).unwrap()
    }

    async fn drained(spool: &Spool, sink: &Memory) {
        let stop = CancellationToken::new();
        stop.cancel();
        spool.drain(sink, &stop).await;
    }

    fn bytes_in(dir: &Path) -> u64 {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[tokio::test]
    async fn rows_that_a_process_left_are_offered_by_the_next_and_a_torn_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let first = spool(dir.path(), Limits::default());
        first.append(&row(1), &share()).await.unwrap();
        first.append_unsettled(&row(2), &share()).await.unwrap();
        // As a killed process would: nothing is drained, and a write is torn.
        let file = segment_path(dir.path(), 1);
        OpenOptions::new().append(true).open(file).unwrap().write_all(b"\xf0\0\0\0\x86").unwrap();
        drop(first);
        let sink = Memory::default();
        let second = spool(dir.path(), Limits::default());
        drained(&second, &sink).await;
        assert_eq!(*lock(&sink.rows), [row(1), row(2)]);
        // What is torn is kept beside it, and not read again.
        assert!(segment_path(dir.path(), 1).with_extension("damaged").exists());
        let third = spool(dir.path(), Limits::default());
        drained(&third, &sink).await;
        assert_eq!(lock(&sink.rows).len(), 2);
    }

    /// Keeps how many rows came each time, and is done with the first when it is let.
    #[derive(Default)]
    struct Slow {
        counts: Mutex<Vec<usize>>,
        asked: Notify,
        let_go: Notify,
    }

    #[async_trait]
    impl AuditSink for Slow {
        async fn append(&self, rows: Vec<AuditEvent>) -> Result<(), SinkError> {
            let is_first = lock(&self.counts).is_empty();
            lock(&self.counts).push(rows.len());
            self.asked.notify_one();
            if is_first {
                self.let_go.notified().await;
            }
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rows_that_come_while_others_are_written_go_together_a_moment_later() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, share) = (spool(dir.path(), Limits::default()), share());
        let (sink, stop) = (Slow::default(), CancellationToken::new());
        let rows = async {
            spool.append(&row(1), &share).await.unwrap();
            sink.asked.notified().await;
            spool.append(&row(2), &share).await.unwrap();
            sink.let_go.notify_one();
            // Time stands still while somebody is busy.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            spool.append(&row(3), &share).await.unwrap();
            sink.asked.notified().await;
            stop.cancel();
        };
        tokio::join!(rows, spool.drain(&sink, &stop));
        assert_eq!(*lock(&sink.counts), [1, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_rows_as_go_at_once_wait_for_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { audit_batch_rows_max: 3, audit_linger_ms: 60_000, ..Limits::default() };
        let (spool, share) = (spool(dir.path(), limits), share());
        let (sink, stop) = (Slow::default(), CancellationToken::new());
        let began = tokio::time::Instant::now();
        let rows = async {
            for number in 0..7 {
                spool.append(&row(number), &share).await.unwrap();
                tokio::task::yield_now().await;
            }
            sink.let_go.notify_one();
            while lock(&sink.counts).len() < 3 {
                sink.asked.notified().await;
            }
            stop.cancel();
        };
        tokio::join!(rows, spool.drain(&sink, &stop));
        assert_eq!(*lock(&sink.counts), [1, 3, 3]);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_file_with_a_damaged_row_is_kept_and_its_other_rows_are_offered() {
        let dir = tempfile::tempdir().unwrap();
        let first = spool(dir.path(), Limits::default());
        first.append(&row(1), &share()).await.unwrap();
        let file = segment_path(dir.path(), 1);
        OpenOptions::new().append(true).open(&file).unwrap().write_all(b"\x02\0\0\0\x81\x01").unwrap();
        first.append(&row(2), &share()).await.unwrap();
        let written = fs::read(&file).unwrap();
        drop(first);
        let sink = Memory::default();
        drained(&spool(dir.path(), Limits::default()), &sink).await;
        assert_eq!(*lock(&sink.rows), [row(1), row(2)]);
        assert!(!file.exists());
        assert_eq!(fs::read(file.with_extension("damaged")).unwrap(), written);
    }

    #[tokio::test]
    async fn a_row_that_cannot_be_read_back_keeps_its_file_and_holds_up_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let first = spool(dir.path(), Limits::default());
        first.append(&row(1), &share()).await.unwrap();
        first.append(&row(2), &share()).await.unwrap();
        lock(&first.inner).ready[0].record.truncate(LENGTH_BYTES + 1);
        let sink = Memory::default();
        drained(&first, &sink).await;
        assert_eq!(*lock(&sink.rows), [row(2)]);
        drop(first);
        drained(&spool(dir.path(), Limits::default()), &sink).await;
        assert!(lock(&sink.rows).contains(&row(1)));
    }

    #[tokio::test]
    async fn a_settled_row_carries_its_latency_and_an_unsettled_one_goes_without_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Arc::new(spool(dir.path(), Limits { audit_settle_ms: 20, ..Limits::default() }));
        let sink = Arc::new(Memory::default());
        let stop = CancellationToken::new();
        let task = {
            let (spool, sink, stop) = (Arc::clone(&spool), Arc::clone(&sink), stop.clone());
            tokio::spawn(async move { spool.drain(&*sink, &stop).await })
        };
        let first = spool.append_unsettled(&row(1), &share()).await.unwrap();
        spool.append_unsettled(&row(2), &share()).await.unwrap();
        let latency = Some(Duration::from_millis(7));
        spool.settle(first, Settlement { latency, ..Settlement::default() });
        while lock(&sink.rows).len() < 2 {
            tokio::time::timeout(Duration::from_secs(10), sink.changed.notified()).await.unwrap();
        }
        let latencies: Vec<_> = lock(&sink.rows).iter().map(|row| row.latency_ms).collect();
        assert_eq!(latencies, [Some(7), None]);
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_row_that_the_sink_refused_comes_again_with_its_latency() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path(), Limits::default());
        let sink = Memory::default();
        sink.broken.store(true, Ordering::SeqCst);
        let first = spool.append_unsettled(&row(1), &share()).await.unwrap();
        let latency = Some(Duration::from_millis(7));
        spool.settle(first, Settlement { latency, status: Some(200), upstream_error: None });
        drained(&spool, &sink).await;
        assert!(lock(&sink.rows).is_empty());
        sink.broken.store(false, Ordering::SeqCst);
        drained(&spool, &sink).await;
        let detail = Some(serde_json::json!({ "status": 200 }));
        assert_eq!(*lock(&sink.rows), [AuditEvent { latency_ms: Some(7), detail, ..row(1) }]);
    }

    #[tokio::test]
    async fn requests_wait_when_the_sink_lags_and_go_on_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { audit_backlog_rows_max: 2, audit_wait_ms: 30, ..Limits::default() };
        let spool = spool(dir.path(), limits);
        let sink = Memory::default();
        sink.broken.store(true, Ordering::SeqCst);
        spool.append(&row(1), &share()).await.unwrap();
        spool.append(&row(2), &share()).await.unwrap();
        drained(&spool, &sink).await;
        assert!(matches!(spool.append(&row(3), &share()).await, Err(SpoolError::Full)));
        sink.broken.store(false, Ordering::SeqCst);
        drained(&spool, &sink).await;
        spool.append(&row(3), &share()).await.unwrap();
        assert_eq!(lock(&sink.rows).len(), 2);
    }

    #[tokio::test]
    async fn a_pod_that_used_its_share_waits_and_another_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let spool = spool(dir.path(), Limits { audit_wait_ms: 30, ..Limits::default() });
        let one = Arc::new(Semaphore::new(1));
        spool.append(&row(1), &one).await.unwrap();
        assert!(matches!(spool.append(&row(2), &one).await, Err(SpoolError::Full)));
        spool.append(&row(3), &share()).await.unwrap();
        drained(&spool, &Memory::default()).await;
        spool.append(&row(4), &one).await.unwrap();
    }

    #[tokio::test]
    async fn files_are_bounded_and_deleted_when_their_rows_are_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { spool_segment_bytes_max: 600, audit_batch_rows_max: 3, ..Limits::default() };
        let spool = spool(dir.path(), limits);
        for number in 0..10 {
            spool.append(&row(number), &share()).await.unwrap();
        }
        assert!(fs::read_dir(dir.path()).unwrap().count() > 1);
        let sink = Memory::default();
        drained(&spool, &sink).await;
        assert_eq!(lock(&sink.rows).len(), 10);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(bytes_in(dir.path()), 0);
    }

    fn rows_of(bytes: &[u8]) -> (Vec<AuditEvent>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = segment_path(dir.path(), 1);
        fs::write(&path, bytes).unwrap();
        let records = read_segment(&path).unwrap();
        (
            records.iter().map(|(_, record)| row_of(record).unwrap()).collect(),
            path.with_extension("damaged").exists(),
        )
    }

    #[test]
    fn rows_behind_a_length_that_lies_are_offered_or_kept_for_somebody_to_look_at() {
        let records = [1, 2, 3].map(|n| record_of(&row(n)).unwrap());
        for lie in [[0xff; 4], [0, 0, 1, 0], [0xff, 0xff, 0xff, 0x7f]] {
            let mut second = records[1].clone();
            second[..4].copy_from_slice(&lie);
            let (rows, kept) = rows_of(&[&records[0][..], &second, &records[2]].concat());
            assert!(kept || rows.len() == 3, "{lie:?}: {} rows, and the rest is gone", rows.len());
        }
        // As long as this row and the next: the next is gone without a word.
        let mut first = records[0].clone();
        let both = u32::try_from(records[0].len() - 4 + records[1].len()).unwrap();
        first[..4].copy_from_slice(&both.to_le_bytes());
        let (rows, kept) = rows_of(&[&first[..], &records[1], &records[2]].concat());
        assert!(kept || rows.len() == 3, "{} rows, and the rest is gone", rows.len());
    }

    #[test]
    fn every_row_is_the_same_after_it_was_written_and_read() {
        use serde_json::json;
        let mut deep = json!([]);
        for _ in 0..120 {
            deep = json!({ "a": [deep] });
        }
        for detail in [
            json!({}),
            json!([]),
            json!(""),
            json!({ "a": null, "b": {}, "c": [[], {}] }),
            json!([u64::MAX, i64::MIN, -1, 0, 1u64 << 53, 127, 128, -33, 65_536]),
            json!([0.1, -0.0, 1.0, 1e308, 5e-324, f64::from(0.1f32)]),
            json!("\u{0}\u{10ffff}\n"),
            json!({ "": { "$serde_json::private::Number": "1" } }),
            json!("x".repeat(70_000)),
            json!((0..70_000).collect::<Vec<_>>()),
            deep,
        ] {
            let mut event = row(1);
            event.detail = Some(detail.clone());
            event.latency_ms = Some(u64::MAX);
            event.path = Some("/\u{e9}".to_owned());
            event.auth_applied = vec![String::new()];
            event.auth_failures.insert(String::new(), "a".to_owned());
            event.budget_snapshot.insert("a".to_owned(), detail);
            let (rows, kept) = rows_of(&record_of(&event).unwrap());
            assert!(!kept);
            assert_eq!(rows, [event]);
        }
    }
}
