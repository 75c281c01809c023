"""Recipes: what experiments/*.yaml declare, the jobs that they make, and the code that they reach.

A recipe is the YAML file of one experiment, whose results stand in `results/<its name>`. It names
its module of measures/ and holds every setting. A job is one setting with all of its seeds.
"""

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from dfdlib.errors import unknown
from dfdlib.files import slug

WORKFLOW = Path(__file__).resolve().parent
ROOT = WORKFLOW.parent
Recipe = dict[str, Any]
#: What tells a job from the others of its experiment, for example {"preset": …, "n": 2000}.
Setting = dict[str, Any]


def names() -> list[str]:
    """The experiments that have a recipe."""
    return sorted(path.stem for path in (WORKFLOW / "experiments").glob("*.yaml"))


def read(experiment: str, scale: str = "small") -> Recipe:
    """Read a recipe; `scale` "paper" takes what it declares under `paper`: the paper's epochs.

    One with a `base` has that recipe's settings where it says nothing else.
    """
    if experiment not in names():
        raise unknown(experiment, names(), "experiment")
    text = (WORKFLOW / "experiments" / f"{experiment}.yaml").read_text("utf-8")
    recipe = yaml.safe_load(text)
    if "base" in recipe:
        recipe = read(recipe["base"]) | recipe
    of_paper = recipe.pop("paper", {})
    if scale == "paper":
        recipe |= of_paper
    return recipe | {"experiment": experiment, "scale": scale}


def module(recipe: Recipe) -> ModuleType:
    """What plans the jobs of a recipe, measures its models and writes its results."""
    return import_module(f"measures.{recipe['measures']}")


def jobs(recipe: Recipe) -> list[Setting]:
    """List the settings: products of the lists under `jobs`, or what the module says.

    A word in the place of a list names a list, or the keys of a table, of the recipe.
    """
    if "jobs" not in recipe:
        return list(module(recipe).jobs(recipe))
    tables = recipe["jobs"] if isinstance(recipe["jobs"], list) else [recipe["jobs"]]
    found = []
    for table in tables:
        lists = [recipe[v] if isinstance(v, str) else v for v in table.values()]
        found += [dict(zip(table, values, strict=True)) for values in product(*lists)]
    return found


def seeds(recipe: Recipe, setting: Setting) -> list[int]:
    """The seeds of a job: the recipe's, unless its module says otherwise."""
    of_its_own = getattr(module(recipe), "seeds", None)
    return of_its_own(recipe, setting) if of_its_own else recipe["seeds"]


def before(recipe: Recipe, setting: Setting) -> list[Setting]:
    """The jobs that one waits for, whose records it reads: with `last`, all that are not last."""
    last = recipe.get("last", {}).items()
    if not last or not last <= setting.items():
        return []
    return [job for job in jobs(recipe) if not last <= job.items()]


def label(setting: Setting) -> str:
    """Name a job, as its file is named."""
    return slug(" ".join(str(value) for value in setting.values()))


def setting_of(recipe: Recipe, words: list[str]) -> Setting:
    """Read `key=value` words as one of the recipe's settings."""
    there = jobs(recipe)
    chosen = dict(word.split("=", 1) if "=" in word else (word, "") for word in words)
    for key, value in chosen.items():
        if key not in there[0]:
            raise unknown(key, list(there[0]), f"setting of {recipe['experiment']}")
        there = [job for job in there if str(job[key]) == value] or _refused(there, key, value)
    if len(there) > 1:
        key = next(key for key in there[0] if key not in chosen)
        values = ", ".join(dict.fromkeys(str(job[key]) for job in there))
        raise ValueError(f"{key} is not said. Add {key}=… with one of {values}")
    return there[0]


def _refused(there: list[Setting], key: str, value: str) -> list[Setting]:
    raise unknown(value, list(dict.fromkeys(str(job[key]) for job in there)), key)


def words(setting: Setting) -> list[str]:
    """What `setting_of` reads, for a command line."""
    return [f"{key}={value}" for key, value in setting.items()]


# ---------------------------------------------------------------- the code that a recipe reaches


def reach(recipe: Recipe, script: str = "run") -> list[str]:
    """The files that run.py, or collect.py, can read for a recipe: when one changes, all is old.

    From the recipe's module and kinds of cohort, and from the classes of dfdlib.models that it
    names, imports are followed without being run. A name that a package shows counts as one of the
    module that defines it, so that a change in one model leaves results without it alone. Of run.py
    and cohorts.py only the functions that a job calls are followed.
    """
    roots = {"run": ["values"], "cohorts": ["draw", *recipe["cohorts"]]}
    if script == "run":
        text, shown = json.dumps(recipe), exports("dfdlib.models")
        todo = {shown[name] for name in shown if f'"{name}"' in text}
        todo |= {"run", "cohorts", f"measures.{recipe['measures']}"}
    else:
        todo = {"collect", f"answers.{recipe['answers']}"}
    seen: set[str] = set()
    while todo:
        here = todo.pop()
        seen.add(here)
        # of what methods.py finds in the package by name, the recipe names all
        todo |= set(_imports(_tree(here), roots.get(here))) - seen - {"dfdlib.models"}
    files = {path for name in seen for path in _files(name)}
    yamls = {recipe["experiment"], recipe.get("base", recipe["experiment"])}
    files |= {WORKFLOW / "experiments" / f"{name}.yaml" for name in yamls}
    files.add(ROOT / "requirements.lock")
    return sorted(path.relative_to(ROOT).as_posix() for path in files)


def fingerprint(recipe: Recipe) -> str:
    """A hash of all files that a job of a recipe can read."""
    hashed = hashlib.sha256(recipe["scale"].encode())
    for file in reach(recipe):
        hashed.update((ROOT / file).read_bytes())
    return hashed.hexdigest()


def _path(name: str) -> Path | None:
    """The file of a module of the library or of the workflow; None for another's."""
    base = (ROOT if name.partition(".")[0] == "dfdlib" else WORKFLOW).joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _files(name: str) -> list[Path]:
    """A module's file, and the data of the same name beside it."""
    path = _path(name)
    assert path is not None  # what is followed was found
    return [path, *path.parent.glob(f"{path.stem}.csv"), *path.parent.glob(f"{path.stem}.yaml")]


@cache
def _tree(name: str) -> ast.Module:
    path = _path(name)
    assert path is not None  # what is followed was found
    return ast.parse(path.read_text("utf-8"))


def exports(package: str) -> dict[str, str]:
    """The names that a package shows, and the module that defines each."""
    return {
        alias.asname or alias.name: str(node.module)
        for node in _tree(package).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _imports(tree: ast.Module, roots: list[str] | None) -> Iterator[str]:
    """The modules that code imports, wherever in it; with `roots`, what these functions use."""
    if roots is None:
        for node in ast.walk(tree):
            yield from _targets(node)
        return
    defined = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    words, todo = set(roots), list(roots)
    while todo:
        found = {n.id for n in ast.walk(defined[todo.pop()]) if isinstance(n, ast.Name)} - words
        words |= found
        todo += [word for word in found if word in defined]
    for node in tree.body:
        yield from _targets(node, words)


def _targets(node: ast.AST, words: set[str] | None = None) -> Iterator[str]:
    """The modules of ours behind an import; with `words`, behind these names alone."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            if words is not None and (alias.asname or alias.name.partition(".")[0]) not in words:
                continue
            if _path(start + alias.name):
                yield start + alias.name
            elif start and (path := _path(start[:-1])):
                package = path.name == "__init__.py"
                yield exports(start[:-1]).get(alias.name, start[:-1]) if package else start[:-1]
