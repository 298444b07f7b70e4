//! Medians, minima and ratios of repetitions.
//!
//! Not inference: with three to nine repetitions the honest summary is all of them, or the middle and both ends.
//! Invariant: no repetition is dropped; of nothing there is no summary.

/// The middle and both ends of a few numbers.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = numbers.into_iter().filter(|n| n.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let half = sorted.len() / 2;
        let upper = *sorted.get(half)?;
        let median = match sorted.len() % 2 {
            1 => upper,
            _ => (sorted.get(half - 1)? + upper) / 2.0,
        };
        Some(Spread { min: *sorted.first()?, median, max: *sorted.last()? })
    }
}

/// How a target compares with the baseline: by medians, and by minima, which other work on the machine disturbs least.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
}

impl Ratio {
    pub(crate) fn of(this: Option<Spread>, baseline: Option<Spread>) -> Option<Ratio> {
        let (this, base) = this.zip(baseline)?;
        let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
        Some(Ratio { median: ratio(this.median, base.median)?, min: ratio(this.min, base.min)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        let odd = Spread::of([9.0, 1.0, 5.0]);
        assert_eq!(odd, Some(Spread { min: 1.0, median: 5.0, max: 9.0 }));
        let even = Spread::of([4.0, 1.0, 2.0, 100.0]);
        assert_eq!(even, Some(Spread { min: 1.0, median: 3.0, max: 100.0 }));
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([f64::NAN]), None);
    }

    #[test]
    fn ratios_are_of_medians_and_of_minima() {
        let base = Spread::of([10.0, 20.0, 30.0]);
        let this = Spread::of([5.0, 30.0, 31.0]);
        assert_eq!(Ratio::of(this, base), Some(Ratio { median: 1.5, min: 0.5 }));
        assert_eq!(Ratio::of(this, None), None);
        assert_eq!(Ratio::of(this, Spread::of([0.0])), None, "nothing is so many times nothing");
    }
}
