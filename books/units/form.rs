//! The form of ids and names that machines and people hand in. Migrations 0021 and 0043 have the
//! same rules for whoever writes to the database directly.

/// Most characters of a customer's id: as many as the value of a cost allocation tag may have.
pub const CUSTOMER_ID: usize = 256;
/// Most characters of a plan's name.
pub const PLAN_NAME: usize = 64;
/// Most characters of a customer's display name.
pub const DISPLAY_NAME: usize = 256;
/// Most characters of an id of Stripe.
const STRIPE_ID: usize = 255;

/// Whether a text is an id of Stripe: 1 to 255 visible ASCII characters, so no blank.
pub fn is_stripe_id(text: &str) -> bool {
    (1..=STRIPE_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Whether a text is a name: 1 to `most` characters, none of them a control character, and no blank
/// at its ends.
pub fn is_name(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.chars().count())
        && !text.chars().any(char::is_control)
        && !text.starts_with([' ', '\u{a0}'])
        && !text.ends_with([' ', '\u{a0}'])
}

/// The rule of [`is_stripe_id`], for an error.
pub fn stripe_id_rule() -> String {
    format!("it has 1 to {STRIPE_ID} visible ASCII characters, and no blank, as Stripe writes it")
}

/// The rule of [`is_name`], for an error.
pub fn name_rule(most: usize) -> String {
    format!("it has 1 to {most} characters, none of them a control character, and no blank at the ends")
}
