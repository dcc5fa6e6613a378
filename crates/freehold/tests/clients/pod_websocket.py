"""WebSocket by the usual library: text, bytes, a large message, pings, a clean end, a refusal."""

import websockets.sync.client as client, websockets.exceptions

with client.connect("wss://websocket.clients.test/room", max_size=None) as connection:
    for message in ("text", b"bytes", "x" * 5_000_000):
        connection.send(message)
        assert connection.recv(timeout=20) == message
    assert connection.ping().wait(20)
assert connection.close_code == 1000, connection.close_code
try:
    client.connect("wss://websocket.clients.test/closed")
    raise SystemExit("it was allowed")
except websockets.exceptions.InvalidStatus as error:
    assert error.response.status_code == 403, error
print("done")
