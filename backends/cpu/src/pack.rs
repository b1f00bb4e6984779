//! The packed forms of constant matrices: one form of each serves every level.
//!
//! **int8**, from a logical `[K, N]` of signed codes. `K` is padded with zeros to `Kp`, a multiple of 4, and `N` to a
//! multiple of 64. Columns are cut into panels of 64; a panel is
//!
//! ```text
//! Kp/4 groups of 4 k, each      4 blocks of 16 columns: 16 x 4 bytes, column-major (the 4 k of a column adjoin)
//! corrections   64 x i32        -128 * (sum over k of the column's codes)
//! scales        64 x f32        the column's scale; 0 for padding columns
//! ```
//!
//! so one block is a 512-bit operand of `vpdpbusd`, and the panel's stride is `Kp * 64 + 512` bytes. Activations reach
//! the kernel as `u8 = s8 + 128`; adding the correction to the raw sum `sum (a + 128) * w` gives `sum a * w` exactly.
//!
//! Rows may be cut into segments of equal length, the pieces of a convolution's window that adjoin in the left factor: then
//! each segment is padded on its own, and `Kp` is the sum of the padded lengths.
//!
//! **f32**: panels of 64 columns; a panel is K rows of 64 floats (256 bytes), zero-padded in N only.
//!
//! Both start 64-byte aligned and are little-endian.

/// Columns of a panel.
pub const PANEL: usize = 64;
/// Columns of a block.
pub const BLOCK: usize = 16;
/// Codes of one column that adjoin.
pub const GROUP: usize = 4;
/// Bytes behind the codes of an int8 panel: corrections, then scales.
pub const TAIL: usize = 2 * 4 * PANEL;

/// A matrix whose element `(k, n)` is `data[k * k_stride + n * n_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    /// All elements.
    pub data: &'a [T],
    /// Rows (the reduced dimension).
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Elements from one row to the next.
    pub k_stride: usize,
    /// Elements from one column to the next.
    pub n_stride: usize,
}

/// Why a matrix cannot be packed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackError {
    /// The strides reach beyond the data.
    #[error("a {k} x {n} matrix reaches beyond its {len} elements")]
    Bounds {
        /// Rows.
        k: usize,
        /// Columns.
        n: usize,
        /// Elements there are.
        len: usize,
    },
    /// Neither one scale nor one a column.
    #[error("{got} scales for {n} columns")]
    Scales {
        /// Columns.
        n: usize,
        /// Scales given.
        got: usize,
    },
    /// The rows are no whole number of segments.
    #[error("{k} rows in segments of {segment}")]
    Segments {
        /// Rows.
        k: usize,
        /// Rows of a segment.
        segment: usize,
    },
    /// Sums of so many products of 8-bit codes need not fit 32 bits.
    #[error("a reduction over {0} int8 products may overflow 32 bits")]
    TooLong(usize),
    /// The packed size overflows.
    #[error("the packed matrix is too large")]
    TooLarge,
}

/// Longest int8 reduction whose sum (of products up to 128 * 128) always fits an i32.
pub const MAX_K: usize = (i32::MAX / (128 * 128)) as usize;

impl<'a, T: Copy> Matrix<'a, T> {
    /// A dense row-major `[k, n]`.
    pub fn row_major(data: &'a [T], k: usize, n: usize) -> Self {
        Matrix {
            data,
            k,
            n,
            k_stride: n,
            n_stride: 1,
        }
    }

    /// The dense row-major `[n, k]`, read transposed.
    pub fn transposed(data: &'a [T], k: usize, n: usize) -> Self {
        Matrix {
            data,
            k,
            n,
            k_stride: 1,
            n_stride: k,
        }
    }

    fn at(&self, k: usize, n: usize) -> T {
        self.data[k * self.k_stride + n * self.n_stride]
    }

    fn check(&self) -> Result<(), PackError> {
        let error = PackError::Bounds {
            k: self.k,
            n: self.n,
            len: self.data.len(),
        };
        let (Some(k), Some(n)) = (self.k.checked_sub(1), self.n.checked_sub(1)) else {
            return Ok(());
        };
        let last = k
            .checked_mul(self.k_stride)
            .and_then(|rows| rows.checked_add(n.checked_mul(self.n_stride)?));
        if last.is_some_and(|last| last < self.data.len()) {
            Ok(())
        } else {
            Err(error)
        }
    }
}

/// Panels that cover `n` columns.
pub fn panels(n: usize) -> usize {
    n.div_ceil(PANEL)
}

/// Bytes from one int8 panel to the next.
pub fn i8_panel_bytes(k: usize) -> usize {
    k.next_multiple_of(GROUP) * PANEL + TAIL
}

/// Bytes from one f32 panel to the next.
pub fn f32_panel_bytes(k: usize) -> usize {
    k * PANEL * 4
}

fn total(panel: Option<usize>, n: usize) -> Result<usize, PackError> {
    panel
        .and_then(|panel| panel.checked_mul(panels(n)))
        .filter(|&bytes| bytes <= isize::MAX as usize)
        .ok_or(PackError::TooLarge)
}

/// Packs signed 8-bit codes with their scales: one for all columns, or one a column.
///
/// # Errors
/// [`PackError`].
pub fn pack_i8(matrix: Matrix<'_, i8>, scales: &[f32]) -> Result<Vec<u8>, PackError> {
    pack_i8_segments(matrix, matrix.k, scales)
}

/// Packs signed 8-bit codes whose rows are cut into segments of `segment` rows, of which there is a whole number.
///
/// # Errors
/// [`PackError`].
pub fn pack_i8_segments(
    matrix: Matrix<'_, i8>,
    segment: usize,
    scales: &[f32],
) -> Result<Vec<u8>, PackError> {
    matrix.check()?;
    let count = matrix.k.checked_div(segment).unwrap_or(0);
    if count * segment != matrix.k {
        return Err(PackError::Segments { k: matrix.k, segment });
    }
    if scales.len() != 1 && scales.len() != matrix.n {
        return Err(PackError::Scales {
            n: matrix.n,
            got: scales.len(),
        });
    }
    if matrix.k > MAX_K {
        return Err(PackError::TooLong(matrix.k));
    }
    let padded = segment.next_multiple_of(GROUP);
    let stride = i8_panel_bytes(count * padded);
    let mut packed = vec![0u8; total(Some(stride), matrix.n)?];
    for (p, panel) in packed.chunks_exact_mut(stride).enumerate() {
        let (codes, tail) = panel.split_at_mut(stride - TAIL);
        for column in 0..PANEL.min(matrix.n - p * PANEL) {
            let n = p * PANEL + column;
            let mut sum = 0i32;
            for k in 0..matrix.k {
                let code = matrix.at(k, n);
                let row = k / segment * padded + k % segment;
                codes[code_offset(row, column)] = code as u8;
                sum += i32::from(code);
            }
            let scale = if scales.len() == 1 { scales[0] } else { scales[n] };
            tail[column * 4..][..4].copy_from_slice(&(-128 * sum).to_le_bytes());
            tail[(PANEL + column) * 4..][..4].copy_from_slice(&scale.to_le_bytes());
        }
    }
    Ok(packed)
}

/// Where a panel holds the code of row `k` and a column of the panel.
fn code_offset(k: usize, column: usize) -> usize {
    (k / GROUP) * PANEL * GROUP + column * GROUP + k % GROUP
}

/// The dense row-major `[k, n]` codes and the `n` scales of a packed matrix: the inverse of [`pack_i8`].
///
/// # Errors
/// [`PackError::Bounds`] if `packed` is not of that shape.
pub fn unpack_i8(packed: &[u8], k: usize, n: usize) -> Result<(Vec<i8>, Vec<f32>), PackError> {
    let stride = i8_panel_bytes(k);
    if packed.len() != total(Some(stride), n)? {
        return Err(PackError::Bounds {
            k,
            n,
            len: packed.len(),
        });
    }
    let mut codes = vec![0i8; k * n];
    let mut scales = Vec::with_capacity(n);
    for column in 0..n {
        let panel = &packed[column / PANEL * stride..][..stride];
        for row in 0..k {
            codes[row * n + column] = panel[code_offset(row, column % PANEL)] as i8;
        }
        let at = stride - TAIL / 2 + column % PANEL * 4;
        let bytes = [panel[at], panel[at + 1], panel[at + 2], panel[at + 3]];
        scales.push(f32::from_le_bytes(bytes));
    }
    Ok((codes, scales))
}

/// Packs floats.
///
/// # Errors
/// [`PackError`].
pub fn pack_f32(matrix: Matrix<'_, f32>) -> Result<Vec<u8>, PackError> {
    matrix.check()?;
    let stride = matrix.k.checked_mul(PANEL * 4);
    let mut packed = vec![0u8; total(stride, matrix.n)?];
    for n in 0..matrix.n {
        let panel = n / PANEL * f32_panel_bytes(matrix.k);
        for k in 0..matrix.k {
            let at = panel + (k * PANEL + n % PANEL) * 4;
            packed[at..at + 4].copy_from_slice(&matrix.at(k, n).to_le_bytes());
        }
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(count: usize) -> Vec<i8> {
        (0..count)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as i8)
            .collect()
    }

    #[test]
    fn packing_round_trips() {
        for (k, n) in [(1, 1), (3, 5), (4, 64), (5, 65), (64, 63), (7, 200)] {
            let data = codes(k * n);
            let scales: Vec<f32> = (0..n).map(|i| i as f32 + 0.5).collect();
            let packed = pack_i8(Matrix::row_major(&data, k, n), &scales).expect("a valid matrix");
            assert_eq!(packed.len(), panels(n) * i8_panel_bytes(k));
            assert_eq!(unpack_i8(&packed, k, n), Ok((data.clone(), scales.clone())));
            let turned: Vec<i8> = (0..k * n).map(|i| data[i % k * n + i / k]).collect();
            assert_eq!(pack_i8(Matrix::transposed(&turned, k, n), &scales), Ok(packed));
        }
    }

    #[test]
    fn segments_are_padded_each() {
        let (segments, length, n) = (3, 5, 2);
        let data = codes(segments * length * n);
        let matrix = Matrix::row_major(&data, segments * length, n);
        let packed = pack_i8_segments(matrix, length, &[1.0]).expect("a valid matrix");
        // The same as a matrix in which zeros fill each segment up.
        let mut filled = Vec::new();
        for s in data.chunks(length * n) {
            filled.extend_from_slice(s);
            filled.resize(filled.len() + 3 * n, 0);
        }
        assert_eq!(
            pack_i8(Matrix::row_major(&filled, segments * 8, n), &[1.0]),
            Ok(packed)
        );
        let error = PackError::Segments { k: 15, segment: 4 };
        assert_eq!(pack_i8_segments(matrix, 4, &[1.0]), Err(error));
    }

    #[test]
    fn corrections_undo_the_shift_by_128() {
        let (k, n) = (9, 70);
        let data = codes(k * n);
        let packed = pack_i8(Matrix::row_major(&data, k, n), &[1.0]).expect("a valid matrix");
        for column in 0..n {
            let sum: i32 = (0..k).map(|row| i32::from(data[row * n + column])).sum();
            let at = (column / PANEL + 1) * i8_panel_bytes(k) - TAIL + column % PANEL * 4;
            let stored = i32::from_le_bytes(packed[at..at + 4].try_into().expect("four bytes"));
            assert_eq!(stored, -128 * sum);
        }
    }

    #[test]
    fn bad_shapes_are_refused() {
        let data = [0i8; 6];
        let short = Matrix::row_major(&data, 2, 4);
        assert_eq!(
            pack_i8(short, &[1.0]),
            Err(PackError::Bounds { k: 2, n: 4, len: 6 })
        );
        let scales = pack_i8(Matrix::row_major(&data, 2, 3), &[1.0; 2]);
        assert_eq!(scales, Err(PackError::Scales { n: 3, got: 2 }));
        let long = Matrix {
            data: &data,
            k: MAX_K + 1,
            n: 1,
            k_stride: 0,
            n_stride: 1,
        };
        assert_eq!(pack_i8(long, &[1.0]), Err(PackError::TooLong(MAX_K + 1)));
    }

    #[test]
    fn floats_are_packed_by_panels() {
        let (k, n) = (3, 66);
        let data: Vec<f32> = (0..k * n).map(|i| i as f32).collect();
        let packed = pack_f32(Matrix::row_major(&data, k, n)).expect("a valid matrix");
        assert_eq!(packed.len(), 2 * k * 256);
        let read = |at: usize| f32::from_le_bytes(packed[at..at + 4].try_into().expect("four bytes"));
        assert_eq!(read(256 + 5 * 4), data[n + 5]);
        assert_eq!(read(k * 256 + 2 * 256 + 4), data[2 * n + 65]);
        assert_eq!(read(k * 256 + 2 * 4), 0.0);
    }
}
