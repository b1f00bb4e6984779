//! Calibrators against slow recomputations over stored values, under every split, and against published fixtures.

use super::histogram::{BINS, Histogram};
use super::observer::{Observer, Range, parameters};
use super::{entropy, mse, percentile};
use crate::scheme::Calibrator;
use crate::testing::Rng;
use rsqc_ir::quant::{Granularity, QuantType};

const ALL: [Calibrator; 6] = [
    Calibrator::MinMax,
    Calibrator::Ema { momentum: 0.1 },
    Calibrator::Percentile { p: 99.9 },
    Calibrator::Entropy,
    Calibrator::Mse,
    Calibrator::Isotone,
];

fn symmetric() -> QuantType {
    QuantType::int8(Granularity::Tensor)
}

fn with_zero() -> QuantType {
    QuantType {
        zero: true,
        ..symmetric()
    }
}

fn normal(rng: &mut Rng, n: usize) -> Vec<f32> {
    let mut uniform = || f64::from(rng.float() + 1.0).max(1e-9) / 2.0;
    (0..n)
        .map(|_| ((-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()) as f32)
        .collect()
}

fn laplace(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n)
        .map(|_| {
            let u = rng.float();
            -u.signum() * (1.0 - u.abs()).max(1e-6).ln()
        })
        .collect()
}

/// Histograms of the card's fixtures: shape, entropy bin, its divergence, MSE bin, percentile bins.
fn fixtures() -> Vec<(Vec<u64>, usize, f64, usize, [usize; 2])> {
    let make = |f: &dyn Fn(f64) -> f64| -> Vec<u64> {
        (0..2048)
            .map(|i| (1e6 * f(f64::from(i))).floor() as u64)
            .collect()
    };
    let a = make(&|i| (-(i / 400.0).powi(2) / 2.0).exp());
    let b = make(&|i| (-i / 120.0).exp());
    let mut c = make(&|i| (-(i / 150.0).powi(2) / 2.0).exp());
    c[2040..].fill(3);
    vec![
        (a, 1921, 6.2e-5, 1565, [1555, 1316]),
        (b, 1344, 3.59e-4, 1168, [1101, 828]),
        (c, 717, 6.1e-5, 592, [583, 493]),
    ]
}

#[test]
fn published_fixtures() {
    for (bins, kl, d, error, edges) in fixtures() {
        let (i, found) = entropy::choose(&bins, 128).expect("enough bins");
        assert!(i.abs_diff(kl) <= 2, "entropy: {i}, expected {kl}");
        assert!((found / d - 1.0).abs() < 0.02, "divergence {found}, expected {d}");
        let i = mse::choose(&bins, 127).expect("enough bins");
        assert!(i.abs_diff(error) <= 2, "mse: {i}, expected {error}");
        for (p, want) in [0.9999, 0.999].into_iter().zip(edges) {
            let i = percentile::edge(&bins, p);
            assert!(i.abs_diff(want) <= 2, "percentile {p}: {i}, expected {want}");
        }
    }
}

/// The divergence of `i` bins by the definition.
fn slow_divergence(bins: &[u64], i: usize, levels: usize) -> f64 {
    let mut p: Vec<f64> = bins[..i].iter().map(|n| *n as f64).collect();
    p[i - 1] += bins[i..].iter().sum::<u64>() as f64;
    let mut q = vec![0.0; i];
    for k in 0..levels {
        let members: Vec<usize> = (0..i).filter(|j| j * levels / i == k && bins[*j] > 0).collect();
        let mass: f64 = members.iter().map(|j| bins[*j] as f64).sum();
        members.iter().for_each(|j| q[*j] = mass / members.len() as f64);
    }
    let (sp, sq): (f64, f64) = (p.iter().sum(), q.iter().sum());
    p.iter()
        .zip(&q)
        .filter(|(p, _)| **p > 0.0)
        .map(|(p, q)| p / sp * ((p / sp) / (q / sq)).ln())
        .sum()
}

#[test]
fn entropy_and_mse_agree_with_their_definitions() {
    let mut rng = Rng::new(3);
    for (spread, n) in [(0.2, 300), (0.05, 3000), (0.6, 20000)] {
        // Sparse histograms with a tail, whose divergences differ clearly.
        let mut bins = vec![0u64; 400];
        for x in laplace(&mut rng, n) {
            bins[((f64::from(x.abs()) * spread * 400.0) as usize).min(399)] += 1;
        }
        bins[0] = bins[1];
        let (i, d) = entropy::choose(&bins, 64).expect("enough bins");
        let all: Vec<f64> = (64..=400).map(|i| slow_divergence(&bins, i, 64)).collect();
        let least = all.iter().copied().fold(f64::INFINITY, f64::min);
        assert!((d - least).abs() < 1e-9, "{d} {least}");
        assert!(
            (all[i - 64] - least).abs() < 1e-9,
            "the bin of the least divergence"
        );

        let i = mse::choose(&bins, 63).expect("enough bins");
        let error = |i: usize| -> f64 {
            let step = (i as f64 + 0.5) / 63.0;
            let off = |c: f64| (c / step).round().min(63.0) * step - c;
            bins.iter()
                .enumerate()
                .map(|(j, n)| *n as f64 * off(j as f64 + 0.5).powi(2))
                .sum()
        };
        let least = (64..400).map(error).fold(f64::INFINITY, f64::min);
        assert!((error(i) / least - 1.0).abs() < 1e-9);
    }
    assert_eq!(entropy::choose(&[7; 100], 128), None);
    assert_eq!(entropy::choose(&[], 128), None);
    assert_eq!(mse::choose(&[], 127), None);
}

#[test]
fn a_histogram_counts_what_is_there() {
    let mut rng = Rng::new(5);
    let mut x = normal(&mut rng, 5000);
    x.extend([0.0, -0.0, 1e-30, -3e-41, 17.0, -16.0, 8.0]);
    let mut h = Histogram::default();
    for part in x.chunks(333) {
        h.add(part, part.iter().fold(0.0, |m: f32, v| m.max(v.abs())));
    }
    // 17 needs magnitudes up to 32.
    assert_eq!(h.width(), 32.0 / BINS as f64);
    assert_eq!(h.count(), x.len() as u64);
    let (bins, start) = h.values();
    for (i, n) in bins.iter().enumerate() {
        let (lo, hi) = (start + i as f64 * h.width(), start + (i + 1) as f64 * h.width());
        let inside = |v: f64| {
            if hi <= 0.0 {
                lo < v && v <= hi && v < 0.0
            } else {
                lo <= v && v < hi
            }
        };
        // Values of both signs closest to zero: bins meet at 0, where -0.0 counts as positive.
        let want = x.iter().filter(|v| inside(f64::from(**v))).count() as u64;
        assert_eq!(*n, want, "bin {i}");
    }
    assert_eq!(h.outside(-16.0, 16.0), 2);
}

/// All ways to feed `samples` to an observer: whole, in rows, in rows from merged observers.
fn observers(c: Calibrator, samples: &[Vec<f32>], row: usize) -> Vec<Observer> {
    let feed = |size: usize| {
        let mut o = Observer::new(c);
        for s in samples {
            s.chunks(size).for_each(|x| o.observe(x, row).expect("finite"));
            o.end_sample();
        }
        o
    };
    let mut all = vec![feed(usize::MAX), feed(row), feed(7 * row)];
    // From the last sample to the first, and with the halves merged in either order.
    let one = |s: &Vec<f32>| {
        let mut o = Observer::new(c);
        o.observe(s, row).expect("finite");
        o
    };
    for reverse in [false, true] {
        let mut parts: Vec<Observer> = samples.iter().map(one).collect();
        if reverse {
            parts.reverse();
        }
        let mut o = Observer::new(c);
        if parts.iter().all(|p| o.merge(p)) {
            all.push(o);
        }
    }
    all
}

#[test]
fn every_split_gives_the_same_range() {
    let mut rng = Rng::new(11);
    let samples: Vec<Vec<f32>> = (1..9)
        .map(|i| {
            normal(&mut rng, 40 * i * i)
                .iter()
                .map(|x| x * i as f32)
                .collect()
        })
        .collect();
    for c in ALL {
        let all = observers(c, &samples, 10);
        assert_eq!(all.len(), if matches!(c, Calibrator::Ema { .. }) { 3 } else { 5 });
        for codes in [symmetric(), with_zero()] {
            let first = all[0].range(&codes);
            assert!(first.low < 0.0 && first.high > 0.0);
            for o in &all {
                assert_eq!(o.range(&codes), first, "{c}");
            }
        }
    }
}

/// Ranges recomputed from all values at once.
fn slow(c: Calibrator, samples: &[Vec<f32>], row: usize, width: f64) -> f64 {
    let all: Vec<f64> = samples.iter().flatten().map(|x| f64::from(x.abs())).collect();
    let largest = all.iter().copied().fold(0.0, f64::max);
    match c {
        Calibrator::MinMax => largest,
        Calibrator::Ema { momentum } => {
            let extreme =
                |s: &Vec<f32>, sign: f32| s.iter().map(|x| f64::from(sign * x)).fold(f64::MIN, f64::max);
            let average = |sign: f32| {
                samples.iter().fold(None, |m: Option<f64>, s| {
                    let e = extreme(s, sign);
                    Some(m.map_or(e, |m| (1.0 - momentum) * m + momentum * e))
                })
            };
            f64::max(average(1.0).expect("samples"), average(-1.0).expect("samples"))
        }
        Calibrator::Percentile { p } => {
            let mut sorted = all.clone();
            sorted.sort_by(f64::total_cmp);
            let rank = (p / 100.0 * all.len() as f64).ceil() as usize;
            (sorted[rank.max(1) - 1] / width).floor() * width
        }
        Calibrator::Entropy | Calibrator::Mse => {
            let top = (largest / width) as usize + 1;
            let mut bins = vec![0u64; top];
            all.iter().for_each(|x| bins[(x / width) as usize] += 1);
            if c == Calibrator::Entropy {
                bins[0] = bins[1];
                let d: Vec<f64> = (128..=top).map(|i| slow_divergence(&bins, i, 128)).collect();
                let least = d.iter().copied().fold(f64::INFINITY, f64::min);
                let i = d.iter().rposition(|x| *x <= least + 1e-12).expect("some");
                ((128 + i) as f64 * width).min(largest)
            } else {
                let error = |i: usize| -> f64 {
                    let step = (i as f64 + 0.5) / 127.0;
                    let off = |c: f64| (c / step).round().min(127.0) * step - c;
                    bins.iter()
                        .enumerate()
                        .map(|(j, n)| *n as f64 * off(j as f64 + 0.5).powi(2))
                        .sum()
                };
                let best = (128..top)
                    .min_by(|a, b| error(*a).total_cmp(&error(*b)))
                    .expect("some");
                ((best as f64 + 0.5) * width).min(largest)
            }
        }
        Calibrator::Isotone => {
            let ends: Vec<(f64, f64)> = samples
                .iter()
                .flat_map(|s| s.chunks(row))
                .filter_map(|r| {
                    let mut m: Vec<f64> = r.iter().map(|x| f64::from(x.abs())).collect();
                    m.sort_by(|a, b| b.total_cmp(a));
                    let (lo, hi) = (m[1] / 126.49, 2.0 * (m[0] - m[1]));
                    (lo < hi).then_some((lo, hi))
                })
                .collect();
            let held = |s: f64| ends.iter().filter(|(lo, hi)| *lo <= s && s <= *hi).count();
            let best = ends
                .iter()
                .map(|(lo, _)| *lo)
                .max_by(|a, b| held(*a).cmp(&held(*b)).then(b.total_cmp(a)));
            best.expect("some") * 127.0
        }
    }
}

#[test]
fn ranges_agree_with_a_recomputation_over_stored_values() {
    let mut rng = Rng::new(12);
    for scale in [1.0f32, 3e-4] {
        let samples: Vec<Vec<f32>> = (0..5)
            .map(|_| laplace(&mut rng, 1200).iter().map(|x| x * scale).collect())
            .collect();
        let all: Vec<f32> = samples.concat();
        let mut h = Histogram::default();
        h.add(&all, all.iter().fold(0.0, |m: f32, v| m.max(v.abs())));
        for c in ALL {
            let found = observers(c, &samples, 10)[0].range(&symmetric()).high;
            let want = slow(c, &samples, 10, h.width());
            // Isotone rounds ends of intervals to a grid of 1/128; the others agree to a bin.
            let tolerance = match c {
                Calibrator::MinMax | Calibrator::Ema { .. } => 0.0,
                Calibrator::Isotone => want * 0.02,
                _ => 1e-9 * want,
            };
            assert!((found - want).abs() <= tolerance, "{c}: {found}, expected {want}");
        }
    }
}

#[test]
fn mse_of_a_normal_distribution_has_the_known_optimum() {
    let mut rng = Rng::new(17);
    let x = normal(&mut rng, 400_000);
    let mut o = Observer::new(Calibrator::Mse);
    o.observe(&x, 1).expect("finite");
    let r = o.range(&symmetric());
    let sqnr = |r: &Range| {
        let s = f64::from(parameters(r, &symmetric()).0);
        let error = |x: f64| (x / s).round_ties_even().clamp(-127.0, 127.0) * s - x;
        let (signal, noise) = x.iter().fold((0.0, 0.0), |(a, b), x| {
            let x = f64::from(*x);
            (a + x * x, b + error(x).powi(2))
        });
        10.0 * f64::log10(signal / noise)
    };
    assert!((r.high - 3.95).abs() < 0.12, "{}", r.high);
    assert!((sqnr(&r) - 40.5).abs() < 0.35, "{}", sqnr(&r));
    assert!(r.clipped > 0.0 && r.clipped < 1e-3);
    let mut o = Observer::new(Calibrator::MinMax);
    o.observe(&x, 1).expect("finite");
    assert!(sqnr(&o.range(&symmetric())) < sqnr(&r));
}

#[test]
fn heavy_tails_are_cut_by_all_that_look_at_the_distribution() {
    let mut rng = Rng::new(19);
    let x = laplace(&mut rng, 100_000);
    let range = |c| {
        let mut o = Observer::new(c);
        o.observe(&x, 10).expect("finite");
        o.range(&symmetric()).high
    };
    let most = range(Calibrator::MinMax);
    for c in [
        Calibrator::Entropy,
        Calibrator::Mse,
        Calibrator::Percentile { p: 99.9 },
    ] {
        assert!(range(c) < 0.9 * most, "{c}: {} of {most}", range(c));
    }
}

#[test]
fn isotone_keeps_the_largest_element_at_least_as_often_as_min_max() {
    let mut rng = Rng::new(23);
    let mut x = normal(&mut rng, 20_000);
    // A few rows with huge logits make the range of min-max coarse.
    x.iter_mut().step_by(1990).for_each(|v| *v *= 300.0);
    let kept = |c| {
        let mut o = Observer::new(c);
        o.observe(&x, 10).expect("finite");
        let s = parameters(&o.range(&symmetric()), &symmetric()).0;
        let largest = |r: &[f32]| (0..10).fold(0, |b, i| if r[i].abs() > r[b].abs() { i } else { b });
        let rows = x.chunks(10);
        rows.filter(|r| {
            let q: Vec<f32> = r.iter().map(|v| (v / s).round().clamp(-127.0, 127.0)).collect();
            let i = largest(r);
            (0..10).all(|j| j == i || q[j].abs() < q[i].abs())
        })
        .count()
    };
    let (isotone, extremes) = (kept(Calibrator::Isotone), kept(Calibrator::MinMax));
    assert!(isotone > extremes, "{isotone} {extremes}");
}

#[test]
fn zero_always_has_a_code_and_degenerate_ranges_work() {
    let cases: [&[f32]; 5] = [&[0.0; 9], &[3.0; 9], &[-2.0; 9], &[1e-40, 0.0], &[0.5, 2.0, 8.0]];
    for x in cases {
        for c in ALL {
            let mut o = Observer::new(c);
            o.observe(x, x.len()).expect("finite");
            o.end_sample();
            for codes in [symmetric(), with_zero()] {
                let r = o.range(&codes);
                let (s, z) = parameters(&r, &codes);
                assert!(s > 0.0 && (1.0 / s).is_finite(), "{c}: {x:?}");
                let code = |v: f32| (f64::from(v) / f64::from(s)).round_ties_even() + f64::from(z);
                let (lowest, highest) = codes.code_range();
                assert!((lowest..=highest).contains(&(code(0.0) as i32)));
                if c == Calibrator::MinMax {
                    let all = f64::from(lowest) - 1.0..=f64::from(highest) + 1.0;
                    assert!(x.iter().all(|v| all.contains(&code(*v))), "{x:?} {s} {z}");
                }
            }
        }
    }
    let mut o = Observer::new(Calibrator::Mse);
    assert!(o.observe(&[1.0, f32::NAN], 2).is_err());
    assert!(o.observe(&[f32::INFINITY], 1).is_err());
}
