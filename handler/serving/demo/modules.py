"""Several ES modules → one script, for a page that is one answer and can't load others.

The modules stay modules, each with its imports and exports, so that they read as such. What ties them together is
kept to two forms that can be undone line by line, and anything else is refused rather than guessed at:
`import { a, b } from "./other.js";` and `export` before a function, class or constant.
"""

import re
from collections.abc import Mapping

IMPORT = re.compile(r'import \{ (\w+(?:, \w+)*) \} from "\./([\w-]+\.js)";')
DECLARATION = re.compile(r"(export )?(?:(?:async )?function|class|const|let) (\w+)\b.*")
# What ties modules together, at a line's beginning, or declares a name for all of them.
WORDS = re.compile(r"\s*(import|export)\b|(async|class|const|function|let|var)\b")
AT_RUN_TIME = re.compile(r"\bimport\s*[.(]")


def join_modules(sources: Mapping[str, str]) -> str:
    """Puts modules one after the other into one scope.

    Args:
        sources: file name → text, each module after those that it imports from.

    Raises:
        ValueError: a form that is not known, an import of what an earlier module does not export, or a name that two
            modules declare.
    """
    exports: dict[str, set[str]] = {}
    declared: dict[str, str] = {}
    parts = []
    for file, text in sources.items():
        exports[file] = set()
        lines = []
        for number, line in enumerate(text.splitlines(), start=1):
            place = f"{file}:{number}"
            if found := IMPORT.fullmatch(line):
                names, source = found[1].split(", "), found[2]
                if missing := set(names) - exports.get(source, set()):
                    raise ValueError(f"{place}: no module before it, {source}, exports {', '.join(sorted(missing))}.")
                continue
            if WORDS.match(line) or AT_RUN_TIME.search(line):
                if not (found := DECLARATION.fullmatch(line)) or AT_RUN_TIME.search(line):
                    raise ValueError(f"{place}: unknown module syntax: {line.strip()}")
                exported, name = found[1], found[2]
                if name in declared:
                    raise ValueError(f"{place}: {name} is declared in {declared[name]} already.")
                declared[name] = place
                if exported:
                    exports[file].add(name)
                    line = line.removeprefix(exported)
            lines.append(line)
        parts.append("\n".join(lines).strip("\n"))
    return "\n\n".join(parts) + "\n"
