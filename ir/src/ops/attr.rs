//! Attribute values of ops.

use crate::quant::QuantType;
use crate::region::Region;
use crate::types::{Dim, ScalarType};
use std::collections::BTreeMap;

/// An attribute value, as the text form knows it.
#[derive(Clone, PartialEq, Debug)]
pub enum Attr {
    /// `true` or `false`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// Integers `[1, 2]`.
    Ints(Vec<i64>),
    /// An f32, printed so that it reads back to the same bits.
    F32(f32),
    /// A keyword.
    Word(&'static str),
    /// A dim expression `{batch*2}`.
    Dim(Dim),
    /// Dim expressions `(batch, 2)`.
    Dims(Vec<Dim>),
    /// An element type.
    Elem(ScalarType),
    /// A quantized type.
    Quant(QuantType),
    /// A region.
    Region(Box<Region>),
    /// Tensor types; not printed, they are the node's result types.
    Types(Vec<crate::types::TensorType>),
    /// Absent (an `Option` that is `None`); not printed.
    None,
    /// A keyword read by the parser, not yet matched with the closed list of its attribute.
    Text(String),
}

/// A Rust type that can be an attribute.
pub trait AttrValue: Sized {
    /// As an attribute.
    fn to_attr(&self) -> Attr;
    /// From an attribute (`Attr::None` if it was not given).
    fn from_attr(a: Attr) -> Option<Self>;
}

macro_rules! attr_value {
    ($($t:ty => $v:ident),* $(,)?) => {$(
        impl AttrValue for $t {
            fn to_attr(&self) -> Attr { Attr::$v(self.clone()) }
            fn from_attr(a: Attr) -> Option<Self> {
                if let Attr::$v(x) = a { Some(x) } else { None }
            }
        }
    )*};
}
attr_value!(bool => Bool, i64 => Int, Vec<i64> => Ints, f32 => F32, Dim => Dim, Vec<Dim> => Dims,
            ScalarType => Elem, QuantType => Quant, Box<Region> => Region);

impl AttrValue for usize {
    fn to_attr(&self) -> Attr {
        Attr::Int(*self as i64)
    }
    fn from_attr(a: Attr) -> Option<Self> {
        if let Attr::Int(x) = a {
            usize::try_from(x).ok()
        } else {
            None
        }
    }
}

impl<T: AttrValue> AttrValue for Option<T> {
    fn to_attr(&self) -> Attr {
        self.as_ref().map_or(Attr::None, AttrValue::to_attr)
    }
    fn from_attr(a: Attr) -> Option<Self> {
        match a {
            Attr::None => Some(None),
            a => T::from_attr(a).map(Some),
        }
    }
}

/// Makes a fieldless enum an attribute printed as a keyword.
#[macro_export]
macro_rules! attr_words {
    ($t:ty { $($v:ident = $w:literal),* $(,)? }) => {
        impl $crate::ops::AttrValue for $t {
            fn to_attr(&self) -> $crate::ops::Attr {
                $crate::ops::Attr::Word(match self { $(<$t>::$v => $w),* })
            }
            fn from_attr(a: $crate::ops::Attr) -> Option<Self> {
                let w = match &a {
                    $crate::ops::Attr::Word(w) => *w,
                    $crate::ops::Attr::Text(w) => w.as_str(),
                    _ => return None,
                };
                match w { $($w => Some(<$t>::$v),)* _ => None }
            }
        }
    };
}

/// Attributes read by the parser; each op takes those it knows.
#[derive(Clone, Default, Debug)]
pub struct AttrMap(pub BTreeMap<String, Attr>);

impl AttrMap {
    /// Takes the attribute `name`; absent ones read as [`Attr::None`].
    pub fn take<T: AttrValue>(&mut self, name: &str) -> Result<T, String> {
        let a = self.0.remove(name).unwrap_or(Attr::None);
        let absent = a == Attr::None;
        T::from_attr(a).ok_or_else(|| {
            if absent {
                format!("attribute `{name}` is missing")
            } else {
                format!("attribute `{name}` has the wrong kind")
            }
        })
    }

    /// An error if attributes are left over.
    pub fn finish(self) -> Result<(), String> {
        match self.0.keys().next() {
            Some(k) => Err(format!("unknown attribute `{k}`")),
            None => Ok(()),
        }
    }
}
