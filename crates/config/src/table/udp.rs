//! Keys of listeners that take datagrams.

use super::Kind::{Choice, Section as Map};
use super::Leaf::{Integer, Or, Range, Size, Switch, Word};
use super::{AUTO, Key, Kind, NOTHING, Section, section};

pub(super) static UDP: Section = section(
    "`udp`",
    &[
        Key::new(
            "key",
            Choice(KEY),
            "What makes one flow. Pools that pin clients go by it too, if they name no `key`.",
        )
        .or("source"),
        Key::new(
            "requests",
            Kind::Leaf(Integer(1, 1_000_000_000)),
            "Datagrams of a client after which the next one begins a new flow, at an endpoint chosen anew.",
        ),
        Key::new(
            "responses",
            Kind::Leaf(Integer(0, 1_000_000_000)),
            "Answers to each datagram of a client after which the flow ends: 1 for DNS. 0 expects none, so that silence is no fault.",
        ),
        Key::new(
            "guard",
            Kind::Leaf(Word(&["amplification"], &[])),
            "`amplification`: a client that has sent nothing since it was answered is sent at most three times what it sent (RFC 9000, 8.1).",
        ),
        Key::new(
            "receive_buffer",
            Kind::Leaf(Or(AUTO, &Size)),
            "The kernel's buffer of each socket for what clients send; `auto` asks for 4 MiB.",
        )
        .or("auto"),
        Key::new("send_buffer", Kind::Leaf(Or(AUTO, &Size)), "The same for what they are sent.").or("auto"),
    ],
);

static KEY: &[Key] = &[
    Key::new("source", Map(&NOTHING), "The client's address and port."),
    Key::new("source_ip", Map(&NOTHING), "The client's address: its datagrams may come from another port at any time."),
    Key::new("token", Map(&TOKEN), "Bytes of each datagram: the client may come from another address at any time."),
];

static TOKEN: Section = section(
    "`token`",
    &[
        Key::new("bytes", Kind::Leaf(Range), "Which bytes, from 0: `0-7` are the first eight. At most 32.").required(),
        Key::new(
            "from",
            Kind::Leaf(Word(&["start", "end"], &[])),
            "From where they are counted: `0-7` from the `end` are the last eight.",
        )
        .or("start"),
        Key::new("strip", Kind::Leaf(Switch), "Whether endpoints get datagrams without those bytes.").or("off"),
        Key::new(
            "unmatched",
            Kind::Leaf(Word(&["drop", "source"], &[])),
            "What becomes of a datagram that is too short for a token: `drop`, or a flow of its `source`.",
        )
        .or("drop"),
    ],
);
