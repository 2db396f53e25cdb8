//! What must always hold, whatever comes in.

use super::*;
use proptest::prelude::*;

/// `count` slots from `first` on, each with requests of so many ms.
pub(super) fn slots(first: i32, count: usize, ms: &[u64]) -> Vec<Slot> {
    let mut latency = Sketch::default();
    for ms in ms {
        latency.record(ms * 1_000_000, 1);
    }
    let slot = |it: usize| Slot {
        minute: first + it as i32,
        errors: 0,
        latency: latency.clone(),
    };
    (0..count).map(slot).collect()
}

fn is_slower(comparison: &Comparison) -> bool {
    matches!(comparison.verdict, Verdict::Slower(_))
}

/// Easy to convince, so that properties of claims are about something.
fn lenient() -> Limits {
    Limits {
        alpha: 0.5,
        ratio_min: 1.02,
        added_ns_min: 0,
        body_ratio_min: 1.02,
        body_added_ns_min: 0,
        slots_min: 1,
        worst_slots: 0,
        ..Limits::after_deployment()
    }
}

/// Minutes of ordinary requests, in bins from about 1 ms to 4 s.
fn ordinary() -> impl Strategy<Value = Vec<Slot>> {
    let bins = prop::collection::vec((640u16..1024, 1i64..40), 0..12);
    prop::collection::vec(bins, 0..12).prop_map(|minutes| {
        let slot = |(minute, bins): (usize, Vec<(u16, i64)>)| Slot {
            minute: minute as i32,
            errors: 0,
            latency: Sketch::from_bins(bins),
        };
        minutes.into_iter().enumerate().map(slot).collect()
    })
}

/// Anything that the types can hold.
fn odd() -> impl Strategy<Value = Vec<Slot>> {
    let count = prop_oneof![
        Just(1),
        Just(-1),
        Just(i64::MAX),
        Just(i64::MIN),
        any::<i64>(),
        -100i64..1_000
    ];
    let bins = prop::collection::vec((any::<u16>(), count), 0..6);
    let minute = prop_oneof![Just(i32::MIN), Just(i32::MAX), any::<i32>(), 0..50];
    let slot = (minute, any::<i64>(), bins).prop_map(|(minute, errors, bins)| Slot {
        minute,
        errors,
        latency: Sketch::from_bins(bins),
    });
    prop::collection::vec(slot, 0..12)
}

fn sum(slots: &[Slot]) -> Sketch {
    let mut sum = Sketch::default();
    slots.iter().for_each(|it| sum.merge(&it.latency));
    sum
}

/// Times 2^octaves, exactly: a power of two has 32 bins.
fn scaled(slots: &[Slot], octaves: u16) -> Vec<Slot> {
    let scale = |slot: &Slot| {
        let bins = slot.latency.bins().iter();
        Slot {
            latency: Sketch::from_bins(bins.map(|it| (it.0 + 32 * octaves, it.1))),
            ..slot.clone()
        }
    };
    slots.iter().map(scale).collect()
}

proptest! {
    #[test]
    fn odd_input_gives_numbers_and_no_panic(base in odd(), now in odd(), weight in any::<f64>(), looks: u8) {
        for limits in [Limits::sudden(), Limits::statement(), Limits { requests_min: i64::MIN, ..lenient() }] {
            let it = compare(&base, &now, weight, &limits);
            let mut numbers = vec![it.design_effect, it.rates.0, it.rates.1, it.error_rates.0, it.error_rates.1];
            numbers.extend(it.tail.iter().flat_map(|it| [it.expected, it.p_value]));
            numbers.extend(it.body.iter().flat_map(|it| [it.p_value, it.ratio]));
            prop_assert!(numbers.iter().all(|it| it.is_finite()), "{it:?}");
            prop_assert!(it.body.is_none_or(|it| !it.z.is_nan()));
            is_worth_testing(&sum(&base), &sum(&now), &limits);
        }
        sudden(&base, &now, &base, weight);
        after_deployment(&base, &now, weight, looks);
        let claim = Claim { quantile: 0.99, before_ns: 1, after_ns: u64::MAX, p_value: 0.0 };
        is_back(&base, &now, weight, &claim);
    }

    #[test]
    fn what_is_claimed_was_worth_testing(base in ordinary(), now in ordinary(), weight in 1.0..3.0) {
        let limits = lenient();
        if is_slower(&compare(&base, &now, weight, &limits)) {
            prop_assert!(is_worth_testing(&sum(&base), &sum(&now), &limits));
        }
    }

    #[test]
    fn never_slower_both_ways(base in ordinary(), now in ordinary()) {
        let limits = Limits { alpha: 0.1, ..lenient() };
        let (there, back) = (compare(&base, &now, 1.0, &limits), compare(&now, &base, 1.0, &limits));
        let claimed = |it: &Comparison| match it.verdict {
            Verdict::Slower(claim) => Some(claim.quantile),
            Verdict::Not(_) => None,
        };
        // A longer tail and a faster body are both true; the same percentile cannot grow both ways.
        if claimed(&there).is_some() {
            prop_assert_ne!(claimed(&there), claimed(&back));
        }
    }

    #[test]
    fn the_unit_does_not_matter(base in ordinary(), now in ordinary(), octaves in 1u16..8) {
        let as_is = compare(&base, &now, 1.0, &lenient());
        let larger = compare(&scaled(&base, octaves), &scaled(&now, octaves), 1.0, &lenient());
        prop_assert_eq!(is_slower(&as_is), is_slower(&larger));
        prop_assert_eq!(as_is.body.map(|it| it.p_value), larger.body.map(|it| it.p_value));
        prop_assert_eq!(as_is.tail.map(|it| it.p_value), larger.tail.map(|it| it.p_value));
    }

    /// Not so for more of the same on both sides: then requests of a minute are more alike than they look, which is
    /// what bursts are. Nor for the number of requests by itself: a rung of the ladder more shares the level.
    #[test]
    fn slower_stays_slower_when_it_gets_even_slower(base in ordinary(), now in ordinary()) {
        let limits = Limits { alpha: 0.1, ..lenient() };
        if is_slower(&compare(&base, &now, 1.0, &limits)) {
            prop_assert!(is_slower(&compare(&base, &scaled(&now, 9), 1.0, &limits)));
        }
    }
}

#[test]
fn too_few_requests_are_said_to_be() {
    let (few, many) = (slots(0, 1, &[100; 19]), slots(0, 10, &[100; 100]));
    let why = |base: &[Slot], now: &[Slot]| match compare(base, now, 1.0, &Limits::sudden()).verdict
    {
        Verdict::Not(why) => why.to_string(),
        Verdict::Slower(claim) => format!("{claim:?}"),
    };
    assert_eq!(why(&many, &few), "only 19 requests so far; it takes 20");
    assert_eq!(
        why(&few, &many),
        "only 19 requests to compare with; it takes 20"
    );
    assert_eq!(
        why(&many, &many),
        "no percentile grew enough to matter: p99 was 100.2 ms and is 100.2 ms"
    );
}

#[test]
fn a_p99_is_never_claimed_with_too_few_requests() {
    // 5 % of the requests are slow now, none before.
    let mut slow = vec![100; 19];
    slow.push(3_000);
    let claim = |base: usize, now: usize| {
        let base = slots(0, base, &[100; 20]);
        let comparison = compare(
            &base,
            &slots(base.len() as i32, now, &slow),
            1.0,
            &lenient(),
        );
        let carried = comparison.quantiles.iter().filter(|it| it.is_certain);
        let highest = carried.map(|it| it.quantile).next();
        match comparison.verdict {
            Verdict::Slower(claim) => (highest, Some(claim.quantile)),
            Verdict::Not(_) => (highest, None),
        }
    };
    assert_eq!(claim(50, 50), (Some(0.99), Some(0.99)));
    assert_eq!(claim(18, 50).0, Some(0.95));
    assert_ne!(claim(18, 50).1, Some(0.99));
    assert_eq!(claim(50, 14).0, Some(0.95));
    assert_ne!(claim(50, 14).1, Some(0.99));
}

#[test]
fn requests_of_one_or_two_minutes_are_no_regression() {
    let base = slots(0, 1000, &(90..110).collect::<Vec<_>>());
    let verdict = |bad: usize| {
        let mut now = slots(1000, 20 - bad, &(90..110).collect::<Vec<_>>());
        now.extend(slots(1020 - bad as i32, bad, &[1_000; 20]));
        compare(&base, &now, 1.0, &Limits::after_deployment()).verdict
    };
    for bad in 0..=2 {
        assert!(
            matches!(verdict(bad), Verdict::Not(_)),
            "{bad}: {:?}",
            verdict(bad)
        );
    }
    assert!(
        matches!(
            verdict(1),
            Verdict::Not(Why::FewSlots { .. } | Why::Lumps { .. } | Why::SmallEffect { .. })
        ),
        "{:?}",
        verdict(1)
    );
    assert!(matches!(verdict(8), Verdict::Slower(_)), "{:?}", verdict(8));
}

#[test]
fn a_request_that_stands_for_ten_counts_as_one() {
    let base = slots(0, 100, &(80..120).collect::<Vec<_>>());
    let now = slots(100, 5, &(120..160).step_by(4).collect::<Vec<_>>());
    let limits = Limits::after_deployment();
    let (all, tenth) = (
        compare(&base, &now, 1.0, &limits),
        compare(&base, &now, 10.0, &limits),
    );
    assert!(is_slower(&all), "{:?}", all.verdict);
    assert_eq!((all.requests, tenth.requests), (50, 5));
    assert_eq!(all.rates, tenth.rates);
    assert!(!is_slower(&tenth));
}
