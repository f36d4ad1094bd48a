//! The attribute macros of the `kiln` crate. Use them through it: `#[kiln::main]`.
//!
//! Written on `proc_macro` alone, so that building a guest does not wait for a parser of all of Rust.

extern crate proc_macro;

mod devices;

use proc_macro::{Delimiter, Group, Punct, Spacing, TokenStream, TokenTree};

use devices::Declarations;

/// Marks a program's entry point, and declares what the program needs.
///
/// ```ignore
/// #[kiln::main(net, block = "data")]
/// async fn main() -> Result<(), kiln::net::Error> {
///     // ...
///     Ok(())
/// }
/// ```
///
/// The function is `async`, takes nothing, and returns `()`, a `u8` exit code, or a `Result` of these.
///
/// | declaration | meaning |
/// | --- | --- |
/// | `net` or `net = "NAME"` | a network link, named `eth0` if nothing else is said |
/// | `block = "NAME"` | a disk |
/// | `optional_net = "NAME"`, `optional_block = "NAME"` | the same, but the program starts without it too |
/// | `stack = BYTES` | size of the main stack |
/// | `memory = BYTES` | the least memory the program can start with |
///
/// A monitor refuses to start the program when a declared device is not attached, or an attached one is not declared.
#[proc_macro_attribute]
pub fn main(attributes: TokenStream, item: TokenStream) -> TokenStream {
    let declarations = match Declarations::parse(attributes) {
        Ok(declarations) => declarations,
        Err(message) => return error(&message, item),
    };
    let Some(name) = function_name(&item) else {
        return error(
            "#[kiln::main] belongs on an `async fn` without arguments",
            item,
        );
    };
    let start_net = if declarations.has_net() {
        "::kiln::__private::start_net();"
    } else {
        ""
    };
    let glue = format!(
        "{notes}
        #[unsafe(no_mangle)]
        extern \"Rust\" fn __kiln_main() -> u8 {{
            {start_net}
            ::kiln::__private::run({name}())
        }}",
        notes = declarations.notes(),
    );
    // Inside of a constant the function's name cannot collide with the `main` of an ordinary program, so that
    // `cargo check` and examples in documentation work on a host too.
    let mut inside = item;
    inside.extend(parse(&glue));
    let mut output = parse("const _: () =");
    output.extend([
        TokenTree::Group(Group::new(Delimiter::Brace, inside)),
        TokenTree::Punct(Punct::new(';', Spacing::Alone)),
    ]);
    output.extend(parse("::kiln::__host_main!{}"));
    output
}

fn parse(text: &str) -> TokenStream {
    text.parse().expect("the texts of this file are Rust")
}

/// The name in `async fn NAME()`, if that is what the item looks like.
fn function_name(item: &TokenStream) -> Option<String> {
    let mut tokens = item.clone().into_iter().peekable();
    let mut is_async = false;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident.to_string() == "async" => is_async = true,
            TokenTree::Ident(ident) if ident.to_string() == "fn" => {
                let name = tokens.next()?.to_string();
                let Some(TokenTree::Group(arguments)) = tokens.next() else {
                    return None;
                };
                let none = arguments.delimiter() == Delimiter::Parenthesis
                    && arguments.stream().is_empty();
                return (is_async && none).then_some(name);
            }
            _ => {}
        }
    }
    None
}

fn error(message: &str, item: TokenStream) -> TokenStream {
    let mut output = parse(&format!("::core::compile_error!({message:?});"));
    output.extend(item);
    output
}
