#!/usr/bin/env python3
"""Prints the id that `--ids hmac` gives a slide: hmac_id.py KEY_HEX STUDY PLACE

PLACE is the slide list's id, or the slide's place below the searched directory without its ending. The tests take
the value that they expect from here; it also tells which id a slide has where no OUT is at hand.
"""

import base64
import hashlib
import hmac
import sys


def main(key: str, study: str, place: str) -> None:
    mac = hmac.new(bytes.fromhex(key), digestmod=hashlib.sha256)
    for part in ("paraffin-ids/1", "id", study, place):
        data = part.encode()
        mac.update(len(data).to_bytes(8, "big") + data)
    print(base64.b32encode(mac.digest()[:16]).decode().rstrip("=").lower())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
