//! Disks (section 5.2).
//!
//! One request is under way at a time, and the caller waits for it. Data go directly between the device and the guest's
//! buffers, whose physical addresses the [`Platform`] tells. Only a sector that lies in more pieces than the device takes
//! goes through memory of the driver's.

use kiln_abi::{DeviceInfo, DeviceKind, OpError};

use crate::Error;
use crate::memory::{Buffers, Cursor, Platform, Region};
use crate::queue::{Piece, Queue, TABLE_LENGTH, power_below};
use crate::transport::{DeviceType, Transport, feature};

const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;

/// Offsets in the configuration.
mod at {
    pub const CAPACITY: usize = 0;
    pub const SIZE_MAX: usize = 8;
    pub const SEG_MAX: usize = 12;
    pub const BLK_SIZE: usize = 20;
    pub const MAX_DISCARD_SECTORS: usize = 36;
}

/// Kinds of requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_REQUEST: u32 = 4;
const DISCARD_REQUEST: u32 = 11;

/// Outcomes of requests; the last is never written by a device.
const STATUS_OK: u8 = 0;
const STATUS_UNSUPPORTED: u8 = 2;
const STATUS_NONE: u8 = 0xff;

/// The protocol counts in sectors of 512 bytes, whatever the disk's are.
const SECTOR_SHIFT: u32 = 9;

/// The largest sectors of disks.
const LARGEST_SECTOR: u32 = 4096;

const REQUESTS: u16 = 0;
/// Entries of the queue, enough for the longest chain.
const SIZE: u16 = 64;

/// The driver's own memory, from the start of a region: the sector that is put together, the request's header, what is to
/// be discarded, the outcome.
mod scratch {
    pub const SECTOR: usize = 0;
    pub const HEADER: usize = super::LARGEST_SECTOR as usize;
    pub const RANGE: usize = HEADER + 16;
    pub const STATUS: usize = RANGE + 16;
    pub const END: usize = STATUS + 16;
}

const _: () = assert!(scratch::END + Queue::memory_needed(SIZE, 1) <= Block::MEMORY);

/// A disk.
#[derive(Debug)]
pub struct Block {
    transport: Transport,
    queue: Queue,
    scratch: Region,
    features: u64,
    capacity: u64,
    sector: u32,
    /// The most pieces of data in a request, and the most bytes of one.
    most_pieces: usize,
    longest_piece: u32,
    /// The most 512-byte sectors to discard at once.
    most_discarded: u32,
}

/// The parts of a request: header, data, outcome.
struct Request {
    pieces: [Piece; TABLE_LENGTH],
    /// How many pieces of data there are, and their bytes.
    count: usize,
    len: u64,
}

impl Request {
    const EMPTY: Piece = Piece {
        phys: 0,
        len: 0,
        writable: false,
    };

    fn new() -> Self {
        Self {
            pieces: [Self::EMPTY; TABLE_LENGTH],
            count: 0,
            len: 0,
        }
    }

    fn push(&mut self, piece: Piece) {
        if let Some(place) = self.pieces.get_mut(1 + self.count) {
            *place = piece;
            self.count += 1;
            self.len += u64::from(piece.len);
        }
    }

    /// Takes up to `excess` bytes from the end.
    fn shorten(&mut self, mut excess: u32) {
        while excess != 0
            && let Some(last) = self.pieces.get_mut(self.count)
            && self.count != 0
        {
            let cut = excess.min(last.len);
            last.len -= cut;
            if last.len == 0 {
                self.count -= 1;
            }
            self.len -= u64::from(cut);
            excess -= cut;
        }
    }
}

impl Block {
    /// The least memory in bytes for [`new`](Self::new).
    pub const MEMORY: usize = 8 * 1024;

    /// Starts the device.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn new(mut transport: Transport, memory: Region) -> Result<Self, Error> {
        let features = transport.negotiate(
            DeviceType::BLOCK,
            SIZE_MAX | SEG_MAX | READ_ONLY | BLK_SIZE | FLUSH | DISCARD,
        )?;
        let has = |feature: u64| features & feature != 0;
        let (scratch, rings) = memory.split(scratch::END).ok_or(Error::Memory)?;
        let size = power_below(transport.queue_limit(REQUESTS)).min(SIZE);
        let tables = u16::from(has(feature::INDIRECT));
        let queue = Queue::new(
            &mut transport,
            REQUESTS,
            (size, size),
            tables,
            features,
            rings,
        )?;
        let room = queue.longest_chain().min(TABLE_LENGTH).saturating_sub(2);
        if room == 0 {
            return Err(Error::NoQueue);
        }
        let config = |feature: u64, offset: usize, without: u32| {
            if features & feature == 0 {
                without
            } else {
                transport.config32(offset)
            }
        };
        let sector = match config(BLK_SIZE, at::BLK_SIZE, 512) {
            size @ 512..=LARGEST_SECTOR if size.is_power_of_two() => size,
            _ => 512,
        };
        // Devices that do not say how many pieces they take may take one only.
        let most_pieces = config(SEG_MAX, at::SEG_MAX, 1).max(1) as usize;
        let longest_piece = config(SIZE_MAX, at::SIZE_MAX, u32::MAX).max(sector);
        let most_discarded = config(DISCARD, at::MAX_DISCARD_SECTORS, 0);
        let capacity = transport
            .config64(at::CAPACITY)
            .saturating_mul(1 << SECTOR_SHIFT);
        transport.start();
        Ok(Self {
            transport,
            queue,
            scratch,
            features,
            capacity: capacity & !u64::from(sector - 1),
            sector,
            most_pieces: most_pieces.min(room),
            longest_piece,
            most_discarded: most_discarded & !((sector >> SECTOR_SHIFT) - 1),
        })
    }

    /// Fills in what is known of the disk: kind, whether it is read-only, capacity and sector size.
    pub fn describe(&self, info: &mut DeviceInfo) {
        info.kind = DeviceKind::Block as u32;
        info.flags = if self.has(READ_ONLY) {
            DeviceInfo::READ_ONLY
        } else {
            0
        };
        info.capacity = self.capacity;
        info.sector_size = self.sector;
    }

    /// The capacity in bytes, a multiple of the sector size.
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// What offsets and lengths are multiples of, in bytes, a power of two from 512 to 4096.
    pub const fn sector_size(&self) -> u32 {
        self.sector
    }

    /// Reads from byte `offset` on.
    ///
    /// # Errors
    /// [`OpError::Invalid`] if offset or length are not multiples of the sector size or exceed the capacity;
    /// [`OpError::BadAddress`] for a buffer that is not memory; [`OpError::Io`].
    pub fn read(
        &mut self,
        offset: u64,
        into: Buffers<'_>,
        platform: &mut dyn Platform,
    ) -> Result<(), OpError> {
        self.transfer(IN, offset, into, platform)
    }

    /// Writes from byte `offset` on.
    ///
    /// # Errors
    /// As for [`read`](Self::read), and [`OpError::ReadOnly`].
    pub fn write(
        &mut self,
        offset: u64,
        from: Buffers<'_>,
        platform: &mut dyn Platform,
    ) -> Result<(), OpError> {
        self.transfer(OUT, offset, from, platform)
    }

    /// Returns once everything written before is on stable storage. A device that does not know of flushing stores what is
    /// written before it says that it has (section 5.2.6.2).
    ///
    /// # Errors
    /// [`OpError::Io`].
    pub fn flush(&mut self, platform: &mut dyn Platform) -> Result<(), OpError> {
        if !self.has(FLUSH) {
            return Ok(());
        }
        self.request(FLUSH_REQUEST, 0, &mut Request::new(), platform)
    }

    /// Tells the device that the content of `len` bytes from `offset` on is not needed any more.
    ///
    /// # Errors
    /// [`OpError::Unsupported`] if the device cannot, [`OpError::ReadOnly`], [`OpError::Invalid`] as for
    /// [`read`](Self::read), [`OpError::Io`].
    pub fn discard(
        &mut self,
        offset: u64,
        len: u64,
        platform: &mut dyn Platform,
    ) -> Result<(), OpError> {
        if self.has(READ_ONLY) {
            return Err(OpError::ReadOnly);
        }
        if self.most_discarded == 0 {
            return Err(OpError::Unsupported);
        }
        self.check(offset, len)?;
        let (mut sector, mut left) = (offset >> SECTOR_SHIFT, len >> SECTOR_SHIFT);
        while left != 0 {
            let count = left.min(u64::from(self.most_discarded));
            self.scratch.store64(scratch::RANGE, sector);
            self.scratch.store32(scratch::RANGE + 8, count as u32);
            self.scratch.store32(scratch::RANGE + 12, 0);
            let mut request = Request::new();
            request.push(self.own(scratch::RANGE, 16, false));
            self.request(DISCARD_REQUEST, 0, &mut request, platform)?;
            sector += count;
            left -= count;
        }
        Ok(())
    }

    const fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), OpError> {
        let aligned = (offset | len) & u64::from(self.sector - 1) == 0;
        match offset.checked_add(len) {
            Some(end) if aligned && end <= self.capacity => Ok(()),
            _ => Err(OpError::Invalid),
        }
    }

    /// Cuts a transfer into requests that the device takes.
    fn transfer(
        &mut self,
        kind: u32,
        offset: u64,
        buffers: Buffers<'_>,
        platform: &mut dyn Platform,
    ) -> Result<(), OpError> {
        if kind == OUT && self.has(READ_ONLY) {
            return Err(OpError::ReadOnly);
        }
        let mut left = buffers.total();
        self.check(offset, left)?;
        let mut sector = offset >> SECTOR_SHIFT;
        let mut cursor = buffers.cursor();
        while left != 0 {
            let mut request = self.collect(kind, &cursor, platform)?;
            let len = if request.len == 0 {
                self.by_copy(kind, sector, &cursor, platform)?;
                u64::from(self.sector)
            } else {
                self.request(kind, sector, &mut request, platform)?;
                request.len
            };
            cursor.skip(len as usize);
            sector += len >> SECTOR_SHIFT;
            left = left.saturating_sub(len);
        }
        Ok(())
    }

    /// The longest request from where the cursor stands, in whole sectors. Empty if not even one sector fits.
    fn collect(
        &self,
        kind: u32,
        cursor: &Cursor<'_>,
        platform: &dyn Platform,
    ) -> Result<Request, OpError> {
        let mut cursor = cursor.clone();
        let mut request = Request::new();
        while request.count < self.most_pieces
            && let Some((address, len)) = cursor.peek()
        {
            let (phys, together) = platform.translate(address).ok_or(OpError::BadAddress)?;
            let len = len.min(together).min(u64::from(self.longest_piece)) as u32;
            if len == 0 {
                return Err(OpError::BadAddress);
            }
            cursor.next(len as usize);
            request.push(Piece {
                phys,
                len,
                writable: kind == IN,
            });
        }
        request.shorten(request.len as u32 & (self.sector - 1));
        Ok(request)
    }

    /// Transfers one sector through the driver's own memory.
    fn by_copy(
        &mut self,
        kind: u32,
        sector: u64,
        cursor: &Cursor<'_>,
        platform: &mut dyn Platform,
    ) -> Result<(), OpError> {
        let mut cursor = cursor.clone();
        let len = self.sector as usize;
        if kind == OUT {
            self.scratch.gather(scratch::SECTOR, len, &mut cursor);
        }
        let mut request = Request::new();
        request.push(self.own(scratch::SECTOR, self.sector, kind == IN));
        self.request(kind, sector, &mut request, platform)?;
        if kind == IN {
            self.scratch.scatter(scratch::SECTOR, len, &mut cursor);
        }
        Ok(())
    }

    /// A piece of the driver's own memory.
    fn own(&self, offset: usize, len: u32, writable: bool) -> Piece {
        Piece {
            phys: self.scratch.phys() + offset as u64,
            len,
            writable,
        }
    }

    /// Performs a request whose data are filled in, and waits for it.
    fn request(
        &mut self,
        kind: u32,
        sector: u64,
        request: &mut Request,
        platform: &mut dyn Platform,
    ) -> Result<(), OpError> {
        self.scratch.store32(scratch::HEADER, kind);
        self.scratch.store32(scratch::HEADER + 4, 0);
        self.scratch.store64(scratch::HEADER + 8, sector);
        self.scratch.write(scratch::STATUS, &[STATUS_NONE]);
        let header = self.own(scratch::HEADER, 16, false);
        let outcome = self.own(scratch::STATUS, 1, true);
        if let Some(first) = request.pieces.first_mut() {
            *first = header;
        }
        if let Some(last) = request.pieces.get_mut(1 + request.count) {
            *last = outcome;
        }
        let pieces = request.pieces.get(..request.count + 2);
        self.queue
            .add(pieces.ok_or(OpError::Io)?)
            .ok_or(OpError::Io)?;
        self.transport
            .complete(&mut self.queue, platform)
            .ok_or(OpError::Io)?;
        let mut status = [STATUS_NONE];
        self.scratch.read(scratch::STATUS, &mut status);
        match status {
            [STATUS_OK] => Ok(()),
            [STATUS_UNSUPPORTED] => Err(OpError::Unsupported),
            _ => Err(OpError::Io),
        }
    }
}
