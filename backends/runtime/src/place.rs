//! Where buffers lie in the arena.
//!
//! Greedy by size: the largest buffer first, each into the smallest gap that fits between the buffers that are
//! alive at the same time and placed already, else behind them. Ties go by index, so that the same sizes give
//! the same offsets on every run.

use rsqc_artifact::ALIGN;

/// One buffer to place.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Size in bytes.
    pub bytes: usize,
    /// First step of the live range.
    pub first: u32,
    /// Last step of the live range, inclusive.
    pub last: u32,
}

/// The result: an offset for every item, and the size of the arena.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Placement {
    /// Byte offsets, multiples of [`ALIGN`].
    pub offsets: Vec<usize>,
    /// Bytes of the whole arena, slack included.
    pub total: usize,
}

/// The room an item takes: its bytes, rounded up, and [`ALIGN`] bytes of slack. `None` on overflow.
pub fn footprint(bytes: usize) -> Option<usize> {
    bytes.checked_add(2 * ALIGN - 1).map(|sum| sum / ALIGN * ALIGN)
}

/// Places all items; `None` if the sum of their sizes overflows.
pub fn place(items: &[Item]) -> Option<Placement> {
    let sizes: Vec<usize> = items
        .iter()
        .map(|item| footprint(item.bytes))
        .collect::<Option<_>>()?;
    sizes
        .iter()
        .try_fold(0usize, |sum, size| sum.checked_add(*size))
        .filter(|sum| isize::try_from(*sum).is_ok())?;
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(sizes[*i]), *i));

    let mut offsets = vec![0; items.len()];
    // Placed items in order of their offsets.
    let mut placed: Vec<usize> = Vec::with_capacity(items.len());
    let mut total = 0;
    for i in order {
        let offset = best_gap(items, &sizes, &offsets, &placed, i);
        offsets[i] = offset;
        total = total.max(offset + sizes[i]);
        let at = placed.partition_point(|p| offsets[*p] <= offset);
        placed.insert(at, i);
    }
    Some(Placement { offsets, total })
}

fn best_gap(items: &[Item], sizes: &[usize], offsets: &[usize], placed: &[usize], i: usize) -> usize {
    let mut best: Option<(usize, usize)> = None;
    let mut end = 0;
    for &p in placed {
        if items[p].last < items[i].first || items[i].last < items[p].first {
            continue;
        }
        if offsets[p] > end {
            let gap = offsets[p] - end;
            if gap >= sizes[i] && best.is_none_or(|(smallest, _)| gap < smallest) {
                best = Some((gap, end));
            }
        }
        end = end.max(offsets[p] + sizes[p]);
    }
    best.map_or(end, |(_, offset)| offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_dead_buffer_is_reused() {
        let item = |bytes, first, last| Item { bytes, first, last };
        let items = [
            item(1000, 0, 1),
            item(1000, 1, 2),
            item(1000, 2, 3),
            item(0, 0, 3),
        ];
        let placement = place(&items).expect("fits");
        assert_eq!(placement.offsets[0], placement.offsets[2]);
        assert_eq!(placement.total, 2 * 1088 + 64);
        assert_eq!(place(&items), Some(placement));
    }

    #[test]
    fn overflow_is_refused() {
        assert_eq!(
            place(&[Item {
                bytes: usize::MAX,
                first: 0,
                last: 0
            }]),
            None
        );
        let half = Item {
            bytes: usize::MAX / 2 - 200,
            first: 0,
            last: 0,
        };
        assert_eq!(place(&[half, half, half]), None);
    }

    proptest! {
        #[test]
        fn live_buffers_never_overlap(raw in prop::collection::vec((0usize..5000, 0u32..40, 0u32..12), 0..60)) {
            let items: Vec<Item> = raw.iter().map(|&(bytes, first, len)| Item { bytes, first, last: first + len }).collect();
            let placement = place(&items).expect("small");
            for (i, a) in items.iter().enumerate() {
                let (a0, a1) = (placement.offsets[i], placement.offsets[i] + a.bytes + ALIGN);
                prop_assert!(a0 % ALIGN == 0 && a1 <= placement.total);
                for (j, b) in items.iter().enumerate().skip(i + 1) {
                    let (b0, b1) = (placement.offsets[j], placement.offsets[j] + b.bytes + ALIGN);
                    let alive_together = a.first <= b.last && b.first <= a.last;
                    prop_assert!(!alive_together || a1 <= b0 || b1 <= a0, "{i} {j}");
                }
            }
        }
    }
}
