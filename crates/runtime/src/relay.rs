//! Moves bytes between two connected sides.
pub(crate) mod end;
pub(crate) mod tcp;
