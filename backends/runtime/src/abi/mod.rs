//! The C interface, as Rust sees it: the same structs as `rsqc_model.h`, and (feature `template`) the functions
//! behind them. See the header for what everything means.

mod types;

#[cfg(feature = "template")]
mod export;
#[cfg(feature = "template")]
mod handles;
#[cfg(feature = "template")]
mod model_fns;
#[cfg(feature = "template")]
mod session_fns;

pub use types::{
    API_VERSION, Api, CIo, COptions, CSessionOptions, CStepTime, CSymbol, CTensor, DIM_EXPRESSION, LogFn,
    VERIFY_ALL, VERIFY_DEFAULT, VERIFY_NONE,
};
