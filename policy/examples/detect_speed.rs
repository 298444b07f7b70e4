//! How fast the detectors read what holds nothing: `cargo run --release -p policy --example detect_speed [TEXT]`.

use std::hint::black_box;
use std::time::Instant;

use policy::detect::{Detector, Detectors};

const TEXTS: &[(&str, &str)] = &[
    (
        "prose",
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness. ",
    ),
    (
        "prose with numbers",
        "On 20 November the 3rd batch of 120 parcels left for Oslo; 17 came back, of which 4 were damaged in transit. ",
    ),
    (
        "log",
        "2026-11-20 14:03:28.123 INFO worker-2 GET /api/v1/orders/81723 200 in 12 ms for request 7c9e6679f3e8 ",
    ),
    ("csv of integers", "17,42,1999,12,8,31337,5,77,123456,9,10,22,1024,65535,3,"),
    ("hostile: pairs of digits", "12 "),
    ("hostile: triples of digits", "123 "),
    ("hostile: cards but for a digit", "4111 1111 1111 1112 "),
    ("hostile: ids but for a digit", "12345678901 "),
    ("hostile: IBANs without an end", "DE89 3704 "),
    ("hostile: phones without an end", "+49 30 "),
    ("hostile: names without a secret", "password=null "),
    ("hostile: at signs", "a@"),
    ("hostile: equal signs", "="),
];

fn main() {
    let all: Detectors = Detector::ALL.into_iter().collect();
    let sets = Detector::ALL.map(|d| (format!("{d:?}"), [d].into_iter().collect::<Detectors>()));
    print!("{:40}", "GB/s");
    for (name, _) in std::iter::once(&("all".to_owned(), all)).chain(&sets) {
        print!("{name:>11}");
    }
    println!();
    let wanted = std::env::args().nth(1).unwrap_or_default();
    for (name, unit) in TEXTS.iter().filter(|(name, _)| name.contains(&wanted)) {
        for length in [64, 4 << 10, 1 << 20] {
            let text: Vec<u8> = unit.bytes().cycle().take(length).collect();
            print!("{:40}", format!("{name}, {length}"));
            for (_, set) in std::iter::once(&(String::new(), all)).chain(&sets) {
                let mut best = f64::MAX;
                for _ in 0..15 {
                    let rounds = (1 << 20) / length;
                    let began = Instant::now();
                    for _ in 0..rounds {
                        black_box(set.finds(black_box(&text)));
                    }
                    best = best.min(began.elapsed().as_secs_f64() / rounds as f64);
                }
                print!("{:>11.2}", length as f64 / best / 1e9);
            }
            println!();
        }
    }
}
