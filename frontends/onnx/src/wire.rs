//! The wire-level pre-scan: checks a protobuf message before any decoder sees it.
//!
//! Iterative (a fixed stack, no recursion) and without allocation in proportion to anything the file merely claims. It bounds
//! nesting, refuses groups, reserved wire types, fields of the wrong wire type, lengths beyond the enclosing message, text
//! that is not UTF-8, and messages that would take far more memory than their bytes (a 4 MB file of empty nodes decodes to
//! 459 MB). Every error has a byte offset. On the way it notes where the main graph's initializers lie, so that their
//! data is used in place and never copied by the decoder.

use std::ops::Range;

use crate::error::{ErrorKind, Res};
use crate::schema::{Field, Msg};

/// Deepest nesting of messages. An `If` level takes three, so about 30 levels of control flow fit.
pub const MAX_DEPTH: usize = 96;
/// Memory that a decoded message may take beside eight times its size in bytes.
pub const DECODE_BUDGET: u64 = 384 << 20;
/// protobuf's own limit on one message.
pub const MAX_MESSAGE: u64 = (1 << 31) - 1;

/// Decoded size of an initializer of the main graph, whose data stays in the file.
const INITIALIZER_COST: u64 = 256;
/// Decoded size of an empty string or byte field in a vector that grows by doubling.
const TEXT_COST: u64 = 48;
/// Decoded size of an unknown field (a hash map entry).
const UNKNOWN_COST: u64 = 64;

/// Where the parts of a model file lie.
#[derive(Debug, Default)]
pub struct Split {
    /// Pieces of the `ModelProto` without its graph.
    pub model: Vec<Range<usize>>,
    /// Pieces of the main `GraphProto` without its initializers; `None` if the model has no graph.
    pub graph: Option<Vec<Range<usize>>>,
    /// One `TensorProto` each.
    pub initializers: Vec<Range<usize>>,
}

/// Where the parts of a `TensorProto` lie.
#[derive(Debug, Default)]
pub struct TensorSplit {
    /// Pieces without `raw_data`.
    pub rest: Vec<Range<usize>>,
    /// The last `raw_data` field.
    pub raw: Option<Range<usize>>,
}

/// Checks a `ModelProto` and finds its parts.
pub fn scan_model(bytes: &[u8]) -> Res<Split> {
    let mut split = Split::default();
    scan(
        bytes,
        0..bytes.len(),
        Msg::Model,
        &mut |field| match (field.depth, field.parent, field.number) {
            (1, _, 7) => _ = split.graph.get_or_insert_default(),
            (1, _, _) => push_joined(&mut split.model, field.whole),
            (2, Msg::Graph, 5) => split.initializers.push(field.payload),
            (2, Msg::Graph, _) => push_joined(split.graph.get_or_insert_default(), field.whole),
            _ => {}
        },
    )?;
    Ok(split)
}

/// Checks the `TensorProto` in `range` of `bytes` and finds its raw data.
pub fn scan_tensor(bytes: &[u8], range: Range<usize>) -> Res<TensorSplit> {
    let mut split = TensorSplit::default();
    scan(
        bytes,
        range,
        Msg::Tensor,
        &mut |field| match (field.depth, field.number) {
            (1, 9) => split.raw = Some(field.payload),
            (1, _) => push_joined(&mut split.rest, field.whole),
            _ => {}
        },
    )?;
    Ok(split)
}

/// Appends `range`, joining it to the last one where they touch.
fn push_joined(ranges: &mut Vec<Range<usize>>, range: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// One field, as reported while scanning. Only fields of the two outermost message levels are reported.
struct Seen {
    depth: usize,
    parent: Msg,
    number: u32,
    whole: Range<usize>,
    payload: Range<usize>,
}

#[derive(Clone, Copy)]
struct Frame {
    msg: Msg,
    end: usize,
}

fn wire<T>(offset: usize, what: impl Into<String>) -> Res<T> {
    Err(ErrorKind::Wire {
        offset,
        what: what.into(),
    })
}

/// Reads a varint at `*at` below `end`.
fn varint(bytes: &[u8], at: &mut usize, end: usize) -> Res<u64> {
    let start = *at;
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let Some(&byte) = bytes.get(..end).and_then(|b| b.get(*at)) else {
            return wire(start, "truncated varint");
        };
        *at = at.saturating_add(1);
        if shift == 63 && byte > 1 {
            return wire(start, "varint of more than 64 bits");
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    wire(start, "varint of more than 10 bytes")
}

fn scan(bytes: &[u8], range: Range<usize>, root: Msg, report: &mut dyn FnMut(Seen)) -> Res<()> {
    let length = range.len() as u64;
    if length > MAX_MESSAGE {
        return Err(ErrorKind::TooLarge {
            what: format!("the {}", root.name()),
            found: length,
            limit: MAX_MESSAGE,
        });
    }
    let mut budget = Budget {
        left: DECODE_BUDGET.saturating_add(length.saturating_mul(8)),
    };
    let mut stack = Vec::with_capacity(MAX_DEPTH);
    stack.push(Frame {
        msg: root,
        end: range.end,
    });
    let mut at = range.start;
    while let Some(&frame) = stack.last() {
        let depth = stack.len();
        if at == frame.end {
            stack.pop();
            continue;
        }
        let start = at;
        let tag = varint(bytes, &mut at, frame.end)?;
        let number = match u32::try_from(tag >> 3) {
            Ok(number) if (1..1 << 29).contains(&number) => number,
            _ => {
                return wire(
                    start,
                    format!(
                        "{} has field number {}, expected 1 to 536870911",
                        frame.msg.name(),
                        tag >> 3
                    ),
                );
            }
        };
        let field = frame.msg.field(number);
        let payload = read_payload(bytes, &mut at, frame, (number, (tag & 7) as u8), field, start)?;
        if depth <= 2 {
            report(Seen {
                depth,
                parent: frame.msg,
                number,
                whole: start..payload.end,
                payload: payload.clone(),
            });
        }
        let in_place = depth == 2 && frame.msg == Msg::Graph && number == 5;
        budget.charge(field, &payload, in_place, start)?;
        match field {
            Field::Sub(msg) => {
                if depth == MAX_DEPTH {
                    return wire(start, format!("messages nested more than {MAX_DEPTH} deep"));
                }
                stack.push(Frame {
                    msg,
                    end: payload.end,
                });
                at = payload.start;
            }
            Field::Text => {
                let text = bytes.get(payload.clone()).unwrap_or_default();
                if let Err(e) = std::str::from_utf8(text) {
                    let where_ = payload.start.saturating_add(e.valid_up_to());
                    return wire(
                        where_,
                        format!("field {number} of {} is not UTF-8", frame.msg.name()),
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Skips over one field's value and checks its wire type; returns where the value lies.
fn read_payload(
    bytes: &[u8],
    at: &mut usize,
    frame: Frame,
    (number, kind): (u32, u8),
    field: Field,
    start: usize,
) -> Res<Range<usize>> {
    let fits: &[u8] = match field {
        Field::Sub(_) | Field::Text | Field::Bytes => &[2],
        Field::Varint => &[0],
        Field::Varints(_) => &[0, 2],
        Field::Fixed32 => &[5],
        Field::Fixed64 => &[1],
        Field::Fixed32s => &[2, 5],
        Field::Fixed64s => &[1, 2],
        Field::Unknown => &[0, 1, 2, 5],
    };
    if !fits.contains(&kind) {
        let name = frame.msg.name();
        return wire(
            start,
            match kind {
                3 | 4 => format!("field {number} of {name} is a protobuf group, which ONNX does not use"),
                6 | 7 => format!("field {number} of {name} has the reserved wire type {kind}"),
                _ => format!(
                    "field {number} of {name} has wire type {kind}, expected {}",
                    fits.first().copied().unwrap_or_default()
                ),
            },
        );
    }
    let value = *at;
    let length = match kind {
        0 => {
            varint(bytes, at, frame.end)?;
            return Ok(value..*at);
        }
        1 => 8,
        5 => 4,
        _ => varint(bytes, at, frame.end)?,
    };
    let left = frame.end.saturating_sub(*at);
    let Some(length) = usize::try_from(length).ok().filter(|&n| n <= left) else {
        let name = frame.msg.name();
        return wire(
            start,
            format!("field {number} of {name} claims {length} bytes, but {left} are left in its message"),
        );
    };
    let payload = *at..at.saturating_add(length);
    *at = payload.end;
    if kind == 2 {
        check_packed(bytes, &payload, frame.msg, number, field)?;
    }
    Ok(payload)
}

/// Packed numbers must fill their field exactly.
fn check_packed(bytes: &[u8], payload: &Range<usize>, msg: Msg, number: u32, field: Field) -> Res<()> {
    let unit = match field {
        Field::Fixed32s => 4,
        Field::Fixed64s => 8,
        Field::Varints(_) => {
            let mut at = payload.start;
            while at < payload.end {
                varint(bytes, &mut at, payload.end)?;
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    match payload.len().is_multiple_of(unit) {
        true => Ok(()),
        false => wire(
            payload.start,
            format!(
                "field {number} of {} has {} bytes, expected a multiple of {unit}",
                msg.name(),
                payload.len()
            ),
        ),
    }
}

/// The memory that decoding may still take.
struct Budget {
    left: u64,
}

impl Budget {
    fn charge(&mut self, field: Field, payload: &Range<usize>, in_place: bool, start: usize) -> Res<()> {
        let length = payload.len() as u64;
        let cost = match field {
            Field::Sub(Msg::Tensor) if in_place => INITIALIZER_COST,
            // Vectors double as they grow: twice the size covers it.
            Field::Sub(msg) => (msg.decoded_size() as u64).saturating_mul(2),
            Field::Text | Field::Bytes => TEXT_COST.saturating_add(length),
            Field::Varints(size) => length.saturating_mul(size as u64),
            Field::Fixed32s | Field::Fixed64s => length,
            Field::Unknown => UNKNOWN_COST.saturating_add(length),
            Field::Varint | Field::Fixed32 | Field::Fixed64 => 0,
        };
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => wire(
                start,
                format!(
                    "the decoded message would need more than {} MiB beside eight times its size",
                    DECODE_BUDGET >> 20
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        put_varint(&mut out, u64::from(number) << 3 | 2);
        put_varint(&mut out, payload.len() as u64);
        out.extend_from_slice(payload);
        out
    }

    fn put_varint(out: &mut Vec<u8>, mut v: u64) {
        while v > 0x7f {
            out.push(v as u8 | 0x80);
            v >>= 7;
        }
        out.push(v as u8);
    }

    #[test]
    fn finds_graph_and_initializers() {
        let tensor = [field(8, b"w"), field(9, b"data")].concat();
        let graph = [field(2, b"g"), field(5, &tensor), field(1, &field(4, b"Relu"))].concat();
        let model = [field(2, b"me"), field(7, &graph), field(3, b"1")].concat();
        let split = scan_model(&model).unwrap();
        assert_eq!(split.model.len(), 2);
        assert_eq!(split.graph.unwrap().len(), 2);
        assert_eq!(split.initializers.len(), 1);
        let t = scan_tensor(&model, split.initializers[0].clone()).unwrap();
        assert_eq!(&model[t.raw.unwrap()], b"data");
        let start = split.initializers[0].start;
        let rest: Vec<(usize, usize)> = t.rest.iter().map(|r| (r.start, r.end)).collect();
        assert_eq!(rest, [(start, start + 3)]);
    }

    #[test]
    fn refuses_groups_bad_tags_and_lengths() {
        let cases: [(&[u8], &str); 8] = [
            (&[0x3b], "protobuf group"),
            (&[0x0e], "reserved wire type"),
            (&[0x00], "field number 0"),
            (&[0x3a, 0x05, 0x00], "claims 5 bytes, but 1 are left"),
            (
                &[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                "claims 18446744073709551615 bytes",
            ),
            (
                &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
                "more than 64 bits",
            ),
            (&[0x38, 0x01], "wire type 0, expected 2"),
            (&[0x12, 0x01, 0xff], "not UTF-8"),
        ];
        for (bytes, want) in cases {
            let text = scan_model(bytes).unwrap_err().to_string();
            assert!(text.contains(want), "{bytes:x?}: {text}");
            assert!(text.starts_with("at byte"), "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let mut bytes = vec![];
        for level in 0..400 {
            // Sequence in Type, Type in Sequence, and so on.
            bytes = field(if level % 2 == 0 { 1 } else { 4 }, &bytes);
        }
        let value = field(2, &bytes);
        let model = field(7, &field(11, &value));
        assert!(
            scan_model(&model)
                .unwrap_err()
                .to_string()
                .contains("nested more than")
        );
    }

    #[test]
    fn small_bytes_that_decode_to_much_are_refused() {
        let nodes = [0x0a, 0x00].repeat(2_000_000);
        let text = scan_model(&field(7, &nodes)).unwrap_err().to_string();
        assert!(text.contains("MiB"), "{text}");
        let nodes = [0x0a, 0x00].repeat(100_000);
        scan_model(&field(7, &nodes)).unwrap();
    }

    #[test]
    fn unknown_fields_are_fine() {
        let model = [
            field(999, b"x"),
            field(7, &field(200, b"y")),
            vec![0xf8, 0x06, 0x01],
        ]
        .concat();
        assert!(scan_model(&model).unwrap().graph.is_some());
    }
}
