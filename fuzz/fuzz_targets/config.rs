//! Any text, read as a configuration: every problem or a `Config`, never a panic, and what is shown of it reads again.
#![no_main]

use std::path::{Path, PathBuf};

use floodway_config::{Files, Limits, effective, read};
use libfuzzer_sys::fuzz_target;

/// The text is every file there is: it can include itself, and fill itself in.
struct Same<'a>(&'a str);

impl Files for Same<'_> {
    fn read(&self, _: &Path) -> Result<String, String> {
        Ok(self.0.to_owned())
    }

    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(vec![pattern.to_path_buf()])
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name.len() < 4).then(|| name.to_owned())
    }
}

fuzz_target!(|text: &str| {
    let files = Same(text);
    match read(Path::new("fuzz.yaml"), &files, &Limits { open_files: Some(1024) }) {
        Ok(checked) => {
            let _ = checked.warnings.render(&checked.sources, false);
            let _ = effective(&checked, false);
            let _ = effective(&checked, true);
        }
        Err(rejected) => {
            assert!(rejected.problems.has_errors());
            let _ = rejected.problems.render(&rejected.sources, true);
        }
    }
});
