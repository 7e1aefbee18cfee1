"""An explorer as one block of bytes, and as one HTML page that needs no kernel and fetches nothing."""

import base64
import html
import json
import zlib

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
body {{ margin: 0; padding: 16px; background: #fff; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #14171d; }} }}
{style}
</style>
</head>
<body>
<div id="explorer"></div>
<noscript><img alt="{readout}" src="data:image/png;base64,{png}"></noscript>
<script id="state" type="application/json">{state}</script>
<script type="module">
{module}
</script>
</body>
</html>
"""

# What the module needs of a widget's model, where there is none. No `send`: that is how it knows.
STAND_IN = """const traits = JSON.parse(document.getElementById("state").textContent);
traits._prepared = Uint8Array.from(atob(traits._prepared), (letter) => letter.charCodeAt(0));
const model = { get: (name) => traits[name], set(name, value) { traits[name] = value; },
                save_changes() {}, on() {}, off() {} };
render({ model, el: document.getElementById("explorer") });"""
EXPORT = "export default { render };"


def pack(states: dict[str, tuple[dict, list[bytes]]]) -> bytes:
    """Encoded states by key -> one compressed block, in which no array stands twice (a backdrop is in every
    state).

    Layout, zlib over all: the head's length (4 bytes, little endian), the head (JSON: `lengths` of the
    arrays, `states`), the arrays.
    """
    numbers: dict[bytes, int] = {}
    for _, buffers in states.values():
        for buffer in buffers:
            numbers.setdefault(buffer, len(numbers))

    def renumber(value, buffers):
        if isinstance(value, dict):
            return {name: numbers[buffers[part]] if name == "buffer" else renumber(part, buffers)
                    for name, part in value.items()}
        return [renumber(part, buffers) for part in value] if isinstance(value, list) else value

    head = json.dumps(
        {
            "lengths": [len(buffer) for buffer in numbers],
            "states": {key: renumber(state, buffers) for key, (state, buffers) in states.items()},
        }
    ).encode()
    return zlib.compress(b"".join([len(head).to_bytes(4, "little"), head, *numbers]), level=6)


class Packed:
    """How many `bytes` the states that were added so far take when they are packed; nearly, for `pack` writes the same
    in another order, and zlib holds the last of it, some ten thousand bytes, back."""

    def __init__(self):
        self.bytes, self._seen, self._zlib = 0, set(), zlib.compressobj(level=6)

    def add(self, state: dict, buffers: list[bytes]) -> None:
        new = dict.fromkeys(buffer for buffer in buffers if buffer not in self._seen)
        self._seen.update(new)
        for part in (json.dumps(state).encode(), *new):
            self.bytes += len(self._zlib.compress(part))


def page(explorer, block: bytes, png: str, readout: str) -> str:
    """The standalone page: the module, the states in `block`, and a picture for readers without script."""
    module = explorer._esm
    if EXPORT not in module:
        raise RuntimeError(f"The explorers' module must end with {EXPORT!r}, which a page replaces.")
    traits = {"title": explorer.title, "places": list(explorer.places), "_controls": explorer._controls,
              "_start": list(explorer.places), "_first": {"key": None}, "_complete": False, "_slow": False,
              "_prepared": base64.b64encode(block).decode()}
    return PAGE.format(title=html.escape(explorer.title or "Explorer"), style=explorer._css, png=png,
                       readout=html.escape(readout, quote=True), module=module.replace(EXPORT, STAND_IN),
                       state=json.dumps(traits).replace("<", "\\u003c"))
