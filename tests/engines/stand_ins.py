"""Stand-ins for packages that the engines import and their loading code does not use: web servers, kernels, media decoders.

A stand-in module has every attribute asked for, and each is Anything: a class that serves as base class, decorator, type
annotation or function. Code that would compute with one gets nonsense; loading code does not.
"""

import importlib.abc
import importlib.machinery
import sys
import types


class _AnythingMeta(type):
    def __new__(mcs, name, bases, space, **_):
        return super().__new__(mcs, name, bases, space)

    def __init__(cls, name, bases, space, **_):
        super().__init__(name, bases, space)

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __call__(cls, *arguments, **options):
        if cls is not Anything:  # an engine's class with a stand-in as base
            return super().__call__()
        is_decorator = len(arguments) == 1 and not options and callable(arguments[0]) and arguments[0] is not Anything
        return arguments[0] if is_decorator else Anything

    def __iter__(cls):
        return iter(())

    def __bool__(cls):
        return False

    def __or__(cls, other):
        return object

    __ror__ = __or__

    def _no(cls, other):
        return False

    __lt__ = __gt__ = __le__ = __ge__ = _no

    def _itself(cls, other):
        return Anything

    __getitem__ = __add__ = __mul__ = __rmul__ = _itself


class Anything(metaclass=_AnythingMeta):
    def __init_subclass__(cls, **_):
        pass

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        from pydantic_core import core_schema

        return core_schema.any_schema()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


class _Module(types.ModuleType):
    __path__ = []
    __version__ = "0.0.0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        if any(name == known or name.startswith(known + ".") for known in self.names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def install(absent, compiled=()):
    """From now on, importing one of these gives a stand-in.

    @param absent    packages; an installed one is used all the same
    @param compiled  modules that stand-ins replace even where a file is there
    """
    # torchvision's operators do not fit a CPU torch. transformers must see no torchvision, or it would compute with a stand-in.
    sys.modules["torchvision"] = None
    from transformers.utils import import_utils

    import_utils.is_torchvision_available()
    del sys.modules["torchvision"]
    sys.meta_path.insert(0, _Finder(["torchvision", *compiled]))
    sys.meta_path.append(_Finder(absent))


class Operators:
    """In place of torch.ops.NAMESPACE, whose kernels are not there.

    While an engine is imported only questions ("supports", "is_") exist, answered with yes: the engine registers further
    things for each other operator that exists. Afterwards every operator exists and none computes.
    """

    def __init__(self):
        self.imported = False

    def __getattr__(self, name):
        if not name.startswith("__") and (self.imported or "supports" in name or name.startswith("is_")):
            return lambda *_, **__: True
        raise AttributeError(name)
