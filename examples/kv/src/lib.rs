//! kv
#![no_std]
