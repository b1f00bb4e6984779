//! A kernel under construction: its module, function, ABI arguments and types.

use super::KERNEL_SYMBOL;
use super::{Any, Float, Int, Ptr};
use crate::level::{Level, LevelFacts};
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::basic_block::BasicBlock;
use inkwell::builder::{Builder, BuilderError};
use inkwell::context::Context;
use inkwell::module::{Linkage, Module};
use inkwell::types::{BasicMetadataTypeEnum, BasicType, BasicTypeEnum, VectorType};
use inkwell::values::FunctionValue;
use inkwell::{AddressSpace, GlobalVisibility};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Element types of buffers and vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Elem {
    /// 8-bit integer.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer.
    I64,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
}

impl Elem {
    /// Size in bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Elem::I8 => 1,
            Elem::I16 | Elem::F16 => 2,
            Elem::I32 | Elem::F32 => 4,
            Elem::I64 | Elem::F64 => 8,
        }
    }
}

/// A kernel under construction. All methods take `&self` (LLVM's builder is the mutable part), so closures nest freely.
///
/// The function is `void(void **bufs, const i64 *params, void *scratch, i64 tile_begin, i64 tile_end)`.
pub struct Emit<'c> {
    pub(super) context: &'c Context,
    pub(super) module: Module<'c>,
    pub(super) builder: Builder<'c>,
    /// The function that code is being added to: the kernel's, or a subroutine's.
    open: Cell<Open<'c>>,
    kernel: FunctionValue<'c>,
    level: Level,
    /// Whether float products may be fused with their sums.
    pub(super) fused: bool,
    bufs: RefCell<BTreeMap<u32, Ptr<'c>>>,
    params: RefCell<BTreeMap<u32, Int<'c>>>,
    /// Routines that this module calls and does not hold; `None` if it holds all that it calls.
    outside: Option<RefCell<BTreeMap<String, Arc<dyn Routine>>>>,
}

/// A parameter of a [`Routine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// An address.
    Ptr,
    /// An i64.
    Int,
}

/// Code that many kernels call: a subroutine that exists once a level, however many kernels of a model use it.
pub trait Routine: Send + Sync {
    /// Its symbol, which says everything that the code depends on, except for the level and fused arithmetic.
    fn symbol(&self) -> String;
    /// What it takes; it returns nothing.
    fn parameters(&self) -> Vec<Parameter>;
    /// Generates its body.
    fn emit<'c>(&self, e: &Emit<'c>, arguments: &[Any<'c>]);
}

/// A function under construction.
#[derive(Clone, Copy)]
struct Open<'c> {
    function: FunctionValue<'c>,
    /// Holds stack slots and argument loads; everything in it dominates the body.
    entry: BasicBlock<'c>,
    body: BasicBlock<'c>,
}

/// A function beside the kernel's, see [`Emit::routine`].
#[derive(Clone, Copy)]
pub struct Subroutine<'c>(FunctionValue<'c>);

/// Unwraps a builder result.
pub(super) fn ok<T>(result: Result<T, BuilderError>) -> T {
    result.expect("generators keep a block open and operand types equal")
}

fn open<'c>(context: &'c Context, function: FunctionValue<'c>) -> Open<'c> {
    Open {
        function,
        entry: context.append_basic_block(function, "entry"),
        body: context.append_basic_block(function, "body"),
    }
}

fn parameter_types<'c>(context: &'c Context, routine: &dyn Routine) -> Vec<BasicMetadataTypeEnum<'c>> {
    let ty = |p: &Parameter| match p {
        Parameter::Ptr => context.ptr_type(AddressSpace::default()).into(),
        Parameter::Int => context.i64_type().into(),
    };
    routine.parameters().iter().map(ty).collect()
}

fn set_attributes(context: &Context, function: FunctionValue<'_>, level: Level) {
    let flag = |name| context.create_enum_attribute(Attribute::get_named_enum_kind_id(name), 0);
    let text = |key, value| context.create_string_attribute(key, value);
    for attribute in [
        flag("nounwind"),
        text("no-builtins", ""),
        text("no-jump-tables", "true"),
        text("target-cpu", level.llvm_cpu()),
        text("target-features", level.llvm_features()),
        text("prefer-vector-width", &(level.lanes() * 32).to_string()),
    ] {
        function.add_attribute(AttributeLoc::Function, attribute);
    }
}

impl<'c> Emit<'c> {
    /// A kernel; what it calls is in the same module, or if `outside` in others.
    pub(super) fn new(context: &'c Context, level: Level, outside: bool) -> Emit<'c> {
        let ptr = context.ptr_type(AddressSpace::default());
        let i64_type = context.i64_type();
        let params = [
            ptr.into(),
            ptr.into(),
            ptr.into(),
            i64_type.into(),
            i64_type.into(),
        ];
        Emit::open(context, level, (KERNEL_SYMBOL, &params), outside)
    }

    /// A routine in a module of its own, with or without fused arithmetic.
    pub(super) fn of_routine(
        context: &'c Context,
        level: Level,
        routine: &dyn Routine,
        fused: bool,
    ) -> Emit<'c> {
        let types = parameter_types(context, routine);
        let e = Emit::open(context, level, (&routine.symbol(), &types), false);
        let e = if fused { e } else { e.unfused() };
        routine.emit(&e, &e.kernel.get_params());
        e
    }

    fn open(
        context: &'c Context,
        level: Level,
        (symbol, params): (&str, &[BasicMetadataTypeEnum<'c>]),
        outside: bool,
    ) -> Emit<'c> {
        let module = context.create_module("kernel");
        let builder = context.create_builder();
        let kernel = module.add_function(symbol, context.void_type().fn_type(params, false), None);
        kernel.as_global_value().set_visibility(GlobalVisibility::Hidden);
        set_attributes(context, kernel, level);
        let open = open(context, kernel);
        builder.position_at_end(open.body);
        Emit {
            context,
            module,
            builder,
            open: Cell::new(open),
            kernel,
            level,
            fused: level.has_fma(),
            bufs: RefCell::default(),
            params: RefCell::default(),
            outside: outside.then(RefCell::default),
        }
    }

    /// Whether the module is a routine or may hold some.
    pub(super) fn has_routines(&self) -> bool {
        self.outside.is_none()
    }

    /// Routines that the module calls and does not hold, by symbol.
    pub fn routines_outside(&self) -> Vec<Arc<dyn Routine>> {
        let outside = self.outside.as_ref().map(|o| o.borrow());
        outside.iter().flat_map(|o| o.values().cloned()).collect()
    }

    /// The same without fused arithmetic, as at the portable level: sums of float products have the same bits at every
    /// level.
    #[must_use]
    pub fn unfused(self) -> Emit<'c> {
        Emit { fused: false, ..self }
    }

    /// Ends the function and hands over the module.
    pub(super) fn close(self) -> Module<'c> {
        self.close_function();
        self.module
    }

    fn close_function(&self) {
        let Open { entry, body, .. } = self.open.get();
        ok(self.builder.build_return(None));
        self.builder.position_at_end(entry);
        ok(self.builder.build_unconditional_branch(body));
    }

    /// A function of its own that returns nothing, called through [`Self::call_subroutine`] and never inlined: its
    /// registers are allocated without regard to what the caller keeps in some. The kernel's buffers and parameters do
    /// not exist in it. The module holds it once, or not at all if routines are compiled apart.
    pub fn routine(&self, routine: Arc<dyn Routine>) -> Subroutine<'c> {
        let symbol = routine.symbol();
        if let Some(function) = self.module.get_function(&symbol) {
            return Subroutine(function);
        }
        let types = parameter_types(self.context, &*routine);
        let signature = self.context.void_type().fn_type(&types, false);
        let linkage = if self.outside.is_some() {
            Linkage::External
        } else {
            Linkage::Internal
        };
        let function = self.module.add_function(&symbol, signature, Some(linkage));
        set_attributes(self.context, function, self.level);
        let noinline = Attribute::get_named_enum_kind_id("noinline");
        function.add_attribute(
            AttributeLoc::Function,
            self.context.create_enum_attribute(noinline, 0),
        );
        if let Some(outside) = &self.outside {
            // Hidden: it is in the same blob, and so is called directly.
            function
                .as_global_value()
                .set_visibility(GlobalVisibility::Hidden);
            outside.borrow_mut().insert(symbol, routine);
            return Subroutine(function);
        }
        let (outer, here) = (self.open.get(), self.block());
        self.open.set(open(self.context, function));
        self.builder.position_at_end(self.open.get().body);
        routine.emit(self, &function.get_params());
        self.close_function();
        self.open.set(outer);
        self.builder.position_at_end(here);
        Subroutine(function)
    }

    /// Calls a subroutine.
    pub fn call_subroutine(&self, subroutine: Subroutine<'c>, arguments: &[Any<'c>]) {
        let arguments: Vec<_> = arguments.iter().map(|a| (*a).into()).collect();
        ok(self.builder.build_call(subroutine.0, &arguments, ""));
    }

    /// The function that code is being added to.
    pub(super) fn function(&self) -> FunctionValue<'c> {
        self.open.get().function
    }

    /// The level this kernel is generated for.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Runs `f` with the builder in the entry block, which dominates everything.
    pub(super) fn in_entry<T>(&self, f: impl FnOnce() -> T) -> T {
        let here = self.block();
        self.builder.position_at_end(self.open.get().entry);
        let value = f();
        self.builder.position_at_end(here);
        value
    }

    /// The block that code is being added to.
    pub(super) fn block(&self) -> BasicBlock<'c> {
        self.builder
            .get_insert_block()
            .expect("a kernel under construction has an open block")
    }

    fn argument(&self, n: u32) -> inkwell::values::BasicValueEnum<'c> {
        self.kernel
            .get_nth_param(n)
            .expect("the kernel ABI has five arguments")
    }

    /// Base address of buffer argument `n`, loaded once.
    pub fn buf(&self, n: u32) -> Ptr<'c> {
        *self.bufs.borrow_mut().entry(n).or_insert_with(|| {
            self.in_entry(|| {
                let slot = self.at_const(self.argument(0).into_pointer_value(), i64::from(n) * 8);
                ok(self.builder.build_load(self.ptr_type(), slot, "buf")).into_pointer_value()
            })
        })
    }

    /// Run-time parameter `n` (an extent or stride), loaded once.
    pub fn param(&self, n: u32) -> Int<'c> {
        *self.params.borrow_mut().entry(n).or_insert_with(|| {
            self.in_entry(|| {
                let slot = self.at_const(self.argument(1).into_pointer_value(), i64::from(n) * 8);
                ok(self.builder.build_load(self.context.i64_type(), slot, "param")).into_int_value()
            })
        })
    }

    /// The thread's scratch memory (64-byte aligned, private to the running thread).
    pub fn scratch(&self) -> Ptr<'c> {
        self.argument(2).into_pointer_value()
    }

    /// First tile of this call.
    pub fn tile_begin(&self) -> Int<'c> {
        self.argument(3).into_int_value()
    }

    /// One past the last tile of this call.
    pub fn tile_end(&self) -> Int<'c> {
        self.argument(4).into_int_value()
    }

    /// The pointer type.
    pub fn ptr_type(&self) -> inkwell::types::PointerType<'c> {
        self.context.ptr_type(AddressSpace::default())
    }

    /// LLVM's scalar type of `elem`.
    pub fn scalar_type(&self, elem: Elem) -> BasicTypeEnum<'c> {
        match elem {
            Elem::I8 => self.context.i8_type().into(),
            Elem::I16 => self.context.i16_type().into(),
            Elem::I32 => self.context.i32_type().into(),
            Elem::I64 => self.context.i64_type().into(),
            Elem::F16 => self.context.f16_type().into(),
            Elem::F32 => self.context.f32_type().into(),
            Elem::F64 => self.context.f64_type().into(),
        }
    }

    /// LLVM's type of `lanes` elements.
    pub fn vector_type(&self, elem: Elem, lanes: u32) -> VectorType<'c> {
        match self.scalar_type(elem) {
            BasicTypeEnum::FloatType(t) => t.vec_type(lanes),
            BasicTypeEnum::IntType(t) => t.vec_type(lanes),
            _ => unreachable!("elements are integers and floats"),
        }
    }

    /// An i64 constant: the type of every index, extent and byte offset.
    pub fn i64(&self, value: i64) -> Int<'c> {
        self.context.i64_type().const_int(value as u64, true)
    }

    /// An i32 constant.
    pub fn i32(&self, value: i32) -> Int<'c> {
        self.context.i32_type().const_int(value as u64, true)
    }

    /// An f32 constant.
    pub fn f32(&self, value: f32) -> Float<'c> {
        self.context.f32_type().const_float(f64::from(value))
    }

    /// A stack slot for `count` values of a type, aligned to `align` bytes; not initialised.
    pub fn stack(&self, ty: impl BasicType<'c>, count: u32, align: u32) -> Ptr<'c> {
        self.in_entry(|| {
            let slot = ok(self
                .builder
                .build_array_alloca(ty, self.i32(count as i32), "slot"));
            let instruction = slot.as_instruction().expect("an alloca is an instruction");
            instruction
                .set_alignment(align)
                .expect("alignments are powers of two");
            slot
        })
    }
}
