//! What control does while the process runs: it reloads, answers the admin API, and ends.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use floodway_admin::{Answer, Asked, Call, Caller, EndpointChange, NewBan, SessionFilter, error, view};
use floodway_config::{Checked, Plan, Rejected, parse_prefix};
use floodway_runtime::{ByHand, Fate, Running, SessionDetail, SessionInfo};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::apart::apart;
use crate::commands::problems_as_json;
use crate::fd_store::FdStore;
use crate::files::RealFiles;
use crate::handover::{Step, hand_over};
use crate::state;
use crate::watch::Watch;

/// Sessions in one answer: as many as are asked for, and at the most.
const SESSIONS_A_PAGE: usize = 100;
const MOST_SESSIONS_A_PAGE: usize = 10_000;
/// How long a change by hand may hold that is over by itself: moments must be dates.
const LONGEST_CHANGE: Duration = Duration::from_secs(10 * 366 * 86400);
/// Longest time for a confirmation.
const LONGEST_CONFIRM: Duration = Duration::from_secs(3600);

/// How long the files of certificates must be at rest.
const CERTIFICATES_SETTLE: Duration = Duration::from_millis(100);

/// The running process, as control has it.
pub(crate) struct Control {
    running: Running,
    /// The configuration in force.
    checked: Arc<Checked>,
    /// The file that it is read from; `None` if it came from the command line.
    path: Option<PathBuf>,
    watch: Watch,
    /// Certificates, keys and authorities; looked at much sooner than the configuration, which people type.
    certificates: Watch,
    /// What is to come back unless the reload is confirmed.
    unconfirmed: Option<Unconfirmed>,
    /// Settings that were changed and wait for a restart.
    needs_restart: Vec<String>,
    /// What was last said of a file that cannot be used: said once.
    last_said: Option<String>,
    spare: Spare,
    /// What a take-over that is under way has us do; one at a time.
    steps: mpsc::Receiver<Step>,
    take_over: Option<mpsc::Sender<Step>>,
}

/// What is kept for those that come after this process.
pub(crate) struct Spare {
    /// Duplicates of the sockets for metrics and the admin API.
    pub(crate) side: Vec<OwnedFd>,
    /// What the service manager has.
    pub(crate) stored: FdStore,
}

/// Why control ends.
pub(crate) enum End {
    /// By a signal.
    Signal,
    /// Another process has the doors.
    Replaced,
}

struct Unconfirmed {
    before: Arc<Checked>,
    until: Instant,
}

/// A configuration that was not applied.
enum NotApplied {
    /// It has problems.
    Problems(Box<Rejected>),
    /// The machine does not let us.
    Failed(String),
}

impl NotApplied {
    /// One line for log, status and metric: the first problem, with its place.
    fn line(&self) -> String {
        match self {
            Self::Failed(why) => why.clone(),
            Self::Problems(rejected) => {
                let first = rejected.problems.iter().find(|p| p.severity == floodway_config::Severity::Error);
                first.map_or_else(String::new, |p| match p.span {
                    Some(span) => format!("{}: {}", rejected.sources.place(span), p.message),
                    None => p.message.clone(),
                })
            }
        }
    }

    fn answer(&self) -> Answer {
        match self {
            Self::Failed(why) => (409, json!({ "error": why })),
            Self::Problems(rejected) => {
                let problems = problems_as_json(&rejected.problems, &rejected.sources);
                let text = rejected.problems.render(&rejected.sources, false);
                (422, json!({ "error": self.line(), "problems": problems, "text": text }))
            }
        }
    }
}

/// A configuration with what it changes, and the files that were asked for it.
type Read = (Result<(Checked, Plan), Box<Rejected>>, Vec<PathBuf>);

/// Reads `path`, and compares it with what is in force: beside everything else.
async fn read(path: PathBuf, in_force: Arc<Checked>) -> std::io::Result<Read> {
    apart(move || {
        let files = RealFiles::default();
        let read = crate::commands::read(&path, &files).map_err(Box::new);
        let compared = read.map(|new| {
            let plan = Plan::between(&in_force, &new);
            (new, plan)
        });
        (compared, files.asked.into_inner().into_iter().collect())
    })
    .await
}

/// What was put in force.
struct Applied {
    plan: Plan,
    /// What that did to live sessions.
    fates: Vec<Fate>,
    /// What was in force before; `None` if nothing changed.
    replaced: Option<Arc<Checked>>,
}

/// A plan as JSON: beside everything else, since it may be long.
async fn shown(plan: Plan, fates: Vec<Fate>) -> Value {
    apart(move || view::plan(&plan, &fates)).await.unwrap_or_default()
}

fn session(found: Option<SessionDetail>) -> Answer {
    match found {
        Some(session) => (200, view::session_detail(&session)),
        None => error(404, "there is no such session, or it has ended"),
    }
}

impl Control {
    pub(crate) fn new(
        running: Running,
        checked: Checked,
        path: Option<PathBuf>,
        files: &[PathBuf],
        spare: Spare,
    ) -> Self {
        let mut watch = Watch::new(checked.config.reload.settle);
        if path.is_some() && checked.config.reload.watch {
            watch.follow(files);
        }
        running.shared().accept();
        let (_, steps) = mpsc::channel(1);
        let mut control = Self {
            running,
            checked: Arc::new(checked),
            path,
            watch,
            certificates: Watch::new(CERTIFICATES_SETTLE),
            unconfirmed: None,
            needs_restart: Vec::new(),
            last_said: None,
            spare,
            steps,
            take_over: None,
        };
        control.store_sockets();
        control.follow_certificates();
        control
    }

    /// Watches the files that TLS is made of.
    fn follow_certificates(&mut self) {
        let files = match self.checked.config.reload.watch {
            true => self.checked.config.tls_files(),
            false => Vec::new(),
        };
        self.certificates.follow(&files);
    }

    /// Has the service manager keep the sockets of now, if it is to.
    fn store_sockets(&mut self) {
        let sockets = match self.checked.config.runtime.fd_store {
            true => self.running.listening_sockets(),
            false => Ok(Vec::new()),
        };
        match sockets {
            Ok(sockets) => self.spare.stored.keep(&sockets),
            Err(error) => tracing::warn!(%error, "cannot duplicate the listening sockets for the service manager"),
        }
    }

    /// Whether the service manager keeps the listening sockets for the next process.
    pub(crate) fn keeps_sockets(&self) -> bool {
        self.spare.stored.is_used()
    }

    /// Serves until `ended` is over, or another process has the doors.
    pub(crate) async fn serve(
        &mut self,
        mut asked: mpsc::Receiver<Asked>,
        mut hang_up: impl AsyncFnMut(),
        ended: impl Future<Output = ()>,
    ) -> End {
        let mut ended = std::pin::pin!(ended);
        loop {
            let timer = self.next_time();
            let found = self.running.found();
            tokio::select! {
                // What a take-over has begun is carried to its end, one way or the other: that takes a minute at the most.
                () = &mut ended, if self.take_over.is_none() => return End::Signal,
                () = hang_up(), if self.take_over.is_none() => {
                    tracing::info!("SIGHUP: reading the configuration");
                    // What came of it is in the log.
                    let _ = self.reload(None, None).await;
                }
                () = self.watch.settled(), if self.checked.config.reload.watch && self.take_over.is_none() => {
                    let _ = self.reload(None, None).await;
                }
                () = self.certificates.settled() => self.running.look_at_certificates(),
                () = found => self.running.take_members(),
                // Whoever asked may have gone when there is an answer.
                Some(Asked { call, by, answer }) = asked.recv() => match call {
                    Call::Session(id) => {
                        // It takes its time, and nobody waits for it.
                        let look = self.running.look_at(id);
                        tokio::task::spawn_local(async move { drop(answer.send(session(look.await))) });
                    }
                    call => drop(answer.send(self.carry_out(call, by).await)),
                },
                Some(step) = self.steps.recv() => if self.carry_on(step) { return End::Replaced },
                () = tokio::time::sleep(timer) => self.on_time().await,
            }
        }
    }

    /// A new process wants the doors.
    fn begin_take_over(&mut self, stream: UnixStream, by: Caller) -> Answer {
        if self.take_over.is_some() {
            tracing::warn!(uid = by.uid, "a process asks for the sockets while another is taking over: refused");
            return error(409, "another process is just taking over");
        }
        let sockets = self.running.listening_sockets().and_then(|mut all| {
            for socket in &self.spare.side {
                // They are found by their address.
                all.push((String::new(), socket.try_clone()?));
            }
            Ok(all)
        });
        match sockets {
            Err(why) => {
                tracing::error!(uid = by.uid, error = %why, "cannot duplicate the listening sockets for another process");
                error(500, &format!("cannot duplicate the listening sockets: {why}"))
            }
            Ok(sockets) => {
                tracing::info!(uid = by.uid, sockets = sockets.len(), "another process asks for the listening sockets");
                let (tell, steps) = mpsc::channel(1);
                self.steps = steps;
                self.take_over = Some(tell.clone());
                tokio::task::spawn_local(hand_over(stream, sockets, tell));
                (200, json!({}))
            }
        }
    }

    /// Goes on with a take-over; true if it is done.
    fn carry_on(&mut self, step: Step) -> bool {
        match step {
            Step::Leave(left) => {
                self.running.leave_doors();
                // Should the other process be gone, the next step says so.
                let _ = left.send(());
                false
            }
            Step::Over(Ok(())) => true,
            Step::Over(Err(why)) => {
                self.take_over = None;
                self.running.open_doors();
                tracing::warn!(reason = %why, "the process that asked for the sockets does not serve; this one serves on");
                false
            }
        }
    }

    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// The end of control: what runs, and how it is to end.
    pub(crate) fn into_running(self) -> (Running, floodway_config::Runtime) {
        (self.running, self.checked.config.runtime.clone())
    }

    /// How long until something is due by itself.
    fn next_time(&self) -> Duration {
        let confirm = self.unconfirmed.as_ref().map(|u| u.until.saturating_duration_since(Instant::now()));
        let expiry =
            self.running.next_expiry().map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        confirm.into_iter().chain(expiry).min().unwrap_or(Duration::from_secs(3600))
    }

    async fn on_time(&mut self) {
        if self.unconfirmed.as_ref().is_some_and(|u| u.until <= Instant::now())
            && let Some(Unconfirmed { before, .. }) = self.unconfirmed.take()
        {
            tracing::warn!("nobody confirmed the reload: going back to the configuration before");
            let plan = Plan::between(&self.checked, &before);
            if let Err(why) = self.put_in_force(before, plan).await {
                tracing::error!(reason = why.line(), "cannot go back to the configuration before");
            }
        }
        let now = SystemTime::now();
        if self.running.next_expiry().is_some_and(|until| until <= now) {
            let left = self.running.by_hand_at(now);
            tracing::info!("a change by hand is over");
            self.set_by_hand(left);
        }
    }

    /// Reads the file anew, and puts it in force if it is sound. Gives what that did.
    async fn reload(&mut self, path: Option<PathBuf>, confirm: Option<Duration>) -> Result<Applied, NotApplied> {
        let Some(path) = path.or_else(|| self.path.clone()) else {
            return Err(NotApplied::Failed("the process was started without a configuration file".into()));
        };
        let (read, files) = self.read(path.clone()).await?;
        if self.path.as_ref() == Some(&path) && self.checked.config.reload.watch {
            self.watch.follow(&files);
        }
        let done = match read {
            Err(rejected) => Err(NotApplied::Problems(rejected)),
            Ok((new, plan)) => self.put_in_force(Arc::new(new), plan).await,
        };
        match done {
            Err(why) => {
                self.reject(&why, &path);
                Err(why)
            }
            Ok(mut applied) => {
                self.last_said = None;
                self.path = Some(path);
                // A second reload before the first is confirmed goes back to what was confirmed.
                let pending = self.unconfirmed.take().map(|u| u.before);
                self.unconfirmed = match (confirm, applied.replaced.take()) {
                    (Some(wait), Some(replaced)) => Some(Unconfirmed {
                        before: pending.unwrap_or(replaced),
                        until: Instant::now() + wait.min(LONGEST_CONFIRM),
                    }),
                    (_, replaced) => {
                        // A large one takes its time to be let go.
                        drop(tokio::task::spawn_blocking(move || drop((replaced, pending))));
                        None
                    }
                };
                Ok(applied)
            }
        }
    }

    async fn read(&self, path: PathBuf) -> Result<Read, NotApplied> {
        let read = read(path, Arc::clone(&self.checked)).await;
        read.map_err(|error| NotApplied::Failed(format!("cannot start a thread to read it: {error}")))
    }

    /// Says once what is wrong with a file, and that what was in force stays.
    fn reject(&mut self, why: &NotApplied, path: &std::path::Path) {
        let line = why.line();
        self.running.shared().reject(line.clone());
        if self.last_said.as_ref() != Some(&line) {
            tracing::error!(file = %path.display(), reason = line, "the configuration is not applied; the one before stays in force");
            self.last_said = Some(line);
        }
    }

    /// Puts `new` in force, which `plan` leads to. Where that is empty, not a task is started, not a socket touched.
    async fn put_in_force(&mut self, new: Arc<Checked>, plan: Plan) -> Result<Applied, NotApplied> {
        if plan.is_empty() {
            // What the files hold that it names may have changed.
            self.running.look_at_certificates();
            self.running.shared().accept();
            return Ok(Applied { plan, fates: Vec::new(), replaced: None });
        }
        let applied = self.running.apply(Arc::clone(&new.config)).await;
        let fates = applied.map_err(|e| NotApplied::Failed(e.to_string()))?;
        let replaced = std::mem::replace(&mut self.checked, new);
        self.watch.set_settle(self.checked.config.reload.settle);
        self.running.shared().accept();
        self.needs_restart.extend(view::needs_restart(&plan));
        self.needs_restart.sort();
        self.needs_restart.dedup();
        if !self.needs_restart.is_empty() {
            tracing::warn!(settings = self.needs_restart.join(", "), "these settings wait for a restart");
        }
        self.store_sockets();
        self.follow_certificates();
        let ends = fates.iter().filter(|f| f.ends.is_some()).count();
        tracing::info!(
            generation = self.running.shared().snapshot().generation,
            changes = plan.changes.len(),
            ends_sessions = ends,
            drains_sessions = fates.len() - ends,
            "the configuration is applied"
        );
        Ok(Applied { plan, fates, replaced: Some(replaced) })
    }

    async fn carry_out(&mut self, call: Call, by: Caller) -> Answer {
        match call {
            // It would have to wait for that, or come in its way.
            Call::Plan { .. } | Call::Reload { .. } if self.take_over.is_some() => {
                error(409, "another process is just taking over")
            }
            Call::Status => (200, self.status()),
            Call::Sessions(filter) => self.sessions(&filter).await,
            Call::Session(id) => session(self.running.look_at(id).await),
            Call::Close(id) => match self.running.close(id).await {
                true => {
                    tracing::info!(session = %id, uid = by.uid, "session closed by hand");
                    (200, json!({ "closed": id.to_string() }))
                }
                false => error(404, "there is no such session, or it has ended"),
            },
            Call::Plan { config } => self.plan(config).await,
            Call::Reload { config, confirm } => {
                tracing::info!(uid = by.uid, "reload asked for");
                match self.reload(config, confirm).await {
                    Ok(Applied { plan, fates, .. }) => {
                        let mut plan = shown(plan, fates).await;
                        plan["generation"] = self.running.shared().snapshot().generation.into();
                        plan["confirm_seconds"] = self.unconfirmed.as_ref().and(confirm).map(|c| c.as_secs()).into();
                        (200, plan)
                    }
                    Err(why) => why.answer(),
                }
            }
            Call::Confirm => match self.unconfirmed.take() {
                Some(_) => {
                    tracing::info!(uid = by.uid, "reload confirmed");
                    (200, json!({ "confirmed": true }))
                }
                None => error(409, "there is no reload that waits to be confirmed"),
            },
            Call::Change { pool, endpoint, change } => self.change(&pool, &endpoint, &change, by),
            Call::Reset { pool, endpoint } => self.reset(&pool, endpoint.as_deref(), by),
            Call::FailBack { pool } => match self.running.fail_back(&pool) {
                true => {
                    tracing::info!(pool, uid = by.uid, "failback by hand");
                    (200, json!({ "pool": pool }))
                }
                false => error(404, &format!("there is no pool `{pool}`")),
            },
            Call::Ban { listener, ban } => self.ban(&listener, &ban, by).await,
            Call::LiftBan { listener, range } => self.lift_ban(&listener, &range, by),
            Call::TakeOver(stream) => self.begin_take_over(stream, by),
            Call::Explain { listener, question } => {
                let shared = self.running.shared();
                match view::explain_in(&shared.snapshot(), &listener, &question, shared.now()) {
                    Some(answer) => (200, answer),
                    None => error(404, &format!("there is no listener `{listener}`")),
                }
            }
        }
    }

    fn status(&self) -> Value {
        let mut status = view::status(self.running.shared(), &self.running.places(), &self.needs_restart);
        status["config"] = self.path.as_ref().map(|p| p.display().to_string()).into();
        let left = self.unconfirmed.as_ref().map(|u| u.until.saturating_duration_since(Instant::now()).as_secs());
        status["unconfirmed_seconds"] = left.into();
        status
    }

    async fn sessions(&self, filter: &SessionFilter) -> Answer {
        let after = match filter.after.as_deref().map(str::parse::<floodway_runtime::SessionId>) {
            None => None,
            Some(Ok(id)) => Some(id),
            Some(Err(why)) => return error(400, &why.to_string()),
        };
        let is_same = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|w| w == is);
        let is_wanted = |s: &SessionInfo| {
            is_same(&filter.pool, &s.pool)
                && is_same(&filter.listener, &s.listener)
                && filter.endpoint.as_ref().is_none_or(|wanted| {
                    s.endpoint.as_ref().is_some_and(|(name, address)| wanted == name || *wanted == address.to_string())
                })
                && after.is_none_or(|after| s.id > after)
        };
        let mut found: Vec<_> = self.running.sessions().await.into_iter().filter(is_wanted).collect();
        found.sort_by_key(|s| s.id);
        let most = filter.limit.unwrap_or(SESSIONS_A_PAGE).clamp(1, MOST_SESSIONS_A_PAGE);
        let total = found.len();
        let next = (total > most).then(|| found[most - 1].id.to_string());
        found.truncate(most);
        let shown: Vec<Value> = found.iter().map(view::session).collect();
        (200, json!({ "sessions": shown, "total": total, "next": next }))
    }

    async fn plan(&self, path: Option<PathBuf>) -> Answer {
        let Some(path) = path.or_else(|| self.path.clone()) else {
            return error(409, "the process was started without a configuration file");
        };
        match self.read(path).await {
            Err(why) => why.answer(),
            Ok((Err(rejected), _)) => NotApplied::Problems(rejected).answer(),
            Ok((Ok((new, plan)), _)) => {
                let fates = if plan.is_empty() { Vec::new() } else { self.running.preview(&new.config).await };
                (200, shown(plan, fates).await)
            }
        }
    }

    fn change(&mut self, pool: &str, endpoint: &str, change: &EndpointChange, by: Caller) -> Answer {
        let Some(place) = self.running.find_endpoint(pool, endpoint) else {
            return error(404, &format!("there is no endpoint `{pool}/{endpoint}`"));
        };
        let state = match change.state.as_deref().map(|word| (word, state::admin(word))) {
            None => None,
            Some((_, Some(state))) => Some(state),
            Some((word, None)) => {
                return error(400, &format!("`{word}` is no state: there is enabled, drain and disabled"));
            }
        };
        if change.for_seconds.is_some_and(|s| s > LONGEST_CHANGE.as_secs()) {
            return error(400, "a change lasts ten years at the most; without `for_seconds` until it is reset");
        }
        if change.weight.is_some_and(|w| w > 1000) {
            return error(400, "a weight is from 0 to 1000");
        }
        if state.is_none() && change.weight.is_none() {
            return error(400, "give a `state` or a `weight`");
        }
        let mut all = self.running.by_hand().clone();
        let now = SystemTime::now();
        let before = all.get(&place);
        let hand = ByHand {
            state: state.or(before.and_then(|b| b.state)),
            weight: change.weight.or(before.and_then(|b| b.weight)),
            reason: change.reason.clone().or(before.filter(|_| state.is_none()).and_then(|b| b.reason.clone())),
            since: now,
            until: match state {
                Some(_) => change.for_seconds.and_then(|s| now.checked_add(Duration::from_secs(s))),
                None => before.and_then(|b| b.until),
            },
            uid: by.uid,
        };
        tracing::info!(
            pool,
            endpoint,
            uid = by.uid,
            state = change.state,
            weight = change.weight,
            reason = change.reason,
            "endpoint changed by hand"
        );
        let shown = view::by_hand(&hand);
        all.insert(place, hand);
        match self.set_by_hand(all) {
            None => (200, json!({ "by_hand": shown })),
            Some(why) => (200, json!({ "by_hand": shown, "warning": why })),
        }
    }

    fn reset(&mut self, pool: &str, endpoint: Option<&str>, by: Caller) -> Answer {
        // One that is not found now may have been changed by hand all the same.
        let absent = |e: &str| Some((pool.to_owned(), e.to_owned())).filter(|p| self.running.by_hand().contains_key(p));
        let find = |e: &str| self.running.find_endpoint(pool, e).or_else(|| absent(e));
        let place = match endpoint.map(|e| (e, find(e))) {
            Some((e, None)) => return error(404, &format!("there is no endpoint `{pool}/{e}`")),
            Some((_, Some(place))) => Some(place),
            None if !self.running.shared().snapshot().pools.iter().any(|p| p.name == pool) => {
                return error(404, &format!("there is no pool `{pool}`"));
            }
            None => None,
        };
        let before = self.running.by_hand().len();
        let mut all = self.running.by_hand().clone();
        all.retain(|key, _| place.as_ref().map_or(key.0 != pool, |p| key != p));
        let count = before - all.len();
        tracing::info!(pool, endpoint, uid = by.uid, count, "changes by hand taken back");
        self.set_by_hand(all);
        (200, json!({ "reset": count }))
    }

    async fn ban(&mut self, listener: &str, ban: &NewBan, by: Caller) -> Answer {
        let Some(range) = parse_prefix(&ban.range) else {
            return error(400, &format!("`{}` is no address range, like 192.0.2.0/24 or 2001:db8::1", ban.range));
        };
        let time = ban.for_seconds.map(Duration::from_secs);
        if time.is_some_and(|time| time > LONGEST_CHANGE) {
            return error(400, "a ban lasts ten years at the most; without `for_seconds` until it is lifted");
        }
        let reason = ban.reason.as_deref().unwrap_or_default();
        let Some(ended) = self.running.ban(listener, range, time, reason).await else {
            return error(404, &format!("there is no listener `{listener}`"));
        };
        tracing::info!(
            listener,
            %range,
            uid = by.uid,
            for_seconds = ban.for_seconds,
            reason,
            ends_sessions = ended,
            "banned by hand"
        );
        let warning = self.keep_state();
        (200, json!({ "range": range.trunc().to_string(), "ended_sessions": ended, "warning": warning }))
    }

    fn lift_ban(&mut self, listener: &str, range: &str, by: Caller) -> Answer {
        let lifted = parse_prefix(range).filter(|range| self.running.lift_ban(listener, *range));
        let Some(range) = lifted else {
            return error(404, &format!("listener `{listener}` bans no `{range}`"));
        };
        tracing::info!(listener, %range, uid = by.uid, "ban lifted by hand");
        (200, json!({ "range": range.trunc().to_string(), "warning": self.keep_state() }))
    }

    /// Puts changes by hand in force and keeps them in the state file. Gives what went wrong with the file.
    fn set_by_hand(&mut self, all: floodway_runtime::AllByHand) -> Option<String> {
        self.running.set_by_hand(all);
        self.keep_state()
    }

    /// Keeps what was done by hand in the state file. Gives what went wrong with it.
    fn keep_state(&self) -> Option<String> {
        let path = self.checked.config.admin.as_ref()?.state_file.as_ref()?;
        let error = state::write(path, self.running.by_hand(), &self.running.banned()).err()?;
        let why =
            format!("cannot write `admin.state_file` {}: {error}; a restart will forget the change", path.display());
        tracing::error!("{why}");
        Some(why)
    }
}
