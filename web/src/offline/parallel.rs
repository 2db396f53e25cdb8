//! Work on all cores; results come back in order, whoever did them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::progress::Progress;

/// What each of `count` pieces gives, in order. Every thread has a `state` of its own.
pub fn each<S, T: Send>(
    count: usize,
    progress: &Progress,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::with_capacity(count));
    let run = || {
        let mut state = state();
        let mut mine = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                break;
            }
            mine.push((at, work(&mut state, at)));
            progress.done(at + 1, count);
        }
        if let Ok(mut done) = done.lock() {
            done.append(&mut mine);
        }
    };
    let threads = thread::available_parallelism().map_or(1, |it| it.get());
    thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            scope.spawn(run);
        }
        run();
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_unstable_by_key(|it| it.0);
    done.into_iter().map(|it| it.1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        let squares = each(1_000, &Progress::silent(), || (), |(), at| at * at);
        let expected: Vec<usize> = (0..1_000).map(|it| it * it).collect();
        assert_eq!(squares, expected);
        assert!(each(0, &Progress::silent(), || (), |(), at| at).is_empty());
    }
}
