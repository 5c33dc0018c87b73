"""SM3 by PyPI's `gmssl`: `python unionpay.py messages`, a JSON question on stdin, a JSON answer on stdout."""

import json
import sys

from gmssl import sm3


def digest(text):
    return sm3.sm3_hash(list(text.encode()))


def is_signed(fields, key):
    """Whether a message of signMethod 12 is rightly signed."""
    signed = {name: value for name, value in fields.items() if name != "signature" and value.strip()}
    text = "&".join(f"{name}={signed[name]}" for name in sorted(signed))
    return digest(f"{text}&{digest(key)}") == fields["signature"]


question = json.load(sys.stdin)
print(json.dumps([is_signed(fields, question["secureKey"]) for fields in question["messages"]]))
