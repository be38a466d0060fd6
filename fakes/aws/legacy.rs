//! The columns of the legacy Cost and Usage Report, as in real Parquet files, and their headers in
//! CSV.

use crate::Spec;
use crate::columns::{Cells, Column, Fill, OTHER_TAGS, Own, Words, text};
use crate::plan::{Line, Pool};

/// All but the tags.
pub(crate) const COLUMNS: [(&str, Fill); 124] = [
    ("identity_line_item_id", Fill::Own(Own::Id)),
    ("identity_time_interval", Fill::Own(Own::Interval)),
    ("bill_invoice_id", Fill::Empty),
    ("bill_billing_entity", Fill::Text("AWS")),
    ("bill_invoicing_entity", Fill::Text("Amazon Web Services, Inc.")),
    ("bill_bill_type", Fill::Text("Anniversary")),
    ("bill_payer_account_id", Fill::Own(Own::Account)),
    ("bill_billing_period_start_date", Fill::Own(Own::PeriodStart)),
    ("bill_billing_period_end_date", Fill::Own(Own::PeriodEnd)),
    ("line_item_usage_account_id", Fill::Own(Own::Account)),
    ("line_item_line_item_type", Fill::Kind(text::line_type)),
    ("line_item_usage_start_date", Fill::Own(Own::Start)),
    ("line_item_usage_end_date", Fill::Own(Own::End)),
    ("line_item_product_code", Fill::Kind(text::product_code)),
    ("line_item_usage_type", Fill::Kind(text::usage_type)),
    ("line_item_operation", Fill::Kind(text::operation)),
    ("line_item_availability_zone", Fill::Kind(text::zone)),
    ("line_item_resource_id", Fill::Own(Own::Resource)),
    ("line_item_usage_amount", Fill::Own(Own::Amount)),
    ("line_item_normalization_factor", Fill::Zero),
    ("line_item_normalized_usage_amount", Fill::Zero),
    ("line_item_currency_code", Fill::Text("USD")),
    ("line_item_unblended_rate", Fill::Kind(text::rate)),
    ("line_item_unblended_cost", Fill::Own(Own::Cost)),
    ("line_item_blended_rate", Fill::Kind(text::rate)),
    ("line_item_blended_cost", Fill::Own(Own::Cost)),
    ("line_item_net_unblended_rate", Fill::Kind(text::rate)),
    ("line_item_net_unblended_cost", Fill::Own(Own::Cost)),
    ("line_item_line_item_description", Fill::Kind(text::description)),
    ("line_item_tax_type", Fill::Kind(text::tax_type)),
    ("line_item_legal_entity", Fill::Text("Amazon Web Services, Inc.")),
    ("product_product_name", Fill::Kind(text::product_name)),
    ("product_availability", Fill::Empty),
    ("product_capacitystatus", Fill::Empty),
    ("product_clock_speed", Fill::Empty),
    ("product_current_generation", Fill::Empty),
    ("product_database_engine", Fill::Empty),
    ("product_dedicated_ebs_throughput", Fill::Empty),
    ("product_deployment_option", Fill::Empty),
    ("product_description", Fill::Empty),
    ("product_durability", Fill::Empty),
    ("product_ecu", Fill::Empty),
    ("product_edition", Fill::Empty),
    ("product_engine_code", Fill::Empty),
    ("product_enhanced_networking_supported", Fill::Empty),
    ("product_event_type", Fill::Empty),
    ("product_free_query_types", Fill::Empty),
    ("product_from_location", Fill::Empty),
    ("product_from_location_type", Fill::Empty),
    ("product_group", Fill::Empty),
    ("product_group_description", Fill::Empty),
    ("product_instance_family", Fill::Kind(text::instance_family)),
    ("product_instance_type", Fill::Kind(text::instance_type)),
    ("product_instance_type_family", Fill::Empty),
    ("product_license_model", Fill::Empty),
    ("product_location", Fill::Kind(text::location)),
    ("product_location_type", Fill::Kind(text::location_type)),
    ("product_max_iops_burst_performance", Fill::Empty),
    ("product_max_iopsvolume", Fill::Empty),
    ("product_max_throughputvolume", Fill::Empty),
    ("product_max_volume_size", Fill::Empty),
    ("product_memory", Fill::Empty),
    ("product_message_delivery_frequency", Fill::Empty),
    ("product_message_delivery_order", Fill::Empty),
    ("product_min_volume_size", Fill::Empty),
    ("product_network_performance", Fill::Empty),
    ("product_normalization_size_factor", Fill::Empty),
    ("product_operating_system", Fill::Empty),
    ("product_operation", Fill::Kind(text::operation)),
    ("product_physical_processor", Fill::Empty),
    ("product_pre_installed_sw", Fill::Empty),
    ("product_processor_architecture", Fill::Empty),
    ("product_processor_features", Fill::Empty),
    ("product_product_family", Fill::Kind(text::family)),
    ("product_queue_type", Fill::Empty),
    ("product_region", Fill::Kind(text::region)),
    ("product_servicecode", Fill::Kind(text::service)),
    ("product_servicename", Fill::Kind(text::product_name)),
    ("product_sku", Fill::Kind(text::sku)),
    ("product_storage", Fill::Empty),
    ("product_storage_class", Fill::Empty),
    ("product_storage_media", Fill::Empty),
    ("product_subscription_type", Fill::Empty),
    ("product_tenancy", Fill::Empty),
    ("product_to_location", Fill::Empty),
    ("product_to_location_type", Fill::Empty),
    ("product_transfer_type", Fill::Kind(text::transfer_type)),
    ("product_usagetype", Fill::Kind(text::usage_type)),
    ("product_vcpu", Fill::Empty),
    ("product_version", Fill::Empty),
    ("product_volume_type", Fill::Empty),
    ("pricing_lease_contract_length", Fill::Empty),
    ("pricing_offering_class", Fill::Empty),
    ("pricing_purchase_option", Fill::Empty),
    ("pricing_rate_code", Fill::Kind(text::rate_code)),
    ("pricing_rate_id", Fill::Kind(text::rate_id)),
    ("pricing_public_on_demand_cost", Fill::Own(Own::ListCost)),
    ("pricing_public_on_demand_rate", Fill::Kind(text::rate)),
    ("pricing_term", Fill::Kind(text::term)),
    ("pricing_unit", Fill::Kind(text::unit)),
    ("pricing_currency", Fill::Kind(text::currency)),
    ("reservation_amortized_upfront_cost_for_usage", Fill::Zero),
    ("reservation_amortized_upfront_fee_for_billing_period", Fill::Zero),
    ("reservation_effective_cost", Fill::Zero),
    ("reservation_end_time", Fill::Empty),
    ("reservation_modification_status", Fill::Empty),
    ("reservation_normalized_units_per_reservation", Fill::Empty),
    ("reservation_number_of_reservations", Fill::Empty),
    ("reservation_recurring_fee_for_usage", Fill::Zero),
    ("reservation_reservation_a_r_n", Fill::Own(Own::Reservation)),
    ("reservation_start_time", Fill::Empty),
    ("reservation_subscription_id", Fill::Empty),
    ("reservation_total_reserved_normalized_units", Fill::Empty),
    ("reservation_total_reserved_units", Fill::Empty),
    ("reservation_units_per_reservation", Fill::Empty),
    ("reservation_unused_amortized_upfront_fee_for_billing_period", Fill::Zero),
    ("reservation_unused_normalized_unit_quantity", Fill::Zero),
    ("reservation_unused_quantity", Fill::Zero),
    ("reservation_unused_recurring_fee", Fill::Zero),
    ("reservation_upfront_value", Fill::Zero),
    ("savings_plan_savings_plan_a_r_n", Fill::Empty),
    ("savings_plan_savings_plan_rate", Fill::Zero),
    ("savings_plan_savings_plan_effective_cost", Fill::Zero),
    ("savings_plan_used_commitment", Fill::Zero),
];

/// Categories of columns: how names begin in Parquet and in CSV.
const CATEGORIES: [(&str, &str); 7] = [
    ("identity_", "identity"),
    ("bill_", "bill"),
    ("line_item_", "lineItem"),
    ("product_", "product"),
    ("pricing_", "pricing"),
    ("reservation_", "reservation"),
    ("savings_plan_", "savingsPlan"),
];

/// The name of a column in CSV: `lineItem/UsageAmount` for `line_item_usage_amount`.
pub(crate) fn header(name: &str) -> String {
    let category = CATEGORIES.iter().find_map(|(begin, category)| Some((category, name.strip_prefix(begin)?)));
    let Some((category, rest)) = category else { return name.into() };
    // Products and some of the pricing begin with a small letter.
    let small = match *category {
        "product" => rest != "product_name",
        "pricing" => ["public_on_demand_cost", "public_on_demand_rate", "term", "unit", "currency"].contains(&rest),
        _ => false,
    };
    let words = rest.split('_').enumerate().map(|(at, word)| match word.split_at_checked(1) {
        Some((first, others)) if at > 0 || !small => first.to_uppercase() + others,
        _ => word.into(),
    });
    format!("{category}/{}", words.collect::<String>())
}

/// A column for each tag, the customer's too unless there is no place for it.
pub(crate) fn tags(spec: &Spec, pool: &Pool, tag: &str) -> Vec<Column> {
    let column = |name: &str, key: &str, table: Vec<String>, code: fn(&Line) -> usize| Column {
        name: format!("resource_tags_{name}"),
        header: format!("resourceTags/{key}"),
        cells: Cells::Words(Words { table, code }),
    };
    let [app, cost_center, environment] = OTHER_TAGS.map(|name| format!("user_{name}"));
    let mut columns = vec![
        column("aws_created_by", "aws:createdBy", vec![format!("Root:{}", spec.account)], |_| 0),
        column(&app, "user:app", vec![String::new(), "chat".into()], |line| usize::from(line.labelled)),
        column(&cost_center, "user:CostCenter", vec![String::new(), "CC-1001".into(), "CC-1002".into()], |line| {
            usize::from(line.labelled) * (1 + line.kind % 2)
        }),
        column(&environment, "user:environment", vec![String::new(), "prod".into()], |line| usize::from(line.labelled)),
    ];
    if !spec.tag_column_missing {
        let customers = [String::new()].into_iter().chain(pool.customers.iter().cloned()).collect();
        let (name, key) = (format!("user_{tag}"), format!("user:{}", spec.tag_key));
        columns.push(column(&name, &key, customers, |line| line.customer));
    }
    columns
}
