//! Recognition of what exporters have taken apart.
