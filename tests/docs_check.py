"""The check that documentation and translation match the code: `python -m tests.docs_check`.

- A file that a page shows (`<!-- file: path -->`) is shown unchanged.
- The README names every command of the console.
- The targets of links between pages exist.
- Every string of the interface is translated, and the compiled catalogue is up to date.

`--write` updates the shown files and the compiled catalogue.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import polib

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHOWN = re.compile(r"<!-- file: (\S+) -->\n(?:```python\n.*?```\n)?", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
CATALOGUE = ROOT / "opsconsole" / "locale" / "zh_Hans" / "LC_MESSAGES" / "django.po"


def main(arguments: list[str]) -> int:
    problems: list[str] = []
    for page in PAGES:
        text = page.read_text()
        renewed = SHOWN.sub(_shown, text)
        if renewed != text and "--write" in arguments:
            page.write_text(renewed)
        elif renewed != text:
            problems.append(f"{page.name}: a file that it shows has changed: run python -m tests.docs_check --write")
        problems += [
            f"{page.name}: {target} does not exist"
            for target in LINK.findall(text)
            if not (page.parent / target).exists()
        ]
    readme = (ROOT / "README.md").read_text()
    for command in sorted(ROOT.glob("*/management/commands/*.py")) + sorted(ROOT.glob("*/*/management/commands/*.py")):
        name = command.stem
        if name not in {"__init__", "migrate", "import", "export", "loaddata"} and f"`{name}" not in readme:
            problems.append(f"README.md: the command {name} is not described")
    problems += _translation(write="--write" in arguments)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def _shown(match: re.Match[str]) -> str:
    path = match[1]
    return f"<!-- file: {path} -->\n```python\n{(ROOT / path).read_text()}```\n"


def _translation(*, write: bool) -> list[str]:
    """Return the problems of the Chinese catalogue: missing, fuzzy or uncompiled entries."""
    catalogue = polib.pofile(str(CATALOGUE))
    problems = [f"{CATALOGUE.name}: not translated: {entry.msgid!r}" for entry in catalogue.untranslated_entries()]
    problems += [f"{CATALOGUE.name}: fuzzy: {entry.msgid!r}" for entry in catalogue.fuzzy_entries()]
    compiled = CATALOGUE.with_suffix(".mo")
    if write:
        catalogue.save_as_mofile(str(compiled))
    elif not compiled.exists() or compiled.read_bytes() != catalogue.to_binary():
        problems.append(f"{compiled.name}: not compiled from its source: run python -m tests.docs_check --write")
    return problems


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
