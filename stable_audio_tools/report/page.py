"""Page: a small HTML report that opens from disk, with players, pictures and tables. No scripts, nothing from the network."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; } h3 { margin: 1.5rem 0 .3rem; }
table { border-collapse: collapse; margin: .5rem 0; } td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
td:first-child, th:first-child { text-align: left; }
.clips { display: flex; flex-wrap: wrap; gap: .8rem; } .clip { width: 15rem; font-size: .8rem; }
.clip img { width: 100%; border-radius: 4px; display: block; } audio { width: 100%; height: 2rem; }
.note { color: #888; } code { background: #8882; padding: .1rem .3rem; border-radius: 3px; } img.wide { max-width: 100%; }
"""


class Page:
    """Collects sections and writes one HTML file; media are linked relative to it.

    Args:
        path: The HTML file to write.
        title: Its title.
    """

    def __init__(self, path: str | Path, title: str) -> None:
        self.path = Path(path)
        self.title = title
        self._parts: list[str] = [f"<h1>{_text(title)}</h1>"]

    def heading(self, text: str, *, level: int = 2) -> None:
        """A heading."""
        self._parts.append(f"<h{level}>{_text(text)}</h{level}>")

    def paragraph(self, text: str, *, is_note: bool = False) -> None:
        """A paragraph; words between backticks are set as code."""
        pieces = [f"<code>{_text(piece)}</code>" if index % 2 else _text(piece) for index, piece in enumerate(text.split("`"))]
        self._parts.append(f"<p{' class=note' if is_note else ''}>{''.join(pieces)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; the first column is text, the others numbers."""
        head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{_text(_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows)
        self._parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def image(self, path: str | Path, *, caption: str = "") -> None:
        """A wide picture."""
        self._parts.append(f'<p><img class="wide" src="{self._link(path)}" alt="{_text(caption)}"></p>')

    def clips(self, clips: Sequence[tuple[str | Path, str | Path | None, str]]) -> None:
        """Players side by side: (audio file, picture or None, caption)."""
        cells: list[str] = []
        for audio, picture, caption in clips:
            image = f'<img src="{self._link(picture)}" alt="spectrogram" loading="lazy">' if picture is not None else ""
            cells.append(
                f'<div class="clip">{image}<audio controls preload="none" src="{self._link(audio)}"></audio>{_text(caption)}</div>'
            )
        self._parts.append(f'<div class="clips">{"".join(cells)}</div>')

    def write(self) -> Path:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{_text(self.title)}</title>'
        body = "\n".join(self._parts)
        self.path.write_text(
            f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n",
            encoding="utf-8",
            errors="replace",  # file names need not be Unicode
        )
        return self.path

    def _link(self, path: str | Path) -> str:
        relative = os.path.relpath(Path(path).resolve(), self.path.resolve().parent)
        return quote(os.fsencode(Path(relative).as_posix()))  # colons too: "kick:1.wav" must not read as a URL of scheme "kick"


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
