"""UDP to port 443 is refused at once, so that clients fall back; a name has addresses and no HTTPS or SVCB record."""

import socket, struct, time

for family in (socket.AF_INET, socket.AF_INET6):
    address = socket.getaddrinfo("web.clients.test", 443, family, socket.SOCK_DGRAM)[0][4]
    quic = socket.socket(family, socket.SOCK_DGRAM)
    quic.settimeout(20)
    quic.connect(address)
    began = time.monotonic()
    try:
        quic.send(b"\xc0" + b"\0" * 1199)
        quic.recv(1)
        raise SystemExit("it was answered")
    except ConnectionRefusedError:
        assert time.monotonic() - began < 5

for kind, answers in ((1, 1), (28, 1), (65, 0), (64, 0)):
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.settimeout(20)
    name = b"".join(bytes([len(label)]) + label for label in (b"web", b"clients", b"test")) + b"\0"
    names.sendto(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", kind, 1), ("8.8.8.8", 53))
    reply = names.recv(1500)
    assert struct.unpack(">6H", reply[:12])[3] == answers and reply[3] & 15 == 0, (kind, reply)
print("done")
