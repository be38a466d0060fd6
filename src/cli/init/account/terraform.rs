//! The account's needs as a module for Terraform, with the provider `hashicorp/aws`.

use std::fmt::Write as _;

use super::data_export::{FREQUENCY, OUTPUT, SETTINGS, TABLE, query};
use super::{Account, policy};

/// The provider that has all of these resources
/// (<https://registry.terraform.io/providers/hashicorp/aws/latest/docs/resources/bcmdataexports_export>).
const PROVIDER: &str = ">= 5.48";

/// The whole module.
pub(super) fn module(account: &Account) -> anyhow::Result<String> {
    let Account { bills, region, account: number, tag, export, role, trust, .. } = account;
    let json = |policy: policy::Policy| anyhow::Ok(policy.json()?.replace('\n', "\n  ").replace("\": ", "\" : "));
    let bucket_policy = json(policy::of_bucket(account))?;
    let (trusted, rights) = (json(policy::of_trust(account))?, json(policy::of_role(account))?);
    let mut settings = String::new();
    for (name, value) in SETTINGS {
        let _ = writeln!(settings, "          {name:37} = \"{value}\"");
    }
    let (query, output) = (query(), OUTPUT);
    let instance = match trust.as_str() {
        "ec2.amazonaws.com" => format!(
            "# So that an instance of EC2 can have the role.\n\
             resource \"aws_iam_instance_profile\" \"meter\" {{\n  \
             name = \"{role}\"\n  \
             role = aws_iam_role.meter.name\n\
             }}\n\n"
        ),
        _ => String::new(),
    };
    Ok(format!(
        r#"# What meter needs in the payer account. A bucket that is there already is
# imported: terraform import aws_s3_bucket.bills {bucket}

terraform {{
  required_providers {{
    aws = {{
      source  = "hashicorp/aws"
      version = "{PROVIDER}"
    }}
  }}
}}

provider "aws" {{
  region              = "{region}"
  allowed_account_ids = ["{number}"]
}}

# Data Exports and Cost Explorer are there alone.
provider "aws" {{
  alias               = "billing"
  region              = "us-east-1"
  allowed_account_ids = ["{number}"]
}}

resource "aws_s3_bucket" "bills" {{
  bucket = "{bucket}"
}}

resource "aws_s3_bucket_public_access_block" "bills" {{
  bucket                  = aws_s3_bucket.bills.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}}

# AWS may write the bills.
resource "aws_s3_bucket_policy" "bills" {{
  bucket = aws_s3_bucket.bills.id
  policy = jsonencode({bucket_policy})
}}

# AWS fills it within a day, from this month on. All settings of the table are
# here, because AWS answers with all of them.
resource "aws_bcmdataexports_export" "bills" {{
  provider   = aws.billing
  depends_on = [aws_s3_bucket_policy.bills]

  export {{
    name = "{export}"

    data_query {{
      query_statement = "{query}"
      table_configurations = {{
        {TABLE} = {{
          BILLING_VIEW_ARN                      = "arn:aws:billing::{number}:billingview/primary"
{settings}        }}
      }}
    }}

    destination_configurations {{
      s3_destination {{
        s3_bucket = aws_s3_bucket.bills.id
        s3_prefix = "{prefix}"
        s3_region = "{region}"

        s3_output_configurations {{
          output_type = "{output_type}"
          format      = "{format}"
          compression = "{compression}"
          overwrite   = "{overwrite}"
        }}
      }}
    }}

    refresh_cadence {{
      frequency = "{FREQUENCY}"
    }}
  }}
}}

# The role of the worker, which may read the bills and nothing else.
resource "aws_iam_role" "meter" {{
  name = "{role}"
  assume_role_policy = jsonencode({trusted})
}}

resource "aws_iam_role_policy" "meter" {{
  name = "read-bills"
  role = aws_iam_role.meter.id
  policy = jsonencode({rights})
}}

{instance}# AWS knows a key about a day after its first use on a resource, and refuses it
# before. It counts from its activation on.
resource "aws_ce_cost_allocation_tag" "customer" {{
  provider = aws.billing
  tag_key  = "{tag}"
  status   = "Active"
}}
"#,
        bucket = bills.bucket,
        prefix = bills.prefix,
        output_type = output.output_type,
        format = output.format,
        compression = output.compression,
        overwrite = output.overwrite,
    ))
}
