//! Lists of members, as they are written: JSON or YAML, of our own or as Prometheus has them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use floodway_judge::Member;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Options};

/// Most members of one source.
pub(crate) const MOST: usize = 100_000;
/// Longest list, in bytes.
pub(crate) const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Deepest nesting of YAML; a list needs five.
const MAX_DEPTH: usize = 64;
/// Most nodes of YAML: forty a member, which leaves room for labels.
const MAX_NODES: usize = 40 * MOST;
/// Highest weight and highest tier.
const HIGHEST: u32 = 1000;

/// Reads a list: of addresses and maps; a map with such a list as `endpoints`; or groups of `targets` with `labels`, as
/// Prometheus' file_sd and http_sd have them. May be empty.
///
/// # Errors
/// In words: where, and what is wrong there.
pub(crate) fn members(bytes: &[u8]) -> Result<Vec<Member>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|e| format!("byte {} is no text in UTF-8", e.valid_up_to() + 1))?;
    let json = match text.trim_start().chars().next() {
        None => return Ok(Vec::new()),
        Some('[' | '{') => match json(text) {
            Ok(members) => return Ok(members),
            Err(fault) => Some(fault),
        },
        Some(_) => None,
    };
    // What JSON cannot make out may be YAML's flow style.
    yaml(text).map_err(|yaml| match json {
        Some(json) => json.or(yaml).to_string(),
        None => yaml.to_string(),
    })
}

/// Why a text is no list.
enum Fault {
    /// It can be read, but what it says is wrong.
    Said(String),
    /// It cannot be read.
    Syntax { line: u64, column: u64, what: String, is_cut: bool },
}

impl Fault {
    /// The better one of what JSON and YAML say of one text.
    fn or(self, yaml: Self) -> Self {
        match (&self, &yaml) {
            // It is YAML, after all.
            (_, Self::Said(_)) => yaml,
            (Self::Said(_) | Self::Syntax { is_cut: true, .. }, _) => self,
            (Self::Syntax { line, column, .. }, Self::Syntax { line: later, column: further, .. }) => {
                if (line, column) < (later, further) { yaml } else { self }
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Said(why) => f.write_str(why),
            Self::Syntax { line, column, what, .. } => write!(f, "line {line}, column {column}: {what}"),
        }
    }
}

fn json(text: &str) -> Result<Vec<Member>, Fault> {
    let mut list = List::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Root(&mut list).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    list.read(read.map_err(|e| Fault::Syntax {
        line: e.line() as u64,
        column: e.column() as u64,
        what: without_place(&e.to_string()),
        is_cut: e.is_eof(),
    }))
}

fn yaml(text: &str) -> Result<Vec<Member>, Fault> {
    let mut list = List::default();
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        Root(&mut list).deserialize(deserializer)
    });
    list.read(read.map_err(|e| {
        let place = e.location();
        Fault::Syntax {
            line: place.map_or(1, |p| p.line()).max(1),
            column: place.map_or(1, |p| p.column()).max(1),
            what: without_place(&e.without_snippet().to_string()),
            is_cut: false,
        }
    }))
}

/// What a parser says, without where: that is said already.
fn without_place(message: &str) -> String {
    let line = message.lines().next().unwrap_or("it cannot be read").trim_end_matches('.');
    line.rsplit_once(" at line ").map_or(line, |(before, _)| before).to_owned()
}

fn options() -> Options {
    let mut options = Options::default();
    // A key that stands twice is found here, with its entry.
    options.duplicate_keys = DuplicateKeyPolicy::PassThrough;
    options.strict_booleans = true;
    options.leading_zero_numbers_as_strings = true;
    options.underscored_numbers_as_strings = true;
    options.with_snippet = false;
    if let Some(budget) = &mut options.budget {
        budget.max_nodes = MAX_NODES;
        budget.max_events = 4 * MAX_NODES;
        budget.max_total_scalar_bytes = MOST_BYTES;
        budget.max_depth = MAX_DEPTH;
        budget.max_documents = 1;
    }
    options
}

/// What has been read so far. It is filled while a parser runs, so that no tree of the whole is ever built.
#[derive(Default)]
struct List {
    members: Vec<Member>,
    /// Entries that have begun.
    entry: usize,
    /// What is wrong with what was said; the parser stops there.
    fault: Option<String>,
}

impl List {
    fn read(self, read: Result<(), Fault>) -> Result<Vec<Member>, Fault> {
        match (read, self.fault) {
            (Ok(()), None) => Ok(self.members),
            (_, Some(why)) => Err(Fault::Said(why)),
            (Err(fault), None) => Err(fault),
        }
    }

    /// Stops the parser.
    fn refuse<E: Error>(&mut self, why: String) -> E {
        self.fault = Some(why);
        E::custom("refused")
    }

    /// Stops the parser for the entry that it is at.
    fn refuse_entry<E: Error>(&mut self, why: &str) -> E {
        self.refuse(format!("entry {}: {why}", self.entry))
    }

    fn add<E: Error>(&mut self, member: Member) -> Result<(), E> {
        if self.members.len() == MOST {
            return Err(self.refuse(format!("it has more than {MOST} entries")));
        }
        self.members.push(member);
        Ok(())
    }
}

/// The whole: a list, or a map with one.
struct Root<'a>(&'a mut List);

impl<'de> DeserializeSeed<'de> for Root<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Root<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of endpoints")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        Entries(self.0).visit_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_any = false;
        while let Some(key) = map.next_key::<String>()? {
            if key != "endpoints" {
                return Err(self.0.refuse(format!("{} is no key of a list: it has `endpoints`", shown(&key))));
            }
            if has_any {
                return Err(self.0.refuse("`endpoints` stands twice".into()));
            }
            has_any = true;
            map.next_value_seed(Entries(self.0))?;
        }
        if has_any { Ok(()) } else { Err(self.0.refuse("`endpoints` is missing".into())) }
    }
}

/// Entries, one after another.
struct Entries<'a>(&'a mut List);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of endpoints")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Entry(self.0))?.is_some() {}
        Ok(())
    }
}

/// An address, or a map.
struct Entry<'a>(&'a mut List);

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0.entry += 1;
        deserializer.deserialize_any(self)
    }
}

impl Entry<'_> {
    fn neither<E: Error>(self, what: impl fmt::Display) -> E {
        self.0.refuse_entry(&format!("`{what}` is neither an address nor a map"))
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address or a map")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match address(text) {
            Ok(address) => self.0.add(Member::at(address)),
            Err(why) => Err(self.0.refuse_entry(&why)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(self.0.refuse_entry("it is empty"))
    }

    fn visit_bool<E: Error>(self, it: bool) -> Result<(), E> {
        Err(self.neither(it))
    }

    fn visit_u64<E: Error>(self, it: u64) -> Result<(), E> {
        Err(self.neither(it))
    }

    fn visit_i64<E: Error>(self, it: i64) -> Result<(), E> {
        Err(self.neither(it))
    }

    fn visit_f64<E: Error>(self, it: f64) -> Result<(), E> {
        Err(self.neither(it))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        Err(self.0.refuse_entry("a list in the list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut fields = Fields::default();
        while let Some(key) = map.next_key::<String>()? {
            let Some(field) = fields.of(&key) else {
                return Err(self.0.refuse_entry(&format!("{} is no key of an endpoint", shown(&key))));
            };
            if field.is_some() {
                return Err(self.0.refuse_entry(&format!("`{key}` stands twice")));
            }
            *field = Some(match key.as_str() {
                "targets" => map.next_value_seed(Targets(self.0))?,
                "labels" => map.next_value_seed(Labels)?,
                _ => map.next_value_seed(Any)?,
            });
        }
        match fields.members() {
            Ok(members) => members.into_iter().try_for_each(|member| self.0.add(member)),
            Err(why) => Err(self.0.refuse_entry(&why)),
        }
    }
}

/// The values of an entry's keys, or of a group's.
#[derive(Default)]
struct Fields {
    address: Option<Value>,
    name: Option<Value>,
    weight: Option<Value>,
    tier: Option<Value>,
    max_sessions: Option<Value>,
    zone: Option<Value>,
    targets: Option<Value>,
    labels: Option<Value>,
}

impl Fields {
    fn of(&mut self, key: &str) -> Option<&mut Option<Value>> {
        Some(match key {
            "address" => &mut self.address,
            "name" => &mut self.name,
            "weight" => &mut self.weight,
            "tier" => &mut self.tier,
            "max_sessions" => &mut self.max_sessions,
            "zone" => &mut self.zone,
            "targets" => &mut self.targets,
            "labels" => &mut self.labels,
            _ => return None,
        })
    }

    fn members(self) -> Result<Vec<Member>, String> {
        if let Some(targets) = self.targets {
            let own = [&self.address, &self.name, &self.weight, &self.tier, &self.max_sessions, &self.zone];
            if own.iter().any(|field| field.is_some()) {
                return Err("beside `targets` there is only `labels`".into());
            }
            return group(targets, self.labels);
        }
        if self.labels.is_some() {
            return Err("`targets` is missing".into());
        }
        let at = match self.address {
            Some(Value::Text(text)) => address(&text)?,
            None | Some(Value::Null) => return Err("`address` is missing".into()),
            Some(other) => return Err(format!("{other} is no address: {WRITE}")),
        };
        Ok(vec![Member {
            address: at,
            name: text("name", self.name)?,
            weight: number("weight", self.weight, 0, HIGHEST)?,
            tier: number("tier", self.tier, 0, HIGHEST)?,
            max_sessions: number("max_sessions", self.max_sessions, 1, u32::MAX)?,
            zone: text("zone", self.zone)?,
        }])
    }
}

/// A group of Prometheus'. Its labels are somebody else's words: of ours only those count that can be meant so.
fn group(targets: Value, labels: Option<Value>) -> Result<Vec<Member>, String> {
    let Value::Targets(addresses) = targets else { return Err("`targets` is no list".into()) };
    let (mut weight, mut tier, mut zone) = (None, None, None);
    if let Some(Value::Labels(labels)) = labels {
        for (label, value) in labels {
            let n = value.parse::<u64>().map(Value::Number);
            match (label, n) {
                ("zone", _) => zone = text("zone", Some(Value::Text(value)))?,
                ("weight", n) => weight = number("weight", Some(n.unwrap_or(Value::Text(value))), 0, HIGHEST)?,
                ("tier", Ok(n)) => tier = number("tier", Some(n), 0, HIGHEST)?,
                // `tier: frontend` is common, and none of ours.
                _ => {}
            }
        }
    }
    Ok(addresses.into_iter().map(|at| Member { weight, tier, zone: zone.clone(), ..Member::at(at) }).collect())
}

/// What a key may have.
enum Value {
    Null,
    Number(u64),
    Text(String),
    Targets(Vec<SocketAddr>),
    /// Those of ours.
    Labels(Vec<(&'static str, String)>),
    /// In words.
    Other(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("nothing"),
            Self::Number(n) => write!(f, "`{n}`"),
            Self::Text(text) => f.write_str(&shown(text)),
            Self::Targets(_) => f.write_str("a list"),
            Self::Labels(_) => f.write_str("a map"),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// Takes whatever there is; what it should have been is the key's matter.
struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text or a number")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, it: bool) -> Result<Value, E> {
        Ok(Value::Other(format!("`{it}`")))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(Value::Number(n))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(u64::try_from(n).map_or_else(|_| Value::Other(format!("`{n}`")), Value::Number))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Value, E> {
        Ok(Value::Other(format!("`{n}`")))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other("a list".into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other("a map".into()))
    }
}

/// The addresses of a group.
struct Targets<'a>(&'a mut List);

impl<'de> DeserializeSeed<'de> for Targets<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Targets<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of addresses")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut addresses = Vec::new();
        while let Some(value) = seq.next_element_seed(Any)? {
            let at = match value {
                Value::Text(text) => address(&text),
                other => Err(format!("{other} is no address: {WRITE}")),
            };
            match at {
                Ok(at) if addresses.len() < MOST => addresses.push(at),
                Ok(_) => return Err(self.0.refuse(format!("it has more than {MOST} entries"))),
                Err(why) => {
                    let (entry, target) = (self.0.entry, addresses.len() + 1);
                    return Err(self.0.refuse(format!("entry {entry}, target {target}: {why}")));
                }
            }
        }
        Ok(Value::Targets(addresses))
    }
}

/// The labels of a group.
struct Labels;

impl<'de> DeserializeSeed<'de> for Labels {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Labels {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of labels")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut labels = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let Some(label) = ["weight", "tier", "zone"].into_iter().find(|label| *label == key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            match map.next_value_seed(Any)? {
                Value::Text(text) => labels.push((label, text)),
                Value::Number(n) => labels.push((label, n.to_string())),
                _ => {}
            }
        }
        Ok(Value::Labels(labels))
    }
}

const WRITE: &str = "write an IP address and a port";

fn address(text: &str) -> Result<SocketAddr, String> {
    let Ok(at) = text.parse::<SocketAddr>() else {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Err(format!("`{text}` has no port: write `{}`", SocketAddr::new(ip, 80)));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
        return Err(match host.parse::<Ipv6Addr>() {
            Ok(_) => format!("`{text}` lacks brackets: write `[{host}]:{port}`"),
            Err(_) => format!("{} is no address: {WRITE}", shown(text)),
        });
    };
    // Only an address of the link needs to say which link.
    let at = match at {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => at,
        _ => SocketAddr::new(at.ip().to_canonical(), at.port()),
    };
    if at.port() == 0 || at.ip().is_unspecified() {
        return Err(format!("`{text}` cannot be connected to"));
    }
    Ok(at)
}

fn text(key: &str, value: Option<Value>) -> Result<Option<String>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(n)) => Ok(Some(n.to_string())),
        Some(Value::Text(text)) if text.is_empty() => Err(format!("`{key}` is empty")),
        Some(Value::Text(text)) if text.chars().any(char::is_control) || text.len() > 255 => {
            Err(format!("`{key}` is {}: at most 255 bytes, no control characters", shown(&text)))
        }
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(format!("`{key}` is {other}: write it in quotes")),
    }
}

fn number(key: &str, value: Option<Value>, least: u32, most: u32) -> Result<Option<u32>, String> {
    let n = match &value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(n)) => u32::try_from(*n).ok().filter(|n| (least..=most).contains(n)),
        Some(_) => None,
    };
    let value = value.unwrap_or(Value::Null);
    n.map(Some).ok_or_else(|| format!("`{key}` is {value}: it must be a whole number from {least} to {most}"))
}

/// Text from elsewhere for a message: one line, not too long.
pub(crate) fn shown(text: &str) -> String {
    let mut start: String = text.chars().take(80).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("`{}`", start.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Member>, String> {
        members(text.as_bytes())
    }

    fn why(text: &str) -> String {
        read(text).unwrap_err()
    }

    fn at(address: &str) -> Member {
        Member::at(address.parse().unwrap())
    }

    #[test]
    fn lists_of_our_own() {
        let full = Member {
            name: Some("db1".into()),
            weight: Some(0),
            tier: Some(1000),
            max_sessions: Some(7),
            zone: Some("a".into()),
            ..at("[2001:db8::1]:5432")
        };
        let wanted = vec![at("10.0.0.1:80"), at("[::1]:80"), full];
        for text in [
            "- 10.0.0.1:80\n- '[::1]:80'\n\
             - {address: '[2001:db8::1]:5432', name: db1, weight: 0, tier: 1000, max_sessions: 7, zone: a}\n",
            "# ours\nendpoints:\n  - 10.0.0.1:80\n  - address: \"[::1]:80\"\n    name: ~\n\x20 \
             - address: \"[2001:db8::1]:5432\"\n    \
             name: db1\n    weight: 0\n    tier: 1000\n    max_sessions: 7\n    zone: a\n",
            r#"["10.0.0.1:80", {"address": "[::1]:80", "weight": null},
                {"address":"[2001:db8::1]:5432","name":"db1","weight":0,"tier":1000,"max_sessions":7,"zone":"a"}]"#,
            "\u{feff} {\"endpoints\": [\"10.0.0.1:80\", \"[::1]:80\",
                {\"address\":\"[2001:db8::1]:5432\",\"name\":\"db1\",\"weight\":0,
                 \"tier\":1000,\"max_sessions\":7,\"zone\":\"a\"}]}",
            "[10.0.0.1:80, '[::1]:80',
              {address: '[2001:db8::1]:5432', name: db1, weight: 0, tier: 1000, max_sessions: 7, zone: a}]",
        ] {
            assert_eq!(read(text).as_ref(), Ok(&wanted), "{text}");
        }
    }

    #[test]
    fn an_empty_list_is_one() {
        for text in
            ["", " \n", "[]", "# nobody\n", "---\n", "endpoints:\n", "{\"endpoints\": []}", "[{\"targets\": []}]"]
        {
            assert_eq!(read(text), Ok(vec![]), "{text:?}");
        }
    }

    #[test]
    fn groups_of_prometheus() {
        let text = r#"[
            {"targets": ["10.0.0.1:80", "[::1]:80"], "labels": {"__meta_dc": "x", "tier": "frontend", "zone": "a"}},
            {"labels": {"weight": "20", "tier": "2"}, "targets": ["10.0.0.2:80"]},
            {"targets": ["10.0.0.3:80"], "labels": null}]"#;
        let zone = Some("a".to_owned());
        let wanted = vec![
            Member { zone: zone.clone(), ..at("10.0.0.1:80") },
            Member { zone, ..at("[::1]:80") },
            Member { weight: Some(20), tier: Some(2), ..at("10.0.0.2:80") },
            at("10.0.0.3:80"),
        ];
        assert_eq!(read(text), Ok(wanted));
        let text = "- targets:\n  - 10.0.0.1:80\n  labels:\n    job: x\n    weight: 5\n";
        assert_eq!(read(text), Ok(vec![Member { weight: Some(5), ..at("10.0.0.1:80") }]));
        let text = r#"[{"targets": ["10.0.0.1:80", "host:80"]}]"#;
        assert_eq!(why(text), "entry 1, target 2: `host:80` is no address: write an IP address and a port");
        let text = r#"[{"targets": ["10.0.0.1:80"], "labels": {"weight": "1001"}}]"#;
        assert_eq!(why(text), "entry 1: `weight` is `1001`: it must be a whole number from 0 to 1000");
        assert_eq!(
            why(r#"[{"targets": ["10.0.0.1:80"], "name": "x"}]"#),
            "entry 1: beside `targets` there is only `labels`"
        );
        assert_eq!(why(r#"[{"labels": {}}]"#), "entry 1: `targets` is missing");
    }

    #[test]
    fn what_is_wrong_is_said_of_which_entry() {
        let head = "[\"10.0.0.1:80\", ";
        let entry = |rest: &str| {
            let said = why(&format!("{head}{rest}]"));
            said.strip_prefix("entry 2: ").unwrap_or_else(|| panic!("{said}")).to_owned()
        };
        assert_eq!(entry(r#""db1:5432""#), "`db1:5432` is no address: write an IP address and a port");
        assert_eq!(entry(r#""10.0.0.1:0""#), "`10.0.0.1:0` cannot be connected to");
        assert_eq!(entry(r#""0.0.0.0:80""#), "`0.0.0.0:80` cannot be connected to");
        assert_eq!(entry(r#""10.0.0.1""#), "`10.0.0.1` has no port: write `10.0.0.1:80`");
        assert_eq!(entry(r#""2001:db8::1:80""#), "`2001:db8::1:80` has no port: write `[2001:db8::1:80]:80`");
        assert_eq!(
            entry(r#""1:2:3:4:5:6:7:8:80""#),
            "`1:2:3:4:5:6:7:8:80` lacks brackets: write `[1:2:3:4:5:6:7:8]:80`"
        );
        assert_eq!(entry("{}"), "`address` is missing");
        assert_eq!(entry("null"), "it is empty");
        assert_eq!(entry("17"), "`17` is neither an address nor a map");
        assert_eq!(entry("[]"), "a list in the list");
        assert_eq!(entry(r#"{"adress": "10.0.0.1:80"}"#), "`adress` is no key of an endpoint");
        let of = |rest: &str| entry(&format!("{{\"address\": \"10.0.0.2:80\", {rest}}}"));
        assert_eq!(of(r#""weight": 1001"#), "`weight` is `1001`: it must be a whole number from 0 to 1000");
        assert_eq!(of(r#""weight": -1"#), "`weight` is `-1`: it must be a whole number from 0 to 1000");
        assert_eq!(of(r#""tier": 1.5"#), "`tier` is `1.5`: it must be a whole number from 0 to 1000");
        assert_eq!(of(r#""max_sessions": 0"#), "`max_sessions` is `0`: it must be a whole number from 1 to 4294967295");
        assert_eq!(of(r#""weight": "5""#), "`weight` is `5`: it must be a whole number from 0 to 1000");
        assert_eq!(of(r#""zone": """#), "`zone` is empty");
        assert_eq!(of(r#""name": ["a"]"#), "`name` is a list: write it in quotes");
        assert_eq!(of(r#""name": "a\nb""#), "`name` is `a\\nb`: at most 255 bytes, no control characters");
        assert_eq!(
            why("- 10.0.0.1:80\n- db1:5432\n"),
            "entry 2: `db1:5432` is no address: write an IP address and a port"
        );
        assert_eq!(why("[10.0.0.1:80, db1:1]"), "entry 2: `db1:1` is no address: write an IP address and a port");
        assert_eq!(why("members: []"), "`members` is no key of a list: it has `endpoints`");
        assert_eq!(why("{}"), "`endpoints` is missing");
    }

    #[test]
    fn what_cannot_be_read_is_said_with_its_place() {
        assert_eq!(why("[\"10.0.0.1:80\",\n  \"10.0.0.2:80"), "line 2, column 14: EOF while parsing a string");
        assert_eq!(why("[\"10.0.0.1:80\"]\n]"), "line 2, column 1: trailing characters");
        let text = why("- 10.0.0.1:80\n- {address: 10.0.0.1:80\n");
        assert!(text.starts_with("line "), "{text}");
        let text = why("just words");
        assert!(text.starts_with("line 1, column 1: ") && text.contains("a list of endpoints"), "{text}");
        let twice = "- address: 10.0.0.1:80\n  weight: 1\n  weight: 2\n";
        assert_eq!(why(twice), "entry 1: `weight` stands twice");
        assert_eq!(why(r#"[{"address": "10.0.0.1:80", "address": "10.0.0.1:80"}]"#), "entry 1: `address` stands twice");
        assert_eq!(members(b"- \xff").unwrap_err(), "byte 3 is no text in UTF-8");
        let deep = "[".repeat(1 << 20);
        assert_eq!(why(&deep[..200]), "entry 1: a list in the list");
        assert_eq!(why(&deep), "entry 1: a list in the list");
        for deep in
            [format!("[{{\"name\":{deep}"), format!("- name: {deep}"), "{".repeat(1 << 20), "- ".repeat(1 << 18)]
        {
            why(&deep);
        }
    }

    #[test]
    fn an_ipv4_address_is_one_however_it_is_written() {
        assert_eq!(read("['[::ffff:10.0.0.1]:80']"), Ok(vec![at("10.0.0.1:80")]));
        assert_eq!(read("['[fe80::1%3]:80']"), Ok(vec![at("[fe80::1%3]:80")]));
    }

    #[test]
    fn a_list_has_an_end() {
        let line = |n: usize| format!("\"10.{}.{}.{}:80\"", n >> 16, (n >> 8) & 255, n & 255);
        let text = |n| (0..n).map(line).collect::<Vec<_>>().join(",");
        assert_eq!(read(&format!("[{}]", text(MOST))).unwrap().len(), MOST);
        assert_eq!(why(&format!("[{}]", text(MOST + 1))), "it has more than 100000 entries");
        assert_eq!(why(&format!("[{{\"targets\":[{}]}}]", text(MOST + 1))), "it has more than 100000 entries");
    }

    #[test]
    fn an_alias_is_no_bomb() {
        let mut text = String::from("- &a {address: 10.0.0.1:80, name: x}\n- *a\n");
        assert_eq!(read(&text).unwrap().len(), 2);
        text = String::from("- targets: &a0 [10.0.0.1:80, 10.0.0.2:80]\n");
        for i in 1..30 {
            text += &format!("- targets: &a{i} [*a{}, *a{}]\n", i - 1, i - 1);
        }
        why(&text);
    }
}
