"""Alipay through PyPI's `python-alipay-sdk`: verifies notifications. JSON on stdin and stdout."""

import json
import sys
from urllib.parse import parse_qsl

from alipay import AliPay

question = json.load(sys.stdin)
alipay = AliPay(
    appid="2021000000000001",
    app_notify_url=None,
    app_private_key_string=question["privateKey"],
    alipay_public_key_string=question["publicKey"],
    sign_type="RSA2",
)


def is_good(body):
    fields = dict(parse_qsl(body, keep_blank_values=True))
    return alipay.verify(fields, fields.pop("sign"))


json.dump([is_good(body) for body in question["notifications"]], sys.stdout)
