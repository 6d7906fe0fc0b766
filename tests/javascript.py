"""Exported pages run by node: one process for many pages, without what speaks to a browser."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from typing import Any

from kancompress.exporting.html.page import small_script

NODE = shutil.which("node")
# Each line is a page, or a packed file for the whole reader; the answer is what was made of it.
DRIVER = """
const inside = (page, start) => page.split(start)[1].split("</script>")[0];
const names = "{ readPacked, networkOf, rowOf: typeof rowOf === 'function' && rowOf,"
  + " layerOf: typeof layerOf === 'function' && layerOf }";
const made = {};
const scripts = (text) => (made[text] ??= new Function(text + ";return " + names)());
const answerTo = ({ page, all, packed, rows, side, strokes, fit }) => {
  const told = page && JSON.parse(inside(page, '<script type="application/json" id="told">'));
  const own = scripts(page ? inside(page, "<script>") : all);
  const text = page ? inside(page, 'id="packed">') : packed;
  const found = own.readPacked(new Uint8Array(Buffer.from(text, "base64")));
  const answer = { bytes: found.bytes };
  answer.layers = found.layers.map(({ name, table, rows, size, parts }) =>
    ({ name, size, parts, table: [...table], rows: rows && [...rows] }));
  if (!page) return answer;
  const network = own.networkOf(found, told.layers?.map(own.layerOf));
  if (strokes) rows = strokes.map((drawing) => own.rowOf(told.image, drawing.map((points) =>
    ({ points, colour: [1], width: told.image.pen })), null, fit).row);
  answer.outputs = rows.map((row) => [...network.run(row, side)]);
  return answer;
};
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  let answer;
  try {
    answer = answerTo(JSON.parse(line));
  } catch (error) {
    answer = { error: error.message };
  }
  console.log(JSON.stringify(answer));
});
"""


class Javascript:
    """A process of node that runs the scripts of pages."""

    def __init__(self) -> None:
        assert NODE is not None
        self._all = "\n".join(map(small_script, ("reader", "short", "rans", "forward")))
        self._process = subprocess.Popen(
            [NODE, "-e", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, page: bytes, **more: Any) -> dict[str, Any]:
        """What a page's own scripts make of it: outputs for `rows`, or for drawn `strokes`."""
        return self._ask({"page": page.decode(), **more})

    def read(self, packed: bytes) -> dict[str, Any]:
        """What the whole reader makes of a packed file, or the error."""
        return self._ask({"all": self._all, "packed": base64.b64encode(packed).decode()})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait(20)
