"""Stands in for SGLang's compiled kernels, which are published for CUDA alone: it can be imported, never called.

With `--device cpu --attention-backend torch_native` SGLang 0.5.23 imports names from here and calls none of them for a
Llama model. Every name resolves; a call says which kernel was missing.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType


class Kernel:
    """Any name of the package. It may be passed around, decorated and read from; calling it is the error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Kernel:
        if name.startswith("__"):
            raise AttributeError(name)
        return Kernel(f"{self._name}.{name}")

    def __call__(self, *_: object, **__: object) -> object:
        raise RuntimeError(
            f"cannot run {self._name}: this is a stand-in without kernels, for conformance runs on a CPU"
        )


class _Anything(ModuleType):
    def __getattr__(self, name: str) -> Kernel:
        if name.startswith("__"):
            raise AttributeError(name)
        return Kernel(f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes every submodule that is asked for."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith(f"{__name__}.") else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Anything(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.append(_Finder())
sys.modules[__name__].__class__ = _Anything
