"""httpx over both versions: bodies both ways, events as they come, a refusal that says why."""

import hashlib, httpx

for http2 in (False, True):
    with httpx.Client(http2=http2, base_url="https://web.clients.test", timeout=30) as client:
        version = "HTTP/2" if http2 else "HTTP/1.1"
        body = bytes(range(256)) * 8192
        for content in (body, (body[at : at + 65536] for at in range(0, len(body), 65536))):
            response = client.post("/echo?a=1&b=%20", content=content)
            assert response.http_version == version, response.http_version
            seen = response.json()
            assert (seen["method"], seen["target"], seen["length"]) == ("POST", "/echo?a=1&b=%20", len(body)), seen
            assert seen["sha256"] == hashlib.sha256(body).hexdigest()
        with client.stream("GET", f"/bytes?size={8 << 20}") as response:
            assert sum(len(piece) for piece in response.iter_bytes()) == 8 << 20
        assert client.head("/bytes?size=1024").headers["content-length"] == "1024"
        with client.stream("GET", "/events") as response:
            assert response.headers["content-type"] == "text/event-stream"
            heard = []
            for line in response.iter_lines():
                if line.startswith("data: "):
                    heard.append(line)
                    assert client.post("/acknowledge", content=line).status_code == 200
        assert heard == [f"data: event {n}" for n in range(5)], heard
        refused = client.get("/closed/secret")
        error = refused.json()["error"]
        assert (refused.status_code, error["reason"]) == (403, "path_not_allowed"), error
        assert error["destination"] == "web.clients.test", error
print("done")
