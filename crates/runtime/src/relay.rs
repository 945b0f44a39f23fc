//! Moves bytes between two connected sides.

pub(crate) mod tcp;
