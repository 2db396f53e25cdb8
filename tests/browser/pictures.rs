//! The README's pictures: `make pictures` takes them anew. Without a place for them they are only taken, so that
//! nobody finds out on the day they are needed that they cannot be.

use std::path::PathBuf;

use super::story::Story;
use super::{Browser, Look};

/// Name, address, dark.
const PICTURES: [(&str, &str, bool); 6] = [
    ("bottlenecks", "/", false),
    ("bottlenecks-dark", "/", true),
    ("bottleneck", "/bottlenecks/{bottleneck}", false),
    ("endpoint", "/endpoints/{slower}", false),
    ("trace", "/traces/{other-trace}", false),
    ("trace-dark", "/traces/{other-trace}", true),
];

/// Small enough that a repository does not mind another version of them, bytes.
const BYTES_MAX: usize = 70_000;

/// WebP's quality: as good as fits.
const QUALITIES: [u32; 4] = [85, 70, 55, 40];

#[test]
fn the_readme_can_show_pages_in_little_space() {
    let directory = std::env::var_os("CULPRIT_TEST_README_PICTURES").map(PathBuf::from);
    for (name, path, dark) in PICTURES {
        let look = Look {
            width: 1280,
            height: 860,
            dark,
            ..Look::default()
        };
        let page = Browser::shared().open(&Story::get().address(path), look);
        let taken = QUALITIES
            .iter()
            .map(|it| page.picture_of_window(*it).expect("a picture"));
        let picture = taken.into_iter().find(|it| it.len() <= BYTES_MAX);
        let picture =
            picture.unwrap_or_else(|| panic!("{name} does not fit into {BYTES_MAX} bytes"));
        assert!(picture.starts_with(b"RIFF") && picture[8..].starts_with(b"WEBP"));
        if let Some(directory) = &directory {
            std::fs::create_dir_all(directory).expect("a directory");
            std::fs::write(directory.join(format!("{name}.webp")), picture).expect("a file");
        }
    }
}
