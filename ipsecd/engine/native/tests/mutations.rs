//! Mutations of known packets, the same ones in every run.  The fuzz targets (../fuzz) go on from here with coverage.

mod packet_paths;

use packet_paths::{World, any_input, seeds};

const ROUNDS: usize = 300;

/// A generator of no merit but that it repeats (Knuth, MMIX).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

fn mutated(seed: &[u8], others: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..chance.below(5) {
        let at = chance.below(input.len());
        match chance.below(6) {
            0 => input[at] ^= 1 << chance.below(8),
            1 => input[at] = [0, 1, 4, 6, 41, 44, 59, 127, 128, 255][chance.below(10)],
            2 => input.truncate(at.max(1)),
            3 => input.extend(vec![chance.below(256) as u8; chance.below(3000)]),
            4 => {
                let other = &others[chance.below(others.len())];
                input.truncate(at.max(1));
                input.extend(&other[chance.below(other.len())..]);
            }
            _ => input.insert(at, chance.below(256) as u8),
        }
    }
    input
}

#[test]
fn known_packets_come_through() {
    let mut world = World::default();
    let seeds = seeds();
    let through = seeds.iter().filter(|seed| {
        let before = world.delivered;
        any_input(&mut world, seed);
        world.delivered > before
    });
    assert!(through.count() > seeds.len() / 3);
}

#[test]
fn packets_of_ah_come_through_both_ways() {
    let (mut world, seeds) = (World::default(), seeds());
    for kind in [0, packet_paths::LEAST_AH + 3] {
        let before = world.delivered;
        let of_kind = seeds.iter().filter(|seed| seed[0] == kind);
        of_kind.for_each(|seed| any_input(&mut world, seed));
        assert!(world.delivered > before + 5, "of kind {kind}");
    }
    assert!(world.by_ah > 10);
}

#[test]
fn mutation_of_any_packet_ends_sealed_delivered_or_counted() {
    let (seeds, mut chance, mut world) = (seeds(), Chance(1), World::default());
    for seed in &seeds {
        any_input(&mut world, seed);
        for _ in 0..ROUNDS {
            any_input(&mut world, &mutated(seed, &seeds, &mut chance));
        }
    }
}

#[test]
fn every_beginning_of_a_packet_ends_sealed_delivered_or_counted() {
    let mut world = World::default();
    for seed in seeds() {
        for length in 1..seed.len() {
            any_input(&mut world, &seed[..length]);
        }
    }
}
