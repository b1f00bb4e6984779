//! Side tables: analysis results beside the graph, indexed by id.

use crate::graph::{NodeId, ValueId};
use std::marker::PhantomData;

/// An id that can index a side table.
pub trait SideId: Copy {
    /// Position.
    fn position(self) -> usize;
}
impl SideId for ValueId {
    fn position(self) -> usize {
        self.index()
    }
}
impl SideId for NodeId {
    fn position(self) -> usize {
        self.index()
    }
}

/// A dense table of optional entries; grows on demand. Entries of ids made after the analysis are absent.
#[derive(Clone, Debug)]
pub struct SideTable<I, T> {
    items: Vec<Option<T>>,
    ids: PhantomData<I>,
}

impl<I, T> Default for SideTable<I, T> {
    fn default() -> Self {
        SideTable {
            items: Vec::new(),
            ids: PhantomData,
        }
    }
}

impl<I: SideId, T> SideTable<I, T> {
    /// The entry of `id`.
    pub fn get(&self, id: I) -> Option<&T> {
        self.items.get(id.position()).and_then(Option::as_ref)
    }
    /// Sets the entry of `id`.
    pub fn set(&mut self, id: I, value: T) {
        if self.items.len() <= id.position() {
            self.items.resize_with(id.position() + 1, || None);
        }
        self.items[id.position()] = Some(value);
    }
}
