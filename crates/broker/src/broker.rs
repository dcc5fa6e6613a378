//! Obtains what credentials stand for, once for all who wait, and keeps it until shortly before it expires.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use freehold_model::{
    CredentialId, Timestamp,
    credential::{Credential, Event, Status},
};
use tokio::{runtime::Handle, sync::watch};
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::{
    Injection,
    durable::Durable,
    fault::Fault,
    form,
    http::Http,
    token::{self, Tokens},
};

/// How long before its expiry a token is used no more, at most; of a short-lived one a tenth of its life.
const USED_UNTIL: Duration = Duration::from_secs(10);

/// A credential that cannot be had now, and why, as the slug in `last_minted_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credential is unavailable: {0}")]
pub struct Unavailable(pub &'static str);

/// What came of an attempt to obtain what is injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// What it means for the credential's status, if anything.
    pub event: Option<Event>,
    /// `ok`, or why it failed.
    pub code: &'static str,
    /// Whether an issuer was asked, so that the attempt is a row of the audit log.
    pub asked: bool,
    /// When the access token expires.
    pub expires_at: Option<Timestamp>,
}

/// Why a stored secret could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// It is damaged, gone, or sealed by a key that is not there.
    Unreadable,
    /// What keeps it does not answer now.
    Passing,
}

/// Where credentials are kept. Whoever wires the broker implements it over the store and the vault.
#[async_trait]
pub trait Keeper: Send + Sync {
    /// The credential's secret as it is now.
    async fn open(&self, credential: &Credential) -> Result<Zeroizing<Vec<u8>>, OpenError>;

    /// Replaces the secret durably, unless the credential was changed or deleted meanwhile: then false, and the caller
    /// forgets what it has.
    ///
    /// # Errors
    /// When it could not be written; it may be tried again.
    async fn keep(&self, credential: &Credential, secret: Zeroizing<Vec<u8>>) -> Result<bool, Unavailable>;

    /// Notes an attempt durably, with its audit row and its effect on the status.
    ///
    /// # Errors
    /// When it could not be written; what was obtained is not used then.
    async fn note(&self, credential: &Credential, note: Note) -> Result<(), Unavailable>;
}

/// Limits of the broker, with their units.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long before its expiry a token is replaced, at most; of a short-lived one a fifth of its life.
    pub skew: Duration,
    /// The most by which that is earlier still, at random, so that not all are replaced at once.
    pub jitter: Duration,
    /// The life of a token whose issuer does not say.
    pub unstated_lifetime: Duration,
    /// Times that an issuer is asked for one token while it fails in passing.
    pub attempts_max: u32,
    /// The pause after the first failed attempt; it doubles with each.
    pub backoff: Duration,
    /// The longest pause between attempts. An issuer that wants a longer one is not asked again for this request.
    pub backoff_max: Duration,
    /// How long after a failure requests are denied without asking the issuer, unless it says.
    pub failure_pause: Duration,
    /// How long after a token was refused by whom it is for, no other one is taken for refused.
    pub refusal_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            skew: Duration::from_secs(300),
            jitter: Duration::from_secs(60),
            unstated_lifetime: Duration::from_secs(300),
            attempts_max: 3,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(5),
            failure_pause: Duration::from_secs(5),
            refusal_pause: Duration::from_secs(300),
        }
    }
}

/// Makes of an injection what its user puts on requests, once for each.
type Convert<T> = dyn Fn(Injection) -> Result<T, Unavailable> + Send + Sync;

/// Obtains injections and keeps them, as `T`. Cheap to clone.
pub struct Broker<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for Broker<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<T> {
    http: Arc<dyn Http>,
    keeper: Arc<dyn Keeper>,
    options: Options,
    convert: Box<Convert<T>>,
    slots: Mutex<HashMap<CredentialId, Weak<Slot<T>>>>,
    /// Attempts under way. They are never cut: a refresh token that an issuer has replaced would be lost.
    tasks: TaskTracker,
    /// Where they run, since whoever asks may be on a thread that ends before they do.
    runtime: Handle,
}

/// One credential, as it was when it was last changed, and what is kept of it.
pub struct Slot<T> {
    credential: Credential,
    current: ArcSwapOption<Minted<T>>,
    state: Mutex<State<T>>,
}

struct Minted<T> {
    value: Arc<T>,
    /// From then on a new one is obtained; this one is used meanwhile.
    refresh_at: Timestamp,
    /// From then on it is not used.
    good_until: Timestamp,
}

type Outcome<T> = Result<Arc<T>, Unavailable>;

struct State<T> {
    flight: Option<watch::Receiver<Option<Outcome<T>>>>,
    /// Why the last attempt failed, and until when that is the answer.
    failed: Option<(Timestamp, Unavailable)>,
    /// A secret that came from the issuer and could not be kept yet.
    unkept: Option<Durable>,
    /// When a token was last refused by whom it is for.
    refused_at: Option<Timestamp>,
    /// Whether that was the last token, so that the next attempt asks the issuer for another.
    is_refused: bool,
}

impl<T> Slot<T> {
    /// What is put on a request, where it is at hand and fresh.
    pub fn ready(&self, now: Timestamp) -> Option<Arc<T>> {
        let current = self.current.load();
        current.as_ref().filter(|minted| now < minted.refresh_at).map(|minted| Arc::clone(&minted.value))
    }

    fn good(&self, now: Timestamp) -> Option<Arc<T>> {
        let current = self.current.load();
        current.as_ref().filter(|minted| now < minted.good_until).map(|minted| Arc::clone(&minted.value))
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        lock(&self.state)
    }
}

/// The values behind the locks are valid at every point, so that a panic elsewhere spoils nothing.
fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send + Sync + 'static> Broker<T> {
    /// A broker that asks issuers this way, over this keeper. Its attempts run on the Tokio runtime that it is made in.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn new(
        http: Arc<dyn Http>,
        keeper: Arc<dyn Keeper>,
        options: Options,
        convert: impl Fn(Injection) -> Result<T, Unavailable> + Send + Sync + 'static,
    ) -> Self {
        let (convert, slots) = (Box::new(convert), Mutex::default());
        let (tasks, runtime) = (TaskTracker::new(), Handle::current());
        Self { inner: Arc::new(Inner { http, keeper, options, convert, slots, tasks, runtime }) }
    }

    pub(crate) fn http(&self) -> &dyn Http {
        self.inner.http.as_ref()
    }

    /// The place of a credential, which all who use it share. One that was changed since gets a new place: nothing that
    /// was obtained before is used any more.
    pub fn slot(&self, credential: &Credential) -> Arc<Slot<T>> {
        let mut slots = lock(&self.inner.slots);
        let known = slots.get(&credential.id).and_then(Weak::upgrade);
        if let Some(slot) = known.filter(|slot| slot.credential.updated_at == credential.updated_at) {
            return slot;
        }
        let state = State { flight: None, failed: None, unkept: None, refused_at: None, is_refused: false };
        let slot = Arc::new(Slot {
            credential: credential.clone(),
            current: ArcSwapOption::empty(),
            state: Mutex::new(state),
        });
        slots.retain(|_, slot| slot.strong_count() > 0);
        slots.insert(credential.id, Arc::downgrade(&slot));
        slot
    }

    /// What is put on a request. At once where it is at hand; else the one attempt that is under way is waited for, or
    /// begun. It goes on when its caller does not wait.
    ///
    /// # Errors
    /// When it cannot be had.
    pub async fn injection(&self, slot: &Arc<Slot<T>>) -> Outcome<T> {
        let now = Timestamp::now();
        if let Some(value) = slot.ready(now) {
            return Ok(value);
        }
        match slot.credential.status {
            // What could not be read may be readable again, once the operator has brought the key back.
            Status::Active | Status::Failed => {}
            Status::NeedsReauth => return Err(Unavailable("needs_reauth")),
            Status::Revoked => return Err(Unavailable("revoked")),
        }
        let flight = self.flight(slot, now);
        if let Some(value) = slot.good(now) {
            return Ok(value);
        }
        let mut flight = flight?;
        let ended = flight.wait_for(Option::is_some).await.map_err(|_| Unavailable("interrupted"))?;
        ended.clone().unwrap_or(Err(Unavailable("interrupted")))
    }

    /// Hears that whom a token is for refused it: the issuer may have taken it back. The next request gets another one, for
    /// which the issuer is asked. Once, and not again before [`Options::refusal_pause`] is over: a refusal may have any other
    /// cause, and whoever provokes some has no issuer flooded. What is not minted stays.
    pub fn refused(&self, slot: &Slot<T>) {
        let now = Timestamp::now();
        let mut state = slot.state();
        let pause = self.inner.options.refusal_pause;
        let is_early =
            state.refused_at.is_some_and(|at| at.saturating_add(pause).is_ok_and(|until| now < until));
        if is_early || !slot.credential.kind.is_minted() {
            return;
        }
        (state.refused_at, state.is_refused) = (Some(now), true);
        slot.current.store(None);
        tracing::info!(credential.id = %slot.credential.id, "an access token was refused and is replaced");
    }

    /// The attempt under way, or a new one; the last failure where it is too early for one.
    fn flight(
        &self,
        slot: &Arc<Slot<T>>,
        now: Timestamp,
    ) -> Result<watch::Receiver<Option<Outcome<T>>>, Unavailable> {
        let mut state = slot.state();
        if let Some(flight) = &state.flight {
            return Ok(flight.clone());
        }
        if let Some(value) = slot.ready(now) {
            // It came between two looks.
            return Ok(watch::channel(Some(Ok(value))).1);
        }
        if let Some((until, unavailable)) = state.failed
            && now < until
        {
            return Err(unavailable);
        }
        let (ended, flight) = watch::channel(None);
        state.flight = Some(flight.clone());
        drop(state);
        let (broker, slot) = (self.clone(), Arc::clone(slot));
        let attempt = async move {
            let mut landing = Landing { slot: Arc::clone(&slot), ended, outcome: None };
            landing.outcome = Some(broker.obtain(&slot).await);
        };
        self.inner.tasks.spawn_on(attempt, &self.inner.runtime);
        Ok(flight)
    }

    /// One attempt, from the stored secret to what is put on requests.
    async fn obtain(&self, slot: &Slot<T>) -> Outcome<T> {
        let credential = &slot.credential;
        let asked = credential.kind.is_minted();
        let begun = if asked {
            self.mint(slot).await
        } else {
            self.open(slot).await.and_then(|secret| {
                let injection = form::injection(credential, &secret).map_err(|_| Fault::Unreadable)?;
                Ok((injection, Timestamp::MAX, Timestamp::MAX, None))
            })
        };
        let (injection, refresh_at, good_until, expires_at) = match begun {
            Ok(obtained) => obtained,
            Err(fault) => return Err(self.failed(slot, fault, asked).await),
        };
        let value = match (self.inner.convert)(injection) {
            Ok(value) => Arc::new(value),
            Err(_) => return Err(self.failed(slot, Fault::Unreadable, asked).await),
        };
        let note = Note { event: Some(Event::Minted), code: "ok", asked, expires_at };
        if let Err(unavailable) = self.inner.keeper.note(credential, note).await
            && asked
        {
            return Err(self.pause(slot, unavailable, None));
        }
        slot.current.store(Some(Arc::new(Minted { value: Arc::clone(&value), refresh_at, good_until })));
        Ok(value)
    }

    async fn open(&self, slot: &Slot<T>) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.inner.keeper.open(&slot.credential).await.map_err(|error| match error {
            OpenError::Unreadable => Fault::Unreadable,
            OpenError::Passing => Fault::Passing { code: "vault_unavailable", retry_after: None },
        })
    }

    /// An access token, from the issuer unless the last one is good still.
    async fn mint(&self, slot: &Slot<T>) -> Result<Obtained, Fault> {
        let unkept = slot.state().unkept.take();
        if let Some(durable) = unkept {
            // The issuer knows no other refresh token any more.
            self.keep(slot, durable).await?;
        }
        let durable = Durable::read(&self.open(slot).await?)?;
        let is_refused = std::mem::take(&mut slot.state().is_refused);
        // Without a refresh token there would be no other.
        let is_replaced = is_refused && durable.refresh_token.is_some();
        if let Some(kept) = self.kept(&durable, Timestamp::now()).filter(|_| !is_replaced) {
            return Ok(kept);
        }
        let tokens = self.ask(&slot.credential, &durable).await?;
        let lifetime = tokens.expires_in.unwrap_or(self.inner.options.unstated_lifetime);
        let expires_at = Timestamp::now().saturating_add(lifetime).unwrap_or(Timestamp::MAX);
        let (refresh_at, good_until) = self.life(expires_at);
        let injection = form::bearer(&tokens.access_token);
        if let Some(refresh) = tokens.refresh_token
            && durable.refresh_token.as_ref() != Some(&refresh)
            && durable.refresh_token.is_some()
        {
            // Before the access token is used: a crash after this finds the new refresh token.
            let rotated = Durable {
                refresh_token: Some(refresh),
                access_token: Some(tokens.access_token),
                access_expires_at: Some(expires_at),
                ..durable
            };
            self.keep(slot, rotated).await?;
        }
        Ok((injection, refresh_at, good_until, Some(expires_at)))
    }

    /// The access token that is kept with a consent, while it is good, and where it can be replaced, for long.
    fn kept(&self, durable: &Durable, now: Timestamp) -> Option<Obtained> {
        let token = durable.access_token.as_ref()?;
        let Some(expires_at) = durable.access_expires_at else {
            let forever = (form::bearer(token), Timestamp::MAX, Timestamp::MAX, None);
            return Some(forever).filter(|_| durable.refresh_token.is_none());
        };
        let (refresh_at, good_until) = self.life(expires_at);
        if durable.refresh_token.is_none() {
            let at_its_end = (form::bearer(token), good_until, good_until, Some(expires_at));
            return Some(at_its_end).filter(|_| now < good_until);
        }
        let Options { skew, jitter, .. } = self.inner.options;
        let is_long = expires_at.saturating_sub(skew + jitter).is_ok_and(|until| now < until);
        Some((form::bearer(token), refresh_at, good_until, Some(expires_at))).filter(|_| is_long)
    }

    /// Makes a replaced refresh token durable; what cannot be written is held for the next attempt.
    async fn keep(&self, slot: &Slot<T>, durable: Durable) -> Result<(), Fault> {
        let mut attempt = 0;
        loop {
            match self.inner.keeper.keep(&slot.credential, durable.write()).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Fault::Wrong("superseded")),
                Err(unavailable) => {
                    attempt += 1;
                    if attempt >= self.inner.options.attempts_max {
                        slot.state().unkept = Some(durable);
                        return Err(Fault::Passing { code: unavailable.0, retry_after: None });
                    }
                    tokio::time::sleep(self.backoff(attempt)).await;
                }
            }
        }
    }

    /// Asks the issuer, again while it fails in passing.
    async fn ask(&self, credential: &Credential, durable: &Durable) -> Result<Tokens, Fault> {
        let mut attempt = 0;
        loop {
            let request = token::mint(credential, durable, Timestamp::now())?;
            let answered = match self.inner.http.send(request).await {
                Ok(response) => token::tokens(&response),
                Err(error) => Err(Fault::Passing { code: error.0, retry_after: None }),
            };
            let fault = match answered {
                Ok(tokens) => return Ok(tokens),
                Err(fault) => fault,
            };
            attempt += 1;
            let Fault::Passing { code, retry_after } = fault else { return Err(fault) };
            let pause = retry_after.unwrap_or_else(|| self.backoff(attempt));
            if attempt >= self.inner.options.attempts_max || pause > self.inner.options.backoff_max {
                return Err(fault);
            }
            tracing::debug!(credential.id = %credential.id, broker.code = code, broker.attempt = attempt, "will ask again");
            tokio::time::sleep(pause).await;
        }
    }

    fn backoff(&self, attempt: u32) -> Duration {
        let Options { backoff, backoff_max, .. } = self.inner.options;
        backoff.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(backoff_max)
    }

    fn life(&self, expires_at: Timestamp) -> (Timestamp, Timestamp) {
        life(&self.inner.options, expires_at, Timestamp::now(), fraction())
    }

    /// Notes a failure, and that it is the answer for a while.
    async fn failed(&self, slot: &Slot<T>, fault: Fault, asked: bool) -> Unavailable {
        let credential = &slot.credential;
        let (event, retry_after) = match fault {
            Fault::Terminal(_) => (Some(Event::Refused), None),
            Fault::Unreadable => (Some(Event::Unreadable), None),
            Fault::Passing { retry_after, .. } => (None, retry_after),
            Fault::Wrong(_) => (None, None),
        };
        let code = fault.code();
        tracing::warn!(credential.id = %credential.id, broker.code = code, "a credential could not be obtained");
        // Where even this cannot be written, the next attempt will say it again.
        let note = Note { event, code, asked: asked && fault != Fault::Unreadable, expires_at: None };
        let _ = self.inner.keeper.note(credential, note).await;
        self.pause(slot, Unavailable(code), retry_after)
    }

    fn pause(&self, slot: &Slot<T>, unavailable: Unavailable, wanted: Option<Duration>) -> Unavailable {
        let pause = wanted.unwrap_or(self.inner.options.failure_pause);
        let until = Timestamp::now().saturating_add(pause).unwrap_or(Timestamp::MAX);
        slot.state().failed = Some((until, unavailable));
        unavailable
    }

    /// Waits until no attempt is under way, so that no refresh token is lost at the end of the server; at most this long.
    pub async fn drain(&self, longest: Duration) {
        self.inner.tasks.close();
        if tokio::time::timeout(longest, self.inner.tasks.wait()).await.is_err() {
            tracing::warn!("an issuer did not answer before the end");
        }
    }
}

/// What is put on requests, when it is replaced, until when it is good, and when it expires, where it does.
type Obtained = (Injection, Timestamp, Timestamp, Option<Timestamp>);

/// Ends an attempt, however it ends: also when it panics, a next one can begin.
struct Landing<T> {
    slot: Arc<Slot<T>>,
    ended: watch::Sender<Option<Outcome<T>>>,
    outcome: Option<Outcome<T>>,
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        self.slot.state().flight = None;
        if let Some(outcome) = self.outcome.take() {
            self.ended.send_replace(Some(outcome));
        }
    }
}

/// When a token that expires then is replaced, and when it is used no more. `random` is from 0 to 1.
fn life(options: &Options, expires_at: Timestamp, now: Timestamp, random: f64) -> (Timestamp, Timestamp) {
    let left = Duration::try_from(expires_at.duration_since(now)).unwrap_or_default();
    let early = options.skew.min(left / 5) + options.jitter.min(left / 20).mul_f64(random);
    let before = |early: Duration| expires_at.saturating_sub(early).unwrap_or(expires_at);
    (before(early), before(USED_UNTIL.min(left / 10)))
}

/// A number from 0 to 1, at random.
fn fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness there is no jitter.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_before_it_is_used_no_more_and_that_is_before_it_expires() {
        let (options, now) = (Options::default(), Timestamp::UNIX_EPOCH);
        for seconds in [1, 2, 10, 59, 300, 3_600, 86_400] {
            for random in [0.0, 0.5, 1.0] {
                let expires_at = now + Duration::from_secs(seconds);
                let (refresh_at, good_until) = life(&options, expires_at, now, random);
                assert!(now < refresh_at && refresh_at < good_until && good_until < expires_at, "{seconds}");
                assert!(refresh_at >= expires_at - Duration::from_secs(360), "{seconds}");
            }
        }
        // One that has expired already is not used at all.
        assert_eq!(life(&options, now, now + Duration::from_secs(5), 1.0), (now, now));
    }
}
