//! The arguments of `#[kiln::main(...)]`, and the notes they become.

use std::fmt::Write;

use proc_macro::{TokenStream, TokenTree};

#[derive(Debug, Default)]
pub struct Declarations {
    devices: Vec<Device>,
    stack: u64,
    memory: u64,
}

#[derive(Debug)]
struct Device {
    kind: &'static str,
    name: String,
    optional: bool,
}

impl Declarations {
    /// Reads `key` and `key = literal`, separated by commas.
    pub fn parse(attributes: TokenStream) -> Result<Self, String> {
        let mut all = Self::default();
        let mut tokens = attributes.into_iter().peekable();
        while let Some(token) = tokens.next() {
            let TokenTree::Ident(key) = token else {
                return Err(format!(
                    "expected a declaration such as `net`, found `{token}`"
                ));
            };
            let mut value = None;
            if is_punct(tokens.peek(), '=') {
                tokens.next();
                value = tokens.next().map(|literal| literal.to_string());
                if value.is_none() {
                    return Err(format!("`{key} =` needs a value"));
                }
            }
            all.declare(&key.to_string(), value)?;
            if tokens.peek().is_some() && !is_punct(tokens.next().as_ref(), ',') {
                return Err(format!("expected a comma behind `{key}`"));
            }
        }
        Ok(all)
    }

    fn declare(&mut self, key: &str, value: Option<String>) -> Result<(), String> {
        let (kind, optional) = match key {
            "net" => ("Net", false),
            "optional_net" => ("Net", true),
            "block" => ("Block", false),
            "optional_block" => ("Block", true),
            "stack" | "memory" => {
                let number = value
                    .as_deref()
                    .and_then(|v| v.replace('_', "").parse().ok());
                let number = number.ok_or_else(|| format!("`{key}` needs a number of bytes"))?;
                *(if key == "stack" {
                    &mut self.stack
                } else {
                    &mut self.memory
                }) = number;
                return Ok(());
            }
            _ => return Err(format!("unknown declaration `{key}`")),
        };
        let name = match value {
            Some(literal) => {
                let inner = literal.strip_prefix('"').and_then(|s| s.strip_suffix('"'));
                inner
                    .ok_or_else(|| format!("`{key}` needs a name in quotes"))?
                    .to_owned()
            }
            None if kind == "Net" => "eth0".to_owned(),
            None => return Err(format!("`{key}` needs a name: {key} = \"data\"")),
        };
        if self.devices.iter().any(|d| d.name == name) {
            return Err(format!("the device \"{name}\" is declared twice"));
        }
        self.devices.push(Device {
            kind,
            name,
            optional,
        });
        Ok(())
    }

    pub fn has_net(&self) -> bool {
        self.devices.iter().any(|d| d.kind == "Net")
    }

    /// Statics in the section that the linker script gathers into the image's note segment.
    pub fn notes(&self) -> String {
        let mut out = format!(
            "#[used] #[unsafe(link_section = \".note.kiln\")]
             static ABI: ::kiln::__private::ElfNote<32> = ::kiln::__private::abi_note({}, {});",
            self.stack, self.memory
        );
        for (index, device) in self.devices.iter().enumerate() {
            let _ = write!(
                out,
                "#[used] #[unsafe(link_section = \".note.kiln\")]
                 static DEVICE_{index}: ::kiln::__private::ElfNote<32> = ::kiln::__private::device_note(
                     ::kiln::__private::DeviceKind::{}, {:?}, {});",
                device.kind, device.name, device.optional
            );
        }
        out
    }
}

fn is_punct(token: Option<&TokenTree>, punct: char) -> bool {
    matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == punct)
}
