//! The same for HTTP: what is asked for, in one form; which route takes a request; what of it is written anew.

mod conditions;
mod path;
mod rewrite;
mod router;
mod target;
mod template;
mod ties;

pub use conditions::{Condition, Headers, ValuePattern, cookie_value, field_value, same_name};
pub use path::{NoPath, PathPattern};
pub use rewrite::{Edits, PathRewrite, Rewrite};
pub use router::{HttpAsked, HttpMatch, HttpRouter};
pub use target::{Target, TargetFault, TargetRules, canonical, canonical_host, canonical_rewritten};
pub use template::{NoTemplate, Placeholder, Template, Values};

#[cfg(test)]
mod tests;
