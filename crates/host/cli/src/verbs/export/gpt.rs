//! A disk with a GUID partition table that starts GRUB on BIOS computers too.
//!
//! GRUB's first sector finds its core by a sector number that its installer writes into it. Sources: UEFI specification
//! 2.10, chapter 5; GRUB's `util/setup.c` for the numbers' places.

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// First sector of the partition with GRUB's core.
const CORE: u64 = 2048;
/// Sectors of that partition.
const CORE_SECTORS: u64 = 2048;
/// First sector of the file system's partition.
pub const FILES: u64 = CORE + CORE_SECTORS;

const ENTRIES: u64 = 128;
const ENTRY_SIZE: u64 = 128;
/// Sectors that the entries take.
const TABLE: u64 = ENTRIES * ENTRY_SIZE / SECTOR;

/// "Hah!IdontNeedEFI".
const BIOS_BOOT: Guid = Guid(*b"Hah!IdontNeedEFI");
/// C12A7328-F81F-11D2-BA4B-00A0C93EC93B, as it is stored.
const EFI_SYSTEM: Guid = Guid([
    0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b,
]);

/// A GUID as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Guid([u8; 16]);

impl Guid {
    /// One that is made from a digest (RFC 9562, version 8).
    fn made(digest: &[u8; 32], which: u8) -> Self {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[0] ^= which;
        bytes[7] = bytes[7] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

/// A disk whose boot sector is `boot`, whose GRUB is `core`, and whose file system is `files`. `digest` makes its
/// identifiers.
///
/// `None` if GRUB's files are not what they are taken for.
pub fn disk(boot: &[u8], core: &[u8], files: &[u8], digest: &[u8; 32]) -> Option<Vec<u8>> {
    let files_sectors = (files.len() as u64).div_ceil(SECTOR);
    let last = FILES + files_sectors + TABLE;
    let mut disk = vec![0; usize::try_from((last + 1) * SECTOR).ok()?];
    let mut put = |sector: u64, bytes: &[u8]| {
        let at = (sector * SECTOR) as usize;
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &boot_sector(boot, last)?);
    if core.len() as u64 > CORE_SECTORS * SECTOR {
        return None;
    }
    put(CORE, &placed(core)?);
    put(FILES, files);

    let partitions = [
        (BIOS_BOOT, CORE, CORE + CORE_SECTORS - 1),
        (EFI_SYSTEM, FILES, FILES + files_sectors - 1),
    ];
    let mut entries = vec![0; (ENTRIES * ENTRY_SIZE) as usize];
    for (index, (kind, first, last)) in partitions.into_iter().enumerate() {
        let entry = &mut entries[index * ENTRY_SIZE as usize..][..48];
        entry[..16].copy_from_slice(&kind.0);
        entry[16..32].copy_from_slice(&Guid::made(digest, 1 + index as u8).0);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
    }
    let header = |own: u64, other: u64, table: u64| {
        let mut header = b"EFI PART\0\0\x01\0\x5c\0\0\0".to_vec();
        header.extend([0; 8]);
        for number in [own, other, 2 + TABLE, last - TABLE - 1] {
            header.extend(number.to_le_bytes());
        }
        header.extend(Guid::made(digest, 0).0);
        header.extend(table.to_le_bytes());
        for number in [ENTRIES as u32, ENTRY_SIZE as u32, crc32(&entries)] {
            header.extend(number.to_le_bytes());
        }
        let sum = crc32(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    };
    put(1, &header(1, last, 2));
    put(2, &entries);
    put(last - TABLE, &entries);
    put(last, &header(last, 1, last - TABLE));
    Some(disk)
}

/// GRUB's boot sector, told where the core is, with the partition table that protects the real one.
fn boot_sector(boot: &[u8], last: u64) -> Option<[u8; 512]> {
    const KERNEL_SECTOR: usize = 0x5c;
    const DRIVE_CHECK: usize = 0x66;
    let mut sector: [u8; 512] = boot.try_into().ok()?;
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    sector[KERNEL_SECTOR..][..8].copy_from_slice(&CORE.to_le_bytes());
    // Two instructions that do nothing instead of a jump: BIOSes that misreport a hard disk are corrected.
    sector[DRIVE_CHECK..][..2].copy_from_slice(&[0x90, 0x90]);
    sector[440..510].fill(0);
    let size = u32::try_from(last).unwrap_or(u32::MAX);
    let entry = &mut sector[446..462];
    entry[..8].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    entry[12..].copy_from_slice(&size.to_le_bytes());
    Some(sector)
}

/// GRUB's core, whose first sector is told where the others are.
fn placed(core: &[u8]) -> Option<Vec<u8>> {
    const BLOCKS: usize = 512 - 12;
    let mut core = core.to_vec();
    core.get_mut(BLOCKS..BLOCKS + 8)?
        .copy_from_slice(&(CORE + 1).to_le_bytes());
    Some(core)
}

/// IEEE 802.3, reflected.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum: u32, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Vec<u8> {
        let mut boot = [0xcc; 512];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        disk(&boot, &[1; 1000], &[2; 1025], &[0xff; 32]).unwrap()
    }

    fn number(disk: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(disk[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn both_tables_are_sound() {
        let disk = made();
        let sectors = disk.len() as u64 / SECTOR;
        for (own, other) in [(1, sectors - 1), (sectors - 1, 1)] {
            let at = (own * SECTOR) as usize;
            let mut header = disk[at..at + 92].to_vec();
            assert_eq!(&header[..8], b"EFI PART");
            let sum = u32::from_le_bytes(header[16..20].try_into().unwrap());
            header[16..20].fill(0);
            assert_eq!(crc32(&header), sum);
            assert_eq!(number(&header, 24), own);
            assert_eq!(number(&header, 32), other);
            let table = (number(&header, 72) * SECTOR) as usize;
            assert_eq!(number(&disk, table + 32), CORE);
            assert_eq!(number(&disk, table + 128 + 32), FILES);
            assert_eq!(number(&disk, table + 128 + 40), FILES + 2);
            assert!(number(&header, 48) >= FILES + 2);
        }
        assert_eq!(disk[(FILES * SECTOR) as usize], 2);
    }

    #[test]
    fn a_bios_finds_the_core() {
        let disk = made();
        assert_eq!(number(&disk, 0x5c), CORE);
        assert_eq!(disk[450], 0xee);
        assert_eq!(disk[510..512], [0x55, 0xaa]);
        assert_eq!(number(&disk, (CORE * SECTOR) as usize + 500), CORE + 1);
    }

    #[test]
    fn files_that_are_not_grubs_are_refused() {
        assert_eq!(disk(&[0; 512], &[1; 1000], &[], &[0; 32]), None);
        assert_eq!(disk(&[0; 3], &[1; 1000], &[], &[0; 32]), None);
        let mut boot = [0; 512];
        boot[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(disk(&boot, &[1; 100], &[], &[0; 32]), None);
        assert_eq!(disk(&boot, &vec![1; 1 << 21], &[], &[0; 32]), None);
    }

    #[test]
    fn checksums_are_those_of_the_specification() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
