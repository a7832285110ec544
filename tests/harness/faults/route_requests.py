"""Requests of strangers to the pack's routes, a seed each, and whether a page of ours sends them.

Each request begins as one that the editor sends. Some of its parts are then replaced by others,
and each replacement says whether the request may still succeed.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from urllib.parse import quote

SECRET = "what lies outside the folders"
"""Text of a file that no route may read"""
BODY_LIMIT = 64 * 1024
JSON = "application/json"


@dataclass(kw_only=True, slots=True)
class Known:
    """Ids that exist on a server, and the state that the next request of a page would name."""

    port: int
    base: str
    ids: Mapping[str, str]
    bundle: str
    user: str = ""
    """Whose they are; empty without --multi-user."""
    others: Sequence[str] = ()
    """Other users, and names that no user has."""
    tag: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The bytes to send, and what may come of them."""

    route: str
    method: str
    data: bytes
    ours: bool
    """Whether it may succeed."""
    plain: bool
    """Whether it is what the editor sends, and has to be answered."""
    silent: bool
    """Whether the connection may end without an answer."""
    odd: tuple[str, ...]
    """The parts that were replaced."""
    stranger: bool
    """Whether it comes from another user than the one whose ids it names."""


@dataclass(kw_only=True, slots=True)
class Draft:
    """A request in parts."""

    rng: random.Random
    known: Known
    route: str
    method: str
    path: str
    query: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    body: bytes = b""
    version: str = "1.1"
    ours: bool = True
    silent: bool = False
    stranger: bool = False
    length: str | None = ""
    """The header of that name; None to leave it out, empty for the true one."""

    def refuse(self, refused: bool = True) -> None:
        """Note that a page of ours would not send this."""
        self.ours = self.ours and not refused

    def set(self, name: str, value: str | None) -> None:
        """Replace a header, or take it out."""
        self.headers = [pair for pair in self.headers if pair[0] != name]
        if value is not None:
            self.headers.append((name, value))

    @property
    def posts(self) -> bool:
        return self.route.startswith("POST")

    def whole(self) -> bytes:
        headers = list(self.headers)
        if self.length is not None and (self.body or self.posts):
            headers.append(("Content-Length", self.length or str(len(self.body))))
        target = self.path + (f"?{self.query}" if self.query else "")
        lines = [f"{self.method} {target} HTTP/{self.version}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + self.body


ROUTES = (
    "GET /pivotal/runs",
    "GET /pivotal/runs/{run}",
    "GET /pivotal/runs/{run}/previews/{picture}",
    "POST /pivotal/runs/{run}/ask",
    "GET /pivotal/datasets/{dataset}/items",
    "GET /pivotal/datasets/{dataset}/thumbs/{item}",
    "POST /pivotal/datasets/{dataset}/edit",
    "POST /pivotal/datasets/{dataset}/replace",
    "POST /pivotal/datasets/{dataset}/undo",
    "GET /pivotal/bundle",
    "GET /pivotal/kept",
    "POST /pivotal/kept/prune",
)
USERLESS = ("GET /pivotal/bundle", "GET /pivotal/kept")
"""Routes that show the same to every user"""


def make_request(seed: int, known: Known) -> Request:
    """The request of a seed."""
    rng = random.Random(seed)
    draft = plain_request(rng, rng.choice(ROUTES), known)
    count = rng.choices([0, 1, 2, 3], [25, 45, 20, 10])[0]
    # Bodies before what is done to their bytes.
    odd = sorted(set(rng.choices(range(len(PARTS)), WEIGHTS, k=count)))
    for number in odd:
        PARTS[number](draft)
    return Request(
        route=draft.route,
        method=draft.method,
        data=draft.whole(),
        ours=draft.ours,
        plain=not odd,
        silent=draft.silent,
        stranger=draft.stranger,
        odd=tuple(PARTS[number].__name__ for number in odd),
    )


def plain_request(rng: random.Random, route: str, known: Known) -> Draft:
    """What the editor sends."""
    method, path = route.split(" ")
    draft = Draft(rng=rng, known=known, route=route, method=method, path=path)
    fill(draft, known.ids)
    draft.set("Host", f"127.0.0.1:{known.port}")
    draft.set("Connection", "close")
    draft.set("Sec-Fetch-Site", "same-origin")
    if known.user:
        draft.set("Comfy-User", known.user)
    if route == "GET /pivotal/bundle":
        draft.query = f"file={quote(known.bundle)}"
    if draft.posts:
        draft.set("Content-Type", JSON)
        draft.set("Origin", f"http://127.0.0.1:{known.port}")
        draft.body = json.dumps(plain_body(draft)).encode()
    # Users share what is kept, so that none of them removes it.
    draft.refuse(bool(known.user) and route.endswith("prune"))
    return draft


def fill(draft: Draft, ids: Mapping[str, str]) -> None:
    for name, value in ids.items():
        draft.path = draft.path.replace(f"{{{name}}}", quote(value, safe=""))


def plain_body(draft: Draft) -> dict[str, object]:
    words = ("a cat", "TOK in a garden", "猫", "TOK, sharp, red", "one\ntwo")
    new = draft.rng.choice(words)
    if draft.route.endswith("ask"):
        return {"ask": draft.rng.choice(["finish", "checkpoint", "preview"])}
    if draft.route.endswith("edit"):
        what = draft.rng.choice([{"caption": new}, {"enabled": True}])
        return {"item": draft.known.ids["item"], "tag": draft.known.tag, **what}
    if draft.route.endswith("replace"):
        find = draft.rng.choice(["TOK", "a", "cat", "garden"])
        return {"find": find, "replace": new, "preview": draft.rng.random() < 0.5}
    if draft.route.endswith("prune"):
        return {"kinds": ["latents", "thumbs"], "days": draft.rng.choice([0, 30]), "bytes": None}
    return {}


def method(draft: Draft) -> None:
    others = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get"]
    draft.method = draft.rng.choice([one for one in others if one != draft.method])
    draft.refuse((draft.method, draft.posts) != ("HEAD", False))


def address(draft: Draft) -> None:
    """The same place, said otherwise."""
    path, port = draft.path, draft.known.port
    same = ["/api" + path, f"http://127.0.0.1:{port}{path}", "/x/.." + path, "/." + path]
    other = ["/" + path, path + "/", "/API" + path, path.upper(), path.replace("/", "\\")]
    other += [path + "/..", path + ";x", path.replace("pivotal", "pivotal_users"), path + "%00"]
    other += ["/api/api" + path, path.replace("pivotal/", "pivotal%2f"), "/pivotal/", "/pivotal"]
    draft.path = draft.rng.choice(same + other)
    draft.refuse(draft.path not in same)


HOSTILE = [
    "..", ".", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%2fb", "a%5cb", "C:%5cWindows", "%00", "a%0ab",
    "%2e%2e%2f%2e%2e%2fuser", "x" * 300, "x" * 7000, "nul%22", "a%3cb", "%ff%fe", "%ed%a0%80", "%",
    "%u0041", "con", "~", "$HOME", "%24%7bx%7d", "..%c0%af..%c0%afetc", "%E2%80%AE", "0", "-1", "*",
    "run.json", "%F0%9F%98%80", "..%5c..%5csecret.txt", "secret.txt", "....%2f%2fsecret.txt", "%20",
]  # fmt: skip


def ids(draft: Draft) -> None:
    """One id is another's, or none that anybody gave."""
    slots = [name for name in draft.known.ids if f"{{{name}}}" in draft.route]
    if not slots:
        return
    rng, slot = draft.rng, draft.rng.choice(slots)
    noise = "".join(f"%{rng.randrange(256):02x}" for _ in range(rng.randrange(1, 40)))
    value = draft.known.ids[slot]
    near = [value[:-1] or "x", value + "x", value.swapcase(), value + "%20", f"..%2f{value}"]
    near += [quote(other) for other in draft.known.ids.values() if other != value]
    wrong = rng.choice([*HOSTILE, *near, noise])
    if wrong != quote(value, safe=""):
        fill_other = {**{k: quote(v, safe="") for k, v in draft.known.ids.items()}, slot: wrong}
        path = draft.route.split(" ")[1]
        for name, text in fill_other.items():
            path = path.replace(f"{{{name}}}", text)
        draft.path = path
        # An item of digits alone has no other case.
        draft.refuse(wrong != value)


def query(draft: Draft) -> None:
    """Values of a query, the wrong ones of which count only where they are read."""
    rng, base = draft.rng, quote(draft.known.base, safe="")
    numbers = ["-1", "x", "1e9", "1" * 40, "%F0%9F%98%80", "", "%00", "0x1", "+1", "%D9%A3", "1.5"]
    files = [
        "",
        "..%2f..%2fsecret.txt",
        f"{base}%2f..%2fsecret.txt",
        "loras%2f..%2f..%2fsecret.txt",
    ]
    files += ["%2fetc%2fpasswd", "%00", "loras", "%5c%5chost%5cshare%5cx.safetensors", "x" * 5000]
    files += ["loras%2f%2fhost%2fshare%2fx.safetensors", "C:%5cx.pt", "embeddings%2fx.pt", "%ff"]
    read = {
        "GET /pivotal/runs/{run}": ("after", numbers, ["0", "1", "5", "9" * 12]),
        "GET /pivotal/datasets/{dataset}/items": ("offset", numbers, ["0", "1", "9" * 12]),
        "GET /pivotal/bundle": ("file", files, [quote(draft.known.bundle)]),
    }
    if draft.route in read and rng.random() < 0.7:
        name, wrong, right = read[draft.route]
        refused = rng.random() < 0.7
        draft.query = f"{name}={rng.choice(wrong if refused else right)}"
        draft.refuse(refused)
        return
    more = [
        "text=a",
        "flag=off",
        "flag=edited",
        "text=" + "x" * rng.choice([10, 3000, 9000]),
        "=&=",
    ]
    more += ["text=%00%ff", "flag=" + "x" * 500, "&".join(f"a{n}=b" for n in range(300)), "x[]=1"]
    draft.query = "&".join(filter(None, [draft.query, rng.choice(more)]))


def user(draft: Draft) -> None:
    """Another user, or none; without --multi-user a name changes nothing."""
    other = draft.rng.choice([*draft.known.others, None])
    draft.set("Comfy-User", other)
    draft.stranger = bool(draft.known.user)
    if draft.rng.random() < 0.2:
        draft.query = "&".join(filter(None, [draft.query, f"user={quote(other or '')}"]))
    # Everybody has a list of runs, though it may be empty.
    userless = (*USERLESS, "GET /pivotal/runs")
    draft.refuse(draft.stranger and draft.route not in userless)


def site(draft: Draft) -> None:
    """Where a browser says that a request comes from; what it never says may pass."""
    port = draft.known.port
    ours = [
        (None, None), ("none", None), ("same-origin", None), ("same-origin", "http://gpu.example"),
        (None, f"http://127.0.0.1:{port}"),
    ]  # fmt: skip
    theirs = [
        ("cross-site", None), ("same-site", None), ("cross-site", f"http://127.0.0.1:{port}"),
        (None, "http://evil.example"), (None, "null"), (None, "https://evil.example:443"),
        (None, f"http://127.0.0.1.evil.example:{port}"), (None, "http://127.0.0.1:1"), (None, ""),
        ("Same-Origin", None), ("", None), ("same-origin, cross-site", None), (None, "file://"),
        (None, f"http://evil.example@127.0.0.1:{port}"), ("none none", "null"),
    ]  # fmt: skip
    came, origin = draft.rng.choice(ours + theirs)
    draft.set("Sec-Fetch-Site", came)
    draft.set("Origin", origin)
    # ComfyUI answers an origin that Python cannot take apart with 500, before any route.
    draft.refuse((came, origin) in theirs)


def kind(draft: Draft) -> None:
    """The type of a body; of a GET nobody reads it."""
    same = [f"{JSON}; charset=utf-8", JSON.upper(), f"{JSON};charset=utf-16"]
    other = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None, ""]
    other += ["text/json", "application/jsonp", "application/ld+json", "*/*", "x" * 500, "json"]
    value = draft.rng.choice(same + other)
    draft.set("Content-Type", value)
    draft.refuse(draft.posts and value not in same)


def body(draft: Draft) -> None:
    """Something else is sent."""
    rng = draft.rng
    wrong = [
        b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 60_000, b'{"a":' * 9000, b"a=b",
        b'{"ask": "\xff"}', b"\0" * 100, b"{} {}", b"NaN", b"{'a': 1}", b"9" * 60_000,
        b'{"x": ' + b"9" * 5000 + b"}",
    ]  # fmt: skip
    too_long = json.dumps({**plain_body(draft), "x": "x" * BODY_LIMIT}).encode()
    if not draft.posts:
        draft.body = rng.choice([*wrong, too_long])
        return
    choice = rng.random()
    if choice < 0.4:
        draft.body = rng.choice([*wrong, too_long, too_long * 20])
        draft.refuse()
    else:
        strange_fields(draft)


TEXTS = [
    "", "\0", "\ud800", "😀" * 2000, "\n" * 60_000, " " * 60_000, "x" * 60_000, "a " * 30_000,
    "a," * 30_000, ", " * 30_000, "(a" * 30_000, "\\1", "\u202e", "../../secret.txt", "a => b",
    "a\nprefix: x", "# a", "TOK\r\nTOK", "embedding:x", "<script>", "İ" * 9000, "ß" * 9000,
]  # fmt: skip
VALUES: list[object] = [None, 0, -1, 1.5, True, [], {}, [[[]]], float("nan"), 10**400, "yes"]


def strange_fields(draft: Draft) -> None:
    """The right object with values that no page has typed."""
    rng = draft.rng
    fields = plain_body(draft)
    if draft.route.endswith("ask"):
        fields = rng.choice(
            [
                {"ask": rng.choice(VALUES + TEXTS)},
                {"ask": "pivot", "concept": rng.choice(VALUES)},
                {},
            ]
        )
        draft.refuse()
    elif draft.route.endswith("edit"):
        name = rng.choice(["item", "tag", "caption", "caption", "caption", "enabled", "x"])
        fields[name] = rng.choice(VALUES if name != "caption" or rng.random() < 0.2 else TEXTS)
        kinds = {"caption": str, "enabled": bool}
        right = all(isinstance(fields[n], k) for n, k in kinds.items() if n in fields)
        draft.refuse(not right or name in ("item", "tag"))
    elif draft.route.endswith("prune"):
        name, value = rng.choice(["kinds", "days", "bytes", "id"]), rng.choice(VALUES + TEXTS)
        is_number = type(value) in (int, float) and 0 <= value <= 1e5
        fields[name] = value
        right = {
            "kinds": False,
            "days": is_number,
            "bytes": value in (None, 0),
            "id": value is None,
        }
        draft.refuse(not right[name])
    else:
        find, new = ["a", "x", "TOK", *TEXTS], ["a a", *TEXTS]
        fields = {
            "find": rng.choice(find),
            "replace": rng.choice(new),
            "preview": rng.choice(VALUES),
        }
        if rng.random() < 0.2:
            fields[rng.choice(["find", "replace"])] = rng.choice(VALUES)
    draft.body = json.dumps(fields).encode()
    draft.refuse(len(draft.body) > BODY_LIMIT)


def frame(draft: Draft) -> None:
    """How the bytes of a request are put together."""
    draft.rng.choice(FRAMES)(draft)


def chunked(draft: Draft) -> None:
    draft.set("Transfer-Encoding", "chunked")
    draft.length = None
    size = draft.rng.choice([1, 7, 1000, 100_000])
    parts = [draft.body[n : n + size] for n in range(0, min(len(draft.body), 200 * size), size)]
    draft.refuse(draft.posts and len(draft.body) > 200 * size)
    draft.body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def bad_chunks(draft: Draft) -> None:
    draft.set("Transfer-Encoding", "chunked")
    draft.length = draft.rng.choice([None, "3"])
    ends = [b"xyz\r\n{}", b"-1\r\n{}\r\n0\r\n\r\n", b"2\r\n{}", b"2\r\n{}x\r\n0\r\n\r\n", b""]
    draft.body = draft.rng.choice([*ends, b"f" * 40 + b"\r\n{}"])
    draft.silent = True
    draft.refuse(draft.posts)


def compressed(draft: Draft) -> None:
    # Otherwise gzip writes the time into it, and a seed would be another request each second.
    zipped = partial(gzip.compress, mtime=0)
    name, pack = draft.rng.choice([("gzip", zipped), ("deflate", zlib.compress)])
    draft.set("Content-Encoding", name)
    draft.body = pack(draft.body)


def bomb(draft: Draft) -> None:
    """A quarter of a megabyte that becomes a quarter of a gigabyte."""
    draft.set("Content-Encoding", "gzip")
    draft.body = blanks()
    draft.refuse(draft.posts)


@cache
def blanks() -> bytes:
    return gzip.compress(b"{" + b" " * 2**28)


def not_compressed(draft: Draft) -> None:
    draft.set("Content-Encoding", draft.rng.choice(["gzip", "deflate"]))
    draft.body = draft.body or b"x"
    draft.silent = True
    draft.refuse(draft.posts)


def lying_length(draft: Draft) -> None:
    wrong = ["-1", "x", "99999999999999999999", str(len(draft.body) + 5), "0x10", "1, 2", " ", "1"]
    draft.length = draft.rng.choice(wrong)
    draft.body = draft.body or b"{}"
    draft.silent = True
    draft.refuse(draft.posts)


def more_headers(draft: Draft) -> None:
    """What is sent along and means nothing to us."""
    more = [
        ("Expect", "100-continue"), ("Accept-Encoding", "gzip, br"), ("Range", "bytes=0-10"),
        ("Range", "bytes=99999999-"), ("Range", "bytes=x"), ("If-None-Match", "*"),
        ("If-Modified-Since", "Thu, 01 Jan 2099 00:00:00 GMT"), ("If-Match", '"x"'),
        ("If-Modified-Since", "x"), ("X-Forwarded-Host", "evil.example"), ("Cookie", "a=b;" * 500),
        ("X-HTTP-Method-Override", "POST"), ("Upgrade", "websocket"), ("Accept", "text/html"),
        ("Forwarded", "for=127.0.0.1"), ("Sec-Fetch-Mode", "navigate"), ("Referer", "http://evil"),
    ]  # fmt: skip
    draft.headers.append(draft.rng.choice(more))


def bad_headers(draft: Draft) -> None:
    bad = [
        ("X", "x" * 100_000),
        ("X Y", "z"),
        ("", "x"),
        ("X", "a\0b"),
        ("X", "a\r\n\r\nGET / "),
        (":", ""),
    ]
    draft.headers.append(draft.rng.choice(bad))
    draft.silent = True


def older(draft: Draft) -> None:
    draft.version = draft.rng.choice(["1.0", "0.9", "2.0", "1.1 ", "x"])
    draft.silent = draft.version != "1.0"


FRAMES: list[Callable[[Draft], None]] = [
    chunked, chunked, bad_chunks, compressed, bomb, not_compressed, lying_length, more_headers,
    more_headers, bad_headers, older,
]  # fmt: skip
PARTS: list[Callable[[Draft], None]] = [
    method, ids, query, user, site, kind, body, address, frame,
]  # fmt: skip
WEIGHTS = [1, 1, 1, 1, 2, 1, 3, 1, 1]
