"""Runs a tutorial and writes its page, docs/tutorials/NAME.md, with what it printed and showed.

    python docs/tutorials/render.py NAME --folder FOLDER [--data DATA ...]

NAME.py has the percent format, which editors and Jupyter open as a notebook: `# %% [markdown]`
begins a text, `# %%` begins code, and `# %% tags=["hide"]` begins code that the page leaves out.
"""

import ast
import contextlib
import io
import re
import sys
from pathlib import Path

import shell
from PIL import Image

HERE = Path(__file__).resolve().parent
MAX_BYTES = 150_000
_CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


def main(arguments: list[str]) -> int:
    """Runs the tutorial that the command line names. Returns the exit status."""
    name = arguments[0]
    script = HERE / f"{name}.py"
    sys.argv = [str(script), *arguments[1:]]
    (HERE / name).mkdir(exist_ok=True)
    page = render(script.read_text(encoding="utf-8"), HERE / name)
    (HERE / f"{name}.md").write_text(page, encoding="utf-8")
    return 0


def split_cells(text: str) -> list[tuple[str, str]]:
    """Returns the cells of a script as (what stands after `# %%`, content)."""
    parts = _CELL.split(text)[1:]
    return [(mark.strip(), body.strip("\n")) for mark, body in zip(parts[::2], parts[1::2])]


def render(text: str, pictures: Path) -> str:
    """Runs the cells of a script in order and returns the page in Markdown.

    Args:
      text: the script.
      pictures: folder for the pictures that it shows; its name becomes part of their links.
    """
    scope, parts = {"__name__": "__main__"}, []
    for mark, body in split_cells(text):
        if mark == "[markdown]":
            parts.append(re.sub(r"^# ?", "", body, flags=re.MULTILINE))
            continue
        printed = _run(body, scope)
        if "hide" not in mark:
            parts += _format_code(body, scope)
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
        while shell.shown:
            path, caption = shell.shown.pop(0)
            copy = pictures / path.name
            _write_small(path, copy)
            parts.append(f"![{caption}]({pictures.name}/{copy.name})\n\n*{caption}*")
    note = (
        f"*This page is what `docs/tutorials/{pictures.name}.py` printed and showed when it ran; "
        "the tests run it with fewer steps.*"
    )
    return "\n\n".join([*parts, note]) + "\n"


def _run(body: str, scope: dict) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(body, "tutorial", "exec"), scope)
    return printed.getvalue()


def _format_code(body: str, scope: dict) -> list[str]:
    """Returns code as it is, calls of `sh` as commands, and leaves calls of `show` out."""
    commands, others = [], []
    for statement in ast.parse(body).body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        name = call.func.id if isinstance(call, ast.Call) and hasattr(call.func, "id") else ""
        if name == "sh":
            argument = compile(ast.Expression(call.args[0]), "tutorial", "eval")
            commands.append(eval(argument, scope))
        elif name != "show":
            others.append(statement)
    blocks = [f"```sh\n{chr(10).join(commands)}\n```"] if commands else []
    # Comments are kept: code is shown as it is written.
    return [*blocks, f"```python\n{body}\n```"] if others else blocks


def _write_small(source: Path, target: Path) -> None:
    """Copies a picture as a PNG of at most MAX_BYTES, in fewer pixels if it must be."""
    with Image.open(source) as opened:
        picture = opened.convert("RGB")
    while True:
        palette = picture.quantize(128, dither=Image.Dither.NONE)
        data = io.BytesIO()
        palette.save(data, "PNG", optimize=True)
        if len(data.getvalue()) <= MAX_BYTES:
            target.write_bytes(data.getvalue())
            return
        size = [max(1, side * 4 // 5) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.LANCZOS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
