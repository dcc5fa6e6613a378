#!/usr/bin/env python3
"""Verifies an exported audit log of Freehold; needs nothing but Python 3.8. docs/audit-log.md tells the form.

    audit-verify.py FILE... [--signed-by KEY_ID] [--checkpoint NUMBER:HASH]

Written apart from `freehold audit verify`, which must find the same. Ed25519 is as in RFC 8032.
"""
import argparse, hashlib, json, re, sys

P, L = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D, ROOT = -121665 * pow(121666, P - 2, P) % P, pow(2, (P - 1) // 4, P)

def recover_x(y, sign):
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if y >= P or (x2 == 0 and sign):
        return None
    x = pow(x2, (P + 3) // 8, P)
    x = x * ROOT % P if (x * x - x2) % P else x
    return None if (x * x - x2) % P else P - x if x & 1 != sign else x

def point(data):
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)

def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P

def multiply(scalar, p):
    q = (0, 1, 1, 0)
    while scalar:
        if scalar & 1: q = add(q, p)
        p, scalar = add(p, p), scalar >> 1
    return q

BASE = point((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))

def is_signed(public, message, signature):
    if len(public) != 32 or len(signature) != 64: return False
    a, r, s = point(public), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L: return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    p, q = multiply(s, BASE), add(r, multiply(h, a))
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0

def need(condition, why):
    if not condition: raise ValueError(why)

def sha256(data): return hashlib.sha256(data).hexdigest()

ROW = re.compile(rb'\{"hash":"([0-9a-f]{64})","row":(\{.*\})\}', re.S)
CHECKPOINT = re.compile(rb'\{"checkpoint":(\{.*\}),"signature":"([0-9a-f]{128})"\}', re.S)
FIELDS = {"format", "hash", "key_id", "number", "org_id", "previous", "seq", "timestamp"}

class Log:
    def __init__(self, signed_by, pins):
        self.signed_by, self.pins, self.keys, self.used = signed_by, pins, {}, {}
        self.org, self.after, self.seq, self.hash, self.last, self.signed = None, 0, 0, "0" * 64, None, 0

    def header(self, line):
        need(line.startswith(b'{"freehold_audit":'), "is not the first line of an export")
        head = json.loads(line)
        known = set(head) == {"freehold_audit", "organization", "after", "previous", "keys"}
        need(known and head["freehold_audit"] == 1, "is of an unknown form")
        start = head["organization"], head["after"], head["previous"]
        need(self.org is None or start == (self.org, self.seq, self.hash), "does not go on from the file before")
        need(self.org or head["after"] or head["previous"] == "0" * 64, "must begin with a hash of zeros")
        if self.org is None:
            self.org, self.after = head["organization"], head["after"]
        self.seq, self.hash, self.carried = head["after"], head["previous"], self.last is not None
        for key in head["keys"]:
            self.keys[key["id"]] = bytes.fromhex(key["public_key"])
            need(sha256(self.keys[key["id"]]) == key["id"], "a key's id is not the hash of its public key")

    def row(self, claimed, row):
        said = json.loads(row)
        need(said.get("seq") == self.seq + 1, f"is row {said.get('seq')} where row {self.seq + 1} must be")
        need(said.get("org_id") == self.org, "belongs to another organization")
        computed = sha256(bytes.fromhex(self.hash) + row)
        need(computed == claimed, f"row {self.seq + 1} does not follow: it, its hash or what came before was changed")
        self.seq, self.hash, self.carried = self.seq + 1, computed, False

    def checkpoint(self, payload, signature):
        said, own = json.loads(payload), sha256(payload)
        need(set(said) == FIELDS and said["format"] == "freehold-audit-checkpoint-1", "is of an unknown form")
        key, number = said["key_id"], said["number"]
        need(key in self.keys, "the checkpoint's key is not in the first line")
        need(not self.signed_by or key in self.signed_by, "is signed by a key that --signed-by does not name")
        need(is_signed(self.keys[key], payload, signature), "the signature is not of this checkpoint")
        need(said["org_id"] == self.org, "belongs to another organization")
        need((said["seq"], said["hash"]) == (self.seq, self.hash), "the checkpoint is of other rows")
        first = (1, "0" * 64) if self.after == 0 else (number, said["previous"])
        follows = first if self.last is None else (self.last[0] + 1, self.last[1])
        repeats = self.carried and self.last[1] == own
        need(repeats or (number, said["previous"]) == follows, f"checkpoint {number} does not follow the one before")
        need(self.pins.pop(number, own) == own, f"checkpoint {number} is not the one that was known before")
        self.last, self.signed, self.carried, self.used[key] = (number, own), self.seq, False, True

    def file(self, name, file):
        whole, number, ended = hashlib.sha256(), 0, False
        try:
            for number, line in enumerate(file, 1):
                need(not ended, "comes after the end")
                need(line.endswith(b"\n"), "has no end: the file was cut off, or changed")
                text, row, signed = line[:-1], ROW.fullmatch(line[:-1]), CHECKPOINT.fullmatch(line[:-1])
                if number == 1: self.header(text)
                elif row: self.row(row[1].decode(), row[2])
                elif signed: self.checkpoint(signed[1], bytes.fromhex(signed[2].decode()))
                else:
                    end = '{"end":{"seq":%d,"sha256":"%s"}}' % (self.seq, whole.hexdigest())
                    need(text == end.encode(), "is not the digest of the lines before: one of them was changed")
                    need(self.seq == self.after or self.signed == self.seq, "no checkpoint covers the last rows")
                    ended = True
                whole.update(line)
            number += 1
            need(ended, "is missing: the export was cut off")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
            sys.exit(f"{name} does not verify: line {number}: {why}")

def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.error = lambda why: ask.exit(2, f"{ask.prog}: {why}\n")
    ask.add_argument("files", nargs="+", help="exported files, in order")
    ask.add_argument("--signed-by", action="append", default=[], metavar="KEY_ID")
    ask.add_argument("--checkpoint", action="append", default=[], metavar="NUMBER:HASH")
    args = ask.parse_args()
    pins = [re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", pin) for pin in args.checkpoint]
    if not all(pins):
        ask.error("argument --checkpoint: NUMBER:HASH is a checkpoint as the last run told it")
    log = Log(args.signed_by, {int(pin[1]): pin[2] for pin in pins})
    for name in args.files:
        try:
            with open(name, "rb") as file:
                log.file(name, file)
        except OSError as why:
            sys.exit(f"cannot read {name}: {why.strerror}")
    if log.pins:
        sys.exit(f"{name} does not verify: checkpoint {min(log.pins)}, which was known before, is not there")
    print(f"rows {log.after + 1} to {log.seq} of {log.org} are as they were written")
    last = "last checkpoint: %d:%s" % log.last if log.last else "no checkpoint"
    print(last, *(f"signed by: {key}" for key in log.used), sep="\n")

if __name__ == "__main__":
    main()
