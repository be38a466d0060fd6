//! The columns of a bill: their names, and what stands in them, still without any file format.

use anyhow::{Result, ensure};

use crate::amount::{ONE, rate_text, times};
use crate::kinds::{KINDS, Kind, LineType};
use crate::places::Month;
use crate::plan::{Line, Pool};
use crate::random::{hash, uuid_of};
use crate::{FileKind, Layout, Spec, cur2, legacy};

/// A column.
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) header: String,
    pub(crate) cells: Cells,
}

/// What stands in a column. An empty text is a missing one.
pub(crate) enum Cells {
    /// One of few texts.
    Words(Words),
    /// The line's own id.
    Id,
    /// A time: hours since the month began, from the line and the length of the month.
    Hour(fn(&Line, u16) -> u16),
    Number(fn(&Line) -> i64),
    /// Always 0.
    Zero,
    /// A number, but always missing.
    NoNumber,
    /// A map of texts.
    Map(Pairs),
    /// A map without entries.
    NoPairs {
        doubles: bool,
    },
}

/// Texts to choose from, and which one a line has.
pub(crate) struct Words {
    pub(crate) table: Vec<String>,
    pub(crate) code: fn(&Line) -> usize,
}

/// The entries of a map: places among the keys and among the values.
pub(crate) struct Pairs {
    pub(crate) keys: Vec<String>,
    pub(crate) values: Vec<String>,
    pub(crate) of: fn(&Line, &mut Vec<(usize, usize)>),
}

impl Cells {
    /// The type as CUR 2.0's manifest names it.
    pub(crate) fn type_name(&self, kind: FileKind) -> &'static str {
        match self {
            Self::Words(_) | Self::Id => "string",
            Self::Hour(_) => "timestamp",
            Self::Number(_) | Self::Zero | Self::NoNumber => "double",
            Self::Map(_) | Self::NoPairs { .. } if kind != FileKind::Parquet => "string",
            Self::Map(_) | Self::NoPairs { doubles: false } => "map<string,string>",
            Self::NoPairs { doubles: true } => "map<string,double>",
        }
    }
}

/// What the tables of columns say of each.
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    /// The same text in every line.
    Text(&'static str),
    /// A text that is missing in every line.
    Empty,
    /// The number 0 in every line.
    Zero,
    /// A number that is missing in every line.
    Absent,
    /// Depends on the kind of line.
    Kind(fn(&Kind, LineType) -> String),
    /// One of those that need the bill's own names and dates.
    Own(Own),
}

/// Columns with a meaning of their own.
#[derive(Clone, Copy)]
pub(crate) enum Own {
    Id,
    Interval,
    Start,
    End,
    PeriodStart,
    PeriodEnd,
    Account,
    Resource,
    Amount,
    Cost,
    ListCost,
    Product,
    Reservation,
    NoTexts,
    NoDoubles,
}

/// Those that the narrow bill has, besides the tags.
const NARROW: [&str; 23] = [
    "identity_line_item_id",
    "identity_time_interval",
    "bill_invoice_id",
    "bill_billing_entity",
    "bill_bill_type",
    "bill_payer_account_id",
    "bill_billing_period_start_date",
    "bill_billing_period_end_date",
    "line_item_usage_account_id",
    "line_item_line_item_type",
    "line_item_usage_start_date",
    "line_item_usage_end_date",
    "line_item_product_code",
    "line_item_usage_type",
    "line_item_operation",
    "line_item_availability_zone",
    "line_item_resource_id",
    "line_item_usage_amount",
    "line_item_unblended_cost",
    "line_item_currency_code",
    "line_item_line_item_description",
    "pricing_unit",
    "product",
];

/// The columns of the bill.
pub(crate) fn of(spec: &Spec, month: &Month, pool: &Pool) -> Result<Vec<Column>> {
    let tag = normalised(&spec.tag_key);
    ensure!(!tag.is_empty(), "the tag key {:?} has no letters or digits", spec.tag_key);
    ensure!(!OTHER_TAGS.contains(&&*tag), "the tag key {:?} is taken by another tag of the bill", spec.tag_key);
    let table = match spec.layout {
        Layout::Legacy => legacy::COLUMNS.as_slice(),
        Layout::Cur2 => cur2::COLUMNS.as_slice(),
    };
    let mut columns: Vec<Column> = table
        .iter()
        .filter(|(name, _)| spec.wide || NARROW.contains(name))
        .map(|(name, fill)| Column {
            name: (*name).into(),
            header: match spec.layout {
                Layout::Legacy => legacy::header(name),
                Layout::Cur2 => (*name).into(),
            },
            cells: cells(*fill, spec, month, pool),
        })
        .collect();
    match spec.layout {
        Layout::Legacy => columns.extend(legacy::tags(spec, pool, &tag)),
        Layout::Cur2 if spec.tag_column_missing => {}
        Layout::Cur2 => columns.push(cur2::tags(pool, &tag)),
    }
    if spec.layout == Layout::Cur2 {
        // As AWS does: CUR 2.0 lists its columns by name.
        columns.sort_by(|one, other| one.name.cmp(&other.name));
    }
    Ok(columns)
}

/// The other tags of the bill's resources, normalised.
pub(crate) const OTHER_TAGS: [&str; 3] = ["app", "cost_center", "environment"];

/// A tag key as AWS makes it a column name: `_` before upper-case letters, lower case, `_` for all
/// that is no letter or digit, no `_` twice and none at the ends.
pub(crate) fn normalised(key: &str) -> String {
    let mut name = String::new();
    for letter in key.chars() {
        if !letter.is_ascii_alphanumeric() || letter.is_ascii_uppercase() {
            name.push('_');
        }
        if letter.is_ascii_alphanumeric() {
            name.push(letter.to_ascii_lowercase());
        }
    }
    name.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
}

fn cells(fill: Fill, spec: &Spec, month: &Month, pool: &Pool) -> Cells {
    match fill {
        Fill::Text(text) => same(text),
        Fill::Empty => same(""),
        Fill::Zero => Cells::Zero,
        Fill::Absent => Cells::NoNumber,
        Fill::Kind(text) => Cells::Words(by_kind(text)),
        Fill::Own(own) => match own {
            Own::Id => Cells::Id,
            Own::Interval => Cells::Words(intervals(month)),
            Own::Start => Cells::Hour(|line, _| line.start),
            Own::End => Cells::Hour(|line, _| line.end),
            Own::PeriodStart => Cells::Hour(|_, _| 0),
            Own::PeriodEnd => Cells::Hour(|_, hours| hours),
            Own::Account => same(&spec.account),
            Own::Resource => Cells::Words(Words { table: pool.resources(), code: |line| line.resource }),
            Own::Amount => Cells::Number(|line| line.amount),
            Own::Cost => Cells::Number(cost),
            Own::ListCost => Cells::Number(|line| cost(line).max(0)),
            Own::Product => Cells::Map(product()),
            Own::Reservation => Cells::Words(reservations(&spec.account)),
            Own::NoTexts => Cells::NoPairs { doubles: false },
            Own::NoDoubles => Cells::NoPairs { doubles: true },
        },
    }
}

fn same(text: &str) -> Cells {
    Cells::Words(Words { table: vec![text.into()], code: |_| 0 })
}

fn by_kind(text: fn(&Kind, LineType) -> String) -> Words {
    let table = KINDS.iter().flat_map(|kind| LineType::ALL.map(|line_type| text(kind, line_type))).collect();
    Words { table, code: |line| line.kind * LineType::ALL.len() + line.line_type.index() }
}

/// The first is that of tax lines, a day; the others are the hours of the month.
fn intervals(month: &Month) -> Words {
    let text = |from, to| format!("{}:00:00Z/{}:00:00Z", month.hour_text(from), month.hour_text(to));
    let hours = (0..month.hours).map(|hour| text(hour, hour + 1));
    Words {
        table: [text(0, 24)].into_iter().chain(hours).collect(),
        code: |line| if line.line_type == LineType::Tax { 0 } else { 1 + usize::from(line.start) },
    }
}

/// One reservation covers all that is discounted.
fn reservations(account: &str) -> Words {
    let reservation = uuid_of(&format!("reservation {account}"));
    Words {
        table: vec![String::new(), format!("arn:aws:ec2:us-east-1:{account}:reserved-instances/{reservation}")],
        code: |line| usize::from(line.line_type == LineType::DiscountedUsage),
    }
}

/// What a line costs; a credit takes some cents off.
fn cost(line: &Line) -> i64 {
    let kind = &KINDS[line.kind];
    match line.line_type {
        LineType::Usage | LineType::DiscountedUsage => times(line.amount, kind.rate),
        LineType::Credit => -kind.rate,
        LineType::Tax => 19 * ONE / 10,
    }
}

/// CUR 2.0's map of the product.
fn product() -> Pairs {
    Pairs {
        keys: vec!["product_name".into(), "region".into(), "servicename".into()],
        values: KINDS.iter().flat_map(|kind| [kind.product_name, kind.region, kind.service]).map(Into::into).collect(),
        of: |line, pairs| {
            let entries = if line.line_type == LineType::Tax { 1 } else { 3 };
            pairs.extend((0..entries).map(|entry| (entry, line.kind * 3 + entry)));
        },
    }
}

/// Texts by kind of line, for the tables of columns.
pub(crate) mod text {
    use super::{Kind, LineType, hash, rate_text};

    /// Tax lines name the product and little else.
    fn untaxed(line_type: LineType, text: impl Into<String>) -> String {
        if line_type == LineType::Tax { String::new() } else { text.into() }
    }

    fn of_instance(kind: &Kind, line_type: LineType, text: &str) -> String {
        untaxed(line_type, if kind.reservable() { text } else { "" })
    }

    pub(crate) fn line_type(_: &Kind, line_type: LineType) -> String {
        line_type.text().into()
    }

    pub(crate) fn product_code(kind: &Kind, _: LineType) -> String {
        kind.product.into()
    }

    pub(crate) fn product_name(kind: &Kind, _: LineType) -> String {
        kind.product_name.into()
    }

    pub(crate) fn usage_type(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, kind.usage_type)
    }

    pub(crate) fn operation(kind: &Kind, line_type: LineType) -> String {
        if line_type == LineType::Credit { String::new() } else { untaxed(line_type, kind.operation) }
    }

    pub(crate) fn description(kind: &Kind, line_type: LineType) -> String {
        match line_type {
            LineType::Tax => format!("Tax for product code {}", kind.product),
            LineType::Credit => "AWS Free Tier".into(),
            LineType::Usage => format!("${} per {} - {}", rate_text(kind.rate), kind.unit, kind.location),
            LineType::DiscountedUsage => format!("{} reserved instance applied", kind.usage_type),
        }
    }

    pub(crate) fn tax_type(_: &Kind, line_type: LineType) -> String {
        if line_type == LineType::Tax { "VAT".into() } else { String::new() }
    }

    pub(crate) fn zone(kind: &Kind, line_type: LineType) -> String {
        of_instance(kind, line_type, "us-east-1a")
    }

    pub(crate) fn instance_type(kind: &Kind, line_type: LineType) -> String {
        of_instance(kind, line_type, "t3.medium")
    }

    pub(crate) fn instance_family(kind: &Kind, line_type: LineType) -> String {
        of_instance(kind, line_type, "General purpose")
    }

    pub(crate) fn unit(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, kind.unit)
    }

    pub(crate) fn rate(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, rate_text(kind.rate))
    }

    pub(crate) fn term(_: &Kind, line_type: LineType) -> String {
        untaxed(line_type, if line_type == LineType::DiscountedUsage { "Reserved" } else { "OnDemand" })
    }

    pub(crate) fn currency(_: &Kind, line_type: LineType) -> String {
        untaxed(line_type, "USD")
    }

    pub(crate) fn family(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, kind.family)
    }

    pub(crate) fn region(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, kind.region)
    }

    pub(crate) fn location(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, kind.location)
    }

    pub(crate) fn location_type(_: &Kind, line_type: LineType) -> String {
        untaxed(line_type, "AWS Region")
    }

    pub(crate) fn service(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, kind.service)
    }

    fn number(kind: &Kind) -> u64 {
        hash(&format!("{}/{}", kind.product, kind.usage_type))
    }

    pub(crate) fn sku(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, format!("{:016X}", number(kind)))
    }

    pub(crate) fn rate_code(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, format!("{:016X}.JRTCKXETXF.6YS6EN2CT7", number(kind)))
    }

    pub(crate) fn rate_id(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, format!("{}", 280_000_000_000 + number(kind) % 10_000_000_000))
    }

    pub(crate) fn transfer_type(kind: &Kind, line_type: LineType) -> String {
        untaxed(line_type, if kind.service == "AWSDataTransfer" { "AWS Outbound" } else { "" })
    }
}
