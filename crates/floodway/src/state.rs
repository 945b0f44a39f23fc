//! What was changed and banned by hand, kept in a file over restarts (`admin.state_file`).

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use floodway_balance::Admin;
use floodway_config::parse_prefix;
use floodway_runtime::{AllByHand, Banned, ByHand};
use serde_json::{Value, json};

/// What the file keeps.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) by_hand: AllByHand,
    pub(crate) banned: Vec<Banned>,
}

/// Reads the file; one that is not there says that nothing was changed.
///
/// # Errors
/// If it is there and cannot be read, or is not what [`write()`] writes.
pub(crate) fn read(path: &Path) -> anyhow::Result<State> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
        text => text.with_context(|| format!("cannot read `admin.state_file` {}", path.display()))?,
    };
    let wrong = || format!("`admin.state_file` {} is not what floodway writes: mend it, or remove it", path.display());
    let all: Value = serde_json::from_str(&text).with_context(wrong)?;
    let Some(entries) = all["endpoints"].as_array() else { bail!(wrong()) };
    let by_hand = entries.iter().map(|entry| entry_from(entry).with_context(wrong)).collect::<anyhow::Result<_>>()?;
    // Files of before there were bans have none.
    let bans = all["bans"].as_array().into_iter().flatten();
    let banned = bans.map(|ban| ban_from(ban).with_context(wrong)).collect::<anyhow::Result<_>>()?;
    Ok(State { by_hand, banned })
}

/// Writes the file beside, and puts it in place whole.
///
/// # Errors
/// As the system says.
pub(crate) fn write(path: &Path, by_hand: &AllByHand, banned: &[Banned]) -> io::Result<()> {
    let endpoints: Vec<Value> = by_hand.iter().map(|((pool, address), hand)| entry(pool, address, hand)).collect();
    let bans: Vec<Value> = banned.iter().map(ban).collect();
    let text = format!("{:#}\n", json!({ "endpoints": endpoints, "bans": bans }));
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::File::open(&beside)?.sync_all()?;
    std::fs::rename(&beside, path)
}

fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn ban(banned: &Banned) -> Value {
    json!({
        "listener": banned.listener,
        "range": banned.range.to_string(),
        "until": banned.until.map(seconds),
        "reason": banned.reason,
    })
}

fn ban_from(ban: &Value) -> anyhow::Result<Banned> {
    let text = |key: &str| ban[key].as_str();
    Ok(Banned {
        listener: text("listener").context("a ban without a listener")?.to_owned(),
        range: text("range").and_then(parse_prefix).context("a ban without a range")?,
        until: ban["until"].as_u64().and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s))),
        reason: text("reason").unwrap_or_default().to_owned(),
    })
}

fn entry(pool: &str, address: &str, hand: &ByHand) -> Value {
    json!({
        "pool": pool,
        "address": address,
        "state": hand.state.map(Admin::as_str),
        "weight": hand.weight,
        "reason": hand.reason,
        "since": seconds(hand.since),
        "until": hand.until.map(seconds),
        "uid": hand.uid,
    })
}

fn entry_from(entry: &Value) -> anyhow::Result<((String, String), ByHand)> {
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let moment = |key: &str| entry[key].as_u64().and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s)));
    let small = |key: &str| entry[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let state = match entry["state"].as_str() {
        None => None,
        Some(word) => Some(admin(word).with_context(|| format!("`{word}` is no state"))?),
    };
    let hand = ByHand {
        state,
        weight: small("weight"),
        reason: text("reason"),
        since: moment("since").unwrap_or(UNIX_EPOCH),
        until: moment("until"),
        uid: small("uid"),
    };
    let place = text("pool").zip(text("address")).context("an entry without a pool or an address")?;
    Ok((place, hand))
}

/// The state of that name.
pub(crate) fn admin(word: &str) -> Option<Admin> {
    [Admin::Enabled, Admin::Drain, Admin::Disabled].into_iter().find(|a| a.as_str() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = std::env::temp_dir().join(format!("floodway-state-{}", std::process::id()));
        let hand = ByHand {
            state: Some(Admin::Drain),
            weight: Some(7),
            reason: Some("a new disk".into()),
            since: UNIX_EPOCH + Duration::from_secs(5),
            until: None,
            uid: Some(0),
        };
        let all = AllByHand::from([(("pg".into(), "10.0.0.1:5432".into()), hand)]);
        let banned = vec![Banned {
            listener: "l".into(),
            range: "192.0.2.0/24".parse().unwrap(),
            until: Some(UNIX_EPOCH + Duration::from_secs(9)),
            reason: "noise".into(),
        }];
        write(&folder, &all, &banned).unwrap();
        assert_eq!(read(&folder).unwrap(), State { by_hand: all, banned });
        std::fs::write(&folder, r#"{ "endpoints": [] }"#).unwrap();
        assert_eq!(read(&folder).unwrap(), State::default(), "of before there were bans");
        std::fs::write(&folder, "{").unwrap();
        assert!(read(&folder).is_err());
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(read(&folder).unwrap(), State::default());
    }
}
