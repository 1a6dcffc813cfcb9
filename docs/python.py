"""Write docs/python.md from the docstrings of the public interface: `python docs/python.py`. With --check only compare."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")

HEAD = """# Python

Everything that `import softprompt` offers, in the words of the code. A name is imported when it is first used: the import
itself loads no torch. The commands do the same: `softprompt train` is `softprompt.train`, and so on. Rows may come
from memory wherever a file of rows may be named.

"""


def render() -> str:
    """The page, from the code as it is."""
    import softprompt

    parts = [HEAD, *(f"- [`{name}`](#{name.lower()})\n" for name in softprompt.__all__)]
    return "".join([*parts, *(_section(name, getattr(softprompt, name)) for name in softprompt.__all__)]).strip() + "\n"


def _section(name: str, thing: Any) -> str:
    if not inspect.isclass(thing):
        return f"\n## {name}\n\n{_call(name, thing)}{_text(thing)}"
    lines = [f"\n## {name}\n\n{_text(thing)}", *_fields(thing)]
    for method, found in vars(thing).items():
        function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
        if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
            lines.append(f"\n### {name}.{method}\n\n{_call(f'{name}.{method}', function)}{_text(function)}")
    return "".join(lines)


def _call(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    kept = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    shown = str(signature.replace(parameters=kept)).replace("'", "")
    if len(name + shown) > 110:
        returns = f" -> {signature.return_annotation}" if signature.return_annotation is not signature.empty else ""
        star = next((place for place, each in enumerate(kept) if each.kind is each.KEYWORD_ONLY), None)
        arguments = [str(each).replace("'", "") for each in kept]
        if star is not None:
            arguments.insert(star, "*")
        shown = "(\n" + "".join(f"    {each},\n" for each in arguments) + f"){returns}".replace("'", "")
    return f"```text\n{name}{shown}\n```\n\n"


def _text(thing: Any) -> str:
    """A docstring; the lists of arguments and errors as lists."""
    lines: list[str] = []
    for line in (inspect.getdoc(thing) or "").splitlines():
        name, colon, rest = line.strip().partition(": ")
        if line in ("Args:", "Raises:", "Returns:"):
            lines += [f"*{line}*", ""]
        elif line.startswith("    ") and not line.startswith("     ") and colon:
            lines.append(f"- `{name}`: {rest}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("     ") else line)
    text = "\n".join(lines).replace(":func:", "").replace(":class:", "").replace(":meth:", "").replace(":data:", "")
    return text + "\n"


def _fields(thing: type) -> list[str]:
    """The fields of a class, each with the text below it."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    assert isinstance(tree, ast.ClassDef)
    lines = []
    for place, node in enumerate(tree.body):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            after = tree.body[place + 1] if place + 1 < len(tree.body) else None
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            said = f": {' '.join(str(text).split())}" if text else ""
            lines.append(f"- `{node.target.id}` (`{ast.unparse(node.annotation)}`){said}\n")
    return ["\n", *lines] if lines else []


def main() -> int:
    """Write or compare; 1 when the page is old."""
    page = render()
    if "--check" in sys.argv:
        return int(PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
