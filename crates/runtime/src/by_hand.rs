//! What the operator changed at run time: it goes before the configuration, until it is reset.

use std::collections::BTreeMap;
use std::time::SystemTime;

use floodway_balance::Admin;

/// What was changed of an endpoint. At least one of `state` and `weight` is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByHand {
    /// Instead of the configured state.
    pub state: Option<Admin>,
    /// Instead of the configured weight.
    pub weight: Option<u32>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// When it was last changed.
    pub since: SystemTime,
    /// When the state is over by itself; `None` is never.
    pub until: Option<SystemTime>,
    /// Who did it: the user's number on the admin socket, if it came over one.
    pub uid: Option<u32>,
}

/// Everything that was changed, by pool and by the address of the endpoint.
pub type AllByHand = BTreeMap<(String, String), ByHand>;
