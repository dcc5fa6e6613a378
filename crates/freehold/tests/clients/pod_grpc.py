"""gRPC with its own stack of HTTP/2 and TLS: unary, streams both ways, trailers, an error, a refusal."""

import grpc

channel = grpc.secure_channel("grpc.clients.test:443", grpc.ssl_channel_credentials())
call = lambda kind, name: getattr(channel, kind)(f"/test.Service/{name}")
assert call("unary_unary", "Echo")(b"hello", timeout=20) == b"hello"
big = b"x" * 3_000_000
assert call("unary_unary", "Echo")(big, timeout=20) == big
assert list(call("unary_stream", "Count")(b"n", timeout=20)) == [b"n%d" % n for n in range(100)]
meeting = call("stream_stream", "Meet")(iter([b"a", b"b", b"c"]), timeout=20)
assert list(meeting) == [b"a!", b"b!", b"c!"]
assert ("x-count", "three") in [tuple(pair) for pair in meeting.trailing_metadata()]
try:
    call("unary_unary", "Fail")(b"", timeout=20)
    raise SystemExit("it did not fail")
except grpc.RpcError as error:
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not today"), error
    assert ("x-why", "because") in [tuple(pair) for pair in error.trailing_metadata()]
try:
    call("unary_unary", "Closed")(b"", timeout=20)
    raise SystemExit("it was allowed")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
print("done")
