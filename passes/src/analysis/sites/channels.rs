//! Where the channels of an activation lie in the values that it is computed from.

use rsqc_ir::ops::shape::Slice;
use rsqc_ir::{Dim, Module, ValueId};
use std::collections::BTreeMap;
use std::ops::Range;

/// Channels of a site, and the place of each in a value: coordinates along some axes. Along the value's other axes a
/// channel's elements lie everywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Places {
    /// Channels of the site.
    pub channels: Vec<u32>,
    /// Axis -> coordinate of each channel, parallel to `channels`.
    pub along: BTreeMap<usize, Vec<u32>>,
}

impl Places {
    /// All channels of `axis`, in order.
    pub fn axis(axis: usize, extent: usize) -> Places {
        let all: Vec<u32> = (0..extent as u32).collect();
        Places {
            channels: all.clone(),
            along: BTreeMap::from([(axis, all)]),
        }
    }

    /// What is left if only these axes may tell channels apart; `None` if none does.
    pub fn project(&self, keep: impl Fn(usize) -> bool) -> Option<Places> {
        let along: BTreeMap<usize, Vec<u32>> = self
            .along
            .iter()
            .filter(|(a, _)| keep(**a))
            .map(|(a, c)| (*a, c.clone()))
            .collect();
        (!along.is_empty()).then(|| Places {
            channels: self.channels.clone(),
            along,
        })
    }

    /// The same places under other names of the axes; axes without a new name no longer tell channels apart.
    pub fn rename(&self, to: impl Fn(usize) -> Option<usize>) -> Option<Places> {
        let along: BTreeMap<usize, Vec<u32>> = self
            .along
            .iter()
            .filter_map(|(a, c)| Some((to(*a)?, c.clone())))
            .collect();
        (!along.is_empty()).then(|| Places {
            channels: self.channels.clone(),
            along,
        })
    }

    /// Places in the operand of a reshape. Axes are matched from the back in groups of equal, constant extent; a group
    /// must be covered completely or not at all.
    pub fn reshape(&self, out: &[Dim], input: &[Dim]) -> Option<Places> {
        // An axis of extent 1 tells nothing apart.
        let telling = self.project(|a| !out[a].is(1))?;
        telling.reshape_telling(out, input)
    }

    fn reshape_telling(&self, out: &[Dim], input: &[Dim]) -> Option<Places> {
        let groups = groups(out, input);
        let mut along = BTreeMap::new();
        let mut found = 0;
        for (o, i) in groups {
            let ours: Vec<usize> = o.clone().filter(|a| self.along.contains_key(a)).collect();
            if ours.is_empty() {
                continue;
            }
            found += ours.len();
            if o.len() == 1 && i.len() == 1 {
                along.insert(i.start, self.along[&o.start].clone());
                continue;
            }
            let extent = |d: &Dim| d.as_const().and_then(|e| u32::try_from(e).ok());
            if o.clone().any(|a| !ours.contains(&a) && !out[a].is(1)) {
                return None;
            }
            let outs: Vec<u32> = o.clone().map(|a| extent(&out[a])).collect::<Option<_>>()?;
            let ins: Vec<u32> = i.clone().map(|a| extent(&input[a])).collect::<Option<_>>()?;
            let mut columns = vec![Vec::with_capacity(self.channels.len()); ins.len()];
            for c in 0..self.channels.len() {
                let mut linear = 0u32;
                for (a, e) in o.clone().zip(&outs) {
                    linear = linear * e + self.along.get(&a).map_or(0, |v| v[c]);
                }
                for (column, e) in columns.iter_mut().zip(&ins).rev() {
                    column.push(linear % e);
                    linear /= e;
                }
            }
            along.extend(i.zip(columns));
        }
        (found == self.along.len() && !along.is_empty()).then(|| Places {
            channels: self.channels.clone(),
            along,
        })
    }

    /// Places in the operand of a slice.
    pub fn slice(&self, s: &Slice) -> Option<Places> {
        let mut out = self.clone();
        for (a, column) in &mut out.along {
            let (start, step) = (s.starts.get(*a)?.as_const()?, *s.steps.get(*a)?);
            for c in column.iter_mut() {
                *c = u32::try_from(start + i64::from(*c) * step).ok()?;
            }
        }
        Some(out)
    }

    /// The channels that lie in `range` along `axis`, counted from its start.
    pub fn within(&self, axis: usize, range: &Range<u32>) -> Option<Places> {
        let column = self.along.get(&axis)?;
        let keep: Vec<usize> = (0..column.len())
            .filter(|i| range.contains(&column[*i]))
            .collect();
        let pick = |v: &Vec<u32>| keep.iter().map(|i| v[*i]).collect::<Vec<u32>>();
        let mut along: BTreeMap<usize, Vec<u32>> = self.along.iter().map(|(a, c)| (*a, pick(c))).collect();
        for c in along.get_mut(&axis)? {
            *c -= range.start;
        }
        Some(Places {
            channels: pick(&self.channels),
            along,
        })
    }
}

/// Axes of two shapes of the same elements, matched from the back as far as extents are constant (or equal).
fn groups(out: &[Dim], input: &[Dim]) -> Vec<(Range<usize>, Range<usize>)> {
    let (mut i, mut j) = (out.len(), input.len());
    let mut all = Vec::new();
    while i > 0 && j > 0 {
        let (end_i, end_j) = (i, j);
        i -= 1;
        j -= 1;
        if out[i] != input[j] {
            let (Some(mut a), Some(mut b)) = (out[i].as_const(), input[j].as_const()) else {
                return all;
            };
            while a != b {
                let (at, shape, product) = if a < b {
                    (&mut i, out, &mut a)
                } else {
                    (&mut j, input, &mut b)
                };
                let Some(e) = at.checked_sub(1).and_then(|k| shape[k].as_const()) else {
                    return all;
                };
                *at -= 1;
                match product.checked_mul(e).filter(|p| *p > 0) {
                    Some(p) => *product = p,
                    None => return all,
                }
            }
        }
        all.push((i..end_i, j..end_j));
    }
    all
}

/// Extents of a constant along these axes of a value of rank `rank` that it broadcasts to; `None` where it has no such
/// axis.
pub(super) fn extent_along(m: &Module, c: ValueId, rank: usize, axis: usize) -> Option<usize> {
    let shape = m.const_of(c)?.ty.static_shape()?;
    let at = (axis + shape.len()).checked_sub(rank)?;
    shape.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{dims, sym};

    #[test]
    fn reshapes_split_and_join_axes_from_the_back() {
        let p = Places::axis(2, 6);
        let split = p
            .reshape(&sym(&["b", "s", "6"]), &sym(&["b", "s", "2", "3"]))
            .expect("fits");
        assert_eq!(split.along[&2], [0, 0, 0, 1, 1, 1]);
        assert_eq!(split.along[&3], [0, 1, 2, 0, 1, 2]);
        let joined = split
            .reshape(&sym(&["b", "s", "2", "3"]), &sym(&["b", "s", "6"]))
            .expect("fits");
        assert_eq!(joined, p);
        // Half a group is not enough, and neither are extents that are not known.
        let half = split.project(|a| a == 3).expect("one axis is left");
        assert_eq!(
            half.reshape(&sym(&["b", "s", "2", "3"]), &sym(&["b", "s", "6"])),
            None
        );
        assert_eq!(
            Places::axis(1, 6).reshape(&sym(&["b", "6", "t"]), &sym(&["b", "2", "3", "u"])),
            None
        );
        let flat = Places::axis(1, 12)
            .reshape(&sym(&["n", "12"]), &sym(&["n", "3", "2", "2"]))
            .expect("fits");
        assert_eq!(flat.along[&1], [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
        assert!(groups(&dims(&[0, 4]), &dims(&[4, 0])).is_empty());
        assert_eq!(groups(&dims(&[2, 0]), &dims(&[2, 0])).len(), 2);
    }

    #[test]
    fn concatenations_share_channels_out() {
        let p = Places::axis(1, 5);
        let (a, b) = (
            p.within(1, &(0..2)).expect("an axis"),
            p.within(1, &(2..5)).expect("an axis"),
        );
        assert_eq!(a.channels, [0, 1]);
        assert_eq!((b.channels, b.along[&1].clone()), (vec![2, 3, 4], vec![0, 1, 2]));
    }
}
