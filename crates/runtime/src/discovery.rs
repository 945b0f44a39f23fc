//! Asks the sources of every pool on the control thread, and tells when who is in force has changed.

use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use floodway_balance::hash;
use floodway_config::{Config, Found, Pool};
use floodway_discovery::Asker;
use floodway_judge::{Answer, Membership, Next, Source};
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use crate::server::random;
use crate::{Shared, StartError};

/// Questions at a time, beside those that wait for a change.
const MOST_QUESTIONS: usize = 64;

/// Changes within so much of each other are put in force together.
const SETTLE: Duration = Duration::from_millis(10);

/// How long a new source may take to answer, before those that came with it are put in force without it.
const FIRST_ANSWERS: Duration = Duration::from_secs(3);

/// A pool and a source of it, by their names.
type Key = (String, String);

/// Those who can be asked, of sources that are not asked yet.
pub(crate) type Askers = HashMap<Key, Asker>;

/// Every source that is asked.
pub(crate) struct Discovery {
    feeds: HashMap<Key, Feed>,
    /// By name: each pool with its endpoints, as it was last asked for.
    completed: RefCell<HashMap<String, Completed>>,
    desk: Rc<Desk>,
    announcer: AbortHandle,
}

struct Desk {
    shared: Arc<Shared>,
    questions: Semaphore,
    /// Somebody came or left.
    changed: Notify,
    /// And nobody else for [`SETTLE`].
    settled: Rc<Notify>,
    /// A source was asked for the first time.
    answered: Notify,
}

/// A pool with the endpoints of its sources.
struct Completed {
    /// Of the file.
    from: Arc<Pool>,
    /// How often each of its sources had changed.
    changes: Vec<Option<u64>>,
    pool: Arc<Pool>,
}

struct Feed {
    source: Source,
    membership: Rc<RefCell<Membership>>,
    /// How often those in force changed.
    changes: Rc<Cell<u64>>,
    state: Arc<SourceState>,
    task: AbortHandle,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.announcer.abort();
    }
}

/// What is known of a source of a pool. It is the same object as long as the source stays.
#[derive(Debug)]
pub struct SourceState {
    /// Its name, unique in its pool.
    pub name: String,
    seen: Mutex<SourceSeen>,
    /// Answers by what they were, in the order of [`SourceState::ANSWERS`]. Written by control, read by metrics. Relaxed: counts.
    answers: [AtomicU64; 3],
}

/// What was last heard of a source. Moments are on the process's clock.
#[derive(Clone, Debug, Default)]
pub struct SourceSeen {
    /// Endpoints that its last good answer named.
    pub desired: usize,
    /// Endpoints of it that are in force.
    pub actual: usize,
    /// When the last good answer came.
    pub last_good: Option<Duration>,
    /// What was wrong since.
    pub last_error: Option<String>,
    /// Why those in force are not those that it names.
    pub difference: Option<String>,
    /// When it is asked next; `None` while it is being asked, or is waited for.
    pub next: Option<Duration>,
}

impl SourceState {
    /// The words for metrics.
    pub const ANSWERS: [&'static str; 3] = ["good", "nothing", "failed"];

    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), seen: Mutex::default(), answers: Default::default() }
    }

    /// What was last heard of it.
    #[must_use]
    pub fn seen(&self) -> SourceSeen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers by what they were.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::ANSWERS.into_iter().zip(&self.answers).map(|(word, n)| (word, n.load(Ordering::Relaxed)))
    }
}

impl Discovery {
    /// Asks nobody yet.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let desk = Rc::new(Desk {
            shared,
            questions: Semaphore::new(MOST_QUESTIONS),
            changed: Notify::new(),
            settled: Rc::default(),
            answered: Notify::new(),
        });
        let announcer = tokio::task::spawn_local(announce(Rc::clone(&desk))).abort_handle();
        Self { feeds: HashMap::new(), completed: RefCell::default(), desk, announcer }
    }

    /// Makes ready to ask the sources of `config` that are not asked yet.
    ///
    /// # Errors
    /// If certificates cannot be read.
    pub(crate) fn prepare(&self, config: &Config) -> Result<Askers, StartError> {
        let mut askers = Askers::new();
        let is_asked = |pool, found: &Found| self.feed(pool, found).is_some_and(|feed| feed.source == found.source);
        for (pool, found) in sources(config).filter(|(pool, found)| !is_asked(pool, found)) {
            let asker = Asker::new(&found.source);
            let error = |e: floodway_discovery::NewFault| StartError::Source {
                pool: pool.name.clone(),
                source_name: found.name.clone(),
                error: e.to_string(),
            };
            askers.insert((pool.name.clone(), found.name.clone()), asker.map_err(error)?);
        }
        Ok(askers)
    }

    /// Asks the sources of `config`, and no others: those that stay go on with what is known, and one that is asked in another way
    /// begins with it. Gives those of which nothing is known.
    pub(crate) fn follow(&mut self, config: &Config, mut askers: Askers) -> Vec<Arc<SourceState>> {
        let (mut feeds, mut unknown) = (HashMap::new(), Vec::new());
        for (pool, found) in sources(config) {
            let key = (pool.name.clone(), found.name.clone());
            let rules = found.rules(pool);
            let feed = match (self.feeds.remove(&key), askers.remove(&key)) {
                (Some(feed), None) => {
                    feed.membership.borrow_mut().set_rules(rules);
                    feed
                }
                (Some(old), Some(asker)) => {
                    self.begin(pool, found, asker, Membership::after(&old.membership.borrow(), rules))
                }
                (None, Some(asker)) => {
                    let feed = self.begin(pool, found, asker, Membership::new(rules));
                    unknown.push(Arc::clone(&feed.state));
                    feed
                }
                // Whoever is not asked yet was made ready.
                (None, None) => continue,
            };
            feeds.insert(key, feed);
        }
        self.feeds = feeds;
        self.completed.borrow_mut().retain(|name, _| config.pools.iter().any(|pool| pool.name == *name));
        unknown
    }

    fn begin(&self, pool: &Pool, found: &Found, asker: Asker, membership: Membership) -> Feed {
        let membership = Rc::new(RefCell::new(membership));
        let state = Arc::new(SourceState::new(&found.name));
        let place = Place {
            pool: pool.name.clone(),
            is_file: matches!(found.source, Source::File { .. }),
            is_watched: matches!(found.source, Source::File { .. } | Source::Consul { .. }),
            state: Arc::clone(&state),
            desk: Rc::clone(&self.desk),
        };
        let changes = Rc::default();
        let asking = place.ask(asker, Rc::clone(&membership), Rc::clone(&changes));
        let task = tokio::task::spawn_local(asking).abort_handle();
        Feed { source: found.source.clone(), membership, changes, state, task }
    }

    fn feed(&self, pool: &Pool, found: &Found) -> Option<&Feed> {
        self.feeds.get(&(pool.name.clone(), found.name.clone()))
    }

    /// `config` with the endpoints that are in force. A pool of which nothing has changed is the same object.
    pub(crate) fn complete(&self, config: &Arc<Config>) -> Arc<Config> {
        if sources(config).next().is_none() {
            return Arc::clone(config);
        }
        // Named one by one: a copy of the whole would copy every endpoint once more, for nothing.
        Arc::new(Config {
            pools: config.pools.iter().map(|pool| self.complete_pool(pool)).collect(),
            listeners: config.listeners.clone(),
            certificates: config.certificates.clone(),
            metrics: config.metrics,
            admin: config.admin.clone(),
            reload: config.reload,
            log: config.log.clone(),
            runtime: config.runtime.clone(),
        })
    }

    fn complete_pool(&self, from: &Arc<Pool>) -> Arc<Pool> {
        if from.sources.is_empty() {
            return Arc::clone(from);
        }
        let feeds: Vec<Option<&Feed>> = from.sources.iter().map(|found| self.feed(from, found)).collect();
        let changes: Vec<Option<u64>> = feeds.iter().map(|feed| feed.map(|feed| feed.changes.get())).collect();
        let mut completed = self.completed.borrow_mut();
        if let Some(known) = completed.get(&from.name).filter(|k| Arc::ptr_eq(&k.from, from) && k.changes == changes) {
            return Arc::clone(&known.pool);
        }
        let known: Vec<Option<Ref<'_, Membership>>> =
            feeds.iter().map(|feed| feed.map(|feed| feed.membership.borrow())).collect();
        let members = known.iter().map(|known| known.as_ref().map_or(&[][..], |known| known.members()));
        let pool = Arc::new(from.with_members(members));
        let one = Completed { from: Arc::clone(from), changes, pool: Arc::clone(&pool) };
        completed.insert(from.name.clone(), one);
        pool
    }

    /// What is known of the sources of `pool`.
    pub(crate) fn states(&self, pool: &Pool) -> Vec<Arc<SourceState>> {
        pool.sources.iter().filter_map(|found| Some(Arc::clone(&self.feed(pool, found)?.state))).collect()
    }

    /// Notified when those in force have changed.
    pub(crate) fn settled(&self) -> Rc<Notify> {
        Rc::clone(&self.desk.settled)
    }

    /// Whether anybody is asked.
    pub(crate) fn is_idle(&self) -> bool {
        self.feeds.is_empty()
    }

    /// Every source.
    pub(crate) fn all(&self) -> Vec<Arc<SourceState>> {
        self.feeds.values().map(|feed| Arc::clone(&feed.state)).collect()
    }

    /// Waits until each of `sources` has answered once, in whatever way; at the most for [`FIRST_ANSWERS`].
    pub(crate) async fn wait_for_answers(&self, sources: &[Arc<SourceState>]) {
        if tokio::time::timeout(FIRST_ANSWERS, self.first_answers(sources)).await.is_err() {
            tracing::warn!("some sources of endpoints have not answered yet: going on without them");
        }
    }

    async fn first_answers(&self, sources: &[Arc<SourceState>]) {
        loop {
            let answered = self.desk.answered.notified();
            if sources.iter().all(|source| source.answers().any(|(_, n)| n > 0)) {
                return;
            }
            answered.await;
        }
    }

    /// Asks nobody any more; those in force stay.
    pub(crate) fn stop(&mut self) {
        self.feeds.values().for_each(|feed| feed.task.abort());
    }
}

fn sources(config: &Config) -> impl Iterator<Item = (&Pool, &Found)> {
    config.pools.iter().map(|pool| &**pool).flat_map(|pool| pool.sources.iter().map(move |found| (pool, found)))
}

/// Most files that sources of `config` have open at a time: those of the questions that may be under way, and one for each that is
/// waited for.
pub(crate) fn files(config: &Config) -> u64 {
    let of = |(_, found): (&Pool, &Found)| match found.source {
        // Eight of its servers at a time.
        Source::Srv { .. } => 16,
        _ => 2,
    };
    let watched = sources(config).filter(|(_, found)| matches!(found.source, Source::Consul { .. })).count();
    let mut asked: Vec<u64> = sources(config).map(of).collect();
    asked.sort_unstable();
    watched as u64 + asked.iter().rev().take(MOST_QUESTIONS).sum::<u64>()
}

async fn announce(desk: Rc<Desk>) {
    loop {
        desk.changed.notified().await;
        tokio::time::sleep(SETTLE).await;
        desk.settled.notify_one();
    }
}

/// A source, where it is asked from.
struct Place {
    pool: String,
    is_file: bool,
    /// It can be waited for.
    is_watched: bool,
    state: Arc<SourceState>,
    desk: Rc<Desk>,
}

impl Place {
    /// Asks for ever.
    async fn ask(self, mut asker: Asker, membership: Rc<RefCell<Membership>>, changes: Rc<Cell<u64>>) {
        let mut watch = false;
        let mut said = None;
        loop {
            // In a box: there may be thousands, and most wait for their time.
            let grace = membership.borrow().grace(self.desk.shared.now()).unwrap_or(Duration::MAX);
            let answer = match watch {
                true => match tokio::time::timeout(grace, Box::pin(asker.ask(true))).await {
                    Ok(answer) => answer,
                    // Whoever is kept is not kept for longer.
                    Err(_) => Box::pin(asker.ask(false)).await,
                },
                false => {
                    // It is never closed.
                    let _turn = self.desk.questions.acquire().await;
                    Box::pin(asker.ask(false)).await
                }
            };
            let now = self.desk.shared.now();
            let kind = kind(&answer);
            let has_changed = membership.borrow_mut().observe(answer, now);
            let next = membership.borrow().next();
            let wait = match next {
                Next::Watch => None,
                // A file that cannot be read is read when it changes, not before; who says that there is nothing tells when
                // there is something.
                Next::In(_) if self.is_file && kind == FAILED || self.is_watched && kind == NOTHING => None,
                // Up to a tenth earlier, so that many names are not asked in step.
                Next::In(time) => Some(time.mul_f64(1.0 - hash::unit(random()) / 10.0)),
            };
            self.note(&membership.borrow(), now, wait.map(|wait| now + wait));
            self.say(&membership.borrow(), now, &mut said);
            self.state.answers[kind].fetch_add(1, Ordering::Relaxed);
            self.desk.answered.notify_waiters();
            if has_changed {
                changes.set(changes.get() + 1);
                self.desk.changed.notify_one();
            }
            watch = wait.is_none();
            tokio::time::sleep(wait.unwrap_or_default()).await;
        }
    }

    fn note(&self, membership: &Membership, now: Duration, next: Option<Duration>) {
        *self.state.seen.lock().unwrap_or_else(PoisonError::into_inner) = SourceSeen {
            desired: membership.desired(),
            actual: membership.members().len(),
            last_good: membership.last_good(),
            last_error: membership.last_error().map(str::to_owned),
            difference: membership.difference(now),
            next,
        };
    }

    /// Says once when a source fails, and once when it is well again.
    fn say(&self, membership: &Membership, now: Duration, said: &mut Option<String>) {
        let error = membership.last_error().map(str::to_owned);
        if *said != error {
            match &error {
                Some(error) => {
                    let consequence = membership.difference(now).unwrap_or_default();
                    tracing::warn!(
                        pool = self.pool,
                        source = self.state.name,
                        reason = error,
                        consequence,
                        "discovery: no good answer"
                    );
                }
                None => tracing::info!(pool = self.pool, source = self.state.name, "discovery: good answers again"),
            }
        }
        *said = error;
    }
}

/// Of [`SourceState::ANSWERS`].
const FAILED: usize = 2;
const NOTHING: usize = 1;

fn kind(answer: &Answer) -> usize {
    match answer {
        Answer::Members { members, .. } if members.is_empty() => NOTHING,
        Answer::Members { .. } | Answer::Unchanged { .. } => 0,
        Answer::Nothing { .. } => NOTHING,
        Answer::Failed { .. } => FAILED,
    }
}
