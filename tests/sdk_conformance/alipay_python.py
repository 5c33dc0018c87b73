"""Alipay through PyPI's `python-alipay-sdk`: `python alipay_python.py COMMAND`, with a JSON input on stdin and a JSON result on stdout."""

import json
import sys
from urllib.parse import parse_qsl, urlencode

from alipay import AliPay


def sdk(question):
    return AliPay(
        appid=question.get("appId", "2021000000000001"),
        app_notify_url="https://shop.example.com/notify",
        app_private_key_string=question["privateKey"],
        alipay_public_key_string=question["publicKey"],
        sign_type="RSA2",
    )


def notifications(question):
    """Verify Alipay's signature of each message."""
    alipay = sdk(question)

    def is_good(body):
        fields = dict(parse_qsl(body, keep_blank_values=True))
        return alipay.verify(fields, fields.pop("sign"))

    return [is_good(body) for body in question["notifications"]]


def client(question):
    """A merchant uses the sandbox; the SDK verifies the signature of each response itself."""
    alipay = sdk(question)
    alipay._gateway = question["url"]
    number = question["number"]
    created = alipay.api_alipay_trade_precreate(subject="茶", out_trade_no=number, total_amount="8.88")
    asked = alipay.api_alipay_trade_query(out_trade_no=number)
    cancelled = alipay.api_alipay_trade_cancel(out_trade_no=number)
    return {"created": created, "asked": asked, "cancelled": cancelled}


def notification(question):
    """Return a notification signed with Alipay's key, given as `privateKey`."""
    alipay = sdk(question)
    fields = question["fields"]
    # The type of the signature is no part of what a notification signs.
    text = "&".join(f"{name}={fields[name]}" for name in sorted(fields))
    return urlencode({**fields, "sign_type": "RSA2", "sign": alipay._sign(text)})


commands = {"notifications": notifications, "client": client, "notification": notification}
json.dump(commands[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
