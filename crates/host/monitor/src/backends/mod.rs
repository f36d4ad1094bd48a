//! The backends. Each is one folder with the same shape: `start` takes a [`Launch`](crate::backend::Launch) and
//! gives a [`Guest`](crate::backend::Guest).

pub mod process;
