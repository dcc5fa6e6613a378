"""Makes `vectors.json`: requests signed by botocore, AWS's own client (PyPI `botocore`).

    python3 vectors.py > vectors.json

Each is signed with `x-amz-content-sha256` among its headers, as here.
"""

import datetime
import hashlib
import json
from unittest import mock

from botocore import auth, awsrequest, credentials

KEY = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
NOW = datetime.datetime(2026, 11, 22, 8, 9, 10, tzinfo=datetime.timezone.utc)

# Service, region, method, URL as it is sent, headers, body, session token.
REQUESTS = [
    ("iam", "us-east-1", "GET", "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08", {}, "", None),
    ("sqs", "eu-central-1", "POST", "https://sqs.eu-central-1.amazonaws.com/",
     {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.SendMessage"}, '{"a": "b"}', None),
    ("sts", "us-west-2", "POST", "https://sts.us-west-2.amazonaws.com/",
     {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}, "Action=GetCallerIdentity", "token/with+signs=="),
    ("execute-api", "eu-west-1", "GET",
     "https://abc.execute-api.eu-west-1.amazonaws.com/prod/a%20b/%C3%A9/~x?b=2&a=1&a=0&empty=&sp=a%20b", {}, "", None),
    ("s3", "eu-north-1", "GET", "https://bucket.s3.eu-north-1.amazonaws.com/a%20b/c%2Bd%C3%A9?list-type=2&prefix=x%2Fy",
     {"x-amz-meta-b": "  two   spaces ", "x-amz-acl": "private"}, None, None),
    ("s3", "us-east-1", "PUT", "https://s3.amazonaws.com/bucket/key?partNumber=1&uploadId=abc",
     {"content-type": "text/plain"}, None, "session"),
    ("bedrock", "us-east-1", "POST", "https://bedrock-runtime.us-east-1.amazonaws.com/model/a.b-v1%3A0/invoke",
     {"content-type": "application/json"}, "{}", None),
    ("es", "eu-west-3", "PUT", "https://search-x.eu-west-3.es.amazonaws.com/index/_doc/1?refresh=true",
     {"content-type": "application/json"}, '{"x": 1}', None),
]


class Auth(auth.SigV4Auth):
    def __init__(self, *arguments, unsigned):
        super().__init__(*arguments)
        self.unsigned = unsigned

    def payload(self, request):
        return "UNSIGNED-PAYLOAD" if self.unsigned else hashlib.sha256(request.body or b"").hexdigest()

    def _modify_request_before_signing(self, request):
        super()._modify_request_before_signing(request)
        request.headers["X-Amz-Content-SHA256"] = self.payload(request)

    # S3's paths are encoded once.
    def _normalize_url_path(self, path):
        return path if self.unsigned else super()._normalize_url_path(path)


def signed(service, region, method, url, headers, body, token):
    unsigned = service == "s3"
    request = awsrequest.AWSRequest(method=method, url=url, headers=headers, data=(body or "").encode())
    signer = Auth(credentials.Credentials(*KEY, token), service, region, unsigned=unsigned)
    clock = "botocore.auth.get_current_datetime"
    with mock.patch(clock, lambda *_: NOW.replace(tzinfo=None)):
        signer.add_auth(request)
    return dict(service=service, region=region, method=method, url=url, headers=headers, body=body, token=token,
                authorization=request.headers["Authorization"])


print(json.dumps([signed(*request) for request in REQUESTS], indent=1))
