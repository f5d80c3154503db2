//! Histories with one fault each.
