//! The traces people look at. A long one is decoded and analysed once and kept for as long as somebody
//! asks about it: each window, view and span of it is then a matter of milliseconds.
//!
//! An analysis borrows its texts from the trace's bytes. So both live on the stack of a thread of their
//! own, which answers one question after the other and ends when none comes for a while:
//!
//! ```text
//! look(id, question)  ──── in the store at …? ────►  short: decode, analyse, answer, forget
//!                                                    long:  ──question──►  thread: bytes, analysis
//!                                                           ◄──answer────
//! ```

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use analyzer::Settings;
use analyzer::span::{Spans, TraceId};
use collector::store::traces::{FoundTrace, StoredTrace, TracePlace, TraceState};
use collector::store::{Store, StoreError};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::indexed::Indexed;

/// A trace up to this length (some 8,000 spans) is decoded and analysed for each question: that takes
/// 20 ms, and keeping it would take memory.
const SHORT_BYTES_MAX: usize = 2 << 20;

/// Bytes of traces, as sent, that are being looked at at once; an analysis takes about four times as many
/// more. The longest trace there can be (256 MiB) fits. At the bound the trace that was not asked about for
/// the longest time is let go; if all are being worked on, questions wait.
const ROOM_BYTES: usize = 320 << 20;

/// The room is counted in these, because a semaphore counts in 32 bits.
const ROOM_UNIT: usize = 1 << 10;

/// A question waits so long for room, then whoever asked is told to come again.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(20);

/// Meanwhile it is looked this often whether something can be let go.
const ROOM_LOOK_EVERY: Duration = Duration::from_millis(50);

/// A trace nobody asks about is let go after this long. Reading a page takes a minute or two, and the next
/// click should not wait for the analysis again.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// A trace may move in the store while it is asked for: looked up so often, then given up.
const TRIES_MAX: u32 = 4;

/// Why a question has no answer.
#[derive(Debug)]
pub enum LookError {
    /// The database.
    Store(StoreError),
    /// Too much is being looked at.
    Busy,
}

impl From<StoreError> for LookError {
    fn from(error: StoreError) -> Self {
        LookError::Store(error)
    }
}

/// An answer about a trace.
pub struct Looked<T> {
    /// Where the trace is on its way.
    pub state: TraceState,
    /// The answer, or why the trace cannot be analysed.
    pub answer: anyhow::Result<T>,
}

/// The way to traces for all who look at them. Cheap to clone.
#[derive(Clone)]
pub struct OpenTraces(Arc<Shared>);

struct Shared {
    store: Store,
    settings: Arc<Settings>,
    idle_max: Duration,
    room: Arc<Semaphore>,
    room_units: usize,
    open: Mutex<HashMap<TraceId, Open>>,
}

/// A long trace that is kept.
struct Open {
    place: TracePlace,
    used: Instant,
    /// Empty while it is being read.
    questions: Arc<OnceCell<Sender<Question>>>,
}

type Question = Box<dyn FnOnce(&Indexed<'_, '_>, &StoredTrace) + Send>;

impl OpenTraces {
    /// Nothing is open yet. Traces are analysed with `settings`, as the assembly did.
    pub fn new(store: Store, settings: Arc<Settings>) -> OpenTraces {
        OpenTraces::with(store, settings, ROOM_BYTES, IDLE_MAX)
    }

    fn with(
        store: Store,
        settings: Arc<Settings>,
        room_bytes: usize,
        idle_max: Duration,
    ) -> OpenTraces {
        OpenTraces(Arc::new(Shared {
            store,
            settings,
            idle_max,
            room: Arc::new(Semaphore::new(room_bytes / ROOM_UNIT)),
            room_units: room_bytes / ROOM_UNIT,
            open: Mutex::default(),
        }))
    }

    /// Answers a question about a trace, away from the tasks that serve others; `None` if it is not kept.
    ///
    /// # Errors
    /// The database cannot be reached, what is stored is damaged, or too much is being looked at.
    pub async fn look<T: Send + 'static>(
        &self,
        trace_id: TraceId,
        ask: impl FnOnce(&Indexed<'_, '_>, &StoredTrace) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<Option<Looked<T>>, LookError> {
        // A thread may end just when it is asked: then the question is still here.
        let ask = Arc::new(Mutex::new(Some(ask)));
        for _ in 0..TRIES_MAX {
            match self.0.store.trace_within(trace_id, SHORT_BYTES_MAX).await? {
                None => return Ok(None),
                Some(FoundTrace::Whole(stored)) => {
                    let state = stored.state.clone();
                    let room = self.0.room(stored.otlp.len()).await?;
                    let settings = self.0.settings.clone();
                    let answer = tokio::task::spawn_blocking(move || {
                        let _room = room;
                        analysed(&stored, &settings, |indexed| {
                            take(&ask).map_or_else(|| Err(gone()), |ask| ask(indexed, &stored))
                        })
                    });
                    let answer = answer.await.map_err(anyhow::Error::from).and_then(|it| it);
                    return Ok(Some(Looked { state, answer }));
                }
                Some(FoundTrace::Long(place)) => {
                    let Some(questions) = self.0.questions(trace_id, place).await? else {
                        continue;
                    };
                    let (tell, told) = oneshot::channel();
                    let asked = ask.clone();
                    let question: Question = Box::new(move |indexed, stored| {
                        if let Some(ask) = take(&asked) {
                            // Whoever asked may have gone.
                            let _ = tell.send(ask(indexed, stored));
                        }
                    });
                    let sent = questions.send(question).is_ok();
                    // Let go of at once: a thread that is not wanted ends when nobody can ask it.
                    drop(questions);
                    if let (true, Ok(answer)) = (sent, told.await) {
                        let state = TraceState::Final;
                        return Ok(Some(Looked { state, answer }));
                    }
                    if lock(&ask).is_none() {
                        // It was asked and failed; the trace can still be looked at.
                        break;
                    }
                    self.0.forget(trace_id, place);
                }
            }
        }
        Ok(Some(Looked {
            state: TraceState::Final,
            answer: Err(gone()),
        }))
    }

    /// All of a trace as it was sent, and the room it takes; `None` if it is not kept.
    ///
    /// # Errors
    /// As [`OpenTraces::look`].
    pub async fn bytes(
        &self,
        trace_id: TraceId,
    ) -> Result<Option<(StoredTrace, OwnedSemaphorePermit)>, LookError> {
        for _ in 0..TRIES_MAX {
            let (stored, room) = match self.0.store.trace_within(trace_id, SHORT_BYTES_MAX).await? {
                None => return Ok(None),
                Some(FoundTrace::Whole(stored)) => {
                    let room = self.0.room(stored.otlp.len()).await?;
                    (Some(stored), room)
                }
                Some(FoundTrace::Long(place)) => {
                    let room = self.0.room(place.raw_bytes).await?;
                    (self.0.store.trace_at(trace_id, place).await?, room)
                }
            };
            if let Some(stored) = stored {
                return Ok(Some((stored, room)));
            }
        }
        Ok(None)
    }
}

/// Decodes and analyses a stored trace.
pub fn analysed<T>(
    stored: &StoredTrace,
    settings: &Settings,
    work: impl FnOnce(&Indexed<'_, '_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut spans = Spans::default();
    collector::otlp::decode_into(&mut spans, &stored.otlp, |_| true)?;
    work(&Indexed::of(&analyzer::analyze(spans, settings)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take<T>(mutex: &Mutex<Option<T>>) -> Option<T> {
    lock(mutex).take()
}

fn gone() -> anyhow::Error {
    anyhow::anyhow!("the trace's analysis has ended without an answer")
}

impl Shared {
    /// The way to the thread that has the trace, which is started if there is none; `None` if the trace
    /// does not stand at `place` any more.
    async fn questions(
        self: &Arc<Self>,
        trace_id: TraceId,
        place: TracePlace,
    ) -> Result<Option<Sender<Question>>, LookError> {
        // Two who ask at the same time wait for one reading.
        let cell = {
            let mut open = lock(&self.open);
            let known = open.get_mut(&trace_id).filter(|it| it.place == place);
            match known {
                Some(known) => {
                    known.used = Instant::now();
                    known.questions.clone()
                }
                None => {
                    let fresh = Open {
                        place,
                        used: Instant::now(),
                        questions: Arc::default(),
                    };
                    let cell = fresh.questions.clone();
                    // Another version of the trace is let go with this.
                    open.insert(trace_id, fresh);
                    cell
                }
            }
        };
        let started = cell
            .get_or_try_init(|| async {
                let room = self.room(place.raw_bytes).await.map_err(Some)?;
                let stored = self.store.trace_at(trace_id, place).await;
                match stored.map_err(|error| Some(LookError::Store(error)))? {
                    Some(stored) => Ok(self.start(trace_id, place, stored, room)),
                    None => Err::<_, Option<LookError>>(None),
                }
            })
            .await;
        match started {
            Ok(questions) => Ok(Some(questions.clone())),
            Err(error) => {
                self.forget(trace_id, place);
                error.map_or(Ok(None), Err)
            }
        }
    }

    fn start(
        self: &Arc<Self>,
        trace_id: TraceId,
        place: TracePlace,
        stored: StoredTrace,
        room: OwnedSemaphorePermit,
    ) -> Sender<Question> {
        let (ask, questions) = channel();
        let (settings, idle_max) = (self.settings.clone(), self.idle_max);
        let shared = Arc::downgrade(self);
        let keep = move || {
            let _room = room;
            let kept = analysed(&stored, &settings, |indexed| {
                answer(indexed, &stored, &questions, idle_max);
                Ok(())
            });
            if let Err(error) = kept {
                tracing::error!(%error, "a stored trace cannot be read");
            }
            if let Some(shared) = shared.upgrade() {
                shared.forget(trace_id, place);
            }
        };
        // Without a thread the questions are dropped, and whoever asked is told.
        let thread = std::thread::Builder::new().name("trace".to_owned());
        if let Err(error) = thread.spawn(keep) {
            tracing::error!(%error, "no thread can be started for a trace");
        }
        ask
    }

    /// Waits until there is room for a trace of so many bytes.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, LookError> {
        let wanted = (bytes / ROOM_UNIT).clamp(1, self.room_units);
        let mut room = pin!(self.room.clone().acquire_many_owned(wanted as u32));
        let mut late = pin!(tokio::time::sleep(ROOM_WAIT_MAX));
        loop {
            // What was being read a moment ago can be let go now.
            self.make_room(wanted);
            tokio::select! {
                room = &mut room => return room.map_err(|_| LookError::Busy),
                () = &mut late => return Err(LookError::Busy),
                () = tokio::time::sleep(ROOM_LOOK_EVERY) => {}
            }
        }
    }

    /// Lets go of traces nobody asks about, those that were not asked about for the longest time first.
    fn make_room(&self, wanted: usize) {
        if self.room.available_permits() >= wanted {
            return;
        }
        let mut open = lock(&self.open);
        let mut freed = self.room.available_permits();
        while freed < wanted {
            let kept = open.iter().filter(|it| it.1.questions.initialized());
            let Some(oldest) = kept.min_by_key(|it| it.1.used).map(|it| *it.0) else {
                return;
            };
            let gone = open.remove(&oldest);
            freed += gone.map_or(0, |it| it.place.raw_bytes / ROOM_UNIT);
        }
    }

    fn forget(&self, trace_id: TraceId, place: TracePlace) {
        let mut open = lock(&self.open);
        if open.get(&trace_id).is_some_and(|it| it.place == place) {
            open.remove(&trace_id);
        }
    }
}

/// Answers until nobody can ask any more, or nobody has asked for `idle_max`.
fn answer(
    indexed: &Indexed<'_, '_>,
    stored: &StoredTrace,
    questions: &Receiver<Question>,
    idle_max: Duration,
) {
    while let Ok(question) = questions.recv_timeout(idle_max) {
        // What one view stumbles over does not take the trace away from others; whoever asked is told
        // because the answer is dropped.
        if catch_unwind(AssertUnwindSafe(|| question(indexed, stored))).is_err() {
            tracing::error!("a view of a trace has failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Site, otlp};
    use analyzer::drawing;
    use std::fmt::Write;

    /// A trace of more bytes than [`SHORT_BYTES_MAX`]; `nth` of several.
    fn long(nth: u8) -> StoredTrace {
        let mut text = String::from("shop  GET /long          |--------------------|\n");
        let value = "x".repeat(100_000);
        for at in 0..25 {
            let _ = writeln!(text, "shop    step{at} {{value={value}}}            |---|");
        }
        let mut drawing = drawing::parse(&text);
        drawing.trace_id.0[0] ^= nth;
        StoredTrace {
            otlp: otlp(&drawing.spans()),
            state: TraceState::Final,
        }
    }

    fn id(stored: &StoredTrace) -> TraceId {
        collector::otlp::trace_ids(&stored.otlp).unwrap()[0]
    }

    /// How many spans it has, and which thread says so.
    async fn ask(open: &OpenTraces, of: TraceId) -> (u32, std::thread::ThreadId) {
        let looked = open.look(of, |it, _| Ok((it.spans(), std::thread::current().id())));
        looked.await.unwrap().unwrap().answer.unwrap()
    }

    #[tokio::test]
    async fn a_long_trace_is_analysed_once_until_more_of_it_comes() {
        let first = long(0);
        let site = Site::with(&[&first]).await;
        let open = OpenTraces::new(site.store.clone(), Arc::default());
        let (spans, thread) = ask(&open, id(&first)).await;
        assert_eq!((spans, ask(&open, id(&first)).await), (26, (26, thread)));
        // A view that fails takes nobody else's with it.
        let failed = open.look(id(&first), |_, _| -> anyhow::Result<()> {
            panic!("a view fails")
        });
        assert!(failed.await.unwrap().unwrap().answer.is_err());
        assert_eq!(ask(&open, id(&first)).await, (26, thread));
        // One more span.
        let mut drawing = drawing::parse("shop  late             |---|\n");
        drawing.trace_id = id(&first);
        let mut spans = drawing.spans();
        spans.spans[0].id.0 = [7; 8];
        let late = StoredTrace {
            otlp: otlp(&spans),
            state: TraceState::Final,
        };
        site.add(&[&late]).await;
        assert_eq!(ask(&open, id(&first)).await.0, 27);
        let none = open.look(TraceId([9; 16]), |_, _| Ok(()));
        assert!(none.await.unwrap().is_none());
    }

    #[tokio::test]
    async fn room_is_made_by_letting_go_of_what_nobody_asks_about() {
        let (first, second) = (long(0), long(1));
        let site = Site::with(&[&first, &second]).await;
        // Room for one of them.
        let room = first.otlp.len() * 3 / 2;
        let open = OpenTraces::with(site.store.clone(), Arc::default(), room, IDLE_MAX);
        let (_, thread) = ask(&open, id(&first)).await;
        ask(&open, id(&second)).await;
        assert_eq!(lock(&open.0.open).len(), 1);
        assert_ne!(ask(&open, id(&first)).await.1, thread);
        // And what is asked for at the same time is asked for one after the other.
        let (a, b) = tokio::join!(ask(&open, id(&first)), ask(&open, id(&second)));
        assert_eq!((a.0, b.0), (26, 26));
    }

    #[tokio::test]
    async fn a_trace_nobody_asks_about_is_let_go() {
        let first = long(0);
        let site = Site::with(&[&first]).await;
        let idle_max = Duration::from_millis(1);
        let open = OpenTraces::with(site.store.clone(), Arc::default(), ROOM_BYTES, idle_max);
        assert_eq!(ask(&open, id(&first)).await.0, 26);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !lock(&open.0.open).is_empty() {
            assert!(Instant::now() < deadline, "it is still open");
            tokio::task::yield_now().await;
        }
        assert_eq!(ask(&open, id(&first)).await.0, 26);
    }
}
