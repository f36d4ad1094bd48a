//! Names and ids of instances.
//!
//! An id is 12 hexadecimal digits, random. A name is the user's, or an adjective and a noun chosen by the same random
//! bytes; whether a name is free is the registry's affair.

/// The longest name of an instance in bytes.
pub const MAX_NAME: usize = 63;

/// The digits of an id.
pub const ID_LEN: usize = 12;

const ADJECTIVES: [&str; 64] = [
    "able", "airy", "amber", "ample", "arctic", "basic", "bold", "brave", "brief", "bright",
    "brisk", "bronze", "calm", "candid", "civil", "clear", "clever", "cobalt", "copper", "cosmic",
    "crisp", "deft", "dense", "direct", "eager", "early", "exact", "fair", "fast", "firm",
    "fluent", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "hardy", "honest",
    "humble", "ideal", "keen", "kind", "light", "lively", "loyal", "lucid", "mellow", "modest",
    "neat", "nimble", "noble", "patient", "plain", "polite", "prime", "quick", "quiet", "sharp",
    "solid", "swift", "tidy", "vivid",
];

const NOUNS: [&str; 64] = [
    "anvil", "arch", "ash", "basalt", "beacon", "birch", "bloom", "bowl", "brick", "bridge",
    "brook", "cedar", "chalk", "clay", "cliff", "cloud", "coast", "comet", "coral", "crane",
    "creek", "delta", "dune", "ember", "falcon", "fern", "field", "flint", "forge", "furnace",
    "glacier", "glaze", "grain", "granite", "grove", "harbor", "hazel", "heron", "hill", "hearth",
    "island", "jar", "kettle", "lake", "lantern", "larch", "marble", "meadow", "mill", "moss",
    "oak", "otter", "pebble", "pine", "pond", "potter", "quartz", "ridge", "river", "shale",
    "slate", "spring", "tile", "vase",
];

/// The id made of random bytes.
pub fn id(random: [u8; 6]) -> String {
    let number = random
        .iter()
        .fold(0u64, |all, &byte| all << 8 | u64::from(byte));
    format!("{number:012x}")
}

/// The name that random bytes stand for. `attempt` counts the names that turned out to be taken: later attempts are
/// longer, so that one is found however many instances there are.
pub fn generated(random: [u8; 6], attempt: u32) -> String {
    let adjective = ADJECTIVES[usize::from(random[0]) % ADJECTIVES.len()];
    let noun = NOUNS[usize::from(random[1]) % NOUNS.len()];
    match attempt {
        0 => format!("{adjective}_{noun}"),
        _ => format!(
            "{adjective}_{noun}_{}",
            u64::from(u16::from_le_bytes([random[2], random[3]])) + u64::from(attempt)
        ),
    }
}

/// True for 1 to [`MAX_NAME`] letters, digits, `_`, `.` and `-`, the first a letter or digit. It is docker's rule, and
/// it makes names safe as file names.
pub fn valid(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// True for the 12 digits of an id.
pub fn valid_id(id: &str) -> bool {
    id.len() == ID_LEN && is_id_prefix(id)
}

/// True for what can be the first digits of an id.
pub fn is_id_prefix(text: &str) -> bool {
    (1..=ID_LEN).contains(&text.len())
        && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// As much of a name as the guest is told, cut between characters (they are all ASCII).
pub fn for_guest(name: &str) -> &str {
    &name[..name.len().min(kiln_abi::note::MAX_NAME)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_twelve_digits_whatever_the_bytes() {
        assert_eq!(id([0; 6]), "000000000000");
        assert_eq!(id([1, 2, 3, 4, 5, 0xff]), "0102030405ff");
        assert!(valid_id(&id([0xab; 6])));
    }

    #[test]
    fn generated_names_are_valid_and_fit_the_boot_record() {
        for (adjective, noun) in (0..=255).zip((0..=255).rev()) {
            for attempt in [0, 1, 70_000] {
                let name = generated([adjective, noun, 255, 255, 0, 0], attempt);
                assert!(valid(&name), "{name}");
                assert!(name.len() <= kiln_abi::note::MAX_NAME, "{name}");
            }
        }
        assert_ne!(generated([0; 6], 1), generated([0; 6], 2));
    }

    #[test]
    fn names_cannot_leave_their_folder() {
        for bad in ["", ".", "..", "-x", "a/b", "a b", "ä", &"x".repeat(64)] {
            assert!(!valid(bad), "{bad:?}");
        }
        for good in ["web", "Web.1", "a-b_c", "0"] {
            assert!(valid(good), "{good:?}");
        }
    }
}
