//! The keys of TLS: certificates, towards clients, towards endpoints.

use super::Kind::{self, List};
use super::Leaf::{self, Alpn, Name, Path, Switch, Word};
use super::{Key, Section, section};

pub(crate) static CERTIFICATE: Section = section(
    "certificate",
    &[
        Key::new("cert", Kind::Leaf(Path), "A PEM file: the certificate, and then those that vouch for it.").required(),
        Key::new("key", Kind::Leaf(Path), "A PEM file: its private key, without a passphrase.").required(),
        Key::new("ocsp", Kind::Leaf(Path), "A file with an OCSP response, in DER, that is stapled."),
    ],
);

pub(super) static LISTENER_TLS: Section = section(
    "`tls`",
    &[
        Key::new(
            "certificates",
            List(&Kind::Leaf(Name)),
            "Names of `certificates`, or `all`; the one that is for the name which the client asks for is shown.",
        )
        .required(),
        Key::new(
            "default",
            Kind::Leaf(Name),
            "Which of them is shown where none is for that name, or none is asked for; the first if not given.",
        ),
        Key::new(
            "profile",
            Kind::Leaf(Word(&["modern", "intermediate"], &[])),
            "Versions and ciphers, as Mozilla's guideline has them: `modern` is TLS 1.3, `intermediate` 1.2 as well.",
        )
        .or("intermediate"),
        Key::new(
            "alpn",
            List(&Kind::Leaf(Alpn)),
            "Application protocols that are agreed to, the preferred first: `[h2, http/1.1]`.",
        ),
        Key::new("client_auth", Kind::Section(&CLIENT_AUTH), "Clients show certificates."),
    ],
);

static CLIENT_AUTH: Section = section(
    "`client_auth`",
    &[
        Key::new("ca", Kind::Leaf(Path), "A PEM file of the authorities whose certificates clients may show.")
            .required(),
        Key::new("crl", Kind::Leaf(Path), "A PEM file of lists of revoked certificates."),
        Key::new("required", Kind::Leaf(Switch), "Whether clients without a certificate are refused.").or("on"),
    ],
);

pub(super) static POOL_TLS: Section = section(
    "`tls`",
    &[
        Key::new(
            "server_name",
            Kind::Leaf(Leaf::ServerName),
            "The name that certificates must be for, which is also asked for; the endpoint's address if none is given.",
        ),
        Key::new(
            "ca",
            Kind::Leaf(Path),
            "A PEM file of the authorities that are trusted; the system's if none is given.",
        ),
        Key::new("certificate", Kind::Leaf(Name), "One of `certificates`, shown to endpoints that ask for one."),
        Key::new("verify", Kind::Leaf(Switch), "Whether endpoints are verified.").or("on"),
        Key::new(
            "alpn",
            List(&Kind::Leaf(Alpn)),
            "Application protocols that are offered; what the listener agreed on with the client if not given.",
        ),
        Key::new(
            "starttls",
            Kind::Leaf(Word(&["auto", "postgres", "off"], &[])),
            "What goes before TLS: `postgres` asks as PostgreSQL's clients do, `auto` does where the client did.",
        )
        .or("auto"),
    ],
);
