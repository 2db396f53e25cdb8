//! How often nothing is called a regression, and how often a regression is found:
//! `cargo run -p analyzer --release --example detection_table -- [deployments|sudden|found] [how much]`.

// The tests use what this does not.
#[allow(dead_code)]
#[path = "../tests/simulation/mod.rs"]
mod simulation;

use simulation::{Base, DAY, Fault, SHAPES, Shape, deployments, found, sudden_alarms};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let part = arguments.next().unwrap_or_default();
    let much: u64 = arguments.next().and_then(|it| it.parse().ok()).unwrap_or(1);
    match part.as_str() {
        "deployments" => false_alarms_after_deployments(much),
        "sudden" => false_alarms_all_of_a_sudden(much),
        "found" => faults_found(much),
        _ => {
            false_alarms_after_deployments(much);
            false_alarms_all_of_a_sudden(much);
            faults_found(much);
        }
    }
}

fn false_alarms_after_deployments(much: u64) {
    println!("false alarms of deployments: at 2, 20 and 100 requests a minute");
    for (name, shape) in SHAPES {
        print!("{name:24}");
        for per_minute in [2.0, 20.0, 100.0] {
            let each = |seed| deployments(shape, per_minute, seed, 100, 30);
            let counts = (0..10 * much).map(each);
            let (alarms, all) = counts.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
            print!("  {alarms} of {all}");
        }
        println!();
    }
}

fn false_alarms_all_of_a_sudden(much: u64) {
    for (what, history) in [("a day", 1440), ("half an hour", 30)] {
        println!("false alarms, all of a sudden, {what} known: at 5 and 50 requests a minute");
        for (name, shape) in SHAPES {
            print!("{name:24}");
            for per_minute in [5.0, 50.0] {
                let each = |seed| sudden_alarms(shape, per_minute, 100 + seed, 10, history);
                let alarms: usize = (0..2 * much).map(each).sum();
                print!("  {alarms} in {} days", 20 * much);
            }
            println!();
        }
    }
}

fn faults_found(much: u64) {
    println!("faults found, %: of 100, 1,000 and 10,000 requests in half an hour");
    let faults = [
        ("x1.3", Fault::All(1.3)),
        ("x1.5", Fault::All(1.5)),
        ("x2", Fault::All(2.0)),
        ("5 % x10", Fault::Some(0.05, 10.0)),
    ];
    let last_day = SHAPES.map(|(name, shape)| (name, shape, Base::Last(DAY)));
    let same_hours = ("daily, same hours known", Shape::Daily, Base::SameHours);
    for (name, shape, base) in last_day.into_iter().chain([same_hours]) {
        for (what, fault) in faults {
            print!("{name:24} {what:8}");
            for (requests, trials) in [(100.0, 40), (1_000.0, 20), (10_000.0, 4)] {
                let trials = trials * much;
                let share = found(shape, fault, requests, base, trials) as f64 / trials as f64;
                print!("  {:3.0}", 100.0 * share);
            }
            println!();
        }
    }
}
