//! zstd for whatever culprit packs, with contexts that are used again.
//!
//! A context is a megabyte of tables. Made anew for each journal row its memory is cleared by the
//! kernel each time, which costs a good part of what the packing itself does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use zstd::bulk::Compressor;

/// Contexts that wait to be used again, in all of the process: for the journal's commits and the
/// owners' blocks, with one more of each. Beyond it they are dropped.
const KEPT_MAX: usize = 4;

static KEPT: Mutex<Vec<Context>> = Mutex::new(Vec::new());

struct Context {
    level: i32,
    compressor: Compressor<'static>,
}

/// zstd in memory; cannot fail with a level zstd has.
pub(crate) fn compress(raw: &[u8], level: i32) -> Vec<u8> {
    let mut context = take(level).unwrap_or_else(|| Context {
        level,
        compressor: Compressor::new(level).expect("zstd has the levels that we use"),
    });
    let packed = context.compressor.compress(raw);
    give(context);
    packed.expect("zstd compresses any bytes in memory")
}

/// Lets go of what waits: now and then, so that a quiet process is small.
pub fn trim() {
    lock().clear();
}

fn take(level: i32) -> Option<Context> {
    let mut kept = lock();
    let at = kept.iter().position(|it| it.level == level)?;
    Some(kept.swap_remove(at))
}

fn give(context: Context) {
    let mut kept = lock();
    if kept.len() < KEPT_MAX {
        kept.push(context);
    }
}

/// Nobody leaves it half changed, so a panic elsewhere does not matter.
fn lock() -> MutexGuard<'static, Vec<Context>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_used_again_packs_as_a_new_one_does() {
        let texts = [&b"a span "[..], b"another one "].map(|it| it.repeat(1_000));
        for level in [1, 3, 1, 3] {
            for text in &texts {
                let packed = compress(text, level);
                assert_eq!(packed, zstd::bulk::compress(text, level).unwrap());
            }
        }
        trim();
        assert_eq!(
            zstd::bulk::decompress(&compress(&texts[0], 1), 7_000).unwrap(),
            texts[0]
        );
    }
}
