//! Addresses, loads and stores, whole and partial.
#![allow(unsafe_code)]

use super::emit::{Elem, Emit, ok};
use super::flow::cast;
use super::{Any, Int, IntCmp, Ptr, Vector};
use crate::level::LevelFacts;
use inkwell::types::{BasicType, BasicTypeEnum};
use inkwell::values::BasicValue;

/// How many lanes of a vector a load or store touches.
#[derive(Clone, Copy)]
pub enum Lanes<'c> {
    /// All of them.
    All,
    /// The first so many (i64, 0 to the lane count). The others are not accessed; a load gives 0 there.
    First(Int<'c>),
}

impl<'c> Emit<'c> {
    /// `base + offset` bytes.
    pub fn at(&self, base: Ptr<'c>, offset: Int<'c>) -> Ptr<'c> {
        // SAFETY: `getelementptr` without `inbounds` on bytes is plain address arithmetic.
        ok(unsafe {
            self.builder
                .build_gep(self.context.i8_type(), base, &[offset], "at")
        })
    }

    /// `base + offset` bytes for a constant.
    pub fn at_const(&self, base: Ptr<'c>, offset: i64) -> Ptr<'c> {
        if offset == 0 {
            base
        } else {
            self.at(base, self.i64(offset))
        }
    }

    /// `base + index * size` bytes.
    pub fn at_index(&self, base: Ptr<'c>, index: Int<'c>, size: u32) -> Ptr<'c> {
        self.at(base, self.mul(index, self.i64(i64::from(size))))
    }

    /// The same address, as a value that loop optimisation does not look through. Several such bases with one common
    /// offset stay several registers with one index, instead of being chained by additions from one to the next.
    pub fn opaque(&self, address: Ptr<'c>) -> Ptr<'c> {
        let types = [self.ptr_type().into()];
        self.intrinsic("llvm.launder.invariant.group", &types, &[address.into()])
            .into_pointer_value()
    }

    /// Asks for the cache line at `from` to be brought into the second-level cache; any address is allowed.
    pub fn prefetch(&self, from: Ptr<'c>) {
        let (read, second_level, data) = (self.i32(0), self.i32(2), self.i32(1));
        let args = [from.into(), read.into(), second_level.into(), data.into()];
        self.intrinsic_void("llvm.prefetch", &[self.ptr_type().into()], &args);
    }

    /// Loads one element (naturally aligned or not).
    pub fn load_scalar<T: TryFrom<Any<'c>>>(&self, elem: Elem, from: Ptr<'c>) -> T {
        cast(self.load_aligned(self.scalar_type(elem), from, 1))
    }

    /// Stores one element (naturally aligned or not).
    pub fn store_scalar(&self, value: impl BasicValue<'c>, to: Ptr<'c>) {
        self.store_aligned(value, to, 1);
    }

    /// Loads a value of any type with a promised alignment in bytes.
    pub fn load_aligned(&self, ty: impl BasicType<'c>, from: Ptr<'c>, align: u32) -> Any<'c> {
        let value = ok(self.builder.build_load(ty, from, "load"));
        let instruction = value.as_instruction_value().expect("a load is an instruction");
        instruction
            .set_alignment(align)
            .expect("alignments are powers of two");
        value
    }

    /// Stores a value of any type with a promised alignment in bytes.
    pub fn store_aligned(&self, value: impl BasicValue<'c>, to: Ptr<'c>, align: u32) {
        let instruction = ok(self.builder.build_store(to, value));
        instruction
            .set_alignment(align)
            .expect("alignments are powers of two");
    }

    /// Loads `lanes` consecutive elements; lanes beyond `part` are not accessed and read as 0.
    pub fn load(&self, elem: Elem, lanes: u32, from: Ptr<'c>, part: Lanes<'c>) -> Vector<'c> {
        let ty = self.vector_type(elem, lanes);
        match part {
            Lanes::All => self.load_aligned(ty, from, 1).into_vector_value(),
            Lanes::First(count) if self.level().has_masks() => {
                let args = [
                    from.into(),
                    self.i32(1).into(),
                    self.first_lanes(lanes, count).into(),
                    ty.const_zero().into(),
                ];
                let types = [ty.into(), self.ptr_type().into()];
                self.intrinsic("llvm.masked.load", &types, &args)
                    .into_vector_value()
            }
            Lanes::First(count) => {
                let value = self.var(ty.const_zero());
                self.if_else(
                    self.is_full(lanes, count),
                    || self.set(value, self.load_aligned(ty, from, 1).into_vector_value()),
                    || {
                        let slot = self.stack(ty, 1, 64);
                        self.store_aligned(ty.const_zero(), slot, 64);
                        self.copy_elements(elem, slot, from, count);
                        self.set(value, self.load_aligned(ty, slot, 64).into_vector_value());
                    },
                );
                self.get(value)
            }
        }
    }

    /// Stores a vector's elements consecutively; memory of lanes beyond `part` is not accessed.
    pub fn store(&self, value: Vector<'c>, to: Ptr<'c>, part: Lanes<'c>) {
        let ty = value.get_type();
        match part {
            Lanes::All => self.store_aligned(value, to, 1),
            Lanes::First(count) if self.level().has_masks() => {
                let mask = self.first_lanes(ty.get_size(), count);
                let types = [ty.into(), self.ptr_type().into()];
                let args = [value.into(), to.into(), self.i32(1).into(), mask.into()];
                self.intrinsic_void("llvm.masked.store", &types, &args);
            }
            Lanes::First(count) => self.if_else(
                self.is_full(ty.get_size(), count),
                || self.store_aligned(value, to, 1),
                || {
                    let slot = self.stack(ty, 1, 64);
                    self.store_aligned(value, slot, 64);
                    self.copy_elements(elem_of(ty.get_element_type()), to, slot, count);
                },
            ),
        }
    }

    fn is_full(&self, lanes: u32, count: Int<'c>) -> Int<'c> {
        self.icmp(IntCmp::SGE, count, self.i64(i64::from(lanes)))
    }

    /// The mask (`i1` lanes) of the first `count` lanes.
    pub fn first_lanes(&self, lanes: u32, count: Int<'c>) -> Vector<'c> {
        let limit = self.splat(self.trunc_to(Elem::I32, count), lanes);
        let iota: Vec<i32> = (0..lanes as i32).collect();
        self.icmp(IntCmp::SLT, self.i32s(&iota), limit)
    }

    /// Copies `count` elements one by one: partial vectors on levels without masks. The library is built without
    /// `memcpy`, and tails are rare enough not to need more.
    fn copy_elements(&self, elem: Elem, to: Ptr<'c>, from: Ptr<'c>, count: Int<'c>) {
        let int = match elem.bytes() {
            1 => Elem::I8,
            2 => Elem::I16,
            4 => Elem::I32,
            _ => Elem::I64,
        };
        self.for_range(self.i64(0), count, self.i64(1), |i| {
            let value: Any<'c> = self.load_scalar(int, self.at_index(from, i, int.bytes()));
            self.store_scalar(value, self.at_index(to, i, int.bytes()));
        });
    }
}

/// The element type of a vector.
fn elem_of(ty: BasicTypeEnum<'_>) -> Elem {
    match ty {
        BasicTypeEnum::IntType(t) => match t.get_bit_width() {
            8 => Elem::I8,
            16 => Elem::I16,
            32 => Elem::I32,
            _ => Elem::I64,
        },
        BasicTypeEnum::FloatType(t) => match t.get_bit_width() {
            16 => Elem::F16,
            32 => Elem::F32,
            _ => Elem::F64,
        },
        _ => unreachable!("vectors hold integers and floats"),
    }
}
