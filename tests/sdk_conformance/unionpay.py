"""SM3 by PyPI's `gmssl`: `python unionpay.py messages`, with a JSON input on stdin and a JSON result on stdout."""

import json
import sys

from gmssl import sm3


def digest(text):
    return sm3.sm3_hash(list(text.encode()))


def is_signed(fields, key):
    """Verify the signature of a message with signMethod 12."""
    signed = {name: value for name, value in fields.items() if name != "signature" and value.strip()}
    text = "&".join(f"{name}={signed[name]}" for name in sorted(signed))
    return digest(f"{text}&{digest(key)}") == fields["signature"]


question = json.load(sys.stdin)
print(json.dumps([is_signed(fields, question["secureKey"]) for fields in question["messages"]]))
