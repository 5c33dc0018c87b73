"""WeChat Pay through PyPI's `wechatpayv3`: a merchant that uses the sandbox. JSON on stdin and stdout."""

import json
import os
import sys

import requests
from wechatpayv3 import WeChatPay, WeChatPayType
from wechatpayv3.utils import rsa_verify

question = json.load(sys.stdin)


def read(name):
    with open(os.path.join(question["folder"], name), encoding="ascii") as file:
        return file.read()


account = question["account"]
wechat = WeChatPay(
    wechatpay_type=WeChatPayType.NATIVE,
    mchid=account["mchid"],
    private_key=read("apiclient_key.pem"),
    cert_serial_no=account["serial"],
    apiv3_key=account["api_v3"],
    appid=account["appid"],
    notify_url="https://shop.example.com/notify",
    public_key=read("pub_key.pem"),
    public_key_id=account["public_key_id"],
    timeout=(10, 30),
)
wechat._core._gate_way = question["url"]
# The SDK has no setting for a private CA and a client certificate; `requests` has.
plain = requests.Session.request


def with_identity(self, *given, **named):
    folder = question["folder"]
    named["verify"] = os.path.join(folder, "ca.pem")
    named["cert"] = (os.path.join(folder, "apiclient_cert.pem"), os.path.join(folder, "apiclient_key.pem"))
    return plain(self, *given, **named)


requests.Session.request = with_identity

number = question["number"]
code, message = wechat.pay(description="茶", out_trade_no=number, amount={"total": 888}, pay_type=WeChatPayType.NATIVE)
seen = {"created": code, "code_url": json.loads(message).get("code_url")}
code, message = wechat.query(out_trade_no=number)
seen["state"] = json.loads(message).get("trade_state")
seen["closed"], _ = wechat.close(out_trade_no=number)
json.dump(seen, sys.stdout)
