use super::*;

const TIMEOUTS: Timeouts =
    Timeouts { idle: Some(Duration::from_secs(3600)), half_close: Duration::from_secs(30), ends_at: None };

fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn fresh() -> Duplex {
    Duplex::new(TIMEOUTS, secs(0))
}

#[test]
fn with_farewells_each_side_hears_of_the_other_s_end() {
    let mut d = fresh().with_farewells();
    d.source_ended(Direction::ToEndpoint, secs(1));
    assert_eq!(d.next(Direction::ToEndpoint), Step::Shutdown);
    d.shut(Direction::ToEndpoint);
    d.source_ended(Direction::ToClient, secs(2));
    assert_eq!((d.next(Direction::ToClient), d.ending()), (Step::Shutdown, None));
    // Whoever has said its last word may be gone.
    d.shut_failed(Direction::ToClient, secs(2));
    assert_eq!((d.ending(), d.reason()), (Some(Ending::Close), Some(Reason::ClientClosed)));
}

#[test]
fn a_fin_follows_the_last_byte_and_the_other_way_lives_on() {
    let mut d = fresh();
    d.read(Direction::ToEndpoint, 10);
    d.wrote(Direction::ToEndpoint, 4, secs(1));
    assert_eq!(d.next(Direction::ToEndpoint), Step::Write(Medium::Copy));
    d.wrote(Direction::ToEndpoint, 6, secs(1));
    d.source_ended(Direction::ToEndpoint, secs(1));
    assert_eq!(d.next(Direction::ToEndpoint), Step::Shutdown);
    d.shut(Direction::ToEndpoint);
    assert_eq!(d.next(Direction::ToEndpoint), Step::Done);
    assert_eq!(d.next(Direction::ToClient), Step::Read(Medium::Copy));
    assert_eq!(d.ending(), None);
    d.source_ended(Direction::ToClient, secs(2));
    assert_eq!(d.next(Direction::ToClient), Step::Done, "closing passes the last FIN on");
    assert_eq!((d.ending(), d.reason()), (Some(Ending::Close), Some(Reason::ClientClosed)));
}

#[test]
fn a_reset_waits_for_the_last_byte_and_its_acknowledgement() {
    let mut d = fresh();
    d.read(Direction::ToClient, 100);
    d.source_failed(Direction::ToClient, secs(1));
    assert_eq!(d.next(Direction::ToEndpoint), Step::Done, "nobody to write to");
    assert_eq!(d.next(Direction::ToClient), Step::Write(Medium::Copy));
    d.wrote(Direction::ToClient, 100, secs(1));
    assert_eq!(d.ending(), Some(Ending::Drain(Side::Client)));
    d.queued(100, secs(1));
    assert_eq!(d.ending(), Some(Ending::Drain(Side::Client)));
    d.queued(0, secs(1));
    assert_eq!((d.ending(), d.reason()), (Some(Ending::Reset(Side::Client)), Some(Reason::ServerReset)));
}

#[test]
fn an_end_of_file_after_a_failed_write_is_a_reset_and_no_fin() {
    let mut d = fresh();
    d.read(Direction::ToEndpoint, 5);
    d.sink_failed(Direction::ToEndpoint, secs(1));
    assert_eq!(d.next(Direction::ToClient), Step::Read(Medium::Copy), "it may have sent bytes before");
    d.source_ended(Direction::ToClient, secs(1));
    assert_eq!(d.next(Direction::ToClient), Step::Done);
    assert_eq!((d.ending(), d.reason()), (Some(Ending::Drain(Side::Client)), Some(Reason::ServerReset)));
}

#[test]
fn both_sides_reset_just_close() {
    let mut d = fresh();
    d.source_failed(Direction::ToEndpoint, secs(1));
    d.source_failed(Direction::ToClient, secs(1));
    assert_eq!((d.ending(), d.reason()), (Some(Ending::Close), Some(Reason::ClientReset)));
}

#[test]
fn bulk_turns_to_splice_and_small_reads_turn_it_back() {
    let mut d = fresh();
    let mut round = |bytes| {
        d.read(Direction::ToClient, bytes);
        d.wrote(Direction::ToClient, bytes, secs(0));
        d.medium(Direction::ToClient)
    };
    assert_eq!([round(65536), round(65536), round(65536)], [Medium::Copy, Medium::Copy, Medium::Splice]);
    assert_eq!([round(200_000), round(10), round(10), round(10)], [Medium::Splice; 4]);
    assert_eq!([round(10), round(65536)], [Medium::Copy, Medium::Copy]);
}

#[test]
fn a_refused_pipe_is_not_asked_for_again_at_once() {
    let mut d = fresh();
    let rounds = |d: &mut Duplex, n| {
        for _ in 0..n {
            d.read(Direction::ToClient, 65536);
            d.wrote(Direction::ToClient, 65536, secs(0));
        }
        d.medium(Direction::ToClient)
    };
    assert_eq!(rounds(&mut d, 3), Medium::Splice);
    d.splice_refused(Direction::ToClient);
    assert_eq!(rounds(&mut d, 60), Medium::Copy);
    assert_eq!(rounds(&mut d, 10), Medium::Splice);
}

#[test]
fn idle_half_close_and_lifetime_each_end_it_by_name() {
    let mut d = fresh();
    d.read(Direction::ToClient, 1);
    d.wrote(Direction::ToClient, 1, secs(100));
    assert_eq!(d.deadline(), Some(secs(3700)));
    d.on_time(secs(3699));
    assert_eq!(d.ending(), None);
    d.on_time(secs(3700));
    assert_eq!((d.ending(), d.reason()), (Some(Ending::Abort), Some(Reason::IdleTimeout)));

    let mut d = fresh();
    d.source_ended(Direction::ToEndpoint, secs(5));
    d.shut(Direction::ToEndpoint);
    d.read(Direction::ToClient, 9);
    d.wrote(Direction::ToClient, 9, secs(20));
    assert_eq!(d.deadline(), Some(secs(50)), "a long answer to a short question keeps it alive");
    d.on_time(secs(50));
    assert_eq!(d.reason(), Some(Reason::HalfCloseTimeout));

    let mut d = Duplex::new(Timeouts { ends_at: Some(secs(60)), ..TIMEOUTS }, secs(0));
    d.on_time(secs(60));
    assert_eq!(d.reason(), Some(Reason::Lifetime));
}

#[test]
fn a_reset_that_nobody_acknowledges_is_passed_on_in_the_end() {
    let mut d = fresh();
    d.source_failed(Direction::ToClient, secs(0));
    d.queued(900, secs(10));
    d.queued(800, secs(20));
    d.queued(800, secs(49));
    d.on_time(secs(49));
    assert_eq!(d.ending(), Some(Ending::Drain(Side::Client)), "it was moving until 20 s");
    d.on_time(secs(50));
    assert_eq!((d.ending(), d.reason()), (Some(Ending::Abort), Some(Reason::ServerReset)));
}

#[test]
fn a_reset_behind_a_stuck_sink_is_looked_for() {
    let mut d = fresh();
    d.read(Direction::ToEndpoint, 100);
    d.wrote(Direction::ToEndpoint, 40, secs(1));
    assert_eq!(d.deadline(), Some(secs(31)), "long before it is idle");
    d.on_time(secs(31));
    assert!(d.wants_look() && d.ending().is_none());
    d.looked(secs(31));
    assert_eq!(d.deadline(), Some(secs(61)));
    d.on_time(secs(61));
    d.sink_failed(Direction::ToClient, secs(61));
    d.looked(secs(61));
    assert_eq!(d.next(Direction::ToEndpoint), Step::Write(Medium::Copy), "what it sent before is still to be written");
    assert_eq!(d.deadline(), Some(secs(91)));
    d.on_time(secs(91));
    assert_eq!((d.ending(), d.reason()), (Some(Ending::Abort), Some(Reason::ClientReset)));
}

/// The schedules: two peers, their kernels, and a driver that does what [`Duplex`] says, in a random order drawn from a
/// seed. Bytes are numbered, so that a lost, doubled or reordered one is seen.
mod schedules {
    use super::*;

    const SEEDS: u64 = 1000;
    const STEPS: usize = 3000;

    struct Rng(u64);

    impl Rng {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, n: u64) -> u64 {
            self.next() % n
        }

        fn one_in(&mut self, n: u64) -> bool {
            self.below(n) == 0
        }
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum End {
        Open,
        Fin,
        Reset,
    }

    /// A peer and the kernel socket that we have to it.
    #[derive(Debug)]
    struct Peer {
        /// Bytes that it sent, of which `taken` were read by us.
        sent: u64,
        taken: u64,
        end: End,
        /// A FIN may be followed by a reset.
        fin_sent: bool,
        /// Whether the kernel has told of the reset: it does so once.
        told: bool,
        /// Bytes that we wrote, of which it acknowledged some.
        written: u64,
        acknowledged: u64,
        fin_received: bool,
        /// Most bytes that its socket holds unacknowledged.
        buffer: u64,
    }

    impl Peer {
        fn new(buffer: u64) -> Self {
            Self {
                sent: 0,
                taken: 0,
                end: End::Open,
                fin_sent: false,
                told: false,
                written: 0,
                acknowledged: 0,
                fin_received: false,
                buffer,
            }
        }

        fn read(&mut self, most: u64) -> Result<Option<u64>, ()> {
            let there = (self.sent - self.taken).min(most);
            if there > 0 {
                self.taken += there;
                return Ok(Some(there));
            }
            match self.end {
                End::Open => Ok(None),
                End::Reset if !self.told => {
                    self.told = true;
                    Err(())
                }
                End::Fin | End::Reset => Ok(Some(0)),
            }
        }

        fn write(&mut self, most: u64) -> Result<u64, ()> {
            if self.end == End::Reset {
                self.told = true;
                return Err(());
            }
            let room = self.buffer - (self.written - self.acknowledged);
            let n = room.min(most);
            self.written += n;
            Ok(n)
        }
    }

    struct World {
        rng: Rng,
        now: Duration,
        duplex: Duplex,
        client: Peer,
        endpoint: Peer,
        /// What the driver holds for each direction: bytes, and how they came in.
        held: [u64; 2],
        trace: u64,
        spliced: bool,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let mut rng = Rng(seed);
            let timeouts = Timeouts {
                idle: (!rng.one_in(4)).then_some(secs(600)),
                half_close: secs(30),
                ends_at: rng.one_in(8).then_some(secs(900)),
            };
            let (a, b) = (1 + rng.below(300_000), 1 + rng.below(300_000));
            let farewells = rng.one_in(2);
            Self {
                rng,
                now: secs(0),
                duplex: if farewells {
                    Duplex::new(timeouts, secs(0)).with_farewells()
                } else {
                    Duplex::new(timeouts, secs(0))
                },
                client: Peer::new(a),
                endpoint: Peer::new(b),
                held: [0; 2],
                trace: 0xcbf2_9ce4_8422_2325,
                spliced: false,
            }
        }

        fn peers(&mut self, direction: Direction) -> (&mut Peer, &mut Peer) {
            match direction {
                Direction::ToEndpoint => (&mut self.client, &mut self.endpoint),
                Direction::ToClient => (&mut self.endpoint, &mut self.client),
            }
        }

        /// One thing that a peer or the clock does.
        fn nature(&mut self) {
            let (kind, amount) = (self.rng.below(40), self.rng.below(200_000));
            let peer = if self.rng.one_in(2) { &mut self.client } else { &mut self.endpoint };
            match kind {
                0..=14 if peer.end == End::Open => {
                    peer.sent += if amount % 3 == 0 { amount % 90 + 1 } else { amount + 1 }
                }
                15..=30 => peer.acknowledged += (peer.written - peer.acknowledged).min(amount),
                31 if peer.end == End::Open && amount % 16 == 0 => (peer.end, peer.fin_sent) = (End::Fin, true),
                32 if peer.end != End::Reset && amount % 40 == 0 => peer.end = End::Reset,
                33 => self.now += Duration::from_millis(amount / 20),
                34 if amount % 64 == 0 => self.now += secs(amount % 700),
                _ => self.now += Duration::from_micros(50),
            }
        }

        /// The driver serves one direction once, as `runtime` does.
        fn drive(&mut self, direction: Direction) {
            let now = self.now;
            let lane = usize::from(direction == Direction::ToClient);
            match self.duplex.next(direction) {
                Step::Done => {}
                Step::Read(medium) => {
                    assert_eq!(self.held[lane], 0, "read while bytes are held");
                    if medium == Medium::Splice && self.rng.one_in(6) {
                        return self.duplex.splice_refused(direction);
                    }
                    self.spliced |= medium == Medium::Splice;
                    let most = if medium == Medium::Splice { 262_144 } else { 65_536 };
                    match self.peers(direction).0.read(most) {
                        Ok(None) => {}
                        Ok(Some(0)) => self.duplex.source_ended(direction, now),
                        Ok(Some(n)) => {
                            self.held[lane] = n;
                            self.duplex.read(direction, usize::try_from(n).unwrap());
                        }
                        Err(()) => {
                            self.duplex.source_failed(direction, now);
                            self.held[1 - lane] = 0;
                        }
                    }
                }
                Step::Write(_) => {
                    let held = self.held[lane];
                    assert_eq!(held, u64::try_from(self.duplex.pending(direction)).unwrap());
                    match self.peers(direction).1.write(held) {
                        Ok(0) => {}
                        Ok(n) => {
                            self.held[lane] -= n;
                            self.duplex.wrote(direction, usize::try_from(n).unwrap(), now);
                        }
                        Err(()) => {
                            self.held[lane] = 0;
                            self.duplex.sink_failed(direction, now);
                        }
                    }
                }
                Step::Shutdown => {
                    let (source, sink) = self.peers(direction);
                    assert!(source.fin_sent, "a FIN that nobody sent");
                    assert_eq!(sink.written, source.sent, "a FIN before the last byte");
                    sink.fin_received = true;
                    self.duplex.shut(direction);
                }
            }
        }

        fn step(&mut self) -> Option<Ending> {
            for _ in 0..=self.rng.below(3) {
                self.nature();
            }
            let direction = if self.rng.one_in(2) { Direction::ToEndpoint } else { Direction::ToClient };
            self.drive(direction);
            if let Some(Ending::Drain(side)) = self.duplex.ending() {
                let peer = if side == Side::Client { &self.client } else { &self.endpoint };
                let queue = peer.written - peer.acknowledged;
                self.duplex.queued(queue, self.now);
            }
            if self.rng.one_in(4) {
                let before = self.duplex.deadline();
                self.duplex.on_time(self.now);
                if self.duplex.wants_look() {
                    for direction in Direction::BOTH {
                        let gone = self.peers(direction).0.end == End::Reset;
                        if gone && matches!(self.duplex.next(direction), Step::Write(_)) {
                            let now = self.now;
                            self.duplex.sink_failed(direction.reverse(), now);
                            self.held[usize::from(direction == Direction::ToEndpoint)] = 0;
                        }
                    }
                    self.duplex.looked(self.now);
                }
                assert!(self.duplex.ending() != Some(Ending::Abort) || before.is_some_and(|at| at <= self.now));
            }
            self.duplex.check_invariants();
            for direction in Direction::BOTH {
                let lane = usize::from(direction == Direction::ToClient);
                let held = self.held[lane];
                let (source, sink) = self.peers(direction);
                let lost = sink.end == End::Reset;
                assert!(lost || sink.written + held == source.taken, "bytes lost or doubled {direction:?}");
            }
            self.note();
            self.duplex.ending()
        }

        /// FNV-1a over what can be seen: two runs of one seed must agree.
        fn note(&mut self) {
            for n in [self.client.written, self.endpoint.written, self.client.taken, self.now.as_micros() as u64] {
                self.trace = (self.trace ^ n).wrapping_mul(0x0100_0000_01b3);
            }
        }

        /// What an end means, seen from the peers.
        fn judge(&self, ending: Ending) {
            let all = |from: &Peer, to: &Peer| to.written == from.sent;
            match ending {
                Ending::Close if self.client.end == End::Reset && self.endpoint.end == End::Reset => {}
                Ending::Close => {
                    assert!(all(&self.client, &self.endpoint) && all(&self.endpoint, &self.client));
                    // One FIN was passed on; closing passes the other on.
                    assert!(self.client.fin_received || self.endpoint.fin_received);
                    assert!(self.client.fin_sent && self.endpoint.fin_sent);
                }
                Ending::Reset(side) => {
                    let (to, from) = match side {
                        Side::Client => (&self.client, &self.endpoint),
                        Side::Endpoint => (&self.endpoint, &self.client),
                    };
                    assert_eq!(from.end, End::Reset, "a reset that nobody sent");
                    assert!(
                        to.end == End::Reset || (all(from, to) && to.acknowledged == to.written),
                        "reset too early"
                    );
                }
                Ending::Drain(_) | Ending::Abort => {}
            }
        }
    }

    /// Three thousand steps; a session that ends is followed by another. Gives the trace's hash and how each session ended.
    fn run(seed: u64) -> (u64, Vec<(Ending, bool)>) {
        let mut world = World::new(seed);
        let mut ends = Vec::new();
        let mut trace = 0;
        for _ in 0..STEPS {
            match world.step() {
                None | Some(Ending::Drain(_)) => {}
                Some(ending) => {
                    world.judge(ending);
                    ends.push((ending, world.spliced));
                    trace ^= world.trace;
                    world = World::new(world.rng.next());
                }
            }
        }
        (trace ^ world.trace, ends)
    }

    /// Replay one with `FLOODWAY_SEED=n cargo test -p floodway-flow schedules`.
    #[test]
    fn a_thousand_schedules_keep_every_promise() {
        if let Some(seed) = option_env!("FLOODWAY_SEED") {
            let seed = seed.parse().expect("FLOODWAY_SEED is a number");
            println!("seed {seed}: {:?}", run(seed));
            return;
        }
        let mut seen = std::collections::BTreeMap::new();
        for seed in 0..SEEDS {
            let (trace, ends) = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|panic| {
                println!("replay with FLOODWAY_SEED={seed}");
                std::panic::resume_unwind(panic)
            });
            if seed % 50 == 0 {
                assert_eq!(run(seed).0, trace, "seed {seed} is not deterministic");
            }
            for (ending, spliced) in ends {
                *seen.entry(format!("{ending:?} spliced: {spliced}")).or_insert(0u32) += 1;
            }
        }
        println!("{seen:#?}");
        for ending in ["Close", "Reset(Client)", "Reset(Endpoint)", "Abort"] {
            assert!(
                seen.iter().any(|(k, &n)| k.starts_with(ending) && n >= 300),
                "no schedule ends in {ending}: {seen:?}"
            );
        }
    }
}
