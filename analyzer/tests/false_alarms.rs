//! An alarm comes when something got slower, and only then: counted on endpoints that do not exist.
//!
//! The seeds are fixed, so a run is like the other; bounds are those that a run with other seeds would break once in
//! ten thousand. Longer runs of the same code: `cargo run -p analyzer --release --example detection_table`.

// The table uses what this does not.
#[allow(dead_code)]
mod simulation;

use analyzer::regression::{Limits, compare};
use simulation::{
    Base, DAY, Endpoint, Fault, SHAPES, Shape, alarm_after_deployment, deployments, found,
    naive_rule, sudden_alarms,
};

/// How probable at least `count` of `trials` are if each is one with probability `level`.
fn at_least(count: usize, trials: usize, level: f64) -> f64 {
    let mut below = 0.0;
    let mut term = (1.0 - level).powi(trials as i32);
    for k in 0..count {
        below += term;
        term *= (trials - k) as f64 / (k + 1) as f64 * level / (1.0 - level);
    }
    1.0 - below
}

/// Fails if so many alarms are too many for what is promised.
fn assert_level(what: &str, alarms: usize, trials: usize, level: f64) {
    println!("{what}: {alarms} of {trials}");
    let p = at_least(alarms, trials, level);
    assert!(
        p > 1e-4,
        "{what}: {alarms} of {trials} at a level of {level}"
    );
}

#[test]
fn p_values_mean_what_they_say() {
    for (name, shape) in SHAPES {
        // An hour apart, so that bursts of one are over in the next.
        const EVERY: usize = 60;
        const TRIALS: usize = 200;
        const NOW: usize = 20;
        let slots = Endpoint::new(shape, 5.0, 1).run(DAY + NOW + EVERY * TRIALS, Fault::None);
        let compared = (0..TRIALS).map(|it| {
            let at = DAY + it * EVERY;
            compare(
                &slots[at - DAY..at],
                &slots[at..at + NOW],
                1.0,
                &Limits::after_deployment(),
            )
        });
        let (mut tails, mut bodies, mut vague) = (0, 0, 0);
        for it in compared {
            tails += usize::from(it.tail.is_some_and(|it| it.p_value <= 0.01));
            bodies += usize::from(it.body.is_some_and(|it| it.p_value <= 0.01));
            vague += usize::from(it.body.is_some_and(|it| it.p_value <= 0.25));
        }
        // Of up to three percentiles the least probable is told.
        assert_level(&format!("{name}, tail"), tails, TRIALS, 0.03);
        assert_level(&format!("{name}, body"), bodies, TRIALS, 0.01);
        if let Shape::Lognormal(_) = shape {
            assert!(
                (25..=75).contains(&vague),
                "{name}: a test that never finds anything is no test: {vague}"
            );
        }
    }
}

#[test]
fn deployments_that_change_nothing_are_silent() {
    // "At most one in 30 days of 200 endpoints and ten deployments a day."
    let promised = 1.0 / (200.0 * 10.0 * 30.0);
    let (mut alarms, mut count) = (0, 0);
    for (name, shape) in SHAPES {
        for seed in 0..2 {
            let (a, c) = deployments(shape, 15.0, seed, 30, 40);
            assert_level(name, a, c, promised);
            (alarms, count) = (alarms + a, count + c);
        }
    }
    assert_level("all", alarms, count, promised);
}

#[test]
fn endpoints_to_which_nothing_happens_are_silent() {
    for (name, shape) in SHAPES {
        let alarms = sudden_alarms(shape, 12.0, 7, 1, DAY);
        assert_eq!(alarms, 0, "{name}");
    }
}

#[test]
fn who_has_just_begun_is_not_bothered_either() {
    for (name, shape) in SHAPES {
        let alarms = sudden_alarms(shape, 12.0, 11, 1, 30);
        assert_eq!(alarms, 0, "{name}");
    }
}

#[test]
fn the_rule_that_everybody_writes_first_cries_wolf() {
    const TRIALS: usize = 200;
    let slots = Endpoint::new(Shape::Lognormal(1.0), 50.0, 3).run(60 + 20 * TRIALS, Fault::None);
    let (mut naive, mut ours) = (0, 0);
    for it in 0..TRIALS {
        let at = 60 + it * 20;
        let (base, now) = (&slots[at - 60..at], &slots[at..at + 20]);
        naive += usize::from(naive_rule(base, now));
        ours += usize::from(alarm_after_deployment(base, now));
    }
    println!("p99 above 1.2 times the one before: {naive} of {TRIALS}; ours: {ours}");
    assert!(
        (TRIALS / 20..TRIALS / 5).contains(&naive),
        "{naive} of {TRIALS}"
    );
    assert_eq!(ours, 0);
}

#[test]
fn what_got_slower_is_found() {
    let found_same_hours = found(Shape::Daily, Fault::All(2.0), 1_000.0, Base::SameHours, 10);
    assert!(found_same_hours >= 9, "{found_same_hours} of 10");
    // (shape, fault, requests in half an hour, minutes known before, at least so many of so many)
    let cases = [
        (Shape::Lognormal(0.5), Fault::All(2.0), 100.0, DAY, (36, 40)),
        (
            Shape::Lognormal(1.0),
            Fault::All(2.0),
            1_000.0,
            DAY,
            (10, 10),
        ),
        (
            Shape::Lognormal(0.5),
            Fault::All(1.5),
            1_000.0,
            DAY,
            (10, 10),
        ),
        (Shape::Pareto(1.8), Fault::All(1.5), 1_000.0, DAY, (10, 10)),
        (Shape::Lumpy, Fault::All(2.0), 1_000.0, DAY, (10, 10)),
        // The tail alone, with two thousand requests before: an hour.
        (
            Shape::Lognormal(0.5),
            Fault::Some(0.05, 10.0),
            1_000.0,
            60,
            (26, 30),
        ),
    ];
    for (shape, fault, requests, before, (at_least, trials)) in cases {
        let found = found(shape, fault, requests, Base::Last(before), trials);
        println!("{shape:?} {fault:?} {requests}: {found} of {trials}");
        assert!(
            found >= at_least,
            "{shape:?} {fault:?} {requests}: {found} of {trials}"
        );
    }
}
