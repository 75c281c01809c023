"""The rules of the house, one test each; each checker also meets a planted fault.

`pyproject.toml` holds the layers (`lint-imports`); here stands what it cannot say. A rule is a
function from sources to the places that break it, as `file: what`. Exceptions are listed with
their reason, and one that is no longer needed fails too.
"""

import ast
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]

#: A path below the root, with forward slashes, and the code in it.
Sources = Mapping[str, str]


def python(*folders: str) -> dict[str, str]:
    """The Python files below folders."""
    paths = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def notebooks() -> dict[str, str]:
    """The code of each chapter, without lines of IPython's own."""
    code = {}
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        lines = "\n".join(
            "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
        ).splitlines()
        code[path.relative_to(ROOT).as_posix()] = "\n".join(
            "pass" if line.startswith(("%", "!")) else line for line in lines
        )
    return code


@pytest.fixture(scope="module")
def library():
    return python("dfdlib")


# ------------------------------------------------------------------ reading code


@cache
def parsed(code: str) -> ast.Module:
    return ast.parse(code)


@cache
def nodes(code: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(parsed(code)))


def module_name(path: str) -> str:
    """`dfdlib/data/__init__.py` is dfdlib.data."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(code: str) -> list[tuple[str, str]]:
    """Each import, wherever it stands: the module, and the name taken from it ('' for none)."""
    found = []
    for node in nodes(code):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def targets(code: str, modules: set[str]) -> set[str]:
    """The modules that code imports."""
    full = ((module, f"{module}.{name}") for module, name in imports(code))
    return {whole if whole in modules else module for module, whole in full} & modules


def importers(sources: Sources) -> dict[str, set[str]]:
    """Who imports each module."""
    modules = {module_name(path) for path in sources}
    who: dict[str, set[str]] = {module: set() for module in modules}
    for path, code in sources.items():
        for module in targets(code, modules) - {module_name(path)}:
            who[module].add(module_name(path))
    return who


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


# ------------------------------------------------------------------ no circle


def circles(sources: Sources) -> set[str]:
    """Modules from which a walk along imports, under TYPE_CHECKING too, comes back to them."""
    modules = {module_name(path) for path in sources}
    direct = {module_name(path): targets(code, modules) for path, code in sources.items()}
    reached = {module: set(there) - {module} for module, there in direct.items()}
    grown = True
    while grown:
        grown = False
        for module, there in reached.items():
            further = there.union(*(reached[other] for other in there))
            grown |= further != there
            reached[module] = further
    return {module for module, there in reached.items() if module in there}


def test_no_module_imports_one_that_imports_it(library):
    assert circles(library) == set()


def test_a_circle_is_found():
    planted = {
        "dfdlib/a.py": "from dfdlib import b",
        "dfdlib/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import dfdlib.c",
        "dfdlib/c.py": "def f():\n    from dfdlib.a import g",
        "dfdlib/d.py": "import dfdlib.a",
        "dfdlib/e.py": "import os",
        "dfdlib/f.py": "import dfdlib.e",
    }
    assert circles(planted) == {"dfdlib.a", "dfdlib.b", "dfdlib.c"}


# ------------------------------------------------------------------ private is private


def dotted(node: ast.AST) -> str:
    """`a.b.c` as written, or '' for what is not only names and points."""
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return node.id if isinstance(node, ast.Name) else ""


def used(code: str) -> set[str]:
    """What code names in full: imports, attributes that are private, what it patches."""
    full: set[str] = set()
    meaning: dict[str, str] = {}  # a word of this code -> what was imported under it
    for node in nodes(code):
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                full.add(start + alias.name)
                word = alias.asname or alias.name
                meaning[word] = start + alias.name if start or alias.asname else word
                meaning.setdefault(word.split(".")[0], word.split(".")[0])
    for node in nodes(code):
        words = ""
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            words = dotted(node)
        elif isinstance(node, ast.Constant) and str(node.value).startswith("dfdlib."):
            full.add(str(node.value))  # as in monkeypatch.setattr("dfdlib.a._b", …)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("setattr"):
            name = node.args[1] if len(node.args) > 1 else None
            words = f"{dotted(node.args[0])}.{name.value if isinstance(name, ast.Constant) else ''}"
        first, _, rest = words.partition(".")
        full.add(f"{meaning.get(first, '')}.{rest}")
    return full


def private_uses(path: str, code: str, modules: set[str]) -> set[str]:
    """Private names and modules of dfdlib that code outside their package uses.

    The package of a module at the root is the module itself.
    """
    here = module_name(path)
    outside = set()
    for name in used(code):
        parts = name.split(".")
        for k, part in enumerate(parts):
            holder = ".".join(parts[:k])
            if not (holder in modules and is_private(part) and part.isidentifier()):
                continue
            is_package = any(module.startswith(f"{holder}.") for module in modules)
            above = holder.rpartition(".")[0]
            package = holder if is_package or above == "dfdlib" else above
            if not f"{here}.".startswith(f"{package}."):
                outside.add(".".join(parts[: k + 1]))
    return outside


def breaches(sources: Sources, library: Sources) -> set[str]:
    """Each file and the private names of the library that it takes from another package."""
    modules = {module_name(path) for path in library}
    return {
        f"{path}: {name}"
        for path, code in sources.items()
        for name in private_uses(path, code, modules)
    }


def test_what_is_private_is_used_only_inside_its_package(library):
    assert breaches(library, library) == set()


def test_workflow_benchmarks_tools_and_chapters_use_public_names(library):
    outside = python("workflow", "benchmarks", "tools") | notebooks()
    assert breaches(outside, library) == set()


#: What a test opens because nothing public shows it, and why.
OPENED = {
    "data/test_download.py: data.download._Resuming": "patience with a dead server",
    "data/test_ingest.py: data.sql._AFFINITY": "what another system lacks is put in",
    "data/test_phantom.py: data.phantom.picture._bare": "the geometry of one lung",
    "test_book_own.py: book.own._shown": "how a row is written, without a run",
    "information/test_information.py: information.audit._plant": "size of what is planted, exact",
    "evaluation/test_leaks.py: evaluation.leaks._dealt": "labels before a model reads them",
    "evaluation/test_leaks.py: evaluation.leaks._shuffled": "one check twelve times, in seconds",
    "test_own_pairs.py: book.own_pairs._labelled": "rows chosen, before training",
    "test_own_pairs.py: book.own_pairs._made_up": "the cohort, before training",
    "test_own_pairs.py: book.own_pairs._parts": "the parts, before training",
    "test_own_pairs.py: book.own_pairs._probed": "a reader against scikit-learn's",
    "test_own_pairs.py: book.own_pairs._taught": "one net, without the page",
    "evaluation/test_results.py: evaluation.results._ROOT": "another checkout is put there",
    "evaluation/test_results.py: evaluation.results._find_claims": "an install without claims",
}


def test_tests_use_public_names_but_for_a_list(library):
    places = breaches(python("tests"), library)
    found = {re.sub(r"^tests/(.*): dfdlib\.", r"\1: ", place) for place in places}
    assert found - OPENED.keys() == set(), "use a public name, or list it in OPENED with the reason"
    assert OPENED.keys() - found == set(), "no longer opened: remove it from OPENED"


@pytest.mark.parametrize(
    "code",
    [
        "from dfdlib.data.a import _f",
        "from dfdlib.data import _hidden",
        "from dfdlib.data._hidden import f",
        "import dfdlib.data._hidden",
        "from dfdlib.data import a\na._f()",
        "import dfdlib.data.a\ndfdlib.data.a._f()",
        "from dfdlib.data import a as b\nb._f()",
        "import dfdlib.data.a as b\nb._f()",
        "from dfdlib.data import a\nmonkeypatch.setattr(a, '_f', None)",
        "monkeypatch.setattr('dfdlib.data.a._f', None)",
        "if TYPE_CHECKING:\n    from dfdlib.data.a import _C",
        "from dfdlib.errors import _SHOWN",
    ],
)
def test_a_private_name_used_outside_is_found(code):
    package = {
        "dfdlib/__init__.py": "",
        "dfdlib/errors.py": "",
        "dfdlib/data/__init__.py": "",
        "dfdlib/data/a.py": "",
        "dfdlib/data/_hidden.py": "",
    }
    for path in ("dfdlib/models/b.py", "dfdlib/cli.py", "tests/test_a.py", "workflow/run.py"):
        assert breaches({path: code}, package)
    for path in ("dfdlib/data/__init__.py", "dfdlib/data/b.py", "dfdlib/data/clinical/c.py"):
        assert bool(breaches({path: code}, package)) == ("errors" in code)


# ------------------------------------------------------------------ files


#: Files that are long and hold several classes all the same, and why.
LONG: dict[str, str] = {}


def crowded(sources: Sources) -> set[str]:
    """Files over 500 lines that hold more than one class."""
    return {
        path
        for path, code in sources.items()
        if len(code.splitlines()) > 500
        and sum(isinstance(node, ast.ClassDef) for node in parsed(code).body) > 1
    }


def test_a_file_over_500_lines_holds_one_class(library):
    assert crowded(library) == LONG.keys()


def test_a_crowded_file_is_found():
    two, many = "class A:\n    pass\nclass B:\n    pass\n", "x = 1\n" * 500
    planted = {"a.py": two + many, "b.py": two, "c.py": "class A:\n    pass\n" + many}
    assert crowded(planted) == {"a.py"}


def hidden(sources: Sources) -> set[str]:
    """Files whose name begins with an underscore."""
    return {path for path in sources if is_private(PurePosixPath(path).stem)}


#: Private files all the same, and why.
HIDDEN: dict[str, str] = {}


def test_no_file_is_private(library):
    assert hidden(library) == HIDDEN.keys()


def test_a_private_file_is_found():
    planted = dict.fromkeys(["a/_b.py", "a/b.py", "a/__init__.py", "a/__main__.py"], "")
    assert hidden(planted) == {"a/_b.py"}


#: Files that could stand in the one that imports them, but are read by themselves, and why.
APART = dict.fromkeys(
    [f"dfdlib/book/made_up/{name}.py" for name in ("adni", "eicu", "mimic_cxr", "mimic_iv")],
    "one data set each, of which `write` takes the one that is named",
) | {
    "dfdlib/data/phantom/model.py": "a causal model, which says nothing of pictures",
    "dfdlib/data/phantom/picture.py": "from a thorax to its picture, which knows no patients",
    "dfdlib/data/tables_values.py": "single values, beside the tables that they stand in",
    "dfdlib/stress/open_kinds.py": "for finding methods, apart from what methods are judged by",
    "dfdlib/stress/sealed.py": "written before any method, and not to be changed after",
}


def helpers(sources: Sources) -> set[str]:
    """Files that one other file of their package imports, and that could stand in that one.

    What their package shows is no helper, and a file that would be too crowded (see `crowded`) if
    they stood in it is left.
    """
    who = importers(sources)
    paths = {module_name(path): path for path in sources}
    alone = set()
    for path in sources:
        module = module_name(path)
        package = module.rpartition(".")[0]
        if path.endswith(("__init__.py", "__main__.py")) or len(who[module]) != 1:
            continue
        (importer,) = who[module]
        if importer != package and importer.rpartition(".")[0] == package:
            both = sources[path] + "\n" + sources[paths[importer]]
            alone |= set() if crowded({path: both}) else {path}
    return alone


def test_no_file_serves_one_other_that_it_could_stand_in(library):
    assert helpers(library) == APART.keys()


def test_a_helper_file_is_found():
    two = "class A:\n    pass\nclass B:\n    pass\n"
    planted = {
        "dfdlib/__init__.py": "from dfdlib.shown import f",
        "dfdlib/shown.py": "",
        "dfdlib/helper.py": two + "x = 1\n" * 300,
        "dfdlib/large.py": two + "x = 1\n" * 400,
        "dfdlib/shared.py": "",
        "dfdlib/data/below.py": "",
        "dfdlib/a.py": "from dfdlib import helper, large, shared\n" + "x = 1\n" * 100,
        "dfdlib/b.py": "import dfdlib.shared, dfdlib.data.below\n" + "x = 1\n" * 100,
    }
    assert helpers(planted) == {"dfdlib/helper.py"}


# ------------------------------------------------------------------ classes


class Classes:
    """The classes of the library, by module and name, and what they are built on."""

    def __init__(self, sources: Sources) -> None:
        modules = {module_name(path) for path in sources}
        self.nodes: dict[str, ast.ClassDef] = {}
        names: dict[str, dict[str, str]] = {}
        for path, code in sources.items():
            here = module_name(path)
            names[here] = {
                alias.asname or alias.name: f"{node.module}.{alias.name}"
                for node in nodes(code)
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            for node in nodes(code):
                if isinstance(node, ast.ClassDef):
                    self.nodes[f"{here}.{node.name}"] = node
                    names[here][node.name] = f"{here}.{node.name}"
        self.parents: dict[str, list[str]] = {}
        for full, node in self.nodes.items():
            known = names[full.rpartition(".")[0]]
            bases = [ast.unparse(base).split("[")[0] for base in node.bases]
            self.parents[full] = [self._origin(known.get(b, b), names, modules) for b in bases]

    def _origin(self, name: str, names: dict[str, dict[str, str]], modules: set[str]) -> str:
        """Follow a name through the packages that show it, to where it is written."""
        module, _, last = name.rpartition(".")
        while name not in self.nodes and module in modules and last in names[module]:
            name = names[module][last]
            module, _, last = name.rpartition(".")
        return name

    def depth(self, full: str) -> int:
        """How many classes of the library a class is built on, one upon the other."""
        if full not in self.nodes:
            return -1
        return 1 + max((self.depth(parent) for parent in self.parents[full]), default=-1)

    def unwritten(self, full: str) -> set[str]:
        """The abstract methods that a class leaves to those built on it."""
        own = [n for n in self.nodes[full].body if isinstance(n, ast.FunctionDef)]
        abstract = {
            method.name
            for method in own
            if any(
                dotted(decorator).endswith("abstractmethod") for decorator in method.decorator_list
            )
        }
        above = (self.unwritten(parent) for parent in self.parents[full] if parent in self.nodes)
        return set().union(*above) - {method.name for method in own} | abstract

    def is_abstract(self, full: str) -> bool:
        """Whether a class says that it is not to be made: ABC, Protocol or a method to write."""
        bases = {parent.rpartition(".")[2] for parent in self.parents[full]}
        return bool(bases & {"ABC", "Protocol"} or self.unwritten(full))

    def built_on(self, full: str) -> set[str]:
        """The classes of the library that a class is built on, and itself."""
        above = (self.built_on(parent) for parent in self.parents.get(full, []))
        return {full}.union(*above) & self.nodes.keys()


CLASSIFIER = "dfdlib.models.classifier.Classifier"


def deep(sources: Sources, root: str = CLASSIFIER) -> set[str]:
    """Classes built on one that is itself built on one, but for those built on `Classifier`."""
    classes = Classes(sources)
    return {
        full
        for full in classes.nodes
        if classes.depth(full) > 1 and root not in classes.built_on(full)
    }


def neither(sources: Sources, root: str = CLASSIFIER) -> set[str]:
    """Classes that are built on although they are not abstract, but for `Classifier` and those."""
    classes = Classes(sources)
    return {
        parent
        for full in classes.nodes
        for parent in classes.parents[full]
        if parent in classes.nodes
        and not classes.is_abstract(parent)
        and root not in classes.built_on(parent)
    }


#: Classes two levels up and more, and why.
DEEP = dict.fromkeys(
    ("dfdlib.causal.estimators.IPW", "dfdlib.causal.estimators.AIPW"),
    "what describes weights is shared by those that weight",
) | dict.fromkeys(
    (
        "dfdlib.models.additive.Additive",
        "dfdlib.models.additive.Invariant",
        "dfdlib.models.additive.Substitute",
        "dfdlib.models.routes.ByPattern",
        "dfdlib.models.routes.Dropout",
        "dfdlib.models.routes.InverseProbability",
        "dfdlib.models.routes.NWGM",
        "dfdlib.models.routes.Prototypes",
        "dfdlib.models.routes.Stratified",
    ),
    "a route's buffers take the size of what is loaded: Resizable",
)
DEEP["dfdlib.models.muse.MUSE"] = "GRAPE's network, and the defaults of every backbone"
#: Classes that are made and built on, and why.
BOTH = {
    "dfdlib.models.backbone.Resizable": "nothing but how buffers are loaded; made nowhere alone",
    "dfdlib.models.grape.GRAPE": "MUSE is GRAPE with two terms more",
}


def test_a_class_is_built_on_one_class_at_most(library):
    assert deep(library) == DEEP.keys()


def test_a_class_is_abstract_or_final(library):
    assert neither(library) == BOTH.keys()


def test_deep_and_ambiguous_classes_are_found():
    planted = {
        "dfdlib/a.py": "from abc import ABC\nclass A(ABC): ...\nclass R: ...\nclass S(R): ...\n",
        "dfdlib/__init__.py": "from dfdlib.a import A as Shown",
        "dfdlib/b.py": "from dfdlib import Shown\nclass B(Shown): ...\nclass P(b.X): ...\n",
        "dfdlib/c.py": "from dfdlib.a import S\nfrom dfdlib.b import B\n"
        "class C(B): ...\nclass T(S): ...\n",
    }
    assert deep(planted, root="dfdlib.a.R") == {"dfdlib.c.C"}
    assert neither(planted, root="dfdlib.a.R") == {"dfdlib.b.B"}
    assert deep(planted) == {"dfdlib.c.C", "dfdlib.c.T"}
    assert neither(planted) == {"dfdlib.b.B", "dfdlib.a.R", "dfdlib.a.S"}


# ------------------------------------------------------------------ one of each


def replaces_files(code: str) -> bool:
    """Whether code moves a finished file to where the old one stood."""
    return any(
        ast.unparse(node.func) in ("os.replace", "os.rename", "shutil.move")
        or (
            isinstance(node.func, ast.Attribute)
            and node.func.attr == "replace"
            and len(node.args) == 1  # str.replace takes two
            and not node.keywords  # dataclasses.replace takes them
            and not isinstance(
                node.args[0], ast.Dict
            )  # pandas takes one, or a constant that is one
            and not ast.unparse(node.args[0]).isupper()
        )
        for node in nodes(code)
        if isinstance(node, ast.Call)
    )


def names_the_nearest(code: str) -> bool:
    """Whether code looks for the nearest of several names."""
    return any("difflib" in (module, name) for module, name in imports(code))


#: Where files are put in the place of others, and why.
REPLACES = {
    "dfdlib/book/parameters.py": "papermill writes it; where a cell fails, what ran stays",
    "dfdlib/data/clinical/pictures.py": "pixels that are converted a part at a time",
    "dfdlib/data/download.py": "a download that goes on where it stopped",
    "dfdlib/data/ingest.py": "DuckDB writes the table",
    "dfdlib/files.py": "the one place",
    "dfdlib/training/saving.py": "a pair of files and a folder, in an order that a kill can break",
}


def test_the_nearest_name_is_found_in_one_place(library):
    places = {path for path, code in library.items() if names_the_nearest(code)}
    assert places == {"dfdlib/errors.py"}


def test_files_are_written_whole_in_one_place(library):
    assert {path for path, code in library.items() if replaces_files(code)} == REPLACES.keys()


def test_second_implementations_are_found():
    for code in ("import difflib", "def f():\n    from difflib import get_close_matches"):
        assert names_the_nearest(code)
    assert not names_the_nearest("from dfdlib.errors import unknown")
    for code in ("os.replace(a, b)", "part.replace(path)", "folder.joinpath('x').replace(path)"):
        assert replaces_files(code)
    for code in (
        "'a'.replace('a', 'b')",
        "replace(x, a=1)",
        "frame.replace({1: 2})",
        "frame.replace(_WORDS)",
    ):
        assert not replaces_files(code)
