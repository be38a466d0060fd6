"""Checks what `meter init --print` prints: its calls against the API models of botocore, its
policies against AWS's policy grammar and moto's checks, and Terraform's resources against both."""

import json
import os
import re
import shlex
import sys

import boto3
from botocore import xform_name
from botocore.session import get_session
from botocore.validate import ParamValidator
from moto import mock_aws
from moto.iam.policy_validation import IAMPolicyDocumentValidator, IAMTrustPolicyDocumentValidator

session = get_session()
# actions of IAM that are no operation of the same name
ACTIONS = {"s3:ListBucket": "ListObjectsV2"}
CONDITION_KEYS = {"aws:SourceAccount", "aws:SourceArn", "s3:prefix"}
OPERATORS = {"StringEquals", "StringLike", "ArnLike", "ArnEquals"}
ARN = re.compile(r"arn:aws:(s3|iam|cur|bcm-data-exports):([a-z0-9-]*):(\d{12})?:[^\s:\"']+$")


def constraints(shape, value, where):
    """What botocore leaves to the service: enums, patterns, and lengths of strings."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            constraints(shape.members[name], inner, f"{where}.{name}")
    elif shape.type_name == "list":
        for inner in value:
            constraints(shape.member, inner, where)
    elif shape.type_name == "map":
        for name, inner in value.items():
            constraints(shape.key, name, where)
            constraints(shape.value, inner, f"{where}.{name}")
    elif shape.type_name == "string":
        assert not shape.enum or value in shape.enum, f"{where}: {value} is none of {shape.enum}"
        limits = shape.metadata
        assert limits.get("min", 0) <= len(value) <= limits.get("max", 1 << 30), f"{where}: length"
        pattern = limits.get("pattern")
        assert not pattern or re.fullmatch(pattern, value), f"{where}: {value} is not {pattern}"


def call(service, operation, parameters):
    model = session.get_service_model(service)
    shape = model.operation_model(operation).input_shape
    report = ParamValidator().validate(parameters, shape)
    assert not report.has_errors(), f"{service} {operation}: {report.generate_report()}"
    constraints(shape, parameters, operation)


def command(words):
    """A line of the AWS command line as service, operation and parameters."""
    assert words[0] == "aws"
    service = {"s3api": "s3"}.get(words[1], words[1])
    model = session.get_service_model(service)
    operation = {xform_name(name, "-"): name for name in model.operation_names}[words[2]]
    members = model.operation_model(operation).input_shape.members
    by_flag = {"--" + xform_name(name, "-"): name for name in members}
    parameters, region = {}, None
    for flag, value in zip(words[3::2], words[4::2], strict=True):
        if flag == "--region":
            region = value
            continue
        name = by_flag[flag]
        parameters[name] = value if members[name].type_name == "string" else json.loads(value)
    return service, operation, parameters, region


def commands(text):
    found = []
    for line in re.split(r"(?m)^(?=aws )", text)[1:]:
        found.append(command(shlex.split(line.replace("\\\n", " "), comments=True)))
        call(*found[-1][:3])
    return found


def texts(value):
    assert isinstance(value, list) and value and all(isinstance(text, str) and text for text in value), value
    return value


def policy(document, kind):
    """The grammar of https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html"""
    assert list(document) == ["Version", "Statement"] and document["Version"] == "2012-10-17", document
    assert document["Statement"]
    sids = [statement["Sid"] for statement in document["Statement"] if "Sid" in statement]
    assert len(sids) == len(set(sids)) and all(re.fullmatch("[0-9A-Za-z]+", sid) for sid in sids), sids
    for statement in document["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}, statement
        assert statement["Effect"] == "Allow"
        for action in texts(statement["Action"]):
            service, name = action.split(":")
            assert ACTIONS.get(action, name) in session.get_service_model(service).operation_names, action
        assert ("Principal" in statement) == (kind != "identity"), statement
        for of, names in statement.get("Principal", {}).items():
            form = {"Service": r"[a-z0-9-]+(\.[a-z0-9-]+)*\.amazonaws\.com", "AWS": r"arn:aws:iam::\d{12}:.+"}[of]
            assert all(re.fullmatch(form, name) for name in texts(names)), names
        assert ("Resource" in statement) == (kind != "trust"), statement
        for resource in statement.get("Resource", []):
            assert ARN.match(resource) and ":s3:::" in resource, resource
            is_object = "/" in resource.split(":::")[1]
            of_objects = {"s3:GetObject", "s3:PutObject"} & set(statement["Action"])
            assert of_objects or not is_object, f"{statement['Action']} is not about objects"
        for operator, keys in statement.get("Condition", {}).items():
            assert operator in OPERATORS and set(keys) <= CONDITION_KEYS, statement
            for key, values in keys.items():
                assert key != "aws:SourceArn" or all(ARN.match(value) for value in texts(values)), values
                assert key != "aws:SourceAccount" or all(re.fullmatch(r"\d{12}", v) for v in texts(values)), values
                texts(values)
    if kind == "identity":
        IAMPolicyDocumentValidator(json.dumps(document)).validate()
    if kind == "trust":
        IAMTrustPolicyDocumentValidator(json.dumps(document)).validate()
    return document


class Terraform:
    """The part of Terraform's language that is printed."""

    def __init__(self, text):
        forms = r'#[^\n]*|\s+|"(?:[^"\\$%]|\$(?!\{))*"|[A-Za-z_][\w.-]*|[0-9]+|[{}\[\]()=:,]'
        at, self.words = 0, []
        while at < len(text):
            word = re.compile(forms).match(text, at)
            assert word, f"no word of Terraform: {text[at:at + 40]!r}"
            at = word.end()
            if not word[0].isspace() and not word[0].startswith("#"):
                self.words.append(word[0])

    def take(self, *wanted):
        word = self.words.pop(0)
        assert not wanted or word in wanted, f"{word} where one of {wanted} is needed"
        return word

    def body(self):
        """Attributes by name, and blocks: [type, labels, body]."""
        attributes, blocks = {}, []
        while self.words and self.words[0] != "}":
            name = self.take()
            if self.words[0] == "=":
                self.take("=")
                assert name not in attributes, name
                attributes[name] = self.value()
                continue
            labels = []
            while self.words[0] != "{":
                labels.append(json.loads(self.take()))
            self.take("{")
            blocks.append([name, labels, self.body()])
            self.take("}")
        return attributes, blocks

    def value(self):
        word = self.take()
        if word == "[":
            found = []
            while self.words[0] != "]":
                found.append(self.value())
                if self.words[0] != "]":
                    self.take(",")
            self.take("]")
            return found
        if word == "{":
            found = {}
            while self.words[0] != "}":
                key = self.take().strip('"')
                self.take("=", ":")
                found[key] = self.value()
                if self.words[0] == ",":
                    self.take(",")
            self.take("}")
            return found
        if word == "jsonencode":
            self.take("(")
            found = self.value()
            self.take(")")
            return found
        if word.startswith('"'):
            return json.loads(word)
        return {"true": True, "false": False}.get(word, ("reference", word))


def resources(text):
    _, blocks = Terraform(text).body()
    found = {(labels[0], labels[1]): body for kind, labels, body in blocks if kind == "resource"}

    def resolved(value):
        if isinstance(value, tuple):
            kind, name, field = value[1].split(".")
            attributes = found[(kind, name)][0]
            return attributes["bucket" if kind == "aws_s3_bucket" else "name"] if field in ("id", "name") else value
        return value

    def request(body):
        """A block as the API has it: `s3_bucket` is S3Bucket there."""
        attributes, blocks = body
        camel = lambda name: "".join(part.capitalize() for part in name.split("_"))
        made = {camel(name): resolved(value) for name, value in attributes.items()}
        made.update({camel(name): request(inner) for name, _, inner in blocks})
        return made

    return found, resolved, request


def main(folder):
    read = lambda name: open(os.path.join(folder, name)).read()
    of_role = policy(json.loads(read("iam-policy")), "identity")
    of_bucket = policy(json.loads(read("bucket-policy")), "resource")
    calls = commands(read("aws-commands"))
    order = [f"{service} {operation}" for service, operation, _, _ in calls]
    assert order == [
        "s3 CreateBucket",
        "s3 PutPublicAccessBlock",
        "s3 PutBucketPolicy",
        "bcm-data-exports CreateExport",
        "iam CreateRole",
        "iam PutRolePolicy",
        "iam CreateInstanceProfile",
        "iam AddRoleToInstanceProfile",
        "ce UpdateCostAllocationTagsStatus",
    ], order
    by_name = {operation: parameters for _, operation, parameters, _ in calls}
    assert json.loads(by_name["PutBucketPolicy"]["Policy"]) == of_bucket
    assert json.loads(by_name["PutRolePolicy"]["PolicyDocument"]) == of_role
    trust = policy(json.loads(by_name["CreateRole"]["AssumeRolePolicyDocument"]), "trust")
    # what moto has of AWS takes them, in this order
    with mock_aws():
        for service, operation, parameters, region in calls:
            if service in ("s3", "iam"):
                keys = dict(aws_access_key_id="x", aws_secret_access_key="x")
                client = boto3.client(service, region_name=region or "us-east-1", **keys)
                getattr(client, xform_name(operation))(**parameters)

    found, resolved, request = resources(read("terraform"))
    attributes, blocks = found[("aws_bcmdataexports_export", "bills")]
    assert attributes["provider"] == ("reference", "aws.billing"), "Data Exports is in us-east-1 alone"
    export = request(blocks[0][2])
    table = export["DataQuery"]["TableConfigurations"]["COST_AND_USAGE_REPORT"]
    assert re.fullmatch(r"arn:aws:billing::\d{12}:billingview/primary", table.pop("BILLING_VIEW_ARN"))
    call("bcm-data-exports", "CreateExport", {"Export": export})
    assert export == by_name["CreateExport"]["Export"], "both make one export"
    attributes = lambda kind, name: found[(kind, name)][0]
    assert attributes("aws_s3_bucket_policy", "bills")["policy"] == of_bucket
    assert attributes("aws_iam_role", "meter")["assume_role_policy"] == trust
    assert attributes("aws_iam_role_policy", "meter")["policy"] == of_role
    assert resolved(attributes("aws_iam_role_policy", "meter")["role"]) == by_name["CreateRole"]["RoleName"]
    tag = attributes("aws_ce_cost_allocation_tag", "customer")
    status = {"TagKey": tag["tag_key"], "Status": tag["status"]}
    assert [status] == by_name["UpdateCostAllocationTagsStatus"]["CostAllocationTagsStatus"]
    print(export["DataQuery"]["QueryStatement"])


main(sys.argv[1])
