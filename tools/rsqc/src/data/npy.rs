//! NumPy's `.npy` format, versions 1 to 3. Source: numpy/lib/format.py.
//!
//! The header is a Python dictionary literal; only its three fixed keys and literal values are accepted, read by a small
//! scanner without recursion: nothing is evaluated.

use std::io::{self, Read, Write};

use rsqc_ir::types::ScalarType;

use super::Array;

/// Longest header that is read, in bytes. NumPy itself refuses more than 10,000 unless told otherwise.
const MAX_HEADER: usize = 64 << 10;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Element type.
    pub ty: ScalarType,
    /// Whether elements are big-endian in the file.
    pub big_endian: bool,
    /// Whether the first axis varies fastest.
    pub fortran: bool,
    /// Extents.
    pub shape: Vec<usize>,
    /// Bytes of the data behind the header.
    pub bytes: usize,
}

/// Reads magic, version and header.
pub fn read_header(r: &mut impl Read) -> Result<Header, String> {
    let mut start = [0u8; 8];
    read_exact(r, &mut start, "the header")?;
    if &start[..6] != b"\x93NUMPY" {
        return Err("is not an .npy array (no NumPy magic at its start)".into());
    }
    let length = match start[6..] {
        [1, 0] => {
            let mut n = [0u8; 2];
            read_exact(r, &mut n, "the header")?;
            usize::from(u16::from_le_bytes(n))
        }
        [2 | 3, 0] => {
            let mut n = [0u8; 4];
            read_exact(r, &mut n, "the header")?;
            u32::from_le_bytes(n) as usize
        }
        _ => {
            return Err(format!(
                ".npy version {}.{} is not known, expected 1.0, 2.0 or 3.0",
                start[6], start[7]
            ));
        }
    };
    if length > MAX_HEADER {
        return Err(format!(
            "its .npy header claims {length} bytes, over the limit of {MAX_HEADER}"
        ));
    }
    let mut text = vec![0u8; length];
    read_exact(r, &mut text, "the header")?;
    let text = std::str::from_utf8(&text).map_err(|_| "its .npy header is not text")?;
    parse_header(text)
}

fn read_exact(r: &mut impl Read, buf: &mut [u8], what: &str) -> Result<(), String> {
    r.read_exact(buf).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => format!("ends inside {what}"),
        _ => e.to_string(),
    })
}

/// Reads what follows the header, to the end of the stream.
pub fn read_data(r: &mut impl Read, h: &Header) -> Result<Array, String> {
    let array = read_part(r, h)?;
    let mut extra = [0u8; 1];
    if r.read(&mut extra).map_err(|e| e.to_string())? != 0 {
        return Err(format!(
            "has more than the {} bytes of data expected for its shape",
            h.bytes
        ));
    }
    Ok(array)
}

/// Reads the bytes that `h` asks for. Memory grows with the bytes that really come, never with a claim.
pub fn read_part(r: &mut impl Read, h: &Header) -> Result<Array, String> {
    let mut data = Vec::new();
    r.by_ref()
        .take(h.bytes as u64)
        .read_to_end(&mut data)
        .map_err(|e| e.to_string())?;
    if data.len() != h.bytes {
        return Err(format!(
            "has {} bytes of data, expected {} for its shape",
            data.len(),
            h.bytes
        ));
    }
    let size = h.ty.size();
    if h.big_endian && size > 1 {
        data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    if h.ty == ScalarType::Bool {
        data.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    if h.fortran && h.shape.len() > 1 {
        data = to_row_major(&data, &h.shape, size);
    }
    Ok(Array {
        ty: h.ty,
        shape: h.shape.clone(),
        data,
    })
}

/// Reorders column-major elements of `size` bytes.
fn to_row_major(data: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut strides = vec![size; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1] * shape[axis - 1];
    }
    let mut out = Vec::with_capacity(data.len());
    let mut index = vec![0usize; shape.len()];
    let mut at = 0;
    while out.len() < data.len() {
        out.extend_from_slice(&data[at..at + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

/// Writes an array in version 1.0, row-major.
pub fn write(w: &mut impl Write, ty: ScalarType, shape: &[usize], data: &[u8]) -> io::Result<()> {
    let mut dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
    if shape.len() > 1 {
        dims.truncate(dims.len() - 2);
    } else if shape.len() == 1 {
        dims.truncate(dims.len() - 1);
    }
    let mut text = format!(
        "{{'descr': '{}', 'fortran_order': False, 'shape': ({dims}), }}",
        descr(ty)
    );
    // The data starts at a multiple of 64: 10 bytes come before the text, and a line feed ends it.
    let total = (10 + text.len() + 1).next_multiple_of(64);
    text.extend(std::iter::repeat_n(' ', total - 10 - text.len() - 1));
    text.push('\n');
    w.write_all(b"\x93NUMPY\x01\x00")?;
    let length = u16::try_from(text.len()).map_err(|_| io::Error::other("the rank is too large for .npy"))?;
    w.write_all(&length.to_le_bytes())?;
    w.write_all(text.as_bytes())?;
    w.write_all(data)
}

/// NumPy's name of a type. There is none for bf16: its bits are written as u16.
fn descr(ty: ScalarType) -> &'static str {
    use ScalarType::*;
    match ty {
        F64 => "<f8",
        F32 => "<f4",
        F16 => "<f2",
        I64 => "<i8",
        I32 => "<i4",
        I16 => "<i2",
        I8 => "|i1",
        U64 => "<u8",
        U32 => "<u4",
        U16 | BF16 => "<u2",
        U8 => "|u1",
        Bool => "|b1",
    }
}

fn parse_type(text: &str) -> Result<(ScalarType, bool), String> {
    use ScalarType::*;
    let (order, rest) = match text.chars().next() {
        Some(c @ ('<' | '>' | '|' | '=')) => (c, &text[1..]),
        _ => ('|', text),
    };
    let ty = match rest {
        "f8" => F64,
        "f4" => F32,
        "f2" => F16,
        "i8" => I64,
        "i4" => I32,
        "i2" => I16,
        "i1" => I8,
        "u8" => U64,
        "u4" => U32,
        "u2" => U16,
        "u1" => U8,
        "b1" | "?" => Bool,
        _ if rest.starts_with('O') => return Err("holds pickled Python objects, which are never read".into()),
        _ => {
            return Err(format!(
                "has the element type '{}', expected a number type",
                rsqc_onnx::error::escape(text)
            ));
        }
    };
    Ok((ty, order == '>'))
}

/// A scanner over the header's text.
struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Consumes `token` if it comes next.
    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn need(&mut self, token: &str) -> Result<(), String> {
        if self.eat(token) {
            return Ok(());
        }
        let found: String = self.rest.chars().take(16).collect();
        Err(format!(
            "its .npy header has '{}' where '{token}' is expected",
            rsqc_onnx::error::escape(&found)
        ))
    }

    /// A quoted string without escapes.
    fn string(&mut self) -> Result<&'a str, String> {
        self.skip();
        let quote = match self.rest.chars().next() {
            Some(q @ ('\'' | '"')) => q,
            Some('[') => return Err("has a record type, expected a number type".into()),
            _ => return Err("its .npy header is not a dictionary of known keys".into()),
        };
        let body = &self.rest[1..];
        match body.find(quote) {
            Some(end) if !body[..end].contains('\\') => {
                self.rest = &body[end + 1..];
                Ok(&body[..end])
            }
            _ => Err("its .npy header has a string that does not end".into()),
        }
    }

    fn shape(&mut self) -> Result<Vec<usize>, String> {
        self.need("(")?;
        let mut shape = Vec::new();
        while !self.eat(")") {
            self.skip();
            let digits = self
                .rest
                .find(|c: char| !c.is_ascii_digit() && c != '-')
                .unwrap_or(self.rest.len());
            let (number, rest) = self.rest.split_at(digits);
            let Ok(extent) = number.parse::<usize>() else {
                return Err(format!(
                    "its shape has the extent '{}', expected 0 or more",
                    rsqc_onnx::error::escape(number)
                ));
            };
            // Python 2 wrote long integers with an L.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if shape.len() == 64 {
                return Err("its rank is over the limit of 64".into());
            }
            shape.push(extent);
            if !self.eat(",") {
                self.need(")")?;
                break;
            }
        }
        Ok(shape)
    }
}

fn parse_header(text: &str) -> Result<Header, String> {
    let mut s = Scan { rest: text };
    let (mut ty, mut fortran, mut shape) = (None, None, None);
    s.need("{")?;
    while !s.eat("}") {
        let key = s.string()?;
        s.need(":")?;
        let again = match key {
            "descr" => ty.replace(parse_type(s.string()?)?).is_some(),
            "fortran_order" if s.eat("True") => fortran.replace(true).is_some(),
            "fortran_order" => {
                s.need("False")?;
                fortran.replace(false).is_some()
            }
            "shape" => shape.replace(s.shape()?).is_some(),
            _ => {
                return Err(format!(
                    "its .npy header has the unknown key '{}'",
                    rsqc_onnx::error::escape(key)
                ));
            }
        };
        if again {
            return Err(format!("its .npy header has the key '{key}' twice"));
        }
        if !s.eat(",") {
            s.need("}")?;
            break;
        }
    }
    if !s.rest.trim().is_empty() {
        return Err("its .npy header has text behind the dictionary".into());
    }
    let (Some((ty, big_endian)), Some(fortran), Some(shape)) = (ty, fortran, shape) else {
        return Err("its .npy header lacks one of 'descr', 'fortran_order', 'shape'".into());
    };
    let count = if shape.contains(&0) {
        Some(0)
    } else {
        shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    };
    let bytes = count
        .and_then(|n| n.checked_mul(ty.size()))
        .filter(|&n| n <= isize::MAX as usize);
    let Some(bytes) = bytes else {
        return Err("the product of its extents overflows".into());
    };
    Ok(Header {
        ty,
        big_endian,
        fortran,
        shape,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(data);
        out
    }

    fn read(bytes: &[u8]) -> Result<Array, String> {
        let mut r = bytes;
        let h = read_header(&mut r)?;
        read_data(&mut r, &h)
    }

    #[test]
    fn round_trip_of_shapes() {
        for shape in [vec![], vec![3], vec![2, 0], vec![2, 1, 3]] {
            let n: usize = shape.iter().product();
            let data: Vec<u8> = (0..n * 2).map(|v| v as u8).collect();
            let mut out = Vec::new();
            write(&mut out, ScalarType::I16, &shape, &data).unwrap();
            assert_eq!((out.len() - data.len()) % 64, 0);
            assert_eq!(
                read(&out).unwrap(),
                Array {
                    ty: ScalarType::I16,
                    shape,
                    data
                }
            );
        }
    }

    #[test]
    fn fortran_order_and_big_endian() {
        // [[1, 2, 3], [4, 5, 6]] stored by columns
        let a = npy(
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }",
            &[1, 4, 2, 5, 3, 6],
        );
        assert_eq!(read(&a).unwrap().data, [1, 2, 3, 4, 5, 6]);
        let a = npy(
            "{'descr': '>i2', 'fortran_order': False, 'shape': (2,)}",
            &[0, 1, 0, 2],
        );
        assert_eq!(read(&a).unwrap().data, [1, 0, 2, 0]);
    }

    #[test]
    fn bad_headers_are_refused() {
        let cases = [
            (
                "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
                "pickled",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
                "extent '-1'",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999)}",
                "overflows",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000,)}",
                "0 bytes of data, expected 4000000",
            ),
            (
                "{'descr': __import__('os'), 'fortran_order': False, 'shape': ()}",
                "not a dictionary",
            ),
            (
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': ()}",
                "record type",
            ),
            ("{'descr': '<f4', 'shape': ()}", "lacks"),
            ("{'descr': '<f4', 'descr': '<f4'}", "twice"),
            ("((((((((((((((", "expected"),
            ("{'descr': '<c8', 'fortran_order': False, 'shape': ()}", "'<c8'"),
        ];
        for (header, want) in cases {
            let text = read(&npy(header, &[])).unwrap_err();
            assert!(text.contains(want), "{header}: {text}");
        }
        assert!(
            read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff")
                .unwrap_err()
                .contains("over the limit")
        );
        assert!(read(b"PK\x03\x04 something").unwrap_err().contains("magic"));
        assert!(read(b"\x93NUM").unwrap_err().contains("ends inside"));
        let long = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}", &[1, 2]);
        assert!(read(&long).unwrap_err().contains("more than"));
    }

    #[test]
    fn no_truncation_panics() {
        let mut whole = Vec::new();
        write(&mut whole, ScalarType::F32, &[2, 2], &[7; 16]).unwrap();
        for n in 0..whole.len() {
            read(&whole[..n]).unwrap_err();
        }
    }
}
