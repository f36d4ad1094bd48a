//! An OVA: one file with a disk and its description, which virtualisation programs import.
//!
//! Source: DMTF DSP0243, Open Virtualization Format 1.1; POSIX.1-2017, `ustar`.

use std::fmt::Write as _;
use std::path::PathBuf;

use kiln_image::digest;

use super::machine::Machine;
use super::tools::Workshop;
use super::{disk, mebibytes};
use crate::exit::Failure;

/// Writes the archive: the description comes first, so that readers need no second pass.
///
/// # Errors
/// A missing or failing program.
pub fn write(shop: &Workshop, machine: &Machine) -> Result<PathBuf, Failure> {
    let vmdk = disk::convert(shop, machine, "vmdk", "subformat=streamOptimized")?;
    let disk = shop.read(&vmdk)?;
    let capacity = shop.read("disk.img")?.len();
    let ovf = description(machine, disk.len(), capacity);
    let mut manifest = String::new();
    let files = [("ovf", ovf.as_bytes()), ("vmdk", &disk)];
    for (ending, bytes) in files {
        let sum = digest::of_bytes(bytes);
        // Writing to a string cannot fail.
        let _ = writeln!(manifest, "SHA256({}.{ending})= {sum}", machine.name);
    }
    let [ovf, vmdk] = files;
    let mut archive = Vec::new();
    for (ending, bytes) in [ovf, ("mf", manifest.as_bytes()), vmdk] {
        entry(&mut archive, &format!("{}.{ending}", machine.name), bytes)
            .ok_or_else(|| Failure::new("the disk is too large for an OVA: use --format qcow2"))?;
    }
    archive.extend([0; 1024]);
    shop.write("machine.ova", archive)
}

/// Appends a file to a tar archive. `None` if its name or size does not fit the format.
fn entry(archive: &mut Vec<u8>, name: &str, bytes: &[u8]) -> Option<()> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    if name.len() > 99 || bytes.len() as u64 >= 1 << 33 {
        return None;
    }
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", bytes.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(bytes);
    archive.resize(archive.len().next_multiple_of(512), 0);
    Some(())
}

/// The description. A machine's name needs no quoting: it has letters, digits and `_.-` only.
fn description(machine: &Machine, file_size: usize, capacity: usize) -> String {
    let name = &machine.name;
    let memory = mebibytes(machine.memory);
    let mut networks = String::new();
    let mut adapters = String::new();
    for index in 0..machine.links.len() {
        let id = 10 + index;
        // Writing to a string cannot fail.
        let _ = write!(
            networks,
            "\n    <Network ovf:name=\"net{index}\"><Description>Link {index}</Description></Network>"
        );
        let _ = write!(
            adapters,
            "
      <Item>
        <rasd:AutomaticAllocation>true</rasd:AutomaticAllocation>
        <rasd:Connection>net{index}</rasd:Connection>
        <rasd:ElementName>Link {index}</rasd:ElementName>
        <rasd:InstanceID>{id}</rasd:InstanceID>
        <rasd:ResourceSubType>virtio</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType>
      </Item>"
        );
    }
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
  <References>
    <File ovf:id="file1" ovf:href="{name}.vmdk" ovf:size="{file_size}"/>
  </References>
  <DiskSection>
    <Info>Disks</Info>
    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="{capacity}" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>{networks}
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A Kiln machine</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="102">
      <Info>Kiln</Info>
      <Description>Other 64-bit</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Hardware</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType>
      </System>
      <Item>
        <rasd:ElementName>1 processor</rasd:ElementName>
        <rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType>
        <rasd:VirtualQuantity>1</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits>
        <rasd:ElementName>{memory} MiB of memory</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID>
        <rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>{memory}</rasd:VirtualQuantity>
      </Item>
      <Item>
        <rasd:ElementName>Disk controller</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID>
        <rasd:ResourceSubType>AHCI</rasd:ResourceSubType>
        <rasd:ResourceType>20</rasd:ResourceType>
      </Item>
      <Item>
        <rasd:AddressOnParent>0</rasd:AddressOnParent>
        <rasd:ElementName>Disk</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/disk1</rasd:HostResource>
        <rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent>
        <rasd:ResourceType>17</rasd:ResourceType>
      </Item>{adapters}
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_what_tar_reads() {
        let mut archive = Vec::new();
        entry(&mut archive, "a.ovf", b"text").unwrap();
        entry(&mut archive, "b", &[7; 600]).unwrap();
        assert_eq!(archive.len(), 512 * (2 + 3));
        let header = &archive[..512];
        assert!(header.starts_with(b"a.ovf\0"));
        assert_eq!(&header[124..136], b"00000000004\0");
        assert_eq!(&header[257..265], b"ustar\x0000");
        let mut without = header.to_vec();
        without[148..156].fill(b' ');
        let sum: u32 = without.iter().map(|&b| u32::from(b)).sum();
        assert_eq!(&header[148..156], format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(entry(&mut archive, &"x".repeat(100), b""), None);
    }
}
