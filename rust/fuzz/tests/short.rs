//! Every target on its seeds and on mutations of them: the short form of `scripts/fuzz`.

use ginnel_fuzz::TARGETS;
use ginnel_fuzz::input::mutate;

/// Mutations for each target that a `cargo test` has time for: two of them cost a handshake each.
const MUTATIONS: u64 = 500;

#[test]
fn no_target_finds_anything() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{}", target.name);
        for seed in &seeds {
            (target.run)(seed);
        }
        for number in 0..MUTATIONS {
            let mut data = seeds[number as usize % seeds.len()].clone();
            mutate(&mut data, number);
            (target.run)(&data);
        }
    }
}

#[test]
fn mutations_are_the_same_each_time_and_change_something() {
    let mutated = |seed| {
        let mut data = vec![7; 50];
        mutate(&mut data, seed);
        data
    };
    assert_eq!(mutated(3), mutated(3));
    assert!((0..20).all(|seed| mutated(seed) != mutated(seed + 20) && mutated(seed) != [7; 50]));
}
