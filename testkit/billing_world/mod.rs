//! Books and a fake Stripe for a few customers. The test knows their usage, their plans and their
//! budgets independently of the books.

pub mod changes;
pub mod judgement;
pub mod model;
pub mod run;
mod scene;
mod world;

pub use self::scene::{CUSTOMERS, DAY, HOUR, METERS, Start, at};
pub use self::world::{BillingWorld, Template, http_client};
