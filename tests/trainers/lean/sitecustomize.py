"""Leave out of a trainer here what it does not need, so that it starts in a third of the time.

Python imports this at its start where the folder is in PYTHONPATH: the scripts stay as they are.
Most of a short training is imports, and most of these are of the compiler of PyTorch, which
nothing here uses, and of packages that are only looked for.

LEAN_MISSING    packages that seem not to be installed
LEAN_EMPTY      modules, with all below them, that can be imported and have nothing in them that
                works: a decorator leaves its function as it is, of a class nothing is an instance
LEAN_CACHE      a folder that remembers what Transformers finds when it reads the source of all of
                its models, twice, at each start
"""

import atexit
import gc
import os
import pickle
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

# Imports make hundreds of thousands of objects and no garbage: none is looked for, at the end too.
gc.set_threshold(500_000, 20, 100)
atexit.register(gc.freeze)
EMPTY = os.environ.get("LEAN_EMPTY", "").split()
if "torch.distributed.run" in sys.orig_argv:  # torchrun's own process computes nothing
    EMPTY += ["torch._meta_registrations", "torch._decomp", "torch._prims", "torch._refs"]
    EMPTY.append("torch.nn")


class Nothing:
    """What stands under a name there: false and empty; a decorator that changes nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __getattr__(self, name):
        return under(name)

    def __call__(self, function=None, *args, **kwargs):
        return function if callable(function) else nothing

    def __iter__(self):
        return iter(())

    def __bool__(self):
        return False


class Empty(ModuleType):
    """A module with every name that is asked for."""

    def __getattr__(self, name):
        setattr(self, name, under(name))
        return self.__dict__[name]


def under(name):
    """Return what stands under a name: a class if it is written like one."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (Nothing,), {}) if name[0].isupper() else nothing


nothing = Nothing()


class Finder:
    """Finds the empty modules, before all that are installed."""

    def find_spec(self, name, path=None, target=None):
        if any(name == module or name.startswith(f"{module}.") for module in EMPTY):
            return ModuleSpec(name, self, is_package=True)
        if name == "transformers.utils.import_utils":
            spec = PathFinder.find_spec(name, path)
            spec.loader.exec_module = remember(spec.loader.exec_module)
            return spec
        return None

    def create_module(self, spec):
        return Empty(spec.name)

    def exec_module(self, module):
        """Put nothing into it."""


def remember(execute):
    """Return a function that executes the module and lets it remember what it has found."""

    def execute_and_wrap(module):
        execute(module)
        find = module.define_import_structure

        def read(path, prefix=None):
            file = Path(os.environ["LEAN_CACHE"], f"{path}-{prefix}".replace("/", "%"))
            if file.exists():
                return pickle.loads(file.read_bytes())
            structure = find(path, prefix)
            draft = file.with_name(f"{os.getpid()}.draft")
            draft.write_bytes(pickle.dumps(structure))
            draft.replace(file)
            return structure

        module.define_import_structure = read

    return execute_and_wrap


sys.modules.update(dict.fromkeys(os.environ.get("LEAN_MISSING", "").split()))
sys.meta_path.insert(0, Finder())
