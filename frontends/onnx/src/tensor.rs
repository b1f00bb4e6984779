//! `TensorProto`: to dense little-endian data and back.
//!
//! Raw data is used where it lies; typed fields (`float_data`, `int32_data`, ...) and packed 4-bit codes are converted. The
//! declared dims are checked against the bytes that are really there before anything is allocated.

use onnx_protobuf::{Message, TensorProto, tensor_proto::DataLocation};
use rsqc_ir::types::ScalarType;

use crate::error::{ErrorKind, Res, escape, tensor_error};
use crate::source::{Bytes, ExternalFiles};
use crate::wire;

/// An ONNX element type that rsqc can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnnxType {
    /// The machine type of an element in memory; 4-bit codes take a byte each.
    pub storage: ScalarType,
    /// Bits of an element in the file: 8 times the storage size, or 4.
    pub bits: u8,
}

impl OnnxType {
    const fn whole(storage: ScalarType, bits: u8) -> OnnxType {
        OnnxType { storage, bits }
    }

    /// The type with this number in `TensorProto.DataType`; an error text that names it otherwise.
    pub fn from_code(code: i32) -> Result<OnnxType, String> {
        use ScalarType::*;
        Ok(match code {
            1 => OnnxType::whole(F32, 32),
            2 => OnnxType::whole(U8, 8),
            3 => OnnxType::whole(I8, 8),
            4 => OnnxType::whole(U16, 16),
            5 => OnnxType::whole(I16, 16),
            6 => OnnxType::whole(I32, 32),
            7 => OnnxType::whole(I64, 64),
            9 => OnnxType::whole(Bool, 8),
            10 => OnnxType::whole(F16, 16),
            11 => OnnxType::whole(F64, 64),
            12 => OnnxType::whole(U32, 32),
            13 => OnnxType::whole(U64, 64),
            16 => OnnxType::whole(BF16, 16),
            21 => OnnxType::whole(U8, 4),
            22 => OnnxType::whole(I8, 4),
            _ => {
                const NAMES: [(i32, &str); 11] = [
                    (0, "UNDEFINED"),
                    (8, "STRING"),
                    (14, "COMPLEX64"),
                    (15, "COMPLEX128"),
                    (17, "FLOAT8E4M3FN"),
                    (18, "FLOAT8E4M3FNUZ"),
                    (19, "FLOAT8E5M2"),
                    (20, "FLOAT8E5M2FNUZ"),
                    (23, "FLOAT4E2M1"),
                    (24, "FLOAT8E8M0"),
                    (25, "UINT2"),
                ];
                let name = NAMES
                    .iter()
                    .find(|(c, _)| *c == code)
                    .map_or("unknown", |(_, n)| n);
                return Err(format!("element type {code} ({name})"));
            }
        })
    }

    /// The number in `TensorProto.DataType` of a machine type.
    pub fn code(storage: ScalarType) -> i32 {
        use ScalarType::*;
        match storage {
            F32 => 1,
            U8 => 2,
            I8 => 3,
            U16 => 4,
            I16 => 5,
            I32 => 6,
            I64 => 7,
            Bool => 9,
            F16 => 10,
            F64 => 11,
            U32 => 12,
            U64 => 13,
            BF16 => 16,
        }
    }

    /// Bytes that `count` elements take in a file; `None` on overflow.
    fn file_bytes(self, count: usize) -> Option<usize> {
        match self.bits {
            4 => Some(count.div_ceil(2)),
            bits => count.checked_mul(usize::from(bits) / 8),
        }
    }
}

/// A dense tensor, row-major, little-endian.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name as the file gives it.
    pub name: String,
    /// Element type.
    pub ty: OnnxType,
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements in their storage type (a bool is 0 or 1).
    pub data: Bytes,
}

impl Tensor {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data
            .len()
            .checked_div(self.ty.storage.size())
            .unwrap_or_default()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

/// Reads a file that is one `TensorProto`, as ONNX test data has it. External data is refused.
pub fn read_tensor(bytes: &Bytes) -> Res<Tensor> {
    decode_range(bytes, 0..bytes.len(), None)
}

/// Reads the `TensorProto` in `range` of `bytes`, its raw data in place.
pub(crate) fn decode_range(
    bytes: &Bytes,
    range: std::ops::Range<usize>,
    files: Option<&mut ExternalFiles>,
) -> Res<Tensor> {
    let start = range.start;
    let split = wire::scan_tensor(bytes, range)?;
    let mut proto = TensorProto::new();
    for part in split.rest {
        proto
            .merge_from_bytes(bytes.get(part).unwrap_or_default())
            .map_err(|e| ErrorKind::Wire {
                offset: start,
                what: e.to_string(),
            })?;
    }
    decode(proto, split.raw.and_then(|r| bytes.slice(r)), files)
}

/// Turns a decoded `TensorProto` into a tensor. `raw` replaces its `raw_data` field.
pub(crate) fn decode(
    proto: TensorProto,
    raw: Option<Bytes>,
    files: Option<&mut ExternalFiles>,
) -> Res<Tensor> {
    let name = proto.name.clone();
    let ty = match OnnxType::from_code(proto.data_type) {
        Ok(ty) => ty,
        Err(what) if proto.data_type == 0 => return tensor_error(&name, format!("has {what}")),
        Err(what) => {
            return Err(ErrorKind::Unsupported(vec![format!(
                "{what} of tensor '{}'",
                escape(&name)
            )]));
        }
    };
    if proto.segment.is_some() {
        return Err(ErrorKind::Unsupported(vec![format!(
            "segmented tensor '{}'",
            escape(&name)
        )]));
    }
    let (shape, count) = check_dims(&name, &proto.dims)?;
    let Some(expected) = ty.file_bytes(count) else {
        return tensor_error(&name, "its size overflows");
    };
    let raw = match raw {
        Some(raw) if !raw.is_empty() => Some(raw),
        _ if !proto.raw_data.is_empty() => Some(Bytes::from(proto.raw_data.clone())),
        _ => None,
    };
    let data = if proto.data_location.value() == DataLocation::EXTERNAL as i32 {
        if raw.is_some() || typed_fields(&proto) > 0 {
            return tensor_error(&name, "has both external and embedded data");
        }
        match files {
            Some(files) => external(&name, &proto, expected, files)?,
            None => return tensor_error(&name, "has external data, which is not allowed here"),
        }
    } else if let Some(raw) = raw {
        if typed_fields(&proto) > 0 {
            return tensor_error(&name, "has both raw and typed data");
        }
        if raw.len() != expected {
            return tensor_error(
                &name,
                format!(
                    "has {} bytes of raw data, expected {expected} for its dims",
                    raw.len()
                ),
            );
        }
        raw
    } else {
        return Ok(Tensor {
            name,
            ty,
            data: typed(&proto, ty, count)?,
            shape,
        });
    };
    let data = finish(ty, count, data);
    Ok(Tensor {
        name,
        ty,
        shape,
        data,
    })
}

/// Extents and number of elements.
fn check_dims(name: &str, dims: &[i64]) -> Res<(Vec<usize>, usize)> {
    if dims.len() > 64 {
        return tensor_error(name, format!("has rank {}, expected at most 64", dims.len()));
    }
    let mut shape = Vec::with_capacity(dims.len());
    for (axis, &d) in dims.iter().enumerate() {
        match usize::try_from(d) {
            Ok(d) => shape.push(d),
            Err(_) => return tensor_error(name, format!("dimension {axis} is {d}, expected 0 or more")),
        }
    }
    // A zero extent makes the tensor empty whatever the others are.
    let count = if shape.contains(&0) {
        Some(0)
    } else {
        shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    };
    match count.filter(|&n| n <= isize::MAX as usize / 8) {
        Some(count) => Ok((shape, count)),
        None => tensor_error(name, "the product of its dims overflows"),
    }
}

/// How many of the typed data fields hold anything.
fn typed_fields(p: &TensorProto) -> usize {
    let filled = [
        !p.float_data.is_empty(),
        !p.int32_data.is_empty(),
        !p.int64_data.is_empty(),
        !p.double_data.is_empty(),
        !p.uint64_data.is_empty(),
        !p.string_data.is_empty(),
    ];
    filled.iter().filter(|f| **f).count()
}

/// Unpacks what file and memory store differently.
fn finish(ty: OnnxType, count: usize, data: Bytes) -> Bytes {
    if ty.bits == 4 {
        let signed = ty.storage == ScalarType::I8;
        let code = |i: usize| {
            let byte = data.get(i / 2).copied().unwrap_or_default();
            let nibble = if i.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
            if signed {
                ((nibble << 4) as i8 >> 4) as u8
            } else {
                nibble
            }
        };
        return (0..count).map(code).collect::<Vec<u8>>().into();
    }
    if ty.storage == ScalarType::Bool && data.iter().any(|&b| b > 1) {
        return data.iter().map(|&b| u8::from(b != 0)).collect::<Vec<u8>>().into();
    }
    data
}

/// Data from the typed fields.
fn typed(p: &TensorProto, ty: OnnxType, count: usize) -> Res<Bytes> {
    use ScalarType::*;
    if typed_fields(p) > 1 {
        return tensor_error(&p.name, "has data in more than one typed field");
    }
    let (field, found) = match ty.storage {
        F32 => ("float_data", p.float_data.len()),
        F64 => ("double_data", p.double_data.len()),
        I64 => ("int64_data", p.int64_data.len()),
        U32 | U64 => ("uint64_data", p.uint64_data.len()),
        _ => ("int32_data", p.int32_data.len()),
    };
    if found == 0 && typed_fields(p) > 0 {
        return tensor_error(
            &p.name,
            format!("has its data in the wrong field, expected {field} or raw_data"),
        );
    }
    let expected = if ty.bits == 4 { count.div_ceil(2) } else { count };
    if found != expected {
        return tensor_error(
            &p.name,
            format!("has {found} values in {field}, expected {expected} for its dims"),
        );
    }
    let narrow = |lo: i64, hi: i64| -> Res<()> {
        match p
            .int32_data
            .iter()
            .map(|v| i64::from(*v))
            .find(|v| !(lo..=hi).contains(v))
        {
            Some(v) => tensor_error(
                &p.name,
                format!("has the value {v} in int32_data, expected {lo} to {hi}"),
            ),
            None => Ok(()),
        }
    };
    let bytes: Vec<u8> = match ty.storage {
        F32 => p.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        F64 => p.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        I64 => p.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        U64 => p.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        U32 => {
            if let Some(v) = p.uint64_data.iter().find(|v| **v > u64::from(u32::MAX)) {
                return tensor_error(
                    &p.name,
                    format!("has the value {v} in uint64_data, expected at most {}", u32::MAX),
                );
            }
            p.uint64_data
                .iter()
                .flat_map(|v| (*v as u32).to_le_bytes())
                .collect()
        }
        I32 => p.int32_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        I16 => {
            narrow(i16::MIN.into(), i16::MAX.into())?;
            p.int32_data
                .iter()
                .flat_map(|v| (*v as i16).to_le_bytes())
                .collect()
        }
        U16 | F16 | BF16 => {
            narrow(0, u16::MAX.into())?;
            p.int32_data
                .iter()
                .flat_map(|v| (*v as u16).to_le_bytes())
                .collect()
        }
        I8 if ty.bits == 8 => {
            narrow(i8::MIN.into(), i8::MAX.into())?;
            p.int32_data.iter().map(|v| *v as u8).collect()
        }
        U8 | I8 => {
            narrow(0, u8::MAX.into())?;
            p.int32_data.iter().map(|v| *v as u8).collect()
        }
        Bool => p.int32_data.iter().map(|v| u8::from(*v != 0)).collect(),
    };
    Ok(finish(ty, count, bytes.into()))
}

/// Data from a file beside the model.
fn external(name: &str, p: &TensorProto, expected: usize, files: &mut ExternalFiles) -> Res<Bytes> {
    let mut location = None;
    let (mut offset, mut length) = (0usize, None);
    for entry in &p.external_data {
        let number = || match entry
            .value
            .parse::<u64>()
            .ok()
            .and_then(|v| usize::try_from(v).ok())
        {
            Some(v) if entry.value.bytes().all(|b| b.is_ascii_digit()) => Ok(v),
            _ => tensor_error(
                name,
                format!(
                    "external {} is '{}', expected a number",
                    entry.key,
                    escape(&entry.value)
                ),
            ),
        };
        match entry.key.as_str() {
            "location" if location.replace(entry.value.as_str()).is_some() => {
                return tensor_error(name, "has two external locations");
            }
            "offset" => offset = number()?,
            "length" => length = Some(number()?),
            _ => {}
        }
    }
    let Some(location) = location else {
        return tensor_error(name, "has external data without a location");
    };
    if let Some(length) = length.filter(|&n| n != expected) {
        return tensor_error(
            name,
            format!("its external length is {length} bytes, expected {expected} for its dims"),
        );
    }
    let file = files
        .open(location)
        .or_else(|e| tensor_error(name, e.to_string()))?;
    match offset
        .checked_add(expected)
        .and_then(|end| file.slice(offset..end))
    {
        Some(data) => Ok(data),
        None => tensor_error(
            name,
            format!(
                "needs {expected} bytes at {offset} of '{}', which has {} bytes",
                escape(location),
                file.len()
            ),
        ),
    }
}

/// Serialises a tensor as a `TensorProto` with dims, type, name and raw data.
pub fn write_tensor(name: &str, ty: ScalarType, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let mut proto = TensorProto::new();
    proto.dims = shape
        .iter()
        .map(|&d| i64::try_from(d).unwrap_or(i64::MAX))
        .collect();
    proto.data_type = OnnxType::code(ty);
    proto.name = name.to_owned();
    let mut out = proto
        .write_to_bytes()
        .expect("a message without required fields can be written to memory");
    // raw_data (field 9, length-delimited), appended by hand so that the data is copied once.
    out.push(9 << 3 | 2);
    let mut length = data.len() as u64;
    while length > 0x7f {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(data);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proto(ty: i32, dims: &[i64]) -> TensorProto {
        let mut p = TensorProto::new();
        p.name = "t".into();
        p.data_type = ty;
        p.dims = dims.to_vec();
        p
    }

    fn via_bytes(p: &TensorProto) -> Res<Tensor> {
        read_tensor(&p.write_to_bytes().unwrap().into())
    }

    #[test]
    fn round_trip() {
        let bytes = write_tensor("x", ScalarType::I16, &[2, 2], &[1, 0, 2, 0, 3, 0, 0xff, 0xff]);
        let t = read_tensor(&bytes.into()).unwrap();
        assert_eq!(
            (t.name.as_str(), t.ty.storage, t.shape.as_slice()),
            ("x", ScalarType::I16, &[2usize, 2][..])
        );
        assert_eq!(&t.data[6..], &[0xff, 0xff]);
        let empty = write_tensor("e", ScalarType::F32, &[0, 3], &[]);
        assert!(read_tensor(&empty.into()).unwrap().is_empty());
    }

    #[test]
    fn typed_fields_convert() {
        let mut p = proto(1, &[2]);
        p.float_data = vec![1.5, -2.0];
        assert_eq!(&*via_bytes(&p).unwrap().data, &[0, 0, 0xc0, 0x3f, 0, 0, 0, 0xc0]);
        let mut p = proto(22, &[3]);
        p.int32_data = vec![0x8f, 0x07];
        assert_eq!(&*via_bytes(&p).unwrap().data, &[0xff, 0xf8, 0x07]);
        let mut p = proto(9, &[2]);
        p.raw_data = vec![2, 0];
        assert_eq!(&*via_bytes(&p).unwrap().data, &[1, 0]);
        let mut p = proto(10, &[]);
        p.int32_data = vec![0x3c00];
        assert_eq!(&*via_bytes(&p).unwrap().data, &[0, 0x3c]);
    }

    #[test]
    fn contradictions_are_refused() {
        let mut short = proto(1, &[3]);
        short.raw_data = vec![0; 8];
        let mut wrong = proto(1, &[1]);
        wrong.int64_data = vec![1];
        let mut both = proto(1, &[1]);
        both.float_data = vec![1.0];
        both.raw_data = vec![0; 4];
        let mut wide = proto(3, &[1]);
        wide.int32_data = vec![128];
        let mut ext = proto(1, &[1]);
        ext.data_location = DataLocation::EXTERNAL.into();
        let cases = [
            (short, "8 bytes of raw data, expected 12"),
            (wrong, "wrong field"),
            (both, "both raw and typed"),
            (wide, "value 128"),
            (ext, "not allowed here"),
            (proto(1, &[-1]), "dimension 0 is -1"),
            (proto(1, &[i64::MAX, i64::MAX]), "overflows"),
            (
                proto(1, &[1 << 40]),
                "has 0 values in float_data, expected 1099511627776",
            ),
            (proto(8, &[0]), "STRING"),
            (proto(77, &[0]), "element type 77 (unknown)"),
            (proto(0, &[0]), "UNDEFINED"),
        ];
        for (p, want) in cases {
            let text = via_bytes(&p).unwrap_err().to_string();
            assert!(text.contains(want), "{text}");
        }
    }
}
