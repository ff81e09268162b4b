//! Chance from a seed, so that a history with jitter can be replayed.

use std::time::Duration;

/// Splitmix64.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Another source of chance, which this one decides.
    pub(super) fn split(&mut self) -> Self {
        Self(self.next())
    }

    /// A number below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A time between half of `longest` and all of it.
    pub(super) fn half_to_whole(&mut self, longest: Duration) -> Duration {
        let half = longest / 2;
        let thousandths = u32::try_from(self.below(1001)).unwrap_or(0);
        half + (half / 1000).saturating_mul(thousandths)
    }

    /// A number within so many per cent of `value`, at most a hundred.
    pub(super) fn within(&mut self, percent: u64, value: u64) -> u64 {
        let spread = (value / 100).saturating_mul(percent) + value % 100 * percent / 100;
        let lowest = value - spread;
        lowest.saturating_add(self.below(spread.saturating_mul(2).saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_bounds_and_uses_them() {
        let mut random = Random::new(7);
        let second = Duration::from_secs(1);
        let times: Vec<_> = (0..1000).map(|_| random.half_to_whole(second)).collect();
        assert!(times.iter().all(|time| (second / 2..=second).contains(time)));
        assert!(times.iter().any(|time| *time < second * 6 / 10) && times.iter().any(|time| *time > second * 9 / 10));
        let numbers: Vec<_> = (0..1000).map(|_| random.within(10, 1000)).collect();
        assert!(numbers.iter().all(|number| (900..=1100).contains(number)));
        assert!(numbers.iter().any(|number| *number < 920) && numbers.iter().any(|number| *number > 1080));
        assert_eq!((random.half_to_whole(Duration::ZERO), random.within(10, 0)), (Duration::ZERO, 0));
        assert!(random.within(10, u64::MAX) >= u64::MAX / 10 * 8);
    }
}
