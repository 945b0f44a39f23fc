use std::process::Command;
use std::time::SystemTime;

use rcgen::{DnType, SanType, date_time_ymd};

use super::*;
use crate::testing::{Authority, Folder, Leaf, NOW, Signed};

fn load(files: &PairFiles) -> Result<Pair, PairFault> {
    Pair::load(files, NOW)
}

/// The fault that comes of these contents, as text without the folder.
fn fault(certificate: &str, key: &str) -> (PairFault, String) {
    let folder = Folder::new();
    let files = PairFiles {
        certificate: folder.write("cert.pem", certificate),
        key: folder.write("cert.key", key),
        staple: None,
    };
    let fault = load(&files).unwrap_err();
    let text = fault.to_string().replace(&format!("{}/", folder.path().display()), "");
    (fault, text)
}

fn leaf() -> Signed {
    Leaf::of("a.test").self_signed()
}

#[test]
fn every_kind_of_key_loads() {
    let folder = Folder::new();
    for (leaf, schemes) in [(Leaf::of("a.test"), 1), (Leaf::of("a.test").rsa(), 6), (Leaf::of("a.test").ed25519(), 1)] {
        let pair = load(&folder.pair("x", &leaf.self_signed())).unwrap();
        assert_eq!(pair.schemes().len(), schemes);
        assert_eq!(pair.names(), ["a.test".into()]);
        assert_eq!(pair.fingerprint().len(), 64);
        assert!(pair.not_after() > NOW);
    }
}

#[test]
fn keys_of_openssl_load() {
    let folder = Folder::new();
    for (kind, arguments) in [
        ("sec1", ["ecparam", "-genkey", "-name", "secp384r1"].as_slice()),
        ("pkcs1", &["genrsa", "-traditional", "2048"]),
        ("p521", &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]),
    ] {
        let (key, certificate) = (folder.path().join(kind), folder.path().join(format!("{kind}.pem")));
        let (command, options) = arguments.split_at(1);
        openssl(&[command, &["-out", key.to_str().unwrap()], options].concat());
        let to = ["-key", key.to_str().unwrap(), "-out", certificate.to_str().unwrap()];
        openssl(&[&["req", "-x509", "-subj", "/CN=cn.test", "-days", "9000"], to.as_slice()].concat());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let pair = Pair::load(&PairFiles { certificate, key, staple: None }, now).unwrap();
        assert_eq!(pair.names(), ["cn.test".into()], "{kind}");
    }
}

fn openssl(arguments: &[&str]) {
    let ran = Command::new("openssl").args(arguments).output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn both_may_be_in_one_file() {
    let (folder, signed) = (Folder::new(), leaf());
    for text in [format!("{}{}", signed.key_pem(), signed.pem()), format!("{}\n{}", signed.pem(), signed.key_pem())] {
        let path = folder.write("both.pem", text);
        load(&PairFiles { certificate: path.clone(), key: path, staple: None }).unwrap();
    }
}

#[test]
fn names_are_lower_case_and_whole() {
    let folder = Folder::new();
    let names = |leaf: Leaf| load(&folder.pair("x", &leaf.self_signed())).unwrap().names().join(" ");
    assert_eq!(names(Leaf::for_names(&["B.test", "a.test", "*.A.test", "a.test"])), "*.a.test a.test b.test");
    assert_eq!(
        names(Leaf::for_names(&["f*.test", "*", "a.*.test", "a b", "a\0.test", "10.0.0.1", "ok.test"])),
        "ok.test"
    );
    assert_eq!(names(Leaf::for_names(&[]).common_name("Cn.Test")), "cn.test");
    assert_eq!(names(Leaf::for_names(&[]).common_name("Jane Doe")), "");
    assert_eq!(names(Leaf::for_names(&["san.test"]).common_name("cn.test")), "san.test");
    let mut by_address = Leaf::for_names(&[]).common_name("cn.test");
    by_address.params.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())];
    assert_eq!(names(by_address), "");
}

#[test]
fn files_that_cannot_be_read() {
    let (folder, signed) = (Folder::new(), leaf());
    let files = folder.pair("x", &signed);
    let with =
        |certificate: &Path| load(&PairFiles { certificate: certificate.to_owned(), ..files.clone() }).unwrap_err();
    let absent = folder.path().join("absent.pem");
    let fault = with(&absent).to_string();
    assert!(fault.contains("absent.pem") && fault.contains("No such file"), "{fault}");
    assert!(matches!(with(folder.path()), PairFault::File(FileFault::NotAFile(_))));
    assert!(matches!(with(Path::new("/dev/zero")), PairFault::File(FileFault::NotAFile(_))));
    assert!(matches!(with(&folder.write("empty", "")), PairFault::File(FileFault::Empty(_))));
    let large = vec![b'\n'; usize::try_from(FILE_LIMIT).unwrap()];
    assert!(matches!(with(&folder.write("full", &large)), PairFault::NoCertificate { .. }));
    let larger = [large.as_slice(), b"\n"].concat();
    assert!(matches!(with(&folder.write("large", larger)), PairFault::File(FileFault::TooLarge { .. })));
    let der = folder.write("der", [0x30, 0x82, 0x01, 0x00]);
    assert!(with(&der).to_string().contains("openssl x509 -inform DER"));
}

#[test]
fn certificates_that_are_none() {
    let signed = leaf();
    let (fault_, text) = fault(&signed.key_pem(), &signed.key_pem());
    assert!(matches!(fault_, PairFault::NoCertificate { .. }));
    assert!(text.starts_with("`cert.pem` holds no certificate, but PRIVATE KEY"), "{text}");

    let pem = signed.pem();
    let cut = &pem[..pem.len() / 2];
    let (_, text) = fault(cut, &signed.key_pem());
    assert!(text.starts_with("`cert.pem`, line 1: the block `CERTIFICATE` that begins here is cut off"), "{text}");
    let (_, text) = fault(&pem.replacen("MII", "M!I", 1), &signed.key_pem());
    assert!(text.starts_with("`cert.pem`, line 2: this line is not base64"), "{text}");

    let garbled = "-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n";
    let (fault_, text) = fault(&format!("{pem}{garbled}"), &signed.key_pem());
    assert!(matches!(fault_, PairFault::Certificate { place: 2, .. }), "{text}");
}

#[test]
fn keys_that_are_none() {
    let signed = leaf();
    let (fault_, text) = fault(&signed.pem(), &signed.pem());
    assert!(matches!(fault_, PairFault::NoKey { .. }));
    assert!(text.starts_with("`cert.key` holds no private key, but CERTIFICATE"), "{text}");
    let two = format!("{}{}", signed.key_pem(), leaf().key_pem());
    assert!(matches!(fault(&signed.pem(), &two).0, PairFault::SeveralKeys { count: 2, line: 6, .. }));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let (fault_, text) = fault(&signed.pem(), encrypted);
    assert!(matches!(fault_, PairFault::EncryptedKey { line: 1, .. }));
    assert!(text.contains("openssl pkey -in FILE -out"), "{text}");
    let garbled = "-----BEGIN PRIVATE KEY-----\nMAAA\n-----END PRIVATE KEY-----\n";
    assert!(matches!(fault(&signed.pem(), garbled).0, PairFault::Key { .. }));
}

#[test]
fn small_rsa_keys_are_refused() {
    let folder = Folder::new();
    let key = folder.path().join("small");
    openssl(&["genrsa", "-out", key.to_str().unwrap(), "1024"]);
    let (fault_, text) = fault(&leaf().pem(), &std::fs::read_to_string(key).unwrap());
    assert!(matches!(fault_, PairFault::Key { .. }));
    assert!(text.contains("2048"), "{text}");
}

#[test]
fn pairs_that_do_not_match() {
    let (signed, other) = (leaf(), leaf());
    let (fault_, text) = fault(&signed.pem(), &other.key_pem());
    assert!(matches!(fault_, PairFault::Mismatch { .. }));
    assert!(text.contains("`cert.key`") && text.contains("`cert.pem`") && text.contains("CN=leaf"), "{text}");
}

#[test]
fn chains_go_from_the_server_up() {
    let root = Authority::new("root");
    let middle = Authority::under("middle", &root);
    let signed = Leaf::of("a.test").signed_by(&middle);
    let chain = |certificates: &[String]| {
        let folder = Folder::new();
        let mut files = folder.pair("x", &signed);
        files.certificate = folder.write("chain.pem", certificates.concat());
        load(&files)
    };
    let (leaf, middle_, root_) = (signed.pem(), middle.pem(), root.pem());
    assert_eq!(chain(&[leaf.clone(), middle_.clone(), root_.clone()]).unwrap().certified().cert.len(), 3);
    chain(std::slice::from_ref(&leaf)).unwrap();
    let first = chain(&[middle_.clone(), leaf.clone()]).unwrap_err();
    assert!(matches!(first, PairFault::NotFirst { place: 2, .. }));
    assert!(first.to_string().contains("the chain is in the wrong order: the server's certificate must be first"));
    let swapped = chain(&[leaf.clone(), root_, middle_]).unwrap_err();
    assert!(matches!(swapped, PairFault::Order { place: 2, .. }));
    let text = swapped.to_string();
    assert!(text.contains("`CN=root`") && text.contains("issued by `CN=middle`"), "{text}");
    assert!(matches!(chain(&[leaf.clone(), leaf]).unwrap_err(), PairFault::Order { place: 2, .. }));
}

#[test]
fn times_are_told() {
    let dated = |from: i32, to: i32| {
        let mut leaf = Leaf::of("a.test");
        leaf.params.not_before = date_time_ymd(from, 1, 2);
        leaf.params.not_after = date_time_ymd(to, 3, 4);
        let signed = leaf.self_signed();
        fault(&signed.pem(), &signed.key_pem())
    };
    let (fault_, text) = dated(2001, 2002);
    assert!(matches!(fault_, PairFault::Expired { .. }));
    assert!(text.contains("expired at 2002-03-04T00:00:00Z"), "{text}");
    let (fault_, text) = dated(2060, 2061);
    assert!(matches!(fault_, PairFault::NotYetValid { .. }));
    assert!(text.contains("not valid before 2060-01-02T00:00:00Z"), "{text}");
}

#[test]
fn a_certificate_is_valid_to_the_second() {
    let mut leaf = Leaf::of("a.test");
    leaf.params.not_before = date_time_ymd(2001, 1, 1);
    leaf.params.not_after = date_time_ymd(2002, 1, 1);
    let (folder, signed) = (Folder::new(), leaf.self_signed());
    let files = folder.pair("x", &signed);
    let (from, to) = (Duration::from_secs(978_307_200), Duration::from_secs(1_009_843_200));
    let second = Duration::from_secs(1);
    assert!(matches!(Pair::load(&files, from - second), Err(PairFault::NotYetValid { .. })));
    assert!(Pair::load(&files, from).is_ok());
    assert_eq!(Pair::load(&files, to).unwrap().not_after(), to);
    assert!(matches!(Pair::load(&files, to + second), Err(PairFault::Expired { .. })));
}

#[test]
fn staples_are_answers() {
    let (folder, signed) = (Folder::new(), leaf());
    let with = |staple: &[u8]| {
        let mut files = folder.pair("x", &signed);
        files.staple = Some(folder.write("staple", staple));
        load(&files)
    };
    let good = [0x30, 3, 10, 1, 0];
    assert_eq!(with(&good).unwrap().certified().ocsp.as_deref(), Some(good.as_slice()));
    for (staple, why) in [
        ([0x30, 3, 10, 1, 3].as_slice(), "refused, with status 3"),
        (&[0x30, 9, 10, 1, 0], ""),
        (&[0x30, 3, 10, 1, 0, 0], "1 bytes are behind it"),
        (b"-----BEGIN OCSP RESPONSE-----", "PEM, not DER"),
        (b"hello", ""),
    ] {
        let fault = with(staple).unwrap_err();
        assert!(matches!(fault, PairFault::Staple { .. }));
        assert!(fault.to_string().contains(why), "{fault}");
    }
    let mut files = folder.pair("x", &signed);
    files.staple = Some(folder.path().join("absent"));
    assert!(matches!(load(&files), Err(PairFault::File(FileFault::Unreadable { .. }))));
}

#[test]
fn no_contents_panic() {
    let (folder, signed) = (Folder::new(), leaf());
    let files = folder.pair("x", &signed);
    let good = signed.pem().into_bytes();
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 0x15;
        std::fs::write(&files.certificate, &bad).unwrap();
        let _ = load(&files);
        std::fs::write(&files.certificate, &good[..i]).unwrap();
        let _ = load(&files);
    }
}

#[test]
fn what_a_file_names_is_safe_to_print() {
    let mut leaf = Leaf::of("a.test");
    leaf.params.distinguished_name.push(DnType::CommonName, "evil\x1b[2J\n");
    let (_, text) = fault(&leaf.self_signed().pem(), &self::leaf().key_pem());
    assert!(text.contains("CN=evil\\1B[2J\\0A") && !text.contains('\x1b'), "{text}");
}
