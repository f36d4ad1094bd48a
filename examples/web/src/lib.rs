//! web
#![no_std]
