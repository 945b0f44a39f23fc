use super::*;
use crate::testing::{Folder, Leaf, NOW};

/// Puts `contents` in the place of `path` at once, as one who renews does.
fn replace(path: &std::path::Path, contents: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, contents).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn another_pair_is_taken_up_and_a_bad_one_is_not() {
    let folder = Folder::new();
    let identity = folder.identity("x", Leaf::of("a.test"));
    let first = identity.pair();
    assert!(!identity.reload(NOW).unwrap());

    let next = Leaf::of("b.test").self_signed();
    replace(&identity.files().certificate, &next.pem());
    for _ in 0..2 {
        assert!(matches!(identity.reload(NOW), Err(PairFault::Mismatch { .. })));
        assert!(Arc::ptr_eq(&identity.pair(), &first));
    }
    replace(&identity.files().key, &next.key_pem());
    assert!(identity.reload(NOW).unwrap());
    assert_eq!(identity.pair().names(), ["b.test".into()]);
    assert!(!identity.reload(NOW).unwrap());

    std::fs::remove_file(&identity.files().key).unwrap();
    assert!(matches!(identity.reload(NOW), Err(PairFault::File(_))));
    assert_eq!(identity.pair().names(), ["b.test".into()]);
    replace(&identity.files().key, &next.key_pem());
    assert!(!identity.reload(NOW).unwrap());
}

#[test]
fn the_same_contents_are_the_same_pair() {
    let folder = Folder::new();
    let identity = folder.identity("x", Leaf::of("a.test"));
    let pair = identity.pair();
    let text = std::fs::read_to_string(&identity.files().certificate).unwrap();
    replace(&identity.files().certificate, &text);
    assert!(!identity.reload(NOW).unwrap());
    assert!(Arc::ptr_eq(&identity.pair(), &pair));
}

#[test]
fn a_change_within_a_tick_is_not_missed() {
    let folder = Folder::new();
    let signed = Leaf::of("a.test").self_signed();
    let files = folder.pair("x", &signed);
    // By the clock of the files: what changed just now may change again with the same time and length.
    let look = || Look::of(&std::fs::metadata(&files.key).unwrap());
    let now = look().changed;
    let identity = Identity::load("x", files.clone(), now).unwrap();
    assert!(!identity.seen.lock().unwrap().as_ref().unwrap().is_settled);
    let other = Leaf::of("a.test").self_signed();
    std::fs::write(&files.key, other.key_pem()).unwrap();
    std::fs::write(&files.certificate, other.pem()).unwrap();
    assert!(identity.reload(now).unwrap());
    assert!(!identity.reload(now + SETTLED_AFTER * 2).unwrap());
    assert!(identity.seen.lock().unwrap().as_ref().unwrap().is_settled);
}

#[test]
fn a_staple_is_part_of_the_pair() {
    let folder = Folder::new();
    let mut files = folder.pair("x", &Leaf::of("a.test").self_signed());
    let staple = folder.write("staple", [0x30, 3, 10, 1, 0]);
    files.staple = Some(staple.clone());
    let identity = Identity::load("x", files, NOW).unwrap();
    std::fs::write(&staple, [0x30, 5, 10, 1, 0, 5, 0]).unwrap();
    assert!(identity.reload(NOW).unwrap());
    assert_eq!(identity.pair().certified().ocsp.as_deref(), Some([0x30, 5, 10, 1, 0, 5, 0].as_slice()));
}
