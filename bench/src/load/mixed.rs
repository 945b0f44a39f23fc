//! Mice beside elephants: round trips and short connections while two streams run at a given pace.

use std::time::Instant;

use super::{Front, Seen, bulk, connects, round_trips};

/// Bytes a second of each elephant: the same for every proxy, so that a faster one is not disturbed more.
const ELEPHANT: f64 = 200e6;

/// Counts the round trips; the connections and the bulk are there to disturb.
pub(super) async fn run(front: &impl Front, until: Instant) -> Seen {
    let (mut trips, connects, bulk) = tokio::join!(
        round_trips::run(front, 32, until),
        connects::closed_loop(front, 8, false, until),
        bulk::down(front, 2, Some(ELEPHANT), until),
    );
    trips.failures += connects.failures + bulk.failures;
    trips
}
