//! What a session costs that does nothing.

use std::time::Duration;

use super::round_trips::connected;
use super::{Front, Seen, together};
use crate::measure::pss;
use crate::proxies::Proxy;

/// Holds `sessions` sessions that have each passed a byte both ways, and weighs the proxy against what it was when fresh: what
/// it keeps from earlier rounds for later sessions counts as theirs.
pub(super) async fn run(proxy: &Proxy, front: &impl Front, sessions: usize) -> Seen {
    let held = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let mut seen = together(64, |client| {
        let (held, front) = (std::rc::Rc::clone(&held), front.clone());
        async move {
            let mut seen = Seen::default();
            for _ in 0..sessions / 64 {
                match connected(&front, client).await {
                    Ok(stream) => held.borrow_mut().push(stream),
                    Err(_) => seen.failures += 1,
                }
            }
            seen
        }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let opened = held.borrow().len() as f64;
    seen.session_bytes = Some((pss(proxy.pid()) - proxy.fresh) / opened.max(1.0));
    seen.operations = opened;
    seen
}
