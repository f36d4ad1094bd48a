//! Integers, texts and records as bytes, little-endian.

use crate::MAX_WALK;

/// What is left of a message to be read.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next bytes, if they are there.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// True if nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Room for a message, and how much of it is written.
#[derive(Debug)]
pub struct Writer<'a> {
    into: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Into these bytes.
    pub fn new(into: &'a mut [u8]) -> Self {
        Self { into, len: 0 }
    }

    /// Appends bytes; `None` if they do not fit.
    pub fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.into.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// How many bytes are written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Replaces bytes that are written already.
    pub fn patch(&mut self, at: usize, bytes: &[u8]) -> Option<()> {
        let end = at.checked_add(bytes.len()).filter(|end| *end <= self.len)?;
        self.into.get_mut(at..end)?.copy_from_slice(bytes);
        Some(())
    }
}

/// What a message is made of.
pub trait Field<'a>: Sized {
    /// Reads it; `None` if the message is too short.
    fn get(from: &mut Reader<'a>) -> Option<Self>;
    /// Writes it; `None` if there is no room.
    fn put(&self, to: &mut Writer<'_>) -> Option<()>;
}

macro_rules! integers {
    ($($integer:ty)*) => {$(
        impl<'a> Field<'a> for $integer {
            fn get(from: &mut Reader<'a>) -> Option<Self> {
                let bytes = from.take(size_of::<Self>())?;
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }

            fn put(&self, to: &mut Writer<'_>) -> Option<()> {
                to.put(&self.to_le_bytes())
            }
        }
    )*};
}

integers! { u8 u16 u32 u64 }

/// A name, a path or a version: at most 65535 bytes, of any value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Text<'a> {
    fn get(from: &mut Reader<'a>) -> Option<Self> {
        let len = u16::get(from)?;
        from.take(len.into()).map(Self)
    }

    fn put(&self, to: &mut Writer<'_>) -> Option<()> {
        u16::try_from(self.0.len()).ok()?.put(to)?;
        to.put(self.0)
    }
}

/// What was read or is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Data<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Data<'a> {
    fn get(from: &mut Reader<'a>) -> Option<Self> {
        let len = u32::get(from)?;
        from.take(len.try_into().ok()?).map(Self)
    }

    fn put(&self, to: &mut Writer<'_>) -> Option<()> {
        u32::try_from(self.0.len()).ok()?.put(to)?;
        to.put(self.0)
    }
}

/// Declares a record of fields in their order.
macro_rules! record {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$what])* pub $field: $kind,)*
        }

        impl<'a> $crate::wire::Field<'a> for $name {
            fn get(from: &mut $crate::wire::Reader<'a>) -> Option<Self> {
                Some(Self { $($field: <$kind as $crate::wire::Field>::get(from)?,)* })
            }

            fn put(&self, to: &mut $crate::wire::Writer<'_>) -> Option<()> {
                $($crate::wire::Field::put(&self.$field, to)?;)*
                Some(())
            }
        }
    };
}
pub(crate) use record;

record! {
    /// What a file is to its server.
    Qid {
        /// [`DIRECTORY`](Self::DIRECTORY), [`LINK`](Self::LINK) or 0.
        kind: u8,
        /// Changes with the content, if it is not 0.
        version: u32,
        /// Different for each file.
        path: u64,
    }
}

impl Qid {
    /// A folder.
    pub const DIRECTORY: u8 = 0x80;
    /// A symbolic link.
    pub const LINK: u8 = 0x02;
}

record! {
    /// What `statfs` tells.
    Statistics {
        /// Type of the file system.
        kind: u32,
        /// Bytes of a block.
        block_size: u32,
        /// Blocks in all.
        blocks: u64,
        /// Free blocks.
        free: u64,
        /// Free blocks for others than root.
        available: u64,
        /// Files that there can be.
        files: u64,
        /// How many more.
        files_free: u64,
        /// Which file system.
        id: u64,
        /// The longest name in bytes.
        name_len: u32,
    }
}

/// A list of at most [`MAX_WALK`] fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List<T> {
    count: usize,
    all: [T; MAX_WALK],
}

/// The names of a walk.
pub type Names<'a> = List<Text<'a>>;
/// What a walk found.
pub type Qids = List<Qid>;

impl<T: Copy + Default> List<T> {
    /// Of these; `None` if they are too many.
    pub fn new(of: &[T]) -> Option<Self> {
        let mut all = [T::default(); MAX_WALK];
        all.get_mut(..of.len())?.copy_from_slice(of);
        Some(Self {
            count: of.len(),
            all,
        })
    }

    /// All of them.
    pub fn as_slice(&self) -> &[T] {
        self.all.get(..self.count).unwrap_or(&[])
    }
}

impl<'a, T: Field<'a> + Copy + Default> Field<'a> for List<T> {
    fn get(from: &mut Reader<'a>) -> Option<Self> {
        let count = usize::from(u16::get(from)?);
        let mut all = [T::default(); MAX_WALK];
        for slot in all.get_mut(..count)? {
            *slot = T::get(from)?;
        }
        Some(Self { count, all })
    }

    fn put(&self, to: &mut Writer<'_>) -> Option<()> {
        u16::try_from(self.count).ok()?.put(to)?;
        self.as_slice().iter().try_for_each(|one| one.put(to))
    }
}
